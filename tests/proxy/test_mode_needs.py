"""A mode that could never do its work is refused at the start, with what to do about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detectors.bundle import load
from proxy.dependencies import reference_bundle
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.mode_needs import check_mode
from proxy.settings import Settings

JUDGES = {"boundary": "judge", "answer_harm": "judge"}
CLARIFY = {"clarify": "always"}
FALLBACK = {"fallback": {"model": "other"}}


@pytest.fixture(scope="module")
def bundle():
    return load(reference_bundle())


def settings(mode, **groups):
    return Settings.model_validate({"mode": mode, **groups})


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.OBSERVE])
def test_what_changes_no_answer_needs_nothing(mode):
    check_mode(settings(mode), None)


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.RECOVER, Mode.STEER])
def test_the_reference_bundle_has_all_that_any_mode_needs(bundle, mode):
    check_mode(settings(mode), bundle)


@pytest.mark.parametrize("recovery", [CLARIFY, FALLBACK])
def test_other_steps_do_without_a_bundle_and_without_steering(recovery):
    groups = {"detectors": JUDGES, "steering": {"dialect": "none"}, "recovery": recovery}
    check_mode(settings(Mode.RECOVER, **groups), None)
    with pytest.raises(StartupError, match="mode steer"):
        check_mode(settings(Mode.STEER, **groups), None)


@pytest.mark.parametrize(
    ("groups", "with_bundle", "said"),
    [
        ({}, False, "mode recover needs a bundle"),
        ({"recovery": CLARIFY, "detectors": {"boundary": "judge"}}, False, "mode recover needs a bundle"),
        ({"detectors": JUDGES}, False, "nothing to steer with"),
        ({"steering": {"dialect": "none"}}, True, "needs an engine that steers"),
        ({"recovery": {"ladder": ["clarify", "fallback"]}}, True, "no step of recovery.ladder"),
        ({"recovery": {"ladder": []}}, True, "no step of recovery.ladder"),
    ],
)
def test_what_is_missing_is_named(bundle, groups, with_bundle, said):
    with pytest.raises(StartupError, match=said):
        check_mode(settings(Mode.RECOVER, **groups), bundle if with_bundle else None)


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.RECOVER])
def test_an_engine_whose_activations_nobody_reads_needs_other_detectors(bundle, mode):
    hotwire = {"steering": {"dialect": "hotwire"}}
    for detectors in ({}, {"boundary": "judge"}, {"answer_harm": "onnx"}):
        with pytest.raises(StartupError, match="judge or onnx"):
            check_mode(settings(mode, detectors=detectors, **hotwire), bundle)
    check_mode(settings(mode, detectors=JUDGES, **hotwire), bundle)
    check_mode(settings(Mode.OBSERVE, **hotwire), bundle)


def test_a_bundle_that_cannot_judge_answers_recovers_nothing_by_itself(bundle):
    blind = replace(bundle, manifest=replace(bundle.manifest, zones=replace(bundle.manifest.zones, answers=None)))
    with pytest.raises(StartupError, match="no probe for answers"):
        check_mode(settings(Mode.RECOVER), blind)
    check_mode(settings(Mode.RECOVER, detectors={"answer_harm": "judge"}), blind)


def test_mode_steer_needs_the_refusal_coordinate(bundle):
    probes = {name: probe for name, probe in bundle.manifest.probes.items() if name != "rho"}
    without = replace(bundle, manifest=replace(bundle.manifest, probes=probes))
    with pytest.raises(StartupError, match="refusal coordinate"):
        check_mode(settings(Mode.STEER), without)
    with pytest.raises(StartupError, match="refusal coordinate"):
        check_mode(settings(Mode.STEER, detectors={"boundary": "judge"}), bundle)
    check_mode(settings(Mode.RECOVER), without)
