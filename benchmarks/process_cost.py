"""What running processes have cost: CPU time and memory of a whole tree, and what a core was busy with."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

__all__ = ["core_busy_s", "tree_cpu_s", "tree_rss_mb"]


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds, user and system, that a process and all below it have spent."""
    spent = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess, OSError):  # a helper of the target that has just ended
            spent += _cpu_s(process)
    return spent


def tree_rss_mb(pid: int) -> float:
    """Return the resident memory of a process and all below it, in MiB; pages that they share count for each."""
    resident = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            resident += process.memory_info().rss
    return resident / 2**20


def _cpu_s(process: psutil.Process) -> float:
    if psutil.LINUX:
        # The clock of clock_getcpuclockid(3), in nanoseconds; /proc counts in hundredths of a second.
        return time.clock_gettime_ns((~process.pid << 3) | 2) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def core_busy_s(core: int) -> float:
    """Return the seconds that a core has spent on anything at all."""
    times = psutil.cpu_times(percpu=True)[core]
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
