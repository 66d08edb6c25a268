"""Ingestion on a Ray cluster of two nodes, one of which dies in the middle: the tree of a local run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from dicom_maker import write_series

from medmim.files import read_jsonl
from medmim.stages.ingest import ingest

SERIES = 12


def tree_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("dying", ["scan", "convert"])
def test_a_node_that_dies_costs_nothing(tmp_path: Path, cluster: tuple[Any, list[Any]], dying: str):
    made, nodes = cluster
    for number in range(SERIES):
        words = {"series": f"1.2.{number + 5}", "patient": f"P{number}", "study": f"1.3.{number}"}
        write_series(tmp_path / "in" / str(number), **words)
    (tmp_path / "in" / "note.txt").write_text("no scan")

    def progress(phase: str, done: int, total: int) -> None:
        if phase == dying and len(nodes) == 2 and done < total:
            made.remove_node(nodes.pop(), allow_graceful=False)

    options: dict[str, Any] = {"engine": "ray", "address": made.address, "progress": progress}
    ingest(tmp_path / "in", tmp_path / "spread", home=tmp_path / "home", **options)
    assert len(nodes) == 1
    ingest(tmp_path / "in", tmp_path / "local", home=tmp_path / "home", workers=1)
    assert tree_of(tmp_path / "spread") == tree_of(tmp_path / "local")
    rows = list(read_jsonl(tmp_path / "spread" / "ledger.jsonl"))
    assert len(rows) == 6 * SERIES + 1
    assert sum(row["fate"] == "accepted" for row in rows) == 6 * SERIES
