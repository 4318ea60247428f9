"""A whole build on a model whose residual stream is known: export, refusal, resume, round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from detectors.bundle import load
from detectors.verdict import Zone
from rass.artifacts import Run
from rass.errors import InputError, StageError
from rass.pipeline import BuildResult, build_bundle, run_key
from rass.probe import ProbeSettings
from rass.prompts import PromptSet
from rass.stages import STAGES, BuildInputs, BuildSettings
from rass.strength import StrengthSettings

SETTINGS = BuildSettings(
    answers_per_kind=2000,  # thresholds count refused requests only: all of them are asked
    control_attacks=40,
    divergence_prompts=5,
    probe=ProbeSettings(penalties=(1e-3, 1e-2), rounds=1),
    strength=StrengthSettings(screen=4, refine=8, measure=30),
)


class QuietReporter:
    """Remembers the stages; ``fail_at`` interrupts the bar whose label begins so."""

    def __init__(self, fail_at: str = "nothing") -> None:
        self.stages: list[tuple[str, bool]] = []
        self._fail_at = fail_at

    def stage(self, name: str, resumed: bool) -> None:
        self.stages.append((name, resumed))

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        if label.startswith(self._fail_at):
            raise KeyboardInterrupt
        yield lambda _finished: None


@pytest.fixture(scope="session")
def build(
    make_prompts: Callable[..., PromptSet], world_judge: object
) -> Callable[..., tuple[BuildResult, QuietReporter]]:
    selection, report = make_prompts("selection"), make_prompts("report")

    def run(model: object, folder: Path, *, fail_at: str = "nothing") -> tuple[BuildResult, QuietReporter]:
        inputs = BuildInputs(model, selection, report, world_judge, world_judge)
        reporter = QuietReporter(fail_at)
        state = Run(folder / "run", run_key(inputs, SETTINGS, refusals_digest="world judge"))
        result = build_bundle(inputs, SETTINGS, state, folder / "bundle", reporter, command="build-vectors --seed 0")
        return result, reporter

    return run


@pytest.fixture(scope="module")
def built(
    build: Callable[..., tuple[BuildResult, QuietReporter]], linear_world: Callable[[], object], tmp_path_factory
):
    folder = tmp_path_factory.mktemp("built")
    return folder, *build(linear_world(), folder)


def test_build_recovers_and_exports(built) -> None:
    _, result, reporter = built
    assert result.report.reasons == ()
    overall = result.report.figures["all"]
    assert overall.orr[0].value > 0.5
    assert overall.orr[1].value < 0.05
    assert overall.hrr[1].value == 1.0
    assert result.report.control.steered - result.report.control.raw > 0.9
    assert result.exported is not None
    assert [name for name, _ in reporter.stages] == list(STAGES)


def test_bundle_round_trips(built) -> None:
    folder, result, _ = built
    bundle = load(folder / "bundle")
    assert bundle.digest == result.exported.digest
    assert bundle.manifest.validation.passed
    assert set(bundle.manifest.languages) == {"de", "en"}
    bundle.check_model("linear-world", "f" * 16, 16, 3)
    steering = bundle.steering("en", Zone.BENIGN)
    assert steering is not None
    assert steering.strength == result.choice.by_language["en"]
    assert bundle.steering("en", Zone.BAND) is None
    name = bundle.vector_name(steering.vector_id)
    assert abs(bundle.vector_array(name)[0, 1]) > 0.95  # the planted refusal axis
    weight, _ = bundle.probe("h")
    assert abs(weight.reshape(-1, 16)).sum(axis=0).argmax() == 0  # the planted harm axis
    assert not bundle.asks_about_requests  # what it would do is known without
    card = (folder / "bundle" / "card.md").read_text(encoding="utf-8")
    assert "| all |" in card
    assert "Positive control" in card


def test_a_model_that_knows_harm_when_asked_is_asked(build, linear_world, tmp_path: Path) -> None:
    recovered = {}
    for strict in (True, False):
        result, _ = build(linear_world(hesitant=True, strict=strict), tmp_path / str(strict))
        assert result.report.passed
        recovered[strict] = result.report.figures["all"].orr_change.value
        bundle = load(tmp_path / str(strict) / "bundle")
        assert bundle.asks_about_requests is not strict
        assert ("asked_h" in bundle.manifest.probes) is not strict
    assert recovered[False] < recovered[True] - 0.05


def test_a_language_whose_attacks_never_flip_borrows_the_most_careful_threshold(
    build, linear_world, tmp_path: Path
) -> None:
    result, _ = build(linear_world(unmoved=True), tmp_path)
    answers = load(tmp_path / "bundle").manifest.zones.answers
    assert set(answers.by_language) == {"en"}
    assert answers.default == answers.by_language["en"]
    assert result.report.figures["de"].orr[1].value < 0.05
    assert result.report.figures["de"].asr[1].value == 0.0


def test_harmful_answers_are_never_stored(built) -> None:
    folder, _, _ = built
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"do v0 o" not in stored


def test_interrupted_run_resumes(build, linear_world, tmp_path: Path) -> None:
    first = linear_world()
    with pytest.raises(KeyboardInterrupt):
        build(first, tmp_path, fail_at="learning")
    assert not (tmp_path / "run" / STAGES[3]).exists()
    second = linear_world()
    result, reporter = build(second, tmp_path)
    assert reporter.stages == [
        (STAGES[0], True),
        (STAGES[1], True),
        (STAGES[2], True),
        (STAGES[3], False),
        (STAGES[4], False),
        (STAGES[5], False),
    ]
    assert result.report.passed
    third = linear_world()
    again, reporter = build(third, tmp_path)
    assert third.generated == 0
    assert all(resumed for _, resumed in reporter.stages)
    assert again.exported == result.exported


def test_run_folder_of_other_inputs_is_refused(tmp_path: Path) -> None:
    Run(tmp_path / "run", {"seed": 0})
    with pytest.raises(InputError, match="other inputs"):
        Run(tmp_path / "run", {"seed": 1})
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        Run(tmp_path / "strange", {"seed": 0})


def test_another_refusal_detector_or_precision_is_another_run(make_prompts, linear_world, world_judge) -> None:
    inputs = BuildInputs(linear_world(), make_prompts("selection"), make_prompts("report"), world_judge, world_judge)
    one = run_key(inputs, SETTINGS, refusals_digest="a")
    assert one != run_key(inputs, SETTINGS, refusals_digest="b")
    assert one != run_key(inputs, SETTINGS, refusals_digest="a", dtype="bfloat16")


def test_model_that_ignores_steering_is_not_exported(build, linear_world, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no answer to a harmful request"):
        build(linear_world(obeys_steering=False), tmp_path)
    assert not (tmp_path / "bundle").exists()


def test_blind_gate_stays_safe(build, linear_world, tmp_path: Path) -> None:
    result, _ = build(linear_world(blind=True), tmp_path)
    overall = result.report.figures["all"]
    assert overall.hrr_loss.value < 0.01
    assert overall.orr[1].value > 0.9 * overall.orr[0].value


def test_leaking_gate_is_refused(build, linear_world, tmp_path: Path) -> None:
    result, _ = build(linear_world(deceived=True), tmp_path)
    assert result.exported is None
    assert not (tmp_path / "bundle").exists()
    assert any("harmful refusal rate falls" in reason and "in en" in reason for reason in result.report.reasons)
    assert any("attack success rate rises" in reason for reason in result.report.reasons)
