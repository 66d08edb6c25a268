"""Files of a run: weights (safetensors with a description beside them) and the state that `--resume` reads.

<home>/checkpoints/<run>/weights.safetensors    what is kept; same seed and settings, same bytes
<home>/checkpoints/<run>/weights.json           what they are: network, settings, sha256
<home>/checkpoints/<run>/state.ckpt, .sha256    everything training needs to continue
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import safetensors.torch
from torch import Tensor

from medmim import files
from medmim.errors import RunError

WEIGHTS = "weights.safetensors"
STATE = "state.ckpt"


def save_weights(folder: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> Path:
    """Write weights and, beside them, what they are and their SHA-256; return the path of the weights."""
    path = folder / WEIGHTS
    # each tensor in memory of its own: networks may use one under two names
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(weights.items())}
    files.write_bytes(path, safetensors.torch.save(plain))
    files.write_json(path.with_suffix(".json"), {**description, "sha256": files.sha256_of(path)})
    return path


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and their description; nothing is unpickled.

    Raises:
        RunError: if a file is missing, is no safetensors file or does not have the SHA-256 written beside it.
    """
    beside = path.with_suffix(".json")
    if not path.is_file() or not beside.is_file():
        raise RunError(f"no weights at '{path}': expected {WEIGHTS} with {beside.name} beside it")
    try:
        description = json.loads(beside.read_text(encoding="utf-8"))
        if files.sha256_of(path) != description["sha256"]:
            raise RunError(f"weights at '{path}' are damaged: their SHA-256 is not the one in {beside.name}")
        return safetensors.torch.load_file(path), description
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunError(f"weights at '{path}' cannot be read ({type(error).__name__})") from error


def save_state(trainer: L.Trainer, folder: Path) -> None:
    """Save everything training needs to continue; the old file stays until the new one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{STATE}.new"
    # Beside its target: Lightning's own transaction goes through TMPDIR and is not atomic across disks.
    trainer.save_checkpoint(fresh)
    content, beside = fresh.read_bytes(), folder / f"{STATE}.sha256"
    fresh.unlink()
    digest = hashlib.sha256(content).hexdigest()
    # Both are valid until the new state is in place, so that a stop at any moment leaves one to resume from.
    old = beside.read_text().split()[-1:] if beside.is_file() else []
    files.write_text(beside, "\n".join([*old, digest]) + "\n")
    files.write_bytes(folder / STATE, content)
    files.write_text(beside, digest + "\n")


def drop_state(folder: Path) -> None:
    """Remove the state of a run that is complete: it is three times the size of the weights."""
    for name in (STATE, f"{STATE}.sha256"):
        (folder / name).unlink(missing_ok=True)


def verified_state(folder: Path) -> Path:
    """Return the state to continue from.

    Raises:
        RunError: if there is none, or it does not have the SHA-256 written beside it.
    """
    path, beside = folder / STATE, folder / f"{STATE}.sha256"
    if not path.is_file() or not beside.is_file():
        raise RunError("this run has no saved state to resume: start it again without --resume")
    if files.sha256_of(path) not in beside.read_text().split():
        raise RunError(
            "the saved state of this run is damaged (SHA-256 differs): start it again without --resume"
        )
    return path
