"""The state of a training as one file without code: tensors in safetensors, everything else as JSON.

A pickle is a program; even a restricted one requires trust. This file is a JSON header and the bytes of the
tensors, whose sizes must add up to the size of the file: nothing in it is executed or used as a path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

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
