from dataclasses import replace

import pytest
from simulated import run

from medmim.tracking.comparison.equality import (
    differences,
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


def changed(run, **tags):
    return replace(run, tags={**run.tags, **tags})


def test_versions_of_medmim_and_data_of_pretraining_count():
    runs = [
        changed(made("scratch"), medmim_version="0.1.0"),
        changed(
            replace(made("a", pretraining=PRETRAINED), pretraining_data="c" * 64), medmim_version="0.2.0"
        ),
        replace(made("b", pretraining=PRETRAINED), pretraining_data=",".join(("d" * 64, "c" * 64))),
    ]
    assert differences(runs) == (
        "version of medmim: 0.1.0 (scratch); 0.2.0 (a)",
        "pretraining data: cccccccc (a); cccccccc+dddddddd (b)",
    )


def test_changes_of_own_code_count():
    """Other modules of an arm are no difference; the settings that name them may be one."""
    runs = [
        replace(made("a"), code=("masks 0a, more 1b",)),
        replace(made("b"), code=("masks 0a", "other 2c")),
        replace(made("d"), code=("masks 3d",)),
        replace(made("c"), code=("more 1b; then more 4e",)),
    ]
    assert differences(runs[:2]) == ()
    assert differences(runs) == (
        "own code masks: 0a (a, b); 3d (d)",
        "own code more: 1b (a, c); 4e (c)",
    )


def test_precisions_that_two_machines_chose_count():
    runs = [changed(made("scratch"), precision="fp32"), changed(made("a"), precision="bf16"), made("b")]
    assert differences(runs) == ("precision of fine-tuning: bf16 (a); fp32 (scratch)",)
    given = [
        changed(made(arm, settings={"precision": word}), precision=word)
        for arm, word in (("scratch", "fp32"), ("a", "bf16"))
    ]
    assert not any("precision of fine-tuning" in line for line in differences(given))  # said of the setting


def test_a_pretraining_that_continues_another_one_differs_from_one_that_does_not():
    continued = {**PRETRAINED, "init": "imagenet.pth"}
    runs = [made("a", pretraining={**PRETRAINED, "init": "scratch"}), made("b", pretraining=PRETRAINED)]
    assert settings_differences(runs) == ()
    runs = [made("a", pretraining=continued), made("b", pretraining=PRETRAINED)]
    assert settings_differences(runs) == ('pretraining init: "imagenet.pth" (a); "scratch" (b)',)


@pytest.mark.parametrize("change", [{"label": "edema"}, {"case": "c9"}, {"truth": [["t", 0, 0, 0, 1, 1, 1]]}])
def test_runs_of_one_split_are_tested_on_the_same_cases_and_labels(change):
    whole = made("scratch")
    other = replace(made("a", pretraining=PRETRAINED), cases=({**whole.cases[0], **change}, whole.cases[1]))
    assert differences([whole, other]) == (
        "test cases or their labels, of one split: 2 rows (scratch); 2 rows (a)",
    )
    fewer = replace(made("a", pretraining=PRETRAINED), cases=whole.cases[:1])
    assert "2 rows (scratch); 1 rows (a)" in differences([whole, fewer])[0]
    assert differences([changed(whole, split_hash="1"), changed(fewer, split_hash="2")]) == ()
    assert differences([replace(whole, from_files=True), replace(fewer, from_files=True)]) == ()


def test_a_seed_that_was_run_until_it_scored_well_forbids_claims():
    first = made("a")
    lucky = replace(run("a", [0.9, 0.6]), run_id="lucky", settings=first.settings)
    (line,) = differences([first, lucky])
    assert line.startswith("seed 0 of a was run 2 times, with scores from 0.550 to 0.750")
    assert differences([first, replace(first, run_id="again")]) == ()
    assert differences([first, replace(lucky, tags={**lucky.tags, "seed": "1"})]) == ()


def test_copies_of_one_run_are_not_several_seeds():
    """A run that was copied under another seed, or whose tag was edited, would count twice."""
    first = made("a", settings={"seed": 0})
    (line,) = differences([first, made("a", settings={"seed": 1}, seed=1)])
    assert line == (
        "seeds 0, 1 of a have equal scores in every case: one training cannot count as several seeds"
    )
    edited = replace(run("a", [0.5, 0.7], seed=1), settings={"seed": 0})
    (line,) = differences([first, edited])
    assert line == "run a/1 (a) is marked as seed 1, but was trained with seed 0"
    nothing_found = [replace(run("a", [0.0, 1.0, 0.0], seed=seed), settings={}) for seed in (0, 1)]
    assert differences(nothing_found) == ()


def test_versions_of_the_dataset_count():
    runs = [replace(made(arm), tags={"seed": "0", "dataset_hash": arm * 9}) for arm in "ab"]
    assert differences(runs) == ("version of the dataset: aaaaaaaa (a); bbbbbbbb (b)",)


def test_edited_cases_contradict_the_score_that_was_recorded():
    honest = replace(made("a"), recorded=(0.55, 0.5500001))
    assert differences([honest]) == ()
    edited = replace(honest, cases=run("a", [0.9, 0.9]).cases)
    (line,) = differences([edited])
    assert line.endswith("(a) give 0.9000, but 0.5500 was recorded after its test: its files were changed")


def test_public_weights_of_one_name_are_different_arms():
    first, second = (replace(made("net"), pretraining=None) for _ in range(2))
    assert fingerprint(changed(first, lineage="net.pth (a)")) != fingerprint(
        changed(second, lineage="net.pth (b)")
    )
