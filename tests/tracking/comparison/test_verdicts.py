"""The sentences of comparisons: the same for the same numbers, whoever asks for them."""

import numpy as np
import pytest
from simulated import run

from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.verdicts import obstacle_to, seeds_remedy, verdict

SIX = [0.05, 0.04, 0.03, 0.02, 0.0, -0.004]
SENTENCE = (
    "a above scratch by 2.3 points of Dice, 95 % interval -0.0 … +4.5 over 6 patients and 2 seeds: "
    "no evidence of a difference; a true difference of 3.1 points would be found with 80 % probability"
)


@pytest.fixture(scope="module")
def runs():
    base = np.linspace(0.6, 0.7, 6)
    arms = {"scratch": base, "a": base + np.array(SIX)}
    # equal scores of two seeds would be those of one run
    return [run(arm, values + 1e-6 * seed, seed=seed) for arm, values in arms.items() for seed in (0, 1)]


def test_six_paired_differences_give_one_sentence_whichever_way_they_are_compared(runs):
    findings = find(runs)
    assert findings.verdicts == [SENTENCE]
    second, first = findings.arms
    test = findings.contrasts[0].test
    assert test.p == 0.125
    assert verdict(first, second, test, metric="Dice", claimed=False) == SENTENCE
    swapped = verdict(second, first, test.reversed(), metric="Dice", claimed=False)
    turned = SENTENCE.replace("a above scratch", "scratch below a")
    assert swapped == turned.replace("-0.0 … +4.5", "-4.5 … +0.0")


def test_an_obstacle_takes_the_place_of_a_claim(runs):
    findings = find(runs)
    second, first = findings.arms
    test = findings.contrasts[0].test
    obstacle = obstacle_to(first, second, test, differences=["fine-tuning lr: 1 (a); 2 (scratch)"])
    sentence = verdict(first, second, test, metric="Dice", claimed=False, obstacle=obstacle)
    assert sentence.endswith("no claim, because the arms are unequal (1 difference, listed at the top)")


def test_seeds_that_are_there_need_no_remedy(runs):
    assert seeds_remedy(find(runs).arms, "medmim compare --seeds 2") == ""
