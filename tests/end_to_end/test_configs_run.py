"""Every shipped preset runs on a small dataset, one step each; trainings through the command line."""

import json
import shutil

import pytest
import tiny
from click.testing import CliRunner

from medmim import files
from medmim.cli import main
from medmim.config.study import StudySettings
from medmim.config.yaml_settings import resolve
from medmim.data.dataset.manifest import DatasetInfo, read_dataset, write_dataset
from medmim.stages.study.engines import LocalEngine
from medmim.stages.study.runner import study
from medmim.stages.study.training_process import run_here

CONFIGS = sorted(files.shipped("configs").glob("*/*.yaml"))
STUDIES = [path for path in CONFIGS if path.parent.name == "studies"]
TRAININGS = [path for path in CONFIGS if path not in STUDIES]
# the dataset has seven labelled patients, and slices of 20×16 pixels
SMALL_VIT = ["--set", "encoder_options.width=32", "--set", "encoder_options.depth=1"]
SMALL_VIT += ["--set", "encoder_options.heads=2", "--set", "method_options.projector=32", "--size", "80"]
SMALL_SWIN = ["--set", "encoder_options={width: 8, depths: [1, 1, 1, 1], heads: [1, 1, 1, 1]}"]
SMALLER = {
    "ordinal": ["--set", "task_options.order=[calm,odd]"],
    "segment_few": ["--set", "num_labelled=3"],
    "latent_mim_paper": SMALL_VIT,
    "latent_mim_code": SMALL_VIT,
    "mae_paper": [*SMALL_VIT[:6], "--set", "method_options.decoder_width=32", "--size", "64"],
    "spark_paper": ["--set", "method_options.decoder_width=64", "--encoder", "resnet18", "--size", "64"],
    "simmim_swin": [*SMALL_SWIN, "--size", "64"],
}
# one trial of each study; tests/config/test_study.py tests what it varies
ONE_CELL = [
    "seeds=[0]",
    "folds=[null]",
    "arms=[]",
    "masks=[mesh]",
    "ratios=[0.7]",
    "label_fractions=[1.0]",
    "scratch=false",
    "equal_cost=false",
]
ONE_CELL += [
    "finetune.num_labelled=null",
    "encoders=[dynunet]",
    *(f"{stage}.encoder=dynunet" for stage in ("pretrain", "finetune")),
]
ONE_CELL += [
    f"{stage}.{word}"
    for stage in ("pretrain", "finetune")
    for word in (
        "encoder_options={filters: [4, 8, 8]}",
        "size=16",
        "steps=1",
        "batch_size=2",
        "num_evaluations=1",
        "workers=0",
    )
]


def run(*words):
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def homes(study, new_home, tmp_path_factory):
    """One home folder for the presets of each stage: fine-tunings begin from the pretraining of the study."""
    copy = tmp_path_factory.mktemp("presets") / "home"
    return {"pretrain": new_home(), "finetune": shutil.copytree(study.home, copy)}


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_preset(path, tiny_dataset, homes, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDMIM_HOME", str(homes[path.parent.name]))
    # the first line holds the command that runs it
    command = (
        path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# medmim ").split(" --")[0].split()
    )
    data, words = tiny_dataset, ["--config", path.stem, "--steps", "1", "--batch-size", "2"]
    if path.stem == "regress":
        table = tmp_path / "ages.csv"
        subjects = [one.subject for one in read_dataset(data).volumes]
        table.write_text("subject,age\n" + "".join(f"{name},{n}\n" for n, name in enumerate(subjects)))
        words += ["--targets", table, "--column", "age"]
    if path.stem == "multilabel":
        data = tiny.make_dataset(tmp_path / "data")
        values = [{"mass": n % 2, "cyst": n % 3 == 0} for n in range(10)]
        rows = [
            row.model_copy(update={"targets": own})
            for row, own in zip(read_dataset(data).volumes, values, strict=True)
        ]
        write_dataset(data, DatasetInfo(name="findings"), rows, [])
        words += ["--init", "scratch", "--dims", "2", "--size", "16"]
    result = run(*command, "--data", data, *words, *SMALLER.get(path.stem, []))
    assert result["metrics"]["last/steps"] == 1


# tests/config/test_study.py tests what each study varies: all but one run with the slow tests
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem == "quick" else pytest.mark.slow) for path in STUDIES],
    ids=lambda path: path.stem,
)
def test_study(path, tiny_dataset, home):
    chosen = resolve(StudySettings, config=path.stem, flags={"data": tiny_dataset}, overrides=ONE_CELL)
    done = study(chosen, home=home, engine=LocalEngine(run_here), log=str)  # a process each has its own tests
    assert done.failures == ()
    assert [arm.title for arm in done.compared.findings.arms] == ["spark mesh 0.7"]
