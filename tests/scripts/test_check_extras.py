from __future__ import annotations

import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("installed", "conflicting"),
    [
        ({"numpy"}, False),
        ({"numpy", "onnxruntime"}, False),
        ({"onnxruntime-gpu"}, False),
        ({"onnxruntime", "onnxruntime-gpu"}, True),
    ],
)
def test_says_so_when_both_builds_are_installed(installed: set[str], conflicting: bool) -> None:
    conflict = runpy.run_path(str(ROOT / "scripts" / "check_extras.py"))["conflict"]
    message = conflict(installed)
    assert (message is not None) == conflicting
    assert not conflicting or "pip uninstall onnxruntime onnxruntime-gpu" in message


def test_the_two_builds_are_declared_as_conflicting_extras(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    assert any(entry.startswith("onnxruntime>") for entry in extras["cpu"])
    assert any(entry.startswith("onnxruntime-gpu>") for entry in extras["gpu"])
    assert project["tool"]["uv"]["conflicts"] == [[{"extra": "cpu"}, {"extra": "gpu"}]]


def test_the_lock_files_pin_everything_and_name_no_place_of_download() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert all("==" in line and "://" not in line and not line.startswith("-") for line in pinned)
    # A local version label would tie the lock to one build of torch.
    assert "torch==2.13.0" in pinned
    hashed = (ROOT / "requirements-litellm.lock").read_text(encoding="utf-8")
    litellm = next(line for line in pinned if line.startswith("litellm=="))
    assert litellm in hashed
    assert "--hash=sha256:" in hashed
    assert "://" not in hashed
