"""Checks of the trials of a study before its first training: names, and arms that do not differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medmim.config.study import StudyTrial
from medmim.data.dataset.manifest import Dataset
from medmim.encoders import ENCODERS
from medmim.errors import SettingsError, counted, unknown_name
from medmim.heads import HEADS
from medmim.masks import build_mask
from medmim.methods import METHODS, ON_PATCHES, WITHOUT_MASK
from medmim.stages.study.planning import StudyTraining, num_volumes, trainings_of


def check_names(trials: Sequence[StudyTrial]) -> None:
    """Reject unknown names, and comparisons of masks that have no effect, before the first training.

    Raises:
        UsageError: for an unknown name.
        SettingsError: for a comparison without a difference.
    """
    for trial in trials:
        pre, tune = trial.pretrain, trial.finetune
        _check_name("task", tune.task, HEADS)
        for stage in (tune, pre):
            _check_name("encoder", stage.encoder if stage else None, ENCODERS)
        if pre is None:
            continue
        _check_name("method", pre.method, METHODS)
        if pre.method in ON_PATCHES and tune.encoder is None:
            raise SettingsError(
                f"study: method '{pre.method}' needs a token encoder, but the control would use a different "
                "encoder: expected one encoder for all arms, such as encoders: [vit]"
            )
        build_mask(pre.mask, ratio=pre.ratio, **pre.mask_options)
    _refuse_masks_without_effect(trials)


def _refuse_masks_without_effect(trials: Sequence[StudyTrial]) -> None:
    """Reject a comparison of masks with a method that hides nothing."""
    for method in sorted(WITHOUT_MASK):
        found = [one.pretrain for one in trials if one.pretrain and one.pretrain.method == method]
        masks = sorted({f"{one.mask} {one.ratio:g} {one.mask_options or ''}".strip() for one in found})
        if len(masks) > 1:
            raise SettingsError(
                f"study: method '{method}' hides nothing, so its arms with {', '.join(masks)} differ by "
                f"chance only: expected one mask and ratio for it, such as arms: [{{method: {method}}}]"
            )


def _check_name(kind: str, name: str | None, known: Any) -> None:
    if name is not None and ":" not in name and name not in known:
        raise unknown_name(kind, name, known)


def checked_trainings(
    trials: Sequence[StudyTrial], dataset: Dataset, *, study: str, home: Path
) -> tuple[StudyTraining, ...]:
    """Return the trainings of trials on a dataset, see `trainings_of`.

    Raises:
        SettingsError: if two trials are the same training, or label fractions select the same patients.
    """
    trainings = trainings_of(trials, dataset_hash=dataset.info.content_hash, study=study)
    _refuse_equal_subsets(trainings, dataset, home)
    return trainings


def _refuse_equal_subsets(trainings: Sequence[StudyTraining], dataset: Dataset, home: Path) -> None:
    """Reject label fractions of the same patients; as subsets are nested, equal numbers are equal subsets."""
    shares: dict[tuple[int | None, float], int] = {}
    for one in trainings:
        tune = one.trial.finetune
        place = (tune.fold, tune.label_fraction or 1.0)
        if one.job.stage == "finetune" and tune.num_labelled is None and place not in shares:
            shares[place] = num_volumes(one, dataset, home)
    for (fold, share), count in shares.items():
        equal = [
            other
            for (its_fold, other), its in shares.items()
            if (its_fold, its) == (fold, count) and other > share
        ]
        if equal:
            raise SettingsError(
                f"study: label_fractions {share:g} and {equal[0]:g} select the same "
                f"{counted(count, 'training volume')}: expected fractions of different patients"
            )
