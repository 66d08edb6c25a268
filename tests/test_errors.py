"""The exception tree and the words it uses."""

import inspect
import pickle

import pytest

from medmim import errors
from medmim.errors import (
    DataError,
    MedmimError,
    RunError,
    SettingsError,
    ShapeError,
    TransferError,
    UsageError,
    counted,
    did_you_mean,
    message_of,
    refuse_unknown_options,
    size_text,
    unknown_name,
)


@pytest.mark.parametrize("kind", [DataError, ShapeError, TransferError, RunError])
def test_the_data_and_the_run_end_with_one(kind):
    assert issubclass(kind, MedmimError)
    assert kind.exit_code == 1


@pytest.mark.parametrize("kind", [UsageError, SettingsError])
def test_usage_ends_with_two(kind):
    assert issubclass(kind, UsageError)
    assert kind.exit_code == 2


def test_the_tree_in_the_docstring_is_the_tree():
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, MedmimError)
    }
    opening = {line.strip("├└─│ ").split(" ")[0] for line in errors.__doc__.splitlines()}
    assert {word for word in opening if word.endswith("Error")} == classes


def test_a_data_error_carries_its_reason():
    assert DataError("broken").reason == "unusable"
    assert DataError("broken", reason="truncated").reason == "truncated"


def test_a_data_error_survives_the_way_between_processes():
    copy = pickle.loads(pickle.dumps(DataError("broken", reason="truncated")))
    assert (str(copy), copy.reason) == ("broken", "truncated")


def test_did_you_mean_names_the_nearest_or_all():
    assert did_you_mean("msh", ["mesh", "random"]) == "; did you mean 'mesh'?"
    assert did_you_mean("m\u0435sh", ["mesh"]).endswith("'mesh'? ('\u0435' is a cyrillic small letter ie)")
    assert did_you_mean("zzz", ["random", "mesh"]) == "; known: mesh, random"


def test_unknown_name_is_one_line_with_kind_and_word():
    error = unknown_name("mask", "msh", {"mesh": 1, "random": 2})
    assert isinstance(error, UsageError)
    assert str(error) == "unknown mask 'msh'; did you mean 'mesh'?"


def test_known_options_pass():
    refuse_unknown_options("mask 'm'", ["width"], ["width", "depth"])
    refuse_unknown_options("mask 'm'", [], [])


@pytest.mark.parametrize(
    ("known", "hint"),
    [
        (["width", "depth"], r"; did you mean 'width'\?"),
        (["depth"], "; known: depth"),
        ([], "; it takes no options"),
    ],
)
def test_an_unknown_option_is_named_with_what_is_taken(known, hint):
    with pytest.raises(UsageError, match=f"^mask 'm' does not take the option 'widht'{hint}$"):
        refuse_unknown_options("mask 'm'", ["widht"], known)


def test_the_message_of_an_error_in_a_worker_is_one_line():
    copied = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    copied += "  File x.py, line 3, in f\nmedmim.errors.DataError: volume 3 is damaged: restore it\n"
    assert message_of(DataError(copied)) == "volume 3 is damaged: restore it"
    assert message_of(DataError("two\nlines")) == "two\nlines"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (counted(1, "file"), "1 file"),
        (counted(0, "file"), "0 files"),
        (counted(2, "box", "boxes"), "2 boxes"),
        (counted(0.5, "minute"), "0.5 minutes"),
    ],
)
def test_nouns_agree_with_their_number(text, expected):
    assert text == expected


def test_sizes_are_joined_by_the_multiplication_sign():
    assert size_text((64, 64, 24)) == "64×64×24"
    assert size_text([5]) == "5"
