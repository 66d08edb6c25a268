"""The weights of a finished run: a safetensors file and a JSON description with its SHA-256.

<home>/checkpoints/<run>/weights.safetensors    the weights; same seed and settings, same bytes
<home>/checkpoints/<run>/weights.json           their description: network, settings, sha256
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from medmim import files
from medmim.config.own_code import refuse_foreign_code
from medmim.errors import RunError
from medmim.text_formats import parse_json
from medmim.training.resume.checkpoint_files import all_finite, remove_older_states

WEIGHTS = "weights.safetensors"
_LOG = logging.getLogger(__name__)
_ROOM, _DESCRIPTION_BYTES = "room", 1 << 16
_USUAL_OPTION = 4096  # patches, widths and depths of networks are smaller


@contextmanager
def reserved_room(folder: Path, module: nn.Module) -> Iterator[None]:
    """Occupy as much of the disk as the final weights need, until `save_weights` writes them.

    If the run fails after that, such as on a full disk, a line says where the weights are.

    Raises:
        WriteError: if the disk is too full for the weights, before the training.
    """
    size = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    try:
        files.write_bytes(folder / _ROOM, bytes(size + _DESCRIPTION_BYTES))
        yield
    except Exception:
        if (folder / WEIGHTS).with_suffix(".json").is_file():
            _LOG.warning(
                "the run failed after its training: the weights are kept in '%s', for --init or --model",
                folder / WEIGHTS,
            )
        raise
    finally:
        (folder / _ROOM).unlink(missing_ok=True)


def save_weights(
    folder: Path,
    weights: Mapping[str, Tensor],
    description: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    *,
    write: Callable[[Path, bytes], None] = files.write_bytes,
) -> Path:
    """Write weights and their description with SHA-256; return the path of the weights.

    They take the place of `reserved_room`. On a full disk the older training states are removed; the newest
    one stays for `--resume`.

    Args:
        metadata: written into the weights file, so that copies keep it.
        write: writes a file; an argument for tests.

    Raises:
        RunError: for non-finite weights; nothing is written.
        WriteError: if the weights cannot be written.
    """
    if not all_finite(weights):
        raise RunError(
            "the weights are not finite, so they are not saved: lower --lr, or use --precision fp32"
        )
    path = folder / WEIGHTS
    # own memory for each tensor, because networks may use one under two names
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(weights.items())}
    content = safetensors.torch.save(plain, metadata=dict(metadata or {}))
    (folder / _ROOM).unlink(missing_ok=True)
    try:
        write(path, content)
    except files.WriteError as error:
        if error.errno != errno.ENOSPC:
            raise
        remove_older_states(folder, count=1)
        write(path, content)
    files.write_json(path.with_suffix(".json"), {**description, "sha256": files.sha256_of(path)})
    return path


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and their description; nothing is unpickled.

    Raises:
        RunError: if a file is missing, is not a safetensors file, has another SHA-256 than described, or
            names code that the user has not named.
    """
    beside = path.with_suffix(".json")
    if not path.is_file() or not beside.is_file():
        raise RunError(f"no weights at '{path}': expected {WEIGHTS} and next to it {beside.name}")
    try:
        description = parse_json(beside.read_text(encoding="utf-8"))
        if files.sha256_of(path) != description["sha256"]:
            raise RunError(f"weights at '{path}' are damaged: the SHA-256 in {beside.name} differs")
        weights = safetensors.torch.load_file(path)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunError(f"weights at '{path}' cannot be read ({type(error).__name__})") from error
    refuse_foreign_code(description, source=f"weights '{path.name}'")
    _refuse_larger_networks(path, weights, description)
    return weights, description


def _refuse_larger_networks(
    path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """Refuse a description whose network would need far more memory than its weights.

    Raises:
        RunError: for a number that is larger than every side of the tensors and than usual options.
    """
    sides = (max(value.shape, default=0) for value in weights.values())
    limit = max(_USUAL_OPTION, len(weights), *sides)
    described = [description.get(key) for key in ("in_channels", "spatial_dims", "encoder_options", "head")]
    if any(not abs(number) <= limit for number in _numbers(described)):  # NaN is refused too
        raise RunError(
            f"weights '{path.name}': their description names a network that is larger than the weights: "
            "expected the files of one run of medmim"
        )


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers in a description, at any depth."""
    if isinstance(value, int | float):
        yield value
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _numbers(part)


def weights_metadata(path: Path) -> dict[str, str]:
    """Return the metadata in a weights file; empty where it has none."""
    try:
        with safetensors.safe_open(path, framework="numpy") as stream:
            return dict(stream.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"weights at '{path}' cannot be read ({type(error).__name__})") from error
