"""`medmim export`: write a model for other programs, after comparing it with PyTorch."""

from __future__ import annotations

import hashlib
import secrets
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from monai.transforms.croppad.array import ResizeWithPadOrCrop
from torch import Tensor

from medmim import files
from medmim.data.dataset.channels import select_channels
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.loading.normalisation import DEFAULT_RULES
from medmim.data.loading.preprocess import preprocess
from medmim.encoders import build_encoder
from medmim.errors import RunError, UsageError, unknown_name
from medmim.heads.transfer import PREFIX
from medmim.stages.export import networks, nnunet
from medmim.stages.export.bundle import bundle_files, unapplied_postprocessing
from medmim.stages.export.datalist import datalist, write_raw_dataset
from medmim.stages.model_lookup import SelectedModel, find_model
from medmim.training.tasks.classification import views
from medmim.training.tasks.trained_model import (
    TrainedEncoder,
    TrainedModel,
    load_trained_encoder,
    load_trained_model,
)

LARGEST_DIFFERENCE = 1e-4
_DEFAULTS = {
    "bundle": "bundle",
    "onnx": "model.onnx",
    "safetensors": "encoder.safetensors",
    "nnunet": "nnunet",
    "datalist": "datalist.json",
    "nnunet-raw": "Dataset001_medmim",
}
_ENCODERS = ("safetensors", "nnunet")  # formats of the encoder alone


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        format: a key of `_DEFAULTS`.
        difference: largest difference from PyTorch on a real case; None for a datalist.
        next_step: the command that uses what was written.
    """

    format: str
    path: Path
    difference: float | None
    next_step: str

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {"format": self.format, "path": str(self.path), "largest_difference": self.difference}


def export(
    format: str,  # noqa: A002 (the name of the command-line option)
    *,
    data: Path,
    home: Path,
    model: str | None = None,
    out: Path | None = None,
    plans: Path | None = None,
    channels: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> ExportResult:
    """Write a model, or the datalist of a dataset, in a format that other programs read.

    Args:
        format: bundle, onnx, safetensors, nnunet, datalist or nnunet-raw.
        data: dataset folder, with the case for the comparison with PyTorch.
        model: as for `find_model`; a pretraining run too for safetensors and nnunet.
        plans: nnU-Net plans of the dataset on which nnU-Net is to be trained.
        channels: channels of nnunet-raw, as for `select_channels`; empty: one volume per case.

    Raises:
        RunError: if the exported model differs from PyTorch, and nothing is written then; or if `out` cannot
            be written.
        UsageError: if `out` exists, or the format cannot express the model.
    """
    place = _place(format, out)
    if plans and format != "nnunet":
        raise UsageError(f"--plans: expected --format nnunet, got {format}")
    if channels and format != "nnunet-raw":
        raise UsageError("--channels: expected --datalist nnunet; other formats use those of the model")
    dataset = read_dataset(data)
    try:
        if format == "datalist":
            files.write_json(place, datalist(dataset))
            load = f"monai.data.load_decathlon_datalist({str(place)!r}, data_list_key='training')"
            return ExportResult(format, place, None, f'python -c "import monai; {load}"')
        if format == "nnunet-raw":
            cases = select_channels(dataset, channels, log)
            _write_folder(place, lambda staging: write_raw_dataset(cases, place, staging, tuple(channels)))
            return ExportResult(format, place, None, nnunet.planning_command(place.name))
        stages = ("finetune", "pretrain") if format in _ENCODERS else ("finetune",)
        selected = find_model(model, home, log, stages=stages)
        if format in _ENCODERS:
            return _export_encoder(format, dataset, selected, place, plans, log)
        return _export_network(format, dataset, selected, place, log)
    except files.WriteError as error:
        raise RunError(
            f"cannot write '{place}' ({error.strerror or type(error).__name__}): expected free space and "
            "write permission; choose another path with --out"
        ) from error


def _place(format: str, out: Path | None) -> Path:  # noqa: A002
    """Return the output path; existing files are never replaced, and the description needs its own name."""
    if format not in _DEFAULTS:
        raise unknown_name("format", format, _DEFAULTS)
    place = out or Path(_DEFAULTS[format])
    beside = [place.with_suffix(".json")] if format in ("onnx", "safetensors") else []
    if place in beside:
        raise UsageError(
            f"--out '{place}': the description of the model would have the same name; expected another "
            f"suffix, such as {_DEFAULTS[format]}"
        )
    for one in (place, *beside):
        if one.exists():
            raise UsageError(f"--out '{one}' exists: expected a new path; choose another")
    return place


def _export_network(
    format: str,  # noqa: A002
    dataset: Dataset,
    selected: SelectedModel,
    place: Path,
    log: Callable[[str], None],
) -> ExportResult:
    """Write a fine-tuned network."""
    trained = load_trained_model(selected.weights)
    case, images = _windows(dataset, trained)
    content, difference = _FORMATS[format](trained, images)
    _refuse_difference(format, difference)
    left_out = unapplied_postprocessing(trained, bundle=format == "bundle")
    if left_out:
        log(
            f"warning: --format {format} does not contain the postprocessing of {', '.join(left_out)}; apply "
            "`postprocessing` of the description, as `medmim predict` does"
        )
    if format == "bundle":
        contents = bundle_files(trained, content, case, title=selected.title)
        _write_folder(place, lambda staging: _write_contents(staging, contents))
    else:
        origin = {"format": format, "kind": trained.kind, "largest_difference": difference}
        _write_described(place, content, trained, origin)
    return ExportResult(format, place, difference, _loading_command(format, place))


def _loading_command(format: str, place: Path) -> str:  # noqa: A002
    """Return the command that runs or loads an exported network."""
    word = shlex.quote(str(place))
    if format == "bundle":
        return (
            f"python -m monai.bundle run --config_file {word}/configs/inference.json --bundle_root {word} "
            "--image SCAN.nii.gz"
        )
    if format == "onnx":
        return f'python -c "import onnxruntime; onnxruntime.InferenceSession({str(place)!r})"'
    return f"medmim weights {word}, or --init {word} in medmim finetune"


def _export_encoder(
    format: str,  # noqa: A002
    dataset: Dataset,
    selected: SelectedModel,
    place: Path,
    plans: Path | None,
    log: Callable[[str], None],
) -> ExportResult:
    """Write the encoder of a pretraining or a fine-tuning."""
    trained = load_trained_encoder(selected.weights)
    _, images = _windows(dataset, trained)
    if format == "nnunet":
        target = nnunet.read_plans(plans) if plans else None
        contents, difference = nnunet.nnunet_files(trained, images, target)
        _refuse_difference(format, difference)
        _write_folder(place, lambda staging: _write_contents(staging, contents))
        if plans is None or target is None:
            step = "plan the dataset with nnU-Net, then export with --plans nnUNetResEncUNetMPlans.json"
            return ExportResult(format, place, difference, step)
        if trained.plan.dims == 2 and target["transpose_forward"][0] != 0:
            log("warning: nnU-Net cuts these images into slices that are not axial, unlike the pretraining")
        command = nnunet.training_command(place, plans, contents[f"{nnunet.PLANS}.json"])
        return ExportResult(format, place, difference, command)
    content, difference = _safetensors(trained, images)
    _refuse_difference(format, difference)
    origin = {"format": format, "kind": "encoder", "largest_difference": difference}
    _write_described(place, content, trained, origin)
    return ExportResult(format, place, difference, _loading_command(format, place))


def _windows(dataset: Dataset, trained: TrainedModel | TrainedEncoder) -> tuple[VolumeRecord, Tensor]:
    """Return a real case and as many windows of it as the largest batch, of the size that training used."""
    dataset = select_channels(dataset, trained.description.get("channels", ()), lambda line: None)
    case = next(iter((*dataset.in_split("test"), *dataset.volumes)))
    prepared = preprocess(dataset.root, case.model_copy(update={"label": None}), trained.plan)
    seen = views(prepared, trained.plan)
    crop = ResizeWithPadOrCrop(trained.plan.size, mode="constant", value=prepared.background)
    first = crop(seen[len(seen) // 2])
    first = first.as_tensor() if hasattr(first, "as_tensor") else first
    images = torch.stack([first, first.flip(1), first * 0.5])[: max(networks.BATCH_SIZES)].contiguous()
    return case, images


def _safetensors(trained: TrainedEncoder, images: Tensor) -> tuple[bytes, float]:
    """Return the weights of an encoder, and the largest difference after loading them."""
    encoder, description = trained.encoder, trained.description
    weights = {name: value.contiguous().clone() for name, value in encoder.state_dict().items()}
    content = safetensors.torch.save({f"{PREFIX}{name}": value for name, value in weights.items()})
    fresh = build_encoder(
        description["encoder"],
        spatial_dims=description["spatial_dims"],
        in_channels=description["in_channels"],
        **description["encoder_options"],
    )
    loaded = safetensors.torch.load(content)
    fresh.load_state_dict({name.removeprefix(PREFIX): value for name, value in loaded.items()})
    return content, networks.difference(encoder, fresh.eval(), images)


_FORMATS: dict[str, Callable[[TrainedModel, Tensor], tuple[bytes, float]]] = {
    "bundle": networks.torchscript,
    "onnx": networks.onnx,
}


def _refuse_difference(format: str, difference: float) -> None:  # noqa: A002
    if difference > LARGEST_DIFFERENCE:
        raise RunError(
            f"--format {format}: differs from PyTorch by {difference:.1e} on a real case, expected at most "
            f"{LARGEST_DIFFERENCE:g}; nothing was written"
        )


def _write_described(
    place: Path, content: bytes, trained: TrainedModel | TrainedEncoder, origin: Mapping[str, Any]
) -> None:
    """Write a file and its description: preprocessing, meaning of the outputs, and SHA-256.

    The description of a model lacks medmim's own intensity rules, and that of a pretraining the modalities.
    """
    kept = {key: value for key, value in trained.description.items() if key != "run_id"}
    chosen = trained.plan.normalisation
    modalities = kept.get("modalities") or sorted({*chosen.rules, *DEFAULT_RULES, "OT"})
    used = {one: chosen.rule_for(one).model_dump(mode="json") for one in modalities}
    digests = {"weights_sha256": kept["sha256"], "sha256": hashlib.sha256(content).hexdigest()}
    described = files.json_bytes({**kept, **origin, "intensity_rules": used, **digests})
    files.write_together({place: content, place.with_suffix(".json"): described})


def _write_contents(folder: Path, contents: Mapping[str, Any]) -> None:
    for name, content in contents.items():
        whole = content if isinstance(content, str | bytes) else files.json_bytes(content)
        files.write_bytes(folder / name, whole.encode() if isinstance(whole, str) else whole)


def _write_folder(place: Path, write: Callable[[Path], None]) -> None:
    """Write a folder completely or not at all; `write` receives the path of a temporary folder."""
    staging = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
    try:
        write(staging)
        files.move(staging, place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
