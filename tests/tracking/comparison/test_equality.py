from dataclasses import replace

import pytest
from simulated import run

from medmim.tracking.comparison.equality import (
    differing_settings,
    fingerprint,
    settings_differences,
    unequal_steps,
)

PRETRAINED = {"method": "spark", "mask": "mesh", "ratio": 0.7, "steps": 100}


def made(arm, *, settings=None, pretraining=None, seed=0):
    settings = {"task": "segment"} if settings is None else settings
    pretraining = {} if pretraining is None else pretraining
    return replace(run(arm, [0.5, 0.6], seed=seed), settings=settings, pretraining=pretraining)


def test_what_an_arm_is_meant_to_vary_is_no_difference():
    runs = [
        made("scratch"),
        made("spark mesh 0.7", pretraining=PRETRAINED),
        made("mae random 0.5", pretraining={**PRETRAINED, "method": "mae", "mask": "random", "ratio": 0.5}),
    ]
    assert settings_differences(runs) == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "linear_probe"},
        {"optimizer": "sgd"},
        {"weight_decay": 0.2},
        {"ema": 0.9},
        {"task_options": {"criterion": "ce"}},
        {"foreground_fraction": 0.1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_setting_of_fine_tuning_counts(settings):
    (line,) = settings_differences([made("scratch"), made("a", settings=settings, pretraining=PRETRAINED)])
    assert line.startswith(f"fine-tuning {next(iter(settings))}: ")


def test_the_length_and_augmentation_of_pretraining_count():
    longer = {**PRETRAINED, "mask": "random", "steps": 200, "augment": "resized"}
    found = settings_differences([made("a", pretraining=PRETRAINED), made("b", pretraining=longer)])
    assert found == (
        'pretraining augment: "patch" (a); "resized" (b)',
        "pretraining steps: 100 (a); 200 (b)",
    )


def test_settings_that_a_study_varies_on_purpose_are_left_out():
    other = {**PRETRAINED, "lr": 0.5}
    runs = [made("a", pretraining=PRETRAINED), made("b", pretraining=other)]
    assert settings_differences(runs) != ()
    assert settings_differences(runs, varied=["lr"]) == ()


@pytest.mark.parametrize(("minutes", "unequal"), [(0.4, False), (0.5, True)])
def test_the_control_of_equal_cost_has_the_minutes_of_both_stages(minutes, unequal):
    pretrained = {**PRETRAINED, "steps": None, "minutes": 0.3}
    runs = [
        made("scratch", settings={"minutes": 0.1}),
        made("scratch [equal cost]", settings={"minutes": minutes}),
        made("spark mesh 0.7", settings={"minutes": 0.1}, pretraining=pretrained),
    ]
    assert bool(settings_differences(runs)) == unequal
    lengths = [
        replace(run, tags={**run.tags, "steps": steps})
        for run, steps in zip(runs, ("9", "40", "9"), strict=True)
    ]
    assert unequal_steps(lengths) == ()


def test_seeds_folds_and_settings_of_the_machine_are_left_out():
    runs = [
        made("a", settings={"seed": 0, "workers": 2, "cache_gb": 1.0}),
        made("a", settings={"seed": 1, "workers": 0, "fold": 2}, seed=1),
    ]
    assert settings_differences(runs) == ()
    assert fingerprint(runs[0]) == fingerprint(runs[1])


def test_former_names_and_defaults_are_no_difference():
    assert settings_differences([made("scratch", settings={"tune": "full"}), made("a", settings={})]) == ()


def test_settings_that_are_not_recorded_are_a_difference():
    unknown = replace(made("a"), settings=None)
    assert settings_differences([made("scratch"), unknown]) == (
        "fine-tuning settings of run a/0 (a) are not recorded",
    )
    weights = [replace(made(arm), pretraining=None) for arm in "ab"]
    assert len(settings_differences(weights)) == 2
    assert settings_differences([made("scratch"), weights[0]]) == ()


def test_runs_of_one_arm_are_told_apart_by_what_differs():
    runs = [made("a", settings={"lr": 0.1}), replace(made("a", settings={"lr": 0.2}), run_id="other")]
    assert differing_settings(runs) == {"a/0": {"lr": "0.1"}, "other": {"lr": "0.2"}}


def test_unequal_numbers_of_steps_are_warned_about():
    runs = [replace(made("a"), tags={"seed": "0", "steps": steps}) for steps in ("100", "110")]
    assert unequal_steps(runs)[0].startswith("the runs took 100 to 110 steps: a budget in minutes favours")
    assert unequal_steps(runs[:1]) == ()
