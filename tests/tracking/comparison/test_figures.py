"""The figures of a comparison do not exaggerate."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from recorded_runs import run, spread

from medmim.tracking.comparison.figures import heat_map
from medmim.tracking.comparison.findings import find


@pytest.mark.parametrize(("half_width", "alike"), [(0.05, True), (0.001, False)])
def test_means_that_differ_by_less_than_their_intervals_have_similar_colours(half_width, alike):
    arms = [
        replace(
            arm,
            interval=(arm.mean - half_width, arm.mean + half_width),
            columns={"method": "spark", "mask": arm.name.split()[1], "ratio": "0.7"},
        )
        for arm in find([run("spark mesh 0.7", spread(0.71)), run("spark random 0.7", spread(0.7))]).arms
    ]
    with Image.open(io.BytesIO(heat_map(arms, "Dice"))) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    cells = pixels[[int(share * len(pixels)) for share in (0.25, 0.68)], int(0.3 * pixels.shape[1])]
    assert (np.abs(cells[0] - cells[1]).max() < 60) == alike
