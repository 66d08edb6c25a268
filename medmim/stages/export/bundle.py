"""Files for MONAI: a segmenter as a bundle, which runs without medmim, and the datalist of a dataset."""

from __future__ import annotations

from typing import Any

import monai
import numpy as np
import torch

from medmim import __version__
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.normalisation import IntensityRule
from medmim.data.loading.preprocessing_plan import SPACING_TOLERANCE, PreprocessingPlan
from medmim.errors import UsageError
from medmim.training.evaluation.inference import THRESHOLD
from medmim.training.tasks.segmentation import Segmentation
from medmim.training.tasks.trained_model import TrainedModel

_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_README = """# {title}

A segmenter made by medmim {version}, as a MONAI bundle: TorchScript and MONAI's own transforms.

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --image scan.nii.gz

`--output_dir` chooses where the labels go (`eval` without it), on the voxels of the image. It needs
`pip install "monai[fire,nibabel]" torch`; medmim is not needed. Classes: {names}.
{voxels}Not a medical device.
"""
_RESAMPLED = "Images whose voxels differ from {size} mm are resampled to them{within}. "
_NOT_RESAMPLED = "Images are not resampled: they need voxels of about the size of those of the training. "

# from logits to probabilities, which the outputs of regions are already
_SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
# as `normalise` with the rule `body`
_BODY = (
    "$lambda x: (lambda top, p: (lambda body, low: (lambda high: "
    "(x.clamp(low, high) - body.clamp(low, high).mean()) / body.clamp(low, high).std(correction=0))"
    "(p(body, {high})))(x[x > x.min() + {above} * (top - x.min())], p(x.flatten(), {low})))"
    "(float(np.percentile(x.flatten()[:: max(1, x.numel() // 1000000)].numpy(), 99.5)), "
    "lambda v, q: float(np.percentile(v[:: max(1, len(v) // 1000000)].numpy(), q)))"
)
# voxel size along right, anterior, superior, and the axis across which slices are cut, as `slice_axis`
_SPACING = "$nibabel.affines.voxel_sizes(nibabel.as_closest_canonical(nibabel.load(@image)).affine).tolist()"
_SLICE_AXIS = (
    "$(lambda steps: 2 if steps[2] == max(steps) else steps.index(max(steps)))"
    "([round(step, 3) for step in @spacing])"
)
# as `MirrorAveraging`
_MIRRORED = (
    "$(lambda network, flips: lambda images: sum((network(images.flip(axes)).float().flip(axes) "
    "for axes in flips), network(images).float()) / (1 + len(flips)))(@network, @flips)"
)


def bundle_files(trained: TrainedModel, model: bytes, case: VolumeRecord, *, title: str) -> dict[str, Any]:
    """Return the files of a bundle by their path in it: bytes, text, or objects for JSON."""
    plan = trained.plan
    if trained.kind != "segment" or plan.view != "patch":
        raise UsageError("--format bundle: expected a segmenter of patches; use --format onnx")
    if trained.description.get("channels"):
        raise UsageError("--format bundle: the model reads several files of a visit; use --format onnx")
    modalities = set(trained.description.get("modalities", [case.modality]))
    rules = [plan.normalisation.rule_for(one) for one in modalities]
    if any(rule != rules[0] for rule in rules) or ("CT" in modalities and len(modalities) > 1):
        raise UsageError(
            f"--format bundle: the model was trained on {', '.join(sorted(modalities))}, normalised "
            "differently, and a NIfTI file does not contain the modality; use --format onnx"
        )
    names = {str(number): name for number, name in trained.names.items()}
    about = {"title": title, "version": __version__, "names": ", ".join(names.values())}
    about["voxels"] = _voxels_text(plan)
    return {
        "models/model.ts": model,
        "configs/inference.json": _inference(trained, ct=modalities == {"CT"}),
        "configs/metadata.json": _metadata(trained, title, names),
        "docs/README.md": _README.format(**about),
    }


