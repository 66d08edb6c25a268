"""Layouts: every file of a folder has a role, and invalid descriptors are rejected with every problem."""

import contextlib
import json
from pathlib import Path

import pytest

from medmim import files
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.dataset_json import DatasetJson, read_dataset_json
from medmim.data.ingest.descriptor import known_descriptors, load_descriptor
from medmim.data.ingest.layout import LayoutQuery, find_layout
from medmim.errors import DataError, SettingsError, UsageError

SHARED = Path(__file__).parents[3] / "shared" / "data"
OWN = """
name: own
title: t
source: s
licence: l
citation: c
layout:
  kind: pairs
  example: p1/flair.nii.gz
  image: ['(?P<subject>p\\d+)/flair\\.nii\\.gz']
  label: "{subject}/lesions.nii.gz"
  study: "{subject}"
  group: "site-{subject}"
  tokens: [flair]
modality: {"": MR}
labels: {"": {1: lesion}}
split: By subject.
"""


def read_here(paths):
    """Read `dataset.json` files as `dataset_json_in` does, without child processes."""
    found = {}
    for path in paths:
        with contextlib.suppress(DataError):
            found[path] = DatasetJson.model_validate(read_dataset_json(str(path)))
    return found


def folder(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return [path for path in root.rglob("*") if path.is_file()]


def layout_of(root, *names, name=None):
    paths = folder(root, *names)
    layout = find_layout(LayoutQuery(root, read_here, name=name), paths)
    images = [case.image for case in layout.cases]
    labels = {label for case in layout.cases for label, _ in case.labels}
    assert len(images) == len(set(images))
    assert sorted([*images, *labels, *layout.other]) == sorted(paths)
    return layout


def skipped(layout, root):
    return {path.relative_to(root).as_posix(): reason for path, reason in layout.other.items()}


def test_every_shipped_descriptor_loads_and_opens_with_its_command():
    assert set(known_descriptors()) == {
        "bids",
        "br35h",
        "brain_tumor_progression",
        "brats",
        "figshare_brain_tumor",
        "generic",
        "luna16",
        "medmnist",
        "msd",
    }
    for name, path in known_descriptors().items():
        assert load_descriptor(name).name == name
        assert path.read_text("utf-8").startswith(f"# medmim ingest --as {name} ")
    assert files.shipped("data_manifests").is_dir()


def test_a_decathlon_task_is_recognised(tmp_path):
    layout = layout_of(
        tmp_path,
        "Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz",
        "Task04_Hippocampus/imagesTr/._hippocampus_001.nii.gz",
        "Task04_Hippocampus/imagesTr/hippocampus_003.nii.gz",
        "Task04_Hippocampus/imagesTs/hippocampus_002.nii.gz",
        "Task04_Hippocampus/labelsTr/hippocampus_001.nii.gz",
        "Task04_Hippocampus/labelsTr/hippocampus_009.nii.gz",
        "Task04_Hippocampus/readme.txt",
        "stray.nii",
    )
    assert layout.name == "msd"
    assert layout.label_names == {1: "anterior", 2: "posterior"}
    assert [(case.subject.rpartition("/")[2], case.modality, bool(case.labels)) for case in layout.cases] == [
        ("hippocampus_001", "MR", True),
        ("hippocampus_003", "MR", False),
        ("hippocampus_002", "MR", False),
    ]
    assert skipped(layout, tmp_path) == {
        "Task04_Hippocampus/imagesTr/._hippocampus_001.nii.gz": "mac_resource_file",
        "Task04_Hippocampus/labelsTr/hippocampus_009.nii.gz": "label_without_image",
        "Task04_Hippocampus/readme.txt": "not_an_image",
        "stray.nii": "not_in_layout",
    }


@pytest.mark.parametrize(
    ("stem", "modality", "names"),
    [
        ("BRATS_001", "MR", {1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumor"}),
        ("la_003", "MR", {1: "left atrium"}),
        ("liver_0", "CT", {1: "liver", 2: "cancer"}),
        ("prostate_00", "MR", {1: "pz", 2: "tz"}),
        ("lung_001", "CT", {1: "cancer"}),
        ("pancreas_001", "CT", {1: "pancreas", 2: "cancer"}),
        ("hepaticvessel_001", "CT", {1: "vessel", 2: "tumour"}),
        ("spleen_10", "CT", {1: "spleen"}),
        ("colon_001", "CT", {1: "colon cancer primaries"}),
        ("mine_7", "OT", {}),
    ],
)
def test_all_tasks_have_modality_and_label_names(tmp_path, stem, modality, names):
    layout = layout_of(tmp_path, f"imagesTr/{stem}.nii.gz", f"labelsTr/{stem}.nii.gz")
    assert (layout.cases[0].modality, layout.label_names) == (modality, names)


def test_dataset_json_overrides_and_odd_names_are_replaced(tmp_path):
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Left Kidney", "2": "<b>Doe^Jane</b>", "x": "y"},
    }
    folder(tmp_path, "t/dataset.json")
    paths = ["t/imagesTr/liver_1.nii.gz", "t/labelsTr/liver_1.nii.gz"]
    (tmp_path / "t/dataset.json").write_text(json.dumps(content))
    layout = layout_of(tmp_path, *paths)
    assert layout.cases[0].modality == "MR"
    assert layout.label_names == {1: "left kidney", 2: "class 2"}
    assert skipped(layout, tmp_path) == {"t/dataset.json": "descriptor"}


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, '"' + "x" * 2**20 + '"'])
def test_a_damaged_dataset_json_is_recorded_and_ignored(tmp_path, content):
    paths = folder(tmp_path, "imagesTr/spleen_1.nii.gz", "labelsTr/spleen_1.nii.gz", "dataset.json")
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match="expected a JSON object"):
        read_dataset_json(str(tmp_path / "dataset.json"))
    layout = find_layout(LayoutQuery(tmp_path, read_here), paths)
    assert layout.label_names == {1: "spleen"}
    assert skipped(layout, tmp_path) == {"dataset.json": "unreadable_descriptor"}


