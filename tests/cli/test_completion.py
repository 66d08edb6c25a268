"""Shell completion knows commands and the keys of `--set`."""

import click
import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.cli.options import complete_setting


def test_settings_are_completed():
    command = main.get_command(click.Context(main), "finetune")
    setting = next(one for one in command.params if "--set" in one.opts)
    with command.make_context("finetune", ["classify"], resilient_parsing=True) as context:
        found = [one.value for one in complete_setting(context, setting, "num_")]
    assert found == ["num_evaluations=", "num_labelled="]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for_the_users_shell(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    done = CliRunner().invoke(main, ["--install-completion"])
    assert done.exit_code == 0, done.output
    [written] = [path for path in tmp_path.rglob("*medmim*") if path.is_file()]
    assert "_MEDMIM_COMPLETE" in written.read_text(encoding="utf-8")


def test_another_shell_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    done = CliRunner().invoke(main, ["--install-completion"])
    assert done.exit_code == 2
    assert "bash, zsh or fish, got 'tcsh'" in done.output
