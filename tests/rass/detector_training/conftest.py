"""Tiny encoders and classifiers, made from a configuration and saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

WORDS = ("how", "do", "i", "make", "please", "the", "my", "bomb", "cake", "kill", "bake", "man", "?", ".")


def save_tokenizer(folder: Path) -> int:
    """Write a word-level tokenizer and return its size."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return len(vocabulary)


def config(size: int, **changes: object) -> BertConfig:
    """Return a configuration of a few thousand weights."""
    settings: dict[str, object] = {
        "vocab_size": size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 80,
    }
    return BertConfig(**(settings | changes))


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny encoder with random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    BertModel(config(save_tokenizer(folder))).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_guard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny guard model with random weights and the classes safe, violence and theft."""
    folder = tmp_path_factory.mktemp("guard")
    torch.manual_seed(0)
    labels = {0: "safe", 1: "violence", 2: "theft"}
    guard = config(save_tokenizer(folder), id2label=labels, label2id={name: key for key, name in labels.items()})
    BertForSequenceClassification(guard).save_pretrained(folder)
    return str(folder)
