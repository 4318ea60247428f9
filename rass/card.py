"""The bundle's card: what it is for, how it was made and what was measured, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from detectors.manifest import Manifest
from detectors.statistics import Interval
from rass.strength_choice import StrengthChoice
from rass.validate import ValidationReport

__all__ = ["percent", "render_card"]


def render_card(manifest: Manifest, report: ValidationReport, choice: StrengthChoice) -> str:
    """Return the text of ``card.md``; pure."""
    model, made, plan = manifest.model, manifest.provenance, manifest.steering
    caps = (f"{one} {'none flips' if cap is None else f'{cap:g}'}" for one, cap in sorted(choice.flip_cap.items()))
    costs = (f"{one} {nats:.3f}" for one, nats in sorted(report.divergence_nats.items()))
    sections = [
        f"# Bundle for {model.id}",
        f"Steering vectors and boundary probes for `{model.id}`, revision `{model.revision}` ({model.num_layers} "
        f"layers, width {model.hidden_size}). It recovers benign requests that the model refuses and leaves "
        "warranted refusals alone. It is of no use for any other model or revision, and is refused there.",
        "## How it was made",
        f"`{made.command}`, seed {made.seed}, rass {made.rass_version}, {manifest.created}. "
        f"Steering: {choice.config.label}.",
        "## Validation",
        f"On the split `{manifest.validation.split}`, which shares no frame, no object and no (verb, object) pair with "
        "what was fitted. Brackets are 95 % intervals (exact for rates, Tango's for paired changes); the unit is the "
        "base request.",
        _validation_table(report),
        "Positive control: steering without any gate takes on-topic answers to attacks from "
        f"{percent(report.control.raw)} to {percent(report.control.steered)} (n = {report.control.attacks}).",
        "Cost of steering on benign requests that are answered anyway, which the gate never steers (KL in nats a "
        f"token): {', '.join(costs) or 'not measured'}.",
        "## Zones and strengths",
        _zone_table(manifest),
        "## Strength against safety, on the selection split",
        "Shares of refused benign requests answered on topic, of refused attacks answered without any gate, and of "
        "harmful base requests that pass the gate and are answered.",
        *(_curve_table(language, choice) for language in sorted(choice.curve)),
        f"Strengths are taken from the palette {', '.join(f'{one:g}' for one in plan.palette)}. "
        f"The 5th percentile of the least strength that flips an attack: {', '.join(caps)}.",
    ]
    return "\n\n".join(sections) + "\n"


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal, or a dash for what was not measured."""
    return f"{100 * value:.1f} %" if value == value else "–"


def _bracketed(interval: Interval) -> str:
    return f"{percent(interval.value)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _validation_table(report: ValidationReport) -> str:
    header = (
        *("language", "ORR raw", "ORR gated", "HRR raw", "HRR gated", "loss in HRR"),
        *("ASR raw", "ASR gated", "rise in ASR", "recovered on topic"),
    )
    rows = [
        (
            language,
            _bracketed(one.orr[0]),
            _bracketed(one.orr[1]),
            _bracketed(one.hrr[0]),
            _bracketed(one.hrr[1]),
            _bracketed(one.hrr_loss),
            _bracketed(one.asr[0]),
            _bracketed(one.asr[1]),
            _bracketed(one.asr_rise),
            _bracketed(one.recovered_on_topic),
        )
        for language, one in report.figures.items()
    ]
    return _table(header, rows)


def _zone_table(manifest: Manifest) -> str:
    zones = manifest.zones
    rows = []
    for language, request in sorted(zones.requests.by_language.items()):
        steering = manifest.steering.by_language.get(language)
        answer = zones.answers.by_language.get(language, zones.answers.default) if zones.answers else None
        rows.append(
            (
                language,
                f"{request.benign_below:.2f}",
                f"{request.harmful_above:.2f}",
                f"{answer.benign_below:.2f}" if answer else "–",
                f"{steering.benign:g}" if steering and steering.benign is not None else "none",
            )
        )
    return _table(("language", "benign below h", "harmful above h", "answer benign below", "strength"), rows)


def _curve_table(language: str, choice: StrengthChoice) -> str:
    rows = [
        (
            f"{point.strength:g}",
            percent(point.on_topic),
            percent(point.attacks_answered),
            percent(point.gated_leak),
        )
        for point in choice.curve[language]
    ]
    return _table(
        (f"strength ({language})", "recovered on topic", "attacks answered, no gate", "leak through gate"), rows
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
