"""Settings of a run: typed, frozen, and refused completely and kindly when wrong.

Precedence, lowest first: defaults here, `--config FILE`, flags, `--set key=value`. The resolved settings are
stored with the run. Values that depend on the data (size, dims, encoder, cell) may be left open: None means
"chosen from the dataset", and the choice is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from medmim import files
from medmim.errors import SettingsError, did_you_mean


def _as_sequence(value: Any) -> Any:
    """Read one number, or numbers separated by commas, as a sequence of sizes."""
    if isinstance(value, int):
        return (value,)
    return tuple(value.split(",")) if isinstance(value, str) else value


def _as_cell(value: Any) -> Any:
    """Read cell sizes: all in voxels, or all in millimetres, such as `8mm,16mm`."""
    parts = (
        value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else value
    )
    words = [str(part).strip().lower() for part in parts]
    if all(_MILLIMETRES.fullmatch(word) for word in words):
        return tuple(f"{float(word.removesuffix('mm')):g}mm" for word in words)
    if all(word.isdecimal() and int(word) for word in words):
        return tuple(int(word) for word in words)
    raise ValueError("expected voxels such as 8 or 8,8,4, or millimetres such as 8mm or 8mm,16mm,16mm")


_MILLIMETRES = re.compile(r"(?=.*[1-9])\d+(\.\d+)?\s*mm")
CellSize = Annotated[tuple[int | str, ...], BeforeValidator(_as_cell)]
Sizes = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(_as_sequence)]
Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class RunSettings(BaseModel):
    """What pretraining and fine-tuning share.

    Attributes:
        data: dataset folder that `medmim ingest` wrote.
        dims: 2 (slices drawn from volumes) or 3.
        size: voxels that the network sees at once, one number or one an axis.
        encoder: name in the table of encoders, or module:callable.
        steps, epochs, minutes: length of training; one of them.
        optimizer: adamw, lamb or sgd (Nesterov's).
        betas: memory of the gradient's mean and mean square; sgd takes the first as its momentum.
        weight_decay_end: weight decay at the end of training, reached along a cosine; None: it stays.
        warmup: share of the training over which the learning rate rises.
        warmup_start, final_lr: learning rate at the beginning and at the end, relative to its peak.
        accumulate: batches whose gradients are added up to one step; memory is that of one batch.
        activation_checkpointing: compute blocks again in the backward instead of keeping what they gave: less
            memory, a third more time; running statistics of batch norm move twice a step.
        channels_last: keep weights and maps with channels last, which some processors and cards prefer.
        compile: use torch.compile; where that fails, a message says so and training goes on without.
        precision: auto is bf16 where the processor computes with it, otherwise fp32.
        devices: cards of each machine, or processes on one without cards, that share each step.
        nodes: machines that share each step; torchrun or SLURM start their processes.
        workers: processes that prepare batches; None: chosen from the machine.
        evaluations: how often validation runs and pictures are drawn.
        cache_gb: memory for prepared volumes, in each process; those on disk take none.
        cache_disk_gb: disk for prepared volumes, in the home folder, shared by workers and runs; 0: none.
        checkpoint_every_steps: save the state for `--resume` this often; None: at every evaluation.
        checkpoint_every_minutes: save it this often at least, whatever the steps take.
        on_nonfinite: what a loss or gradient that is not finite does: stop the run, skip the step, or roll
            weights and optimiser back to the last saved state and go on with the next data.
        nonfinite_limit: so many such steps a run survives.
        fold: hold out this one of five patient-disjoint folds instead of the dataset's own test split.
        experiment: MLflow experiment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    data: Path = Path("medmim-data")
    dims: Literal[2, 3] | None = None
    size: Sizes | None = None
    encoder: str | None = None
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=4, gt=0)
    accumulate: int = Field(default=1, gt=0)
    activation_checkpointing: bool = False
    channels_last: bool = False
    compile: bool = False
    lr: float = Field(default=1e-3, gt=0)
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0)
    weight_decay_end: float | None = Field(default=None, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    warmup_start: float = Field(default=1e-3, ge=0, le=1)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    devices: int = Field(default=1, gt=0)
    nodes: int = Field(default=1, gt=0)
    workers: int | None = Field(default=None, ge=0)
    seed: int = Field(default=0, ge=0)
    evaluations: int = Field(default=10, gt=0)
    cache_gb: float = Field(default=4.0, gt=0)
    cache_disk_gb: float = Field(default=20.0, ge=0)
    checkpoint_every_steps: int | None = Field(default=None, gt=0)
    checkpoint_every_minutes: float = Field(default=10.0, gt=0)
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    nonfinite_limit: int = Field(default=10, ge=0)
    fold: int | None = Field(default=None, ge=0, le=4)
    experiment: str = Field(default="medmim", pattern=r"^[A-Za-z0-9_.-]+$")

    @model_validator(mode="after")
    def _one_budget(self) -> RunSettings:
        given = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of steps, epochs, minutes, got {' and '.join(given)}")
        return self

    @property
    def draws_per_step(self) -> int:
        """Patches that one optimiser step sees."""
        return self.batch_size * self.accumulate * self.devices * self.nodes


class PretrainSettings(RunSettings):
    """Settings of `medmim pretrain`.

    Attributes:
        method: name in the table of methods.
        mask: name in the table of masks, or module:callable.
        mask_options: that mask's own settings; `up_to` makes a range of `ratio`, drawn once a batch.
        ratio: share of mask cells to hide.
        cell: mask cell in voxels, or in millimetres such as `8mm`, which become the nearest size in voxels
            that the encoder takes; None: the encoder's total stride.
        compute: of SparK: packed computes visible cells only; masked computes all and multiplies, with equal
            results. None: packed.
        augment: patch: random crops at one spacing, flips along all axes, mild intensity changes; resized: as
            SparK, parts of 0.67 to 1 of an image scaled to `size`, and left for right.
        include_held_out: pretrain on validation and test patients too (their images, never their labels).
    """

    method: str = "spark"
    method_options: dict[str, Any] = Field(default_factory=dict)
    mask: str = "mesh"
    mask_options: dict[str, Any] = Field(default_factory=dict)
    ratio: Share = 0.7
    cell: CellSize | None = None
    compute: Literal["packed", "masked"] | None = None
    augment: Literal["patch", "resized"] = "patch"
    include_held_out: bool = False


class FinetuneSettings(RunSettings):
    """Settings of `medmim finetune`.

    Attributes:
        task: segment.
        init: where the encoder's weights come from: `scratch`, a run id, a weights file, or None: the newest
            pretraining run on this dataset.
        labelled: train on this many labelled patients (nested: the ten are among the twenty).
        label_fraction: the same as a share of the labelled patients.
        encoder_lr: learning rate of the encoder relative to `lr`.
        foreground: share of patches centred on labelled foreground.
    """

    task: str = "segment"
    init: str | None = None
    labelled: int | None = Field(default=None, gt=0)
    label_fraction: float | None = Field(default=None, gt=0, le=1)
    encoder_lr: float = Field(default=1.0, ge=0)
    foreground: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _one_label_budget(self) -> FinetuneSettings:
        if self.labelled is not None and self.label_fraction is not None:
            raise ValueError("expected one of labelled, label_fraction, got both")
        return self


Settings = TypeVar("Settings", bound=RunSettings)


def resolve(
    kind: type[Settings],
    *,
    config: str | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Settings:
    """Merge defaults, file, flags and overrides into settings.

    Args:
        kind: the settings model.
        config: path of a YAML file, or the name of one that ships with medmim.
        flags: values from the command line; None means "not given".
        overrides: `key=value` words; values are read as YAML, and `options.name=value` changes one option.

    Raises:
        SettingsError: one message with every unknown key and every bad value.
    """
    values: dict[str, Any] = {}
    if config is not None:
        _merge(values, _read(find_config(config, kind)))
    _merge(values, {key: value for key, value in (flags or {}).items() if value is not None})
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals:
            raise SettingsError(f"--set {word}: expected key=value, such as --set batch_size=2")
        _merge(values, _nested(values, key.strip().replace("-", "_"), _parse(text, where=f"--set {key}")))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem, kind) for problem in error.errors(include_url=False))
        raise SettingsError(f"settings{f' in {config}' if config else ''}: {problems}") from None