def test_nnunets_channels_share_subject_and_label(tmp_path):
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "T2"}, "labels": {"background": 0, "PZ": 1}}'
    )
    layout = layout_of(
        tmp_path, "imagesTr/case_1_0000.nii.gz", "imagesTr/case_1_0001.nii.gz", "labelsTr/case_1.nii.gz"
    )
    assert {case.subject for case in layout.cases} == {"case 1"}
    assert len({case.study for case in layout.cases}) == 1
    assert sorted(case.tokens for case in layout.cases) == [("channel0",), ("channel1",)]
    assert {label.name for case in layout.cases for label, _ in case.labels} == {"case_1.nii.gz"}
    assert layout.label_names == {1: "pz"}


def test_contradicting_label_names_are_rejected(tmp_path):
    names = [
        f"{task}/{kind}Tr/{task}_1.nii.gz" for task in ("liver", "spleen") for kind in ("images", "labels")
    ]
    with pytest.raises(DataError, match="label 1 is 'liver' in one dataset and 'spleen'") as caught:
        layout_of(tmp_path, *names)
    assert caught.value.reason == "label_names_differ"


def test_two_visits_share_a_subject(tmp_path):
    names = [f"sub-04/{time}_{kind}.nii.gz" for time in ("pre", "post") for kind in ("t1", "mask")]
    layout = layout_of(tmp_path, *names, "sub-05/pre_mask.nii.gz")
    assert layout.name == "brain_tumor_progression"
    assert layout.label_names == {1: "tumour"}
    assert {(case.subject, case.study, case.tokens) for case in layout.cases} == {
        ("sub-04", "sub-04/pre", ("t1", "pre")),
        ("sub-04", "sub-04/post", ("t1", "post")),
    }
    assert skipped(layout, tmp_path) == {"sub-05/pre_mask.nii.gz": "label_without_image"}


