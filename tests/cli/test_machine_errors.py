import errno

import click
import pytest
from click.testing import CliRunner

from medmim.cli import Medmim
from medmim.cli.machine_errors import explain, explain_exhausted
from medmim.errors import DataError


class OperationalError(Exception):
    """Named like the errors of sqlite3 and SQLAlchemy."""


class MlflowException(Exception):  # noqa: N818
    """Named like MLflow's error."""


TROUBLES = [
    (OSError(errno.EROFS, "Read-only file system"), "set MEDMIM_HOME"),
    (OSError(errno.EACCES, "Permission denied"), "set MEDMIM_HOME"),
    (OSError(errno.ENOSPC, "No space left on device"), "free space"),
    (OSError(errno.ENAMETOOLONG, "File name too long"), "shorter names"),
    (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    (OSError(errno.ENOLCK, "No locks available"), "local disk"),
    (OperationalError("(sqlite3.OperationalError) database is locked"), "wait until it ends"),
    (OperationalError("attempt to write a readonly database"), "make it writable"),
    (MlflowException("database disk image is malformed"), "doctor --repair"),
    (
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. out of shared memory"),
        "--workers 0.*--shm-size",
    ),
    (MemoryError(), "--batch-size"),
    (
        RuntimeError("unable to mmap 4096 bytes from file </torch_1>: Cannot allocate memory (12)"),
        "of memory",
    ),
    (RuntimeError("could not create a primitive"), "out of memory"),
    (RuntimeError("std::bad_alloc"), "out of memory"),
    (ImportError("_c.so: failed to map segment from shared object"), "out of memory"),
    (ValueError("unknown file extension: .webp"), "out of memory"),
    (RuntimeError("can't start new thread"), "ulimit -u"),
    (MlflowException("Run with id=7 not found\n[SQL: SELECT 1]"), r"MlflowException: Run .*`medmim doctor`"),
]


@pytest.mark.parametrize(("error", "remedy"), TROUBLES, ids=lambda value: str(value)[:30])
def test_failures_of_the_machine_are_one_line_with_a_remedy(error, remedy):
    line = explain(error)
    assert line is not None
    assert "\n" not in line
    assert pytest.raises(ValueError, match=remedy).matches(ValueError(line))


def test_the_cause_of_an_error_is_found():
    error = RuntimeError("while saving")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "the disk is full" in explain(error)


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("shape mismatch"), OSError("unknown")])
def test_other_errors_are_not_explained(error):
    assert explain(error) is None


def test_a_dataset_is_not_blamed_for_the_limit_of_open_files():
    error = DataError("dataset cannot be read (OSError): run `medmim ingest` again")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert "ulimit -n" in explain_exhausted(error)
    error.__cause__ = OSError(errno.ENOENT, "No such file")
    assert explain_exhausted(error) is None


class OneCommand(Medmim):
    """The command line with a command that meets a read-only disk."""

    def get_command(self, ctx, name):
        @click.command(name)
        def command():
            raise OSError(errno.EROFS, "Read-only file system", "/home/SENTINEL")

        return command


def test_the_command_line_prints_the_remedy_and_exits_with_1():
    result = CliRunner().invoke(OneCommand("medmim"), ["verify"])
    assert result.exit_code == 1
    assert result.stderr.startswith("medmim: a folder is read-only: ")
    assert "SENTINEL" not in result.stderr
