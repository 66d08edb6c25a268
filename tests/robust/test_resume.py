"""Kill a training anywhere, resume it, and nothing tells it from one that was never killed.

Each kill is a real SIGKILL of a forked training, or a SIGTERM that it answers; its place is counted in calls,
not in seconds: between two saved states, right at a saved one, or at one of the file operations of a save.
"""

import os
import random
import signal
import sys

import pytest
import tiny
import torch
from forks import fork

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.data.loading.patches import PatchDataset, pretraining_patches, segmentation_patches
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.errors import Stopped
from medmim.heads import build_head
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.tracking.recorder_interface import MemoryRecorder
from medmim.training.budget import Budget
from medmim.training.callbacks import ValidationCallback
from medmim.training.lightning_modules import FinetuningModule, PretrainingModule
from medmim.training.resume.checkpoint_files import has_state, read_state, verified_state
from medmim.training.tasks.segmentation import Segmentation
from medmim.training.trainer import fit

STEPS, BATCH, EVERY = 9, 2, 3
PLAN = PreprocessingPlan(3, (8, 8, 8))
NARROW = {"projector": 16, "decoder": {"cross": {"width": 32, "depth": 1}}}
WORDS = {
    **tiny.TINY,
    "batch_size": BATCH,
    "steps": STEPS,
    "num_evaluations": 2,
    "checkpoint_every_steps": EVERY,
}


def encoder():
    torch.manual_seed(0)
    return build_encoder("dynunet", spatial_dims=3, in_channels=1, filters=[2, 4])


def with_dropout(module):
    """Dropout draws from PyTorch's own generator, which must go on as it would have."""

    def drop(layer, inputs, output):
        return torch.nn.functional.dropout(output, 0.1) if isinstance(output, torch.Tensor) else output

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv3d):
            layer.register_forward_hook(drop)
    return module


def spark():
    method = build_method("spark", encoder=encoder(), spatial_dims=3, cell=(2, 2, 2), decoder_width=4)
    return pretraining(with_dropout(method), (2, 2, 2))


def latent_mim():
    """The target is a moving average of the encoder, which a state must hold too."""
    torch.manual_seed(0)
    vit = build_encoder("vit", spatial_dims=3, in_channels=1, patch=4, width=12, depth=2, heads=2)
    method = build_method("latent_mim", encoder=vit, spatial_dims=3, cell=(4, 4, 4), **NARROW)
    return pretraining(method, (4, 4, 4))


def pretraining(method, cell):
    mask, settings = build_mask("mesh", ratio=0.5), PretrainSettings(lr=1e-2, weight_decay=0.1)
    return PretrainingModule(method, mask, cell=cell, settings=settings, budget=Budget(steps=STEPS))


def segment():
    network = build_head("segment", encoder=encoder(), spatial_dims=3, classes=3)
    settings = FinetuneSettings(lr=1e-2, encoder_lr=0.5, weight_decay=0.1, ema=0.9, layer_decay=0.9)
    return FinetuningModule(with_dropout(network), Segmentation().loss, settings=settings)


KINDS = {
    "spark": (PretrainSettings, spark, pretraining_patches(PLAN), False),
    "latent_mim": (PretrainSettings, latent_mim, pretraining_patches(PLAN), False),
    "segment": (FinetuneSettings, segment, segmentation_patches(PLAN, foreground=0.5), True),
}