def test_other_folders_are_inferred(tmp_path):
    layout = layout_of(tmp_path, "a/one.nii", "a/two.nii.gz", "a/one_seg.nii.gz", "mask.nii", "notes.pdf")
    assert (layout.name, layout.label_names) == ("generic", {})
    assert [(case.subject, len(case.labels), case.modality) for case in layout.cases] == [
        ("a/one", 1, "OT"),
        ("a/two", 0, "OT"),
    ]
    assert set(layout.other.values()) == {"label_without_image", "not_an_image"}


def test_bids_names_the_subject(tmp_path):
    layout = layout_of(
        tmp_path, "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", "sub-01/anat/T2w.nii.gz", "sub-02_T1w.nii"
    )
    assert [case.subject for case in layout.cases] == ["sub-01", "sub-01", "sub-02"]
    assert len({case.study for case in layout.cases}) == 3


def test_an_empty_folder_has_an_empty_layout(tmp_path):
    layout = find_layout(LayoutQuery(tmp_path, read_here), [])
    assert (layout.name, layout.cases, layout.other) == ("generic", (), {})


def test_a_named_descriptor_must_match_an_image(tmp_path):
    with pytest.raises(DataError, match=r"expected paths like 'sub-01/pre_t1\.nii\.gz'") as caught:
        layout_of(tmp_path, "a.nii", name="brain_tumor_progression")
    assert caught.value.reason == "no_cases"


def test_unknown_names_get_a_suggestion(tmp_path):
    with pytest.raises(UsageError, match=r"unknown dataset descriptor 'msdd'; did you mean 'msd'\?"):
        find_layout(LayoutQuery(tmp_path, read_here, name="msdd"), [])
    with pytest.raises(UsageError, match=r"unknown dataset descriptor 'absent\.yaml'"):
        find_layout(LayoutQuery(tmp_path, read_here, name="absent.yaml"), [])


def test_a_descriptor_of_the_user(tmp_path):
    (tmp_path / "own.yaml").write_text(OWN)
    root = tmp_path / "data"
    layout = layout_of(root, "p1/flair.nii.gz", "p1/lesions.nii.gz", name=str(tmp_path / "own.yaml"))
    (case,) = layout.cases
    assert (case.subject, case.group, case.tokens, case.labels[0][0].name) == (
        "p1",
        "site-p1",
        ("flair",),
        "lesions.nii.gz",
    )


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("title: t", "titel: t", "titel: Extra inputs"),
        ("{subject}/lesions", "{patient}/lesions", r"lacks the named groups \['patient'\]"),
        (
            "{subject}/lesions",
            "{subject.__class__}/lesions",
            r"lacks the named groups \['subject.__class__'\]",
        ),
        ("(?P<subject>p", "(?P<subject>(p", "not a regular expression"),
        ("example: p1", "example: q1", "the example matches no image pattern"),
        ("split: By subject.", "split: By subject.\ndetect: '('", "detect: .*not a regular expression"),
        ("name: own", "name: [own", "not valid YAML"),
        ("kind: pairs", "kind: other", "layout: Input tag 'other'"),
    ],
)
def test_an_invalid_descriptor_is_rejected_with_its_problems(tmp_path, old, new, match):
    assert old in OWN
    (tmp_path / "own.yaml").write_text(OWN.replace(old, new))
    with pytest.raises(SettingsError, match=match):
        load_descriptor(str(tmp_path / "own.yaml"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder with real data is absent")
@pytest.mark.parametrize(
    ("name", "layout_name", "cases"), [("hippocampus", "msd", 193), ("brain_tumor_progression",) * 2 + (16,)]
)
def test_real_folders_are_recognised_whole(name, layout_name, cases):
    paths = [path for path in (SHARED / name).rglob("*") if path.is_file()]
    layout = find_layout(LayoutQuery(SHARED / name, read_here), paths)
    assert (layout.name, len(layout.cases), layout.other) == (layout_name, cases, {})
    assert all(case.labels for case in layout.cases)
    assert read_image(layout.cases[0].image).array.ndim == 3
