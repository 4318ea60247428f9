"""The arguments of ``rass-proxy keys`` and what it prints: a new key once, and never a hash."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

_OK, _USAGE = 0, 2


def add_keys_command(commands: Commands, *, epilog: str) -> None:
    """Add ``keys`` and its subcommands."""
    keys = commands.add_parser("keys", help="add, list, remove and rotate clients' API keys", epilog=epilog)
    actions = keys.add_subparsers(required=True, metavar="action")

    add = actions.add_parser("add", help="make a key and show it, once", epilog=epilog)
    add.add_argument("name", help="whose key it is; logs, audit rows and limits know it by this")
    modes = ["off", "observe", "shadow", "recover", "steer"]
    add.add_argument("--mode", choices=modes, help="highest mode it gets (the proxy's)")
    add.add_argument(
        "--right",
        action="append",
        default=[],
        choices=["client-steering", "distances"],
        help="what it may do beyond asking; may be repeated",
    )
    add.add_argument("--requests-per-minute", type=int, metavar="N", help="its limit (none)")
    add.add_argument("--concurrent-requests", type=int, metavar="N", help="its limit (none)")
    add.add_argument("--days", type=float, metavar="N", help="how long it is valid (for ever)")
    add.set_defaults(run=_run(_add))

    listing = actions.add_parser("list", help="show the keys, without their secrets", epilog=epilog)
    listing.add_argument("--json", action="store_true", help="print rows for programs instead of a table")
    listing.set_defaults(run=_run(_list))

    remove = actions.add_parser("remove", help="remove a key", epilog=epilog)
    remove.add_argument("name")
    remove.set_defaults(run=_run(_remove))

    rotate = actions.add_parser("rotate", help="give a key a new secret and show it, once", epilog=epilog)
    rotate.add_argument("name")
    rotate.add_argument(
        "--keep-old-hours", type=float, default=0.0, metavar="N", help="how long the old secret still opens (0)"
    )
    rotate.set_defaults(run=_run(_rotate))

    for parser in (add, listing, remove, rotate):
        parser.add_argument("--file", type=Path, help="the key file (the setting keys.file)")
        parser.add_argument("--config", type=Path, metavar="FILE", help="settings file that names it (.toml, .yaml)")


def _run(action: Callable[[argparse.Namespace, Path], None]) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from proxy.errors import StartupError

        try:
            action(options, _key_file(options))
        except StartupError as error:
            print(f"rass-proxy keys: {error}", file=sys.stderr)
            return _USAGE
        return _OK

    return run


def _key_file(options: argparse.Namespace) -> Path:
    from proxy.errors import StartupError
    from proxy.settings_sources import load_settings

    if options.file is not None:
        return Path(options.file)
    path = load_settings({}, options.config).keys.file
    if path is None:
        raise StartupError("no key file is named; give --file keys.json, or set keys.file")
    return path


def _add(options: argparse.Namespace, path: Path) -> None:
    from proxy.caller import Right
    from proxy.exchange import Mode
    from proxy.keys_command import add_key

    key = add_key(
        path,
        options.name,
        mode=None if options.mode is None else Mode(options.mode),
        rights=[Right(right) for right in options.right],
        requests_per_minute=options.requests_per_minute,
        concurrent_requests=options.concurrent_requests,
        valid_days=options.days,
    )
    _show(key, path)


def _rotate(options: argparse.Namespace, path: Path) -> None:
    from proxy.keys_command import rotate_key

    _show(rotate_key(path, options.name, keep_old_hours=options.keep_old_hours), path)


def _show(key: str, path: Path) -> None:
    print(key)  # alone on stdout, so that a program can take it
    print(f"Keep it now: {path} holds only its hash, and it is not shown again.", file=sys.stderr)


def _remove(options: argparse.Namespace, path: Path) -> None:
    from proxy.keys_command import remove_key

    remove_key(path, options.name)


def _list(options: argparse.Namespace, path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from proxy.keys_command import key_rows

    rows = key_rows(path)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table()
    for column in ("name", "valid", "mode", "rights", "per minute", "at once", "expires", "begins with"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in _COLUMNS))
    Console().print(table)


_COLUMNS = (
    "name",
    "valid",
    "mode",
    "rights",
    "requests_per_minute",
    "concurrent_requests",
    "expires",
    "begins_with",
)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(str(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)
