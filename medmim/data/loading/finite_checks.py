"""Checks for volumes with NaN or infinite values.

Ingestion rejects them, but a dataset folder may change afterwards. Training patches are not checked here:
`training/nonfinite.py` handles losses that are not finite.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.errors import DataError

_log = logging.getLogger(__name__)
_ADVICE = "repair the file and run `medmim ingest` again"


def load_finite(
    volume: VolumeRecord, prepare: Callable[[VolumeRecord], PreprocessedVolume]
) -> PreprocessedVolume:
    """Return a preprocessed volume with finite values.

    Raises:
        DataError: with reason not_finite, for an image with other values.
    """
    prepared = prepare(volume)
    if not _is_finite(prepared):
        raise DataError(
            f"volume {volume.id}: its image contains values that are not finite; {_ADVICE}",
            reason="not_finite",
        )
    return prepared


def first_finite(
    volumes: Iterable[VolumeRecord], prepare: Callable[[VolumeRecord], PreprocessedVolume], *, count: int
) -> list[VolumeRecord]:
    """Return the first `count` volumes with finite values and log the ones that are left out.

    Raises:
        DataError: if no volume has finite values.
    """
    chosen: list[VolumeRecord] = []
    for volume in volumes:
        if len(chosen) == count:
            break
        if _is_finite(prepare(volume)):
            chosen.append(volume)
        else:
            _log.warning(
                "volume %s is left out of evaluations: its image contains values that are not finite; %s",
                volume.id,
                _ADVICE,
            )
    if not chosen:
        raise DataError(f"no image for evaluations is finite; {_ADVICE}", reason="not_finite")
    return chosen


def _is_finite(prepared: PreprocessedVolume) -> bool:
    return bool(torch.isfinite(prepared.image).all())
