"""`medmim ingest --dry-run`: what would become of a folder, from headers alone; nothing is written."""

from __future__ import annotations

import secrets
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from medmim.data.bench import Bench, Progress, Wishes
from medmim.data.declared import declared_in
from medmim.data.ledger import Ledger
from medmim.data.preview import Preview, preview_of
from medmim.data.privacy import SECRET_BYTES, Keys
from medmim.data.sandbox import for_scans
from medmim.data.sources import find_files
from medmim.stages.ingest import scan


def preview(source: Path, out: Path, *, progress: Progress | None = None, **wishes: Any) -> Preview:
    """Look at every file below `source` and say what each series would become.

    Pixels are not read, so a volume of this table can still be refused by the checks of its conversion.

    Args:
        source: folder with scans; it is only read.
        out: the dataset folder that is meant; neither it nor the project's key is made.
        progress: told the phase, and how much of it is done.
        wishes: fields of `Wishes`.

    Raises:
        UsageError: for folders that are missing or lie in each other, or an unknown layout.
        DataError: if there is no file, or the named layout finds no image.
    """
    wanted = Wishes(**wishes)
    sources = find_files(source, out, wanted.labels)
    paths = {one.number: one.path for one in sources.entries if one.reason is None}
    keys = Keys(secrets.token_bytes(SECRET_BYTES))
    with tempfile.TemporaryDirectory(prefix="medmim-") as staging, for_scans(wanted.workers) as sandbox:
        bench = Bench(keys, Ledger({}), Path(staging), sandbox, progress, wanted)
        seen = scan(bench, paths)
        read = partial(declared_in, bench)
        return preview_of(seen, paths, source=sources.source, layout=wanted.layout, read=read)
