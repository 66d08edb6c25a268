"""Weights files of any origin: their tensors, read without executing code, and the encoder that they fit.

PyTorch files are read with `weights_only=True`, always: a file that contains anything other than tensors and
plain values is refused and nothing in it is executed.

A `Family` gives names that identify a network and rules from its names to those of an encoder of medmim; the
table is in `encoders/families.py`. Containers and prefixes, such as `state_dict.module.`, are found.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from medmim.errors import RunError, TransferError

_SAFE: list[Any] = [  # plain values that checkpoints of MAE, SimMIM and nnU-Net contain next to the weights
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_DEPTH = 8
_TRAINED = re.compile(r"teacher|encoder_q")  # which of two encoders DINO and MoCo evaluate
_DAMAGED = (
    *(RuntimeError, ValueError, EOFError, OSError, LookupError, TypeError, AttributeError),
    safetensors.SafetensorError,
)


def read_content(path: Path) -> Any:
    """Return what a safetensors or PyTorch file contains: tensors and plain values, usually in dictionaries.

    Raises:
        RunError: if the file is missing, damaged, of another format, or needs code.
    """
    if not path.is_file():
        raise RunError(f"no weights at '{path}': expected a safetensors or PyTorch file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = _GLOBAL.search(str(error))
        if needed is None:
            raise _unreadable(path, error) from None
        raise RunError(
            f"'{path.name}' is a pickle that needs the code '{needed.group(1)}'; nothing in it was executed: "
            "expected tensors and plain values; ask its authors for a state_dict, preferably as safetensors"
        ) from None
    except _DAMAGED as error:
        raise _unreadable(path, error) from None


def tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors in the content of a file; keys of nested dictionaries are joined by dots."""
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


Weights = Mapping[str, Tensor]
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    r"""Networks whose weights have the same names.

    Attributes:
        title: the network and well-known sources of its weights.
        marks: names that a file must contain, after a common prefix.
        keys: pattern of a whole name → name in the encoder; names that fit none belong to heads or decoders.
            In a replacement, `\2+1` is the number in the second group plus one.
        describe: returns name and options of the encoder from weights with its names.
        convert: changes values before names are replaced; returns the weights and the applied rules.
        biases: modules that have a bias here and none in the original, for which it is zero.
    """

    title: str
    marks: tuple[str, ...]
    keys: Mapping[str, str]
    describe: Callable[[Weights], tuple[str, dict[str, Any]]]
    convert: Callable[[Named], tuple[Named, list[str]]] = lambda weights: (weights, [])
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublicWeights:
    """Weights of a file under the names of an encoder of medmim.

    Attributes:
        family, prefix: title of the recognised network, and what precedes the names in the file.
        encoder, options: the encoder that the weights fit.
        weights: tensors by name, `encoder.…`.
        renamed: name in the file → name in the encoder.
        ignored: names in the file that are no part of the encoder.
        rules: rules that changed values or added tensors.
    """

    family: str
    prefix: str
    encoder: str
    options: Mapping[str, Any]
    weights: Named = field(repr=False)
    renamed: Mapping[str, str] = field(repr=False)
    ignored: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    @property
    def spatial_dims(self) -> int | None:
        """Number of spatial axes of the kernels; None without a convolution."""
        return max((value.dim() - 2 for value in self.weights.values() if value.dim() > 3), default=None)

    def lines(self) -> list[str]:
        """Return the recognised network, and a line for each kind of renamed tensors."""
        pairs = Counter((_kind(old), _kind(new)) for old, new in self.renamed.items())
        where = f", below '{self.prefix}'" if self.prefix else ""
        options = f" {dict(self.options)}" if self.options else ""
        return [
            f"{self.family}{where}: fits encoder {self.encoder}{options}",
            *(f"  {old} → {new} ({count})" for (old, new), count in pairs.items()),
            *(f"  {rule}" for rule in self.rules),
            *([f"  ignored: {_examples(self.ignored)}"] if self.ignored else []),
        ]


def recognise(tensors: Weights, families: Sequence[Family]) -> PublicWeights:
    """Recognise the family of weights and name them as medmim does."""
    for family in families:
        prefixes = _prefixes_of(tensors, family.marks)
        if prefixes:
            return _named(tensors, family, prefixes)
    titles = "; ".join(dict.fromkeys(family.title for family in families if family.keys))
    raise TransferError(
        f"the names of the tensors, such as {_examples(tuple(tensors))}, fit no known network ({titles}): "
        "give the names with --init-map RULES.yaml"
    )


