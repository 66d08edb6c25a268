"""`medmim embed`: a feature vector for each image of a dataset, and a picture of their principal components.

The vector of an image is the mean of the encoder's pooled maps over windows of the training size that cover
the preprocessed image: all slices in 2D.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from monai.data.utils import dense_patch_slices
from monai.transforms.croppad.array import SpatialPad
from sklearn.decomposition import PCA
from torch import Tensor

from medmim import files
from medmim.data.dataset.channels import group_channels
from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.loading.preprocess import preprocess
from medmim.errors import DataError, RunError, UsageError, counted
from medmim.stages.model_lookup import find_model
from medmim.training.evaluation.figures import to_png
from medmim.training.evaluation.probes import extract_features
from medmim.training.tasks.classification import views
from medmim.training.tasks.trained_model import TrainedEncoder, load_trained_encoder

_SIZE, _DPI = (6.5, 5.5), 130


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of a dataset.

    Attributes:
        picture: PNG file; None for fewer than three images.
        explained: variance fractions of the two principal components in the picture.
        failures: reason codes of images without a row, by id.
    """

    out: Path
    picture: Path | None
    images: int
    width: int
    explained: tuple[float, ...]
    failures: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {
            "embeddings": str(self.out),
            "picture": None if self.picture is None else str(self.picture),
            "images": self.images,
            "width": self.width,
            "explained_variance": list(self.explained),
            "failures": dict(self.failures),
        }


def embed(
    *, data: Path, home: Path, model: str | None, out: Path, log: Callable[[str], None] = print
) -> Embeddings:
    """Write the embeddings of a dataset: key, subject, split, class and vector of each image.

    The model is named as for `find_model`; it may be a pretraining run too.

    Raises:
        UsageError: if `out` or the picture exists.
        DataError: if no image can be used.
        RunError: if there is no such model, or `out` cannot be written.
    """
    picture = out.with_suffix(".png")
    for one in (out, picture):
        if one.exists():
            raise UsageError(f"--out '{one}' exists: expected a new path; choose another")
    dataset = read_dataset(data)
    selected = find_model(model, home, log, stages=("finetune", "pretrain"))
    table, failures = embedding_table(load_trained_encoder(selected.weights), dataset)
    for name, reason in failures.items():
        log(f"volume {name}: {reason}, no row")
    if table.empty:
        raise DataError(
            f"no image could be embedded ({', '.join(sorted(set(failures.values())))}): check the dataset "
            "with `medmim verify`",
            reason="nothing_embedded",
        )
    vectors = np.stack(table["vector"].to_list())
    stream = io.BytesIO()
    table.to_parquet(stream, index=False)
    contents = {out: stream.getvalue()}
    explained: tuple[float, ...] = ()
    if len(table) > 2:
        contents[picture], explained = _picture(table, vectors, title=selected.title)
    try:
        files.write_together(contents)
    except files.WriteError as error:
        raise RunError(
            f"cannot write '{out}' ({error.strerror}): expected free space and write permission; choose "
            "another path with --out"
        ) from error
    return Embeddings(out, picture if explained else None, len(table), vectors.shape[1], explained, failures)


def embedding_table(trained: TrainedEncoder, dataset: Dataset) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return one row for each image, and the reasons for images without one."""
    channels = trained.description.get("channels", ())
    cases, rest = group_channels(dataset.volumes, channels) if channels else (dataset.volumes, ())
    failures = {volume.id: "channel_missing" for volume in rest}
    rows = []
    for case in cases:
        try:
            vector = _vector(trained, dataset.root, case)
        except DataError as error:
            failures[case.id] = error.reason
            continue
        row = {"key": case.id, "subject": case.subject, "split": case.split, "class": case.target}
        rows.append({**row, "vector": vector})
    return pd.DataFrame(rows, columns=["key", "subject", "split", "class", "vector"]), failures


def _vector(trained: TrainedEncoder, root: Path, case: VolumeRecord) -> np.ndarray:
    prepared = preprocess(root, case.model_copy(update={"label": None}), trained.plan)
    pad = SpatialPad(trained.plan.size, mode="constant", value=prepared.background)
    pooled = []
    for view in views(prepared, trained.plan):
        whole: Tensor = torch.as_tensor(pad(view))
        places = dense_patch_slices(whole.shape[1:], trained.plan.size, trained.plan.size)
        windows = torch.stack([whole[(slice(None), *place)] for place in places])
        pooled.append(extract_features(trained.encoder, windows, precision="fp32").pooled)
    return np.asarray(torch.cat(pooled).mean(dim=0).numpy(), dtype=np.float32)


def _picture(table: pd.DataFrame, vectors: np.ndarray, *, title: str) -> tuple[bytes, tuple[float, ...]]:
    """Return a scatter plot of the first two principal components of standardised features, by class."""
    spread = vectors.std(axis=0)
    fitted = PCA(n_components=2)
    points = fitted.fit_transform((vectors - vectors.mean(axis=0)) / np.where(spread > 0, spread, 1))
    explained = tuple(round(float(share), 4) for share in fitted.explained_variance_ratio_)
    by = "class" if table["class"].notna().any() else "split"
    groups = table[by].fillna("none").to_numpy()
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for name in sorted(set(groups)):
        x, y = points[groups == name].T
        axes.scatter(x, y, s=14, alpha=0.7, label=f"{name} ({len(x)})")
    axes.set(xlabel=f"component 1 ({explained[0]:.0%})", ylabel=f"component 2 ({explained[1]:.0%})")
    axes.set_title(f"{title}: {counted(len(table), 'image')} by {by}")
    axes.legend()
    return to_png(figure), explained
