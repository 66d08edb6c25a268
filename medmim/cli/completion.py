"""`medmim --install-completion`: shell completion of commands, options, and the keys of `--set`."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

_PLACES = {
    "bash": ".local/share/bash-completion/completions/medmim",
    "zsh": ".zfunc/_medmim",
    "fish": ".config/fish/completions/medmim.fish",
}


def completion_option() -> click.Option:
    """Return the option, which writes the script for the shell of the user and stops."""
    return click.Option(
        ["--install-completion"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_install,
        help="Install the completion of commands and settings for your shell (bash, zsh or fish).",
    )


def _install(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    shell = Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(shell) if shell in _PLACES else None
    if kind is None:
        raise click.UsageError(
            f"--install-completion: expected SHELL to be bash, zsh or fish, got '{shell}'; set SHELL"
        )
    script = kind(context.command, {}, "medmim", "_MEDMIM_COMPLETE").source()
    place = Path.home() / _PLACES[shell]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(script, encoding="utf-8")
    click.echo(f"written  {place}")
    more = ", after `fpath+=~/.zfunc; autoload -Uz compinit; compinit` in ~/.zshrc" if shell == "zsh" else ""
    click.echo(f"next     open a new shell{more}, and press Tab after `medmim `")
    context.exit()
