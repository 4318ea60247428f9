"""The coordinates of residual streams, and the harm coordinate of a whole request: one formula for build and server."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.bundle import Bundle

__all__ = ["coordinates", "request_coordinates"]

DoubleArray = npt.NDArray[np.float64]


def coordinates(bundle: Bundle, name: str, values: npt.NDArray[np.float32]) -> DoubleArray:
    """Return a bundle probe's coordinates ``[rows]`` of residual streams ``[rows, all layers, d]``, in float64."""
    weight, bias = bundle.probe(name)
    layers = list(bundle.manifest.probes[name].layers)
    features = values[:, layers].reshape(len(values), -1).astype(np.float64)
    return np.asarray(features @ weight.astype(np.float64) + bias)


def request_coordinates(
    turns: DoubleArray, owners: npt.NDArray[np.int64], asked: DoubleArray | None = None, share: float | None = None
) -> DoubleArray:
    """Return the harm coordinate h ``[rows]`` of conversations: one harmful turn makes a conversation harmful.

    ``turns`` are the logits of probe ``h`` ``[user turns]`` in order, ``owners`` the row of each, ascending. ``asked``
    are those of probe ``asked_h`` ``[rows]``, about the last turn: there h is a mean of both logits, in which ``asked``
    has ``share``.
    """
    if asked is not None and share is not None:
        last = np.append(owners[1:] != owners[:-1], True)
        turns = np.where(last, (1 - share) * turns + share * asked[owners], turns)
    result = np.full(int(owners[-1]) + 1, -np.inf)
    np.maximum.at(result, owners, turns)
    return result
