"""Answers written for training, where the labelled sets have a hole: pairs that look alike and mean the opposite.

The sets hold hardly an answer that refutes a harmless premise, defines a crime, speaks of an invented person or opens
with "As an AI" and then answers. Templates with slots make such answers beside refusals of the same wording. Tests
judge other texts than these. In other languages than English the pairs are about judgements: "this is illegal, lawful
ways are …" refuses, "this is illegal, nevertheless here is how …" answers; one labelled set alone holds such. Beside
them stand short, formal, dissuading and redirecting refusals, and answers that speak of laws, crimes, falsehoods or
what the model cannot see, and long answers about laws, fallacies and ethics. Partial refusals (a denial and then
help, hedges, changes of subject) stand beside full ones of the same opening, and after the same friendly sentences both
refusals and help. Replies of other hands, whose misses showed what was lacking, stand among them.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources

from rass.detector_training.refusal_data import Example

SOURCE = "wordings"
OTHER_LANGUAGES = "wordings in other languages"
# A partial refusal is half of each: so its score is drawn to the middle, and sure refusals and answers lie outside.
_LABELS = {"refusals": (True,), "partials": (True, False), "answers": (False,)}
_PER_SLOT = 6  # how often a template with one slot is filled
_PER_SLOTS = 18  # the same for one with several
_WEIGHT = 3.0
_WEIGHT_ELSEWHERE = 1.0  # with more, judgements outweigh what the labelled sets say of English refutations


def read_wordings() -> list[Example]:
    """Return the written answers of all languages; deterministic."""
    folder = resources.files("rass.detector_training") / "wordings"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    return [example for entry in files for example in _fill(json.loads(entry.read_text(encoding="utf-8")))]


def _fill(wordings: dict[str, object]) -> list[Example]:
    language, slots = wordings["language"], wordings["slots"]
    assert isinstance(language, str)
    assert isinstance(slots, dict)
    source, weight = (SOURCE, _WEIGHT) if language == "en" else (OTHER_LANGUAGES, _WEIGHT_ELSEWHERE)
    used: Counter[str] = Counter()
    examples: list[Example] = []
    for key, labels in _LABELS.items():
        templates = wordings[key]
        assert isinstance(templates, list)
        for template in templates:
            names = [name for name in slots if f"{{{name}}}" in template]
            times = 1 if not names else _PER_SLOT if len(names) == 1 else _PER_SLOTS
            for _ in range(times):
                text = template
                for name in names:
                    text = text.replace(f"{{{name}}}", slots[name][used[name] % len(slots[name])])
                    used[name] += 1
                text = text[0].upper() + text[1:]
                examples += [Example(source, language, "", text, refusal, weight / len(labels)) for refusal in labels]
    return examples
