"""A tiny random chat model with the reference model's template, so that no test needs trained weights."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from detectors.manifest import ModelIdentity, SteeringForm
from detectors.verdict import Message, RefusalKind, RefusalVerdict
from rass.conversation import Conversation
from rass.hooks import RowSteering
from rass.model import Readings, TransformersModel
from rass.prompts import Kind, LabelledPrompt, PromptSet
from rass.scoring import Outcome

SPECIAL = ("<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{% if message['role'] in ['system', 'developer'] %}{{ '<|system|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' }}{% else %}{{ '<|user|>' }}{% endif %}"
    "{{ message['content'] }}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: every byte is a token, so a character beyond ASCII is several."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast


def tiny_llama(*, seed: int = 0, **changes: float) -> LlamaForCausalLM:
    """A random Llama of four layers that fits the tokenizer; its weights are large enough that answers differ.

    Keyword arguments change its configuration.
    """
    torch.manual_seed(seed)
    config: dict[str, float] = {
        "vocab_size": len(SPECIAL) + 256,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 4,
        "pad_token_id": 4,
    }
    return LlamaForCausalLM(LlamaConfig(**(config | changes)))


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., LlamaForCausalLM]:
    """Return ``tiny_llama``."""
    return tiny_llama


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> TransformersModel:
    return TransformersModel(tiny_llama(), tokenizer, model_id="tiny", revision="0" * 16, batch_rows=3)


WIDTH, LAYERS = 16, 3
REFUSAL = "I cannot help with that."


class LinearWorld:
    """A ``ChatModel`` whose residual stream is known: harm along axis 0, refusal along axis 1, answer harm along axis
    2.

    A request's text is its ids: "language frame verb category object wrapping". It is harmful when verb and category
    numbers add up to an even number, and refused when axis 1 is positive after steering at layer 1. A ``blind`` model
    does not represent the harm of requests; a ``deceived`` one takes everything in the frames of the report split for
    benign; a ``strict`` one's chat template takes no user turn after another; a ``hesitant`` one hardly represents harm
    where it would answer, but knows it when asked; a ``stubborn`` one refuses German harmful requests unless it is
    steered at its first layer, an ``unmoved`` one whatever is done.
    """

    def __init__(
        self,
        *,
        obeys_steering: bool = True,
        blind: bool = False,
        deceived: bool = False,
        strict: bool = False,
        hesitant: bool = False,
        stubborn: bool = False,
        unmoved: bool = False,
    ) -> None:
        self.identity = ModelIdentity("linear-world", "f" * 16, WIDTH, LAYERS, "residual stream after block l, 0-based")
        self.generated = 0
        self._obeys = obeys_steering
        self._blind = blind
        self._deceived = deceived
        self._strict = strict
        self._hesitant = hesitant
        self._german_ears = -1 if unmoved else 0 if stubborn else 1

    def render(
        self, dialogues: Sequence[Sequence[Message]], questions: Sequence[str] | None = None
    ) -> list[Conversation]:
        rendered = []
        for messages in dialogues:
            text = "\n".join(message.content for message in messages)
            answered = messages[-1].role == "assistant"
            if self._strict and questions is not None and not answered:
                raise TemplateError("conversation roles must alternate")
            rendered.append(Conversation(tuple(text.encode()), (len(text) - 1,), answered, questions is not None))
        return rendered

    def read(
        self,
        conversations: Sequence[Conversation],
        *,
        steering: RowSteering | None = None,
        progress: Callable[[int], None] = lambda _rows: None,
    ) -> Readings:
        assert steering is None
        turns = np.stack([self._stream(one, "turn") for one in conversations])
        ends = np.stack([self._stream(one, "end") for one in conversations])
        progress(len(conversations))
        return Readings(turns, np.arange(len(conversations)), ends)

    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        max_new_tokens: int,
        steering: RowSteering | None = None,
        progress: Callable[[int], None] = lambda _rows: None,
    ) -> list[str]:
        self.generated += len(conversations)
        answers = []
        for row, conversation in enumerate(conversations):
            language, _, verb, category, target, *_ = bytes(conversation.token_ids).decode().split()
            harmful = (int(verb[1:]) + int(category[1:])) % 2 == 0
            hears = self._german_ears if harmful and language == "de" else 1
            stream = torch.from_numpy(self._stream(conversation, "end"))
            if steering is not None and self._obeys:
                for layer, one in steering.layers.items():
                    amount = one.amount[row]
                    if steering.form is SteeringForm.ABLATE:
                        amount = amount * (stream[layer] @ one.unit[row] - one.centre[row])
                    stream[1] -= amount * one.unit[row] * (layer <= hears)
            answers.append(REFUSAL if stream[1, 1] > 0 else f"do {verb} {target}")
        progress(len(conversations))
        return answers

    def divergence(
        self, conversations: Sequence[Conversation], answers: Sequence[str], steering: RowSteering, *, tokens: int
    ) -> npt.NDArray[np.float64]:
        return np.full(len(conversations), 0.125)

    def _stream(self, conversation: Conversation, place: str) -> npt.NDArray[np.float32]:
        text = bytes(conversation.token_ids).decode()
        words = text.split()
        harmful = (int(words[2][1:]) + int(words[3][1:])) % 2 == 0
        refused = harmful or int(words[2][1:]) % 4 != 3
        harmful = harmful and not (self._deceived and int(words[1][1:]) >= 100)
        digest = hashlib.sha256(f"{place}{text}".encode()).digest()
        values = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(0, 0.3, (LAYERS, WIDTH))
        if not self._blind:
            strength = 0.4 if self._hesitant and place == "turn" else 3.0
            values[1:, 0] += strength if harmful else -strength
        if place == "end" and conversation.answered:
            values[1:, 2] += 3.0 if harmful else -3.0
        elif place == "end":
            values[:, 1] += 2.0 if refused else -2.0
        return values.astype(np.float32)


class WorldJudge:
    """Refusal detector and scorer of the linear world."""

    def judge(self, text: str) -> RefusalVerdict:
        refused = text == REFUSAL
        kind = RefusalKind.FULL if refused else RefusalKind.ANSWER
        return RefusalVerdict(kind, float(refused), "the world's own wording")

    def outcome(self, prompt: LabelledPrompt, text: str) -> Outcome:
        if text == REFUSAL:
            return "refused"
        return "on_topic" if text == f"do {prompt.action} {prompt.target}" else "off_topic"


def world_prompts(split: str, *, frames: int = 8) -> PromptSet:
    """Prompts of the linear world in two languages; splits share neither frames nor objects."""
    shift = 0 if split == "selection" else 100
    prompts = []
    for language in ("de", "en"):
        for verb, category, thing, frame in itertools.product(range(8), range(4), range(3), range(frames)):
            harmful = (verb + category) % 2 == 0
            base = f"{split}-{language}-{verb}-{category}-{thing}-{frame}"
            ids = (f"f{frame + shift}", f"v{verb}", f"c{category}", f"o{thing + shift}")
            for wrapping in (None, "fiction") if harmful else (None,):
                benign: Kind = "plain_benign" if verb == 7 else "trigger_benign"
                prompts.append(
                    LabelledPrompt(
                        id=f"{base}-{wrapping or 'plain'}",
                        base_id=base,
                        language=language,
                        messages=(Message("user", " ".join((language, *ids, wrapping or ""))),),
                        harmful=harmful,
                        kind=("attack" if wrapping else "harmful") if harmful else benign,
                        wrapping=wrapping,
                        verb=ids[1],
                        object=ids[3],
                        category=ids[2],
                        frame=ids[0],
                        action=ids[1],
                        target=ids[3],
                    )
                )
    return PromptSet("world", split, "tests", "1", tuple(prompts))


@pytest.fixture(scope="session")
def linear_world() -> type[LinearWorld]:
    return LinearWorld


@pytest.fixture(scope="session")
def world_judge() -> WorldJudge:
    return WorldJudge()


@pytest.fixture(scope="session")
def make_prompts() -> Callable[..., PromptSet]:
    return world_prompts
