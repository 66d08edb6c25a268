"""`medmim pretrain`: a dataset, a mask and a method become a pretrained encoder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import Callback

from medmim import __version__, files
from medmim.config import PretrainSettings
from medmim.data.cell_size import cell_in_voxels, cell_words
from medmim.data.draws import Draws, pretraining_patches, resized_parts
from medmim.data.manifest import Dataset, Volume, read_dataset
from medmim.data.partition import partition, patient_digest
from medmim.data.plan import Plan, plan_for, voxel_mm
from medmim.data.prepare import Volumes
from medmim.encoders import Encoder, build_encoder
from medmim.masks import Mask, build_mask, hidden_count, hidden_voxels, tissue_share
from medmim.methods import ON_PATCHES, Method, build_method
from medmim.randomness import stream_seed, torch_stream
from medmim.shapes import Size, grid_of
from medmim.stages.runs import Result, begin, budget_words, ending, going_on, prepared_on_disk
from medmim.tracking.store import Store
from medmim.training.budget import budget_for
from medmim.training.checkpoint import save_weights
from medmim.training.fit import ENDLESS, Fitted, Session, autocast, fit
from medmim.training.modules import PretrainingModule
from medmim.training.optimisers import Optimiser
from medmim.training.pictures import panel, reconstruction_rows
from medmim.training.states import drop_state

if TYPE_CHECKING:
    from medmim.tracking.recorder import Recorder

DEFAULT_ENCODER = {2: "resnet18", 3: "dynunet"}
_DEFAULT_ON_PATCHES = "vit"
_AUGMENT = {"patch": pretraining_patches, "resized": resized_parts}
_WATCHED = 8
_DRAWN = 4


@dataclass(frozen=True)
class _Parts:
    """Everything that a pretraining run is made of."""

    dataset: Dataset
    train: tuple[Volume, ...]
    watched: tuple[Volume, ...]
    plan: Plan
    voxel_mm: tuple[float, ...] | None
    cell: Size
    mask: Mask
    encoder: Encoder
    method: Method

    @property
    def realised_ratios(self) -> tuple[float, ...]:
        """Share of hidden cells; the smallest and the largest where the mask's ratio is a range."""
        cells = prod(grid_of(self.plan.size, self.cell))
        ends = (self.mask.ratio,) if self.mask.up_to is None else (self.mask.ratio, self.mask.up_to)
        return tuple(hidden_count(cells, ratio) / cells for ratio in ends)


def pretrain(
    settings: PretrainSettings,
    *,
    home: Path,
    resume: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    onlookers: Sequence[Callback] = (),
) -> Result:
    """Pretrain an encoder and record the run.

    Args:
        settings: what the user chose; open values are chosen from the dataset.
        home: `MEDMIM_HOME`.
        resume: run to continue, or `latest`; `settings` are then those that it was started with.
        say: takes lines for the user.
        onlookers: callbacks that see every step.

    Raises:
        MedmimError: for settings, data or sizes that cannot work, before anything is written.
    """
    parts = _put_together(settings)
    say(f"mask cells of {cell_words(parts.cell, parts.voxel_mm)}")
    resolved = settings.model_copy(
        update={
            "dims": parts.plan.dims,
            "size": parts.plan.size,
            "cell": parts.cell,
            "encoder": _encoder_name(settings, parts.plan.dims),
        }
    )
    store = Store(home)
    recorder = going_on(store, "pretrain", resume, dataset=parts.dataset)
    if recorder is None:
        name = f"{arm_of(resolved)} · {parts.plan.dims}D {resolved.encoder}"
        recorder = begin(store, resolved, name=name, tags=_tags(resolved, parts))
    session = Session(
        resolved,
        budget_for(resolved, volumes=len(parts.train)),
        recorder,
        store.checkpoints(recorder.run_id),
        title=f"pretrain {arm_of(resolved)}",
        resume=bool(resume),
        onlookers=tuple(onlookers),
    )
    disk = prepared_on_disk(settings, home)
    volumes = Volumes(settings.data, parts.plan, cache_gb=settings.cache_gb, disk=disk)
    with ending(recorder):
        result = _train(resolved, parts, recorder, session=session, volumes=volumes)
    drop_state(session.folder)
    return result


def arm_of(settings: PretrainSettings) -> str:
    """Return what a pretraining is called in comparisons; options tell arms apart that share a name."""
    options = {**settings.method_options, **settings.mask_options}
    words = [f"{key}={json.dumps(value, sort_keys=True)}" for key, value in sorted(options.items())]
    return " ".join([settings.method, settings.mask, f"{settings.ratio:g}", *words])


def _encoder_name(settings: PretrainSettings, dims: int) -> str:
    usual = _DEFAULT_ON_PATCHES if settings.method in ON_PATCHES else DEFAULT_ENCODER[dims]
    return settings.encoder or usual


