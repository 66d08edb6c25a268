import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
from click.testing import CliRunner

from medmim import __version__
from medmim.cli import COMMANDS, main
from medmim.tracking.mlflow_store import Store

HEAVY = (
    "torch",
    "monai",
    "lightning",
    "mlflow",
    "pydantic",
    "matplotlib",
    "nibabel",
    "pydicom",
    "numpy",
    "yaml",
)


def medmim(*words):
    """Run a command line in this process."""
    return CliRunner().invoke(main, [str(word) for word in words])


def said(result):
    """The one line on stderr."""
    lines = result.stderr.strip().splitlines()
    assert "Traceback" not in result.output
    return lines[-1]


def test_help_lists_commands_in_the_order_of_use():
    result = medmim("--help")
    assert result.exit_code == 0
    places = [result.stdout.index(f"\n  {name}") for name in COMMANDS]
    assert places == sorted(places)


def test_help_loads_nothing_heavy():
    program = (
        "import sys\nfrom medmim.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n"
        "    assert not end.code\n"
        f"print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1].strip() == "loaded:"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_examples(name):
    result = medmim(name, "--help")
    assert result.exit_code == 0
    assert f"medmim {name}" in result.stdout
    assert "Example" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 110


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "ui"])
def test_every_command_but_ui_takes_json(name):
    assert "--json" in medmim(name, "--help").stdout


def test_the_version_is_the_packages():
    assert medmim("--version").stdout.strip() == f"medmim, version {__version__}"


