"""Settings of a pretraining and of a fine-tuning: typed and frozen.

The resolved settings are stored with the run. Values that depend on the data (size, dims, encoder, cell) may
be left open: None means "chosen from the dataset", and the choice is stored.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from medmim.config.resolve import FileSettings


def _as_sequence(value: Any) -> Any:
    """Read one number, or numbers separated by commas, as a sequence of sizes."""
    if isinstance(value, int):
        return (value,)
    return tuple(value.split(",")) if isinstance(value, str) else value


def _as_words(value: Any) -> Any:
    """Read words separated by commas as a sequence."""
    return tuple(value.replace(" ", "").split(",")) if isinstance(value, str) else value


def _as_cell(value: Any) -> Any:
    """Read cell sizes: all in voxels, or all in millimetres, such as `8mm,16mm`."""
    split = value.split(",") if isinstance(value, str) else value
    parts = [split] if isinstance(split, int | float) else split
    words = [str(part).strip().lower() for part in parts]
    if all(_MILLIMETRES.fullmatch(word) for word in words):
        return tuple(f"{float(word.removesuffix('mm')):g}mm" for word in words)
    if all(word.isdecimal() and int(word) for word in words):
        return tuple(int(word) for word in words)
    raise ValueError("expected voxels such as 8 or 8,8,4, or millimetres such as 8mm or 8mm,16mm,16mm")


_MILLIMETRES = re.compile(r"(?=.*[1-9])\d+(\.\d+)?\s*mm")
CellSize = Annotated[tuple[int | str, ...], BeforeValidator(_as_cell)]
Sizes = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(_as_sequence)]
Channels = Annotated[tuple[str, ...], BeforeValidator(_as_words)]
Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class RunSettings(FileSettings):
    """What pretraining and fine-tuning share.

    Attributes:
        data: dataset folder that `medmim ingest` wrote.
        dims: 2 (slices drawn from volumes) or 3.
        size: voxels that the network sees at once, one number or one an axis.
        encoder: name in the table of encoders, or module:callable.
        steps, epochs, minutes: length of training; one of them.
        clock: what minutes are of: wall, or this process's processor time (all its threads), which other
            work on the machine does not shorten.
        optimizer: adamw, lamb or sgd (Nesterov's).
        betas: memory of the gradient's mean and mean square; sgd takes the first as its momentum.
        weight_decay_end: weight decay at the end of training, reached along a cosine; None: it stays.
        warmup: share of the training over which the learning rate rises.
        warmup_start, final_lr: learning rate at the beginning and at the end, relative to its peak.
        accumulate: batches whose gradients are added up to one step; memory is that of one batch. Batch norm
            sees one batch.
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

    data: Path = Path("medmim-data")
    dims: Literal[2, 3] | None = None
    size: Sizes | None = None
    encoder: str | None = None
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    clock: Literal["wall", "processor"] = "wall"
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
        compute: of SparK and contrastive: packed computes visible cells only; masked computes all and
            multiplies, with equal results. None: packed.
        augment: patch: random crops at one spacing, flips along all axes, mild intensity changes; resized: as
            SparK, parts of 0.67 to 1 of an image scaled to `size`, and left for right.
        include_held_out: pretrain on validation and test patients too (their images, never their labels).
        monitors: judge the encoder now and then by probes on validation patients; False saves a few percent.
    """

    presets: ClassVar[str] = "pretrain"

    method: str = "spark"
    method_options: dict[str, Any] = Field(default_factory=dict)
    mask: str = "mesh"
    mask_options: dict[str, Any] = Field(default_factory=dict)
    ratio: Share = 0.7
    cell: CellSize | None = None
    compute: Literal["packed", "masked"] | None = None
    augment: Literal["patch", "resized"] = "patch"
    include_held_out: bool = False
    monitors: bool = True


class FinetuneSettings(RunSettings):
    """Settings of `medmim finetune`.

    Attributes:
        task: segment, classify or detect.
        task_options: that task's own settings, such as `criterion` of segment or `mixup` of classify.
        init: where the encoder's weights come from: `scratch`, a run id, a weights file, or None: the newest
            pretraining run on this dataset.
        channels: what the network sees together: for each channel, words (`tokens` of the manifest, joined by
            +) that tell one volume of a visit, such as `t1+post,flair`; none: each volume by itself. The
            weights of an encoder with one channel serve for several.
        labelled: train on this many labelled patients (nested: the ten are among the twenty).
        label_fraction: the same as a share of the labelled patients.
        view: patch: random patches, sliding window; whole: the whole image scaled to `size`; None: as the
            task likes it.
        tune: full: everything; partial: the last half of the encoder's layers and the head; probe: the head
            alone.
        encoder_lr: learning rate of the encoder relative to `lr`; 0 freezes it.
        layer_decay: factor of the learning rate from each layer of the encoder to the one before.
        freeze: share of the training at whose end the encoder begins to learn.
        ema: share of the moving average of weights that is kept at each step; 0: no average. It is less in
            the first steps, (1 + n) / (10 + n) at step n, so that an average of few steps is one of them.
        regulariser: mask_any_net: train the task also on masked images, whose hidden parts a second branch
            reuses.
        least_loaded: smallest share of the encoder's tensors that must arrive from `init`.
        foreground: share of patches centred on labelled foreground, or on a box.
    """

    presets: ClassVar[str] = "finetune"

    task: str = "segment"
    task_options: dict[str, Any] = Field(default_factory=dict)
    init: str | None = None
    channels: Channels = ()
    labelled: int | None = Field(default=None, gt=0)
    label_fraction: float | None = Field(default=None, gt=0, le=1)
    view: Literal["patch", "whole"] | None = None
    tune: Literal["full", "partial", "probe"] = "full"
    encoder_lr: float = Field(default=1.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    freeze: float = Field(default=0.0, ge=0, lt=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    regulariser: Literal["mask_any_net"] | None = None
    least_loaded: float = Field(default=0.99, ge=0, le=1)
    foreground: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _one_label_budget(self) -> FinetuneSettings:
        if self.labelled is not None and self.label_fraction is not None:
            raise ValueError("expected one of labelled, label_fraction, got both")
        return self

    @property
    def in_channels(self) -> int:
        """Channels that the network sees."""
        return max(len(self.channels), 1)
