"""The states that `--resume` reads: the last two of a run, each with its SHA-256, whole or not there.

<folder>/state-000007.safetensors           everything training needs to continue
<folder>/state-000007.safetensors.sha256    what it must hash to; written first: no state lacks it

Lightning's own saving goes through TMPDIR and is not atomic when that is another disk, and nothing in it
notices a flipped bit. A state is never overwritten: the next gets the next number, then the third last goes.
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
    """How Lightning writes and reads states here."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a state with its SHA-256; refuse one with values that are not finite.

        A full disk is told, and ends no training that may go on for days: the states before stay.

        Raises:
            RunError: for weights or an optimiser that are not finite; the states before stay.
        """
        if not all_finite([checkpoint["state_dict"], checkpoint["optimizer_states"]]):
            raise RunError(
                "the weights or the optimiser are not finite, so this state is not saved: start again with a "
                "lower --lr or --precision fp32"
            )
        content = encode_state(checkpoint)
        digest = hashlib.sha256(content).hexdigest()
        try:
            files.write_together({_beside(Path(path)): f"{digest}\n".encode(), Path(path): content})
        except files.WriteError as error:
            _log.warning("the state of training is not saved: %s", error)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a state; only tensors and plain values can be in it, so `weights_only` is always true."""
        return read_state(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a state; its SHA-256 last."""
        Path(path).unlink(missing_ok=True)
        _beside(Path(path)).unlink(missing_ok=True)


def save_state(trainer: L.Trainer, folder: Path) -> bool:
    """Save everything training needs to continue, and keep the state before; called in every process.

    Returns:
        Whether it is saved, as the first process knows; the others take it for granted.

    Raises:
        RunError: if the weights are not finite.
    """
    numbers = sorted(_states(folder))
    path = folder / f"state-{(numbers or [0])[-1] + 1:06d}.safetensors"
    trainer.save_checkpoint(path)
    if not trainer.is_global_zero:
        return True
    _drop_older(folder)
    return path.is_file()


def drop_state(folder: Path) -> None:
    """Remove the states of a run that is complete: each is three times the size of the weights."""
    for path in [*folder.glob("state-*.safetensors*"), *folder.glob(".state-*.tmp")]:
        path.unlink()


def has_state(folder: Path) -> bool:
    """Return whether a state was saved, damaged or not."""
    return bool(_states(folder))


def newest_whole(folder: Path) -> Path | None:
    """Return the newest state that is what was written, if any; a damaged one is named and passed over."""
    for number, path in sorted(_states(folder).items(), reverse=True):
        if _is_whole(path):
            return path
        _log.warning(
            "saved state %d of this run is damaged (SHA-256 differs): going on from the one before", number
        )
    return None


def verified_state(folder: Path) -> Path:
    """Return the newest state that is what was written.

    Raises:
        RunError: if there is none.
    """
    path = newest_whole(folder)
    if path is not None:
        return path
    if has_state(folder):
        raise RunError(
            "all saved states of this run are damaged (SHA-256 differs): start it again without --resume"
        )
    raise RunError("this run has no saved state to resume: start it again without --resume")


def refuse_foreign(state: dict[str, Any], module: L.LightningModule) -> None:
    """Raise unless a state is one of this module and its optimiser; loads its weights on the way.

    Raises:
        RunError: for other names, kinds or shapes.
    """
    try:
        module.load_state_dict(state["state_dict"])
        optimiser: Any = module.configure_optimizers()
        (stored,) = state["optimizer_states"]
        optimiser.load_state_dict(stored)
        moments = [(p, one) for p, held in optimiser.state.items() for one in held.values()]
        fits = all(one.dim() == 0 or one.shape == p.shape for p, one in moments if isinstance(one, Tensor))
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise RunError(
            "the saved state of this run is that of another network or optimiser: start it again without "
            "--resume"
        )


def _states(folder: Path) -> dict[int, Path]:
    """Return the states in a folder by their number."""
    found = (path for path in folder.glob("state-*.safetensors") if path.is_file())
    named = {path: _NAME.fullmatch(path.name) for path in found}
    return {int(match[1]): path for path, match in named.items() if match}


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_whole(path: Path) -> bool:
    try:
        written = _beside(path).read_bytes().strip().decode("ascii", "replace")
        return files.sha256_of(path) == written
    except OSError:  # no file, or none that can be read
        return False


def _drop_older(folder: Path) -> None:
    """Keep the newest states that are whole, and nothing else."""
    kept: list[Path] = []
    for _, path in sorted(_states(folder).items(), reverse=True):
        if len(kept) < KEPT and _is_whole(path):
            kept.append(path)
        else:
            StateIO().remove_checkpoint(path)
    whole = {_beside(path) for path in kept}
    for left in [*folder.glob("state-*.safetensors.sha256"), *folder.glob(".state-*.tmp")]:
        if left not in whole:  # of a save that was cut off
            left.unlink()
