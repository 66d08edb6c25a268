"""The training states of a run on disk: the last two, each with its SHA-256, written atomically.

<folder>/state-000007.safetensors           everything that training needs to continue
<folder>/state-000007.safetensors.sha256    its expected hash; written first, so that every state has one

Lightning's own saving passes through TMPDIR, is not atomic when that is another disk, and detects no flipped
bit. A state is never overwritten: the next state gets the next number, then the third last is removed.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from medmim import files
from medmim.errors import RunError
from medmim.training.resume.state_file import all_finite, encode_state, read_state

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
    for number, path in sorted(_states(folder).items(), reverse=True):
        if _is_intact(path):
            return path
        _log.warning(
            "saved state %d of this run is damaged (SHA-256 differs): continuing from the one before", number
        )
    return None


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
    if not fits and getattr(module, "head_decay", False):
        module.__dict__["head_decay"] = False
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
