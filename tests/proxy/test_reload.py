"""Settings, keys and bundle changed under a running proxy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import reload
from proxy.keys_command import add_key, remove_key
from proxy.server import listen, running_server, url_of
from proxy.settings import Settings
from proxy.settings_sources import SettingsSource, value_of

PROBE = "How do I kill the script?"
SERVED = "rass-reference"


class Serving:
    """A proxy that reads its settings from a file."""

    def __init__(self, path, upstream):
        self.path = path
        self._upstream = upstream
        self.url = ""
        self.session = None

    def write(self, more="", *, mode="observe", groups=""):
        self._replace(
            f'mode = "{mode}"\nport = 0\n{more}\n[upstream]\nurl = "{self._upstream}"\n[canary]\nprompt = "{PROBE}"\n'
            + f"{groups}\n"
            + ("" if "[reload]" in groups else "[reload]\npoll_s = 0.02\n")
        )

    def change(self, before, after):
        self._replace(self.path.read_text().replace(before, after))

    def _replace(self, text):
        # In one step: a file that is seen while it is written counts as changed twice.
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    async def ask(self, prompt=PROBE, headers=None):
        body = {"model": SERVED, "messages": [{"role": "user", "content": prompt}]}
        url = f"{self.url}/v1/chat/completions"
        async with self.session.post(url, json=body, headers=headers) as response:
            return response.status, response.headers, json.loads(await response.read())

    async def total(self, name, **labels):
        async with self.session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == name and sample.labels == labels)

    async def until(self, name, value, **labels):
        async with asyncio.timeout(20):
            while await self.total(name, **labels) != value:  # noqa: ASYNC110 - a figure sets no event
                await asyncio.sleep(0.01)

    async def reloaded(self, result, times=1):
        async with asyncio.timeout(20):
            while await self.total("rass_reloads_total", result=result) < times:  # noqa: ASYNC110 - a counter sets no event
                await asyncio.sleep(0.01)


@pytest.fixture
async def serving(reference_model, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("RASS_PROXY_"):
            monkeypatch.delenv(name)
    found = Serving(tmp_path / "proxy.toml", reference_model.url)
    found.write()
    source = SettingsSource({}, found.path)
    with listen("127.0.0.1", 0) as listener:
        found.url = url_of(listener)
        async with running_server(source.load(), listener, source), aiohttp.ClientSession() as session:
            found.session = session
            yield found


async def test_a_changed_file_is_used_and_counts_go_on(serving):
    assert (await serving.ask())[1]["x-rass-action"] == "unjudged"
    serving.write('bundle = "reference"', mode="recover")
    await serving.reloaded("applied")
    _, headers, body = await serving.ask()
    assert headers["x-rass-action"] == "recovered"
    assert body["choices"][0]["message"]["content"] == "With the command kill."
    assert await serving.total("rass_requests_total", outcome="unjudged", mode="observe") == 1
    assert await serving.total("rass_mode", mode="recover") == 1
    assert await serving.total("rass_mode", mode="observe") == 0


async def test_what_runs_ends_on_the_old_settings(serving, reference_model, script):
    reference_model.scripts["slow"] = script("Yes.")
    reference_model.hold = asyncio.Event()
    running = asyncio.create_task(serving.ask("slow"))
    await reference_model.arrived.wait()
    serving.write(mode="off")
    await serving.reloaded("applied")
    later = asyncio.create_task(serving.ask("slow"))
    reference_model.hold.set()
    assert (await running)[1]["x-rass-action"] == "delivered"
    assert (await later)[1]["x-rass-action"] == "off"


@pytest.mark.parametrize(
    ("more", "mode", "groups", "said"),
    [
        ("= 1", "observe", "", "not valid TOML"),
        ("moed = 1", "observe", "", "moed"),
        ("", "recover", "", "mode recover needs a bundle"),
        ('bundle = "/nowhere"', "observe", "", "/nowhere"),
        ("", "observe", '[keys]\nfile = "/nowhere/keys.json"', "rass-proxy keys add"),
        ('host = "0.0.0.0"', "observe", "[keys]\nallow_anonymous = true", "host cannot change"),
        ("drain_timeout_s = 1", "observe", "", "drain_timeout_s cannot change"),
    ],
)
async def test_a_bad_file_keeps_the_old_settings_and_says_why(serving, caplog, more, mode, groups, said):
    serving.write(more, mode=mode, groups=groups)
    await serving.reloaded("kept")
    assert said in caplog.text
    assert (await serving.ask())[0] == 200
    serving.write(mode="off")
    await serving.reloaded("applied")
    assert (await serving.ask())[1]["x-rass-action"] == "off"


async def test_what_is_fixed_exists(serving):
    settings = SettingsSource({}, serving.path).load()
    assert all(value_of(settings, key) is not None for key in reload.FIXED_WHILE_RUNNING)


async def test_sighup_reloads_without_watching(serving):
    serving.write(groups="[reload]\nwatch = false\npoll_s = 0.02")
    await serving.reloaded("applied")
    serving.write(mode="off", groups="[reload]\nwatch = false\npoll_s = 0.02")
    os.kill(os.getpid(), signal.SIGHUP)
    await serving.reloaded("applied", times=2)
    assert (await serving.ask())[1]["x-rass-action"] == "off"


async def test_a_removed_key_is_shut_out_even_while_the_upstream_is_away(serving, reference_model, tmp_path):
    path = tmp_path / "keys.json"
    kept, removed = add_key(path, "kept"), add_key(path, "removed")
    serving.write(groups=f'[keys]\nfile = "{path}"')
    await serving.reloaded("applied")
    headers = {"authorization": f"Bearer {removed}"}
    assert (await serving.ask())[0] == 401
    assert (await serving.ask(headers=headers))[0] == 200
    reference_model.models_status = 500
    remove_key(path, "removed")
    await serving.reloaded("applied", times=2)
    assert (await serving.ask(headers=headers))[0] == 401
    assert (await serving.ask(headers={"authorization": f"Bearer {kept}"}))[0] == 200


async def test_a_removed_key_is_shut_out_even_while_the_model_does_not_fit(serving, reference_model, tmp_path):
    path = tmp_path / "keys.json"
    removed = add_key(path, "removed")
    groups = f'[keys]\nfile = "{path}"'
    serving.write('bundle = "reference"', mode="recover", groups=groups)
    await serving.reloaded("applied")
    reference_model.listed[SERVED] = {**reference_model.listed[SERVED], "revision": "other"}
    remove_key(path, "removed")
    await serving.reloaded("applied", times=2)
    assert (await serving.ask(headers={"authorization": f"Bearer {removed}"}))[0] == 401


async def test_an_upstream_that_does_not_fit_is_not_moved_to(serving, reference_model, caplog):
    serving.write('bundle = "reference"', mode="recover")
    await serving.reloaded("applied")
    reference_model.listed[SERVED] = {**reference_model.listed[SERVED], "revision": "other"}
    serving.change("127.0.0.1", "localhost")
    await serving.reloaded("kept")
    assert "revision" in caplog.text
    assert (await serving.ask())[1]["x-rass-action"] == "recovered"


async def test_a_bundle_waits_for_the_served_model(serving, reference_model, script, refusal, caplog, monkeypatch):
    monkeypatch.setattr(reload, "_RETRY_S", 0.02)
    reference_model.models_status = 500
    serving.write('bundle = "reference"', mode="recover")
    await serving.reloaded("kept", times=3)
    assert caplog.text.count("another bundle waits for the served model") == 1
    reference_model.scripts[PROBE] = script(refusal, steered=refusal, steers=False)
    reference_model.models_status = 200
    await serving.reloaded("kept", times=await serving.total("rass_reloads_total", result="kept") + 2)
    assert "another bundle waits for steering that acts" in caplog.text
    assert (await serving.ask())[1]["x-rass-action"] == "unjudged"
    reference_model.scripts[PROBE] = script(refusal, steered="With the command kill.")
    await serving.reloaded("applied")
    assert (await serving.ask())[1]["x-rass-action"] == "recovered"


async def test_a_failing_canary_holds_the_mode_down_over_a_reload(
    serving, reference_model, script, refusal, eventually
):
    serving.write('bundle = "reference"', mode="recover", groups="interval_s = 0.02\nfailures = 2")
    await serving.reloaded("applied")
    reference_model.scripts[PROBE] = script(refusal, steered=refusal, steers=False)
    await serving.until("rass_canary_failing", 1)
    reference_model.scripts["slow"] = script("Yes.")
    reference_model.hold = asyncio.Event()  # the next watch's first probe waits for it too
    slow = asyncio.create_task(serving.ask("slow"))
    await eventually(lambda: any(each["messages"][-1]["content"] == "slow" for each in reference_model.requests))
    serving.write('bundle = "reference"', mode="recover", groups="interval_s = 3600\nfailures = 2")
    await serving.reloaded("applied", times=2)
    await eventually(lambda: sum("CanaryWatch._watch" in repr(each) for each in asyncio.all_tasks()) == 1)
    assert await serving.total("rass_canary_failing") == 1
    reference_model.hold.set()
    assert (await slow)[1]["x-rass-action"] == "delivered"
    assert (await serving.ask())[1]["x-rass-action"] == "refusal-kept"
    assert await serving.total("rass_canary_failing") == 1
    serving.write()
    await serving.reloaded("applied", times=3)
    await serving.until("rass_canary_failing", 0)


async def test_no_request_is_dropped_while_reloading(serving, reference_model, script):
    reference_model.scripts["hello"] = script("Hello.")
    ending = asyncio.Event()
    seen = []

    async def client():
        while not ending.is_set():
            status, headers, body = await serving.ask("hello")
            seen.append((status, headers["x-rass-action"], body["choices"][0]["message"]["content"]))

    clients = [asyncio.create_task(client()) for _ in range(4)]
    for times in range(1, 7):
        serving.write(mode="off" if times % 2 else "observe")
        await serving.reloaded("applied", times)
    ending.set()
    await asyncio.gather(*clients)
    assert set(seen) == {(200, "off", "Hello."), (200, "delivered", "Hello.")}


def test_a_bundle_that_is_exchanged_while_its_files_are_listed_is_seen(tmp_path, monkeypatch):
    def vanished(folder, *_):
        raise FileNotFoundError(folder)

    monkeypatch.setattr(Path, "iterdir", vanished)
    monkeypatch.setattr(Path, "glob", vanished)
    settings = Settings(bundle=str(tmp_path))
    assert reload.stamps(SettingsSource({}, None), settings)[tmp_path] is not None
