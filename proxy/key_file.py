"""The key file: read and checked as a whole, written atomically, readable by its owner only."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from proxy.errors import StartupError
from proxy.keys import Key


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _unambiguous(self) -> KeyFile:
        names = [key.name for key in self.keys]
        lookups = [secret.lookup for key in self.keys for secret in key.secrets]
        for what, values in (("name", names), ("lookup", lookups)):
            if repeated := next((value for value in values if values.count(value) > 1), None):
                raise ValueError(f"two keys have the {what} {repeated!r}; remove one of them")
        return self


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a key file (JSON); raises ``StartupError`` with what is wrong and where."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StartupError(f"keys.file: {path} does not exist; make it with `rass-proxy keys add NAME`") from error
    except OSError as error:
        raise StartupError(f"keys.file: {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StartupError(f"keys.file: {path} is not valid JSON: {error}") from error
    try:
        return KeyFile.model_validate(content).keys
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise StartupError(f"keys.file: {path}: {'; '.join(problems)}") from error


def write_keys(path: Path, keys: Sequence[Key]) -> None:
    """Replace the key file: whoever reads it sees the old one or the new one. Raises ``StartupError``."""
    content = KeyFile(keys=tuple(keys)).model_dump_json(indent=2, exclude_none=True) + "\n"
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise _unwritable(path, error) from error


@contextmanager
def being_changed(path: Path) -> Iterator[None]:
    """Hold off other writers between reading the file and replacing it; raises ``StartupError`` where one is at it."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartupError(f"keys.file: {path} is being changed by another program; try again") from error
        yield
    finally:
        os.close(folder)


def _unwritable(path: Path, error: OSError) -> StartupError:
    return StartupError(f"keys.file: {path} cannot be written: {error.strerror}")
