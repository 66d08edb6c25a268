"""Run-length encoded COCO masks are decoded exactly, compressed or not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medmim.data.formats.annotation_json import read_coco_mark
from medmim.data.formats.annotations import Annotation, EntryError, place_annotations
from medmim.data.formats.coco_rle import decode_runs, mask_from_runs
from medmim.data.formats.nifti import Image


def counts_of(mask: np.ndarray) -> list[int]:
    """Count down the columns of a mask of (rows, columns), as COCO's definition says."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if bool(pixel) != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return counts


def letters_of(counts: list[int]) -> str:
    """Write counts as COCO's letters: differences from the fourth on, five bits a letter, lowest first."""
    text = ""
    for index, count in enumerate(counts):
        value, more = count - (counts[index - 2] if index > 2 else 0), True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr(48 + bits + (0x20 if more else 0))
    return text


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_round_trip(seed: int, share: float):
    rng = np.random.default_rng(seed)
    mask = rng.random((int(rng.integers(1, 90)), int(rng.integers(1, 90)))) < share
    counts = counts_of(mask)
    rows, columns = mask.shape
    for said in (counts, letters_of(counts)):
        runs, size = decode_runs({"size": [rows, columns], "counts": said})
        assert size == (columns, rows)
        np.testing.assert_array_equal(mask_from_runs(runs, size), mask.T)


def test_a_string_decoded_by_hand():
    """100 is 00011 00100, low five bits first; then 1, then 2 more than the 100, then no more than the 1."""
    assert decode_runs({"size": [3, 70], "counts": "6T3" + "120"}) == ((6, 100, 1, 102, 1), (70, 3))


@pytest.mark.parametrize(
    "packed",
    [
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [0, 4], "counts": [0]},
        {"size": [60_000, 60_000], "counts": [3_600_000_000]},
        {"size": [2, 2], "counts": "~~~"},
        {"size": [2, 2], "counts": ""},
    ],
)
def test_damaged_runs_are_rejected(packed: dict[str, object]):
    with pytest.raises(ValueError, match=r"runs|empty|min"):
        decode_runs(packed)


def test_a_mask_gives_label_and_box():
    mask = np.zeros((5, 7), bool)
    mask[1:3, 4:6] = True
    packed = {"size": [5, 7], "counts": letters_of(counts_of(mask))}
    picture = Image(np.zeros((7, 5, 1), np.uint8), np.eye(4))
    mark = read_coco_mark("cyst", {"segmentation": packed}, Counter())
    placed = place_annotations([mark], picture, {"cyst": 3})
    assert placed.label is not None
    np.testing.assert_array_equal(placed.label.array[..., 0], mask.T * 3)
    assert placed.boxes == (("cyst", (4.0, 1.0, 6.0, 3.0)),)


def test_a_mask_of_a_different_size_gives_neither_label_nor_box():
    mark = Annotation(name="cyst", box=(1.0, 1.0, 3.0, 3.0), runs=(0, 4), size=(2, 2))
    placed = place_annotations([mark], Image(np.zeros((7, 5, 1), np.uint8), np.eye(4)), {"cyst": 1})
    assert (placed.label, placed.boxes) == (None, ())


def test_a_finding_without_position_is_counted():
    faults = Counter()
    with pytest.raises(EntryError, match="empty"):
        read_coco_mark("cyst", {"segmentation": {"size": [2, 2], "counts": [9]}}, faults)
    assert faults == {"malformed_mask": 1}
