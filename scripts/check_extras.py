"""Says so when both builds of onnxruntime are installed.

`onnxruntime` and `onnxruntime-gpu` are two distributions of the same import package. pip installs one over the other
without a word, and removing either then breaks both, so no resolver catches it and this check does.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from importlib.metadata import distributions

BUILDS = frozenset({"onnxruntime", "onnxruntime-gpu"})


def conflict(installed: Collection[str]) -> str | None:
    """Return the sentence to show when the distributions in ``installed`` exclude each other, else None."""
    if not BUILDS.issubset(installed):
        return None
    return (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other. "
        "Remove both (pip uninstall onnxruntime onnxruntime-gpu), then install one extra: .[cpu] or .[gpu]."
    )


def main() -> int:
    """Check this interpreter's environment; exit code 1 when the builds conflict."""
    message = conflict({distribution.metadata["Name"].lower() for distribution in distributions()})
    if message is not None:
        print(message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
