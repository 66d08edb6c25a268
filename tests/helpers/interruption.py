"""A power cut for tests of `--resume`: training stops right after its state was saved for the nth time."""

from medmim.training.resume import autosave as module


class PowerCutError(Exception):
    """Nothing that medmim raises or expects."""


def cut_power(monkeypatch, *, after, error=PowerCutError):
    """Let the next trainings stop after that many saved states."""
    save, saved = module.save_state, []

    def saving(trainer, folder):
        save(trainer, folder)
        saved.append(folder)
        if len(saved) == after:
            raise error

    monkeypatch.setattr(module, "save_state", saving)
