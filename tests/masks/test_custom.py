"""Users' own masks, given as module:callable."""

from pathlib import Path

import pytest
import torch

from medmim.errors import ShapeError, UsageError
from medmim.masks import build_mask

SOURCE = """
import torch
from dataclasses import dataclass
from medmim.masks import Draw, Mask, MaskRequest


@dataclass(frozen=True, kw_only=True)
class FirstRows(Mask):
    last: bool = False

    def rank(self, request):
        order = 1 - request.scan_order(request.coordinates()).expand(request.batch, *request.grid)
        return -order if self.last else order


def by_weight(request, sign=1):
    return request.noise() if request.weight is None else sign * request.weight


def wrong_shape(request):
    return torch.zeros(request.batch)


def wrong_type(request):
    return "ranks"


def nan(request):
    return request.noise() * float("nan")


def boolean(request):
    return request.noise() > 0.5


@dataclass(frozen=True, kw_only=True)
class BooleanRanks(Mask):
    def rank(self, request):
        return request.noise() > 0.5


@dataclass(frozen=True, kw_only=True)
class OldFirstRows(Mask):  # written for version 0.1
    looks_at_tissue = True

    def rank(self, draw: Draw):
        order = 1 - draw.scan_order(draw.coordinates()).expand(draw.batch, *draw.grid)
        return order + 0 * draw.hide


number = 5
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    (tmp_path / "own_masks.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def draw(mask, **given):
    return mask.sample(2, (4, 4), generator=torch.Generator().manual_seed(0), **given)


def test_a_subclass_of_mask_is_built_with_its_options():
    assert draw(build_mask("own_masks:FirstRows", ratio=0.5))[:, :2].all()
    assert draw(build_mask("own_masks:FirstRows", ratio=0.5, last=True))[:, 2:].all()


def test_names_of_version_0_1_are_accepted_with_a_warning():
    with pytest.warns(FutureWarning, match="looks_at_tissue is now uses_tissue"):
        mask = build_mask("own_masks:OldFirstRows", ratio=0.5)
    with pytest.warns(FutureWarning, match="MaskRequest.hide is now num_hidden"):
        assert draw(mask)[:, :2].all()
    assert mask.uses_tissue


def test_a_function_ranks_cells_and_receives_the_weights():
    weight = torch.arange(16.0).reshape(1, 4, 4).expand(2, 4, 4)
    assert draw(build_mask("own_masks:by_weight", ratio=0.25), weight=weight)[:, 3].all()
    assert draw(build_mask("own_masks:by_weight", ratio=0.25, sign=-1), weight=weight)[:, 0].all()


def test_a_function_hides_the_exact_count():
    assert draw(build_mask("own_masks:by_weight", ratio=0.7)).flatten(1).sum(dim=1).tolist() == [11, 11]


def test_ratios_and_ratio_ranges_are_validated():
    with pytest.raises(UsageError, match=r"^--ratio: expected a number between 0 and 1"):
        build_mask("own_masks:by_weight", ratio=1.5)
    counts = {int(draw(build_mask("own_masks:by_weight", ratio=0.2, max_ratio=0.9))[0].sum())}
    assert counts <= set(range(3, 15))


@pytest.mark.parametrize("path", ["no_such_module:mask", "own_masks:missing", ":mask", "own_masks:"])
def test_paths_that_cannot_be_imported_are_rejected(path):
    with pytest.raises(
        UsageError, match=f"^--mask {path}: cannot import it .*; expected an importable 'module:call"
    ):
        build_mask(path, ratio=0.5)


@pytest.mark.parametrize(
    ("path", "options"),
    [("own_masks:number", {}), ("own_masks:by_weight", {"wrong": 1}), ("own_masks:FirstRows", {"x": 1})],
)
def test_callables_with_another_signature_are_rejected(path, options):
    with pytest.raises(
        UsageError, match=f"^--mask {path}: cannot be called .*; expected a subclass of medmim.masks.Mask"
    ):
        build_mask(path, ratio=0.5, **options)


@pytest.mark.parametrize(("name", "got"), [("wrong_shape", r"\(2,\) on cpu"), ("wrong_type", "str")])
def test_ranks_of_another_shape_or_type_are_rejected(name, got):
    mask = build_mask(f"own_masks:{name}", ratio=0.5)
    with pytest.raises(
        ShapeError, match=f"^mask own_masks:{name}: expected a tensor of ranks, 2×4×4 on the CPU, got {got}$"
    ):
        draw(mask)


def test_nan_ranks_are_rejected():
    with pytest.raises(
        ShapeError, match=r"^mask own_masks:nan: expected a rank for every cell, got NaN for some$"
    ):
        draw(build_mask("own_masks:nan", ratio=0.5))


@pytest.mark.parametrize("name", ["boolean", "BooleanRanks"])
def test_a_mask_instead_of_ranks_is_rejected(name):
    mask = build_mask(f"own_masks:{name}", ratio=0.5)
    with pytest.raises(
        ShapeError, match=f"mask own_masks:{name}: expected ranks as real numbers, got torch.bool"
    ):
        draw(mask)


def test_the_mask_of_the_documentation_works(tmp_path):
    page = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
    (tmp_path / "my_masks.py").write_text(page.split("```python")[1].split("```")[0], encoding="utf-8")
    hidden = draw(build_mask("my_masks:rank", ratio=0.5, strength=2.0))
    assert hidden.shape == (2, 4, 4)
    assert hidden[:, 1::2].all()
    assert not hidden[:, ::2].any()
