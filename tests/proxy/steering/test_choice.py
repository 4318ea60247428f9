"""The dialect is settled at the start: what an engine cannot express is refused there, with what it can."""

from __future__ import annotations

import pytest

from detectors.bundle import Steering
from detectors.manifest import LanguageSteering, SteeringForm, SteeringSpan
from detectors.verdict import Zone
from proxy.dependencies import build_dependencies
from proxy.errors import StartupError
from proxy.settings import Settings
from proxy.steering import Native, NoSteering
from proxy.steering.choice import choose_dialect, expressed_plan, planned
from proxy.steering.hotwire import Hotwire, SlotBook
from proxy.steering.pair import Pair
from proxy.steering.vllm_lens import VllmLens

PAIR = {"pair_url": "http://127.0.0.1:9", "pair_vector": "refusal-en", "pair_strength": 2.0}


def settings(dialect: str, mode: str = "recover", **steering: object) -> Settings:
    return Settings.model_validate({"mode": mode, "steering": {"dialect": dialect, **steering}})


@pytest.mark.parametrize(
    ("dialect", "more", "kind"),
    [
        ("native", {}, Native),
        ("none", {}, NoSteering),
        ("hotwire", {}, Hotwire),
        ("vllm-lens", {}, VllmLens),
        ("pair", PAIR, Pair),
    ],
)
def test_each_name_gives_its_dialect(bundle, dialect, more, kind):
    assert isinstance(choose_dialect(settings(dialect, **more), bundle), kind)


@pytest.mark.parametrize("dialect", ["hotwire", "vllm-lens", "pair"])
def test_an_ablation_is_refused_with_the_forms_that_can_be_expressed(make_adding_bundle, dialect):
    with pytest.raises(StartupError, match=r"form add only, and the bundle steers by ablate.*build-vectors --dialect"):
        choose_dialect(settings(dialect, **PAIR), make_adding_bundle(form=SteeringForm.ABLATE))


@pytest.mark.parametrize("dialect", ["hotwire", "vllm-lens", "pair"])
@pytest.mark.parametrize("span", [SteeringSpan.ONWARD, SteeringSpan.LAST_PROMPT_TOKEN])
def test_another_span_is_refused_too(make_adding_bundle, dialect, span):
    with pytest.raises(StartupError, match=f"span every_token only, and the bundle steers {span}"):
        choose_dialect(settings(dialect, **PAIR), make_adding_bundle(span=span))


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_modes_that_never_steer_need_nothing_that_fits(make_adding_bundle, mode):
    bundle = make_adding_bundle(form=SteeringForm.ABLATE)
    assert isinstance(choose_dialect(settings("hotwire", mode), bundle), NoSteering)


def test_the_slots_that_a_bundle_needs_are_counted_at_the_start(bundle):
    # en at two strengths on one layer, zh at one strength on two layers
    dialect = choose_dialect(settings("hotwire", hotwire_slots=4), bundle)
    assert dialect.book.taken == 4
    with pytest.raises(StartupError, match=r"needs 4 of hotwire's slots.*0 of 3 are taken.*HOTWIRE_SLOTS"):
        choose_dialect(settings("hotwire", hotwire_slots=3), bundle)


def test_a_later_bundle_finds_the_slots_of_the_earlier_one_taken(make_adding_bundle):
    book = SlotBook(6)
    choose_dialect(settings("hotwire"), make_adding_bundle("first"), book)
    choose_dialect(settings("hotwire"), make_adding_bundle("first"), book)  # the same bundle again takes none
    assert book.taken == 4
    other = make_adding_bundle("second", by_language={"en": LanguageSteering("refusal-en", 1.0, None)})
    choose_dialect(settings("hotwire"), other, book)
    with pytest.raises(StartupError, match="5 of 6 are taken"):
        choose_dialect(settings("hotwire"), make_adding_bundle("third", palette=(0.5, 1.0, 2.0, 3.0)), book)


async def test_a_reload_goes_on_with_the_slots_unless_the_engine_was_started_anew(bundle, engine, judged):
    def towards(slots: int, mode: str = "recover") -> Settings:
        steering = {"dialect": "hotwire", "hotwire_slots": slots}
        groups = {"mode": mode, "bundle": str(bundle.path), "upstream": {"url": engine.url}, "steering": steering}
        return Settings.model_validate({**groups, **judged})

    made = [await build_dependencies(towards(8))]
    for later in (towards(8, "observe"), towards(8), towards(9)):
        made.append(await build_dependencies(later, made[-1]))
    first, observing, again, anew = (deps.book for deps in made)
    assert first is observing is again  # the engine keeps them even while nothing steers
    assert first.taken == 4
    assert (anew is first, anew.slots) == (False, 9)
    for deps in made:
        await deps.close()


async def test_a_pair_is_opened_and_closed_with_the_rest(bundle, engine):
    steering = {"dialect": "pair", **PAIR, "pair_url": engine.url}
    deps = await build_dependencies(
        Settings.model_validate({"mode": "recover", "bundle": str(bundle.path), "steering": steering})
    )
    assert deps.pair.address == engine.url
    assert deps.upstream.address != engine.url
    assert deps.plan("en", Zone.BAND) is None
    await deps.close()
    with pytest.raises(RuntimeError, match="closed"):
        await deps.pair.send("GET", "/v1/models", headers={}, purpose="check")


@pytest.mark.parametrize("missing", ["pair_url", "pair_vector", "pair_strength"])
def test_a_pair_says_what_it_needs(bundle, missing):
    given = {name: value for name, value in PAIR.items() if name != missing}
    with pytest.raises(StartupError, match=f"steering.{missing}"):
        choose_dialect(settings("pair", **given), bundle)


def test_a_pair_that_would_never_be_used_is_refused(bundle):
    with pytest.raises(StartupError, match=r"refusal-en at 0\.5, refusal-en at 2, refusal-zh at 1"):
        choose_dialect(settings("pair", **{**PAIR, "pair_strength": 3.0}), bundle)
    with pytest.raises(StartupError, match=r"no vector 'refusal-xx'"):
        choose_dialect(settings("pair", **{**PAIR, "pair_vector": "refusal-xx"}), bundle)


def test_the_plan_leaves_out_what_the_dialect_cannot_say(bundle):
    dialect = choose_dialect(settings("pair", **PAIR), bundle)
    plan = expressed_plan(bundle, dialect)
    assert plan("en", Zone.BENIGN) == Steering(bundle.vector_id("refusal-en"), 2.0)
    assert plan("en", Zone.BAND) is None  # the steered server has another strength
    assert plan("zh", Zone.BENIGN) is None  # and another vector
    assert len(planned(bundle)) == 3
    everything = expressed_plan(bundle, Native())
    assert all(everything(*case) == steering for case, steering in planned(bundle).items())


def test_a_pair_may_name_the_model_otherwise(bundle):
    dialect = choose_dialect(settings("pair", **PAIR, pair_model="steered"), bundle)
    steering = Steering(bundle.vector_id("refusal-en"), 2.0)
    assert dialect.steered({"model": "plain", "n": 1}, steering).payload == {"model": "steered", "n": 1}
    assert dialect.steered({"model": "plain"}, Steering(steering.vector_id, 1.0)) is None
