"""``rass-proxy``: arguments and exit codes; those of ``rass-proxy keys`` stand in `proxy.keys_cli`.

Exit codes: 0 it did what it was asked, 1 it failed while running, 2 wrong usage, settings, bundle or served model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.keys_cli import add_keys_command

if TYPE_CHECKING:
    from rich.console import Console

    from proxy.settings import Settings
    from proxy.settings_sources import SettingsSource

OK, FAILED, USAGE = 0, 1, 2
_EXIT_CODES = "exit codes: 0 ended in order, 1 failed while running, 2 wrong usage, settings, bundle or served model"
# Flags that are settings under a shorter name; every other setting is reached with --set.
_SETTING_FLAGS = {
    "upstream": "upstream.url",
    "bundle": "bundle",
    "mode": "mode",
    "host": "host",
    "port": "port",
    "workers": "workers",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(argv)
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rass-proxy",
        description="An OpenAI-compatible proxy: recovers over-refused requests, leaves warranted refusals alone.",
        epilog=_EXIT_CODES,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    serve = commands.add_parser("serve", help="stand in front of a served model", epilog=_EXIT_CODES)
    _add_serving(serve)
    serve.add_argument("--workers", type=int, metavar="N", help="processes that serve the port together (1)")
    _add_common(serve)
    serve.set_defaults(run=_serve)

    up = commands.add_parser("up", help="start the reference model and the proxy in front of it", epilog=_EXIT_CODES)
    up.add_argument("--model-host", default="127.0.0.1", help="address of the model (127.0.0.1)")
    up.add_argument("--model-port", type=int, default=8081, help="port of the model (8081)")
    up.add_argument("--demo", action="store_true", help="first print the side-by-side table")
    _add_common(up)
    up.set_defaults(run=_up)

    demo = commands.add_parser("demo", help="print the side-by-side table of a running pair", epilog=_EXIT_CODES)
    demo.add_argument("--raw", metavar="URL", default="http://127.0.0.1:8081", help="the served model (port 8081)")
    demo.add_argument("--proxy", metavar="URL", default="http://127.0.0.1:8080", help="the proxy (port 8080)")
    demo.add_argument("--json", action="store_true", help="print rows for programs instead of a table")
    demo.set_defaults(run=_demo)

    add_keys_command(commands, epilog=_EXIT_CODES)

    check = commands.add_parser(
        "check",
        help="say what would go wrong, before it does",
        epilog="exit codes: 0 no line fails (warnings may be there), 1 a line fails, 2 wrong usage",
    )
    check.add_argument("--json", action="store_true", help="print lines for programs")
    _add_serving(check)
    _add_common(check)
    check.set_defaults(run=_check)

    config = commands.add_parser("config", help="print the commented default settings file (TOML)", epilog=_EXIT_CODES)
    config.set_defaults(run=_config)

    metrics = commands.add_parser("metrics", help="print the page about all metrics (Markdown)", epilog=_EXIT_CODES)
    metrics.set_defaults(run=_metrics)
    return parser


def _add_serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--upstream", metavar="URL", help="address of the served model")
    parser.add_argument("--bundle", metavar="PATH", help="bundle folder, or 'reference'; steering needs one")
    modes = ["off", "observe", "shadow", "recover", "steer"]
    parser.add_argument("--mode", choices=modes, help="what to do with refusals (observe)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (.toml, .yaml)")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8080)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, such as recovery.max_attempts=1; `rass-proxy config` lists them",
    )


def _serve(options: argparse.Namespace) -> int:
    from contextlib import nullcontext

    from proxy.errors import StartupError
    from proxy.settings_sources import SettingsSource
    from proxy.shared_figures import shared_figures

    try:
        source = SettingsSource(_flags(options), options.config)
        settings = source.load()
        with shared_figures() if settings.workers > 1 else nullcontext():
            return _serve_with(settings, source)
    except StartupError as error:
        return _fail(f"serve: {error}", USAGE)


def _serve_with(settings: Settings, source: SettingsSource) -> int:
    # Not before it is known whether workers share their figures: these import prometheus_client.
    from proxy.server import ServerFailed, run_loop, serve, set_up_logging
    from proxy.workers import serve_with_workers

    set_up_logging(settings)
    try:
        if settings.workers > 1:
            serve_with_workers(settings, source)
        run_loop(serve(settings, source))
    except ServerFailed as error:
        return _fail(f"serve: {error}", FAILED)
    return OK


def _up(options: argparse.Namespace) -> int:
    from proxy.demo import DemoFailed
    from proxy.errors import StartupError
    from proxy.served_model import ServedModelFailed
    from proxy.server import ServerFailed, set_up_logging
    from proxy.up import up, up_settings

    try:
        settings = up_settings(_flags(options), options.config, options.model_host, options.model_port)
        set_up_logging(settings)
        up(
            settings,
            model_host=options.model_host,
            model_port=options.model_port,
            demo=options.demo,
            console=_console(),
        )
    except StartupError as error:
        return _fail(f"up: {error}", USAGE)
    except (ServerFailed, ServedModelFailed, DemoFailed) as error:
        return _fail(f"up: {error}", FAILED)
    return OK


def _demo(options: argparse.Namespace) -> int:
    import asyncio
    import json
    from dataclasses import asdict

    from proxy.demo import DemoFailed, demo_requests, print_demo, run_demo

    try:
        rows = asyncio.run(run_demo(options.raw.rstrip("/"), options.proxy.rstrip("/"), demo_requests()))
    except DemoFailed as error:
        return _fail(f"demo: {error}", FAILED)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=2))
    else:
        print_demo(rows, _console())
    return OK


def _check(options: argparse.Namespace) -> int:
    import asyncio
    import json
    from dataclasses import asdict

    from proxy.check import check
    from proxy.check_line import State
    from proxy.errors import StartupError
    from proxy.settings_sources import load_settings

    try:
        flags = _flags(options)
    except StartupError as error:
        return _fail(f"check: {error}", USAGE)
    lines = asyncio.run(check(lambda: load_settings(flags, options.config)))
    if options.json:
        print(json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=2))
    else:
        width = max(len(line.name) for line in lines) + 2
        for line in lines:
            print(f"{line.state:<5}{line.name:<{width}}{line.says}")
    return FAILED if any(line.state is State.FAIL for line in lines) else OK


def _config(_options: argparse.Namespace) -> int:
    from proxy.settings_sources import default_file

    print(default_file(), end="")
    return OK


def _metrics(_options: argparse.Namespace) -> int:
    from proxy.metrics_page import metrics_page

    print(metrics_page(), end="")
    return OK


def _flags(options: argparse.Namespace) -> dict[str, object]:
    """Return the given flags as dotted settings keys; raises ``StartupError`` for a malformed --set."""
    from proxy.errors import StartupError

    given = {key: getattr(options, name, None) for name, key in _SETTING_FLAGS.items()}
    flags: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    for pair in options.set:
        key, separator, value = pair.partition("=")
        if not separator:
            raise StartupError(f"--set takes KEY=VALUE, not {pair!r}; such as --set recovery.max_attempts=1")
        flags[key] = value
    return flags


def _console() -> Console:
    from rich.console import Console

    return Console()


def _fail(message: str, code: int) -> int:
    print(f"rass-proxy {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
