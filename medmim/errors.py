"""Errors that medmim raises on purpose.

MedmimError                     exit code 1: an error in the data or the run
├── DataError                   a file, a volume, a label or a dataset folder
├── ShapeError                  sizes that are incompatible
├── TransferError               weights that do not fit the network
├── RunError                    a run that cannot start, continue or be found
│   └── UnregisteredError       a training that finished, but whose model is not registered
└── UsageError                  exit code 2: wrong arguments on the command line or in a settings file
    ├── SettingsError           every problem of one settings file, in one message
    └── WrongTypeError          an argument of a Python function; also a TypeError

Stopped                         exit code 128 + signal: not an error; a training has saved its state

Each message is one line with what was expected, what was found, where, and what to do. Messages never quote
values read from a scan, because these may identify a patient.
"""

from __future__ import annotations

import difflib
import re
import signal
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

TRACEBACK = "Traceback (most recent call last)"
_IN_TRACEBACK = re.compile(r"^medmim\.[\w.]+: (.+)$", re.MULTILINE)  # the line of one of our errors


class MedmimError(Exception):
    """Base class of errors that the command line prints as one line and maps to an exit code."""

    exit_code = 1


class DataError(MedmimError):
    """A file, volume, label or dataset folder cannot be used; `reason` is its code in the ledger."""

    def __init__(self, message: str, *, reason: str = "unusable") -> None:
        super().__init__(message)
        self.reason = reason


class ShapeError(MedmimError):
    """Sizes are incompatible; the message names the nearest valid sizes."""


class TransferError(MedmimError):
    """Too few weights match the network; the message names the tensors."""


class RunError(MedmimError):
    """A run cannot start, continue or be found."""


class UnregisteredError(RunError):
    """A training finished with this result, but its model could not be registered."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class Stopped(BaseException):
    """A signal stopped the work. The exit code is 128 + the signal number.

    Args:
        what_next: what is kept and how to continue; by default of a training whose state was saved.
    """

    def __init__(
        self, signal_number: int, what_next: str = "the training state is saved: continue with `--resume`"
    ) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}; {what_next}")
        self.exit_code = 128 + signal_number


class UsageError(MedmimError):
    """Wrong arguments on the command line."""

    exit_code = 2


class SettingsError(UsageError):
    """Invalid settings; the message lists every problem."""


class WrongTypeError(UsageError, TypeError):
    """An argument of a Python function has a type without meaning there."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it, once each."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def message_of(error: BaseException) -> str:
    """Return the message of an error, without the traceback that PyTorch adds in the process of a worker."""
    text = str(error)
    copied = _IN_TRACEBACK.findall(text) if TRACEBACK in text else []
    return copied[-1] if copied else text


def raised_in(error: BaseException) -> str:
    """Return the innermost medmim module and line of a traceback, for reports without the message."""
    place = "an unknown place"
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith("medmim"):
            place = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def counted(number: int | float, singular: str, plural: str = "") -> str:
    """Return a number with its noun: `1 file`, `2 files`, or the given plural."""
    shown = number if isinstance(number, int) else f"{number:g}"
    return f"{shown} {singular if number == 1 else plural or f'{singular}s'}"


def size_text(sizes: Iterable[int]) -> str:
    """Return the sizes along the axes of an array, such as `64×64×24`."""
    return "×".join(map(str, sizes))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'mesh'?`, or the list of known words if none is similar.

    Names the first character of the word that is not ASCII, because it may look like a Latin letter.
    """
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not near:
        return f"; known: {', '.join(words)}"
    foreign = next((char for char in word if not char.isascii()), "")
    note = f" ('{foreign}' is a {unicodedata.name(foreign, 'control character').lower()})" if foreign else ""
    return f"; did you mean '{near[0]}'?{note}"


def refuse_unknown_options(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise for the first unknown option of `what` and suggest the most similar known one.

    Args:
        what: owner of the options, such as `mask 'mesh'`.
        options: names given by the user.
        known: accepted names.
    """
    taken = set(known)
    for option in options:
        if option not in taken:
            hint = did_you_mean(option, taken) if taken else "; it takes no options"
            raise UsageError(f"{what} does not take the option '{option}'{hint}")


def unknown_name(kind: str, word: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that is not in a table, with the most similar known name."""
    return UsageError(f"unknown {kind} '{word}'{did_you_mean(word, known)}")