def find_config(name: str, kind: type[RunSettings]) -> Path:
    """Return the file of a `--config` word: a path, or the name of a shipped preset."""
    if Path(name).is_file():
        return Path(name)
    folder = files.shipped("configs") / ("pretrain" if kind is PretrainSettings else "finetune")
    presets = {path.stem: path for path in folder.glob("*.yaml")}
    if name in presets:
        return presets[name]
    raise SettingsError(f"--config {name}: no such file or preset{did_you_mean(name, presets)}")


_BUDGETS = ("steps", "epochs", "minutes")
_LABEL_BUDGETS = ("labelled", "label_fraction")


def _merge(values: dict[str, Any], newer: Mapping[str, Any]) -> None:
    """Let newer values win; a newer budget replaces an older one of another kind."""
    for group in (_BUDGETS, _LABEL_BUDGETS):
        if any(newer.get(key) is not None for key in group):
            for key in group:
                values.pop(key, None)
    values.update(newer)


def _nested(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return `a.b=value` as the mapping of `a`, in which `b` is new and the rest stays."""
    first, _, rest = key.partition(".")
    if not rest:
        return {first: value}
    known = values.get(first)
    inner = known if isinstance(known, Mapping) else {}
    return {first: {**inner, **_nested(inner, rest, value)}}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: expected a YAML text file that you may read, got {type(error).__name__}"
        ) from None
    content = _parse(text, where=str(path))
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected 'key: value' lines, got {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _parse(text: str, *, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise SettingsError(f"{where}: not valid YAML (line {line})") from None


def _explain(problem: Any, kind: type[RunSettings]) -> str:
    """Turn one pydantic problem into 'key: what was expected, what was got'."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'{did_you_mean(key, kind.model_fields)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
