"""A simulated power cut for tests of `--resume`: training stops right after its nth state was saved."""

from lightning.pytorch.callbacks import Callback

from medmim.training.resume import checkpoint_times as module
from medmim.training.resume.checkpoint_times import Checkpoints


class PowerCutError(Exception):
    """An error that medmim neither raises nor expects."""


class PowerCut(Callback):
    """Stop a training after `after` saved states, or at its end; pass it as the last callback."""

    def __init__(self, after=None, *, error=PowerCutError):
        self.after, self.error = after, error

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Raise when the states are saved."""
        saved = next(one.saved for one in trainer.callbacks if isinstance(one, Checkpoints))
        if saved == self.after:
            raise self.error("power cut")

    def on_train_end(self, trainer, pl_module):
        """Raise before the test."""
        if self.after is None:
            raise self.error("power cut")


def cut_power(monkeypatch, *, after):
    """Stop all trainings of this process after `after` saved states, where no callback can be passed."""
    save, saved = module.save_state, []

    def saving(trainer, folder):
        kept = save(trainer, folder)
        saved.append(folder)
        if len(saved) == after:
            raise PowerCutError("power cut")
        return kept

    monkeypatch.setattr(module, "save_state", saving)
