"""Embeddings of datasets."""

import numpy as np
import pandas as pd
import pytest
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.preprocess import preprocess
from medmim.errors import UsageError
from medmim.stages.embed import embed
from medmim.training.tasks.trained_model import load_trained_encoder


def test_each_image_gets_the_means_of_the_maps_over_its_windows(study, tmp_path):
    out = tmp_path / "features.parquet"
    made = embed(data=study.data, home=study.home, model=study.pretrained.run_id[:10], out=out)
    table, dataset = pd.read_parquet(out), read_dataset(study.data)
    assert table["key"].tolist() == [volume.id for volume in dataset.volumes]
    assert table["split"].tolist() == [volume.split for volume in dataset.volumes]
    assert table["class"].tolist() == [volume.target for volume in dataset.volumes]
    trained = load_trained_encoder(study.pretrained.checkpoint)
    image = torch.as_tensor(preprocess(dataset.root, dataset.volumes[0], trained.plan).image)
    windows = torch.stack([image[:, :16], image[:, 4:]])  # 20 voxels in windows of 16
    with torch.no_grad():
        maps = trained.encoder(windows)
    expected = torch.cat([one.flatten(2).mean(dim=-1) for one in maps], dim=1).mean(dim=0)
    np.testing.assert_allclose(table["vector"][0], expected.numpy(), rtol=0, atol=1e-5)
    assert (made.images, made.width, made.failures) == (10, len(expected), {})
    assert made.picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"features\.parquet' exists"):
        embed(data=study.data, home=study.home, model=study.pretrained.run_id, out=out)
