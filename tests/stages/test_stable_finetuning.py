"""Fine-tuning a deep network after SparK is stable: nothing throws the loss back; `pytest -rP` has figures.

Statistics of batch norm come from visible voxels in pretraining and from all in fine-tuning; warm-up and
clipping, both on by default, bring the network over.
"""

import math
import sys

import pytest
import tiny

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.stages.finetune.run import finetune
from medmim.stages.pretrain.run import pretrain
from medmim.tracking.mlflow_store import Store

DEEP = {
    **tiny.TINY,
    "dims": 2,
    "size": (32,),
    "encoder": "resnet50",
    "encoder_options": {"widths": [8, 8, 16, 16], "stem_stride": 1},
    "batch_size": 4,
    "num_evaluations": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("lr", [1e-3, 4e-3])
def test_a_resnet50_learns_without_a_spike(tiny_dataset, home, lr):
    pretrained = pretrain(PretrainSettings(data=tiny_dataset, steps=60, **DEEP), home=home)
    words = {"data": tiny_dataset, "init": pretrained.run_id, "steps": 120, "lr": lr, **DEEP}
    tuned = finetune(FinetuneSettings(**words), home=home)
    history = Store(home).client.get_metric_history(tuned.run_id, "train/loss")
    losses = [point.value for point in history]
    sys.stdout.write(f"lr {lr:g}: {' '.join(f'{loss:.3f}' for loss in losses)}\n")
    assert all(math.isfinite(loss) for loss in losses)
    lowest = losses[0]
    for loss in losses[1:]:
        assert loss < lowest + 0.1 * losses[0]  # means of ten steps, each on other patches
        lowest = min(lowest, loss)
    assert losses[-1] < 0.7 * losses[0]
