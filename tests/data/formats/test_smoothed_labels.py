"""Values that interpolation leaves at the edges of classes are found; classes with an area are not."""

import numpy as np
import scipy

from medmim.data.formats.smoothed_labels import values_at_edges


def block(classes):
    label = np.zeros((20, 18, 12), np.uint8)
    for number, start in classes.items():
        label[start : start + 4, 4:9, 3:8] = number
    return label


def test_linear_interpolation_leaves_values_at_edges():
    label = scipy.ndimage.zoom(block({3: 4}).astype(np.float32), 2, order=1)
    assert values_at_edges(np.rint(label).astype(np.uint8)) == (1, 2)
    picture = scipy.ndimage.uniform_filter(block({255: 6})[..., 5:6].astype(np.float32), (2, 2, 1))
    assert 255 not in values_at_edges(picture.astype(np.uint8))
    assert len(values_at_edges(picture.astype(np.uint8))) > 0


def test_classes_side_by_side_and_small_ones_are_classes():
    assert values_at_edges(block({1: 2, 2: 6, 3: 10})) == ()
    label = block({3: 2})
    label[12, 10, 5:10] = 1
    assert values_at_edges(label) == ()
    assert values_at_edges(np.zeros((4, 4, 1), np.uint8)) == ()
