"""Every error that medmim raises on purpose.

MedmimError                     exit code 1: the data or the run is at fault
├── DataError                   a file, a volume, a label or a dataset folder
├── ShapeError                  sizes that do not fit together
├── TransferError               weights that do not fit the network
├── RunError                    a run that cannot start, continue or be found
└── UsageError                  exit code 2: the words on the command line or in a settings file
    └── SettingsError           all problems of one settings file, in one message

Stopped                         exit code 128 + signal: no error; the state is saved

A message says in one line what was expected, what was got, where, and what to do. It never quotes values
read from a scan: those may identify a patient.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MedmimError(Exception):
    """Base of all errors that the command line turns into one line and an exit code."""

    exit_code = 1


class DataError(MedmimError):
    """A file, volume, label or dataset folder cannot be used; `reason` is its code in the ledger."""

    def __init__(self, message: str, *, reason: str = "unusable") -> None:
        super().__init__(message)
        self.reason = reason


class ShapeError(MedmimError):
    """Sizes do not fit together; the message names the nearest sizes that do."""


class TransferError(MedmimError):
    """Too few weights found their place; the message names the tensors."""


class RunError(MedmimError):
    """A run cannot start, continue or be found."""


class Stopped(BaseException):
    """A signal asked a training to stop; its state is saved. The exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted, the state of training is saved; `--resume` continues it")
        self.exit_code = 128 + signal_number


class UsageError(MedmimError):
    """Wrong words on the command line."""

    exit_code = 2


class SettingsError(UsageError):
    """Wrong settings; the message lists every problem."""


def raised_in(error: BaseException) -> str:
    """Return the innermost place in medmim that an exception passed: all that may be told of a message."""
    place = "an unknown place"
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith("medmim"):
            place = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'mesh'?` or, without a near word, the list of known ones."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(words)}"


def refuse_unknown_options(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise for the first of `options` that `what` does not take, with the nearest it does take.

    Args:
        what: whose options they are, such as `mask 'mesh'`.
        options: names given by the user.
        known: names that it takes.

    Raises:
        UsageError: for an unknown option.
    """
    taken = set(known)
    for option in options:
        if option not in taken:
            hint = did_you_mean(option, taken) if taken else "; it takes no options"
            raise UsageError(f"{what} does not take the option '{option}'{hint}")


def unknown_name(kind: str, word: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that is in no table, with the nearest known one."""
    return UsageError(f"unknown {kind} '{word}'{did_you_mean(word, known)}")
