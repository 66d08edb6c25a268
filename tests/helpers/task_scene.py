"""The data, context and network with which tests run a task without a training."""

import torch

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset, read_dataset
from medmim.data.loading.preprocess import VolumeLoader
from medmim.encoders import build_encoder
from medmim.heads import build_head
from medmim.training.tasks.base import EvaluationContext
from medmim.training.tasks.registry import prepare_task


def scene_for(task, root, dims):
    dataset = read_dataset(root)
    settings, rows = FinetuneSettings(data=root, size=(16,)), dataset.volumes
    if task.axis == "regression":
        rows = tuple(row.model_copy(update={"target": f"{n}.5"}) for n, row in enumerate(rows))
    if task.metric == "quadratic_kappa":
        rows = tuple(row.model_copy(update={"target": str(n % 3)}) for n, row in enumerate(rows))
        dataset = Dataset(root, dataset.info, rows)
    if task.metric == "macro_auroc":
        values = ({"calm": 1.0, "odd": 0.0}, {"calm": 0.0, "odd": 1.0})
        rows = tuple(row.model_copy(update={"targets": values[n % 2]}) for n, row in enumerate(rows))
    plan, names = prepare_task(
        task,
        settings,
        dataset,
        rows,
        dims=dims,
        multiple=(4,) * dims,
        home=None,
        log=lambda _: None,
    )
    volumes = VolumeLoader(root, plan, cache_gb=1.0)
    return rows, EvaluationContext(volumes, names, "fp32", {})


def network_for(name, task, volumes, scene, lines=None):
    torch.manual_seed(0)
    dims = scene.plan.dims
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=[4, 8, 8])
    head = task.head(encoder, volumes, scene, (lines if lines is not None else []).append)
    return build_head(name, encoder=encoder, spatial_dims=dims, classes=max(scene.names) + 1, **head)
