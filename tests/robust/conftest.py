"""What the tests of robustness share."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def source(tmp_path):
    from small_source import write_source

    return write_source(tmp_path / "in")


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
