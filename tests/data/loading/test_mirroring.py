"""Mirroring axes: chosen from names and positions of the classes, and applied to samples."""

import numpy as np
import pytest
import tiny
import torch

from medmim.data.dataset.manifest import BoxRecord
from medmim.data.loading.fingerprint import ClassStatistics, Fingerprint
from medmim.data.loading.mirroring import (
    RandMirror,
    choose_mirroring,
    sided_boxes,
    sided_classes,
    sided_names,
)
from medmim.errors import UsageError


def fingerprint(*classes):
    return Fingerprint(
        volumes=8, shape=(8, 8, 8), spacing_mm=(1, 1, 1), anisotropy=1, intensities={}, classes=classes
    )


def one(code, positions, ml=1.0):
    sides = [int(np.sign(p - 0.5) * (abs(p - 0.5) > 0.05)) for p in positions]
    return ClassStatistics(code=code, ml=ml, components=1, sides=tuple(sides), positions=tuple(positions))


@pytest.mark.parametrize(
    "names",
    [
        ["kidney_left", "kidney_right"],
        ["Left-Hippocampus"],
        ["ctx-lh-cuneus", "ctx-rh-cuneus"],
        ["HippocampusL", "HippocampusR"],
        ["l thalamus", "r thalamus"],
        ["LKidney", "RKidney"],
        ["kidneyl", "kidneyr"],
        ["leftkidney", "rightkidney"],
        ["linke Niere"],
        ["rein droit"],
        ["Niere_li", "Niere_re"],
        ["Hippocampe G", "Hippocampe D"],
        ["riñón izquierdo"],
        ["LV", "RV"],
    ],
)
def test_names_that_state_a_side_are_recognised(names):
    assert sided_names(names)


@pytest.mark.parametrize("names", [["liver", "tumour"], ["L1", "L2"], ["cleft", "upright"], ["in", "re"], []])
def test_other_names_are_not(names):
    assert sided_names(names) == ""


def test_mirrored_classes_of_equal_size_are_a_pair():
    """Two balls, one on each side, in images cropped at different places."""
    offsets = [0.0, 0.1, -0.1, 0.05]
    pair = fingerprint(one(1, [0.3 + o for o in offsets]), one(2, [0.6 + o for o in offsets]))
    assert "left–right pair" in sided_classes(pair)
    alternating = fingerprint(one(1, [0.3, 0.7, 0.3, 0.7]), one(2, [0.7, 0.3, 0.7, 0.3]))
    assert sided_classes(alternating) == ""


@pytest.mark.parametrize(("right", "sided"), [(8, True), (6, True), (4, False), (0, True)])
def test_a_class_on_one_side_in_most_cases(right, sided):
    positions = [0.7] * right + [0.3] * (8 - right)
    assert bool(sided_classes(fingerprint(one(1, positions)))) == sided


def test_a_central_class_is_on_no_side():
    assert sided_classes(fingerprint(one(1, [0.52, 0.48, 0.51]))) == ""


def test_boxes_on_one_side():
    def volume(position):
        box = BoxRecord(box=(position, 2, 2, position + 2, 4, 4), **{"class": "heart"})
        return tiny.row().model_copy(update={"boxes": (box,)})

    assert "heart" in sided_boxes([volume(2), volume(3), volume(2)])
    assert sided_boxes([volume(2), volume(15)]) == ""


def test_auto_forbids_left_right_only_where_anatomy_does():
    free = choose_mirroring(["auto"], default=(0, 1, 2), names=["tumour"], fingerprint=None)
    assert free.axes == (0, 1, 2)
    sided = choose_mirroring(["auto"], default=(0, 1, 2), names=["lung left"], fingerprint=None)
    assert sided.axes == (1, 2)
    assert (
        sided.line() == "mirroring: front-back, head-feet (left–right is off: class 'lung left' names a side)"
    )


def test_the_user_decides():
    for words, axes in ((["none"], ()), (["head-feet", "left_right"], (0, 2))):
        assert choose_mirroring(words, default=(0,), names=["left lung"], fingerprint=None).axes == axes
    with pytest.raises(UsageError, match=r"mirror_axes: expected auto, none, or some of left-right.*got 'x'"):
        choose_mirroring(["x"], default=(0,), names=[], fingerprint=None)


@pytest.mark.parametrize(
    ("axes", "shown", "flipped"), [((0,), (0, 1, 2), [1]), ((0,), (1, 2), []), ((2,), (0, 2), [2])]
)
def test_samples_are_mirrored_along_allowed_axes_only(axes, shown, flipped):
    image = torch.arange(float(np.prod([3] * len(shown)))).reshape(1, *[3] * len(shown))
    mirror = RandMirror(["image"], axes)
    mirror.set_random_state(seed=0)
    found = {tuple(mirror({"image": image, "axes": shown})["image"].flatten().tolist()) for _ in range(30)}
    expected = {tuple(image.flatten().tolist())}
    if flipped:
        expected.add(tuple(image.flip(flipped).flatten().tolist()))
    assert found == expected
