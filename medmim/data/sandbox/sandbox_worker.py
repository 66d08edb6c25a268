"""The worker process: runs one task after another within limits, until the pipe closes."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

from pydantic import BaseModel

from medmim.errors import DataError
from medmim.files import WriteError
from medmim.operating_system import file_limit_is_hard, limit

CANNOT_WRITE, FILE_LIMIT = "cannot_write", "file_limit"
_FULL = (errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", None))  # Windows has no quota
Task = Mapping[str, Any]


def serve(connection: Connection) -> None:
    """Answer tasks from a pipe until it closes; a worker whose state may be damaged ends itself."""
    limit("CORE", 0)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    connection.send_bytes(json.dumps({"pid": os.getpid()}).encode())
    for request in _requests(connection):
        limit("CPU", int(time.process_time()) + 1 + request["cpu_s"])
        limit("AS", request["memory_bytes"])
        limit("FSIZE", request["file_bytes"])
        answer = attempt(request["call"], request["arguments"])
        connection.send_bytes(json.dumps(answer, default=as_json).encode())
        if answer.get("ending"):
            return


def attempt(call: str, arguments: Task) -> dict[str, Any]:
    """Call `module:function`; return the answer, with `ending` if this process cannot be used further."""
    module, _, name = call.partition(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(**arguments)}
    except DataError as error:
        return {"reason": error.reason}
    except MemoryError:
        return {"reason": "memory", "ending": True}
    except OSError as error:
        return {"reason": _reason_of(error)}
    except Exception:
        return {"reason": "parser_error"}
    except BaseException:  # panics of Rust codecs are not subclasses of Exception
        return {"reason": "parser_crash", "ending": True}


def as_json(value: BaseModel) -> Any:
    """Return the JSON form of a typed task or result."""
    return value.model_dump(mode="json")


def _reason_of(error: OSError) -> str:
    """Distinguish a full or read-only disk, and a limit of this machine, from a file that is too large."""
    if error.errno == errno.EFBIG:
        return FILE_LIMIT if file_limit_is_hard() else "too_large"  # less than a task may write
    full = isinstance(error, WriteError) or error.errno in _FULL
    return CANNOT_WRITE if full else "parser_error"


def _requests(connection: Connection) -> Iterator[dict[str, Any]]:
    while True:
        try:
            yield json.loads(connection.recv_bytes())
        except EOFError:
            return
