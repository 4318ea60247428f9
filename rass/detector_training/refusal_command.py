"""``rass detector train refusal``: fits what the refusal detector ships with.

Exit codes: 0 done, 2 for data that is missing or not as described.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

__all__ = ["add_arguments", "run"]

_DATA_VARIABLE = "RASS_DATA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass detector train refusal``; imports nothing heavy."""
    parser.add_argument(
        "--data", type=Path, help=f"folder with the labelled answers (default: responses/ below ${_DATA_VARIABLE})"
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: the installed package detectors)")


def run(args: argparse.Namespace) -> int:
    """Fit and write; returns 0, or 2 for bad input."""
    from rass.detector_training.refusal import featurize, fit, save, without
    from rass.detector_training.refusal_baseline import measure_baseline, save_baseline
    from rass.detector_training.refusal_data import SOURCES, file_digests, read_examples
    from rass.detector_training.refusal_wordings import read_wordings
    from rass.errors import InputError

    try:
        folder = args.data or _data_from_environment()
        examples = read_examples(folder)
        digests = file_digests(folder)
    except InputError as error:
        print(f"rass detector train refusal: {error}", file=sys.stderr)
        return 2
    out = args.out or _installed_package()
    rows = featurize(examples + read_wordings())
    trained = Counter(row.example.source for row in rows)
    save(fit(rows), out / "refusal_weights.json", files=digests, counts=trained)
    print("shipped weights written", file=sys.stderr)
    held_out = out / "refusal_held_out"
    held_out.mkdir(exist_ok=True)
    for source in SOURCES:
        rest = without(rows, source.name)
        counted = {name: count for name, count in trained.items() if name != source.name}
        save(fit(rest), held_out / f"{source.name}.json", files=digests, counts=counted)
        print(f"weights without {source.name} written", file=sys.stderr)
    save_baseline(measure_baseline(folder, examples), out / "refusal_baseline.json")
    print("character n-gram baseline measured", file=sys.stderr)
    print(f"wrote {out}; `rass-detect evaluate` shows what they are worth", file=sys.stderr)
    return 0


def _data_from_environment() -> Path:
    from rass.errors import InputError

    folder = os.environ.get(_DATA_VARIABLE)
    if not folder:
        raise InputError(f"give the folder with the labelled answers with --data, or its parent in {_DATA_VARIABLE}")
    return Path(folder) / "responses"


def _installed_package() -> Path:
    spec = find_spec("detectors")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package detectors is not installed")
    return Path(next(iter(spec.submodule_search_locations)))
