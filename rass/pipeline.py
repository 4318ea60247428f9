"""A build from prompts to bundle: the stages in order, each resumed where an earlier run finished it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from detectors.manifest import Provenance
from rass import __version__
from rass.artifacts import Run, save_typed
from rass.errors import ValidationRefused
from rass.export import assemble, export
from rass.stages import STAGES, BuildInputs, BuildSettings, Reporter, Stages
from rass.strength_choice import StrengthChoice
from rass.validate import ValidationReport

__all__ = ["BuildResult", "Exported", "build_bundle", "run_key"]


@dataclass(frozen=True, slots=True)
class Exported:
    """Where the bundle went and its digest."""

    folder: str
    digest: str


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build found; ``exported`` is ``None`` when validation refused it, with the reasons in the report."""

    report: ValidationReport
    choice: StrengthChoice
    exported: Exported | None


def run_key(
    inputs: BuildInputs, settings: BuildSettings, *, refusals_digest: str, dtype: str = "float32"
) -> dict[str, object]:
    """Return everything that decides a build's results; two builds with one key may share a run folder.

    ``refusals_digest`` stands for the detector that says which answers refuse, ``dtype`` is the model's.
    """
    identity = inputs.model.identity
    return {
        "model": identity.id,
        "revision": identity.revision,
        "selection": inputs.selection.digest,
        "report": inputs.report.digest,
        "refusals": refusals_digest,
        "scorer": type(inputs.scorer).__name__,
        "dtype": dtype,
        "rass_version": __version__,
        "settings": asdict(settings),
    }


def build_bundle(
    inputs: BuildInputs, settings: BuildSettings, run: Run, out: Path, reporter: Reporter, *, command: str
) -> BuildResult:
    """Run all stages and write the bundle to ``out`` when validation passed.

    A refused validation is a result, not an error: the report holds its reasons and nothing is written to ``out``.
    """
    stages = Stages(inputs, settings, run, reporter)
    observations, vectors = stages.observe()
    gate = stages.probe(observations)
    choice = stages.strength(observations, vectors, gate)
    judged = stages.answers(observations, vectors, gate, choice)
    splits: dict[str, object] = {
        prompts.split: {"source": prompts.source, "revision": prompts.revision, "prompts": prompts.counts()}
        for prompts in (inputs.selection, inputs.report)
    }
    parts = assemble(
        model=inputs.model.identity,
        provenance=Provenance(command, settings.seed, __version__, splits),
        created=datetime.now(UTC).date().isoformat(),
        vectors=vectors,
        choice=choice,
        palette=settings.strength.palette,
        probes={
            "h": gate.harm.fitted.probe,
            **({} if gate.harm.asked is None else {"asked_h": gate.harm.asked.fitted.probe}),
            "rho": gate.refusal.probe,
            "answer_h": judged.fitted.probe,
        },
        asked_share=None if gate.harm.asked is None else gate.harm.asked.share,
        requests=gate.harm.zones,
        answers=judged.zones,
        limits=settings.limits,
    )
    report = stages.validate(parts, choice)
    reporter.stage(STAGES[5], run.finished(STAGES[5]))
    try:
        digest = export(parts, report, choice, inputs.report.split, out)
    except ValidationRefused:
        return BuildResult(report, choice, None)
    exported = Exported(str(out), digest)
    if not run.finished(STAGES[5]):
        with run.writing(STAGES[5]) as folder:
            save_typed(folder / "exported.json", Exported, exported)
    return BuildResult(report, choice, exported)
