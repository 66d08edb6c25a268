"""`medmim demo`: the whole pipeline on generated DICOM, from ingestion to a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.synthetic.anatomy import LABEL_NAMES
from medmim.data.synthetic.dicom_phantom import write_phantom
from medmim.errors import counted
from medmim.stages.compare import CompareResult, compare_runs
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.stages.pretrain.run import pretrain

# the synthetic lesions are small; training on small patches around them converges fastest
PATCH = (32, 32, 16)


@dataclass(frozen=True)
class Demo:
    """Results of a demo.

    Attributes:
        compared: comparison of pretraining with training from scratch.
        panels: images of reconstructions and of segmentations.
        home: home folder of the demo's runs, for `medmim ui`.
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
    """Generate DICOM, ingest it, pretrain, fine-tune with and without pretraining, and compare."""
    source, data = out / f"scans-{seed}-{patients}", out / f"dataset-{seed}-{patients}"
    home = out / "medmim-runs"
    say(
        f"1/5 write DICOM of {counted(patients, 'synthetic patient')}, with one missing slice and one "
        "truncated file"
    )
    write_phantom(source, seed=seed, patients=patients)
    say("2/5 ingest: check, convert, pseudonymise, split by patient")
    counts = ingest(source, data, name="demo", label_names=LABEL_NAMES, home=home).counts
    say(
        f"    {counts['files_seen']} files = {counts['files_accepted']} accepted + "
        f"{counts['files_quarantined']} quarantined + {counts['files_skipped']} skipped; "
        f"{counted(counts['volumes'], 'volume')}, {counts['labels']} with labels"
    )
    say("3/5 pretrain: SparK, mesh mask, 70 % hidden")
    pretrained = pretrain(PretrainSettings(data=data, steps=pretrain_steps, seed=seed), home=home)
    panels = {"reconstruction": pretrained.panel}
    starts = {pretrained.run_id: "the pretrained encoder", "scratch": "scratch, the baseline"}
    for init, start in starts.items():
        say(f"4/5 fine-tune a segmenter from {start}")
        settings = FinetuneSettings(data=data, init=init, size=PATCH, steps=finetune_steps, seed=seed)
        tuned = finetune(settings, home=home, log=say)
        panels.setdefault("segmentation", tuned.panel)
    say("5/5 compare")
    return Demo(compare_runs([], home=home), panels, home)
