"""`medmim demo`: the whole line on generated DICOM, from files to a compared, registered segmenter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.synthetic.anatomy import LABEL_NAMES
from medmim.data.synthetic.dicom_phantom import write_phantom
from medmim.stages.compare import CompareResult, compare_runs
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.stages.pretrain.run import pretrain

PATCH = (32, 32, 16)  # the made-up lesions are small: patches around them learn fastest


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        compared: the comparison.
        panels: pictures: what was hidden and rebuilt, what was segmented.
        home: its own home folder, for `medmim ui`.
    """

    compared: CompareResult
    panels: dict[str, Path]
    home: Path


def demo(
    out: Path,
    *,
    seed: int,
    patients: int,
    pretrain_steps: int,
    finetune_steps: int,
    say: Callable[[str], None],
) -> Demo:
    """Write a phantom, ingest it, pretrain, fine-tune from that and from scratch, compare.

    Args:
        out: folder for everything; runs of an earlier demo in it are kept.
        seed: of the phantom and of all runs.
        patients: patients of the phantom.
        pretrain_steps: steps of pretraining.
        finetune_steps: steps of each fine-tuning.
        say: takes lines for the user.
    """
    source, data, home = (
        out / f"scans-{seed}-{patients}",
        out / f"dataset-{seed}-{patients}",
        out / "medmim-runs",
    )
    say(f"1/5 write DICOM of {patients} made-up patients, one slice missing, one file cut short")
    write_phantom(source, seed=seed, patients=patients)
    say("2/5 ingest: check, convert, pseudonymise, split by patient")
    counts = ingest(source, data, name="demo", label_names=LABEL_NAMES, home=home).counts
    say(
        f"    {counts['files_seen']} files = {counts['files_accepted']} accepted + "
        f"{counts['files_quarantined']} quarantined + {counts['files_skipped']} skipped; "
        f"{counts['volumes']} volumes, {counts['labels']} with labels"
    )
    say("3/5 pretrain: SparK, mesh mask, 70 % hidden")
    pretrained = pretrain(PretrainSettings(data=data, steps=pretrain_steps, seed=seed), home=home)
    panels = {"reconstruction": pretrained.panel}
    for number, init in enumerate((pretrained.run_id, "scratch")):
        say(f"4/5 fine-tune a segmenter {'from it' if number == 0 else 'from scratch, the control'}")
        settings = FinetuneSettings(data=data, init=init, size=PATCH, steps=finetune_steps, seed=seed)
        tuned = finetune(settings, home=home, log=say)
        panels.setdefault("segmentation", tuned.panel)
    say("5/5 compare")
    return Demo(compare_runs([], home=home), panels, home)
