"""Answers of a worker: the value of a call, or the reason of its failure and whether the worker ends."""

from __future__ import annotations

import errno

import pytest

from medmim.data.ingest.scan import ScannedFile
from medmim.data.sandbox.sandbox_worker import as_json, attempt
from medmim.errors import DataError
from medmim.files import WriteError

FAILURES = {
    "a refusal": (DataError("no", reason="truncated"), {"reason": "truncated"}),
    "a full disk": (OSError(errno.ENOSPC, "full"), {"reason": "cannot_write"}),
    "a file that cannot be written": (WriteError(errno.EACCES, "denied"), {"reason": "cannot_write"}),
    "a file beyond the limit": (OSError(errno.EFBIG, "large"), {"reason": "file_limit"}),
    "a file that cannot be read": (OSError(errno.EIO, "read"), {"reason": "parser_error"}),
    "a faulty parser": (ValueError("SENTINEL"), {"reason": "parser_error"}),
    "no memory": (MemoryError(), {"reason": "memory", "ending": True}),
    "a panic": (BaseException("SENTINEL"), {"reason": "parser_crash", "ending": True}),
}


def fail(name):
    raise FAILURES[name][0]


@pytest.mark.parametrize("name", FAILURES)
def test_every_failure_has_a_reason_without_text_of_the_file(name):
    assert attempt(f"{__name__}:fail", {"name": name}) == FAILURES[name][1]


def test_a_call_returns_its_value():
    assert attempt("json:dumps", {"obj": [1]}) == {"value": "[1]"}


def test_typed_results_travel_as_json():
    assert as_json(ScannedFile(nifti=True))["nifti"] is True
