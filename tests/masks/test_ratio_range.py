"""A ratio may be a range: one count a batch."""

import pytest
import torch

from medmim.errors import UsageError
from medmim.masks import build_mask, hidden_count


def test_counts_cover_the_range_and_are_one_a_batch():
    mask = build_mask("mesh", ratio=0.5, max_ratio=0.8)
    generator = torch.Generator().manual_seed(0)
    drawn = [mask.sample(4, (5, 5), generator=generator).flatten(1).sum(dim=1).tolist() for _ in range(300)]
    assert all(len(set(counts)) == 1 for counts in drawn)
    seen = [counts[0] for counts in drawn]
    assert set(seen) == set(range(hidden_count(25, 0.5), hidden_count(25, 0.8) + 1))


@pytest.mark.parametrize("max_ratio", [0.5, 0.3, 1.0, float("nan")])
def test_refuses_a_range_that_runs_backwards(max_ratio):
    with pytest.raises(
        UsageError,
        match=f"^mask option max_ratio: expected a number between --ratio 0.5 and 1, got {max_ratio:g}$",
    ):
        build_mask("mesh", ratio=0.5, max_ratio=max_ratio)
