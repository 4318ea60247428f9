"""``rass-proxy check``: everything that would go wrong later, told now, one line each with the mend."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from proxy.check_detectors import detector_lines
from proxy.check_line import Line, fail, ok, warn
from proxy.check_steering import steering_line
from proxy.dependencies import Dependencies, build_dependencies, load_bundle
from proxy.errors import StartupError
from proxy.exposure import check_exposure, is_loopback
from proxy.key_file import read_keys
from proxy.keys import Keyring
from proxy.readiness import Mismatch, ReadinessCheck, Ready, Unreachable
from proxy.settings import Settings


async def check(
    load: Callable[[], Settings], build: Callable[[Settings], Awaitable[Dependencies]] = build_dependencies
) -> list[Line]:
    """Return all lines; what cannot be checked because of an earlier line says so. Never raises for what it finds."""
    try:
        settings = load()
    except StartupError as error:
        return [fail("settings", str(error))]
    lines = [ok("settings", f"valid; mode {settings.mode}")]
    lines += _key_lines(settings)
    lines.append(_bundle_line(settings))
    try:
        deps = await build(settings)
    except StartupError as error:
        if not any(line.says == str(error) for line in lines):  # the keys' or the bundle's own line said it
            lines.append(fail("detectors", str(error)))
        return lines
    try:
        return lines + await _live_lines(settings, deps)
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


async def _live_lines(settings: Settings, deps: Dependencies) -> list[Line]:
    """Ask the served model."""
    state = await ReadinessCheck(settings, deps.upstream, None)()
    if not isinstance(state, Ready):
        lost = "not checked, since the upstream does not answer as it should"
        return [fail("upstream", state.reason), *(warn(name, lost) for name in ("fit", "detectors", "steering"))]
    address = deps.upstream.address
    if not state.models:
        lines = [
            warn(
                "upstream", f"{address} answers, but not what it serves; set upstream.api_key to a key that may list it"
            )
        ]
    else:
        lines = [ok("upstream", f"{address} serves {', '.join(state.models)}")]
    lines.append(await _fit_line(settings, deps))
    model = state.models[0] if state.models else ""
    lines += await detector_lines(settings, deps.detectors, model)
    lines.append(await steering_line(settings, deps, model))
    return lines


async def _fit_line(settings: Settings, deps: Dependencies) -> Line:
    if deps.bundle is None:
        return ok("fit", "no bundle to hold against the served model")
    readiness = ReadinessCheck(settings, deps.upstream, deps.bundle)
    if not readiness.compares:
        return warn(
            "fit",
            f"an engine of dialect {settings.steering.dialect} does not report its weights; see to it yourself that it "
            f"serves {deps.bundle.manifest.model.id} at revision {deps.bundle.manifest.model.revision}",
        )
    match await readiness():
        case Ready():
            return ok("fit", "the served model is the one that the bundle was measured on")
        case Mismatch(reason) | Unreachable(reason):
            return fail("fit", reason)
