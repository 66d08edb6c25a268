import re

from medmim.tracking.mlflow_recorder import stored_names
from medmim.tracking.ui_views import color_of


def test_keys_that_mlflow_accepts_are_kept():
    keys = ["test/dice", "val/hd95 mm", "test/f1_a-b.c:d"]
    assert stored_names(keys) == dict(zip(keys, keys, strict=True))


def test_other_characters_become_underscores():
    assert stored_names(["test/f1_<5 mm"]) == {"test/f1_<5 mm": "test/f1__5 mm"}
    assert stored_names(["test/a/b"]) == {"test/a/b": "test/a_b"}


def test_keys_that_become_equal_are_numbered():
    assert stored_names(["t/a<", "t/a>", "t/a_"]) == {"t/a<": "t/a__2", "t/a>": "t/a__3", "t/a_": "t/a_"}


def test_long_keys_are_truncated():
    assert len(stored_names(["t/" + "x" * 300])["t/" + "x" * 300]) == 240


def test_runs_of_an_arm_share_a_color():
    assert re.fullmatch("#[0-9a-f]{6}", color_of("mae"))
    assert color_of("mae") == color_of("mae") != color_of("spark")