def unsupported(title: str, *marks: str) -> Family:
    """Return a family whose weights are refused by name."""

    def refuse(_: Weights) -> tuple[str, dict[str, Any]]:
        raise TransferError(
            f"these are weights of {title}, an architecture that no encoder of medmim has: use weights of "
            "another network, or bring the network itself with --encoder module:callable"
        )

    return Family(title, marks, {}, refuse)


def family_of_rules(encoder: str, options: Mapping[str, Any], keys: Mapping[str, str]) -> Family:
    r"""Return the family that a user's rules describe.

    Args:
        keys: pattern of a whole name in the file → name in the encoder, with `\\1` for the first group.
    """
    return Family("names of --init-map", (), keys, lambda _: (encoder, dict(options)))


def _prefixes_of(tensors: Weights, marks: Sequence[str]) -> list[str]:
    """Return the prefixes below which all marks are found: the shortest, and the trained copy, first."""
    if not marks:
        return [""]
    candidates = {name.removesuffix(marks[0]) for name in tensors if name.endswith(marks[0])}
    complete = [
        prefix
        for prefix in candidates
        if (not prefix or prefix.endswith(".")) and all(prefix + mark in tensors for mark in marks)
    ]
    return sorted(complete, key=lambda prefix: (len(prefix), not _TRAINED.search(prefix), prefix))


def _named(tensors: Weights, family: Family, prefixes: Sequence[str]) -> PublicWeights:
    prefix, *copies = prefixes
    below = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        found, rules = family.convert(below)
        renamed = {name: new for name in found if (new := _new_name(name, family.keys))}
        weights = {new: found[name] for name, new in renamed.items()}
        added = _zero_biases(weights, family.biases)
        weights |= added | _counters(weights)
        encoder, options = family.describe(weights)
    except (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise TransferError(
            f"the file has names of {family.title}, but its tensors are incomplete or of a variant that "
            f"medmim does not have ({type(error).__name__}: {error}): expected all tensors of the network"
        ) from error
    if not renamed:
        raise TransferError(f"no rule matches a complete name in the file, such as '{next(iter(tensors))}'")
    _refuse_unusable(found, renamed)
    rules += [f"bias of zero added ({len(added)})"] if added else []
    for copy in copies:
        if not all(torch.equal(tensors[prefix + mark], tensors[copy + mark]) for mark in family.marks):
            rules.append(f"the other copy below '{copy}' is not loaded")
    return PublicWeights(
        family=family.title,
        prefix=prefix,
        encoder=encoder,
        options=options,
        weights={f"encoder.{name}": value for name, value in weights.items()},
        renamed=renamed,
        ignored=tuple(name for name in found if name not in renamed),
        rules=tuple(rules),
    )


def _refuse_unusable(found: Weights, names: Iterable[str]) -> None:
    """Refuse whole numbers, as in a quantised network, and values that are not finite."""
    for name in names:
        value = found[name]
        if name.endswith("weight") and not value.is_floating_point():
            raise TransferError(
                f"tensor '{name}' has the type {value.dtype}: expected floating-point weights"
            )
        if not bool(torch.isfinite(value).all()):
            raise TransferError(f"tensor '{name}' contains NaN or infinity: expected finite weights")


def numbers_in(weights: Weights, pattern: str) -> int:
    """Return the number of values of the first group among the names that begin with a pattern."""
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def as_option(size: Sequence[int]) -> int | list[int]:
    """Return one number for equal sizes, so that the option also fits another number of dimensions."""
    return size[0] if len(set(size)) == 1 else list(size)


def _new_name(name: str, keys: Mapping[str, str]) -> str | None:
    for pattern, replacement in keys.items():
        match = re.fullmatch(pattern, name)
        if match:
            return re.sub(
                r"(\d+)\+(\d+)", lambda sum_: str(int(sum_[1]) + int(sum_[2])), match.expand(replacement)
            )
    return None


def _zero_biases(weights: Weights, modules: Sequence[str]) -> Named:
    return {
        f"{name.removesuffix('weight')}bias": torch.zeros(len(value))
        for name, value in weights.items()
        if any(name.endswith(f"{module}.weight") for module in modules)
        and f"{name.removesuffix('weight')}bias" not in weights
    }


def _counters(weights: Weights) -> Named:
    """Return batch-norm counters, which old files lack and no computation uses."""
    names = [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]
    return {
        f"{name}num_batches_tracked": torch.tensor(0)
        for name in names
        if f"{name}num_batches_tracked" not in weights
    }


def _kind(name: str) -> str:
    """Return the module of a tensor with numbers left out, to count tensors of one kind."""
    return re.sub(r"\d+", "*", name.rpartition(".")[0] or name)


def _examples(names: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(map(_kind, names)))
    return ", ".join(kinds[:4]) + (f" and {len(kinds) - 4} more kinds" if len(kinds) > 4 else "")
