"""Calls of medmim are checked in tests: types, and shapes that depend on each other."""

import importlib
import inspect
import sys
from pathlib import Path

import checked_calls
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from medmim import shapes

SOURCE = '''
"""A module with an annotation of every kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass
class Pair:
    """Two arrays of one length."""

    left: Float[np.ndarray, " n"]
    right: Float[np.ndarray, " n"]

    @property
    def count(self) -> int:
        return float(self.left.size)

    @staticmethod
    def twice(value: int) -> int:
        return 2 * value

    @classmethod
    def of(cls, length: int) -> Pair:
        return cls(np.zeros(length), np.zeros(length))


def total(left: Float[np.ndarray, "n"], right: Float[np.ndarray, "n"]) -> float:
    return float((left + right).sum())


def longer(values: Float[np.ndarray, "n"], by: int = 0) -> Float[np.ndarray, "n"]:
    return np.concatenate([values, np.zeros(by)])


def rows(widths: Sequence[int], width: int) -> list[Float[np.ndarray, "batch {width}"]]:
    return [np.zeros((2, found)) for found in widths]


def shorter(values: Float[np.ndarray, "n"]) -> float:
    return total(values[1:], values[1:])


def price(value: Decimal, *, count: int = 1) -> str:
    return f"{value} × {count}"


def counted(number: int) -> Iterator[int]:
    yield from range(number)


def inside(value: object) -> int:
    def inner(value: int) -> int:
        return value

    return inner(value)
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module above, imported with checks."""
    (tmp_path / "annotated.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "annotated", raising=False)
    checked_calls.install("annotated")
    yield importlib.import_module("annotated")
    sys.modules.pop("annotated")


def test_medmim_is_checked():
    with pytest.raises(TypeCheckError, match=r"round_up\(\) parameter multiple"):
        shapes.round_up((4, 4), "4")


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda m: m.total(np.zeros(3), np.zeros(3, int)), "parameter right"),
        (lambda m: m.total(np.zeros(3), np.zeros(4)), "parameter right"),
        (lambda m: m.total(np.zeros(3), right=np.zeros((3, 1))), "parameter right"),
        (lambda m: m.longer(np.zeros(3), by=2), "return"),
        (lambda m: m.longer(np.zeros(3), by="2"), "parameter by"),
        (lambda m: m.rows([5], 4), "return value"),
        (lambda m: m.Pair(np.zeros(3), np.zeros(4)), "parameter right"),
        (lambda m: m.Pair.of(3).count, "return"),
        (lambda m: m.Pair.of("3"), "parameter length"),
        (lambda m: m.Pair.twice(1.5), "parameter value"),
        (lambda m: m.price(1, count=1.5), "parameter count"),
        (lambda m: next(m.counted("3")), "parameter number"),
        (lambda m: m.inside("3"), "parameter value"),
    ],
)
def test_calls_against_their_annotations_are_refused(module, call, complaint):
    with pytest.raises(TypeCheckError, match=complaint):
        call(module)


def test_calls_that_fit_return_what_they_return(module):
    assert module.total(np.ones(3), np.ones(3)) == 6
    assert module.shorter(np.ones(3)) == 4  # the inner call has axes of its own
    assert module.longer(np.zeros(3)).shape == (3,)
    assert [found.shape for found in module.rows([4, 4], 4)] == [(2, 4), (2, 4)]
    assert module.Pair.of(3).right.shape == (3,)
    assert module.Pair.twice(2) == 4
    assert module.price("1", count=2) == "1 × 2"  # what only type checkers import is not checked
    assert list(module.counted(2)) == [0, 1]
    assert module.inside(3) == 3


def test_a_refusal_names_the_sizes_of_the_axes(module):
    with pytest.raises(TypeCheckError, match="parameter right") as refused:
        module.total(np.zeros(3), np.zeros(4))
    assert any("n=3" in note for note in refused.value.__notes__)


def test_functions_keep_their_names_and_signatures(module):
    assert module.price.__name__ == "price"
    assert list(inspect.signature(module.price).parameters) == ["value", "count"]


def test_the_bytecode_with_checks_is_not_taken_for_the_plain_one(module, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = Path(module.__file__).parent / "__pycache__"
    sys.modules.pop("annotated")
    assert importlib.import_module("annotated") is not module
    assert [".checked-" in path.name for path in folder.iterdir()] == [True]


def test_refuses_a_package_that_is_imported_already():
    with pytest.raises(RuntimeError, match="medmim is imported already"):
        checked_calls.install("medmim")
