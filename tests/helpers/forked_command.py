"""Commands in a fork of this process, which can limit itself or become another user without harm."""

import json
import os
import traceback

from click.testing import CliRunner
from forks import fork


def run_forked(words, home, before=None, *, fork=fork):
    """Run a command, or call a function, in a fork.

    Args:
        words: arguments of `medmim`, or a function that takes the home folder.
        home: `MEDMIM_HOME`.
        before: called in the fork first.
        fork: makes the fork.

    Returns the exit code and the last line of its messages; code -1 where it ended otherwise.
    """
    from medmim.cli import main

    reading, writing = os.pipe()
    child = fork()
    if child:
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as stream:
            text = stream.read()
        status = os.waitpid(child, 0)[1]
        return tuple(json.loads(text)) if text else (-1, f"the process ended with status {status}")
    os.environ["MEDMIM_HOME"] = str(home)
    try:
        if before:
            before()
        found = _called(words, home) if callable(words) else _invoked(main, words)
    except BaseException:
        found = -1, traceback.format_exc().splitlines()[-1]
    os.write(writing, json.dumps(found).encode())
    os._exit(0)


def _invoked(main, words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    lines = result.stderr.strip().splitlines() or [""]
    return (result.exit_code if result.exit_code in (0, 1, 2) else -1), lines[-1]


def _called(function, home):
    """Call a function that takes the place of a command, with the errors that the command line explains."""
    from medmim.cli.machine_errors import explain
    from medmim.errors import MedmimError

    try:
        function(home)
    except MedmimError as error:
        return error.exit_code, f"medmim: {error}"
    except Exception as error:
        if explain(error) is None:
            raise
        return 1, f"medmim: {explain(error)}"
    return 0, ""
