"""Options that several commands share, and the output of results."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from medmim.cli.progress import log_line
from medmim.files import home_folder

if TYPE_CHECKING:
    from medmim.config.runs import RunSettings

DEFAULT_DATA = "medmim-data"
Command = TypeVar("Command", bound=Callable[..., Any])


def home() -> Path:
    """Return the folder of runs: `MEDMIM_HOME`, or ./medmim-runs."""
    return home_folder()


def note_server() -> None:
    """Print a note that runs are mirrored, if a tracking server is set."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        click.echo(
            "medmim: runs are stored locally and mirrored to MLFLOW_TRACKING_URI during training", err=True
        )


def note_run(settings: RunSettings) -> None:
    """Print what a training uses and where results are written, before PyTorch is imported."""
    from medmim.stages.run_header import opening_lines

    for line in opening_lines(settings, home()):
        log_line(line)


def data_option(data: Path) -> str:
    """Return ` --data PATH` for a command to paste; empty for the default."""
    return "" if data == Path(DEFAULT_DATA) else f" --data {shlex.quote(str(data))}"


def next_finetuning(data: Path, encoder: str | None = None) -> str:
    """Return the fine-tuning command for the annotations of a dataset, and for the user's own encoder."""
    from medmim.data.dataset.manifest import read_dataset

    volumes = read_dataset(data).volumes
    tasks = {
        "segment": any(one.label for one in volumes),
        "detect": any(one.boxes for one in volumes),
        "classify": any(one.targets or one.target is not None for one in volumes),
    }
    task = next((name for name, annotated in tasks.items() if annotated), None)
    if task is None:
        return "this dataset has no labels: medmim ingest SRC --labels DIR, then medmim finetune segment"
    own = encoder and ":" in encoder and not encoder.startswith("timm:")
    return f"medmim finetune {task}{data_option(data)}{f' --trust-code {encoder}' if own else ''}"


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option(
        "as_json", "--json", is_flag=True, help="Print one JSON object as the last line of stdout."
    )(command)


_MODEL = "Registered NAME, NAME:VERSION or NAME@ALIAS, a run or a .safetensors file.{}  [default: the "
_MODEL += "champion, otherwise the best candidate by validation score]"


def model_option(command: Command) -> Command:
    """Add `--model`."""
    return click.option("--model", help=_MODEL.format(""))(command)


def dataset_option(words: str = "Dataset folder.") -> Callable[[Command], Command]:
    """Return `--data` of a command that reads one dataset."""
    return click.option(
        "--data", type=click.Path(path_type=Path), default="medmim-data", show_default=True, help=words
    )


def models_option(command: Command) -> Command:
    """Add `--model`, which may be given several times."""
    return click.option("--model", multiple=True, help=_MODEL.format(" Several: their mean."))(command)


def print_result(result: dict[str, Any], *, as_json: bool, lines: list[str]) -> None:
    """Print a result as JSON or as lines; stop without an error if the output pipe is closed."""
    try:
        for line in [json.dumps(result, sort_keys=True)] if as_json else lines:
            click.echo(line)
    except BrokenPipeError:  # such as `| head`: prevent Python from flushing to the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of a table as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def pretraining_options(command: Command) -> Command:
    """Add the options of training, with the defaults of `pretrain`."""
    return _with_run_options(command, _DEFAULTS)


def finetuning_options(command: Command) -> Command:
    """Add the options of training, with the defaults of `finetune`."""
    return _with_run_options(command, {**_DEFAULTS, "--encoder": _ENCODER_OF_INIT})