def _put_together(settings: PretrainSettings) -> _Parts:
    mask = build_mask(settings.mask, ratio=settings.ratio, **settings.mask_options)
    dataset = read_dataset(settings.data)
    divided = partition(dataset, fold=settings.fold, labelled_only=False)
    train = dataset.volumes if settings.include_held_out else divided.train
    sketch = plan_for(train, dims=settings.dims, size=None)
    dims, known_mm = sketch.dims, voxel_mm(train, sketch) if settings.augment == "patch" else None
    torch.manual_seed(stream_seed(settings.seed, "encoder"))
    encoder = build_encoder(
        _encoder_name(settings, dims), spatial_dims=dims, in_channels=1, **settings.encoder_options
    )
    cell = cell_in_voxels(
        settings.cell or encoder.total_stride, multiple=encoder.total_stride, voxel_mm=known_mm
    )
    torch.manual_seed(stream_seed(settings.seed, "method"))
    computed = {"compute": settings.compute} if settings.compute else {}
    method = build_method(
        settings.method, encoder=encoder, spatial_dims=dims, cell=cell, **computed, **settings.method_options
    )
    plan = plan_for(train, dims=dims, size=settings.size, multiple=cell)
    hidden_count(prod(grid_of(plan.size, cell)), settings.ratio)
    watched = (divided.val or train)[:_WATCHED]
    return _Parts(dataset, train, watched, plan, known_mm, cell, mask, encoder, method)


def _train(
    settings: PretrainSettings, parts: _Parts, recorder: Recorder, *, session: Session, volumes: Volumes
) -> Result:
    steps, folder = session.budget.steps, session.folder
    total = steps * settings.draws_per_step if steps else ENDLESS
    patches = _AUGMENT[settings.augment](parts.plan)
    draws = Draws(parts.train, volumes, patches, labelled=False, seed=settings.seed, total=total)
    module = PretrainingModule(
        parts.method,
        parts.mask,
        cell=parts.cell,
        seed=settings.seed,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        budget=session.budget,
        optimiser=Optimiser(settings.optimizer, settings.betas),
    )
    watch = _watch(settings, parts, volumes, recorder, folder)
    fitted = fit(module, draws, watch, session=session)
    return _keep(settings, parts, fitted, recorder, folder)


def _watch(
    settings: PretrainSettings, parts: _Parts, volumes: Volumes, recorder: Recorder, folder: Path
) -> Callable[[int], Mapping[str, float]]:
    """Return the evaluation: loss and picture of the same patches under the same masks, every time."""
    patches, total = _AUGMENT[settings.augment](parts.plan), max(len(parts.watched), _DRAWN)
    draws = Draws(parts.watched, volumes, patches, labelled=False, seed=0, total=total)
    samples = [draws[number] for number in range(len(draws))]
    images = torch.stack([sample["image"] for sample in samples])
    grid = grid_of(parts.plan.size, parts.cell)
    generator, weight = torch_stream(0, "watched masks"), tissue_share(images, grid)
    hidden = parts.mask.sample(len(images), grid, generator=generator, weight=weight)

    def evaluate(step: int) -> Mapping[str, float]:
        device = next(parts.method.parameters()).device
        totals: dict[str, float] = defaultdict(float)
        pictures = []
        for image, where in zip(torch.split(images, _DRAWN), torch.split(hidden, _DRAWN), strict=True):
            with autocast(settings.precision, device):
                result = parts.method(image.to(device), where.to(device))
            for name, value in {"loss": result.loss, **result.parts}.items():
                totals[name] += float(value) * len(image)
            pictures.append(result.pictures)
        png = _panel(images[:_DRAWN], hidden[:_DRAWN], pictures[0], parts, step=step)
        recorder.picture("reconstruction", png, step=step)
        files.write_bytes(folder / "panel.png", png)
        return {f"val/{name}": total / len(images) for name, total in totals.items()}

    return evaluate


def _panel(
    images: torch.Tensor,
    hidden: torch.Tensor,
    pictures: Mapping[str, torch.Tensor],
    parts: _Parts,
    *,
    step: int,
) -> bytes:
    voxels = hidden_voxels(hidden, parts.plan.size)
    rebuilt = pictures.get("reconstruction")
    rows = reconstruction_rows(images, voxels, None if rebuilt is None else rebuilt.cpu())
    columns = ["original", "what the encoder sees", "reconstruction"][: len(rows[0].images)]
    return panel(rows, columns, title=f"{float(hidden.float().mean()):.0%} hidden, step {step}")


def _keep(
    settings: PretrainSettings, parts: _Parts, fitted: Fitted, recorder: Recorder, folder: Path
) -> Result:
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
    # Beside the weights but never in the store: for the contamination check of fine-tuning.
    patients = sorted({patient_digest(volume.subject) for volume in parts.train})
    files.write_json(folder / "patients.json", patients)
    metrics = {
        "last/train_loss": fitted.loss,
        "last/steps": float(fitted.steps),
        "last/minutes": fitted.seconds / 60,
        **{f"last/{key.replace('/', '_')}": value for key, value in fitted.evaluations.last.items()},
    }
    recorder.metrics(metrics, step=0)  # one value a run at step 0: MLflow draws bars, run beside run
    recorder.file(checkpoint, folder="model")
    recorder.file(checkpoint.with_suffix(".json"), folder="model")
    return Result(recorder.run_id, checkpoint, metrics, folder / "panel.png")


def _tags(settings: PretrainSettings, parts: _Parts) -> dict[str, str]:
    return {
        "stage": "pretrain",
        "arm": arm_of(settings),
        "method": settings.method,
        "mask": settings.mask,
        "ratio_requested": "–".join(f"{r:g}" for r in (parts.mask.ratio, parts.mask.up_to) if r is not None),
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
        **{f"axis_{axis}": value for axis, value in parts.method.axes.items()},
    }
