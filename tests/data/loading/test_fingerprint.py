"""The fingerprint of the training data."""

import numpy as np
import pytest
import tiny

from medmim.data.loading.fingerprint import FOLDER, fingerprint_of
from medmim.data.loading.normalisation import choose_normalisation

SHAPE = (20, 16, 12)


def case(root, subject, *, label, image=None, orientation="RAS", modality="MR", spacing=(1.0, 1.0, 2.0)):
    image = np.random.default_rng(0).normal(100, 5, label.shape) if image is None else image
    affine = tiny.affine_of(orientation, spacing, label.shape)
    return tiny.write_volume(root, subject, image.astype(np.float32), affine, label=label, modality=modality)


def box_label(code=1, first=(2, 4, 4), size=(4, 4, 4), dtype=np.uint16):
    label = np.zeros(SHAPE, dtype)
    label[tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))] = code
    return label


def test_geometry_and_classes(tmp_path):
    two = box_label(7) + box_label(7, first=(12, 4, 4))
    rows = [case(tmp_path, "a", label=two), case(tmp_path, "b", label=box_label(1035))]
    found = fingerprint_of(tmp_path, rows, home=None)
    assert found.shape == SHAPE
    assert found.spacing_mm == (1.0, 1.0, 2.0)
    assert found.anisotropy == 2.0
    assert found.codes() == (7, 1035)
    assert found.cases == ((7,), (1035,))
    assert found.without_background == 0
    full = [case(tmp_path, "c", label=two + 1), *rows]
    assert fingerprint_of(tmp_path, full, home=None).without_background == 1
    first, second = found.classes
    assert first.ml == pytest.approx(2 * 64 * 2 / 1000)
    assert (first.components, second.components) == (2, 1)
    assert second.positions == (None, pytest.approx(4 / 20))


@pytest.mark.parametrize(("orientation", "side"), [("RAS", -1), ("LPS", 1), ("ASR", None)])
def test_sides_follow_the_orientation(tmp_path, orientation, side):
    found = fingerprint_of(
        tmp_path, [case(tmp_path, "a", label=box_label(), orientation=orientation)], home=None
    )
    if side is None:  # left–right is the last array axis, along which the box is central
        assert found.classes[0].sides == (0,)
    else:
        assert found.classes[0].sides == (side,)


def test_ct_statistics_are_those_of_the_labelled_voxels(tmp_path):
    label = box_label(size=(10, 8, 8))
    image = np.where(label > 0, 60.0, -1000.0) + np.random.default_rng(0).normal(0, 10, SHAPE)
    row = case(tmp_path, "a", label=label, image=image, modality="CT")
    found = fingerprint_of(tmp_path, [row], home=None).intensities["CT"]
    assert found.region == "labels"
    assert found.mean == pytest.approx(60, abs=2)
    assert 30 < found.low < 40
    assert 80 < found.high < 90


def test_without_labels_ct_statistics_are_those_above_air(tmp_path):
    image = np.where(box_label(size=(10, 8, 8)) > 0, 60.0, -1000.0)
    row = case(tmp_path, "a", label=np.zeros(SHAPE, np.uint8), image=image, modality="CT")
    for labels in (True, False):
        found = fingerprint_of(tmp_path, [row], home=None, labels=labels).intensities["CT"]
        assert (found.region, found.mean) == ("above air", 60.0)


def test_ignored_voxels_are_no_class(tmp_path):
    label = box_label() + box_label(255, first=(12, 4, 4))
    found = fingerprint_of(tmp_path, [case(tmp_path, "a", label=label)], home=None, ignore=255)
    assert found.codes() == (1,)


def test_it_is_computed_once(tmp_path):
    row = case(tmp_path, "a", label=box_label())
    found = fingerprint_of(tmp_path, [row], home=tmp_path / "home")
    (tmp_path / row.image).unlink()
    assert fingerprint_of(tmp_path, [row], home=tmp_path / "home") == found
    assert len(list((tmp_path / "home" / FOLDER).iterdir())) == 1


def test_runs_without_labels_do_not_decide_for_runs_with_labels(tmp_path):
    """A detector's rows have no label file, but still its hash."""
    row = case(tmp_path, "a", label=box_label(7))
    assert fingerprint_of(tmp_path, [row.model_copy(update={"label": None})], home=tmp_path).codes() == ()
    assert fingerprint_of(tmp_path, [row], home=tmp_path).codes() == (7,)


def test_a_damaged_fingerprint_is_computed_again(tmp_path):
    row = case(tmp_path, "a", label=box_label())
    found = fingerprint_of(tmp_path, [row], home=tmp_path / "home")
    [file] = (tmp_path / "home" / FOLDER).iterdir()
    file.write_text("{}")
    assert fingerprint_of(tmp_path, [row], home=tmp_path / "home") == found


def test_normalisation_follows_modality_method_and_window(tmp_path):
    rng = np.random.default_rng(0)
    ct = rng.normal(50, 20, SHAPE)
    rows = [
        case(tmp_path, "a", label=box_label(), image=ct, modality="CT"),
        case(tmp_path, "b", label=box_label(), modality="MR"),
    ]
    found = fingerprint_of(tmp_path, rows, home=None)
    auto = choose_normalisation(found.intensities, "auto", None)
    assert [auto.rule_for(one).method for one in ("CT", "MR", "DX")] == ["dataset", "body", "volume"]
    assert auto.rule_for("CT").low == found.intensities["CT"].low
    assert choose_normalisation(found.intensities, "volume", None).rule_for("CT").method == "volume"
    windowed = choose_normalisation(found.intensities, "dataset", (-100.0, 300.0)).rule_for("CT")
    assert (windowed.low, windowed.high) == (-100, 300)


def test_whole_numbers_down_to_air_look_like_ct(tmp_path):
    image = np.where(box_label() > 0, 60.0, -900.0).round()
    row = case(tmp_path, "a", label=np.zeros(SHAPE, np.uint8), image=image, modality="OT")
    image[:] = -1000
    image[::2] = -500
    other = case(tmp_path, "b", label=np.zeros(SHAPE, np.uint8), image=image, modality="OT")
    assert fingerprint_of(tmp_path, [other], home=None).likely_ct
    assert not fingerprint_of(tmp_path, [row], home=None).likely_ct
