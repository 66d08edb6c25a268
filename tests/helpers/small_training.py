"""A training of a few steps, uninterrupted or stopped and resumed."""

from types import SimpleNamespace

import tiny
import torch

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.patches import PatchDataset, segmentation_patches
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.heads import build_head
from medmim.tracking.recorder_interface import MemoryRecorder
from medmim.training.budget import budget_for
from medmim.training.callbacks import ValidationCallback
from medmim.training.lightning_modules import FinetuningModule
from medmim.training.tasks.segmentation import Segmentation
from medmim.training.trainer import fit

PLAN = PreprocessingPlan(3, (8, 8, 8))


WORDS = {"steps": 6, "num_evaluations": 3, "lr": 1e-2, "weight_decay": 0.0}


class StopHereError(Exception):
    """Simulates a power cut."""


class SmallTraining:
    """One training in a folder, to be started and resumed."""

    def __init__(self, dataset, folder, **settings):
        self.settings = FinetuneSettings(**{**tiny.TINY, **WORDS, **settings})
        self.dataset, self.folder = dataset, folder
        self.log = MemoryRecorder()

    def module(self, bad_at=None):
        torch.manual_seed(0)
        encoder = build_encoder("dynunet", spatial_dims=3, in_channels=1, filters=[2, 4])
        network = build_head("segment", encoder=encoder, spatial_dims=3, classes=3)
        return FinetuningModule(network, Segmentation().loss, settings=self.settings)

    def run(self, *, resume=False, stop_at=None, budget=None, module=None, best=None):
        module = module or self.module()

        def evaluate(step):
            if step == stop_at:
                raise StopHereError("power cut")
            return {"val/sum": float(sum(p.double().sum() for p in module.parameters()))}

        volumes = read_dataset(self.dataset).volumes
        budget = budget or budget_for(self.settings, volumes=len(volumes))
        prepare = VolumeLoader(self.dataset, PLAN, cache_gb=1.0)
        draws = PatchDataset(
            volumes, prepare, segmentation_patches(PLAN, foreground=0.5), labelled=True, seed=0
        )
        validation = ValidationCallback(
            evaluate, times=self.settings.num_evaluations, budget=budget, log=self.log, best=best
        )
        result = fit(
            module, draws, self.settings, self.log, self.folder, validation=validation, resume=resume
        )
        fitted = SimpleNamespace(**vars(result), validation=validation)
        return fitted, {name: value.clone() for name, value in module.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
