"""Where settings come from: files, environment and flags, merged and checked, and the default file written out.

Every problem is one ``StartupError`` whose message names the key, where it was given and, for an unknown key, the
nearest known one.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from proxy.errors import StartupError
from proxy.settings import ENVIRONMENT_PREFIX, Settings

CONFIG_VARIABLE = f"{ENVIRONMENT_PREFIX}CONFIG"

# An address with what may be a secret: a password, or a query.
_TELLING_ADDRESS = re.compile(r"@|//.*[?#]")


@dataclass(frozen=True, slots=True)
class SettingsSource:
    """Where one process reads its settings, at the start and at each reload; as the arguments of `load_settings`."""

    flags: Mapping[str, object]
    config: Path | None = None

    @property
    def path(self) -> Path | None:
        """The settings file, if there is one."""
        named = next((value for name, value in os.environ.items() if name.upper() == CONFIG_VARIABLE), None)
        return self.config or (Path(named) if named else None)

    def load(self) -> Settings:
        """Read the settings; raises ``StartupError``."""
        return load_settings(self.flags, self.config)


def load_settings(flags: Mapping[str, object], config: Path | None = None) -> Settings:
    """Return the settings; ``flags`` maps dotted keys (``recovery.max_attempts``) to values.

    ``config`` is the settings file; without it, ``RASS_PROXY_CONFIG`` names one. Raises ``StartupError``.
    """
    path = SettingsSource(flags, config).path
    merged: dict[str, Any] = {}
    if path is not None:
        content = read_file(path)
        _check_content(content, f"settings file {path}")
        _merge(merged, content)
    _merge(merged, _environment())
    _check_known(iter(flags), "the command line")
    for key, value in flags.items():
        *groups, name = key.split(".")
        table = merged
        for group in groups:
            table = table.setdefault(group, {})
        table[name] = value
    return _validated(merged)


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML or YAML settings file by its suffix; raises ``StartupError``."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"settings file {path} cannot be read: {error}") from error
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise StartupError(f"settings file {path} is not valid TOML: {error}") from error
    if path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise StartupError(f"settings file {path} is not valid YAML: {error}") from error
        if content is None:
            return {}
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise StartupError(f"settings file {path} must be a table of keys, such as `mode: observe`")
        return content
    raise StartupError(f"settings file {path}: its name must end in .toml, .yaml or .yml")


def known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Return every dotted key that holds a value."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        group = _group(field)
        keys.extend(known_keys(group, f"{prefix}{name}.") if group else [f"{prefix}{name}"])
    return keys


def value_of(settings: Settings, key: str) -> object:
    """Return the value of a dotted key."""
    found: object = settings
    for name in key.split("."):
        found = getattr(found, name)
    return found


def default_file() -> str:
    """Return the commented default settings file (TOML)."""
    lines = [
        "# Settings of rass-proxy, with their defaults. Flags override the environment, which overrides this file.",
        f"# In the environment: {ENVIRONMENT_PREFIX}MODE, {ENVIRONMENT_PREFIX}RECOVERY__MAX_ATTEMPTS and so on.",
    ]
    lines += _entries(Settings)
    for name, group in _groups():
        lines += ["", f"# {(group.__doc__ or '').strip()}", f"[{name}]", *_entries(group)]
    return "\n".join(lines) + "\n"


def _entries(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if not _group(field):
            yield from _entry(name, field)


def _groups(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every table by its dotted name, outer ones first."""
    for name, field in model.model_fields.items():
        if group := _group(field):
            yield f"{prefix}{name}", group
            yield from _groups(group, f"{prefix}{name}.")


def _entry(name: str, field: FieldInfo) -> list[str]:
    default = field.default
    if default is None:
        return ["", f"# {field.description}", f"# {name} ="]
    value = default.value if isinstance(default, Enum) else default
    return ["", f"# {field.description}", f"{name} = {json.dumps(value)}"]  # JSON scalars and lists of them are TOML


