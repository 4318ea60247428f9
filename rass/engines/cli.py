"""``rass export-engine-vectors``: a bundle's vectors in the files that another engine loads.

Heavy imports happen inside ``run``.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.bundle import Bundle

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a bundle")
    parser.add_argument(
        "--dialect",
        required=True,
        choices=["hotwire", "pair"],
        help="hotwire: `.pt` files for the vLLM plugin. pair: control vectors (GGUF) for llama.cpp",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the files into")


def run(args: argparse.Namespace) -> int:
    """Write the files and print how the engine and the proxy are started with them; returns 0."""
    from detectors.bundle import BundleError, load
    from detectors.dialects import DialectName
    from rass.engines.export import export_vectors
    from rass.errors import InputError

    try:
        bundle = load(args.bundle)
    except BundleError as error:
        raise InputError(str(error)) from error
    dialect = DialectName(args.dialect)
    for path in export_vectors(bundle, dialect, args.out):
        print(f"wrote {path}")
    lines = _hotwire(bundle, args.out) if dialect is DialectName.HOTWIRE else _pair(bundle, args.out)
    print("\n".join(lines))
    return 0


def _hotwire(bundle: Bundle, folder: Path) -> list[str]:
    triples = {(vector, layer, strength) for vector, strength in _used(bundle) for layer in _layers(bundle, vector)}
    return [
        f"start vLLM with HOTWIRE_VECTORS={shlex.quote(str(folder))} and HOTWIRE_SLOTS of at least {len(triples)}",
        "start the proxy with --set steering.dialect=hotwire",
    ]


def _pair(bundle: Bundle, folder: Path) -> list[str]:
    lines = ["start llama.cpp's server twice, plainly and, for one of these, with"]
    for vector, strength in _used(bundle):
        path = folder / f"{bundle.vector_id(vector)}.gguf"
        lines.append(
            f"  --control-vector-scaled {shlex.quote(f'{path}:{strength:g}')}   and the proxy with --set "
            f"steering.dialect=pair --set steering.pair_vector={vector} --set steering.pair_strength={strength:g} "
            "--set steering.pair_url=URL"
        )
    return lines


def _used(bundle: Bundle) -> list[tuple[str, float]]:
    entries = bundle.manifest.steering.by_language.values()
    return sorted(
        {
            (entry.vector, strength)
            for entry in entries
            for strength in (entry.benign, entry.band)
            if strength is not None
        }
    )


def _layers(bundle: Bundle, vector: str) -> tuple[int, ...]:
    return bundle.vector_spec(vector).layers
