"""Volumes and networks in which a value that is not finite was planted."""

import torch

from medmim.data.dataset.manifest import read_dataset


class NanGradient(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("nan")


def planted(module, place, steps):
    """Let a module meet a NaN at some of its steps."""
    compute, scores = module.training_step, module.network.score.forward

    def score(features):
        given = scores(features)
        return given * float("nan") if place == "layer" and module.global_step in steps else given

    def training_step(batch, batch_idx):
        if module.global_step not in steps:
            return compute(batch, batch_idx)
        if place == "voxel":
            batch["image"][1, 0, 3, 3, 3] = float("nan")
        loss = compute(batch, batch_idx)
        if place == "loss":
            return loss * float("inf")
        return NanGradient.apply(loss) if place == "gradient" else loss

    module.network.score.forward = score
    module.training_step = training_step
    return module


def volumes_of(made, step):
    """The ids of the volumes in the batch of a step, numbered from 0."""
    from medmim.randomness import numpy_stream

    rows = read_dataset(made.dataset).volumes
    ids = []
    for number in (2 * step, 2 * step + 1):
        epoch, place = divmod(number, len(rows))
        ids.append(rows[int(numpy_stream(0, "order", epoch).permutation(len(rows))[place])].id)
    return ids
