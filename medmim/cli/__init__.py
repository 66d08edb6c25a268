"""The command line: parse the words, run one stage, print its result, map errors to exit codes.

Nothing heavy is imported before a command runs, so that `medmim --help` answers at once.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from medmim import __version__
from medmim.cli.troubles import explain
from medmim.errors import MedmimError, Stopped, did_you_mean, raised_in
from medmim.files import SHARED

_LOADS_MODELS = ("pretrain", "finetune", "study", "predict", "export", "masks", "plan", "compare")
_WRITES = (
    "doctor",
    "ingest",
    "inspect",
    "pretrain",
    "finetune",
    "study",
    "predict",
    "export",
    "demo",
    "pack",
    "unpack",
    "sync",
)
_PRIVATE, _GROUP = 0o077, 0o007  # umasks: files for the user alone, and for the group too
COMMANDS = {
    "ingest": "DICOM or NIfTI folder → checked, pseudonymised dataset folder",
    "inspect": "one HTML page of a dataset: pictures, verdicts, histograms",
    "verify": "hashes and counts of a dataset: is it still what was written",
    "masks": "a gallery of masks, and their cards, on a grid or on your own scan",
    "methods": "the table of pretraining methods along the survey's axes",
    "pretrain": "masked pretraining of an encoder on a dataset",
    "finetune": "a task head on an encoder, tested and registered",
    "study": "masks, ratios, methods and seeds compared: a grid of cells, resumable",
    "compare": "fine-tuning runs side by side: table, intervals, verdict, report",
    "predict": "a fine-tuned model on new scans → NIfTI, DICOM-SEG, boxes, tables, pictures",
    "export": "a model as MONAI bundle, ONNX or safetensors, compared with PyTorch before",
    "models": "registered models: versions, aliases, lineage, contamination",
    "sync": "make an MLflow server hold every run that is here, exactly once",
    "pack": "a study as one checked file",
    "unpack": "merge the runs of such a file",
    "ui": "the MLflow UI on the local runs, loopback only",
    "bench": "speed and memory of packed, masked and dense computing here",
    "plan": "memory and hours of a run before it starts, and the batch size that fits",
    "doctor": "what this machine has, what it lacks, and what to do about it",
    "demo": "the whole line on generated DICOM",
}


class Medmim(click.Group):
    """The command group: commands are imported when they run; errors become one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
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
        if command.callback is not None and not hasattr(command.callback, "__wrapped__"):
            command.callback = _checked_first(name, command.callback)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no such command '{args[0]}'{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print errors in one line and exit with their code."""
        umask = os.umask(_PRIVATE)
        try:
            return super().invoke(ctx)
        except (MedmimError, Stopped) as error:
            click.echo(f"medmim: {error}", err=True)
            ctx.exit(error.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("medmim: interrupted; `--resume` continues a training run", err=True)
            ctx.exit(130)
        except Exception as error:
            if os.environ.get("MEDMIM_DEBUG"):
                raise
            internal = (  # without the message of the error, which may quote a scan
                f"internal error, {type(error).__name__} in {raised_in(error)}; please report it "
                "(MEDMIM_DEBUG=1 shows more)"
            )
            click.echo(f"medmim: {explain(error) or internal}", err=True)
            ctx.exit(1)
        finally:
            os.umask(umask)


def _checked_first(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a command that checks its parameters before it imports its stage."""

    @functools.wraps(run)
    def command(*positional: Any, **parameters: Any) -> Any:
        from medmim.cli.early_checks import check_parameters

        check_parameters(name, parameters)
        return run(*positional, **parameters)

    return command


def _trust_option() -> click.Option:
    def allow(_context: click.Context, _option: click.Parameter, paths: tuple[str, ...]) -> None:
        from medmim.config.own_code import trust

        trust(paths)

    return click.Option(
        ["--trust-code"],
        multiple=True,
        metavar="MODULE:CALLABLE",
        expose_value=False,
        is_eager=True,
        callback=allow,
        help="Import this code if weights or a run name it; may be repeated.",
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
        help="Let the group read and write what is created; by default only you can.",
    )


@click.group(
    cls=Medmim,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Start on your own scans:
  medmim ingest /dicom
  medmim pretrain --mask mesh --ratio 0.7
  medmim finetune segment
  medmim finetune segment --init scratch
  medmim compare
  medmim ui

Or on generated ones: medmim demo. Runs are kept in $MEDMIM_HOME (./medmim-runs).""",
)
@click.version_option(__version__, prog_name="medmim")
def main() -> None:
    """Masked image modelling for medical scans: DICOM in, compared and registered segmenters out."""


if __name__ == "__main__":
    sys.exit(main())
