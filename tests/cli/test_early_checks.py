"""Typos fail before PyTorch and MLflow are imported; what is loaded is tested, not the time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.cli.early_checks import NAMES, check_parameters
from medmim.encoders import ENCODERS
from medmim.errors import RunError, UsageError
from medmim.heads import HEADS
from medmim.masks import MASKS
from medmim.methods import METHODS
from medmim.tracking.mlflow_store import Store

TYPOS = [
    (["pretrian"], 2), (["pretrain", "--ratoi", "0.5"], 2), (["pretrain", "--mask", "mash"], 2),
    (["pretrain", "--encoder", "vitt"], 2), (["pretrain", "--method", "mea"], 2),
    (["pretrain", "--data", "nowhere"], 1), (["pretrain"], 1), (["finetune", "segmnt"], 2),
    (["finetune", "segment", "--data", "nowhere"], 1), (["finetune", "segment", "--set", "lrr=1"], 2),
    (["finetune", "segment", "--config", "segmnt"], 2), (["predict", "nowhere.nii"], 2),
    (["predict", ".", "--model", "nope"], 1), (["predict", ".", "--model", "nope.safetensors"], 1),
    (["export", "--format", "onxx"], 2), (["study", "quik"], 2), (["study", "quick", "--data", "no"], 1),
    (["compare", "3f2a"], 1), (["inspect", "nowhere"], 1), (["verify", "nowhere"], 1),
    (["masks", "--mask", "mash"], 2), (["masks", "--image", "no.nii"], 2), (["plan", "pretrian"], 2),
    (["plan", "pretrain", "--data", "nowhere"], 1), (["ingest", "nowhere"], 2), (["unpack", "no.zip"], 2),
    (["pack", "no"], 1), (["ingest", ".", "--as", "nnunett"], 2),
    (["ingest", ".", "--subjects", "no.csv"], 2),
    (["ui", "--port", "x"], 2), (["bench", "--dims", "4"], 2), (["doctor", "--repiar"], 2), (["--help"], 0),
    (["compare", "--predictions", "a=."], 2), (["study", "quick", "--set", "seedss=3"], 2),
    (["study", "quick", "--set", "seeds=many"], 2),
    (["sync", "--to", "127.0.0.1:5000"], 2), (["sync", "--to", "mlruns"], 2),
    (["predict", ".", "--workers", "0"], 2), (["ingest", ".", "--workers", "0"], 2),
]  # fmt: skip
PROGRAM = """
import json, sys
from click.testing import CliRunner
from medmim.cli import main
results = [CliRunner().invoke(main, words) for words, _ in json.loads(sys.argv[1])]
heavy = [name for name in ("torch", "mlflow", "monai", "lightning", "numpy") if name in sys.modules]
print(json.dumps([[result.exit_code, result.stderr.strip().splitlines()] for result in results]), heavy)
"""


def test_thirty_typos_are_one_line_each_and_load_nothing_heavy(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(TYPOS)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    results, _, heavy = ran.stdout.rpartition(" [")
    for (words, code), (got, lines) in zip(TYPOS, json.loads(results), strict=True):
        assert (words, got) == (words, code)
        assert len(lines) == bool(code), (words, lines)
        assert not lines or "internal error" not in lines[0], words
    assert heavy.strip() == "]"


def test_names_are_those_of_the_tables():
    tables = {"encoder": ENCODERS, "mask": MASKS, "method": METHODS, "task": HEADS}
    assert {kind: set(names) for kind, names in NAMES.items()} == {k: set(t) for k, t in tables.items()}


def test_run_ids_and_model_names_of_the_store_are_accepted(new_home, monkeypatch):
    home = new_home()
    monkeypatch.setenv("MEDMIM_HOME", str(home))
    store = Store(home)
    run_id = store.begin(experiment="e", name="n", tags={}).run_id
    store.client.create_registered_model("lung-segment")
    for word in (run_id, run_id[:4], "lung-segment"):
        check_parameters("predict", {"model": word})
    with pytest.raises(RunError, match=r"--model lung: .* got .* no run id .*known: lung-segment; see"):
        check_parameters("predict", {"model": "lung"})
    check_parameters("finetune", {"init": "scratch", "resume": "latest"})


def test_unknown_versions_and_aliases_are_reported_with_those_that_exist(new_home, monkeypatch):
    home = new_home()
    monkeypatch.setenv("MEDMIM_HOME", str(home))
    client = Store(home).client
    for name in ("lung-segment", "unused"):
        client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version("lung-segment", "file:///nowhere", await_creation_for=0)
    client.set_registered_model_alias("lung-segment", "champion", "2")
    check_parameters("predict", {"model": ("lung-segment:2", "lung-segment@champion")})
    for word, message in {
        "lung-segment:3": r"--model lung-segment:3: model 'lung-segment' has no version '3': it has 1, 2;",
        "lung-segment@best": r"model 'lung-segment' has no alias 'best': it has champion; see",
        "unused@champion": r"model 'unused' has no alias 'champion': it has none; see",
    }.items():
        with pytest.raises(RunError, match=message):
            check_parameters("predict", {"model": word})
    client.delete_model_version("lung-segment", "1")
    with pytest.raises(RunError, match=r"has no version '1': it has 2; see"):
        check_parameters("predict", {"model": "lung-segment:1"})


@pytest.mark.parametrize(
    ("command", "out", "ending"), [("masks", "m.html", "png"), ("embed", "e", "parquet")]
)
def test_an_output_file_of_another_kind_is_refused_at_once(command, out, ending):
    message = rf"--out '{out}': expected the name of a \.{ending} file, such as {command}\.{ending}"
    with pytest.raises(UsageError, match=message):
        check_parameters(command, {"out": Path(out)})
    check_parameters(command, {"out": Path(out).with_suffix(f".{ending}")})


def test_an_output_folder_that_is_a_file_is_refused_at_once(tmp_path):
    (tmp_path / "out").write_text("")
    for command in ("ingest", "predict", "demo", "evaluate"):
        with pytest.raises(UsageError, match=r"--out '.*out' is a file: expected a folder; choose another"):
            check_parameters(command, {"out": tmp_path / "out"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["pretrain", "--steps", "many"],
            "'--steps': 'many' is not a whole number; see `medmim pretrain --help`",
        ),
        (["pretrain", "--lr", "fast"], "'--lr': 'fast' is not a number; see"),
        (["predict", ".", "--pictures", "all"], "'--pictures': 'all' is not a whole number; see"),
        (["predict", ".", "--min-score", "high"], "'--min-score': 'high' is not a number; see"),
        (["ingest", ".", "--role", "skip"], "--role skip: expected a glob and image, label or skip, as in"),
    ],
)
def test_wrong_types_are_told_in_plain_words(words, message):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_own_code_is_left_to_the_stage():
    check_parameters("masks", {"names": ("mesh", "my_masks:rank"), "encoder": "my_nets:build"})
    with pytest.raises(UsageError, match="unknown mask 'mash'; did you mean 'mesh'"):
        check_parameters("masks", {"names": ("mesh", "mash")})


def test_an_unknown_study_is_reported_before_the_store_is_opened(home):
    with pytest.raises(RunError, match=r"compare --study nosuch: no runs of this study here"):
        check_parameters("compare", {"study": "nosuch", "runs": ()})
    (home / "mlflow.db").unlink()
    (home / "checkpoints").mkdir()  # the command reports that the database is lost
    check_parameters("compare", {"study": "nosuch", "runs": ()})
