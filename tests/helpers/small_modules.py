"""The two Lightning modules around networks of a few channels."""

import torch

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.encoders import build_encoder
from medmim.heads import build_head
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.training.budget import Budget
from medmim.training.lightning_modules import FinetuningModule, PretrainingModule
from medmim.training.tasks.segmentation import Segmentation


def pretraining(dims=2, *, seed=0, ratio=0.5):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=[4, 8])
    method = build_method("spark", encoder=encoder, spatial_dims=dims, cell=(4,) * dims, decoder_width=8)
    mask = build_mask("random", ratio=ratio)
    settings = PretrainSettings(seed=seed, weight_decay=0.1)
    return PretrainingModule(method, mask, cell=(4,) * dims, settings=settings, budget=Budget(steps=4))


def finetuning(dims=2, **words):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=[4, 8])
    network = build_head("segment", encoder=encoder, spatial_dims=dims, classes=3)
    settings = FinetuneSettings(lr=1e-3, weight_decay=0.1, **words)
    return FinetuningModule(network, Segmentation().loss, settings=settings)
