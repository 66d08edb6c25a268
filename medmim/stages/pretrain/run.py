"""`medmim pretrain`: a dataset, a mask and a method become a pretrained encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from medmim import __version__
from medmim.config.runs import PretrainSettings
from medmim.config.study import arm_of
from medmim.data.dataset.contamination import seen_patients_of, write_seen_patients
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.dataset.partition import Partition, partition
from medmim.data.loading.patches import PatchDataset, SampleRange, batches
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, plan_for, voxel_mm
from medmim.encoders import Encoder, build_encoder
from medmim.encoders.recalibrate_batch_norm import batch_norms, recalibrate_batch_norms
from medmim.masks import Mask, build_mask, hidden_count
from medmim.masks.cell_size import cell_in_voxels, cell_words
from medmim.methods import ON_PATCHES, Method, build_method
from medmim.randomness import stream_seed, torch_stream
from medmim.shapes import Size, grid_of
from medmim.stages.pretrain.data import (
    build_pretraining_dataset,
    class_numbers,
    supervision_of,
    volumes_with_labels,
)
from medmim.stages.pretrain.evaluation import PretrainEvaluator, PretrainSubject, leak_alarm
from medmim.stages.run_lifecycle import (
    RunResult,
    budget_words,
    managed_run,
    prepared_on_disk,
    resume_run,
    start_run,
)
from medmim.tracking.mlflow_store import Store
from medmim.training.budget import budget_for
from medmim.training.flops import cost_of
from medmim.training.lightning_modules import PretrainingModule, in_views
from medmim.training.optimizers import OptimizerConfig
from medmim.training.resume.states import drop_state
from medmim.training.trainer import FitContext, FitResult, fit
from medmim.training.weights import save_weights

if TYPE_CHECKING:
    from medmim.tracking.recorder import Recorder

DEFAULT_ENCODER = {2: "resnet18", 3: "dynunet"}
_DEFAULT_ON_PATCHES = "vit"
_SETTLED = 64  # images, or one batch where that is larger


@dataclass(frozen=True)
class _PretrainComponents:
    """Everything that a pretraining run is made of."""

    dataset: Dataset
    divided: Partition
    train: tuple[VolumeRecord, ...]
    plan: PreprocessingPlan
    voxel_mm: tuple[float, ...] | None
    cell: Size
    mask: Mask
    encoder: Encoder
    method: Method

    @property
    def realised_ratios(self) -> tuple[float, ...]:
        """Share of hidden cells; the smallest and the largest where the mask's ratio is a range."""
        cells = prod(grid_of(self.plan.size, self.cell))
        return tuple(hidden_count(cells, ratio) / cells for ratio in self.mask.ratios)


def pretrain(
    settings: PretrainSettings,
    *,
    home: Path,
    resume: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], None] = lambda _: None,
    onlookers: Sequence[Callback] = (),
) -> RunResult:
    """Pretrain an encoder and record the run.

    Args:
        settings: what the user chose; open values are chosen from the dataset.
        home: `MEDMIM_HOME`.
        resume: run to continue, or `latest`; `settings` are then those that it was started with.
        tags: further tags of the run, such as the study that it belongs to.
        say: takes lines for the user.
        onlookers: callbacks that see every step.

    Raises:
        MedmimError: for settings, data or sizes that cannot work, before anything is written.
    """
    parts = _build_components(settings)
    say(f"mask cells of {cell_words(parts.cell, parts.voxel_mm)}")
    resolved = _resolved_settings(settings, parts)
    store = Store(home)
    recorder = resume_run(store, "pretrain", resume, settings=resolved, dataset=parts.dataset)
    if recorder is None:
        name = f"{arm_of(resolved)} · {parts.plan.dims}D {resolved.encoder}"
        recorder = start_run(store, resolved, name=name, tags={**_tags(resolved, parts), **tags})
    session = FitContext(
        resolved,
        budget_for(resolved, volumes=len(parts.train)),
        recorder,
        store.checkpoints(recorder.run_id),
        title=f"pretrain {arm_of(resolved)}",
        resume=bool(resume),
        onlookers=tuple(onlookers),
    )
    disk = prepared_on_disk(settings, home)
    volumes = VolumeLoader(settings.data, parts.plan, cache_gb=settings.cache_gb, disk=disk)
    with managed_run(recorder, store):
        if not resume:
            recorder.metrics(_cost(parts), step=0)
        result = _train(resolved, parts, recorder, session=session, volumes=volumes)
    drop_state(session.folder)
    return result


