"""Synthetic heads: segmenting their lesions requires more than brightness."""

import numpy as np
import pytest

from medmim.data.formats.nifti import Image, check_image
from medmim.data.synthetic.anatomy import draw_head


@pytest.mark.parametrize("seed", range(4))
def test_lesions_cannot_be_segmented_by_brightness(seed):
    head = draw_head((48, 48, 20), rng=np.random.default_rng(seed))
    check_image(Image(head.image, np.eye(4)))
    lesions = head.label == 1
    lesion, rest = head.image[lesions], head.image[head.label == 0]
    assert np.median(lesion) > np.percentile(rest, 90)
    brighter = (head.image > level for level in np.linspace(100, 1500, 100))
    overlap = max(2 * lesions[guess].sum() / (guess.sum() + lesions.sum()) for guess in brighter)
    assert overlap < 0.6  # fat, vessels and plexus are as bright
    assert 0.001 < (head.label > 0).mean() < 0.06
    assert np.median(head.image[:2]) < 0.15 * np.median(lesion)  # air around the head


def test_cores_are_darker_than_their_lesions():
    heads = [draw_head((48, 48, 20), rng=np.random.default_rng(seed)) for seed in range(4)]
    cored = [head for head in heads if (head.label == 2).any()]
    assert len(cored) >= 2
    for head in cored:
        assert head.image[head.label == 2].mean() < head.image[head.label == 1].mean()
