"""What the shell scripts leave behind when a program that they call fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-litellm.lock")


def write_program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


def run(script: str, project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (project / "scripts").mkdir()
    copied = shutil.copy(ROOT / "scripts" / script, project / "scripts")
    return subprocess.run(
        ["bash", copied], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_locks_that_cannot_be_resolved_again_stay_as_they_are(tmp_path: Path) -> None:
    for name in LOCKS:
        shutil.copy(ROOT / name, tmp_path)
    write_program(tmp_path / "bin" / "uv", "cat >/dev/null; echo 'litellm==9.9.9'; echo 'no network' >&2; exit 1")
    done = run("lock.sh", tmp_path, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert done.returncode != 0
    assert [(tmp_path / name).read_bytes() for name in LOCKS] == [(ROOT / name).read_bytes() for name in LOCKS]


def test_an_environment_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    environment = tmp_path / ".venv"
    write_program(environment / "bin" / "python", "echo 'No module named pip' >&2; exit 1")
    whole = write_program(tmp_path / "whole", "exit 0")
    python = write_program(tmp_path / "python", f'if [ "$2" = venv ]; then cp {whole} "$3/bin/python"; fi')
    done = run("install.sh", tmp_path, PYTHON=str(python), VENV=str(environment))
    assert done.returncode == 0, done.stderr