def _resolved_settings(settings: PretrainSettings, parts: _PretrainComponents) -> PretrainSettings:
    """Return the settings with what was left open filled in."""
    chosen = {
        "dims": parts.plan.dims,
        "size": parts.plan.size,
        "cell": parts.cell,
        "encoder": settings.encoder or usual_encoder(settings.method, parts.plan.dims),
    }
    return settings.model_copy(update=chosen)


def _cost(parts: _PretrainComponents) -> dict[str, float]:
    """Return the size of the method, and the operations of one forward beside those of its encoder alone."""
    generator = torch_stream(0, "cost")
    images = torch.zeros(parts.method.views, parts.encoder.in_channels, *parts.plan.size)
    grid = grid_of(parts.plan.size, parts.cell)
    hidden = parts.mask.sample(len(images), grid, generator=generator)
    return cost_of(parts.method, images, hidden).as_metrics()


def usual_encoder(method: str, dims: int) -> str:
    """Return the encoder of a method where the user names none."""
    return _DEFAULT_ON_PATCHES if method in ON_PATCHES else DEFAULT_ENCODER[dims]


def _build_components(settings: PretrainSettings) -> _PretrainComponents:
    mask = build_mask(settings.mask, ratio=settings.ratio, **settings.mask_options)
    dataset = read_dataset(settings.data)
    divided = partition(dataset, fold=settings.fold)
    train = dataset.volumes if settings.include_held_out else divided.train
    sketch = plan_for(train, dims=settings.dims, size=None)
    dims, known_mm = sketch.dims, voxel_mm(train, sketch) if settings.augment == "patch" else None
    torch.manual_seed(stream_seed(settings.seed, "encoder"))
    encoder = build_encoder(
        settings.encoder or usual_encoder(settings.method, dims),
        spatial_dims=dims,
        in_channels=1,
        **settings.encoder_options,
    )
    cell = cell_in_voxels(
        settings.cell or encoder.total_stride, multiple=encoder.total_stride, voxel_mm=known_mm
    )
    torch.manual_seed(stream_seed(settings.seed, "method"))
    computed: dict[str, Any] = {"compute": settings.compute} if settings.compute else {}
    method = build_method(
        settings.method,
        encoder=encoder,
        spatial_dims=dims,
        cell=cell,
        supervision=supervision_of(dataset, divided.train),
        **computed,
        **settings.method_options,
    )
    if method.label_kind:  # held-out images may be seen, their labels never
        train = volumes_with_labels(divided.train, method.label_kind)
    plan = plan_for(train, dims=dims, size=settings.size, multiple=cell)
    hidden_count(prod(grid_of(plan.size, cell)), settings.ratio)
    return _PretrainComponents(dataset, divided, train, plan, known_mm, cell, mask, encoder, method)


def _train(
    settings: PretrainSettings,
    parts: _PretrainComponents,
    recorder: Recorder,
    *,
    session: FitContext,
    volumes: VolumeLoader,
) -> RunResult:
    budget, folder = session.budget, session.folder
    draws = _draws(settings, parts, volumes)
    module = PretrainingModule(
        parts.method,
        parts.mask,
        cell=parts.cell,
        seed=settings.seed,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        budget=budget,
        optimiser=OptimizerConfig(settings.optimizer, settings.betas),
    )
    subject = PretrainSubject(parts.method, parts.mask, parts.cell, parts.divided)
    watch = PretrainEvaluator(settings, subject, volumes, budget, recorder=recorder, folder=folder)
    if not session.resume:
        watch.start()
    fitted = fit(module, draws, watch, session=session)
    if batch_norms(parts.encoder):
        _settle(settings, parts, volumes)
    return _keep(settings, parts, fitted, recorder, folder)