def _voxels_text(plan: PreprocessingPlan) -> str:
    """Return the sentence of the README about resampling."""
    if (target := plan.spacing_mm or plan.common_mm) is None:
        return _NOT_RESAMPLED
    size = " × ".join(f"{edge:.3g}" for edge in target[: plan.dims])
    return _RESAMPLED.format(size=size, within=" within slices" if plan.dims == 2 else "")


def _inference(trained: TrainedModel, *, ct: bool) -> dict[str, Any]:
    """Return the program: preprocess as `loading/preprocess.py` does, predict windows, resample back."""
    return {
        "imports": ["$import torch", "$import itertools", "$import nibabel", "$import numpy as np"],
        "bundle_root": ".",
        "image": "scan.nii.gz",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "spacing": _SPACING,
        "slice_axis": _SLICE_AXIS,
        "preprocessing": {"_target_": "Compose", "transforms": _steps(trained, ct=ct)},
        "sample": "$@preprocessing({'image': @image})",
        "network": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device).eval()",
        "inferer": _inferer(trained),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(trained)},
        "flips": _flips(trained),
        "mirrored": _MIRRORED,
        "predict": "$@inferer(@sample['image'][None].to(@device), @mirrored)[0].cpu()",
        "run": ["$@postprocessing({**@sample, 'pred': @predict})"],
    }


def _postprocessing(trained: TrainedModel) -> list[dict[str, Any]]:
    """Return the steps from outputs to a label file on the voxels of the image."""
    return [
        *([] if trained.plan.regions else [_SOFTMAX]),
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        _classes(trained),
        *_largest_components(trained),
        *_label_values(trained),
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "labels",
            "output_dtype": "$torch.uint8" if max(trained.codes.values()) <= 255 else "$torch.int32",
            "separate_folder": False,
        },
    ]


def _classes(trained: TrainedModel) -> dict[str, Any]:
    """Return the step from probabilities to class indices, as `labels_of`."""
    if not trained.plan.regions:
        return {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    numbers = f"torch.arange(1, {len(trained.plan.regions) + 1}).reshape(-1, 1, 1, 1)"
    written = f"$lambda x: ((x > {THRESHOLD}) * {numbers}.to(x)).amax(dim=0, keepdim=True)"
    return {"_target_": "Lambdad", "keys": "pred", "func": written}


def _largest_components(trained: TrainedModel) -> list[dict[str, Any]]:
    """Return the steps that keep the largest component of the classes with this rule; none for regions."""
    if trained.plan.regions:
        return []
    rules = trained.description.get("chosen", {}).get("postprocessing", {})
    kept = [number for number, name in trained.names.items() if "largest_component" in rules.get(name, {})]
    step = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "connectivity": 3}
    return [{**step, "applied_labels": kept, "is_onehot": False}] if kept else []


def unapplied_postprocessing(trained: TrainedModel, *, bundle: bool) -> list[str]:
    """Return the classes whose stored postprocessing an export lacks; a bundle keeps components."""
    rules = trained.description.get("chosen", {}).get("postprocessing", {})
    kept = bundle and not trained.plan.regions
    return sorted(name for name, rule in rules.items() if not (kept and "largest_component" in rule))


def _label_values(trained: TrainedModel) -> list[dict[str, Any]]:
    """Return the step from class indices to the values of label files, if they differ."""
    codes = trained.codes
    if all(number == code for number, code in codes.items()):
        return []
    values = {"orig_labels": [0, *codes], "target_labels": [0, *codes.values()]}
    return [{"_target_": "MapLabelValued", "keys": "pred", **values}]


def _steps(trained: TrainedModel, *, ct: bool) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    ]
    plan = trained.plan
    if plan.spacing_mm or plan.common_mm:
        spacing = {"pixdim": _pixdim(plan), "mode": "bilinear", "padding_mode": "border"}
        steps.append({"_target_": "Spacingd", "keys": "image", **spacing})
    modalities = trained.description.get("modalities", ["CT" if ct else "OT"])
    return [*steps, *_normalisation(trained.plan.normalisation.rule_for(modalities[0]), ct=ct)]


def _shown(plan: PreprocessingPlan) -> str:
    """Return the expression of the axes that a network sees, of three; `axis` is the slice axis."""
    return "range(3)" if plan.dims == 3 else "[one for one in range(3) if one != axis]"


