"""The result of `medmim predict`: predictions by volume, failures, and what a user should know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmim.notebook import NotebookResult, Table, read_picture
from medmim.stages.predict.outputs import VolumePrediction


@dataclass(frozen=True)
class Predictions(NotebookResult):
    """The predictions of a model for a source.

    Attributes:
        model: name and task of the model, and the SHA-256 of its weights.
        failures: reason codes of volumes without a prediction, by id.
        dicom: for each segmented volume `written`, or the reason why there is no DICOM-SEG.
        files: reason codes of quarantined source files, by their number in the sorted list of files.
        names: name of each volume's output files, by id.
        warnings: reasons not to rely on the predictions, such as scans of another modality.
        forced: volumes that were predicted although they do not resemble the training data, with the reason.
    """

    out: Path
    model: Mapping[str, str]
    volumes: Mapping[str, VolumePrediction]
    failures: Mapping[str, str] = field(default_factory=dict)
    dicom: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    forced: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> Table:
        """Return a row for each volume: its prediction, or why there is none."""
        outcomes = {key: one.summary for key, one in self.volumes.items()} | dict(self.failures)
        return [["volume", "prediction"], *([self.name(key), text] for key, text in outcomes.items())]

    def name(self, volume: str) -> str:
        """Return the name of a volume's output files."""
        return self.names.get(volume, volume)

    def remarks(self) -> Sequence[str]:
        """Return the model, the output folder and the warnings."""
        return [f"model {self.model['name']}", f"predictions {self.out}", *self.warnings]

    def picture(self) -> bytes | None:
        """Return the picture of the first volume."""
        return read_picture(self.out / "pictures" / f"{self.name(next(iter(self.volumes), ''))}.png")

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {
            "predictions": str(self.out),
            "model": dict(self.model),
            "volumes": len(self.volumes) + len(self.failures),
            "predicted": sorted(self.volumes),
            "names": dict(self.names),
            "failures": dict(self.failures),
            "dicom": dict(self.dicom),
            "files": {str(number): reason for number, reason in self.files.items()},
            "warnings": list(self.warnings),
            "forced": dict(self.forced),
        }
