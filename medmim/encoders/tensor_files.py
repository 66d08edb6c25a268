"""Tensors in safetensors and PyTorch files of any origin, read without executing code.

PyTorch files are read with `weights_only=True`, always: a file that contains anything other than tensors and
plain values is refused and nothing in it is executed.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from medmim.errors import RunError

_SAFE: list[Any] = [  # plain values that checkpoints of MAE, SimMIM and nnU-Net contain next to the weights
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_DEPTH = 8
_DAMAGED = (
    *(RuntimeError, ValueError, EOFError, OSError, LookupError, TypeError, AttributeError),
    safetensors.SafetensorError,
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; keys of nested dictionaries are joined by dots.

    Raises:
        RunError: if the file is missing, damaged, of another format, or needs code.
    """
    if not path.is_file():
        raise RunError(f"no weights at '{path}': expected a safetensors or PyTorch file")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals(_SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = _GLOBAL.search(str(error))
        if needed is None:
            raise _unreadable(path, error) from None
        raise RunError(
            f"'{path.name}' is a pickle that needs the code '{needed.group(1)}'; nothing in it was executed: "
            "expected tensors and plain values; ask its authors for a state_dict, best as safetensors"
        ) from None
    except _DAMAGED as error:
        raise _unreadable(path, error) from None
    tensors = dict(_tensors_in(content, "", 0))
    if not tensors:
        raise RunError(f"'{path.name}' contains no tensor: expected the weights of a network")
    return tensors


def _tensors_in(value: Any, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dictionaries; those with numbers as keys (optimizers) are skipped."""
    if isinstance(value, Tensor) and not value.is_quantized and value.layout == torch.strided:
        yield name or "tensor", value.detach()
    elif isinstance(value, Mapping) and depth < _DEPTH:
        for key, inner in value.items():
            if isinstance(key, str):
                yield from _tensors_in(inner, f"{name}.{key}" if name else key, depth + 1)


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"'{path.name}' cannot be read as weights ({type(error).__name__}): expected a safetensors file or a "
        "PyTorch file of tensors; it is damaged or of another format, and nothing in it was executed"
    )
