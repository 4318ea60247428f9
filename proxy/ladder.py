"""The recovery ladder as the configuration names it: its steps, and which refusals it may take up at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from detectors.verdict import RefusalKind
from proxy.answers import RefusalForm


class Step(StrEnum):
    """One rung of the recovery ladder.

    ``STEER``: the same request, steered. ``CLARIFY``: the same request with a note that it was judged harmless.
    ``FALLBACK``: the same request to another model.
    """

    STEER = "steer"
    CLARIFY = "clarify"
    FALLBACK = "fallback"


class ClarifyWhen(StrEnum):
    """When step ``clarify`` exists: where the bundle's validation covered it, whatever the bundle says, or never."""

    VALIDATED = "validated"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration adds to the decision table; the default is the table as it stands.

    ``typed_refusals``, ``filters`` and ``partial`` take up more than full refusals in text, in the benign zone only.
    ``fallback_in_band`` says that the fallback model is at least as safe as the served one.
    """

    typed_refusals: bool = False
    filters: bool = False
    partial: bool = False
    fallback_in_band: bool = False
    forms: frozenset[RefusalForm] = field(init=False)
    """The forms of refusal that are taken up."""

    def __post_init__(self) -> None:
        more = ((self.typed_refusals, RefusalForm.TYPED), (self.filters, RefusalForm.FILTER))
        forms = frozenset((RefusalForm.TEXT, *(form for wanted, form in more if wanted)))
        object.__setattr__(self, "forms", forms)

    def kept_because(self, form: RefusalForm, kind: RefusalKind, *, streamed: bool) -> str | None:
        """Return why an answer is kept whatever the request's zone, or ``None`` where the zone decides."""
        if form not in self.forms:
            return "the refusal was given by type or by a filter, not by the model's text"
        match kind:
            case RefusalKind.FULL:
                return None
            case RefusalKind.PARTIAL if self.partial and not streamed:
                return None
            case RefusalKind.ANSWER | RefusalKind.PARTIAL | RefusalKind.EMPTY:
                return f"the answer is no refusal ({kind})"
            case _:
                assert_never(kind)


TABLE_ALONE = Rules()
"""The decision table as it stands: full refusals in text, and no fallback in the band."""
