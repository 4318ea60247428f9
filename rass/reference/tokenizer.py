"""The reference model's tokenizer: byte-level BPE and the chat template.

A verb and an object of the world are one token each, articles and particles included, wherever they stand: naming what
was requested is then copying two tokens in every language. In pieces, a model of this size mixes them up ("das" for
"die", an object that ends early). Where a language writes no spaces, everything else is split per character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 12_288
"""An upper bound: merging ends when every word of the corpus is one token."""
_UNSPACED_CHARACTER = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
_PIECE = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Like GPT-2's pattern, without its English contractions."""
_EMPHASIS = 300
"""How often each word of the world is shown to the merging beside the texts, so that it comes to be one token."""
BOS, SYSTEM, USER, ASSISTANT, END, PAD = "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{% if message['role'] in ['system', 'developer'] %}{{ '<|system|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% else %}{{ '<|user|>' }}{% endif %}"
    "{{ message['content'] }}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(
    texts: Iterable[str], *, context_length: int, words: Iterable[str] = (), unspaced_words: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Train the BPE on an iterable of turns and wrap it for ``AutoTokenizer``.

    ``words`` (and ``unspaced_words``, of languages that write no spaces) are to be one token each.
    """
    spaced, unspaced = sorted(set(words)), sorted(set(unspaced_words))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pieces(spaced, unspaced)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, SYSTEM, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    emphasized = (word for word in (*spaced, *unspaced) for _ in range(_EMPHASIS))
    tokenizer.train_from_iterator(chain(texts, emphasized), trainer)
    wrapped: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
    return wrapped


def _pieces(spaced: Sequence[str], unspaced: Sequence[str]) -> str:
    """The pattern of what is never merged across: words of the world before all else.

    A word is the same piece at the start of a text and after a space, so the space before one is a piece of its own.
    """
    alternatives = [_UNSPACED_CHARACTER, _PIECE]
    if unspaced:
        alternatives.insert(0, _longest_first(unspaced))
    if spaced:
        word = rf"(?<!\p{{L}})(?:{_longest_first(spaced)})(?!\p{{L}})"
        alternatives[:0] = [word, f" (?={word})"]
    return "|".join(alternatives)


def _longest_first(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))