def _pixdim(plan: PreprocessingPlan) -> str:
    """Return the spacing to which an image is resampled, as `target_spacing` and `_Respace`; -1: its own."""
    wanted = list(plan.spacing_mm or plan.common_mm or ())
    off = f"any(abs(own[one] / wanted[one] - 1) > {SPACING_TOLERANCE} for one in seen)"
    needed = "True" if plan.spacing_mm else off
    chosen = f"(lambda off: [wanted[one] if off and one in seen else -1.0 for one in range(3)])({needed})"
    shown = f"(lambda axis: list({_shown(plan)}))(@slice_axis)"
    return f"$(lambda own, wanted, seen: {chosen})(@spacing, {wanted}, {shown})"


def _flips(trained: TrainedModel) -> str:
    """Return the combinations of tensor axes that inference flips, as `mirrored`."""
    mirror = isinstance(trained.task, Segmentation) and trained.task.mirror
    axes = list(trained.plan.mirror_axes) if mirror else []
    listed = f"[place + 2 for place, one in enumerate({_shown(trained.plan)}) if one in {axes}]"
    combined = "[own for n in range(1, len(axes) + 1) for own in itertools.combinations(axes, n)]"
    return f"$(lambda axes: {combined})((lambda axis: {listed})(@slice_axis))"


def _normalisation(rule: IntensityRule, *, ct: bool) -> list[dict[str, Any]]:
    """Return the steps of a normalisation rule."""
    if rule.method == "none":
        return []
    if rule.method == "body":
        low, high = rule.percentiles
        body = _BODY.format(above=rule.body_above, low=low, high=high)
        return [{"_target_": "Lambdad", "keys": "image", "func": body}]
    if rule.method == "dataset":
        ends = {"a_min": rule.low, "a_max": rule.high, "clip": True}
        ends |= {"b_min": (rule.low - rule.mean) / rule.sd, "b_max": (rule.high - rule.mean) / rule.sd}
        return [{"_target_": "ScaleIntensityRanged", "keys": "image", **ends}]
    if rule.method == "legacy" and ct:
        limits = {"a_min": -1000.0, "a_max": 1000.0, "b_min": -1000.0, "b_max": 1000.0, "clip": True}
        clip = {"_target_": "ScaleIntensityRanged", "keys": "image", **limits}
    else:
        low, high = rule.percentiles
        shares = {"lower": low, "upper": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
        clip = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", **shares}
    return [clip, {"_target_": "NormalizeIntensityd", "keys": "image"}]


def _inferer(trained: TrainedModel) -> dict[str, Any]:
    options: dict[str, Any] = {
        "roi_size": list(trained.plan.size),
        "sw_batch_size": 2,
        "overlap": 0.5,
        "mode": "gaussian",
        "cval": "$float(@sample['image'].min())",
    }
    if trained.plan.dims == 3:
        return {"_target_": "SlidingWindowInferer", **options}
    return {"_target_": "SliceInferer", "spatial_dim": "@slice_axis", **options}


def _metadata(trained: TrainedModel, title: str, names: dict[str, str]) -> dict[str, Any]:
    plan = trained.plan
    channels = [name for name, _ in plan.regions] if plan.regions else ["background", *names.values()]
    common = {"type": "image", "modality": "n/a", "is_patch_data": True, "spatial_shape": list(plan.size)}
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__,
        "numpy_version": np.__version__,
        "required_packages_version": {"fire": "0.7.1", "nibabel": "5.4.0"},
        "name": title,
        "task": "segmentation",
        "description": f"Segmenter exported by medmim {__version__}; weights {trained.sha256}",
        "authors": "medmim",
        "copyright": "",
        "network_data_format": {
            "inputs": {
                "image": {
                    **common,
                    "format": "magnitude",
                    "num_channels": 1,
                    "dtype": "float32",
                    "value_range": [],
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    **common,
                    "format": "segmentation",
                    "num_channels": len(channels),
                    "dtype": "float32",
                    "value_range": [0, max(trained.names)],
                    "channel_def": {str(number): name for number, name in enumerate(channels)},
                }
            },
        },
    }
