"""`medmim export`: write a model for other programs, after comparing it with PyTorch."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from monai.transforms.croppad.array import ResizeWithPadOrCrop
from torch import Tensor, nn

from medmim import files
from medmim.data.dataset.channels import select_channels
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.encoders import build_encoder
from medmim.errors import RunError, UsageError, unknown_name
from medmim.heads.transfer import PREFIX
from medmim.stages.export.bundle import bundle_files, datalist, unapplied_postprocessing
from medmim.stages.model_lookup import SelectedModel, find_model
from medmim.tracking.mlflow_store import Store
from medmim.training.evaluation.segmentation_inference import MirrorAveraging, all_flips
from medmim.training.tasks.classification import views
from medmim.training.tasks.segmentation import Segmentation
from medmim.training.tasks.trained_model import TrainedModel, load_trained_model

LARGEST_DIFFERENCE = 1e-4
_BATCHES = (1, 3)
_DEFAULTS = {
    "bundle": "bundle",
    "onnx": "model.onnx",
    "safetensors": "encoder.safetensors",
    "datalist": "datalist.json",
}


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        format: bundle, onnx, safetensors or datalist.
        path: file or folder that was written.
        difference: largest difference from PyTorch on a real case; None for a datalist.
    """

    format: str
    path: Path
    difference: float | None

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
    log: Callable[[str], None] = print,
) -> ExportResult:
    """Write a model, or the datalist of a dataset, in a format that other programs read.

    Args:
        format: bundle, onnx, safetensors or datalist.
        data: dataset folder, with the case for the comparison with PyTorch.
        home: `MEDMIM_HOME`.
        model: as for `find_model`.
        out: file or folder to write; the default depends on the format.
        log: receives lines for the user.

    Raises:
        RunError: if the exported model differs from PyTorch, and nothing is written then; or if `out` cannot
            be written.
        UsageError: if `out` exists, or the format cannot express the model.
    """
    place = _place(format, out)
    dataset = read_dataset(data)
    try:
        if format == "datalist":
            files.write_json(place, datalist(dataset))
            return ExportResult(format, place, None)
        return _export(format, dataset, find_model(model, Store(home), log), place, log)
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


def _export(
    format: str,  # noqa: A002
    dataset: Dataset,
    selected: SelectedModel,
    place: Path,
    log: Callable[[str], None],
) -> ExportResult:
    trained = load_trained_model(selected.weights)
    dataset = select_channels(dataset, trained.description.get("channels", ()), lambda line: None)
    case = next(iter((*dataset.in_split("test"), *dataset.volumes)))
    images = _windows(trained, dataset, case)
    content, difference = _FORMATS[format](trained, images)
    if difference > LARGEST_DIFFERENCE:
        raise RunError(
            f"--format {format}: differs from PyTorch by {difference:.1e} on a real case, expected at most "
            f"{LARGEST_DIFFERENCE:g}; nothing was written"
        )
    left_out = unapplied_postprocessing(trained, bundle=format == "bundle") if format != "safetensors" else []
    if left_out:
        log(
            f"warning: --format {format} does not contain the postprocessing of {', '.join(left_out)}; apply "
            "`postprocessing` of the description, as `medmim predict` does"
        )
    if format == "bundle":
        _write_folder(place, bundle_files(trained, content, case, title=selected.title))
    else:
        description = _description(trained, content, format=format, difference=difference)
        files.write_together({place: content, place.with_suffix(".json"): files.json_bytes(description)})
    return ExportResult(format, place, difference)


