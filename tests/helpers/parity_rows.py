"""A row of the parity table, and the images and masks of its comparisons."""

from dataclasses import dataclass

import torch

from medmim.masks import build_mask


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        before: what was reported of the version before the mend, as text; – where nothing was.
        bound: limit of `now`, with its sign; empty where the number is stated without one.
    """

    line: str
    compared: str
    reference: str
    before: str
    now: float
    bound: str = ""

    @property
    def met(self) -> bool:
        """Whether the number keeps its bound."""
        if not self.bound:
            return True
        limit = float(self.bound[1:])
        return self.now <= limit if self.bound[0] == "≤" else self.now >= limit


def masks_of(grid, ratio=0.6, **options):
    """Return two masks."""
    generator = torch.Generator().manual_seed(0)
    return build_mask("random", ratio=ratio, **options).sample(2, grid, generator=generator)


def images_of(channels, space):
    """Return two images."""
    return torch.randn(2, channels, *space, generator=torch.Generator().manual_seed(1)) * 3 + 1
