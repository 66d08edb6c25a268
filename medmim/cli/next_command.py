"""The command to run next, which is the last line of every result."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmim.config.runs import FinetuneSettings

DEFAULT_DATA = "medmim-data"


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


def next_control(
    settings: FinetuneSettings,
    values: Mapping[str, Any],
    overrides: Sequence[str],
    config: str | None,
    weights: Path,
) -> str:
    """Return the command after a fine-tuning: the comparison, or the control with its options and encoder."""
    if settings.init == "scratch":
        return "medmim compare"
    kept: dict[str, Any] = {} if settings.data == Path(DEFAULT_DATA) else {"data": settings.data}
    omitted = ("task", "init", "init_map", "data")
    kept |= {key: value for key, value in values.items() if key not in omitted}
    used = json.loads(weights.with_name("weights.json").read_text("utf-8"))
    if "encoder" not in kept and not _is_default_encoder(settings, used):
        kept["encoder"] = used["encoder"]
        options = used["encoder_options"].items()
        overrides = (*overrides, *(f"encoder_options.{key}={json.dumps(value)}" for key, value in options))
    words = [f"--config={config}"] if config else []
    for key, value in kept.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += [f"--{key.replace('_', '-')}", text]
    words += [word for override in overrides for word in ("--set", override)]
    control = shlex.join(["medmim", "finetune", settings.task, "--init", "scratch", *words])
    return f"{control}, then medmim compare"


def _is_default_encoder(settings: FinetuneSettings, used: Mapping[str, Any]) -> bool:
    """Return whether training from scratch would use the encoder of these weights by itself."""
    from medmim.data.dataset.manifest import read_dataset
    from medmim.data.dataset.splits import partition
    from medmim.training.recipe import with_recipe

    volumes = partition(read_dataset(settings.data), fold=settings.fold).train
    control = type(settings)(task=settings.task, data=settings.data, fold=settings.fold)
    alone = with_recipe(control, volumes, dims=used["spatial_dims"])
    return (alone.encoder, alone.encoder_options) == (used["encoder"], used["encoder_options"])
