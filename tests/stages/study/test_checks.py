"""Arms that do not differ are refused before the first training."""

import pytest
import tiny

from medmim.config.study import StudySettings, trials_of
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import SettingsError, UsageError
from medmim.methods import METHODS, WITHOUT_MASK
from medmim.stages.study.checks import check_names, checked_trainings

SHARED = {**tiny.TINY, "steps": 1}


def trials(**words):
    shared = {"pretrain": SHARED, "finetune": SHARED}
    return trials_of(StudySettings.model_validate({**shared, **words}))


def trainings(data, **words):
    return checked_trainings(trials(data=data, **words), read_dataset(data), study="s", home=data)


@pytest.mark.parametrize("method", sorted(WITHOUT_MASK))
@pytest.mark.parametrize("grid", [{"masks": ["mesh", "random"]}, {"ratios": [0.5, 0.7]}])
def test_masks_of_a_method_that_hides_nothing_are_not_compared(method, grid):
    with pytest.raises(SettingsError, match=f"'{method}' hides nothing.* arms: .{{method: {method}}}"):
        check_names(trials(methods=[method], **grid))
    check_names(trials(methods=[method]))
    check_names(trials(methods=["spark"], arms=[{"method": method}], **grid))


def test_methods_that_hide_nothing_are_methods():
    assert set(METHODS) > WITHOUT_MASK


def test_unknown_names():
    with pytest.raises(UsageError, match="unknown mask 'mash'; did you mean 'mesh'"):
        check_names(trials(masks=["mash"]))


def test_label_fractions_of_the_same_patients_are_not_compared(tiny_dataset):
    """Seven patients train: 0.01 and 0.2 of them are one patient."""
    with pytest.raises(SettingsError, match=r"0\.01 and 0\.2 select the same 1 training volume"):
        trainings(tiny_dataset, label_fractions=[0.01, 0.2, 1.0])
    with pytest.raises(SettingsError, match=r"0\.99 and 1 select the same 7 training volumes"):
        trainings(tiny_dataset, label_fractions=[0.99, None])
    assert len(trainings(tiny_dataset, label_fractions=[0.2, 0.5, None], masks=[], seeds=[0, 1])) == 6


def test_one_training_under_two_names_is_refused(tiny_dataset):
    with pytest.raises(SettingsError, match="'scratch · dynunet seed 0' and 'scratch · None seed 0' are the"):
        trainings(tiny_dataset, encoders=["dynunet", None])