def _group(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _model_in(field: FieldInfo) -> type[BaseModel] | None:
    """Return the table that a field holds, or may hold, or holds several of."""
    inner = (_group(field), *get_args(field.annotation))
    return next((each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _is_secret(key: str) -> bool:
    """Whether a dotted key, or one inside of its value, holds a secret."""
    model: type[BaseModel] = Settings
    for name in key.split("."):
        if name.isdecimal():
            continue  # the place of a table among several
        field = model.model_fields.get(name)
        if field is None:
            return False
        if "SecretStr" in str(field.annotation):
            return True
        model = _model_in(field) or model
    return False


def _dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            # An empty table sets nothing, but its name must still be one that exists.
            yield from _dotted(value, f"{prefix}{name}.") if value else (f"{prefix}{name}",)
        else:
            yield f"{prefix}{name}"


def _check_known(keys: Iterator[str], origin: str) -> None:
    known = known_keys()
    groups = [name for name, _ in _groups()]
    for key in keys:
        if key not in groups:
            _check_one(key, known, origin)


def _check_content(content: Mapping[str, Any], origin: str) -> None:
    """Check names, and that what is a table is given as one; no value is quoted, which may be a secret."""
    _check_known(_dotted(content), origin)
    _check_table(content, Settings, f"{origin}:", "")


def _check_table(table: Mapping[Any, Any], model: type[BaseModel], origin: str, path: str) -> None:
    """As `_check_known`, for the keys of a table and of those in it, several in a list among them."""
    for name, value in table.items():
        _check_one(str(name), model.model_fields, f"{origin} {path}".rstrip(" ."))
        field = model.model_fields[name]
        below = _model_in(field)
        if below is None:
            continue
        if isinstance(value, Mapping):
            _check_table(value, below, origin, f"{path}{name}.")
        elif _group(field):
            example = f"{path}{name}.{next(iter(below.model_fields))}"
            raise StartupError(f"{origin} {path}{name} is a table of keys, such as {example}, and no value of its own")
        for position, each in enumerate(value if isinstance(value, list) else ()):
            if isinstance(each, Mapping):
                _check_table(each, below, origin, f"{path}{name}.{position}.")


def _check_one(key: str, known: Collection[str], origin: str) -> None:
    if key not in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise StartupError(f"{origin}: unknown key {key!r}; the nearest known one is {nearest[0]!r}")


def _environment() -> dict[str, Any]:
    """Read and check the environment's settings; their names are read in capitals or not."""
    known = {ENVIRONMENT_PREFIX + key.upper().replace(".", "__"): key for key in known_keys()}
    known[CONFIG_VARIABLE] = "config"
    # A whole group may also be given as JSON in one variable.
    known |= {ENVIRONMENT_PREFIX + name.upper().replace(".", "__"): name for name, _ in _groups()}
    given = [variable for variable in os.environ if variable.upper().startswith(ENVIRONMENT_PREFIX)]
    for variable in given:
        if variable.upper() not in known:
            nearest = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.0)
            raise StartupError(f"environment: unknown variable {variable}; the nearest known one is {nearest[0]}")
    try:
        content = EnvSettingsSource(Settings)()
    except SettingsError as error:
        # Its message names a field of ours and not the variable; its cause would quote the value.
        tables = {name for name, _ in _groups()} | {"routes"}
        wrong = [each for each in given if known[each.upper()] in tables and not _is_json(os.environ[each])]
        raise StartupError(f"environment: {', '.join(wrong) or 'a variable'} must hold JSON") from error
    _check_content(content, "environment")
    return content


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, Mapping):
            below = into.setdefault(name, {})
            if isinstance(below, dict):
                _merge(below, value)
                continue
        into[name] = value


def _validated(merged: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"])
            problems.append(f"{key}: {item['msg']}" + (f" (given: {item['input']!r})" if _quotable(key, item) else ""))
        raise StartupError("settings: " + "; ".join(problems)) from error


def _quotable(key: str, problem: ErrorDetails) -> bool:
    """Whether a wrong value may stand in its error: a secret must not reach a log, and a whole table helps nobody."""
    given = problem["input"]
    if problem["type"] == "extra_forbidden" or _is_secret(key):
        return False
    return isinstance(given, (int, float)) or (isinstance(given, str) and not _TELLING_ADDRESS.search(given))