def _draws(settings: PretrainSettings, parts: _PretrainComponents, volumes: VolumeLoader) -> PatchDataset:
    return build_pretraining_dataset(
        parts.method,
        parts.train,
        volumes,
        classes=class_numbers(parts.divided.train),
        seed=settings.seed,
        augment=settings.augment,
    )


def _settle(settings: PretrainSettings, parts: _PretrainComponents, volumes: VolumeLoader) -> None:
    """Leave statistics of batch norm that hold for whole images."""
    size, device = settings.batch_size, next(parts.encoder.parameters()).device
    part = SampleRange(max(_SETTLED // size, 1) * size)
    loader = batches(_draws(settings, parts, volumes), part, batch_size=size, workers=0)
    views = parts.method.views
    finite = (batch["image"][torch.isfinite(batch["image"]).flatten(1).all(dim=1)] for batch in loader)
    recalibrate_batch_norms(parts.encoder, (in_views(some, views).to(device) for some in finite if len(some)))


def _keep(
    settings: PretrainSettings,
    parts: _PretrainComponents,
    fitted: FitResult,
    recorder: Recorder,
    folder: Path,
) -> RunResult:
    """Save the weights with their description, and the run's last numbers."""
    description = {
        "kind": "pretraining",
        "medmim_version": __version__,
        "run_id": recorder.run_id,
        "arm": arm_of(settings),
        "spatial_dims": parts.plan.dims,
        "in_channels": 1,
        "encoder": settings.encoder,
        "encoder_options": settings.encoder_options,
        "dataset_hash": parts.dataset.info.content_hash,
        "steps": fitted.steps,
    }
    checkpoint = save_weights(folder, parts.method.state_dict(), description)
    write_seen_patients(folder, seen_patients_of(parts.train))
    metrics = {
        "last/train_loss": fitted.loss,
        "last/steps": float(fitted.steps),
        "last/minutes": fitted.seconds / 60,
        **{f"last/{key.replace('/', '_')}": value for key, value in fitted.evaluations.last.items()},
    }
    recorder.metrics(metrics, step=0)  # one value a run at step 0: MLflow draws bars, run beside run
    recorder.file(checkpoint, folder="model")
    recorder.file(checkpoint.with_suffix(".json"), folder="model")
    return RunResult(recorder.run_id, checkpoint, metrics, folder / "panel.png")


def _tags(settings: PretrainSettings, parts: _PretrainComponents) -> dict[str, str]:
    return {
        "stage": "pretrain",
        "arm": arm_of(settings),
        "method": settings.method,
        "mask": settings.mask,
        "ratio_requested": "–".join(f"{ratio:g}" for ratio in parts.mask.ratios),
        "ratio_realised": "–".join(f"{ratio:.4f}" for ratio in parts.realised_ratios),
        "cell": cell_words(parts.cell, parts.voxel_mm),
        "encoder": str(settings.encoder),
        "dims": str(parts.plan.dims),
        "size": ",".join(map(str, parts.plan.size)),
        "budget": budget_words(settings),
        "seed": str(settings.seed),
        "dataset": parts.dataset.info.name,
        "dataset_hash": parts.dataset.info.content_hash,
        "split_hash": parts.dataset.split_hash,
        "medmim_version": __version__,
        "leak_alarm": leak_alarm(parts.method),
        "axis_masking": settings.mask,
        **{f"axis_{axis}": value for axis, value in parts.method.axes.items()},
    }
