"""The command line: parse arguments, run one stage, print its result, map errors to exit codes.

Heavy packages are imported only when a command runs, which keeps `medmim --help` fast.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from medmim import __version__
from medmim.cli.error_report import report_error
from medmim.cli.machine_errors import explain, explain_exhausted
from medmim.config.own_code import explain_own_code, trust, trust_settings
from medmim.errors import MedmimError, Stopped, causes, did_you_mean, message_of
from medmim.files import SHARED

_CHECKED = "checks_parameters"  # marks callbacks; `__wrapped__` would not do, since type checks wrap them too
_LOADS_MODELS = (
    *("pretrain", "finetune", "study", "predict", "evaluate", "export", "embed", "masks", "plan", "compare"),
    "weights",
)
_WRITES = (
    *("doctor", "ingest", "inspect", "pretrain", "finetune", "study", "predict", "evaluate", "export"),
    *("embed", "demo", "pack", "unpack", "sync", "report"),
)
_PRIVATE, _GROUP = 0o077, 0o007  # umasks: files for the user only, or for the group as well
_COMPLETIONS = {
    "bash": ".local/share/bash-completion/completions/medmim",
    "zsh": ".zfunc/_medmim",
    "fish": ".config/fish/completions/medmim.fish",
}
_PLAIN_WORDS = {  # the longer names first, as they contain the shorter ones
    "integer range": "a whole number",
    "float range": "a number",
    "integer": "a whole number",
    "float": "a number",
}
COMMANDS = {
    "ingest": "convert DICOM or NIfTI scans to a checked, pseudonymised dataset folder",
    "inspect": "write an HTML page of a dataset: thumbnails, verdicts, histograms",
    "verify": "check a dataset against its recorded hashes and counts",
    "masks": "draw a gallery of masks with statistics, on a grid or on your own scan",
    "methods": "list pretraining methods, classified by the axes of the survey",
    "pretrain": "pretrain an encoder on a dataset by masked image modelling",
    "finetune": "train, test and register a segmenter, classifier or detector",
    "study": "compare masks, ratios, methods and seeds in a resumable grid of runs",
    "compare": "compare fine-tuning runs: table, confidence intervals, verdict, report",
    "predict": "apply a model to new scans: NIfTI, DICOM-SEG, boxes, tables, images",
    "evaluate": "score a model or predictions on another labelled dataset",
    "export": "export a MONAI bundle, ONNX or safetensors, verified against PyTorch",
    "embed": "write a feature vector for each image, and a picture of them",
    "runs": "list runs with scores and intervals; filter, sort, delete",
    "models": "list registered models: task, score, interval, arm, status, contamination",
    "report": "write one page with all reports, models, runs and training curves",
    "promote": "make a registered model the champion by a recorded decision",
    "clean": "remove files that no run needs any more",
    "sync": "upload all local runs to an MLflow server, exactly once",
    "pack": "write a study to one checked file",
    "unpack": "merge the runs of a packed study into the local runs",
    "ui": "start the MLflow UI for the local runs, on this machine only",
    "weights": "show what a weights file contains, and which encoder it fits",
    "bench": "measure speed and memory of packed, masked and dense computing",
    "settings": "list every setting of a task: type, default, meaning",
    "plan": "predict memory and hours of a run, and the batch size that fits",
    "doctor": "check this machine: versions, devices, decoders, disk, permissions",
    "demo": "run the whole pipeline on generated DICOM",
}


class Medmim(click.Group):
    """Command group that imports commands when they run and prints errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a typical workflow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"medmim.cli.{name}").command
        present = {option for parameter in command.params for option in parameter.opts}
        own = [_trust_option()] if name in _LOADS_MODELS else []
        own += [_shared_option()] if name in _WRITES else []
        command.params += [option for option in own if present.isdisjoint(option.opts)]
        if command.callback is not None and not hasattr(command.callback, _CHECKED):
            command.callback = _checked_first(name, command.callback)
            setattr(command.callback, _CHECKED, True)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command, or suggest the most similar one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no such command '{args[0]}'{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print an error as one line and exit with its code."""
        umask = os.umask(_PRIVATE)
        try:
            return super().invoke(ctx)
        except (MedmimError, Stopped) as error:
            text = explain_exhausted(error) or message_of(error)
            if isinstance(error, Stopped):  # only trainings have the option; studies skip finished ones
                trains = ctx.invoked_subcommand in ("pretrain", "finetune")
                how = f"`medmim {ctx.invoked_subcommand} --resume`" if trains else "the same command"
                text = text.replace("`--resume`", how)
            click.echo(f"medmim: {text}", err=True)
            ctx.exit(error.exit_code)
        except click.UsageError as error:
            words = f"medmim {ctx.invoked_subcommand or ''}".strip()
            text = _in_plain_words(error.format_message().rstrip("."))
            click.echo(f"medmim: {text}; see `{words} --help`", err=True)
            ctx.exit(error.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            trains = ctx.invoked_subcommand in ("pretrain", "finetune")
            how = f"; continue with `medmim {ctx.invoked_subcommand} --resume`" if trains else ""
            click.echo(f"medmim: interrupted{how}", err=True)
            ctx.exit(130)
        except Exception as error:
            if os.environ.get("MEDMIM_DEBUG"):
                raise
            click.echo(
                f"medmim: {explain(error) or explain_own_code(error) or report_error(error)}", err=True
            )
            _release(error)
            ctx.exit(1)
        finally:
            os.umask(umask)


def _in_plain_words(message: str) -> str:
    """Return a message of click without its names of types."""
    for kind, words in _PLAIN_WORDS.items():
        message = message.replace(f"is not a valid {kind}", f"is not {words}")
    return message


def _release(error: BaseException) -> None:
    """Free what the frames of an error keep, so that destructors of half-built objects print no traceback."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _unraisable: None
    for cause in causes(error):
        traceback.clear_frames(cause.__traceback__)
    gc.collect()
    sys.unraisablehook = hook


def _checked_first(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that its parameters are trusted and checked before its stage is imported."""

    @functools.wraps(run)
    def command(*positional: Any, **parameters: Any) -> Any:
        from medmim.cli.early_checks import check_parameters

        trust_settings(parameters)
        check_parameters(name, parameters)
        return run(*positional, **parameters)

    return command


def _trust_option() -> click.Option:
    def allow(_context: click.Context, _option: click.Parameter, paths: tuple[str, ...]) -> None:
        trust(paths)

    return click.Option(
        ["--trust-code"],
        multiple=True,
        metavar="MODULE:CALLABLE",
        expose_value=False,
        is_eager=True,
        callback=allow,
        help="Allow the import of this code if weights or a run name it; may be repeated.",
    )


def _shared_option() -> click.Option:
    def share(_context: click.Context, _option: click.Parameter, shared: bool) -> None:
        if shared:
            os.environ[SHARED] = "1"
        if os.environ.get(SHARED):
            os.umask(_GROUP)

    return click.Option(
        ["--shared"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=share,
        help="Let your group read and write the created files; by default only you can.",
    )


def _completion_option() -> click.Option:
    """Return the option, which writes the script for the shell of the user and stops."""
    return click.Option(
        ["--install-completion"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_install_completion,
        help="Install the completion of commands and settings for your shell (bash, zsh or fish).",
    )


def _install_completion(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    shell = Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(shell) if shell in _COMPLETIONS else None
    if kind is None:
        raise click.UsageError(
            f"--install-completion: expected SHELL to be bash, zsh or fish, got '{shell}'; set SHELL"
        )
    script = kind(context.command, {}, "medmim", "_MEDMIM_COMPLETE").source()
    place = Path.home() / _COMPLETIONS[shell]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(script, encoding="utf-8")
    click.echo(f"written  {place}")
    more = ", after `fpath+=~/.zfunc; autoload -Uz compinit; compinit` in ~/.zshrc" if shell == "zsh" else ""
    click.echo(f"next     open a new shell{more}, and press Tab after `medmim `")
    context.exit()


@click.group(
    cls=Medmim,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Start with your own scans:
  medmim ingest /dicom
  medmim pretrain --mask mesh --ratio 0.7
  medmim finetune segment
  medmim finetune segment --init scratch
  medmim compare
  medmim ui

Or with generated scans: medmim demo. Runs are stored in $MEDMIM_HOME (./medmim-runs).""",
)
@click.option("-v", "--verbose", is_flag=True, help="Show warnings of libraries, and tracebacks of errors.")
@click.option("-q", "--quiet", is_flag=True, help="Show results, warnings and errors only, no progress.")
@click.version_option(__version__, prog_name="medmim")
def main(*, verbose: bool, quiet: bool) -> None:
    """Masked image modelling for medical scans: from DICOM to compared and registered models."""
    if verbose:
        os.environ["MEDMIM_DEBUG"] = "1"
    elif not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for the processes that commands start


main.params.append(_completion_option())

if __name__ == "__main__":
    sys.exit(main())
