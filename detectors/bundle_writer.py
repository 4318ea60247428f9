"""Writing bundles: one call, all or nothing.

The folder is built beside its destination and renamed into place, so a reader sees the old bundle, no bundle or the
whole new one, never a part of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from detectors.bundle import BundleError, FloatArray, check_arrays, digest_of
from detectors.manifest import CARD_NAME, MANIFEST_NAME, PROBE_NAME, VECTORS_NAME, Manifest, ManifestError
from detectors.manifest_json import render


def write(
    path: Path | str,
    manifest: Manifest,
    *,
    vectors: Mapping[str, FloatArray],
    probes: Mapping[str, tuple[FloatArray, float]],
    card: str,
) -> str:
    """Write a bundle to folder ``path`` and return its digest.

    ``vectors`` maps each ``VectorSpec.key`` to its float32 ``[n_layers, d]`` unit directions, ``probes`` each probe
    to ``(weight [n_layers·d] float32, bias)``, ``card`` is the text of `card.md`. What ``manifest.files`` held is
    replaced. A bundle already at ``path`` is replaced; any other folder or file there is left alone.

    Raises ``BundleError`` when manifest and arrays contradict each other, or when ``path`` holds something else.
    """
    folder = Path(path)
    contents = {
        VECTORS_NAME: safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in vectors.items()}),
        PROBE_NAME: safetensors.numpy.save(_probe_tensors(probes)),
        CARD_NAME: card.encode(),
    }
    listed = manifest.with_files({name: hashlib.sha256(data).hexdigest() for name, data in contents.items()})
    try:
        contents[MANIFEST_NAME] = render(listed)
    except ManifestError as error:
        raise BundleError(f"bundle for {folder} was not written: {error}") from error
    check_arrays(listed, contents[VECTORS_NAME], contents[PROBE_NAME], folder)
    check_destination(folder)
    _replace_folder(folder, contents)
    return digest_of(contents[MANIFEST_NAME])


def check_destination(folder: Path) -> None:
    """Raise ``BundleError`` when there is something at ``folder`` that is no bundle, and so would not be replaced."""
    if folder.exists() and not (folder / MANIFEST_NAME).is_file():
        raise BundleError(f"{folder} exists and is no bundle; choose another folder or remove it")


def _probe_tensors(probes: Mapping[str, tuple[FloatArray, float]]) -> dict[str, FloatArray]:
    tensors: dict[str, FloatArray] = {}
    for name, (weight, bias) in probes.items():
        tensors[f"{name}.weight"] = np.ascontiguousarray(weight)
        tensors[f"{name}.bias"] = np.array([bias], dtype=np.float32)
    return tensors


def _replace_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        fresh, old = Path(scratch, "fresh"), Path(scratch, "old")
        fresh.mkdir()
        for name, data in contents.items():
            with (fresh / name).open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        if not folder.exists():
            fresh.rename(folder)
            return
        # A folder that is not empty cannot be renamed over, so the old one steps aside for a moment.
        folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            shutil.move(old, folder)
            raise
