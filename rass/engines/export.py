"""Writing a bundle's vectors for an engine, one file each, named after the id that the proxy asks for.

A file holds what strength 1 adds (`Bundle.addition`), so that the engine's own factor is the strength. What the engine
cannot express is refused: an approximation would steer in a way that nobody validated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from detectors.bundle import Bundle
from detectors.dialects import DialectName, why_inexpressible
from rass.errors import InputError

__all__ = ["WRITERS", "export_vectors"]

Writer = Callable[[Bundle, str, Path], None]


def export_vectors(bundle: Bundle, dialect: DialectName, folder: Path) -> list[Path]:
    """Write each vector that the bundle steers with into ``folder``, made where it is missing; return the files.

    Raises ``InputError`` for a dialect whose engine loads no files or cannot express the bundle's steering.
    """
    if dialect not in WRITERS:
        raise InputError(
            f"the engine of dialect {dialect} loads no vector files; {' and '.join(WRITERS)} have such engines"
        )
    if (reason := why_inexpressible(bundle.manifest, dialect)) is not None:
        raise InputError(f"{reason} ({bundle.path}); build a bundle with `build-vectors --dialect {dialect}`")
    suffix, write = WRITERS[dialect]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name in sorted({entry.vector for entry in bundle.manifest.steering.by_language.values()}):
            path = folder / f"{bundle.vector_id(name)}{suffix}"
            write(bundle, name, path)
            written.append(path)
    except OSError as error:
        raise InputError(f"cannot write into {folder} ({error}); give another folder with --out") from error
    return written


def write_hotwire(bundle: Bundle, name: str, path: Path) -> None:
    """Write a float32 tensor ``[num_layers, d]``; layers that the vector does not steer hold zeros."""
    import torch

    rows = np.zeros((bundle.manifest.model.num_layers, bundle.manifest.model.hidden_size), dtype=np.float32)
    rows[list(bundle.vector_spec(name).layers)] = bundle.addition(name)
    torch.save(torch.from_numpy(rows), path)


def write_control_vector(bundle: Bundle, name: str, path: Path) -> None:
    """Write a GGUF file with a float32 tensor ``direction.l`` ``[d]`` for each layer l (0-based, from 1 on)."""
    from gguf import GGUFWriter

    architecture = "controlvector"
    layers = bundle.vector_spec(name).layers
    writer = GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", bundle.manifest.model.id)
    writer.add_uint32(f"{architecture}.layer_count", len(layers))
    for layer, row in zip(layers, bundle.addition(name), strict=True):
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(row))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


WRITERS: Mapping[DialectName, tuple[str, Writer]] = {
    DialectName.HOTWIRE: (".pt", write_hotwire),
    DialectName.PAIR: (".gguf", write_control_vector),
}
