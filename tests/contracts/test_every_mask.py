"""Contract of every mask of the table, in 2D and 3D, at every ratio of the study."""

import math

import pytest
import torch

from medmim.config.runs import PretrainSettings
from medmim.config.yaml_settings import resolve
from medmim.errors import ShapeError, UsageError
from medmim.masks import MASKS, build_mask, hidden_count

GRIDS = [(7, 7), (14, 10), (2, 1), (1, 9), (4, 6, 8), (3, 3, 3), (1, 5, 4)]
RATIOS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]

every_mask = pytest.mark.parametrize("name", sorted(MASKS))
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: "x".join(map(str, grid)))


def draw(name, grid, *, ratio=0.7, batch=5, seed=0):
    return build_mask(name, ratio=ratio).sample(batch, grid, generator=torch.Generator().manual_seed(seed))


@every_mask
@every_grid
@pytest.mark.parametrize("ratio", RATIOS)
def test_hides_the_exact_count_in_every_sample(name, grid, ratio):
    hidden = draw(name, grid, ratio=ratio)
    assert hidden.shape == (5, *grid)
    assert hidden.dtype == torch.bool
    expected = hidden_count(math.prod(grid), ratio)
    assert hidden.flatten(1).sum(dim=1).tolist() == [expected] * 5


@every_mask
@pytest.mark.parametrize("ratio", [1e-6, 1 - 1e-6])
def test_keeps_and_hides_at_least_one_cell_at_any_ratio(name, ratio):
    hidden = draw(name, (3, 3), ratio=ratio).flatten(1)
    assert hidden.any(dim=1).all()
    assert (~hidden).any(dim=1).all()


@every_mask
@every_grid
def test_equal_seeds_give_equal_masks(name, grid):
    assert torch.equal(draw(name, grid, seed=3), draw(name, grid, seed=3))


@every_mask
@pytest.mark.parametrize("grid", [(14, 10), (4, 6, 8)])
def test_samples_and_seeds_give_different_masks(name, grid):
    hidden = draw(name, grid, batch=16).flatten(1)
    assert len({tuple(row) for row in hidden.tolist()}) > 8
    assert not torch.equal(draw(name, grid, seed=0), draw(name, grid, seed=1))


@every_mask
def test_the_generator_is_the_only_source_of_randomness(name):
    torch.manual_seed(0)
    first = draw(name, (7, 7))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(draw(name, (7, 7)), first)
    assert torch.equal(torch.get_rng_state(), before)


@every_mask
def test_consecutive_draws_differ(name):
    generator = torch.Generator().manual_seed(0)
    mask = build_mask(name, ratio=0.6)
    first, second = (mask.sample(4, (8, 8), generator=generator) for _ in range(2))
    assert not torch.equal(first, second)


@every_mask
def test_masks_are_drawn_on_the_cpu_under_any_default_device(name):
    expected = draw(name, (4, 6, 8))
    with torch.device("meta"):  # tensors created on this device have no data
        hidden = draw(name, (4, 6, 8))
    assert hidden.device.type == "cpu"
    assert torch.equal(hidden, expected)


@every_mask
def test_masks_do_not_depend_on_the_default_dtype(name):
    expected = draw(name, (7, 7))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(draw(name, (7, 7)), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@every_mask
@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.2, -0.1, math.nan, math.inf])
def test_ratios_out_of_range_are_rejected(name, ratio):
    with pytest.raises(UsageError, match=r"^--ratio: expected a number between 0 and 1, both excluded, got "):
        build_mask(name, ratio=ratio)


@every_mask
def test_unknown_options_are_rejected(name):
    with pytest.raises(UsageError, match=f"mask '{name}' does not take the option 'wrong'; "):
        build_mask(name, ratio=0.5, wrong=1)


@every_mask
def test_a_grid_of_one_cell_is_rejected(name):
    with pytest.raises(ShapeError, match=r"a mask needs at least 2 cells, got 1: use a larger --size"):
        draw(name, (1, 1))


@every_mask
def test_masks_are_immutable_and_compare_by_value(name):
    mask = build_mask(name, ratio=0.5)
    assert mask == build_mask(name, ratio=0.5)
    with pytest.raises(AttributeError, match="cannot assign to field"):
        mask.ratio = 0.6


@every_mask
@pytest.mark.parametrize("grid", [(7, 7), (4, 6, 8)], ids=str)
def test_a_ratio_range_gives_one_count_per_batch(name, grid):
    mask = build_mask(name, ratio=0.3, max_ratio=0.8)
    generator = torch.Generator().manual_seed(0)
    cells = math.prod(grid)
    for _ in range(5):
        counts = set(mask.sample(4, grid, generator=generator).flatten(1).sum(dim=1).tolist())
        assert len(counts) == 1
        assert counts <= set(range(hidden_count(cells, 0.3), hidden_count(cells, 0.8) + 1))


@every_mask
@pytest.mark.parametrize("grid", [(7, 7), (4, 6, 8)], ids=str)
def test_weights_do_not_change_the_hidden_count(name, grid):
    mask = build_mask(name, ratio=0.6)
    weight = torch.rand(5, *grid, generator=torch.Generator().manual_seed(1)).round()
    drawn = [
        mask.sample(5, grid, generator=torch.Generator().manual_seed(0), weight=weights)
        for weights in (None, weight, weight)
    ]
    assert drawn[1].flatten(1).sum(dim=1).tolist() == [hidden_count(math.prod(grid), 0.6)] * 5
    assert torch.equal(drawn[1], drawn[2])
    assert mask.uses_tissue or torch.equal(drawn[0], drawn[1])


@every_mask
@pytest.mark.parametrize("shape", [(5, 6, 7), (4, 7, 7)], ids=str)
def test_weights_of_another_shape_are_rejected(name, shape):
    shown = "×".join(map(str, shape))
    message = rf"^mask weights: expected shape 5×7×7 \(batch and grid\) on the CPU, got {shown} on cpu$"
    with pytest.raises(ShapeError, match=message):
        build_mask(name, ratio=0.5).sample(5, (7, 7), generator=torch.Generator(), weight=torch.ones(shape))


@every_mask
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_negative_and_nonfinite_weights_are_rejected(name, value):
    weight = torch.ones(5, 7, 7)
    weight[2, 3, 4] = value
    with pytest.raises(
        ShapeError, match=r"^mask weights: expected finite numbers of at least 0, such as the share"
    ):
        build_mask(name, ratio=0.5).sample(5, (7, 7), generator=torch.Generator(), weight=weight)


@every_mask
def test_every_mask_has_a_configuration(name):
    settings = resolve(PretrainSettings, config=f"spark_{name}")
    assert settings.mask == name


def test_unknown_masks_are_rejected_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"^unknown mask 'mehs'; did you mean 'mesh'\?$"):
        build_mask("mehs", ratio=0.5)


def test_unknown_masks_are_rejected_with_all_known_names():
    with pytest.raises(UsageError, match=r"^unknown mask 'xyz'; known: .*mesh, .*random"):
        build_mask("xyz", ratio=0.5)