class _Plain(nn.Module):
    """A network that outputs one tensor or a tuple of tensors: detectors return a dictionary of lists."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        out = self.network(images)
        return tuple(one for maps in out.values() for one in maps) if isinstance(out, dict) else out


def _plain(trained: TrainedModel) -> nn.Module:
    """Return the network to export, including the test-time mirroring of a segmenter."""
    if isinstance(trained.task, Segmentation):
        axes = [axis + 2 for axis in trained.plan.mirror_axes if axis < trained.plan.dims]
        return MirrorAveraging(trained.network, all_flips(axes) if trained.task.mirror else ()).eval()
    return _Plain(trained.network).eval()


def _windows(trained: TrainedModel, dataset: Dataset, case: VolumeRecord) -> Tensor:
    """Return as many windows of a real case as the largest batch, each of the size that training saw."""
    bare = case.model_copy(update={"label": None})
    prepared = trained.context(dataset.root).volumes(bare)
    seen = views(prepared, trained.plan)
    middle = len(seen) // 2
    crop = ResizeWithPadOrCrop(trained.plan.size, mode="constant", value=prepared.background)
    first = crop(seen[middle])
    first = first.as_tensor() if hasattr(first, "as_tensor") else first
    others = [first.flip(1), first * 0.5]
    return torch.stack([first, *others])[: max(_BATCHES)].contiguous()


def _torchscript(trained: TrainedModel, images: Tensor) -> tuple[bytes, float]:
    network, stream = _plain(trained), io.BytesIO()
    jit: Any = torch.jit  # its functions are untyped
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from tracing, whose assumptions are checked below
        jit.save(jit.trace(network, images[:2], check_trace=False), stream)
        again = jit.load(io.BytesIO(stream.getvalue()))
    return stream.getvalue(), _difference(network, lambda batch: _listed(again(batch)), images)


def _onnx(trained: TrainedModel, images: Tensor) -> tuple[bytes, float]:
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f"--format onnx needs {' and '.join(missing)}: pip install 'medmim[onnx]'")
    import onnxruntime

    network = _plain(trained)
    stream: Any = io.BytesIO()  # torch's annotation only allows paths
    count = len(_listed(network(images[:1])))
    names = ["scores"] if count == 1 else [f"map_{number}" for number in range(count)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        torch.onnx.export(
            network,
            (images[:2],),
            stream,
            input_names=["images"],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
            dynamo=False,
        )
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> list[Tensor]:
        return [torch.from_numpy(one) for one in session.run(None, {"images": batch.numpy()})]

    return stream.getvalue(), _difference(network, run, images)


def _encoder(trained: TrainedModel, images: Tensor) -> tuple[bytes, float]:
    encoder, description = trained.network.get_submodule("encoder"), trained.description
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
    return content, _difference(encoder, fresh.eval(), images)


_FORMATS: dict[str, Callable[[TrainedModel, Tensor], tuple[bytes, float]]] = {
    "bundle": _torchscript,
    "onnx": _onnx,
    "safetensors": _encoder,
}


def _difference(network: nn.Module, other: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> float:
    """Return the largest difference between the outputs of two networks, for several batch sizes."""
    largest = 0.0
    with torch.no_grad():
        for size in _BATCHES:
            pairs = zip(_listed(network(images[:size])), other(images[:size]), strict=True)
            largest = max([largest, *(float((one - two).abs().max()) for one, two in pairs)])
    return largest if np.isfinite(largest) else float("inf")


def _listed(out: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def _description(
    trained: TrainedModel,
    content: bytes,
    *,
    format: str,  # noqa: A002
    difference: float,
) -> dict[str, Any]:
    """Return the description of a file: preprocessing, meaning of the outputs, and SHA-256."""
    kept = {key: value for key, value in trained.description.items() if key != "run_id"}
    origin = {"weights_sha256": trained.sha256, "format": format, "largest_difference": difference}
    kind = "encoder" if format == "safetensors" else trained.kind
    return {**kept, **origin, "kind": kind, "sha256": hashlib.sha256(content).hexdigest()}


def _write_folder(place: Path, contents: Mapping[str, Any]) -> None:
    """Write a folder completely or not at all."""
    staging = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
    try:
        for name, content in contents.items():
            whole = content if isinstance(content, str | bytes) else files.json_bytes(content)
            files.write_bytes(staging / name, whole.encode() if isinstance(whole, str) else whole)
        files.move(staging, place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
