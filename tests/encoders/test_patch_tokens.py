"""Patch selections: take, put, padding, and positions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.encoders.patch_tokens import as_map, as_sequence, select_patches, wave_positions

UNEQUAL = torch.tensor(
    [[[True, False, True], [False, True, True]], [[False, False, True], [False, False, False]]]
)


def test_selected_patches_are_in_grid_order_and_padding_is_zero():
    chosen = select_patches(UNEQUAL)
    sequence = torch.arange(1.0, 13).reshape(2, 6, 1)
    assert chosen.take(sequence).squeeze(-1).tolist() == [[1, 3, 5, 6], [9, 0, 0, 0]]
    assert chosen.real.tolist() == [[True] * 4, [True, False, False, False]]
    assert chosen.weight.squeeze(-1).tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


def test_equal_counts_need_no_padding():
    assert select_patches(UNEQUAL[:1]).real is None
    assert select_patches(UNEQUAL[:1]).weight.squeeze(-1).tolist() == [[1, 1, 1, 1]]


def test_padding_has_no_effect_even_if_infinite():
    sequence = torch.full((2, 6, 3), torch.inf)
    sequence[UNEQUAL.flatten(1)] = 1.0
    assert select_patches(UNEQUAL).take(sequence).isfinite().all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**16))
def test_put_inverts_take(batch, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    where = torch.rand(batch, height, width, generator=generator) < 0.5
    where[:, 0, 0] = True
    sequence = torch.randn(batch, height * width, 2, generator=generator)
    chosen = select_patches(where)
    other = torch.zeros_like(sequence)
    back = chosen.put(chosen.take(sequence), other)
    assert torch.equal(back, torch.where(where.flatten(1).unsqueeze(-1), sequence, other))
    assert not other.any()


@pytest.mark.parametrize("grid", [(3, 4), (2, 3, 4)])
def test_maps_and_sequences_are_the_same_patches(grid):
    features = torch.randn(2, 5, *grid)
    sequence = as_sequence(features)
    place = tuple(n - 1 for n in grid)
    assert torch.equal(sequence[:, int(np.ravel_multi_index(place, grid))], features[(..., *place)])
    assert torch.equal(as_map(sequence, grid), features)


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize(("grid", "width"), [((3, 5), 16), ((5, 3), 19), ((2, 3, 4), 12), ((1, 3, 4), 16)])
def test_positions_equal_the_formula(grid, width, stretch):
    each = width // (2 * len(grid))
    expected = np.zeros((int(np.prod(grid)), width))
    for number, place in enumerate(np.ndindex(*grid)):
        for axis, index in enumerate(place):
            for wave in range(each):
                # Latent MIM's code: linspace(0, 1, n) · n
                at = np.linspace(0, 1, grid[axis])[index] * grid[axis] if stretch else index
                angle = at / 10000 ** (wave / each)
                expected[number, 2 * each * axis + wave] = np.sin(angle)
                expected[number, 2 * each * axis + each + wave] = np.cos(angle)
    waves = wave_positions(grid, width, device=torch.device("cpu"), stretch=stretch)
    np.testing.assert_allclose(waves.numpy(), expected, atol=1e-5)
    assert len({tuple(row) for row in waves.round(decimals=4).tolist()}) == len(waves)
