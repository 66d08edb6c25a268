"""Typed, frozen settings of pretraining and fine-tuning runs.

The resolved settings are stored with the run. Settings that depend on the data (size, dims, encoder, cell)
may be None, which means "choose from the dataset"; the choice is stored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from medmim.config.value_types import (
    AugmentationFile,
    CellSize,
    FolderName,
    InitMapFile,
    LabelValues,
    Momentum,
    Numbers,
    RegionMembers,
    Share,
    Sizes,
    Window,
    Words,
)
from medmim.config.yaml_settings import FileSettings


class RunSettings(FileSettings):
    """Settings that pretraining and fine-tuning share.

    Attributes:
        data: dataset folder written by `medmim ingest SRC`.
        dims: 2 (slices drawn from volumes) or 3.
        size: patch size in voxels: one number, or one per axis.
        encoder: name in the table of encoders, or module:callable.
        encoder_options: options of the encoder, such as `filters` of dynunet.
        steps, epochs, minutes: length of training; give at most one.
        time_source: what `minutes` measures: wall time, or processor time, which other work does not use.
        batch_size: patches per batch and device.
        accumulate: number of batches whose gradients are summed into one optimizer step. Memory use is that
            of one batch; batch norm sees one batch.
        lr: peak learning rate.
        optimizer: adamw, lamb or sgd (with Nesterov momentum).
        betas: decay rates of the gradient's mean and mean square; sgd uses the first as its momentum.
        weight_decay: decoupled weight decay.
        weight_decay_end: weight decay at the end of training, reached along a cosine; None: constant.
        warmup: share of the training over which the learning rate rises.
        warmup_start, final_lr: learning rate at the start and at the end, relative to the peak.
        gradient_clip: largest norm of the gradient.
        activation_checkpointing: recompute blocks in the backward pass instead of storing their activations:
            less memory, about a third more time. Batch-norm statistics are updated twice per step.
        channels_last: store weights and feature maps channels-last, which is faster on some hardware.
        compile: use torch.compile; if compilation fails, print a message and train uncompiled.
        precision: auto selects bf16 where the hardware computes in it, fp16 with loss scaling on other GPUs,
            otherwise fp32. fp16 is for GPUs.
        devices: GPUs per machine, or processes on a machine without GPUs, that share each step.
        nodes: machines that share each step; torchrun or SLURM start their processes.
        workers: processes that prepare batches; None: chosen from the number of cores.
        seed: seed of all random numbers.
        num_evaluations: number of evaluations (validation scores and figures) during training.
        cache_gb: memory for preprocessed volumes in each process; volumes cached on disk take none of it.
        cache_disk_gb: disk space for preprocessed volumes in the home folder, shared by all runs; 0: none.
        checkpoint_every_steps: interval between saved training states; None: at every evaluation.
        checkpoint_every_minutes: longest time between saved training states.
        on_nonfinite: action when a loss or gradient is not finite: stop the run, skip the step, or roll
            weights and optimizer back to the last saved state and continue with the next data.
        nonfinite_limit: number of such steps after which the run stops.
        spacing_mm: spacing to resample to, one number or one per axis (right, anterior, superior); 0: no
            resampling; None: the median spacing if spacings differ, else that of the training for new scans.
        normalisation: auto: by modality (CT: data set statistics in a window; MR, PET and US: z-score of the
            body; others: z-score of the volume); or dataset, body, volume or none for all images.
        window: lowest and highest intensity, in HU for CT, instead of the percentiles of the data.
        mirror_axes: axes along which images may be mirrored: left-right, front-back, head-feet; none; or
            auto: not left-right where classes come in left-right pairs or lie on one side.
        machine: the machine for which the recipe chooses encoder, patch, spacing, batch and length where they
            are not set: laptop, gpu_12gb, gpu_24gb, or auto: the one that the run starts on.
        channels: volumes of a visit stacked as input channels: for each channel, words (`tokens` of the
            manifest, joined by +) that match one volume, such as `t1+post,flair`; empty: one volume per
            case. Weights of a single-channel encoder initialise all channels.
        init: source of the encoder's weights: `scratch`, a run id, or a weights file of any origin; None:
            for fine-tuning the newest pretraining run on this dataset, for pretraining `scratch`.
        init_map: YAML file with names for a weights file that is not recognised; see `InitMap`.
        min_loaded_fraction: smallest share of the encoder's tensors that `init` must provide.
        fold: hold out this one of five patient-disjoint folds instead of the dataset's own test split.
        experiment: MLflow experiment; by default `MLFLOW_EXPERIMENT_NAME`, or medmim.
    """

    renamed: ClassVar[Mapping[str, str]] = {"clock": "time_source", "evaluations": "num_evaluations"}

    data: Path = Path("medmim-data")
    dims: Literal[2, 3] | None = None
    size: Sizes | None = None
    encoder: str | None = None
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    time_source: Literal["wall", "processor"] = "wall"
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
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    devices: int = Field(default=1, gt=0)
    nodes: int = Field(default=1, gt=0)
    workers: int | None = Field(default=None, ge=0)
    seed: int = Field(default=0, ge=0)
    num_evaluations: int = Field(default=10, gt=0)
    cache_gb: float = Field(default=4.0, gt=0)
    cache_disk_gb: float = Field(default=20.0, ge=0)
    checkpoint_every_steps: int | None = Field(default=None, gt=0)
    checkpoint_every_minutes: float = Field(default=10.0, gt=0)
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    nonfinite_limit: int = Field(default=10, ge=0)
    spacing_mm: Numbers | None = None
    normalisation: Literal["auto", "dataset", "body", "volume", "none"] = "auto"
    window: Window | None = None
    mirror_axes: Words = ("auto",)
    machine: Literal["auto", "laptop", "gpu_12gb", "gpu_24gb"] = "auto"
    channels: Words = ()
    init: str | None = None
    init_map: InitMapFile | None = None
    min_loaded_fraction: float = Field(default=0.99, ge=0, le=1)
    fold: int | None = Field(default=None, ge=0, le=4)
    experiment: FolderName = Field(
        default_factory=lambda: os.environ.get("MLFLOW_EXPERIMENT_NAME", "medmim"), validate_default=True
    )

    @property
    def in_channels(self) -> int:
        """Number of input channels of the network."""
        return max(len(self.channels), 1)

    @model_validator(mode="after")
    def _one_budget(self) -> RunSettings:
        given = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of steps, epochs, minutes, got {' and '.join(given)}")
        return self

    @property
    def draws_per_step(self) -> int:
        """Number of patches per optimizer step."""
        return self.batch_size * self.accumulate * self.devices * self.nodes


class PretrainSettings(RunSettings):
    """Settings of `medmim pretrain`.

    Attributes:
        method: name in the table of methods.
        method_options: options of the method; `medmim methods` lists them.
        mask: name in the table of masks, or module:callable.
        mask_options: options of the mask; `max_ratio` draws the ratio of each batch from `ratio` to it.
        ratio: share of mask cells to hide.
        cell: mask cell in voxels, or in millimetres such as `8mm` (rounded to the nearest size that the
            encoder supports); None: the encoder's total stride.
        compute: for SparK and contrastive: packed computes visible cells only; masked computes all cells and
            multiplies by the mask, with equal results. None: packed.
        augment: patch: random crops at one spacing, flips along all axes, mild intensity changes; resized: as
            in SparK, crops of 0.67 to 1 of an image scaled to `size`, and left-right flips.
        more_data: further dataset folders; patients that one of them holds out are held out in all.
        data_weights: relative frequency of the patches of each dataset; empty: each volume equally often.
        hide_channels: probability that a step hides an input channel that is predicted; one stays visible.
        include_held_out: also pretrain on images of validation and test patients (never their labels).
        monitors: run probes on validation patients during pretraining; False saves a few percent of time.
    """

    presets: ClassVar[str] = "pretrain"
    newer: ClassVar[frozenset[str]] = frozenset(
        ("init", "init_map", "min_loaded_fraction", "channels", "more_data", "data_weights", "hide_channels")
    )
    renamed_inside: ClassVar[Mapping[str, Mapping[str, str]]] = {"mask_options": {"up_to": "max_ratio"}}

    method: str = "spark"
    method_options: dict[str, Any] = Field(default_factory=dict)
    mask: str = "mesh"
    mask_options: dict[str, Any] = Field(default_factory=dict)
    ratio: Share = 0.7
    cell: CellSize | None = None
    compute: Literal["packed", "masked"] | None = None
    augment: Literal["patch", "resized"] = "patch"
    more_data: tuple[Path, ...] = ()
    data_weights: Numbers = ()
    hide_channels: float = Field(default=0.0, ge=0, lt=1)
    include_held_out: bool = False
    monitors: bool = True


class FinetuneSettings(RunSettings):
    """Settings of `medmim finetune`.

    Attributes:
        task: segment, classify, multilabel, ordinal, detect or regress.
        task_options: options of the task, such as `criterion` of segment or `mixup` of classify.
        targets, column: CSV file, and its column, with the class or number of each volume or patient, used
            instead of those of the dataset. Its rows are named by a column `volume` or `subject` (keys of the
            manifest) or `patient` (identifiers of the source).
        num_labelled: number of labelled training patients (nested subsets: 10 is part of 20).
        label_fraction: the same as a share of the labelled patients.
        field_of_view: patch: random patches and sliding-window inference; whole: the whole image scaled to
            `size`; None: the task's default.
        mode: full: train everything; partial: the last half of the encoder's layers and the head;
            linear_probe: the head alone.
        encoder_lr: learning rate of the encoder relative to `lr`; 0 freezes the encoder.
        layer_decay: factor between the learning rates of successive encoder layers.
        freeze_until: share of the training after which the encoder starts to train.
        ema: decay of the moving average of weights, at most (1 + n) / (10 + n) at step n; 0: no average.
        patience: stop after so many validations without a better score; None: train the whole length.
        channel_dropout: probability that an input channel of a training patch is 0, its mean after
            normalisation; one stays. Such a model predicts visits that lack channels, filled with 0.
        regulariser: mask_any_net: also train on masked images whose hidden parts a second branch reuses.
        init_decoder: whether a segmenter also loads what fits of a pretrained decoder, as of dense MAE.
        foreground_fraction: share of patches centred on a labelled class, each equally often, or on a box.
        augment: none, light, nnunet, a YAML file, or module:callable; None: nnunet for segment, else light.
        ignore_label: label value of voxels without a known label; None: that of the dataset.
        labels: label values of each class of segment, such as `{tumour: [1, 2, 4]}`, to merge classes; other
            values are background; empty: every value is a class.
        regions: overlapping regions of segment, such as `{whole: [1, 2, 3], core: [2, 3], enhancing: [3]}`,
            with label values or names of classes, from the largest to the smallest: trained and scored
            instead of classes. Predicted labels are written region by region in this order.
        partially_labelled: classes of segment, or all, that were not annotated in cases whose labels lack
            them; such a case counts for its other classes only.
        annotated_classes: classes that were annotated in each source (`--source` of ingestion), such
            as `{north: liver}`; sources that are not listed are annotated completely.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        **RunSettings.renamed,
        "labelled": "num_labelled",
        "view": "field_of_view",
        "tune": "mode",
        "freeze": "freeze_until",
        "least_loaded": "min_loaded_fraction",
        "foreground": "foreground_fraction",
    }
    renamed_inside: ClassVar[Mapping[str, Mapping[str, str]]] = {"mode": {"probe": "linear_probe"}}
    presets: ClassVar[str] = "finetune"
    newer: ClassVar[frozenset[str]] = frozenset(
        ("init_map", "labels", "annotated_classes", "regions", "partially_labelled", "targets", "column")
    ) | {"channel_dropout"}

    task: str = "segment"
    task_options: dict[str, Any] = Field(default_factory=dict)
    targets: Path | None = None
    column: str = ""
    num_labelled: int | None = Field(default=None, gt=0)
    label_fraction: float | None = Field(default=None, gt=0, le=1)
    field_of_view: Literal["patch", "whole"] | None = None
    mode: Literal["full", "partial", "linear_probe"] = "full"
    encoder_lr: float = Field(default=1.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    freeze_until: float = Field(default=0.0, ge=0, lt=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    patience: int | None = Field(default=None, gt=0)
    channel_dropout: float = Field(default=0.0, ge=0, lt=1)
    regulariser: Literal["mask_any_net"] | None = None
    init_decoder: bool = True
    foreground_fraction: float = Field(default=0.5, ge=0, le=1)
    augment: AugmentationFile | None = None
    ignore_label: int | None = None
    labels: dict[str, LabelValues] = Field(default_factory=dict)
    regions: RegionMembers = ()
    partially_labelled: Words = ()
    annotated_classes: dict[str, Words] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_label_budget(self) -> FinetuneSettings:
        if None not in (self.num_labelled, self.label_fraction):
            raise ValueError("expected one of num_labelled, label_fraction, got both")
        if bool(self.targets) != bool(self.column):
            raise ValueError("expected targets and column together, such as --targets ages.csv --column age")
        if self.channel_dropout and self.in_channels < 2:
            raise ValueError("expected several channels with channel_dropout, such as --channels t1,flair")
        if self.patience is not None and self.devices * self.nodes > 1:
            raise ValueError("expected devices=1 and nodes=1 with patience, got more processes")
        return self

    @property
    def options_of_task(self) -> dict[str, Any]:
        """Options of the task, with what is known about its labels and numbers."""
        names = ("labels", "regions", "partially_labelled", "annotated_classes")
        known = {"quantity": self.column if self.task == "regress" else ""}
        known |= {name: getattr(self, name) for name in names}
        return {**{name: value for name, value in known.items() if value}, **self.task_options}
