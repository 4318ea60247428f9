"""The folder in which worker processes share their figures, so that ``/metrics`` of any one shows the sum of all.

prometheus_client decides at its import, by an environment variable, whether figures live in files. Hence this module
imports nothing that imports prometheus_client, and `shared_figures` is entered before anything does.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def shared_figures() -> Iterator[None]:
    """Have all metrics of this process and its forks kept in a new, empty folder, which is removed at the end.

    Raises ``RuntimeError`` where it is too late for that.
    """
    if "prometheus_client" in sys.modules:
        raise RuntimeError("prometheus_client was imported before the folder for shared figures was made")
    with tempfile.TemporaryDirectory(prefix="rass-proxy-metrics-") as folder:
        os.environ[SHARED_FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[SHARED_FOLDER_VARIABLE]
