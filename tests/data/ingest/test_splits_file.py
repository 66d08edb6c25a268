"""Splits of the user: all forms of files, and what is wrong with them."""

import json

import pytest
from tiny import row

from medmim.data.dataset.pseudonyms import Keys
from medmim.data.ingest.context import IngestedVolume
from medmim.data.ingest.splits_file import SplitsFile, apply_splits
from medmim.errors import DataError, UsageError

KEYS = Keys(bytes(32))
EXPECTED = [("a", "train"), ("b", "train"), ("c", "val"), ("d", "test")]


def volumes(tmp_path, *names):
    """Volumes of one patient each, named by file."""
    made = []
    for name in names:
        record = row(KEYS.key("subject", name)).model_copy(
            update={"series": KEYS.key("series", f"images/{name}.nii.gz")}
        )
        made.append(IngestedVolume(record, name, tmp_path / name))
    return made


FORMS = {
    "lists": ({"train": ["a", "b.nii.gz"], "val": ["images/c.nii.gz"], "test": ["./images/d.nii.gz"]}, 0),
    "nnU-Net": ([{"train": ["a"], "val": ["b"]}, {"train": ["a", "b", "d"], "val": ["c"]}], 1),
    "datalist": (
        {
            "training": [
                {"image": "a.nii.gz", "fold": 1},
                {"image": ["b.nii.gz"], "fold": 1},
                {"image": "images/c.nii.gz", "fold": 0},
            ],
            "testing": ["d.nii.gz"],
        },
        0,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_json(tmp_path, form):
    content, fold = FORMS[form]
    (tmp_path / "s.json").write_text(json.dumps(content))
    splits = SplitsFile.read(tmp_path / "s.json", fold)
    made = apply_splits(volumes(tmp_path, *"abcd"), splits, [KEYS])
    found = [(one.name, one.volume.split) for one in made]
    assert found[:3] == EXPECTED[:3]
    assert found[3] == ("d", "train" if form == "nnU-Net" else "test")


@pytest.mark.parametrize(
    "text",
    [
        "file,split\na,train\nb,training\nc.nii.gz,val\nd,test\n",
        "patient;split\na;train\nb;train\nc;validation\nd;testing\n",
    ],
)
def test_tables(tmp_path, text):
    (tmp_path / "s.csv").write_text(text)
    made = apply_splits(volumes(tmp_path, *"abcd"), SplitsFile.read(tmp_path / "s.csv"), [KEYS])
    assert [(one.name, one.volume.split) for one in made] == EXPECTED


def test_a_table_of_folds(tmp_path):
    (tmp_path / "s.csv").write_text("file,fold\na,0\nb,1.0\n,\n")
    splits = SplitsFile.read(tmp_path / "s.csv", 1)
    assert [split for _, split in splits.entries] == ["train", "val"]


@pytest.mark.parametrize("word", ["holdout", ""])
def test_a_word_that_is_no_split_is_named(word, tmp_path):
    (tmp_path / "s.csv").write_text(f"file,split\na,train\nb,{word}\n")
    with pytest.raises(UsageError, match=f"expected train, val or test in the column split, got '{word}'"):
        SplitsFile.read(tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("content", "reason", "match"),
    [
        ({"train": ["a", "b", "x"]}, "split_unknown", "names 1 of 3 images that were not ingested"),
        ({"train": ["a"]}, "split_missing", "omits 1 of 2 images"),
        ({"train": ["a", "b"], "test": ["a"]}, "split_overlap", "two splits"),
    ],
)
def test_splits_are_checked(tmp_path, content, reason, match):
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=match) as caught:
        apply_splits(volumes(tmp_path, "a", "b"), SplitsFile.read(tmp_path / "s.json"), [KEYS])
    assert caught.value.reason == reason


def test_patients_whose_leading_zeros_a_spreadsheet_dropped_are_counted(tmp_path):
    (tmp_path / "s.csv").write_text("patient,split\n7,train\n12,train\n99,test\n")
    with pytest.raises(DataError, match=r"names 3 of 3 .* correct the file; 2 of these would match"):
        apply_splits(volumes(tmp_path, "007", "012"), SplitsFile.read(tmp_path / "s.csv"), [KEYS])


@pytest.mark.parametrize("text", ["", "{", '{"train": "a"}', "file,part\na,train\n", "file,fold\na,x\n"])
def test_other_files_are_rejected(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UsageError, match="--splits"):
        SplitsFile.read(tmp_path / "s.json")


@pytest.mark.parametrize("word", ["tests", "Vaild", "tr\u0430in"])
def test_lists_that_look_like_a_split_are_not_ignored(tmp_path, word):
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a"], word: ["b"]}))
    with pytest.raises(UsageError, match=f"unknown list '{word}'; did you mean"):
        SplitsFile.read(tmp_path / "s.json")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"train": ["a"], "val": ["b"]}]),
        json.dumps({"training": [{"image": "a", "fold": 0}]}),
        "file,fold\na,0\nb,1\n",
    ],
)
def test_a_fold_that_the_file_lacks_is_rejected(tmp_path, text):
    (tmp_path / "splits").write_text(text)
    with pytest.raises(UsageError, match="--splits-fold 7: expected a fold of the file, 0"):
        SplitsFile.read(tmp_path / "splits", 7)


@pytest.mark.parametrize("text", ["x,y\n1,2\n", "case_000\n", "file\na\n", json.dumps({"train": [{"x": 1}]})])
def test_files_of_another_form_are_rejected(tmp_path, text):
    (tmp_path / "splits").write_text(text)
    with pytest.raises(UsageError, match="cannot be read: expected JSON with lists"):
        SplitsFile.read(tmp_path / "splits")
