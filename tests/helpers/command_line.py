"""A command line in this process, and the one line of its error."""

from click.testing import CliRunner

from medmim.cli import main


def medmim(*words):
    """Run a command line in this process."""
    return CliRunner().invoke(main, [str(word) for word in words])


def error_of(result):
    """Return the last line on stderr, after a check that there is no traceback."""
    assert "Traceback" not in result.output
    return result.stderr.strip().splitlines()[-1]


def assert_one_line_error(words, code, message):
    """Assert that a command ends with this exit code and this one-line error, without output."""
    result = medmim(*words)
    assert result.exit_code == code, result.output
    assert message in error_of(result)
    assert result.stdout == ""
