"""Masks stored as DICOM images become labels if the user names them; other images can be skipped."""

import numpy as np
import pytest
from dicom_maker import write_series
from ingest_source import count_fates, run_ingest

from medmim.data.formats.nifti import read_image
from medmim.data.ingest.layout_rules import InferenceRules
from medmim.stages.ingest import preview

LABELS = InferenceRules(roles=(("MASKS/*", "label"),))


def write_masks(folder, series):
    """Write a scan and two masks on its grid, as in 3D-IRCADb."""
    write_series(folder / "SCAN", series="1.2.3.4")
    for first, organ in enumerate(("liver", "spleen")):

        def draw(slice_, place, first=first):
            pixels = np.zeros((8, 10), np.int16)
            pixels[2:4, first * 5 : first * 5 + 3] = 255 * (place in (2, 3))
            slice_.PixelData = pixels.tobytes()

        write_series(folder / "MASKS" / organ, series=series.format(first), tweak=draw)


@pytest.mark.parametrize("series", ["1.2.3.7{}", "1.2.3.4"])  # of its own, or as their scan
def test_masks_that_the_user_names_are_labels(tmp_path, series):
    write_masks(tmp_path / "in", series)
    dataset = run_ingest(tmp_path, rules=LABELS)
    assert count_fates(tmp_path) == {("accepted", "volume"): 6, ("accepted", "label"): 12}
    assert dataset.info.label_names == {1: "liver", 2: "spleen"}
    label = read_image(dataset.root / dataset.volumes[0].label).array
    assert np.bincount(label.ravel()).tolist()[1:] == [12, 12]
    assert [sorted(set((label == number).nonzero()[0])) for number in (1, 2)] == [[0, 1, 2], [5, 6, 7]]


def test_dicom_images_are_skipped_on_request(tmp_path):
    write_masks(tmp_path / "in", "1.2.3.4")
    rules = InferenceRules(roles=(("MASKS/*", "skip"),))
    found = preview(tmp_path / "in", tmp_path / "new", workers=1, rules=rules)
    assert (found.files_seen, len(found.series), found.others) == (18, 1, {"skipped_by_role": 12})
    assert not run_ingest(tmp_path, rules=rules).volumes[0].label
    assert count_fates(tmp_path) == {("accepted", "volume"): 6, ("skipped", "skipped_by_role"): 12}


def test_masks_that_are_no_volume_are_refused(tmp_path):
    write_masks(tmp_path / "in", "1.2.3.7{}")
    for path in sorted((tmp_path / "in" / "MASKS" / "liver").iterdir())[1:3]:
        path.unlink()
    run_ingest(tmp_path, rules=LABELS)
    fates = count_fates(tmp_path)
    assert fates["accepted", "volume"] == 6
    assert sum(count for (fate, _), count in fates.items() if fate == "quarantined") == 4
