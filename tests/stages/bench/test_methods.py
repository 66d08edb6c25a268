"""`medmim bench --methods`: every method is timed; figures are checked for sense, never for speed."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.cli.bench import method_time_lines
from medmim.errors import UsageError
from medmim.methods import METHODS
from medmim.stages.bench.methods import bench_methods, default_trials


@pytest.mark.parametrize("dims", [2, 3])
def test_every_method_has_a_trial_on_its_own_encoder(dims):
    trials = default_trials(dims, size=(32,), batch=2)
    assert [trial.method for trial in trials] == list(METHODS)
    assert {trial.encoder for trial in trials} == {"vit", "resnet18" if dims == 2 else "dynunet"}
    assert {trial.size for trial in trials} == {(32,) * dims}


def test_a_step_is_compared_with_a_supervised_one():
    trials = [
        replace(trial, encoder="dynunet")
        for trial in default_trials(2, size=(16,), batch=2)
        if trial.method in ("spark", "mask_any_net", "contrastive")
    ]
    result = bench_methods(trials, runs=1, memory=False)
    assert len(result.rows) == 3
    for row in result.rows:
        assert row.against_supervised == pytest.approx(row.milliseconds / row.supervised_milliseconds)
        assert row.peak_mb is None
        assert row.parameters > row.encoder_parameters
    assert len(method_time_lines(result)) == 4 + 3
    json.dumps(result.as_json())


def test_memory_is_measured_in_processes_of_their_own():
    trials = [trial for trial in default_trials(2, size=(32,), batch=2) if trial.method == "simmim"]
    [row] = bench_methods(trials, runs=1).rows
    assert row.peak_mb > 0
    assert row.supervised_peak_mb > 0


def test_a_method_refuses_an_encoder_that_it_cannot_train():
    with pytest.raises(UsageError, match="needs an encoder"):
        bench_methods(default_trials(2, encoder="dynunet", size=(16,), batch=1), runs=1, memory=False)


@pytest.mark.parametrize(
    "words", [["--precision", "bf16"], ["--part", "step"], ["--ratio", "0.5", "--ratio", "0.7"]]
)
def test_words_of_the_other_table_are_refused(words):
    result = CliRunner().invoke(main, ["bench", "--methods", *words])
    assert result.exit_code == 2
    assert "--methods: expected one --ratio or none" in result.output
