"""An answer prepared for reading: reasoning, code and quotations set aside, the head as plain sentences.

What decides whether an answer refuses stands in its first sentences; the rest matters as evidence of help. So the head
is normalised and split, and of the whole only length, lists and code are counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

OPENING = 160
"""Characters that are judged as the opening, before and beside the whole head."""

_HEAD_CHARACTERS = 700
_HEAD_SENTENCES = 8

_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_REASONING_TAIL = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
# Of a text with a line feed put before it: a pattern that begins with a letter is looked for several times as fast.
_LIST_ITEM = re.compile(r"\n\s*(?:[-*+•·]|\d{1,2}[.)、]|[a-zA-Z][.)])\s*\S")
_QUOTATION = re.compile(
    r'"[^"\n]{12,300}"|“[^”\n]{12,300}”|„[^“”\n]{12,300}[“”]|«[^»\n]{12,300}»'
    r"|[「『][^」』\n]{6,300}[」』]"
    # Single quotes, which are apostrophes inside of words.
    r"|(?<!\w)(?:'(?:[^'\n]|(?<=\w)'(?=\w)){12,300}'|‘(?:[^‘’\n]|(?<=\w)’(?=\w)){12,300}’)(?!\w)"
)
_FEW = 12  # characters beside a quotation that say nothing of their own, such as "Answer:"
# Each begins with one set of characters, so that the rest of it is tried only where one of them stands.
_SENTENCE_END = re.compile(r"[.!?\n。！？؟।](?:(?<=[\n。！？؟।])\s*|[\"')\]*]*\s+)")
_ASCII_SENTENCE_END = re.compile(r"[.!?\n](?:(?<=\n)\s*|[\"')\]*]*\s+)")
_PUNCTUATION = re.compile(r"[\s\"“”„«»*_#`()\[\]{}<>:;,.!?…。，、；：！？（）「」『』؟،؛।॥¿¡|/–—-]+")
_ASCII_PUNCTUATION = str.maketrans(dict.fromkeys('"*_#`()[]{}<>:;,.!?|/-', " "))
_LETTERS = str.maketrans(
    {
        **dict.fromkeys("’‘ʼ´`", "'"),
        # Spellings of one letter that writers do not keep apart: Arabic alif and ya, Russian yo, Turkish dotted i.
        **dict.fromkeys("أإآٱ", "ا"),
        "ى": "ي",
        "ё": "е",
        "\u0307": None,
        # Marks that change no word: Arabic vowels and lengthening, soft hyphens, zero-width spaces, byte order marks.
        **dict.fromkeys([*map(chr, range(0x064B, 0x0653)), "\u0640", "\u00ad", "\u200b", "\u2060", "\ufeff"], None),
    }
)
# French and Italian words that have run into the next one: "d'aider" is "aider" too.
_ELISION = re.compile(r"\b([cdjlmnst]|qu|un|(?:d|n|s)?all|dell|nell|sull|quell)'(?=\w\w)")


@dataclass(frozen=True, slots=True)
class PreparedAnswer:
    """An answer as the refusal detector reads it.

    ``sentences`` are the head's sentences in lower case without punctuation; the counts are of the whole answer without
    its reasoning, ``opening_items`` are the list items of its first `OPENING` characters. ``cut_off_reasoning`` is True
    where reasoning was opened and never closed.
    """

    sentences: tuple[str, ...]
    characters: int
    list_items: int
    opening_items: int
    has_code: bool
    has_quotation: bool
    cut_off_reasoning: bool


def prepare(text: str) -> PreparedAnswer:
    """Prepare a whole answer; never raises on any string."""
    visible, cut_off = without_reasoning(text)
    body = _CODE.sub("\n", visible)
    has_code = len(body) != len(visible)
    unquoted = _QUOTATION.sub(" ", body)
    # An answer that is nothing but a quotation is the answer; only what is quoted inside of other text is set aside.
    has_quotation = len(unquoted) != len(body)
    if has_quotation and len(unquoted.strip()) < min(len(body) // 3, _FEW):
        unquoted = body
    items = _list_items(body)
    return PreparedAnswer(
        sentences=_sentences(unquoted),
        characters=len(visible.strip()),
        list_items=items,
        opening_items=_list_items(body.lstrip()[:OPENING]) if items else 0,
        has_code=has_code,
        has_quotation=has_quotation,
        cut_off_reasoning=cut_off,
    )


def without_reasoning(text: str) -> tuple[str, bool]:
    """Return the text without its reasoning blocks, and whether one of them was never closed."""
    if "<" not in text:
        return text, False
    cut_off = False
    parts: list[str] = []
    position = 0
    for match in _REASONING.finditer(text):
        parts.append(text[position : match.start()])
        position = match.end()
        cut_off = not match.group().endswith(">") or "</" not in match.group()
    visible = "".join(parts) + text[position:]
    # Some chat templates open the block in the prompt, so that only its end is in the answer.
    return _REASONING_TAIL.sub("", visible), cut_off


def normalize(text: str) -> str:
    """Return ``text`` in lower case, one spelling for each letter, single spaces for punctuation and after elisions."""
    return " ".join(filter(None, _normal_lines(text)))


def _normal_lines(text: str) -> Iterable[str]:
    """Yield each line of ``text`` as `normalize` leaves it."""
    if text.isascii():  # the same at a fraction of the cost, for most of what is written in English
        plain = _spelt_out(text.lower().replace("`", "'")).translate(_ASCII_PUNCTUATION)
        return [" ".join(line.split()) for line in plain.split("\n")]
    plain = _spelt_out(unicodedata.normalize("NFKC", text).lower().translate(_LETTERS))
    return [_PUNCTUATION.sub(" ", line).strip() for line in plain.split("\n")]


def _spelt_out(plain: str) -> str:
    return _ELISION.sub(r"\1' ", plain) if "'" in plain else plain


def _list_items(text: str) -> int:
    return len(_LIST_ITEM.findall(f"\n{text}"))


def _sentences(text: str) -> tuple[str, ...]:
    # Cut before normalising: the cost must not grow with the length of the answer. All at once, for the same reason.
    head = text.lstrip()[:_HEAD_CHARACTERS]
    lines = (_ASCII_SENTENCE_END if head.isascii() else _SENTENCE_END).sub("\n", head)
    return tuple(islice(filter(None, _normal_lines(lines)), _HEAD_SENTENCES))
