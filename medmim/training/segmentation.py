"""Segmentation as a task: which patches it trains on, how volumes are scored and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from medmim.data.manifest import Volume
from medmim.data.prepare import Volumes
from medmim.training.pictures import panel, segmentation_row
from medmim.training.scores import CaseScore, score_volume, segment


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A network that gives class scores, and everything needed to judge it.

    Attributes:
        network: images → class scores.
        volumes: prepares volumes.
        names: label value → name.
        precision: auto, fp32 or bf16.
    """

    network: nn.Module
    volumes: Volumes
    names: Mapping[int, str]
    precision: str

    def scores(self, cases: Sequence[Volume], *, distances: bool) -> list[CaseScore]:
        """Return the scores of labelled volumes; surface distances take most of the time."""
        self.network.eval()
        return [
            score
            for case in cases
            for score in score_volume(
                self.network,
                case,
                self.volumes,
                names=self.names,
                precision=self.precision,
                distances=distances,
            )
        ]

    def panel(self, cases: Sequence[Volume], *, title: str) -> bytes:
        """Return a PNG with image, label and prediction of each labelled volume."""
        self.network.eval()
        rows = []
        for case in cases:
            prepared = self.volumes(case)
            if prepared.label is not None:
                guess = segment(self.network, prepared, self.volumes.plan, precision=self.precision)
                image, label = prepared.image[0], prepared.label[0].long()
                rows.append(segmentation_row(image, label, guess.argmax(dim=0), axis=prepared.slice_axis))
        names = [self.names.get(value, "") for value in range(1, max(self.names) + 1)]
        return panel(rows, ["image", "label", "prediction"], title=title, names=names)
