"""Which model is meant and which bytes it has: names, folders and revisions.

Bundle and server must agree on these to the letter, or a bundle is refused for the model it was made on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rass.errors import ModelLoadError

__all__ = ["LAYER_CONVENTION", "REFERENCE", "ModelSource", "find_model", "reference_folder"]

REFERENCE = "reference"
"""The name that stands for the shipped reference model."""

REFERENCE_ID = "rass-reference"
LAYER_CONVENTION = "residual stream after block l, 0-based"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is loaded from: its id, what ``from_pretrained`` takes, and the digest of its weights.

    ``revision`` is the first 16 hex digits of the SHA-256 of ``model.safetensors`` (of all shards' digests, in the
    order of their names), or ``None`` for a hub id, whose commit is known only after loading.
    """

    id: str
    location: str
    revision: str | None


def reference_folder() -> Path:
    """Return the folder of the shipped reference weights, whether or not they are there."""
    return Path(__file__).parent / "reference" / "weights"


def find_model(name: str) -> ModelSource:
    """Resolve ``reference``, a folder, or a hub id; raises ``ModelLoadError`` when a folder holds no weights."""
    folder = reference_folder() if name == REFERENCE else Path(name)
    if name != REFERENCE and not folder.exists():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise ModelLoadError(f"there is no folder {name!r}; give 'reference', a folder, or a hub id 'owner/name'")
        return ModelSource(name, name, None)
    shards = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not shards:
        raise ModelLoadError(f"{folder} holds no model: config.json and *.safetensors are needed")
    digests = [_sha256(shard) for shard in shards]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return ModelSource(REFERENCE_ID if name == REFERENCE else folder.resolve().name, str(folder), whole[:16])


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()
