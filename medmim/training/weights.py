"""The weights that a run leaves: safetensors with a description beside them, finite and hashed.

<home>/checkpoints/<run>/weights.safetensors    what is kept; same seed and settings, same bytes
<home>/checkpoints/<run>/weights.json           what they are: network, settings, sha256
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from medmim import files
from medmim.errors import RunError
from medmim.training.resume.state_file import all_finite

WEIGHTS = "weights.safetensors"


def save_weights(folder: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> Path:
    """Write weights and, beside them, what they are and their SHA-256; return the path of the weights.

    Raises:
        RunError: for weights that are not finite; nothing is written.
    """
    if not all_finite(weights):
        raise RunError(
            "the weights are not finite, so they are not kept: lower --lr, or use --precision fp32"
        )
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
