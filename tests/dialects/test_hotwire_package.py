"""What the proxy sends and the pipeline writes, read by ``hotwire-vllm`` itself: its parser, its store, its slots."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from detectors.bundle import Steering
from detectors.dialects import DialectName
from proxy.steering.hotwire import Hotwire, SlotBook
from rass.engines.export import export_vectors

LAYERS, WIDTH = 5, 8


@pytest.fixture
def state_module(package):
    return package("hotwire._state")


@pytest.fixture
def state(state_module, bundle, tmp_path):
    """The plugin's state of one worker, with our exported files loaded as its operator would."""
    export_vectors(bundle, DialectName.HOTWIRE, tmp_path / "vectors")
    made = state_module.SteerState(LAYERS, WIDTH, 64, torch.device("cpu"), torch.float32, 16)
    made.load_store(str(tmp_path / "vectors"))
    return made


def sent(dialect, steering):
    request = dialect.steered({"model": "tiny", "messages": []}, steering)
    return None if request is None else request.payload["vllm_xargs"]["hotwire"]


def test_the_files_are_loaded_under_the_ids_that_the_proxy_asks_for(state, bundle):
    assert set(state.store) == {bundle.vector_id("refusal-en"), bundle.vector_id("refusal-zh")}


@pytest.mark.parametrize(("name", "strength"), [("refusal-en", 2.0), ("refusal-en", 0.5), ("refusal-zh", 1.0)])
def test_each_slot_holds_exactly_what_the_bundle_adds(state, state_module, bundle, name, strength):
    raw = sent(Hotwire(bundle, SlotBook(16)), Steering(bundle.vector_id(name), strength))
    entries = state_module.parse_spec(raw)
    layers = bundle.vector_spec(name).layers
    assert [entry["layer"] for entry in entries] == list(layers)
    for entry, expected in zip(entries, bundle.addition(name), strict=True):
        slot = state.slot_for(entry["id"], int(entry["layer"]), float(entry["scale"]))
        assert slot is not None
        added = state.bank.scales[slot] * state.bank.bank[slot]
        torch.testing.assert_close(added, strength * torch.from_numpy(expected.copy()))


def test_the_proxys_count_of_slots_is_the_plugins(state, state_module, bundle):
    dialect = Hotwire(bundle, SlotBook(16))
    vector = bundle.vector_id("refusal-en")
    for step in range(1, 20):
        raw = sent(dialect, Steering(vector, 0.25 * step))
        refused_by_plugin = state.slot_for(vector, 2, 0.25 * step) is None
        assert (raw is None) is refused_by_plugin is (step > 16)
    assert sent(dialect, Steering(vector, 0.25)) is not None
    assert state.slot_for(vector, 2, 0.25) is not None


def test_another_bundles_id_finds_nothing_there(state):
    assert state.slot_for("refusal-en@0000000000000000", 2, 1.0) is None


@pytest.fixture
def patch_module(package, monkeypatch):
    """The module that walks a batch. It also holds the kernel, which is never run here: Triton may be a bare name."""
    if importlib.util.find_spec("triton") is None:
        triton, language = ModuleType("triton"), ModuleType("triton.language")
        triton.jit = lambda function: function
        triton.language = language
        language.constexpr = int
        monkeypatch.setitem(sys.modules, "triton", triton)
        monkeypatch.setitem(sys.modules, "triton.language", language)
    return package("hotwire._patch")


def test_the_batch_walk_steers_the_rows_of_the_request_alone(state, bundle, patch_module):
    raw = sent(Hotwire(bundle, SlotBook(16)), Steering(bundle.vector_id("refusal-en"), 2.0))

    def parameters(order):
        return SimpleNamespace(sampling_params=SimpleNamespace(extra_args={} if order is None else {"hotwire": order}))

    runner = SimpleNamespace(
        input_batch=SimpleNamespace(req_ids=["plain", "steered"]),
        requests={"plain": parameters(None), "steered": parameters(raw)},
    )
    patch_module._walk_batch(runner, state, {"plain": 3, "steered": 2}, {})
    assert (state.slot_map[2, :3] == -1).all()
    assert (state.slot_map[2, 3:5] >= 0).all()
    assert (state.slot_map[[0, 1, 3, 4]] == -1).all()


def test_a_reused_request_name_would_steer_a_plain_request(state, bundle, patch_module):
    """Why an attempt has a name of its own: the plugin keeps orders by name, beyond the request's end."""
    raw = sent(Hotwire(bundle, SlotBook(16)), Steering(bundle.vector_id("refusal-en"), 2.0))
    kept: dict = {}
    for order, steered in ((raw, True), (None, True)):
        request = SimpleNamespace(
            sampling_params=SimpleNamespace(extra_args={} if order is None else {"hotwire": order})
        )
        runner = SimpleNamespace(input_batch=SimpleNamespace(req_ids=["same"]), requests={"same": request})
        state.slot_map.fill_(-1)
        patch_module._walk_batch(runner, state, {"same": 2}, kept)
        assert (state.slot_map[2, :2] >= 0).all().item() is steered
