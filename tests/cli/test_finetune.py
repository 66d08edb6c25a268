"""The words of `medmim finetune` are checked before anything is read."""

import pytest
from click.testing import CliRunner

from medmim.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "1"], "expected TASK, such as segment in `medmim finetune segment`"),
        (["segment", "--seeds", "0,1", "--seed", "3"], "--seeds: expected neither --seed nor --resume"),
        (["segment", "--seeds", "a"], "--seeds: expected numbers from 0, such as 0,1,2; got 'a'"),
    ],
)
def test_wrong_words_are_one_line(words, said, tiny_dataset):
    given = ["--data", str(tiny_dataset), "--init", "scratch"]
    done = CliRunner().invoke(main, ["finetune", *words, *given])
    assert done.exit_code == 2
    assert said in done.stderr
