"""A simulated power cut for tests of `--resume`: training stops right after its nth state was saved."""

from lightning.pytorch.callbacks import Callback

from medmim.config.study import DIGEST
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


def run_until_power_cut(job, home, *, after):
    """Run the training of a job as a study runs it, until `after` states have been saved."""
    from medmim.config.runs import FinetuneSettings
    from medmim.stages.finetune.run import finetune

    settings = FinetuneSettings.model_validate(job.settings)
    tags = {**job.tags, DIGEST: job.digest}
    finetune(settings, home=home, tags=tags, log=str, callbacks=[PowerCut(after)])
