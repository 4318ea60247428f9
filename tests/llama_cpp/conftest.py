"""Two real llama.cpp servers with the reference model, one plain, one with a control vector; skipped without a binary.

The model's weights and its byte-level BPE are written as GGUF here. Two things that format cannot say: the tokenizer
isolates the words of its world and Chinese characters before it splits as GPT-2 does, and llama.cpp knows only the
latter. The words are written as user-defined tokens, which llama.cpp isolates too, inside of longer words as well, and
Chinese would be tokenised otherwise; what is asked here is English, for which both are one and the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer

from detectors import bundle_writer
from detectors.bundle import Bundle, load
from detectors.dialects import DialectName
from detectors.manifest import LanguageSteering, SteeringForm, SteeringPlan, SteeringSpan
from proxy.dependencies import reference_bundle
from proxy.server import listen
from rass.engines.export import export_vectors
from rass.identity import find_model
from rass.reference.prompts import load_lexicons
from rass.reference.world import load_world

# Enough to leave the refusal; from 0.6 on the answer stutters: this vector is validated as an ablation at one token.
STRENGTH = 0.45
_HEALTHY_WITHIN_S = 60.0


@pytest.fixture(scope="session")
def binary() -> Path:
    """The server's binary, or a skip with the reason."""
    named = os.environ.get("RASS_LLAMA_SERVER")
    if not named:
        pytest.skip("RASS_LLAMA_SERVER names no llama-server; `make test-llama-cpp` builds one")
    return Path(named)


@pytest.fixture(scope="session")
def additive_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The reference bundle's English vector, to be added everywhere, as llama.cpp can. It is not validated so."""
    reference = load(reference_bundle())
    spec = reference.vector_spec("refusal-en")
    manifest = replace(
        reference.manifest,
        vectors={"refusal-en": spec},
        steering=SteeringPlan(
            SteeringForm.ADD,
            SteeringSpan.EVERY_TOKEN,
            (STRENGTH,),
            {"en": LanguageSteering("refusal-en", STRENGTH, None)},
        ),
    )
    folder = tmp_path_factory.mktemp("llama") / "bundle"
    bundle_writer.write(
        folder,
        manifest,
        vectors={spec.key: reference.vector_array("refusal-en")},
        probes={name: reference.probe(name) for name in manifest.probes},
        card="# Not validated\n",
    )
    return load(folder)


@pytest.fixture(scope="session")
def servers(
    binary: Path, additive_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The addresses of the plain and of the steered server."""
    folder = tmp_path_factory.mktemp("gguf")
    write_reference_model(folder / "reference.gguf")
    [vector] = export_vectors(additive_bundle, DialectName.PAIR, folder)
    with (
        _running(binary, folder / "reference.gguf", folder / "plain.log") as plain,
        _running(
            binary, folder / "reference.gguf", folder / "steered.log", "--control-vector-scaled", f"{vector}:{STRENGTH}"
        ) as steered,
    ):
        yield plain, steered


@contextmanager
def _running(binary: Path, model: Path, log: Path, *more: str) -> Iterator[str]:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--jinja"]
    command += ["-c", "1024", "-np", "2", "-t", "1", "--no-warmup", *more]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _HEALTHY_WITHIN_S
        while not _healthy(url):
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"llama-server ended: {said}"
            assert time.monotonic() < deadline, f"llama-server was not healthy in time: {said}"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def write_reference_model(path: Path) -> None:
    """Write the reference model's weights, in float32, its tokenizer and its chat template as one GGUF file."""
    from gguf import GGUFWriter, TokenType

    source = Path(find_model("reference").location)
    config = json.loads((source / "config.json").read_text())
    heads, head_size = config["num_attention_heads"], config["head_dim"]
    writer = GGUFWriter(path, "llama")
    writer.add_name("rass-reference")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(head_size)
    writer.add_vocab_size(config["vocab_size"])

    tokenizer = json.loads((source / "tokenizer.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    decode = Tokenizer.from_file(str(source / "tokenizer.json")).decode
    words = {word for lexicon in load_lexicons(load_world()).values() for word in lexicon.words()}
    isolated = {number: text for _, number in vocabulary if (text := decode([number])) in words}
    assert [number for _, number in vocabulary] == list(range(config["vocab_size"]))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([isolated.get(number, token) for token, number in vocabulary])
    kinds = dict.fromkeys(special, TokenType.CONTROL) | dict.fromkeys(isolated, TokenType.USER_DEFINED)
    writer.add_token_types([kinds.get(number, TokenType.NORMAL) for _, number in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)  # the template begins with it
    writer.add_chat_template((source / "chat_template.jinja").read_text())

    weights = {name: tensor.float().numpy() for name, tensor in load_file(source / "model.safetensors").items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for block in range(config["num_hidden_layers"]):
        for theirs, ours in _NAMES.items():
            tensor = weights[f"model.layers.{block}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                tensor = _interleaved(tensor, heads if theirs == "attn_q" else config["num_key_value_heads"])
            writer.add_tensor(f"blk.{block}.{theirs}.weight", np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return q or k rows in llama.cpp's order: it rotates neighbours, transformers rotates halves of a head."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
