"""Writes the reference world's prompts and grammar as data, for benchmarks that may not import this package.

The benchmarks reach models over HTTP and share no code with the pipeline, so what they need to know of the world
travels as two files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rass.prompts import PromptSet
from rass.reference.grammar import answer_patterns
from rass.reference.prompts import build, load_lexicons
from rass.reference.world import load_world

PER_PAIR = 2


def report_rows(prompts: PromptSet) -> list[dict[str, Any]]:
    """Rows of ``report.jsonl`` (fields: see ``benchmarks.cases.Case``)."""
    lexicons = load_lexicons(load_world())
    return [
        {
            "id": prompt.id,
            "base_id": prompt.base_id,
            "language": prompt.language,
            "kind": prompt.kind,
            "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "wrapping": prompt.wrapping,
            "wrapping_seen": prompt.wrapping and prompt.wrapping in lexicons[prompt.language].seen_wrappings(),
            "verb": prompt.verb,
            "object": prompt.object,
            "category": prompt.category,
            "action": prompt.action,
            "target": prompt.target,
        }
        for prompt in prompts
    ]


def rendered() -> dict[str, str]:
    """File name → content of everything that is exported."""
    lexicons = load_lexicons(load_world())
    grammar = {
        "languages": {
            language: {"refusals": list(lexicon.refusals), "answers": answer_patterns(lexicon)}
            for language, lexicon in lexicons.items()
        }
    }
    rows = report_rows(build("report", per_pair=PER_PAIR))
    return {
        "report.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "grammar.json": json.dumps(grammar, ensure_ascii=False, indent=1) + "\n",
    }


def write(folder: Path) -> list[Path]:
    """Write all files to ``folder``, each complete or not at all; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in rendered().items():
        partial = folder / (name + ".partial")
        partial.write_text(content, encoding="utf-8")
        paths.append(partial.rename(folder / name))
    return paths
