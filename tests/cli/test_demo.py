"""`medmim demo`: arguments."""

from command_line import assert_one_line_error


def test_an_unusable_number_of_patients_is_rejected():
    assert_one_line_error(["demo", "--patients", "3"], 2, "--patients")