def test_the_module_is_the_command():
    ran = subprocess.run(
        [sys.executable, "-m", "medmim", "--version"], capture_output=True, text=True, check=True
    )
    assert __version__ in ran.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pretrian"], 2, "no such command 'pretrian'; did you mean 'pretrain'?"),
        (["pretrain", "--ratio", "1.2"], 2, "ratio: expected a value less than 1, got 1.2"),
        (["pretrain", "--ratio", "0"], 2, "ratio: expected a value greater than 0"),
        (["pretrain", "--mask", "mush"], 2, "did you mean 'mesh'"),
        (["pretrain", "--method", "sparc"], 2, "did you mean 'spark'"),
        (["pretrain", "--encoder", "resnet81"], 2, "did you mean 'resnet18'"),
        (["pretrain", "--encoder", "no_such_module:net"], 2, "cannot import it"),
        (
            ["pretrain", "--size", "8", "--cell", "big"],
            2,
            "cell: expected voxels such as 8 or 8,8,4, or mill",
        ),
        (["pretrain", "--size", "8", "--cell", "1mm"], 1, "use --cell 8mm,8mm,8mm"),
        (["pretrain", "--size", "8", "--cell", "16"], 1, "use --size 16,16,16"),
        (["pretrain", "--size", "16", "--cell", "16"], 1, "a mask needs at least 2 cells, got 1"),
        (["pretrain", "--size", "wide"], 2, "--size: expected one number or one per axis"),
        (["pretrain", "--steps", "1", "--minutes", "2"], 2, "expected one of steps, epochs, minutes"),
        (["pretrain", "--steps", "0"], 2, "steps: expected a value greater than 0"),
        (
            ["pretrain", "--precision", "fp8"],
            2,
            "precision: expected 'auto', 'fp32', 'bf16' or 'fp16'",
        ),
        (["pretrain", "--dims", "4"], 2, "--dims"),
        (["pretrain", "--fold", "5"], 2, "fold: expected a value less than or equal to 4"),
        (["pretrain", "--set", "raito=0.5"], 2, "unknown key 'raito'; did you mean 'ratio'?"),
        (["pretrain", "--set", "ratio"], 2, "expected key=value"),
        (["pretrain", "--config", "spark_mash"], 2, "did you mean 'spark_mesh'?"),
        (["pretrain", "--init", "abc"], 1, "matches no run"),
        (["pretrain", "--resume"], 1, "no unfinished pretrain run here"),
        (["pretrain", "--resume", "abc"], 1, "no run 'abc' in this home folder"),
        (["pretrain", "--resume", "--mask", "random"], 2, "leave out --mask"),
        (["pretrain", "--resume", "--set", "lr=1"], 2, "leave out --set lr; it accepts only devices"),
        (["pretrain", "--resume", "--config", "spark_mesh"], 2, "leave out --config"),
        (["finetune", "segmnt"], 2, "did you mean 'segment'?"),
        (["finetune", "segment"], 1, "no finished pretraining run on this dataset"),
        (["finetune", "segment", "--init", "zzz"], 1, "matches no run"),
        (["finetune", "segment", "--init", "gone.safetensors"], 1, "--init gone.safetensors: no such file"),
        (
            ["finetune", "segment", "--init", "scratch", "--num-labelled", "2", "--label-fraction", "0.5"],
            2,
            "got both",
        ),
        (["finetune", "segment", "--init", "scratch", "--num-labelled", "99"], 1, "only 7 labelled patients"),
        (["finetune", "segment", "--resume", "--lr", "1"], 2, "leave out --lr"),
        (["finetune"], 2, "TASK"),
        (["compare", "abc"], 1, "no run 'abc'"),
        (["compare"], 1, "no finished fine-tuning run to compare"),
        (["ui"], 1, "no runs in"),
        (["demo", "--patients", "3"], 2, "--patients"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_is_wrong_is_one_line_and_an_exit_code(tiny_dataset, home, monkeypatch, words, code, message):
    if words[0] in ("pretrain", "finetune"):
        words = [*words, "--data", str(tiny_dataset)]
    if words == ["ui"]:
        (home / "mlflow.db").unlink()
    result = medmim(*words)
    assert result.exit_code == code, result.output
    assert message in said(result)
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["models", "runs", "report", "compare", "ui"])
def test_a_home_that_is_a_file_is_named(command, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    result = medmim(command)
    assert result.exit_code == 2
    assert said(result).endswith("home': expected a folder, got a file; set MEDMIM_HOME to a folder")


@pytest.mark.parametrize("command", [["pretrain"], ["finetune", "segment"]])
def test_a_missing_dataset_is_told(command, home, tmp_path):
    result = medmim(*command, "--data", tmp_path / "none")
    assert result.exit_code == 1
    assert "no dataset at" in said(result)
    assert "medmim ingest" in said(result)


def test_a_file_with_an_unknown_key_is_told(tmp_path, tiny_dataset):
    config = tmp_path / "own.yaml"
    config.write_text("raito: 0.5\nbatch_size: -1\n")
    result = medmim("pretrain", "--config", config, "--data", tiny_dataset)
    assert result.exit_code == 2
    assert "did you mean 'ratio'" in said(result)
    assert "batch_size" in said(result)


def test_an_error_of_our_own_making_is_one_line_without_its_text(monkeypatch, tiny_dataset, home):
    medmim("report", "--help")  # a command's module must hide no function of `medmim.cli`

    def broken(*_, **__):
        raise RuntimeError("SMITH^JOHN 1901-02-03")

    monkeypatch.setattr("medmim.stages.pretrain.run.pretrain", broken)
    result = medmim("pretrain", "--data", tiny_dataset)
    assert result.exit_code == 1
    assert said(result).startswith("medmim: internal error, RuntimeError in medmim.cli.pretrain:")
    assert "SMITH" not in result.output
    monkeypatch.setenv("MEDMIM_DEBUG", "1")
    assert isinstance(medmim("pretrain", "--data", tiny_dataset).exception, RuntimeError)


def test_results_are_json_on_the_last_line(tiny_dataset, home):
    words = ["--data", tiny_dataset, "--steps", "1", "--json", *tiny.TINY_WORDS]
    pretrained = medmim("pretrain", *words)
    tuned = medmim("finetune", "segment", *words)
    scratch = medmim("finetune", "segment", "--init", "scratch", *words)
    compared = medmim("compare", "--json")
    for result in (pretrained, tuned, scratch, compared):
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == 1
    first, *others = (json.loads(result.stdout) for result in (pretrained, tuned, scratch))
    for run in (first, *others):
        assert {"run_id", "checkpoint", "metrics"} <= run.keys()
        assert run["checkpoint"].endswith("weights.safetensors")
    report = json.loads(compared.stdout)
    assert {"arms", "pairs", "verdicts", "report"} <= report.keys()
    assert [arm["name"] for arm in report["arms"]] == ["scratch", "spark mesh 0.7"]
    assert report["report"].startswith(str(home))


def test_people_get_lines(study, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(study.home))
    result = medmim("compare", study.scratch.run_id, study.tuned.run_id)
    assert result.exit_code == 0, result.output
    assert "spark mesh 0.7" in result.stdout
    assert "too few patients for a claim" in result.stdout
    assert "report.html" in result.stdout


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_ends_with_its_code_and_resume_gives_the_same_bytes(tiny_dataset, new_home, number):
    home, words = new_home(), ["--data", str(tiny_dataset), *tiny.TINY_WORDS, "--steps", "20"]
    words += ["--set", "num_evaluations=1"]
    environment = {**os.environ, "MEDMIM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    # what a shell starts in the background ignores SIGINT, and its children would inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(
        [sys.executable, "-m", "medmim", "pretrain", *words, "--set", "checkpoint_every_steps=1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not list(home.glob("checkpoints/*/state-*.safetensors")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(number)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 128 + number, stderr
    kept = "the training state is saved: continue with `medmim pretrain --resume`"
    assert stderr.splitlines()[-1] == f"medmim: interrupted by {number.name}; {kept}"
    assert Store(home).runs(stage="pretrain")[0].info.status == "KILLED"

    resume = ["--resume", "--data", str(tiny_dataset), "--workers", "1", "--set", "on-nonfinite=skip"]
    finished, whole = (
        CliRunner(env={"MEDMIM_HOME": str(place)}).invoke(main, ["pretrain", *extra, "--json"])
        for place, extra in ((home, resume), (new_home(), words))
    )
    paths = []
    for result in (finished, whole):
        assert result.exit_code == 0, result.output
        paths.append(json.loads(result.stdout)["checkpoint"])
    with open(paths[0], "rb") as resumed, open(paths[1], "rb") as expected:  # noqa: PTH123
        assert resumed.read() == expected.read()
