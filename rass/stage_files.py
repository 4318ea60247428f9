"""How vectors and probes stand in the folders of a build's stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from rass.artifacts import load_arrays, load_typed, save_arrays, save_typed
from rass.probe import FittedProbe, LinearProbe
from rass.vectors import DirectionSet, SteeringVectors

__all__ = ["load_probe", "load_vectors", "save_probe", "save_vectors"]


@dataclass(frozen=True, slots=True)
class _ProbeRecord:
    """The part of a fitted probe that is no array."""

    layers: tuple[int, ...]
    penalty: float
    rounds: int
    merit: float


def save_vectors(folder: Path, vectors: SteeringVectors) -> None:
    """Write the directions of every language."""
    named = {
        f"{language}.{direction.name}": getattr(one, direction.name)
        for language, one in vectors.by_language.items()
        for direction in fields(DirectionSet)
    }
    save_arrays(folder / "vectors.safetensors", named)


def load_vectors(folder: Path) -> SteeringVectors:
    """Read the directions of every language."""
    arrays = load_arrays(folder / "vectors.safetensors")
    languages = sorted({name.split(".")[0] for name in arrays})
    names = [direction.name for direction in fields(DirectionSet)]
    return SteeringVectors(
        {one: DirectionSet(**{name: arrays[f"{one}.{name}"] for name in names}) for one in languages}
    )


def save_probe(folder: Path, name: str, fitted: FittedProbe) -> None:
    """Write probe ``name`` with its logits out of fold and how it was chosen."""
    probe = fitted.probe
    arrays = {"weight": probe.weight, "bias": np.array([probe.bias]), "out_of_fold": fitted.out_of_fold}
    save_arrays(folder / f"{name}.safetensors", arrays)
    record = _ProbeRecord(probe.layers, fitted.penalty, fitted.rounds, fitted.merit)
    save_typed(folder / f"{name}.json", _ProbeRecord, record)


def load_probe(folder: Path, name: str) -> FittedProbe:
    """Read probe ``name``."""
    arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = load_arrays(
        folder / f"{name}.safetensors"
    )
    record = load_typed(folder / f"{name}.json", _ProbeRecord)
    probe = LinearProbe(record.layers, arrays["weight"], float(arrays["bias"][0]))
    return FittedProbe(probe, arrays["out_of_fold"], record.penalty, record.rounds, record.merit)
