from __future__ import annotations

import pytest

from benchmarks.progress import progress


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 1000) as advance:
        for _ in range(1000):
            advance()
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines == [f"work: {hundred}00/1000" for hundred in range(1, 11)]
