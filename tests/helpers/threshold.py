"""A model whose truth is known: a network with weights set by hand that thresholds the prepared image."""

import torch
from torch import nn

from medmim.config.own_code import trust
from medmim.encoders import build_encoder
from medmim.heads import build_head
from medmim.training.weights import save_weights

SHARP = 2.0  # soft, so that probabilities can be interpolated


class Same(nn.Module):
    """One map, the image itself."""

    def forward(self, images):
        return [images]


def same(spatial_dims, in_channels):
    """What `threshold:same` names as an encoder."""
    return Same()


def write_model(folder, threshold, *, dims=3, size=16, spacing_mm=None, options=(), **more):
    """Write the weights of a segmenter that marks what is brighter than `threshold` (normalised).

    threshold: one for each region, for a model of regions.
    """
    trust(["threshold:same"])
    encoder = build_encoder("threshold:same", spatial_dims=dims, in_channels=1)
    levels = dict(enumerate(threshold)) if isinstance(threshold, tuple) else {1: threshold}
    network = build_head("segment", encoder=encoder, spatial_dims=dims, classes=max(levels) + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for channel, level in levels.items():
            network.score.weight[channel] = SHARP
            network.score.bias[channel] = -SHARP * level
    description = {
        "kind": "segment",
        "arm": "threshold",
        "run_id": "",
        "spatial_dims": dims,
        "in_channels": 1,
        "encoder": "threshold:same",
        "encoder_options": {},
        "size": [size] * dims,
        "spacing_mm": spacing_mm,
        "view": "patch",
        "label_names": {"1": "ball"},
        "head": {"deep_supervision": 0},
        "task_options": dict(options),
        "chosen": {},
        **more,
    }
    return save_weights(folder, network.state_dict(), description)


# of a model of nested regions, whose outer class has a higher code than its inner one
NESTED = {
    "label_names": {"1": "core", "2": "rim"},
    "label_codes": [9, 4],
    "label_classes": [[9, 1], [4, 2]],
    "regions": [["whole", [1, 2]], ["inner", [2]]],
    "task_options": {"regions": [["whole", [9, 4]], ["inner", [4]]]},
}
