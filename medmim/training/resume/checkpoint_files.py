"""The training states of a run on disk: the last two, each with its SHA-256, written atomically.

<folder>/state-000007.safetensors           everything that training needs to continue
<folder>/state-000007.safetensors.sha256    its expected hash; written first, so that every state has one

Lightning's own saving passes through TMPDIR, is not atomic when that is another disk, and detects no flipped
bit. A state is never overwritten: the next state gets the next number, then the third last is removed.

A pickle is a program; even a restricted one requires trust. A state is a JSON header and the bytes of the
tensors, whose sizes must add up to the size of the file: nothing in it is executed or used as a path.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import safetensors
import safetensors.torch
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from medmim import files
from medmim.errors import RunError
from medmim.text_formats import parse_json

_TREE = "tree"
_CANNOT_BE_READ = (safetensors.SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError)


def encode_state(state: Mapping[str, Any]) -> bytes:
    """Encode nested dictionaries, lists and tuples of tensors, numbers, text, booleans and None as a file."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_packed(dict(state), tensors), allow_nan=False)
    return safetensors.torch.save(tensors, metadata={_TREE: tree})


def read_state(path: Path) -> dict[str, Any]:
    """Read the state in a file; its tensors are on the CPU."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
            state = _unpacked(parse_json(stored.metadata()[_TREE]), tensors)
    except _CANNOT_BE_READ as error:
        raise RunError(
            f"the saved state of this run cannot be read ({type(error).__name__}): start the run again "
            "without --resume"
        ) from error
    if not isinstance(state, dict):
        raise RunError("the saved state of this run is empty: start the run again without --resume")
    return state


def all_finite(state: object) -> bool:
    """Return whether every floating-point tensor in a state is finite."""
    if isinstance(state, Tensor):
        return not state.is_floating_point() or bool(torch.isfinite(state).all())
    if isinstance(state, Mapping):
        return all(all_finite(value) for value in state.values())
    return not isinstance(state, list | tuple) or all(all_finite(value) for value in state)


def _packed(value: object, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON; its tensors go to `tensors` and are replaced by their key."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # own memory, because one tensor may be a view of another
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, list):
        return [_packed(one, tensors) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [_packed(one, tensors) for one in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_packed(key, tensors), _packed(one, tensors)] for key, one in value.items()]}
    raise TypeError(f"expected tensors and plain values in a state, got {type(value).__name__}")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Invert `_packed`."""
    if isinstance(value, list):
        return [_unpacked(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
    if kind == "tuple":
        return tuple(_unpacked(one, tensors) for one in content)
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(one, tensors) for key, one in content}
    raise ValueError("unknown kind of value")


_log = logging.getLogger("medmim")
KEPT = 2
_NAME = re.compile(r"state-(\d{6,})\.safetensors")


class StateIO(CheckpointIO):
    """Lightning plugin that writes and reads states."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a state with its SHA-256.

        A full disk causes a warning instead of an error, because it must not end a training of days; the
        earlier states remain.

        Raises:
            RunError: for non-finite weights or optimizer state; the earlier states remain.
        """
        if not all_finite([checkpoint["state_dict"], checkpoint["optimizer_states"]]):
            raise RunError(
                "the weights or the optimizer state are not finite, so this state is not saved: start again "
                "with a lower --lr or --precision fp32"
            )
        content = encode_state(checkpoint)
        digest = hashlib.sha256(content).hexdigest()
        try:
            files.write_together({_hash_file(Path(path)): f"{digest}\n".encode(), Path(path): content})
        except files.WriteError as error:
            _log.warning("the state of training is not saved: %s", error)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a state; it can only contain tensors and plain values, so `weights_only` is always true."""
        return read_state(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a state, and then its SHA-256."""
        Path(path).unlink(missing_ok=True)
        _hash_file(Path(path)).unlink(missing_ok=True)


def save_state(trainer: L.Trainer, folder: Path) -> bool:
    """Save everything that training needs to continue, and keep the previous state; call it in every process.

    Returns:
        Whether the state was saved; processes other than the first always return True.
    """
    numbers = sorted(_states(folder))
    path = folder / f"state-{(numbers or [0])[-1] + 1:06d}.safetensors"
    trainer.save_checkpoint(path)
    if not trainer.is_global_zero:
        return True
    remove_older_states(folder)
    return path.is_file()


def remove_states(folder: Path) -> None:
    """Remove the states of a completed run: each is three times the size of the weights."""
    for path in [*folder.glob("state-*.safetensors*"), *folder.glob(".state-*.tmp")]:
        path.unlink()


def has_state(folder: Path) -> bool:
    """Return whether the folder contains a saved state, intact or damaged."""
    return bool(_states(folder))


def newest_intact(folder: Path) -> Path | None:
    """Return the newest state whose SHA-256 is right, if any; warn about newer ones that are damaged."""
    states = sorted(_states(folder).items(), reverse=True)
    found = next((one for one in states if _is_intact(one[1])), None)
    for number, _ in states[: states.index(found) if found else None]:
        use = f"continuing from state {found[0]}" if found else "there is no intact one"
        _log.warning("saved state %d of this run is damaged (SHA-256 differs): %s", number, use)
    return found and found[1]


def verified_state(folder: Path) -> Path:
    """Return the newest intact state."""
    path = newest_intact(folder)
    if path is not None:
        return path
    if has_state(folder):
        raise RunError(
            "all saved states of this run are damaged (SHA-256 differs): start the run again without --resume"
        )
    raise RunError("this run has no saved state to resume: start the run again without --resume")


def refuse_foreign(state: dict[str, Any], module: L.LightningModule) -> None:
    """Raise unless a state belongs to this module and its optimizer; loads its weights on the way.

    A state of 0.1.0 makes the module group its parameters as that version did.

    Raises:
        RunError: for other names, kinds or shapes.
    """
    fits = _fits(state, module)
    if not fits and getattr(module, "decay_by_role", False):
        module.__dict__["decay_by_role"] = False
        fits = _fits(state, module)
    if not fits:
        raise RunError(
            "the saved state of this run belongs to another network or optimizer: start the run again "
            "without --resume"
        )


def _fits(state: dict[str, Any], module: L.LightningModule) -> bool:
    try:
        module.load_state_dict(state["state_dict"])
        optimizer: Any = module.configure_optimizers()
        (stored,) = state["optimizer_states"]
        optimizer.load_state_dict(stored)
        moments = [(p, one) for p, held in optimizer.state.items() for one in held.values()]
        return all(one.dim() == 0 or one.shape == p.shape for p, one in moments if isinstance(one, Tensor))
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        return False


def _states(folder: Path) -> dict[int, Path]:
    """Return the states in a folder by their number."""
    found = (path for path in folder.glob("state-*.safetensors") if path.is_file())
    named = {path: _NAME.fullmatch(path.name) for path in found}
    return {int(match[1]): path for path, match in named.items() if match}


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_intact(path: Path) -> bool:
    try:
        written = _hash_file(path).read_bytes().strip().decode("ascii", "replace")
        return files.sha256_of(path) == written
    except OSError:  # a file is missing or unreadable
        return False


def remove_older_states(folder: Path, *, count: int = KEPT) -> None:
    """Keep only the newest intact states."""
    kept: list[Path] = []
    for _, path in sorted(_states(folder).items(), reverse=True):
        if len(kept) < count and _is_intact(path):
            kept.append(path)
        else:
            StateIO().remove_checkpoint(path)
    hashes = {_hash_file(path) for path in kept}
    for left in [*folder.glob("state-*.safetensors.sha256"), *folder.glob(".state-*.tmp")]:
        if left not in hashes:  # from an interrupted save
            left.unlink()
