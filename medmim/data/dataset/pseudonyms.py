"""Pseudonyms of patients, studies and files: HMACs with a secret that stays with the project.

Equal identifiers get equal keys within a project, so the scans of a patient stay together. Without the secret
nobody can test whether a known name is in a dataset.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from medmim import files
from medmim.errors import DataError
from medmim.operating_system import has_permission_bits, read_flags

KEY_FILE = "project.key"  # in the home folder
SECRET_BYTES = 32
KEY_DIGITS = 16
PERSON_FIELDS = ("PatientName", "PatientBirthDate", "PatientSex")
_NO_SEX = ("o", "u")  # other or unknown, as anonymisers write
_LATIN = str.maketrans("авеѕіјкмнорстухοαερτυνικ", "abesijkmhopctyxoaeptuvik")
_WORDS = re.compile(r"\d+|[^\W\d_]+")
_BETWEEN_LETTERS = re.compile(r"(?<!\d) | (?!\d)")


class Keys:
    """Converts identifiers to keys with the secret of one project; the secret is never exposed."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Keys(secret hidden)"

    @classmethod
    def load_or_create(cls, path: Path) -> Keys:
        """Load the secret at `path`, or create a random one there.

        Args:
            path: file of 32 bytes that only its owner may read.

        Raises:
            DataError: if other users can access the file, or it is not a regular file of 32 bytes.
        """
        files.private_folder(path.parent)
        if not os.path.lexists(path):
            with files.lock(path.parent):  # of two processes, one creates the secret
                if not os.path.lexists(path):
                    files.write_bytes(path, secrets.token_bytes(SECRET_BYTES), mode=0o600)
        return cls(_read_secret(path))

    def scoped(self, source: str) -> Keys:
        """Return keys of one source, so that equal file names of two sources get different keys."""
        return Keys(hmac.new(self._secret, f"source\0{source}".encode(), hashlib.sha256).digest())

    def loose_key(self, patient: str) -> str | None:
        """Return a key that is equal for look-alike patients, such as pat-7 and PAT-07.

        Compatibility forms, Cyrillic and Greek letters that look Latin, case, punctuation and leading zeros
        are ignored. None for an identifier of punctuation only.
        """
        text = unicodedata.normalize("NFKC", patient).casefold().translate(_LATIN)
        words = [word.lstrip("0") or "0" if word.isdecimal() else word for word in _WORDS.findall(text)]
        loose = _BETWEEN_LETTERS.sub("", " ".join(words))
        return self.key("loose subject", loose) if loose else None

    def key(self, kind: str, text: str) -> str:
        """Return 16 hexadecimal digits for `text`; the same text of another kind gets another key.

        Args:
            kind: what the text identifies, such as "subject" or "file".
            text: the identifier in the source; file names that cannot be decoded are allowed.
        """
        message = f"{kind}\0{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:KEY_DIGITS]


def person_digests(texts: Sequence[str], secret: str) -> tuple[str, ...]:
    """Return keyed hashes of the texts of `PERSON_FIELDS`, or "" for an empty text.

    Equal names in another case, order or punctuation get equal hashes.
    """
    digests = []
    for field, text in zip(PERSON_FIELDS, texts, strict=True):
        words = sorted(re.findall(r"\w+", text.casefold()))
        known = words and not (field == "PatientSex" and words[0] in _NO_SEX)
        message = f"{field}\0{' '.join(words)}".encode("utf-8", "surrogateescape")
        digests.append(
            hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()[:KEY_DIGITS] if known else ""
        )
    return tuple(digests)


def _read_secret(path: Path) -> bytes:
    try:
        handle = os.open(path, read_flags(follow_links=False))
    except OSError as error:
        raise DataError(
            f"key file '{path}' cannot be opened ({type(error).__name__}): expected a regular file that you "
            f"may read; take ownership of it and run `chmod 600 {path}`",
            reason="bad_key",
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(
            f"key file '{path}' is not a regular file: expected one; choose another path", reason="bad_key"
        )
    with os.fdopen(handle, "rb") as stream:
        mode = os.fstat(handle).st_mode & 0o777
        secret = stream.read(SECRET_BYTES + 1)
    if mode & 0o077 and has_permission_bits():
        raise DataError(
            f"key file '{path}' is accessible to other users: expected permissions 600, got {mode:o}; "
            f"run `chmod 600 {path}`",
            reason="key_exposed",
        )
    if len(secret) != SECRET_BYTES:
        raise DataError(
            f"key file '{path}' is damaged: expected {SECRET_BYTES} bytes, got another length; restore it "
            "from a backup (then run `chmod 600` on it), or remove it to start a new project",
            reason="bad_key",
        )
    return secret