class Training:
    """One training in a folder, to be started, killed and resumed."""

    def __init__(self, kind, dataset, folder, *, workers):
        settings, self.build, self.patches, self.labelled = KINDS[kind]
        self.settings = settings(**{**WORDS, "workers": workers})
        self.dataset, self.folder = dataset, folder

    def run(self, *, resume=False, at_step=lambda step: None):
        """Train, and return all that must be equal: weights, the whole last state, and what was logged."""
        module, log = self.build(), MemoryRecorder()
        compute = module.training_step

        def training_step(batch, batch_idx):
            at_step(module.global_step)
            return compute(batch, batch_idx)

        module.training_step = training_step
        draws = PatchDataset(
            read_dataset(self.dataset).volumes,
            VolumeLoader(self.dataset, PLAN, cache_gb=1.0),
            self.patches,
            labelled=self.labelled,
            seed=0,
        )

        def evaluate(step):
            return {"val/sum": float(sum(p.double().sum() for p in module.parameters()))}

        validation = ValidationCallback(
            evaluate,
            times=self.settings.num_evaluations,
            budget=Budget(steps=STEPS, per_step=BATCH),
            log=log,
            best="val/sum",
        )
        fitted = fit(module, draws, self.settings, log, self.folder, validation=validation, resume=resume)
        state = read_state(verified_state(self.folder))
        state["callbacks"]["Schedule"].pop("spent_s")
        return state, dict(log.history), fitted.loss, torch.get_rng_state()

    def killed(self, number, *, step=None, operation=None):
        """Run in a forked process that dies at a step, or at a file operation of its saves; return how."""
        child = fork()
        if child:
            return os.waitpid(child, 0)[1]
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            if operation is not None:
                sys.addaudithook(Death(number, operation))
            self.run(at_step=lambda now: os.kill(os.getpid(), number) if now == step else None)
            os._exit(0)
        except Stopped as stopped:
            os._exit(stopped.exit_code)
        finally:
            os._exit(1)


class Death:
    """Signals this process at the nth file operation on a saved state."""

    def __init__(self, number, operation):
        self.number, self.left, self.sent = number, operation, False

    def __call__(self, event, words):
        if self.sent or event not in ("open", "os.rename", "os.remove"):
            return
        self.left -= "state-" in os.fsdecode(str(words[0]))
        if self.left < 0:
            self.sent = True
            os.kill(os.getpid(), self.number)


def differences(first, second, place=""):
    """The places at which two nested values differ in any bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [place]
    if isinstance(first, list | tuple):
        first, second = dict(enumerate(first)), dict(enumerate(second))
    if not isinstance(first, dict):
        return [] if first == second else [place]
    if first.keys() != second.keys():
        return [place]
    return [found for key in first for found in differences(first[key], second[key], f"{place}/{key}")]


def kill_points(count):
    """Kill points: in the middle, at the boundary and during the save, by SIGKILL and SIGTERM in turn."""
    chance, signals = random.Random(0), [signal.SIGKILL, signal.SIGTERM]
    middle = [step for step in range(EVERY, STEPS) if step % EVERY]
    points = []
    for number in range(count):
        places = [
            {"step": middle[number // 3 % len(middle)]},
            {"step": EVERY * (1 + number // 3 % (STEPS // EVERY - 1))},
            {"operation": 5 + chance.randrange(12)},
        ]
        points.append((signals[number % 2], places[number % 3]))
    return points


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def uninterrupted(kind, tiny_dataset, tmp_path_factory):
    return Training(kind, tiny_dataset, tmp_path_factory.mktemp("whole") / "run", workers=0).run()


def prove(kind, dataset, folder, uninterrupted, *, workers, points):
    for index, (number, place) in enumerate(points):
        training = Training(kind, dataset, folder / str(index), workers=workers)
        status = training.killed(number, **place)
        if number == signal.SIGKILL:
            assert os.WTERMSIG(status) == signal.SIGKILL, (place, status)
        else:
            complete = "operation" in place  # where the signal comes with the very last save
            assert os.WEXITSTATUS(status) in ((143, 0) if complete else (143,)), (place, status)
        assert has_state(training.folder), place
        state, history, loss, _ = training.run(resume=True)
        expected_state, expected_history, expected_loss, _ = uninterrupted
        assert not differences(state, expected_state), (number, place)
        assert all(expected_history[step] == values for step, values in history.items()), (number, place)
        assert loss == expected_loss


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    kind, tiny_dataset, tmp_path, uninterrupted, workers
):
    prove(kind, tiny_dataset, tmp_path, uninterrupted, workers=workers, points=kill_points(3))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_30_kills_change_nothing(kind, tiny_dataset, tmp_path, uninterrupted, workers):
    prove(kind, tiny_dataset, tmp_path, uninterrupted, workers=workers, points=kill_points(30))
