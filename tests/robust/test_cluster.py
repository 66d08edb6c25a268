"""Ingestion on a Ray cluster of two nodes, one of which dies in the middle: the tree of a local run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dicom_maker import write_series

from medmim.files import read_jsonl
from medmim.stages.ingest import ingest

SERIES = 12


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any]]]:
    """A head without processors and two nodes with one each, all on the loopback interface."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    utils = pytest.importorskip("ray.cluster_utils")
    constants = pytest.importorskip("ray._private.ray_constants")
    monkeypatch.setattr(
        constants, "ENABLE_RAY_CLUSTER", False
    )  # no other machines: takes loopback for its own
    options = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    made = utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **options}
    )
    try:
        yield made, [made.add_node(num_cpus=1, **options) for _ in range(2)]
    finally:
        made.shutdown()


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
