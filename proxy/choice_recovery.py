"""Recovery of an answer with one or several choices: each refused one has attempts of its own, within one budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from proxy.answers import ChatAnswer
from proxy.choice_bytes import Replacement, replaced_choices, replaced_streams
from proxy.exchange import ChatRequest
from proxy.policy import Answer, Attempt, Deliver, kept_because
from proxy.recovery import Recovered, Recovery
from proxy.signals import Observer, Signals


@dataclass(frozen=True, slots=True)
class ChoiceRecoveries:
    """What recovery made of each refused choice, and of the request as a whole."""

    overall: Recovered
    by_choice: Mapping[int, Recovered]

    def instead(self, why: str) -> ChoiceRecoveries:
        """Return the same with the original delivered after all."""
        return replace(self, overall=self.overall.instead(why))

    def only(self, indices: frozenset[int], why: str) -> ChoiceRecoveries:
        """Return the same with choices outside of ``indices`` left as they were, which ``why`` explains."""
        kept = {index: each for index, each in self.by_choice.items() if index in indices}
        return replace(self, by_choice=kept) if kept else self.instead(why)


class ChoiceRecovery:
    """Recovers refused choices one after the other."""

    def __init__(self, recovery: Recovery, observer: Observer, max_attempts: int) -> None:
        self._recovery = recovery
        self._observer = observer
        self._max_attempts = max_attempts

    def refused(self, choices: Mapping[int, ChatAnswer], signals: Signals) -> frozenset[int]:
        """Return which choices policy would have recovered; ``signals`` are those of the whole answer.

        Where they keep the whole, no choice counts.
        """
        rules = self._recovery.rules
        if kept_because(signals, rules) is not None:
            return frozenset()
        if len(choices) == 1:
            return frozenset(choices)
        own = {
            index: replace(signals, form=each.form, refusal=self._observer.refusal(each))
            for index, each in choices.items()
        }
        return frozenset(index for index, its in own.items() if kept_because(its, rules) is None)

    async def run(
        self, request: ChatRequest, signals: Signals, refused: frozenset[int], before: tuple[Attempt, ...] = ()
    ) -> ChoiceRecoveries:
        """Recover the ``refused`` choices; attempts at all of them together stay within the limits of one request.

        ``before`` are attempts that were already made at the request, which then asked for one answer.
        """
        if not refused:
            return ChoiceRecoveries(await self._recovery.run(request, signals, before), {})
        single = request
        if request.choices > 1:
            single = replace(request, payload={name: value for name, value in request.payload.items() if name != "n"})
        made: tuple[Attempt, ...] = ()
        ends: dict[int, Recovered] = {}
        for index in sorted(refused):
            if sum(attempt.sent for attempt in made) >= self._max_attempts and ends:
                break
            ends[index] = await self._recovery.run(single, signals, before, others=made)
            made += ends[index].attempts.made
        by_choice = {index: end for index, end in ends.items() if end.decision.answer is Answer.RECOVERED}
        overall = next(iter(by_choice.values()), next(iter(ends.values())))
        return ChoiceRecoveries(replace(overall, attempts=replace(overall.attempts, made=made)), by_choice)

    def merged(
        self, request: ChatRequest, original: bytes, choices: Mapping[int, ChatAnswer], recoveries: ChoiceRecoveries
    ) -> Recovered:
        """Return the recovery with the bytes that go to the client: the attempt's own, or the original's with it in."""
        overall = recoveries.overall
        if overall.decision.answer is Answer.ORIGINAL or len(choices) == 1:
            return overall
        lengths = {index: sum(map(len, choice.texts)) for index, choice in choices.items()}
        replacements = {
            index: Replacement(each.body, lengths[index])
            for index, each in recoveries.by_choice.items()
            if each.body is not None and index in choices
        }
        why = f"{len(replacements)} of {len(choices)} choices were recovered"
        if not replacements:
            return overall.instead(why)
        replaced = replaced_streams if request.stream else replaced_choices
        text = "\n".join(
            recoveries.by_choice[index].text if index in replacements else choices[index].texts[0]
            for index in sorted(choices)
        )
        return replace(
            overall,
            decision=Deliver(Answer.RECOVERED, why),
            body=replaced(original, replacements, sum(lengths.values())),
            text=text,
        )
