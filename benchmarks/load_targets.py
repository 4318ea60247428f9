"""What `rass-bench load` measures: how each target is started in front of the scripted upstream, and asked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.errors import InputError
from benchmarks.launch import clean_environment, proxy_command

__all__ = ["BARE", "LITELLM", "OURS", "LoadTarget", "Peers", "chosen_targets", "shipped_bundle", "target"]

BARE = "bare"
OURS = (BARE, "off", "observe", "recover")
LITELLM, PORTKEY = "litellm", "portkey"
_HOST = "127.0.0.1"
_PORTKEY_START = Path("node_modules", "@portkey-ai", "gateway", "build", "start-server.js")


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """A target about to be started: its command, where it says that it is ready, and what requests to it carry."""

    name: str
    command: tuple[str, ...]
    url: str
    ready_path: str
    environment: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peers:
    """Other proxies that are there: a Python with ``litellm[proxy]``, a folder with the npm package of Portkey."""

    litellm_python: Path | None = None
    portkey: Path | None = None


def shipped_bundle() -> Path:
    """Return the folder of the bundle that ships with the package ``rass``, without importing it."""
    spec = importlib.util.find_spec("rass")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the package rass is not installed, so there is no reference bundle; give --bundle a folder")
    return Path(next(iter(spec.submodule_search_locations))) / "reference" / "bundle"


def chosen_targets(names: tuple[str, ...], peers: Peers) -> tuple[str, ...]:
    """Return the targets to measure: those named, else ours and every peer that is there; ``bare`` is always in.

    Raises InputError for a name that is none and for a peer that is not there.
    """
    there = {
        **dict.fromkeys(OURS, ""),
        LITELLM: _missing_litellm(peers.litellm_python),
        PORTKEY: _missing_portkey(peers.portkey),
    }
    given = {LITELLM: peers.litellm_python, PORTKEY: peers.portkey}
    wanted = names or (*OURS, *(name for name, path in given.items() if path is not None))
    for name in wanted:
        if name not in there:
            raise InputError(f"--target {name!r} is none of {', '.join(there)}")
        if there[name]:
            raise InputError(there[name])
    return tuple(name for name in there if name in {BARE, *wanted})


def target(name: str, *, upstream: str, model: str, port: int, bundle: Path, peers: Peers, folder: Path) -> LoadTarget:
    """Return how to start target ``name`` on ``port``; what it needs written is written into ``folder``."""
    url = f"http://{_HOST}:{port}"
    ours = clean_environment()
    if name == BARE:
        command = [sys.executable, "-P", "-m", "benchmarks.relay", "--upstream", upstream, "--port", str(port)]
        return LoadTarget(name, tuple(command), url, "/v1/models", ours)
    if name == LITELLM:
        assert peers.litellm_python is not None
        config = _litellm_config(folder, upstream, model)
        start = ["-c", "from litellm import run_server; run_server()", "--config", str(config)]
        command = [str(peers.litellm_python), *start, "--host", _HOST, "--port", str(port), "--num_workers", "1"]
        return LoadTarget(name, tuple(command), url, "/health/liveliness", _litellm_environment(ours))
    if name == PORTKEY:
        assert peers.portkey is not None
        command = ["node", str(peers.portkey / _PORTKEY_START), f"--port={port}", "--headless"]
        headers = {
            "authorization": "Bearer none",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{upstream}/v1",
        }
        # It relays to hosts of this machine only where it is told that they may be trusted.
        environment = {**ours, "NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": _HOST}
        return LoadTarget(name, tuple(command), url, "/", environment, headers)
    options = ["--mode", name, "--set", "log_level=warning"]
    if name == "recover":
        options += ["--bundle", str(bundle)]
    return LoadTarget(name, tuple(proxy_command(upstream, _HOST, port, options)), url, "/readyz", ours)


def _litellm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which litellm asks nobody else (its price list is the one that it ships) and no key.

    Ours asks for none either.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(("LITELLM_", "PYTHON"))}
    return {
        **kept,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }


def _litellm_config(folder: Path, upstream: str, model: str) -> Path:
    path = folder / "litellm.yaml"
    parameters = {"model": f"openai/{model}", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": model, "litellm_params": parameters}],
        "litellm_settings": {"telemetry": False},
    }
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return path


def _missing_litellm(python: Path | None) -> str:
    if python is None:
        return "target litellm: give --litellm-python a Python that has litellm[proxy]"
    look = "from importlib.util import find_spec as f; raise SystemExit(not (f('litellm') and f('apscheduler')))"
    try:
        code = subprocess.run([str(python), "-c", look], capture_output=True, timeout=60, check=False).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"--litellm-python {python} cannot be run: {error}"
    return f"--litellm-python {python} has no litellm[proxy]; install it there with pip" if code else ""


def _missing_portkey(folder: Path | None) -> str:
    if folder is None:
        return "target portkey: give --portkey the folder in which npm installed @portkey-ai/gateway"
    if not os.access(folder / _PORTKEY_START, os.R_OK):
        return f"--portkey {folder} has no {_PORTKEY_START}; run npm install @portkey-ai/gateway there"
    return ""
