"""Arguments from Python: what has one meaning is converted, the rest is refused in one line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float, jaxtyped

import medmim
import medmim.errors
from medmim.arguments import check_fields, checked, fit, fitting_options
from medmim.errors import UsageError, WrongTypeError
from medmim.masks.base import hidden_voxels


@checked
def widen(name: str, *sizes: int, ratio: float = 0.5, log: Callable[[str], None] | None = None, **more: Any):
    return name, sizes, ratio, log, more


@dataclass(frozen=True)
class Shape:
    width: int
    folder: Path | None = None
    kind: Literal["round", "square"] = "round"

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("value", "hint", "fitted"),
    [
        (np.int64(3), int, 3),
        (np.float32(0.5), float, 0.5),
        (torch.tensor(2), int | None, 2),
        (3, float, 3),
        (np.array([8, 16]), Sequence[int], (8, 16)),
        (np.array([[1, 2], [2, 2]]), Sequence[int | Sequence[int]], ((1, 2), (2, 2))),
        ([8, 16], tuple[int, ...], [8, 16]),
        ("a.csv", Path | None, Path("a.csv")),
        (Path("a.yaml"), str | None, "a.yaml"),
        ("a", Path | str, "a"),
        ({"a": 1}, Mapping[str, float], {"a": 1}),
        (np.bool_(True), bool, True),
        (None, int | None, None),
    ],
)
def test_values_of_one_meaning_are_converted(value, hint, fitted):
    found = fit(value, hint, of="here")
    assert found == fitted
    assert type(found) is type(fitted)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("8", int, r"a whole number, got '8' \(str\)"),
        (True, float, r"a number, got True \(bool\)"),
        (8.5, int, r"a whole number, got 8\.5 \(float\)"),
        ([8.5], Sequence[int], r"a sequence \(a whole number each\), got \[8\.5\] \(list\)"),
        ("ab", Sequence[str], r"a sequence \(a text each\), got 'ab' \(str\)"),
        (4, Sequence[int] | None, r"a sequence \(a whole number each\) or None, got 4 \(int\)"),
        ((1, 2, 3), tuple[int, int], r"a sequence \(a whole number, a whole number\), got \(1, 2, 3\)"),
        (5, str | Path, r"a text or a path, got 5 \(int\)"),
        ({"a": "x"}, Mapping[str, float], "a mapping, got {'a': 'x'}"),
        (5, Callable[[str], None], r"a function, got 5 \(int\)"),
        ("other", Literal["round", "square"], r"'round' or 'square', got 'other'"),
        (np.ones((2, 3)), float, r"a number, got ndarray of float64 with the shape \(2, 3\)"),
        ("x" * 99, int, "a whole number, got 'x{59}… "),
        (torch.nn.ReLU(), torch.Generator, r"Generator, got ReLU\(\) \(ReLU\)"),
    ],
)
def test_other_values_are_refused_in_one_line(value, hint, expected):
    with pytest.raises(WrongTypeError, match=f"^here: expected {expected}") as caught:
        fit(value, hint, of="here")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, TypeError)


def test_a_checked_function_gets_fitting_arguments():
    assert widen("a", np.int64(1), 2, ratio=np.float32(0.25), deep=3) == (
        "a",
        (1, 2),
        0.25,
        None,
        {"deep": 3},
    )
    with pytest.raises(WrongTypeError, match=r"^widen: sizes: expected a whole number, got '2' \(str\)$"):
        widen("a", 1, "2")
    message = (
        r"^widen: missing a required argument: 'name'; expected widen\(name, \*sizes, ratio, log, \*\*more\)$"
    )
    with pytest.raises(WrongTypeError, match=message):
        widen()


def test_fields_are_checked_and_converted():
    assert Shape(np.int64(3), "place") == Shape(3, Path("place"))
    with pytest.raises(WrongTypeError, match=r"^Shape: kind: expected 'round' or 'square', got 'flat'"):
        Shape(3, kind="flat")


def test_options_are_checked_by_name_and_type():
    assert fitting_options("shape", Shape, {"folder": "a"}) == {"folder": Path("a")}
    with pytest.raises(UsageError, match=r"^shape does not take the option 'widht'; did you mean 'width'\?$"):
        fitting_options("shape", Shape, {"widht": 3})
    with pytest.raises(
        WrongTypeError, match=r"^shape, option width: expected a whole number, got None \(NoneType\)$"
    ):
        fitting_options("shape", Shape, {"width": None})


_SPARK: dict[str, Any] = {"spatial_dims": 2, "cell": 2}


@pytest.fixture(scope="module")
def encoder():
    return medmim.build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=np.array([2, 4]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: medmim.ingest(None), "^ingest: source: expected a path or a text, got None"),
        (lambda _: medmim.ingest("a", "b", foo=1), "^ingest does not take the option 'foo'"),
        (lambda _: medmim.ingest("a", "b", workers="2"), "^ingest, option workers: expected a whole number"),
        (lambda _: medmim.open_dataset(5), "^open_dataset: data: expected a path or a text, got 5"),
        (lambda _: medmim.pretrain(config=5), "^pretrain: config: expected a text or None, got 5"),
        (lambda _: medmim.pretrain(init=5), "^expected the result or the id of a run, or a file, got [35] "),
        (lambda _: medmim.pretrain("mesh"), r"^pretrain: too many positional arguments; expected pretrain\("),
        (lambda _: medmim.predict("a", model=5), "^predict: model: expected a text or a sequence"),
        (lambda _: medmim.predict("a", min_score="x"), "^predict: min_score: expected a number or None"),
        (lambda _: medmim.predict("a", force="no"), "^predict: force: expected True or False, got 'no'"),
        (lambda _: medmim.evaluate("a", metrics=5), "^evaluate, option metrics: expected a sequence"),
        (lambda _: medmim.compare(3), "^expected the result or the id of a run, or a file, got [35] "),
        (lambda _: medmim.study("a", max_hours="x"), "^study: max_hours: expected a number or None, got 'x'"),
        (lambda _: medmim.export(5), "^export: format: expected a text, got 5"),
        (lambda _: medmim.load_model(trust_code="a:b"), "^load_model: trust_code: expected a sequence"),
        (
            lambda _: medmim.load_encoder(None),
            "^expected the result or the id of a run, or a file, got None ",
        ),
        (
            lambda _: medmim.build_mask("mesh", ratio="0.5"),
            "^build_mask: ratio: expected a number, got '0.5'",
        ),
        (
            lambda _: medmim.build_mask("mesh"),
            "^build_mask: missing a required (keyword-only )?argument: 'ratio'",
        ),
        (
            lambda _: medmim.build_mask("mesh", ratio=0.5, cell="8"),
            "^mask 'mesh' does not take the option 'cell'",
        ),
        (
            lambda _: medmim.build_mask("tissue", ratio=0.5, rule=5),
            "^mask 'tissue', option rule: expected Mask or None",
        ),
        (
            lambda _: medmim.build_mask("block", ratio=0.5, aspect="x"),
            "^mask 'block', option aspect: expected a number",
        ),
        (
            lambda _: medmim.masks.hidden_count("8", 0.5),
            "^hidden_count: cells: expected a whole number, got '8'",
        ),
        (
            lambda _: medmim.build_encoder("vit", spatial_dims="2", in_channels=1),
            "^build_encoder: spatial_dims",
        ),
        (
            lambda _: medmim.build_encoder("vit", spatial_dims=5, in_channels=1),
            "spatial_dims of 2 or 3 and in_cha",
        ),
        (
            lambda _: medmim.build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=8),
            "^encoder 'dynunet', option filters: expected a sequence .a whole number each., got 8",
        ),
        (
            lambda e: medmim.build_method("spark", encoder="vit", **_SPARK),
            "^build_method: encoder: expected Encoder",
        ),
        (
            lambda e: medmim.build_method("spark", encoder=e, **_SPARK, compute=5),
            "^method 'spark', option compute",
        ),
    ],
)
def test_the_python_interface_refuses_in_one_line(call, message, encoder):
    with pytest.raises(UsageError, match=message) as caught:
        call(encoder)
    assert "\n" not in str(caught.value)


def test_sizes_of_axes_in_a_caller_do_not_count():
    pairs, hidden = torch.zeros(2, 1, 4, 4), torch.zeros(4, 2, 2, dtype=torch.bool)
    with jaxtyped("context"):
        assert isinstance(pairs, Float[torch.Tensor, "batch channel *space"])
        assert hidden_voxels(hidden, (4, 4)).shape == (4, 1, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": 4}, r"^Mask\.sample: grid: expected a sequence \(a whole number each\), got 4 \(int\)$"),
        (
            {"grid": (-4, 4)},
            r"^expected a batch of at least 0 and the numbers of cells along 2 or 3 axes, got 2 and",
        ),
        (
            {"grid": (2, 2, 2, 2)},
            "^expected a batch of at least 0 and the numbers of cells along 2 or 3 axes",
        ),
        ({"batch": "2"}, r"^Mask\.sample: batch: expected a whole number, got '2'"),
        ({"generator": 0}, r"^Mask\.sample: generator: expected Generator, got 0 \(int\)$"),
        (
            {"weight": np.ones((2, 4, 4))},
            r"^Mask\.sample: weight: expected Float\[Tensor, .*, got ndarray of float64",
        ),
    ],
)
def test_masks_are_drawn_from_sensible_arguments_only(change, message):
    given = {"batch": 2, "grid": (4, 4), "generator": torch.Generator(), **change}
    with pytest.raises(medmim.errors.MedmimError, match=message):
        medmim.masks.TissueMask(ratio=0.5).sample(**given)


@pytest.mark.parametrize("cell", ["2", 2.0, None, (2, "2")])
def test_a_cell_of_another_type_is_refused(encoder, cell):
    with pytest.raises(
        WrongTypeError, match=r"^build_method: cell: expected a whole number or a sequence \("
    ):
        medmim.build_method("spark", encoder=encoder, spatial_dims=2, cell=cell)


def test_numbers_of_numpy_serve_as_sizes(encoder):
    for cell in (np.int64(2), np.array([2, 2])):
        medmim.build_method("spark", encoder=encoder, spatial_dims=np.int64(2), cell=cell)
    hidden = medmim.build_mask("mesh", ratio=np.float32(0.5)).sample(
        2, np.array([4, 4]), generator=torch.Generator()
    )
    assert hidden.flatten(1).sum(1).tolist() == [8, 8]


def test_dimensions_of_encoder_and_method_agree(encoder):
    with pytest.raises(medmim.errors.ShapeError, match="spatial_dims: expected 2, as of the encoder, got 3"):
        medmim.build_method("spark", encoder=encoder, spatial_dims=3, cell=2)
