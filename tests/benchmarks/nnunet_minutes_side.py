"""The part of `nnunet_minutes.py` that runs in nnU-Net's environment, without medmim.

    nnUNet_n_proc_DA=0 OMP_NUM_THREADS=1 python nnunet_minutes_side.py DATASET PLANS MINUTES SEED IMAGES OUT

nnU-Net's own trainer: its network, augmentation, loss, optimizer and polynomial learning rate. Only the
length is changed: the rate follows the share of processor minutes used instead of the share of 1,000
epochs, so that a training of any length completes the schedule. Augmentation runs in this process and
counts; there is no validation. Predicts every image of IMAGES with the final weights, mirrored as nnU-Net
does, and prints one line of JSON.
"""

import importlib.metadata
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args

ITERATIONS = 5  # between two updates of the learning rate; one "epoch" of nnU-Net


class PolynomialOverMinutes:
    """nnU-Net's polynomial learning rate, in place of its scheduler, which the trainer steps every epoch."""

    def __init__(self, optimizer, initial, minutes):
        self.optimizer, self.initial, self.seconds = optimizer, initial, 60 * minutes
        self.start = time.process_time()

    def share(self):
        """Return the share of the processor time that is used."""
        return (time.process_time() - self.start) / self.seconds

    def step(self, _epoch=None):
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial * max(0.0, 1 - self.share()) ** 0.9


def train(trainer, minutes):
    """Train for processor minutes; return the number of iterations and the minutes used."""
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = ITERATIONS, 1
    trainer.on_train_start()
    schedule = trainer.lr_scheduler = PolynomialOverMinutes(trainer.optimizer, trainer.initial_lr, minutes)
    iterations = 0
    while schedule.share() < 1:
        if iterations % ITERATIONS == 0:
            trainer.on_train_epoch_start()
        trainer.train_step(next(trainer.dataloader_train))
        iterations += 1
    return iterations, schedule.share() * minutes


def predict(trainer, images, out):
    """Write a label map for every image."""
    predictor = nnUNetPredictor(
        device=torch.device("cpu"), use_mirroring=True, perform_everything_on_device=False, allow_tqdm=False
    )
    trainer.set_deep_supervision_enabled(False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )
    Path(out).mkdir(parents=True)
    predictor.predict_from_files_sequential(images, out, save_probabilities=False, overwrite=True)


def main():
    """Train, predict, print one line."""
    dataset, plans, minutes, seed, images, out = sys.argv[1:]
    torch.set_num_threads(1)
    for seeded in (torch.manual_seed, np.random.seed, random.seed):
        seeded(int(seed))
    trainer = get_trainer_from_args(
        dataset, "3d_fullres", 0, "nnUNetTrainer", plans, device=torch.device("cpu")
    )
    iterations, used = train(trainer, float(minutes))
    predict(trainer, images, out)
    answer = {
        "plans": plans,
        "minutes": round(used, 2),
        "iterations": iterations,
        "parameters": sum(one.numel() for one in trainer.network.parameters()),
        "predictions": len(list(Path(out).glob("*.nii.gz"))),
        "versions": {name: importlib.metadata.version(name) for name in ("nnunetv2", "torch")},
    }
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
