"""Keys that stand for patients, studies and files: an HMAC with a secret that stays with the project.

Equal text gives equal keys within one project, so a patient's scans stay together; without the secret nobody
can test whether a known name is in a dataset.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from medmim import files
from medmim.errors import DataError

SECRET_BYTES = 32
KEY_DIGITS = 16


class Keys:
    """Turns identifiers into keys with one project's secret; the secret never leaves the object."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Keys(secret hidden)"

    @classmethod
    def load_or_create(cls, path: Path) -> Keys:
        """Return the keys of the secret at `path`; a new random secret is written there when none is.

        Args:
            path: the project's secret, 32 bytes that only its owner may read.

        Raises:
            DataError: if the file is open to others, is no regular file or has another length.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            _create_secret(path)
        return cls(_read_secret(path))

    def key(self, kind: str, text: str) -> str:
        """Return 16 hexadecimal digits for `text`; the same text of another kind gives another key.

        Args:
            kind: what the text identifies, such as "subject" or "file".
            text: the identifier as the source has it; undecodable file names are allowed.
        """
        message = f"{kind}\0{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:KEY_DIGITS]


def _create_secret(path: Path) -> None:
    """Write a new secret whole or not at all; of two processes that try, one does."""
    with files.alone(path.parent):
        if not os.path.lexists(path):
            files.write_bytes(path, secrets.token_bytes(SECRET_BYTES), mode=0o600)


def _read_secret(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise DataError(
            f"key file '{path}' cannot be opened ({type(error).__name__}): expected a regular file that you "
            f"may read; make it yours and run `chmod 600 {path}`",
            reason="bad_key",
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(
            f"key file '{path}': expected a regular file, got something else; name another", reason="bad_key"
        )
    with os.fdopen(handle, "rb") as stream:
        mode = os.fstat(handle).st_mode & 0o777
        if mode & 0o077:
            raise DataError(
                f"key file '{path}' is open to other users: expected permissions 600, got {mode:o}; "
                f"run `chmod 600 {path}`",
                reason="key_exposed",
            )
        secret = stream.read(SECRET_BYTES + 1)
    if len(secret) != SECRET_BYTES:
        raise DataError(
            f"key file '{path}' is damaged: expected {SECRET_BYTES} bytes, got another length; restore it "
            "from a copy (then `chmod 600` it), or remove it to start a new project",
            reason="bad_key",
        )
    return secret
