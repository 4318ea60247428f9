"""Run folders: one sub-folder a stage, written whole or not at all, with typed content.

A stage is written into a folder of another name and renamed when it is complete, so an interrupted run holds finished
stages only and goes on from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from rass.errors import InputError

__all__ = ["Run", "load_arrays", "load_typed", "save_arrays", "save_typed"]

T = TypeVar("T")
Arrays = Mapping[str, npt.NDArray[Any]]

_KEY_NAME = "run.json"
_PARTIAL = ".partial"


class Run:
    """A run folder that belongs to one set of inputs.

    ``key`` names everything that decides the results. A folder that was begun with another key is refused, because its
    finished stages would be mixed with new ones.
    """

    def __init__(self, root: Path, key: Mapping[str, object]) -> None:
        self.root = root
        text = json.dumps(key, indent=2, sort_keys=True) + "\n"
        record = root / _KEY_NAME
        if record.exists():
            if record.read_text(encoding="utf-8") != text:
                raise InputError(f"{root} holds a run with other inputs (see {record}); choose another folder")
        else:
            if root.exists() and any(root.iterdir()):
                raise InputError(f"{root} is not empty and holds no run; choose another folder")
            root.mkdir(parents=True, exist_ok=True)
            record.write_text(text, encoding="utf-8")
        for leftover in root.glob(f"*{_PARTIAL}"):
            shutil.rmtree(leftover)

    def folder(self, stage: str) -> Path:
        """Return the folder of a stage, finished or not."""
        return self.root / stage

    def finished(self, stage: str) -> bool:
        """Return whether the stage was completed."""
        return self.folder(stage).is_dir()

    @contextmanager
    def writing(self, stage: str) -> Iterator[Path]:
        """Yield an empty folder that becomes the stage's folder when the block ends without an error."""
        partial = self.root / f"{stage}{_PARTIAL}"
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial)
            raise
        partial.rename(self.folder(stage))


def save_typed(path: Path, kind: type[T], value: T) -> None:
    """Write a frozen dataclass (or any type that pydantic knows) as JSON; what was not measured stands as NaN."""
    plain = TypeAdapter(kind).dump_python(value)
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_typed(path: Path, kind: type[T]) -> T:
    """Read what ``save_typed`` wrote; raises ``InputError`` naming the file when it does not fit the type."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove the folder {path.parent} to make it again"
        ) from error


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays as safetensors."""
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read named arrays; raises ``InputError`` naming the file when it is damaged."""
    try:
        return dict(safetensors.numpy.load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove the folder {path.parent} to make it again"
        ) from error
