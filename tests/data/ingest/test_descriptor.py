"""Descriptors: a user's own needs five lines, and every problem of a wrong one is named."""

import pytest

from medmim.data.ingest.descriptor import by_prefix, known_descriptors, load_descriptor
from medmim.errors import SettingsError, UsageError

OWN = "name: mine\nlayout:\n  image: ['images/(?P<subject>[^/]+)\\.png']\n  label: 'masks/{subject}.png'\n"


def test_own_and_shipped_descriptors_are_loaded(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN)
    assert load_descriptor(str(tmp_path / "mine.yaml")).layout.kind == "pairs"
    assert {load_descriptor(name).name for name in known_descriptors()} == set(known_descriptors())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (OWN.replace("<subject>", "<who>"), r"lacks the named groups \['subject'\]"),
        (OWN.replace("[^/]+)", "[^/]+"), "not a regular expression"),
        (OWN + "colour: red\n", "colour: Extra inputs"),
        ("name: [", "not valid YAML"),
    ],
)
def test_problems_are_named(tmp_path, text, match):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=match):
        load_descriptor(str(tmp_path / "mine.yaml"))


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="generic"):
        load_descriptor("generik")


def test_the_longest_prefix_counts():
    table = {"": 0, "brats": 1, "brats21": 2}
    assert [by_prefix(table, name) for name in ("brats21_a", "bratsx", "c")] == [2, 1, 0]
    assert by_prefix({"a": 1}, "b") is None
