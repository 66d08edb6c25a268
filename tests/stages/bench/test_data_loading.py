import json

import pytest

from medmim.cli.bench import feeding_lines
from medmim.stages.bench.data_loading import bench_data_loading


@pytest.mark.filterwarnings("error:Corrupt cache file")
def test_loaders_are_timed_side_by_side(tiny_dataset):
    fed = bench_data_loading(tiny_dataset, dims=3, batch_size=2, workers=0)
    assert [row.name for row in fed.rows] == ["medmim", "MONAI CacheDataset", "MONAI PersistentDataset"]
    assert all(row.first > 0 and row.later > 0 for row in fed.rows)
    assert 0 <= fed.wait_share < 1
    assert fed.volumes == 7
    json.dumps(fed.as_json())
    lines = feeding_lines(fed)
    assert lines[0] == "patches of 32×16×16 from 7 volumes, batches of 2, 0 workers"
    assert (
        bench_data_loading(tiny_dataset, dims=3, batch_size=8, workers=0).volumes == 7
    )  # fewer than a batch
    assert "MONAI PersistentDataset" in "\n".join(lines)
