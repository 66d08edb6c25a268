"""Labels, boxes and classes of every kind are attached to their images, or the ledger has the reason."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from click.testing import CliRunner
from dicom_maker import write_series
from ingest_source import GRID, count_fates, read_ledger, run_ingest, save_picture, save_volume, scan_array
from label_maker import sorted_slices, write_segmentation, write_structures

from medmim.cli import main
from medmim.config.runs import PretrainSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import read_image
from medmim.data.loading.patches import PatchDataset, pretraining_patches
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import plan_for


@pytest.fixture
def run(tmp_path, sandbox):
    """Ingest `tmp_path`/in and return the dataset."""
    return lambda **options: run_ingest(tmp_path, sandbox=sandbox, **options)


def arrays(dataset, volume):
    return read_image(dataset.root / volume.image), read_image(dataset.root / volume.label)


# DICOM's own label objects


def test_a_dicom_seg_is_on_the_voxels_it_was_drawn_on(tmp_path, run):
    write_series(tmp_path / "in" / "scan")
    slices = sorted_slices(tmp_path / "in" / "scan")
    pixels = np.stack([one.pixel_array for one in slices])
    mask = np.where(pixels > 600, 1, np.where(pixels < 100, 2, 0))
    mask[0] = 0  # segmentations leave out empty slices
    write_segmentation(tmp_path / "in" / "seg.dcm", slices, mask, names=("SENTINEL one", "SENTINEL two"))
    dataset = run(label_names={7: "sentinel two"})
    (volume,) = dataset.volumes
    image, label = arrays(dataset, volume)
    assert volume.verdict == "right"
    assert count_fates(tmp_path) == {("accepted", "volume"): 6, ("accepted", "label"): 1}
    # slice k of the source is slice k or the last but k of the array; the first one is empty
    bright, dark = image.array > 600, image.array < 100
    empty = [k for k in range(6) if not label.array[..., k].any()]
    assert empty in ([0], [5])
    bright[..., empty], dark[..., empty] = False, False
    assert np.array_equal(label.array == 1, bright)
    assert np.array_equal(label.array == 7, dark)
    assert dataset.info.label_names == {1: "neoplasm", 7: "sentinel two"}


def test_rtstruct_contours_are_on_the_voxels_they_were_drawn_on(tmp_path, run):
    def tweak(one, place):
        pixels = np.zeros((8, 10), np.int16) + np.arange(10, dtype=np.int16)
        if 1 <= place <= 3:
            pixels[2:6, 3:9] = 500
            pixels[3:5, 4:6] = 20
        one.PixelData = pixels.tobytes()

    write_series(tmp_path / "in" / "scan", tweak=tweak)
    slices = sorted_slices(tmp_path / "in" / "scan")
    outer = np.array([[2.5, 1.5], [8.5, 1.5], [8.5, 5.5], [2.5, 5.5]])
    hole = np.array([[3.5, 2.5], [5.5, 2.5], [5.5, 4.5], [3.5, 4.5]])
    contours = [(place, points) for place in (1, 2, 3) for points in (outer, hole)]
    write_structures(tmp_path / "in" / "rt.dcm", slices, {"SENTINEL": contours})
    dataset = run()
    image, label = arrays(dataset, dataset.volumes[0])
    assert np.array_equal(label.array == 1, image.array == 500)
    assert dataset.info.label_names == {1: "class 1"}
    write_structures(tmp_path / "in" / "rt.dcm", slices, {"SENTINEL": contours}, off_mm=1.6)
    assert run().volumes[0].label is None
    (row,) = [row for row in read_ledger(tmp_path) if row.reason == "label_offset"]
    assert row.measured["offset_mm"] == pytest.approx(1.4, abs=0.01)  # to the next slice, 3 mm on


def two_objects(tmp_path, run, first, second):
    """A series with a segmentation and a structure set or another segmentation."""
    write_series(tmp_path / "in" / "scan")
    slices = sorted_slices(tmp_path / "in" / "scan")
    write_segmentation(tmp_path / "in" / "a.dcm", slices, first, names=("SENTINEL one",))
    write_segmentation(tmp_path / "in" / "b.dcm", slices, second, names=("SENTINEL two",))
    return run(label_names={1: "sentinel one", 2: "sentinel two"})


def test_label_objects_of_one_series_are_merged(tmp_path, run):
    first, second = np.zeros((6, 8, 10)), np.zeros((6, 8, 10))
    first[1:4, 2:4, 3:6], second[2:5, 5:7, 3:7] = 1, 1
    dataset = two_objects(tmp_path, run, first, second)
    (volume,) = dataset.volumes
    _, label = arrays(dataset, volume)
    assert np.bincount(label.array.ravel()).tolist()[1:] == [int(first.sum()), int(second.sum())]
    assert count_fates(tmp_path) == {("accepted", "volume"): 6, ("accepted", "label"): 2}
    assert [row.measured["merged_labels"] for row in read_ledger(tmp_path) if row.reason == "label"] == [2, 2]
    assert dataset.info.label_names == {1: "sentinel one", 2: "sentinel two"}


def test_overlapping_label_objects_are_refused(tmp_path, run):
    first, second = np.zeros((6, 8, 10)), np.zeros((6, 8, 10))
    first[1:4, 2:4, 3:6], second[3:5, 3:7, 3:7] = 1, 1
    dataset = two_objects(tmp_path, run, first, second)
    assert dataset.volumes[0].label is None
    assert count_fates(tmp_path) == {("accepted", "volume"): 6, ("quarantined", "label_overlap"): 2}
    rows = [row for row in read_ledger(tmp_path) if row.reason == "label_overlap"]
    assert [row.measured["overlap_voxels"] for row in rows] == [3, 3]


def test_a_label_object_inside_another_is_drawn_over_it(tmp_path, run):
    whole, core = np.zeros((6, 8, 10)), np.zeros((6, 8, 10))
    whole[1:5, 1:7, 2:9], core[2:4, 3:5, 4:6] = 1, 1
    dataset = two_objects(tmp_path, run, core, whole)
    _, label = arrays(dataset, dataset.volumes[0])
    assert np.bincount(label.array.ravel()).tolist()[1:] == [core.sum(), whole.sum() - core.sum()]
    rows = [row for row in read_ledger(tmp_path) if row.reason == "label"]
    assert [row.measured["overlap_voxels"] for row in rows] == [core.sum()] * 2


def test_a_copy_of_a_label_object_changes_nothing(tmp_path, run):
    first = np.zeros((6, 8, 10))
    first[1:4, 2:4, 3:6] = 1
    write_series(tmp_path / "in" / "scan")
    slices = sorted_slices(tmp_path / "in" / "scan")
    write_segmentation(tmp_path / "in" / "a.dcm", slices, first, names=("SENTINEL",))
    (tmp_path / "in" / "b.dcm").write_bytes((tmp_path / "in" / "a.dcm").read_bytes())
    dataset = run()
    assert arrays(dataset, dataset.volumes[0])[1].array.sum() == first.sum()
    assert count_fates(tmp_path)["accepted", "label"] == 2


def test_a_label_object_of_an_absent_series_is_refused(tmp_path, run):
    write_series(tmp_path / "other", series="9.8.7")
    write_series(tmp_path / "in" / "scan")
    slices = sorted_slices(tmp_path / "other")
    write_segmentation(tmp_path / "in" / "seg.dcm", slices, np.ones((6, 8, 10)), names=("a",))
    run()
    assert count_fates(tmp_path)["quarantined", "label_without_image"] == 1


# resampling and names


def test_a_label_on_another_grid_is_refused_or_resampled_on_request(tmp_path, run):
    array = scan_array()
    save_volume(tmp_path / "in" / "imagesTr" / "a.nii.gz", array)
    moved = GRID.copy()
    moved[0, 3] = 5.0
    lesion = np.zeros((8, 7, 6), np.uint8)
    lesion[6:8, 2:4, 1:3] = 1
    save_volume(tmp_path / "in" / "labelsTr" / "a.nii.gz", lesion, moved)
    dataset = run()
    (row,) = [row for row in read_ledger(tmp_path) if row.reason == "label_offset"]
    assert (row.fate, row.measured["offset_mm"]) == ("quarantined", 5.0)
    dataset = run(resample_labels=True, label_names={1: "lesion"})
    (volume,) = dataset.volumes
    assert (volume.verdict, volume.repairs) == ("repaired", ("label_resampled",))
    _, label = arrays(dataset, volume)
    assert np.array_equal(
        np.argwhere(label.array).min(axis=0), [1, 2, 1]
    )  # x runs to the left: 5 mm are 5 voxels
    assert dataset.info.label_names == {1: "lesion"}
    assert count_fates(tmp_path)["accepted", "label_resampled"] == 1


def test_a_label_outside_its_image_is_never_resampled(tmp_path, run):
    save_volume(tmp_path / "in" / "imagesTr" / "a.nii.gz", scan_array())
    moved = GRID.copy()
    moved[0, 3] = 500.0
    save_volume(tmp_path / "in" / "labelsTr" / "a.nii.gz", np.ones((8, 7, 6), np.uint8), moved)
    run(resample_labels=True)
    assert count_fates(tmp_path)["quarantined", "label_outside_image"] == 1


# layouts


def test_all_contrasts_of_a_brats_case_share_its_label(tmp_path, run):
    for visit in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"):
        for seed, contrast in enumerate(("t1c", "t2f")):
            save_volume(tmp_path / "in" / visit / f"{visit}-{contrast}.nii.gz", scan_array(seed))
        save_volume(tmp_path / "in" / visit / f"{visit}-seg.nii.gz", np.full((8, 7, 6), 3, np.uint8))
    dataset = run()
    assert count_fates(tmp_path) == {("accepted", "volume"): 6, ("accepted", "label"): 3}
    assert len({volume.subject for volume in dataset.volumes}) == 2
    assert all(volume.label for volume in dataset.volumes)
    assert sorted({volume.tokens for volume in dataset.volumes}) == [("flair",), ("t1", "post")]
    assert dataset.info.label_names == {1: "necrotic core", 2: "edema", 3: "enhancing tumour"}


def test_brats_before_2023_has_class_4_for_the_enhancing_tumour(tmp_path, run):
    for visit in ("BraTS20_Training_001", "BraTS20_Training_002"):
        save_volume(tmp_path / "in" / visit / f"{visit}_t1ce.nii.gz", scan_array(int(visit[-1])))
        save_volume(tmp_path / "in" / visit / f"{visit}_seg.nii.gz", np.full((8, 7, 6), 4, np.uint8))
    dataset = run()
    assert all(volume.label for volume in dataset.volumes)
    assert dataset.info.label_names == {1: "necrotic core", 2: "edema", 4: "enhancing tumour"}


def test_bids_derivatives_label_the_images_on_their_grid(tmp_path, run):
    root = tmp_path / "in"
    save_volume(root / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz", scan_array())
    save_volume(root / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_FLAIR.nii.gz", scan_array(1, (5, 6, 7)))
    save_volume(root / "sub-02" / "anat" / "sub-02_T1w.nii.gz", scan_array(2))
    masks = root / "derivatives" / "manual"
    lesion = np.zeros((8, 7, 6), np.uint8)
    lesion[2, 3, 4] = 1
    save_volume(masks / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_label-lesion_mask.nii.gz", lesion)
    save_volume(masks / "sub-02" / "anat" / "sub-02_desc-brain_mask.nii.gz", lesion)
    dataset = run(label_names={1: "lesion"})
    assert dataset.info.settings["layout"] == "bids"
    assert {
        volume.tokens: volume.label is not None for volume in dataset.volumes if volume.shape == (8, 7, 6)
    }
    assert sum(volume.label is not None for volume in dataset.volumes) == 1
    assert count_fates(tmp_path) == {
        ("accepted", "volume"): 3,
        ("accepted", "label"): 1,
        ("skipped", "derivative"): 1,
    }


def test_a_table_in_world_mm_gives_boxes_to_metaimage_volumes(tmp_path, run):
    folder = tmp_path / "in" / "subset0"
    folder.mkdir(parents=True)
    volume = sitk.GetImageFromArray(scan_array())
    volume.SetSpacing((0.5, 0.5, 2.0))
    volume.SetOrigin((-100.0, 50.0, -300.0))
    sitk.WriteImage(volume, str(folder / "1.2.3.mhd"))
    x, y, z = volume.TransformContinuousIndexToPhysicalPoint((3.0, 4.0, 5.0))
    rows = ["seriesuid,coordX,coordY,coordZ,diameter_mm", f"1.2.3,{x},{y},{z},2", "9.9,1,2,3,4"]
    (tmp_path / "in" / "annotations.csv").write_text("\n".join(rows))
    dataset = run()
    (made,) = dataset.volumes
    (box,) = made.boxes
    assert (made.modality, dataset.info.settings["layout"]) == ("CT", "luna16")
    image = read_image(dataset.root / made.image)
    centre = image.affine @ [*(np.reshape(box.box, (2, 3)).mean(axis=0) - 0.5), 1]
    assert np.allclose(centre[:3], [-x, -y, z], atol=1e-3)
    assert count_fates(tmp_path) == {("accepted", "volume"): 2, ("accepted", "annotations"): 1}
    assert (
        next(row for row in read_ledger(tmp_path) if row.reason == "annotations").measured["images_not_found"]
        == 1
    )


# pictures


def test_a_yolo_folder(tmp_path, run):
    root = tmp_path / "in"
    for part in ("train", "val"):
        for name in ("a", "b"):
            save_picture(root / "images" / part / f"{name}.png", seed=len(part + name))
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    (root / "labels" / "train" / "b.txt").write_text("")
    (root / "data.yaml").write_text("names: [cyst, mass]\n")
    dataset = run()
    (volume,) = [volume for volume in dataset.volumes if volume.boxes]
    assert [(box.name, box.box) for box in volume.boxes] == [("mass", (20, 12, 30, 28))]
    assert (volume.spatial_dims, volume.shape, volume.flags) == (2, (50, 40, 1), {"spacing": "unknown"})
    assert count_fates(tmp_path) == {("accepted", "picture"): 4, ("accepted", "annotations"): 3}


def test_coco_outlines_become_labels(tmp_path, run):
    root = tmp_path / "in"
    save_picture(root / "images" / "a.png", 1)
    save_picture(root / "images" / "b.png", 2)
    save_picture(root / "images" / "c.png", 3)
    square = [10, 5, 20, 5, 20, 15, 10, 15]
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "polyp"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 5, 10, 10], "segmentation": [square]}],
    }
    (root / "instances.json").write_text(json.dumps(coco))
    dataset = run()
    labels = {volume.id: read_image(dataset.root / volume.label).array for volume in dataset.labelled}
    (found,) = [volume for volume in dataset.volumes if volume.boxes]
    assert labels[found.id][10:20, 5:15].all()
    assert labels[found.id].sum() == 100
    assert sorted(array.sum() for array in labels.values()) == [
        0,
        100,
    ]  # nothing was found in b, c nobody looked at
    assert dataset.info.label_names == {1: "polyp"}
    assert count_fates(tmp_path) == {("accepted", "picture"): 3, ("accepted", "annotations"): 1}


def test_groups_and_classes_of_json_lines(tmp_path, run):
    root, rows = tmp_path / "in", []
    for number in range(12):
        save_picture(root / "images" / f"{number:04d}.png", number)
        row = {"image": f"images/{number:04d}.png", "class": "glioma", "group": f"g{number // 3}"}
        rows.append(row | {"box_xyxy": [1.5, 2, 9, 11], "polygon_xy": [[1.5, 2], [9, 2], [9, 11]]})
    (root / "annotations.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = run()
    assert dataset.info.name == "figshare_brain_tumor"
    assert len({volume.subject for volume in dataset.volumes}) == 4
    splits = {(volume.group, volume.split) for volume in dataset.volumes}
    assert len(splits) == 4
    assert {split for _, split in splits} == {"train", "val", "test"}
    assert {volume.target for volume in dataset.volumes} == {"glioma"}
    assert all(volume.boxes[0].box == (1.5, 2, 9, 11) and volume.label for volume in dataset.volumes)
    row = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])
    assert row["boxes"] == [{"box": [1.5, 2.0, 9.0, 11.0], "class": "glioma"}]


def test_promised_annotations_that_cannot_be_read_are_quarantined(tmp_path, run):
    save_picture(tmp_path / "in" / "images" / "1.png")
    (tmp_path / "in" / "annotations.jsonl").write_text('{"image": "images/1.png", "box_xyxy": [1, 2')
    dataset = run()
    assert count_fates(tmp_path) == {("accepted", "picture"): 1, ("quarantined", "bad_annotations"): 1}
    assert dataset.volumes[0].boxes == ()


def test_br35h_has_empty_labels_for_healthy_images_and_groups_equal_pictures(tmp_path, run):
    root = tmp_path / "in"
    for number in range(4):
        save_picture(root / "yes" / f"y{number}.jpg", number)
        save_picture(root / "no" / f"no{number}.jpg", number + 10)
    save_picture(root / "no" / "copy.jpg", 10)
    region = {"name": "polygon", "all_points_x": [2, 9, 9], "all_points_y": [3, 3, 8]}
    via = {
        f"y{n}.jpg1": {
            "filename": f"y{n}.jpg",
            "size": 1,
            "regions": [{"shape_attributes": region, "region_attributes": {}}],
        }
        for n in range(4)
    }
    (root / "annotations_via.json").write_text(json.dumps(via))
    dataset = run()
    assert Counter(volume.target for volume in dataset.volumes) == {"tumour": 4, "no tumour": 5}
    assert all(volume.label for volume in dataset.volumes)
    assert len({volume.subject for volume in dataset.volumes}) == 8
    healthy = [volume for volume in dataset.volumes if volume.target == "no tumour"]
    assert not any(read_image(dataset.root / volume.label).array.any() for volume in healthy)


def test_a_picture_next_to_dicom_is_skipped(tmp_path, run):
    write_series(tmp_path / "in" / "scan")
    save_picture(tmp_path / "in" / "screen.png")
    run()
    assert count_fates(tmp_path) == {("accepted", "volume"): 6, ("skipped", "picture_beside_scans"): 1}


def test_arrays_keep_their_splits_and_classes(tmp_path, run):
    (tmp_path / "in").mkdir()
    draw = np.random.default_rng(0)
    content = {}
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        content[f"{part}_images"] = draw.integers(0, 255, (count, 9, 11), dtype=np.uint8)
        content[f"{part}_labels"] = draw.integers(0, 2, (count, 1), dtype=np.uint8)
    content["test_images"][0] = 7  # the same everywhere
    np.savez_compressed(tmp_path / "in" / "pneumoniamnist.npz", **content)
    dataset = run()
    assert Counter(volume.split for volume in dataset.volumes) == {"train": 5, "val": 2, "test": 2}
    assert {volume.target for volume in dataset.volumes} <= {"normal", "pneumonia"}
    assert {volume.shape for volume in dataset.volumes} == {(11, 9, 1)}
    shown = [read_image(dataset.root / volume.image).array[..., 0].T for volume in dataset.volumes]
    assert any(np.array_equal(array, content["train_images"][0]) for array in shown)
    (row,) = read_ledger(tmp_path)
    assert (row.reason, row.measured) == (
        "arrays",
        {"images": 9, "images_refused": 1, "images_without_single_class": 0},
    )


def test_arrays_that_hold_objects_are_refused(tmp_path, run):
    (tmp_path / "in").mkdir()
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "in" / "xmnist.npz", train_images=objects)
    save_picture(tmp_path / "in" / "a.png")
    np.savez(tmp_path / "in" / "ymnist.npz", train_images=np.arange(60, dtype=np.uint8).reshape(1, 6, 10))
    run()
    assert count_fates(tmp_path)["quarantined", "unusable_array"] == 1


def write_pictures(root):
    for number in range(6):
        save_picture(root / "in" / f"{number}.png", number)


def test_patches_of_pictures_are_2d(tmp_path, run):
    write_pictures(tmp_path)
    dataset = run()
    plan = plan_for(dataset.volumes, dims=None, size=None)
    assert (plan.dims, plan.size, plan.spacing_mm) == (2, (64, 48), None)
    volumes = VolumeLoader(dataset.root, plan, cache_gb=0.1)
    draws = PatchDataset(dataset.volumes, volumes, pretraining_patches(plan), labelled=False, seed=0)
    images = np.stack([draws[number]["image"].numpy() for number in range(6)])
    assert images.shape == (6, 1, 64, 48)
    assert np.isfinite(images).all()
    shown = volumes(dataset.volumes[0])
    stored = read_image(dataset.root / dataset.volumes[0].image).array
    assert np.corrcoef(shown.image[0].flip(0, 1).numpy().ravel(), stored.ravel())[0, 1] > 0.99


@pytest.mark.slow
def test_pictures_can_be_pretrained_on(tmp_path, run, home):
    from medmim.stages.pretrain.run import pretrain

    write_pictures(tmp_path)
    dataset = run()
    settings = PretrainSettings(data=dataset.root, steps=1, batch_size=2, size=(32, 32), dims=2, workers=0)
    result = pretrain(settings, home=home)
    assert np.isfinite(result.metrics["last/train_loss"])


def test_label_names_on_the_command_line(tmp_path, monkeypatch):
    save_volume(tmp_path / "in" / "imagesTr" / "a.nii.gz", scan_array())
    save_volume(tmp_path / "in" / "labelsTr" / "a.nii.gz", (scan_array() > 600).astype(np.uint8))
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    words = ["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--label-name"]
    done = CliRunner().invoke(main, [*words, "1=lesion", "--json"])
    assert done.exit_code == 0, done.output
    assert read_dataset(tmp_path / "out").info.label_names == {1: "lesion"}
    wrong = CliRunner().invoke(main, [*words, "lesion"])
    assert wrong.exit_code == 2
    assert "expected a class number and a name" in wrong.output
