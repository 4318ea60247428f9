"""Vector files for other engines: what is written is what the bundle adds; what cannot be expressed is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from detectors.bundle import Bundle
from detectors.dialects import DialectName
from detectors.manifest import SteeringForm, SteeringSpan
from rass.cli import main
from rass.engines.export import export_vectors
from rass.errors import InputError

WIDTH, LAYERS = 8, 5


@pytest.fixture
def make_bundle(make_adding_bundle: Callable[..., Bundle]) -> Callable[..., Bundle]:
    """Make a bundle of one vector on the given layers."""

    def make(layers: tuple[int, ...] = (1, 3), **steering: SteeringForm | SteeringSpan) -> Bundle:
        return make_adding_bundle(vectors={"refusal-en": layers}, **steering)

    return make


def test_hotwires_file_is_a_tensor_with_a_row_for_each_layer(make_bundle, tmp_path):
    bundle = make_bundle()
    [path] = export_vectors(bundle, DialectName.HOTWIRE, tmp_path / "out")
    assert path.name == f"{bundle.vector_id('refusal-en')}.pt"
    rows = torch.load(path, weights_only=True)
    assert rows.shape == (LAYERS, WIDTH)
    np.testing.assert_array_equal(rows[[1, 3]].numpy(), bundle.addition("refusal-en"))
    assert not rows[[0, 2, 4]].any()


def test_the_control_vector_is_read_back_by_the_formats_own_reader(make_bundle, tmp_path):
    gguf = pytest.importorskip("gguf")
    bundle = make_bundle()
    [path] = export_vectors(bundle, DialectName.PAIR, tmp_path / "out")
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert set(tensors) == {"direction.1", "direction.3"}
    for row, layer in enumerate((1, 3)):
        tensor = tensors[f"direction.{layer}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.shape.tolist() == [WIDTH]
        np.testing.assert_array_equal(tensor.data, bundle.addition("refusal-en")[row])
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.layer_count"].contents() == 2


@pytest.mark.parametrize("dialect", [DialectName.HOTWIRE, DialectName.PAIR])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"form": SteeringForm.ABLATE}, "form add only"),
        ({"span": SteeringSpan.ONWARD}, "span every_token only"),
    ],
)
def test_what_the_engine_cannot_express_is_refused_and_nothing_is_written(
    make_bundle, tmp_path, dialect, changed, said
):
    with pytest.raises(InputError, match=said):
        export_vectors(make_bundle(**changed), dialect, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_control_vector_cannot_steer_the_first_block(make_bundle, tmp_path):
    with pytest.raises(InputError, match="layers from 1 on"):
        export_vectors(make_bundle(layers=(0,)), DialectName.PAIR, tmp_path / "out")
    assert export_vectors(make_bundle(layers=(0,)), DialectName.HOTWIRE, tmp_path / "out")


def test_vllm_lens_loads_no_files(make_bundle, tmp_path):
    with pytest.raises(InputError, match="hotwire and pair"):
        export_vectors(make_bundle(), DialectName.VLLM_LENS, tmp_path / "out")


def test_the_command_says_how_to_start_the_engine(make_bundle, tmp_path, capsys):
    bundle = make_bundle()
    out = tmp_path / "out"
    assert main(["export-engine-vectors", "--bundle", str(bundle.path), "--dialect", "hotwire", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"HOTWIRE_VECTORS={out}" in said
    assert "at least 4" in said  # two strengths on two layers


def test_the_command_refuses_with_a_sentence(make_bundle, tmp_path, capsys):
    bundle = make_bundle(form=SteeringForm.ABLATE)
    arguments = [
        "export-engine-vectors",
        "--bundle",
        str(bundle.path),
        "--dialect",
        "pair",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(arguments) == 2
    assert "steers by ablate" in capsys.readouterr().err
