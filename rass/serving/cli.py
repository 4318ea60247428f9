"""``rass serve-model``: its arguments, and the way from them to a running server."""

from __future__ import annotations

import argparse
import os
import sys

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass serve-model``; imports nothing heavy, so that ``--help`` answers at once."""
    parser.add_argument(
        "--model", default="reference", help="'reference', a folder, or a hub id owner/name (default: reference)"
    )
    parser.add_argument(
        "--bundle",
        help="'reference', a bundle folder, or 'none' (default: the reference bundle for the reference model)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8081, help="port to listen on (default: 8081)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="precision (default: float32)"
    )
    parser.add_argument(
        "--max-concurrency", type=_positive, default=32, help="rows that are generated together (default: 32)"
    )
    parser.add_argument(
        "--cache-tokens",
        type=_positive,
        default=16_384,
        help="key-value cache of all rows together, in tokens of prompt and answer (default: 16384)",
    )
    parser.add_argument(
        "--max-batch-tokens", type=_positive, default=1024, help="tokens of one forward pass at most (default: 1024)"
    )
    parser.add_argument(
        "--max-waiting", type=_positive, default=256, help="requests that may wait for a row before 429 (default: 256)"
    )
    parser.add_argument("--log-level", default="warning", choices=["debug", "info", "warning", "error"])


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted.

    Returns 0, 1 after a failure at run time, or 2 for a model or bundle that cannot be used.
    """
    import uvicorn
    from transformers.utils import logging as transformers_logging

    from detectors.bundle import BundleError
    from rass.errors import RassError
    from rass.serving.app import create_app
    from rass.serving.engine import Engine, EngineSettings
    from rass.serving.loading import load_bundle, load_model

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar without a terminal only clutters the log
    bundle_name = args.bundle or ("reference" if args.model == "reference" else "none")
    try:
        served = load_model(args.model, device=args.device, dtype=args.dtype)
        bundle = load_bundle(bundle_name, served)
    except (RassError, BundleError) as error:
        print(f"rass serve-model: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, RassError) else 2
    settings = EngineSettings(
        max_concurrency=args.max_concurrency,
        cache_tokens=args.cache_tokens,
        max_batch_tokens=args.max_batch_tokens,
        max_waiting=args.max_waiting,
    )
    engine = Engine(served, bundle, settings)
    digest = engine.bank.digest or "none"
    print(
        f"rass serve-model: {served.id} (revision {served.revision}, bundle {digest}) on http://{args.host}:{args.port}",
        file=sys.stderr,
        flush=True,
    )
    config = uvicorn.Config(
        create_app(engine),
        host=args.host,
        port=args.port,
        log_level=args.log_level,
        access_log=False,
        timeout_graceful_shutdown=int(settings.stop_limit_s),
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except KeyboardInterrupt:  # raised again after the shutdown that it asked for
        pass
    except SystemExit as error:  # uvicorn's way of saying that it could not start, after it logged why
        return 1 if error.code else 0
    if engine.is_stuck:
        # The generation thread hangs in a forward pass; waiting for it would never end.
        print("rass serve-model: the generation thread did not stop; leaving without it", file=sys.stderr, flush=True)
        os._exit(1)
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
