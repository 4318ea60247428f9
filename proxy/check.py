"""``rass-proxy check``: everything that would go wrong later, told now, one line each with the mend."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from proxy.check_line import Line, fail, ok, warn
from proxy.check_route import route_lines
from proxy.dependencies import Dependencies, build_dependencies, load_bundle
from proxy.errors import StartupError
from proxy.exposure import check_exposure, is_loopback
from proxy.key_file import read_keys
from proxy.keys import Keyring
from proxy.router import fits
from proxy.settings import DEFAULT_ROUTE, Settings


async def check(
    load: Callable[[], Settings], build: Callable[[Settings], Awaitable[Dependencies]] = build_dependencies
) -> list[Line]:
    """Return all lines; what cannot be checked because of an earlier line says so. Never raises for what it finds."""
    try:
        settings = load()
    except StartupError as error:
        return [fail("settings", str(error))]
    lines = [ok("settings", f"valid; mode {settings.mode}"), *_key_lines(settings)]
    said = {line.says for line in lines}  # what was told of the keys is not told again of each route
    patterns = {route.name: route.models for route in settings.routes}
    for name, own in settings.served().items():

        def serves(model: str, name: str = name) -> bool:
            return name == next((each for each in patterns if fits(patterns[each], model)), DEFAULT_ROUTE)

        found = await _of_route(own, build, patterns.get(name, ()), serves)
        prefix = "" if name == DEFAULT_ROUTE else f"{name}/"
        lines += [replace(line, name=prefix + line.name) for line in found if line.says not in said]
    return lines


async def _of_route(
    settings: Settings,
    build: Callable[[Settings], Awaitable[Dependencies]],
    patterns: Sequence[str],
    serves: Callable[[str], bool],
) -> list[Line]:
    """Return the lines of one route, by its own ``settings``; one that cannot be built keeps none from the others."""
    bundle = _bundle_line(settings)
    try:
        deps = await build(settings)
    except StartupError as error:
        # The bundle's own line may have said it.
        return [bundle] if bundle.says == str(error) else [bundle, fail("detectors", str(error))]
    try:
        return [bundle, *await route_lines(settings, deps, patterns, serves)]
    finally:
        await deps.close()


def _key_lines(settings: Settings) -> list[Line]:
    """Look at the key file, and at whether the proxy may listen where it is told to."""
    path = settings.keys.file
    keyring: Keyring | None = None
    if path is None:
        keys = ok("keys", "none are asked for")
    else:
        try:
            keyring = Keyring(read_keys(path))
        except StartupError as error:
            return [fail("keys", str(error))]
        keys = _keyring_line(path, keyring)
    try:
        check_exposure(settings, keyring)
    except StartupError as error:
        return [keys, fail("address", str(error))]
    if is_loopback(settings.host):
        return [keys, ok("address", f"{settings.host} is reached from this machine only")]
    if settings.keys.allow_anonymous:
        return [keys, warn("address", f"{settings.host} serves whoever reaches it (keys.allow_anonymous)")]
    return [keys, ok("address", f"{settings.host} is public, and keys are asked for")]


def _keyring_line(path: Path, keyring: Keyring) -> Line:
    now = datetime.now(UTC)
    ended = [key.name for key in keyring.keys if not key.valid(now)]
    if len(ended) == len(keyring.keys):
        return fail("keys", f"{path} has no valid key, so nobody is served; add one with `rass-proxy keys add NAME`")
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return warn("keys", f"others than its owner may write {path} and let themselves in; run chmod 600 on it")
    if ended:
        return warn(
            "keys", f"expired: {', '.join(ended)}; rotate them, or remove them with `rass-proxy keys remove NAME`"
        )
    return ok("keys", f"{len(keyring.keys)} in {path}")


def _bundle_line(settings: Settings) -> Line:
    try:
        bundle = load_bundle(settings)
    except StartupError as error:
        return fail("bundle", str(error))
    if bundle is None:
        return ok("bundle", f"none; mode {settings.mode} needs none")
    return ok("bundle", f"{bundle.path} ({bundle.digest}), for {bundle.manifest.model.id}")
