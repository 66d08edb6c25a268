"""The words of `medmim finetune` are checked before anything is read."""

import pytest
from click.testing import CliRunner
from command_line import assert_one_line_error

from medmim.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "1"], "expected TASK, such as segment in `medmim finetune segment`"),
        (["segment", "--seeds", "0,1", "--seed", "3"], "--seeds: expected neither --seed nor --resume"),
        (["segment", "--seeds", "0,1", "--set", "seed=3"], "--seeds: expected no --set seed=… besides"),
        (["segment", "--seeds", "a"], "--seeds: expected numbers from 0, such as 0,1,2; got 'a'"),
    ],
)
def test_wrong_words_are_one_line(words, said, tiny_dataset):
    given = ["--data", str(tiny_dataset), "--init", "scratch"]
    done = CliRunner().invoke(main, ["finetune", *words, *given])
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["finetune", "segmnt"], 2, "did you mean 'segment'?"),
        (["finetune", "segment"], 1, "no finished pretraining run on this dataset"),
        (["finetune", "segment", "--init", "zzz"], 1, "--init zzz: expected `scratch`"),
        (["finetune", "segment", "--init", "gone.safetensors"], 1, "--init gone.safetensors: no such file"),
        (
            ["finetune", "segment", "--init", "scratch", "--num-labelled", "2", "--label-fraction", "0.5"],
            2,
            "got both",
        ),
        (["finetune", "segment", "--init", "scratch", "--num-labelled", "99"], 1, "only 7 labelled patients"),
        (["finetune", "segment", "--resume", "--lr", "1"], 2, "leave out --lr"),
        (["finetune"], 2, "TASK"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_is_wrong_is_one_line_and_an_exit_code(tiny_dataset, home, words, code, message):
    assert_one_line_error([*words, "--data", tiny_dataset], code, message)
