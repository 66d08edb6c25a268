"""Volumes with values that are not finite: named where they cannot be used, left out where others will do.

Ingestion refuses them; a dataset folder may have been changed since. Draws for training take them as they
are: there the guard decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch

from medmim.data.dataset.manifest import Volume
from medmim.data.loading.preprocess import Prepared
from medmim.errors import DataError

_log = logging.getLogger(__name__)
_ADVICE = "repair the file and run `medmim ingest` again"


def finite(volume: Volume, prepare: Callable[[Volume], Prepared]) -> Prepared:
    """Return a prepared volume.

    Raises:
        DataError: with reason not_finite.
    """
    prepared = prepare(volume)
    if not _is_finite(prepared):
        raise DataError(
            f"volume {volume.id}: its image holds values that are not finite; {_ADVICE}", reason="not_finite"
        )
    return prepared


def finite_ones(
    volumes: Iterable[Volume], prepare: Callable[[Volume], Prepared], *, count: int
) -> list[Volume]:
    """Return the first `count` volumes whose values are finite; the others before them are named.

    Raises:
        DataError: if there is none.
    """
    chosen: list[Volume] = []
    for volume in volumes:
        if len(chosen) == count:
            break
        if _is_finite(prepare(volume)):
            chosen.append(volume)
        else:
            _log.warning(
                "volume %s is left out of evaluations: its image holds values that are not finite; %s",
                volume.id,
                _ADVICE,
            )
    if not chosen:
        raise DataError(f"no image for evaluations is finite; {_ADVICE}", reason="not_finite")
    return chosen


def _is_finite(prepared: Prepared) -> bool:
    return bool(torch.isfinite(prepared.image).all())
