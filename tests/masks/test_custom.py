"""A user's own mask comes in as module:callable."""

import pytest
import torch

from medmim.errors import ShapeError, UsageError
from medmim.masks import build_mask

SOURCE = """
import torch
from dataclasses import dataclass
from medmim.masks import Draw, Mask


@dataclass(frozen=True, kw_only=True)
class FirstRows(Mask):
    last: bool = False

    def rank(self, draw):
        order = 1 - draw.order(draw.places()).expand(draw.batch, *draw.grid)
        return -order if self.last else order


def by_weight(draw, sign=1):
    return draw.noise() if draw.weight is None else sign * draw.weight


def wrong_shape(draw):
    return torch.zeros(draw.batch)


def wrong_type(draw):
    return "ranks"


def nan(draw):
    return draw.noise() * float("nan")


number = 5
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    (tmp_path / "own_masks.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def draw(mask, **given):
    return mask.sample(2, (4, 4), generator=torch.Generator().manual_seed(0), **given)


def test_a_subclass_is_built_with_its_options():
    assert draw(build_mask("own_masks:FirstRows", ratio=0.5))[:, :2].all()
    assert draw(build_mask("own_masks:FirstRows", ratio=0.5, last=True))[:, 2:].all()


def test_a_function_ranks_cells_and_sees_weights():
    weight = torch.arange(16.0).reshape(1, 4, 4).expand(2, 4, 4)
    assert draw(build_mask("own_masks:by_weight", ratio=0.25), weight=weight)[:, 3].all()
    assert draw(build_mask("own_masks:by_weight", ratio=0.25, sign=-1), weight=weight)[:, 0].all()


def test_the_exact_count_is_hidden_whatever_the_ranks():
    assert draw(build_mask("own_masks:by_weight", ratio=0.7)).flatten(1).sum(dim=1).tolist() == [11, 11]


def test_ratios_and_ranges_are_checked_as_for_every_mask():
    with pytest.raises(UsageError, match=r"^--ratio: expected a number between 0 and 1"):
        build_mask("own_masks:by_weight", ratio=1.5)
    counts = {int(draw(build_mask("own_masks:by_weight", ratio=0.2, max_ratio=0.9))[0].sum())}
    assert counts <= set(range(3, 15))


@pytest.mark.parametrize("path", ["no_such_module:mask", "own_masks:missing", ":mask", "own_masks:"])
def test_refuses_what_cannot_be_imported(path):
    with pytest.raises(
        UsageError, match=f"^--mask {path}: cannot import it .*; expected an importable 'module:call"
    ):
        build_mask(path, ratio=0.5)


@pytest.mark.parametrize(
    ("path", "options"),
    [("own_masks:number", {}), ("own_masks:by_weight", {"wrong": 1}), ("own_masks:FirstRows", {"x": 1})],
)
def test_refuses_what_cannot_be_called(path, options):
    with pytest.raises(
        UsageError, match=f"^--mask {path}: cannot be called .*; expected a subclass of medmim.masks.Mask"
    ):
        build_mask(path, ratio=0.5, **options)


@pytest.mark.parametrize(("name", "got"), [("wrong_shape", r"\(2,\) on cpu"), ("wrong_type", "str")])
def test_refuses_what_is_no_rank_for_each_cell(name, got):
    mask = build_mask(f"own_masks:{name}", ratio=0.5)
    with pytest.raises(
        ShapeError, match=f"^mask own_masks:{name}: expected a tensor of ranks, 2×4×4 on the cpu, got {got}$"
    ):
        draw(mask)


def test_refuses_ranks_that_are_no_numbers():
    with pytest.raises(
        ShapeError, match=r"^mask own_masks:nan: expected a rank for every cell, got NaN for some$"
    ):
        draw(build_mask("own_masks:nan", ratio=0.5))
