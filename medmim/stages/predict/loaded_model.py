"""A fine-tuned model that stays in memory and predicts single scans: arrays or files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medmim import files
from medmim.data.dataset.manifest import VolumeRecord, read_dataset
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import write_volume
from medmim.data.ingest.layout_rules import InferenceRules
from medmim.errors import DataError, UsageError, counted
from medmim.notebook import NotebookResult, Table
from medmim.stages.ingest import ingest
from medmim.stages.predict.outputs import OUTPUTS, OutputPlace
from medmim.stages.unlike_training_data import UNLIKE, unlike_training_data, with_modality
from medmim.training.tasks.trained_model import TrainedModel

_NAME = "scan"


@dataclass(frozen=True, eq=False)
class ScanPrediction(NotebookResult):
    """The prediction for one scan.

    Attributes:
        rows: rows of the task's table: classes with their sizes, probabilities, or boxes.
        labels: label volume of a segmentation, with the shape of the scan; None for other tasks.
        affine: voxel indices to RAS mm of `labels`, (4, 4); None for other tasks.
        warning: how the scan differs from the training data, if it was predicted with `force`.
    """

    summary: str
    rows: Sequence[Mapping[str, Any]]
    labels: np.ndarray | None
    affine: np.ndarray | None
    png: bytes
    warning: str | None = None

    def table(self) -> Table:
        """Return the rows of the task's table."""
        columns = [key for key in (self.rows[0] if self.rows else {"prediction": ""}) if key != "volume"]
        return [columns, *([str(row[key]) for key in columns] for row in self.rows)]

    def remarks(self) -> Sequence[str]:
        """Return the summary and the warning."""
        return [self.summary, *([f"warning: {self.warning}"] if self.warning else [])]

    def picture(self) -> bytes:
        """Return the picture of the prediction."""
        return self.png


class LoadedModel:
    """A fine-tuned model in memory.

    Attributes:
        title: name and version of the model, for people.
        trained: the network with its preprocessing and its description.
    """

    def __init__(self, trained: TrainedModel, *, title: str, home: Path) -> None:
        self.trained = trained
        self.title = title
        self._home = home

    def __repr__(self) -> str:
        classes = ", ".join(self.trained.names.values())
        return f"<{self.trained.kind} model {self.title}: {classes}>"

    def predict(
        self,
        scan: np.ndarray | Path | str,
        *,
        spacing_mm: float | Sequence[float] | None = None,
        force: bool = False,
    ) -> ScanPrediction:
        """Predict one scan.

        Args:
            scan: a file, a folder with one DICOM series, or an array: a volume whose axes run towards right,
                anterior and superior, or a picture of rows and columns.
            spacing_mm: distance between voxels along each axis of an array; None: unknown, counted as 1 mm.
            force: predict scans too that do not resemble the training data.

        Raises:
            UsageError: for an array of another shape, or a path that does not exist.
            DataError: if the scan cannot be used, does not resemble the training data, or is not one volume.
        """
        if self.trained.description.get("channels"):
            raise UsageError("this model reads several channels: use medmim.predict on a folder of scans")
        with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
            root = Path(folder)
            if isinstance(scan, np.ndarray):
                record = _record_of(scan, spacing_mm, root)
            else:
                root, record = self._ingested(Path(scan), root)
            found = self._predict(record, root, out=Path(folder) / "out", force=force)
        picture_of_rows = isinstance(scan, np.ndarray) and scan.ndim == 2
        if found.labels is not None and picture_of_rows:
            return replace(found, labels=found.labels[..., 0].T, affine=None)
        return found

    def _predict(self, record: VolumeRecord, root: Path, *, out: Path, force: bool) -> ScanPrediction:
        reason = unlike_training_data(self.trained.description, record, root)
        if reason and not force:
            raise DataError(f"{reason}; pass force=True to predict anyway", reason=UNLIKE)
        bare = record.model_copy(update={"label": None, "boxes": (), "target": None, "targets": {}})
        output, context = OUTPUTS[self.trained.kind], self.trained.context(root)
        made = output.predict(
            self.trained, context, with_modality(self.trained, bare, force=force), OutputPlace(out, _NAME)
        )
        label = read_image(made.label) if made.label else None
        png = (out / "pictures" / f"{_NAME}.png").read_bytes()
        array, affine = (label.array, label.affine) if label else (None, None)
        return ScanPrediction(made.summary, made.rows, array, affine, png, reason)

    def _ingested(self, scan: Path, folder: Path) -> tuple[Path, VolumeRecord]:
        """Return the dataset folder and the record of the only volume at a path."""
        if not scan.exists():
            raise UsageError(f"'{scan}' does not exist: expected a file or folder; check the path")
        source = scan
        if scan.is_file():
            source = files.private_folder(folder / "source")
            shutil.copy2(scan, source / scan.name)
        root = folder / "dataset"
        ingest(source, root, home=self._home, workers=1, rules=InferenceRules(expects_labels=False))
        volumes = read_dataset(root).volumes
        if len(volumes) != 1:
            raise DataError(
                f"'{scan}' contains {counted(len(volumes), 'volume')}, expected one: use medmim.predict "
                "for folders"
            )
        return root, volumes[0]


def _record_of(scan: np.ndarray, spacing_mm: float | Sequence[float] | None, root: Path) -> VolumeRecord:
    """Write an array as the only volume of a folder, and return its record."""
    if scan.ndim not in (2, 3) or not scan.size:
        raise UsageError(f"expected an array of 2 or 3 axes, got the shape {scan.shape}")
    array = scan.T[..., None] if scan.ndim == 2 else scan
    steps = np.broadcast_to(np.asarray(1.0 if spacing_mm is None else spacing_mm, dtype=float), scan.ndim)
    steps = np.append(steps[::-1], 1.0) if scan.ndim == 2 else steps
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise UsageError(f"spacing_mm: expected positive lengths in mm, got {spacing_mm}")
    written = write_volume(Image(array, np.diag([*steps, 1.0])), root / f"{_NAME}.nii.gz")
    flags = {"spacing": "unknown"} if spacing_mm is None else {}
    identity: dict[str, Any] = dict.fromkeys(("id", "subject", "study", "series"), _NAME)
    identity |= {"image": f"{_NAME}.nii.gz", "modality": "OT", "spatial_dims": scan.ndim, "verdict": "right"}
    return VolumeRecord(**identity, **written, flags=flags)
