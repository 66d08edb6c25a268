"""Options that several commands share, and the output of results."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from medmim.cli.next_command import DEFAULT_DATA
from medmim.cli.progress import log_line
from medmim.files import home_folder

if TYPE_CHECKING:
    from medmim.config.runs import RunSettings

    Settings = TypeVar("Settings", bound=RunSettings)

home = home_folder
_WIDEST = 14  # first column of results that are no tables
Command = TypeVar("Command", bound=Callable[..., Any])


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


def path_option(*words: str, **options: Any) -> Callable[[Command], Command]:
    """Return an option whose value is a path."""
    return click.option(*words, type=click.Path(path_type=Path), **options)


def dataset_option(words: str = "Dataset folder.") -> Callable[[Command], Command]:
    """Return `--data` of a command that reads one dataset."""
    return path_option("--data", default=DEFAULT_DATA, show_default=True, help=words)


def out_option(default: str, words: str = "Output folder.") -> Callable[[Command], Command]:
    """Return `--out`."""
    return path_option("--out", default=default, show_default=True, help=words)


def cluster_options(words: str) -> Callable[[Command], Command]:
    """Return `--engine`, explained by these words, and `--address`."""
    engine = click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help=words
    )
    address = click.option(
        "--address", help="Address of the Ray cluster, such as head:6379; auto: the cluster of this machine."
    )
    return lambda command: engine(address(command))


def models_option(command: Command) -> Command:
    """Add `--model`, which may be given several times."""
    return click.option("--model", multiple=True, help=_MODEL.format(" Several: their mean."))(command)


def metrics_option(words: str) -> Callable[[Command], Command]:
    """Return `--metrics`, whose value is a tuple of names."""
    return click.option("--metrics", callback=lambda _context, _option, text: _names(text or ""), help=words)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def print_result(result: dict[str, Any], *, as_json: bool, lines: Sequence[str], following: str) -> None:
    """Print a result as JSON or as lines; stop without an error if the output pipe is closed.

    Args:
        following: the command to run next, printed as the last line, aligned with the others.
    """
    word = re.match(r"\w+ {2,}", lines[0]) if lines else None
    width = word.end() if word and word.end() <= _WIDEST else len("next  ")
    last = f"{'next':<{width}}{following}"
    try:
        for line in [json.dumps(result, sort_keys=True)] if as_json else [*lines, last]:
            click.echo(line)
    except BrokenPipeError:  # such as `| head`: prevent Python from flushing to the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of a table as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


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


def run_settings(
    kind: type[Settings],
    stage: str,
    values: Mapping[str, Any],
    *,
    config: str | None,
    overrides: Sequence[str],
    resume: str | None,
) -> tuple[Settings, str | None]:
    """Return the settings of a training and the run that it resumes, and print what it uses.

    Raises:
        click.UsageError: for settings that a resumed run cannot change.
        MedmimError: for invalid settings, or a run that cannot be resumed.
    """
    from medmim.config.yaml_settings import resolve

    note_server()
    base = values.get("method" if stage == "pretrain" else "task")
    settings = resolve(kind, base=base, config=config, flags=values, overrides=overrides)
    if resume:
        _refuse_with_resume(values, overrides, config)
        from medmim.stages.resumption import to_resume

        changed = [key for key in [*values, *map(_key, overrides)] if key in _MAY_CHANGE]
        update = {key: getattr(settings, key) for key in changed}
        given: dict[str, Any] = {"data": values.get("data"), "task": values.get("task")}
        given |= {"more_data": getattr(settings, "more_data", ())}
        settings, resume = to_resume(kind, stage, resume, home=home(), **given)
        settings = settings.model_copy(update=update)
    note_run(settings)
    return settings, resume


def _refuse_with_resume(flags: Iterable[str], overrides: Iterable[str], config: str | None) -> None:
    """Raise UsageError if flags, overrides or a settings file are given that a resumed run would ignore."""
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


def _option(word: str, text: str, default: str = "", **options: Any) -> Callable[[Command], Command]:
    shown = f"  [default: {default}]" if default else ""
    return click.option(word, help=f"{text}{shown}", **options)


set_option = click.option(
    *("overrides", "--set"),
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_setting,
    help="Change any setting; may be repeated.",
)
_DATA_OPTIONS: list[Callable[[Any], Any]] = [
    path_option(
        "--data",
        multiple=True,
        callback=_first_dataset,
        help=f"Dataset folder; may be repeated for pretraining.  [default: {DEFAULT_DATA}]",
    ),
    _option("--dims", "2: slices of volumes, 3: volumes.", "from the data", type=click.IntRange(2, 3)),
    _option(
        "--size",
        "Patch size in voxels, such as 64 or 40,56,40; for classify, the size to which images are scaled.",
        _RECIPE,
    ),
]
_ENCODERS = (
    "convnext, dynunet, resenc, resnet18, resnet50, segresnet, swin, vit, timm:NAME or module:callable."
)
_TRAINING_OPTIONS: list[Callable[[Any], Any]] = [
    _option("--steps", "Length of training in steps.", _RECIPE, type=int),
    _option("--epochs", "Length of training in epochs, each of which draws every volume once.", type=float),
    _option("--minutes", "Length of training in minutes of wall-clock time.", type=float),
    _option("--batch-size", "Patches per step.", _RECIPE, type=int),
    _option("--lr", "Learning rate.", "0.001", type=float),
    _option("--precision", "auto, fp32, bf16 or fp16.", "auto"),
    _option("--workers", "Number of data loader processes.", "from the machine", type=int),
    _option("--devices", "GPUs (or CPU processes) that share a step.", "1", type=int),
    _option("--nodes", "Machines that share a step.", "1", type=int),
    _option("--seed", "Seed of all random numbers.", "0", type=int),
    _option("--fold", "Hold out this fold, 0 to 4, of five patient-disjoint folds.", type=int),
    _option("--channels", "Volumes of a visit that become input channels, such as t1+post,flair."),
    _option("--init-map", "YAML file with names for a weights file that is not recognised."),
    _option("--config", "Settings file (YAML), or a preset shipped with medmim."),
    set_option,
]
_resume_option = click.option(
    "--resume",
    is_flag=False,
    flag_value="latest",
    metavar="[RUN]",
    help="Continue an unfinished run; no other option is needed.",
)


def pretraining_options(command: Command) -> Command:
    """Add the options of training, with the defaults of `pretrain`."""
    return _with_run_options(_resume_option(command), f"{_RECIPE}; vit for token methods")


def finetuning_options(command: Command) -> Command:
    """Add the options of training, with the defaults of `finetune`."""
    return planning_options(_resume_option(command))


def planning_options(command: Command) -> Command:
    """Add the options of `finetune` that choose a training, for its plan; a plan has no --resume."""
    return _with_run_options(command, "that of --init, else from data and machine")


def _with_run_options(command: Command, encoder: str) -> Command:
    every = [*_DATA_OPTIONS, _option("--encoder", _ENCODERS, encoder), *_TRAINING_OPTIONS]
    for option in reversed(every):
        command = option(command)
    return command
