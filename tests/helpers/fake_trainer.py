"""A trainer and a module that only remember what callbacks do to them."""

from types import SimpleNamespace

import lightning
from torch import nn


class OneProcess(lightning.pytorch.strategies.SingleDeviceStrategy):
    """Where all processes agree."""

    def __init__(self):
        super().__init__("cpu")


class Trainer(lightning.Trainer):
    """A trainer at a step, with one optimiser."""

    strategy = OneProcess()

    global_step = 0
    accumulate_grad_batches = world_size = 1
    global_rank = 0
    is_global_zero = True
    optimizers = ()

    def __init__(self, step=0):
        self.global_step = step
        self.should_stop = False
        self.optimizers = [SimpleNamespace(param_groups=[{"lr": 0.5, "initial_lr": 2.0}])]


class Module(lightning.LightningModule):
    """One weight."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        self.drop = nn.Dropout()
