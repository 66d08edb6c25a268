import json
import subprocess
import sys

import click
import pytest
import tiny
from click.testing import CliRunner
from command_line import assert_one_line_error, error_of, medmim

from medmim import __version__
from medmim.cli import COMMANDS, Medmim

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


def test_an_unknown_command_is_one_line_with_the_nearest_name():
    assert_one_line_error(["pretrian"], 2, "no such command 'pretrian'; did you mean 'pretrain'?")


@pytest.mark.parametrize("command", ["models", "runs", "report", "compare", "ui"])
def test_a_home_that_is_a_file_is_named(command, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    result = medmim(command)
    assert result.exit_code == 2
    assert error_of(result).endswith("home': expected a folder, got a file; set MEDMIM_HOME to a folder")


@pytest.mark.parametrize("command", [["pretrain"], ["finetune", "segment"]])
def test_a_missing_dataset_is_told(command, home, tmp_path):
    result = medmim(*command, "--data", tmp_path / "none")
    assert result.exit_code == 1
    assert "no dataset at" in error_of(result)
    assert "medmim ingest" in error_of(result)


def test_a_file_with_an_unknown_key_is_told(tmp_path, tiny_dataset):
    config = tmp_path / "own.yaml"
    config.write_text("raito: 0.5\nbatch_size: -1\n")
    result = medmim("pretrain", "--config", config, "--data", tiny_dataset)
    assert result.exit_code == 2
    assert "did you mean 'ratio'" in error_of(result)
    assert "batch_size" in error_of(result)


class WithABug(Medmim):
    """The commands, each of which fails with an error that medmim does not expect."""

    def get_command(self, ctx, name):
        def broken():
            raise RuntimeError("SMITH^JOHN 1901-02-03")

        return click.Command(name, callback=broken)


def test_an_error_of_our_own_making_is_one_line_without_its_text(monkeypatch, home):
    medmim("report", "--help")  # a command's module must hide no function of `medmim.cli`
    result = CliRunner().invoke(WithABug("medmim"), ["pretrain"])
    assert result.exit_code == 1
    assert error_of(result).startswith("medmim: internal error, RuntimeError in medmim.cli:")
    assert "SMITH" not in result.output
    monkeypatch.setenv("MEDMIM_DEBUG", "1")
    assert isinstance(CliRunner().invoke(WithABug("medmim"), ["pretrain"]).exception, RuntimeError)


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
