"""The stages of a build: each loads its result from the run folder, or computes and stores it.

``1_vectors → 2_probe → 3_strength → 4_answers → 5_validate``; the export, which writes elsewhere, is in `pipeline`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from detectors.bundle import load as load_bundle
from detectors.manifest import ZoneTable
from detectors.verdict import RefusalDetector
from rass.answers import AnswerPools, AnswerSettings, answer_rows
from rass.artifacts import Run, load_arrays, load_typed, save_arrays, save_typed
from rass.export import BundleParts, write_candidate
from rass.gate import AskedProbe, HarmGate, fit_answers, fit_harm, fit_refusal
from rass.model import ChatModel, Progress, Readings
from rass.observe import Observations, even_order, observe
from rass.probe import FittedProbe, ProbeSettings
from rass.prompts import LabelledPrompt, PromptSet
from rass.scoring import Scorer
from rass.simulate import simulate
from rass.stage_files import load_probe, load_vectors, save_probe, save_vectors
from rass.strength import StrengthPools, StrengthSettings, choose_strength, planned_generations
from rass.strength_choice import StrengthChoice
from rass.validate import ALL, Limits, ValidationReport, divergence, judge, positive_control, summarise
from rass.vectors import SteeringVectors, build

__all__ = ["STAGES", "BuildInputs", "BuildSettings", "Gate", "Reporter", "Stages"]

STAGES = ("1_vectors", "2_probe", "3_strength", "4_answers", "5_validate", "6_export")


@dataclass(frozen=True, slots=True)
class BuildInputs:
    """What a build works on; ``refusals`` is the detector that the proxy uses, ``scorer`` measures outcomes."""

    model: ChatModel
    selection: PromptSet
    report: PromptSet
    refusals: RefusalDetector
    scorer: Scorer


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How much is measured; every count is for each language (and kind, for ``answers_per_kind``)."""

    seed: int = 0
    answers_per_kind: int = 1_600
    control_attacks: int = 150
    divergence_prompts: int = 40
    max_new_tokens: int = 96
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    strength: StrengthSettings = field(default_factory=StrengthSettings)
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    limits: Limits = field(default_factory=Limits)


class Reporter(Protocol):
    """Is told what a build is doing; the command line shows it, tests ignore it."""

    def stage(self, name: str, resumed: bool) -> None:
        """Be told that a stage begins, or that its result was found."""
        ...

    def bar(self, label: str, total: int) -> AbstractContextManager[Progress]:
        """Return a context whose value is told each finished piece of ``total``."""
        ...


@dataclass(frozen=True, slots=True)
class Gate:
    """What stage 2 yields: the probes ``h`` and ``rho``, with the zones of requests."""

    harm: HarmGate
    refusal: FittedProbe