def _with_run_options(command: Command, defaults: Mapping[str, str]) -> Command:
    for words, options in reversed(_RUN_OPTIONS):
        shown = f"  [default: {defaults[words[-1]]}]" if words[-1] in defaults else ""
        changed = {**options, "help": options["help"] + shown}
        command = click.option(*words, **changed)(command)
    return command


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that the user set, with the size parsed to integers."""
    flags = {key: value for key, value in values.items() if value is not None}
    if "size" in flags:
        flags["size"] = sizes(flags["size"], word="--size")
    return flags


def sizes(text: str, *, word: str) -> tuple[int, ...]:
    """Parse `64` or `40,56,40`."""
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise click.UsageError(
            f"{word}: expected one number or one per axis, such as 64 or 40,56,40; got '{text}'"
        ) from None


def where_it_runs(settings: RunSettings, flags: Iterable[str], overrides: Iterable[str]) -> dict[str, Any]:
    """Return the settings that a resumed run may change: hardware and safeguards, but not the experiment."""
    return {key: getattr(settings, key) for key in [*flags, *map(_key, overrides)] if key in _MAY_CHANGE}


def refuse_with_resume(flags: Iterable[str], overrides: Iterable[str], config: str | None) -> None:
    """Raise if settings are given that a resumed run cannot change.

    Raises:
        click.UsageError: for flags, overrides or a file of settings that would be ignored.
    """
    words = [f"--{key.replace('_', '-')}" for key in flags if key not in (*_WITH_RESUME, *_MAY_CHANGE)]
    words += [f"--set {key}" for key in map(_key, overrides) if key not in _MAY_CHANGE]
    words += ["--config"] if config else []
    if words:
        raise click.UsageError(
            f"--resume continues with the settings of the run; leave out {', '.join(words)}; it accepts only "
            f"{', '.join(_MAY_CHANGE)}"
        )


def _key(override: str) -> str:
    return override.partition("=")[0].strip().replace("-", "_")


def _first_dataset(
    context: click.Context, _option: click.Parameter, folders: tuple[Path, ...]
) -> Path | None:
    """Return the first dataset folder; the others become `more_data` of pretraining."""
    if len(folders) > 1 and context.command.name != "pretrain":
        raise click.UsageError("--data: expected one dataset folder; only `medmim pretrain` takes several")
    if len(folders) > 1:
        context.params["more_data"] = folders[1:]
    return folders[0] if folders else None


_WITH_RESUME = ("data", "more_data", "task")
_MAY_CHANGE = (
    *("devices", "nodes", "workers", "cache_gb", "cache_disk_gb"),
    *("on_nonfinite", "nonfinite_limit", "checkpoint_every_steps", "checkpoint_every_minutes"),
)
_RECIPE = "from data and machine, see `medmim plan`"
_ENCODER_OF_INIT = "that of --init, else from data and machine"
_DEFAULTS = {
    "--data": DEFAULT_DATA,
    "--dims": "from the data",
    "--size": _RECIPE,
    "--encoder": f"{_RECIPE}; vit for token methods",
    "--steps": _RECIPE,
    "--batch-size": _RECIPE,
    "--lr": "0.001",
    "--precision": "auto",
    "--workers": "from the machine",
    "--devices": "1",
    "--nodes": "1",
    "--seed": "0",
}


def complete_setting(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the settings of a command that begin with a text, for the completion of `--set`."""
    from medmim.config.reference import settings_of

    name = context.command.name or ""
    task = str(context.params.get("task") or context.params.get("stage") or "segment")
    task = name if name in ("pretrain", "study") else task
    known = settings_of("segment" if task == "finetune" else task)
    return [CompletionItem(f"{one.name}=") for one in known if one.name.startswith(incomplete)]


_RUN_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("--data",),
        {
            "type": click.Path(path_type=Path),
            "multiple": True,
            "callback": _first_dataset,
            "help": "Dataset folder; pretrain takes several.",
        },
    ),
    (("--dims",), {"type": click.IntRange(2, 3), "help": "2: slices of volumes, 3: volumes."}),
    (
        ("--size",),
        {"help": "Patch size in voxels, such as 64 or 40,56,40; classify scales whole images to it."},
    ),
    (
        ("--encoder",),
        {
            "help": "convnext, dynunet, resenc, resnet18, resnet50, segresnet, swin, vit, timm:NAME or "
            "module:callable."
        },
    ),
    (("--steps",), {"type": int, "help": "Length of training in steps."}),
    (("--epochs",), {"type": float, "help": "Length of training in epochs of the volumes."}),
    (("--minutes",), {"type": float, "help": "Length of training in minutes of wall-clock time."}),
    (("--batch-size",), {"type": int, "help": "Patches per step."}),
    (("--lr",), {"type": float, "help": "Learning rate."}),
    (("--precision",), {"help": "auto, fp32, bf16 or fp16."}),
    (("--workers",), {"type": int, "help": "Number of data loader processes."}),
    (("--devices",), {"type": int, "help": "GPUs (or CPU processes) that share a step."}),
    (("--nodes",), {"type": int, "help": "Machines that share a step."}),
    (("--seed",), {"type": int, "help": "Seed of all random numbers."}),
    (("--fold",), {"type": int, "help": "Hold out this fold, 0 to 4, of five patient-disjoint folds."}),
    (("--channels",), {"help": "Volumes of a visit as input channels, such as t1+post,flair."}),
    (("--init-map",), {"help": "YAML file with names for a weights file that is not recognised."}),
    (("--config",), {"help": "Settings file (YAML), or a preset shipped with medmim."}),
    (
        ("overrides", "--set"),
        {
            "multiple": True,
            "metavar": "KEY=VALUE",
            "shell_complete": complete_setting,
            "help": "Change any setting; may be repeated.",
        },
    ),
    (
        ("--resume",),
        {
            "is_flag": False,
            "flag_value": "latest",
            "metavar": "[RUN]",
            "help": "Continue an unfinished run; needs no other word.",
        },
    ),
]
