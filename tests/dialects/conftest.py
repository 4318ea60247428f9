"""The engines' real packages, unpacked without their engines by ``make test-dialects``; a bundle to send them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from detectors.bundle import Bundle

PACKAGES = Path(os.environ.get("RASS_DIALECT_PACKAGES", Path(__file__).parents[2] / "build" / "dialects"))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of an unpacked package, or skip the test with the reason."""

    def load_module(name: str) -> ModuleType:
        if not (PACKAGES / name.split(".")[0]).is_dir():
            pytest.skip(f"{PACKAGES} holds no {name.split('.')[0]}; `make test-dialects` fetches the engines' packages")
        monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
        return importlib.import_module(name)

    return load_module


@pytest.fixture
def bundle(make_adding_bundle: Callable[..., Bundle]) -> Bundle:
    """A bundle that adds at every token."""
    return make_adding_bundle()