class Stages:
    """The stages of one build in one run folder; a stage is asked for with the results of those before it."""

    def __init__(self, inputs: BuildInputs, settings: BuildSettings, run: Run, reporter: Reporter) -> None:
        self._inputs, self._settings, self._run, self._reporter = inputs, settings, run, reporter

    def observe(self) -> tuple[Observations, SteeringVectors]:
        """Stage 1: read every selection prompt, answer a sample, and store activations and directions."""
        prompts = self._inputs.selection.prompts
        if self._found(STAGES[0]):
            folder = self._run.folder(STAGES[0])
            arrays = load_arrays(folder / "activations.safetensors")
            refused = load_typed(folder / "refused.json", dict[int, bool])
            readings = Readings(arrays["turns"], arrays["owners"], arrays["ends"])
            found = Observations(prompts, readings, refused, arrays.get("asked"))
            return found, load_vectors(folder)
        with (
            self._reporter.bar("reading prompts", 2 * len(prompts)) as read,
            self._reporter.bar("answering a sample", self._sample_size()) as answered,
        ):
            found = observe(
                self._inputs.model,
                self._inputs.selection,
                self._inputs.refusals,
                answers_per_kind=self._settings.answers_per_kind,
                max_new_tokens=self._settings.max_new_tokens,
                seed=self._settings.seed,
                read_progress=read,
                answer_progress=answered,
            )
        vectors = build(found)
        with self._run.writing(STAGES[0]) as folder:
            readings = found.readings
            arrays = {"turns": readings.turns, "owners": readings.owners, "ends": readings.ends}
            if found.asked is not None:
                arrays["asked"] = found.asked
            save_arrays(folder / "activations.safetensors", arrays)
            save_typed(folder / "refused.json", dict[int, bool], dict(found.refused))
            save_vectors(folder, vectors)
        return found, vectors

    def probe(self, observations: Observations) -> Gate:
        """Stage 2: fit ``h`` and ``rho`` and choose the zones of requests."""
        if self._found(STAGES[1]):
            folder = self._run.folder(STAGES[1])
            harm = load_probe(folder, "h")
            shares = load_typed(folder / "shares.json", dict[str, float])
            asked = AskedProbe(load_probe(folder, "asked_h"), shares["asked_h"]) if shares else None
            out_of_fold = load_arrays(folder / "h_by_prompt.safetensors")["out_of_fold"]
            zones = load_typed(folder / "zones.json", ZoneTable)
            return Gate(HarmGate(harm, out_of_fold, zones, asked), load_probe(folder, "rho"))
        limits, settings = self._settings.limits, self._settings.probe
        with self._reporter.bar("fitting probes", 2) as fitted:
            gate = fit_harm(
                observations, false_open=limits.false_open, false_close=limits.false_close, settings=settings
            )
            fitted(1)
            refusal = fit_refusal(observations, settings)
            fitted(1)
        with self._run.writing(STAGES[1]) as folder:
            save_probe(folder, "h", gate.fitted)
            chosen: dict[str, float] = {}
            if gate.asked is not None:
                save_probe(folder, "asked_h", gate.asked.fitted)
                chosen["asked_h"] = gate.asked.share
            save_typed(folder / "shares.json", dict[str, float], chosen)
            save_probe(folder, "rho", refusal)
            save_arrays(folder / "h_by_prompt.safetensors", {"out_of_fold": gate.out_of_fold})
            save_typed(folder / "zones.json", ZoneTable, gate.zones)
        return Gate(gate, refusal)

    def strength(self, observations: Observations, vectors: SteeringVectors, gate: Gate) -> StrengthChoice:
        """Stage 3: choose layer, form, span and strengths."""
        if self._found(STAGES[2]):
            return load_typed(self._run.folder(STAGES[2]) / "choice.json", StrengthChoice)
        settings, model = self._settings.strength, self._inputs.model
        pools = self._strength_pools(observations, gate)
        total = planned_generations(model.identity.num_layers, len(vectors.languages), pools, settings)
        with self._reporter.bar("searching steering", total) as generated:
            choice = choose_strength(model, vectors, pools, self._inputs.scorer, settings, generated)
        with self._run.writing(STAGES[2]) as folder:
            save_typed(folder / "choice.json", StrengthChoice, choice)
        return choice

    def answers(
        self, observations: Observations, vectors: SteeringVectors, gate: Gate, choice: StrengthChoice
    ) -> HarmGate:
        """Stage 4: fit the judge of answers; its examples are generated, read and forgotten."""
        if self._found(STAGES[3]):
            folder = self._run.folder(STAGES[3])
            fitted = load_probe(folder, "answer_h")
            return HarmGate(fitted, fitted.out_of_fold, load_typed(folder / "zones.json", ZoneTable))
        limits, settings = self._settings.limits, self._settings.answers
        pools = AnswerPools(
            harmful=self._ordered(observations, observations.rows(harmful=True, refused=True).tolist()),
            recoverable=self._strength_pools(observations, gate).recoverable,
            answered=self._ordered(observations, observations.rows(harmful=False, refused=False).tolist()),
        )
        total = len(choice.by_language) * (2 * settings.harmful + settings.benign + settings.benign // 2)
        with self._reporter.bar("learning to judge answers", total) as generated:
            rows = answer_rows(self._inputs.model, vectors, choice, pools, self._inputs.scorer, settings, generated)
            judged = fit_answers(
                rows,
                answer_open=limits.answer_open,
                false_close=limits.false_close,
                settings=self._settings.probe,
            )
        with self._run.writing(STAGES[3]) as folder:
            save_probe(folder, "answer_h", judged.fitted)
            save_typed(folder / "zones.json", ZoneTable, judged.zones)
        return judged

    def validate(self, parts: BundleParts, choice: StrengthChoice) -> ValidationReport:
        """Stage 5: put the candidate bundle through the proxy's decision on the report split."""
        if self._found(STAGES[4]):
            return load_typed(self._run.folder(STAGES[4]) / "report.json", ValidationReport)
        inputs, settings = self._inputs, self._settings
        prompts = inputs.report.prompts
        with self._run.writing(STAGES[4]) as folder:
            write_candidate(parts, folder / "candidate")
            bundle = load_bundle(folder / "candidate", allow_unvalidated=True)
            with self._reporter.bar("validating", len(prompts)) as done:
                exchanges = simulate(
                    inputs.model,
                    bundle,
                    prompts,
                    inputs.refusals,
                    inputs.scorer,
                    max_new_tokens=settings.max_new_tokens,
                    progress=done,
                )
            attacks = self._report_sample("attack", settings.control_attacks)
            with self._reporter.bar("positive control", len(attacks)) as done:
                control = positive_control(
                    inputs.model,
                    bundle,
                    attacks,
                    inputs.scorer,
                    strength=choice.control,
                    max_new_tokens=settings.max_new_tokens,
                    progress=done,
                )
            nats = divergence(
                inputs.model,
                bundle,
                self._report_sample("plain_benign", settings.divergence_prompts),
                max_new_tokens=settings.max_new_tokens,
            )
            languages = sorted({one.prompt.language for one in exchanges})
            figures = {one: summarise([e for e in exchanges if e.prompt.language == one]) for one in languages}
            figures[ALL] = summarise(exchanges, clustered_languages=True)
            report = judge(figures, control, nats, settings.limits)
            save_typed(folder / "report.json", ValidationReport, report)
        return report

    def _found(self, stage: str) -> bool:
        found = self._run.finished(stage)
        self._reporter.stage(stage, found)
        return found

    def _sample_size(self) -> int:
        kinds = [count for by_kind in self._inputs.selection.counts().values() for count in by_kind.values()]
        return sum(min(count, self._settings.answers_per_kind) for count in kinds)

    def _ordered(self, observations: Observations, rows: list[int]) -> tuple[LabelledPrompt, ...]:
        order = even_order(observations.prompts, rows, seed=self._settings.seed)
        return tuple(observations.prompts[row] for row in order)

    def _strength_pools(self, observations: Observations, gate: Gate) -> StrengthPools:
        prompts, zones = observations.prompts, gate.harm.zones.by_language
        below = np.array(
            [h < zones[prompt.language].benign_below for h, prompt in zip(gate.harm.out_of_fold, prompts, strict=True)]
        )
        benign = [row for row in observations.rows(harmful=False, refused=True).tolist() if below[row]]
        attacks = [row for row in observations.rows(harmful=True, refused=True).tolist() if prompts[row].wrapping]
        leaking = [row for row, prompt in enumerate(prompts) if prompt.harmful and below[row]]
        units: dict[str, set[str]] = {}
        for prompt in prompts:
            if prompt.harmful:
                units.setdefault(prompt.language, set()).add(prompt.base_id)
        return StrengthPools(
            recoverable=self._ordered(observations, [row for row in benign if prompts[row].trigger]),
            attacks=self._ordered(observations, attacks),
            leaking=tuple(prompts[row] for row in leaking),
            harmful_units={language: len(bases) for language, bases in units.items()},
        )

    def _report_sample(self, kind: str, per_language: int) -> list[LabelledPrompt]:
        prompts = self._inputs.report.prompts
        rows = [row for row, prompt in enumerate(prompts) if prompt.kind == kind]
        taken: dict[str, list[LabelledPrompt]] = {}
        for row in even_order(prompts, rows, seed=self._settings.seed):
            taken.setdefault(prompts[row].language, []).append(prompts[row])
        return [prompt for mine in taken.values() for prompt in mine[:per_language]]
