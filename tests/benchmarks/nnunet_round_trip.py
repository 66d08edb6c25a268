"""The round trip to nnU-Net on real cases: raw dataset, checkpoint, equal maps, three training iterations.

nnU-Net is installed in an environment of its own, whose Python is given. The iterations are run by the
command `nnUNetv2_train … -pretrained_weights`. With the source of an nnU-Net that fine-tunes nnssl
checkpoints (`--nnssl FOLDER`), the adaptation plan is used too, by the commands that nnU-Net documents:

    python -m tests.benchmarks.nnunet_round_trip --nnunet ENV/bin/python --data hippocampus --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from medmim import __version__
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.stages.export.run import _windows, export
from medmim.stages.finetune.run import finetune
from medmim.stages.ingest import ingest
from medmim.stages.initial_weights import pretrained_encoder, read_weights_file
from medmim.stages.pretrain.run import pretrain
from medmim.training.tasks.trained_model import load_trained_encoder

DATASET = "Dataset004_Hippocampus"
SIDE = Path(__file__).with_name("nnunet_side.py")
TRIALS = [("pretraining", 3, "S"), ("pretraining", 2, "S"), ("fine-tuning", 3, "S")]
TRIALS += [("pretraining", 2, "L"), ("pretraining", 3, "M"), ("pretraining", 3, "L")]
CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
TRAINER = """
from nnunetv2.training.nnUNetTrainer.{module} import {base}

class {name}({base}):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 1, 1
"""


def run_nnunet(python: Path, work: Path, *words: str, source: Path | None = None) -> str:
    """Run a program of nnU-Net's environment, or of its source in a folder, and return its output."""
    places = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    settings = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    settings |= {"nnUNet_extTrainer": str(work / "trainers"), "OMP_NUM_THREADS": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if source is not None:
        environment["PYTHONPATH"] = str(source)
    ran = subprocess.run(
        [str(python), *words],
        env={**environment, **places, **settings},
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"nnU-Net failed:\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}")
    return ran.stdout


def prepare(python: Path, cases: Path, work: Path, count: int) -> Path:
    """Ingest some cases, write them as nnU-Net raw data, and let nnU-Net check and plan them."""
    data = work / "hippocampus"
    if (work / "nnUNet_preprocessed" / DATASET / "splits_final.json").is_file():  # of an earlier call
        return data
    if data.is_dir():
        return plan(python, work, data)
    for folder in ("imagesTr", "labelsTr"):
        (work / "source" / folder).mkdir(parents=True)
        for path in sorted((cases / folder).glob("hippo*.nii.gz"))[:count]:
            shutil.copy2(path, work / "source" / folder)
    ingest(work / "source", data, home=work / "home")
    export("nnunet-raw", data=data, home=work / "home", out=work / "nnUNet_raw" / DATASET)
    return plan(python, work, data)


def plan(python: Path, work: Path, data: Path) -> Path:
    """Let nnU-Net check, plan and preprocess the raw dataset."""
    program = "import nnunetv2.experiment_planning.plan_and_preprocess_entrypoints as e; "
    program += "e.plan_and_preprocess_entry()"
    words = ["-d", "4", "--verify_dataset_integrity", "-npfp", "1", "-np", "1", "1", "-c", "2d", "3d_fullres"]
    sys.stdout.write(run_nnunet(python, work, "-c", program, *words)[-600:])
    place = work / "nnUNet_preprocessed" / DATASET
    shutil.copy2(work / "nnUNet_raw" / DATASET / "splits_final.json", place)
    return data


def weights_of(kind: str, dims: int, size: str, data: Path, home: Path) -> Path:
    """Pretrain or fine-tune a `resenc` encoder for two steps."""
    settings: dict[str, Any] = {
        "data": data,
        "dims": dims,
        "encoder": "resenc",
        "encoder_options": {"size": size},
        "size": (32,) if dims == 3 and size == "S" else (64,),
        "batch_size": 2,
        "steps": 2,
        "num_evaluations": 1,
        "workers": 0,
    }
    if kind == "pretraining":
        return pretrain(PretrainSettings(**settings, ratio=0.5), home=home).checkpoint
    settings |= {"task": "segment", "init": "scratch"}
    return finetune(FinetuneSettings(**settings), home=home).checkpoint


def round_trip(
    python: Path, data: Path, work: Path, trial: tuple[str, int, str], *, nnssl: Path | None
) -> dict[str, Any]:
    """Export an encoder, load it in nnU-Net, and train."""
    kind, dims, size = trial
    weights = weights_of(kind, dims, size, data, work / "home")
    place = work / "nnUNet_preprocessed" / DATASET
    out = work / f"{kind}-{dims}-{size}"
    shutil.rmtree(out, ignore_errors=True)  # of an earlier call
    words: dict[str, Any] = {"data": data, "home": work / "home", "model": str(weights)}
    made = export("nnunet", **words, out=out, plans=place / "nnUNetPlans.json")
    trained, dataset = load_trained_encoder(weights), read_dataset(data)
    patch = [max(32, 2 * stride) for stride in trained.encoder.total_stride]
    plans = json.loads((out / "medmimPlans.json").read_text())
    plans["configurations"][CONFIGURATIONS[dims]] |= {"batch_size": 2, "patch_size": patch}  # for a CPU
    (place / "medmimPlans.json").write_text(json.dumps(plans))
    case, images = _windows(dataset, trained)
    volume = nibabel.as_closest_canonical(nibabel.load(data / case.image)).get_fdata(dtype=np.float32)
    part = "Ts" if case.split == "test" else "Tr"
    request = {
        "dataset": DATASET,
        "configuration": CONFIGURATIONS[dims],
        "axes": list(range(dims))[::-1],
        "image": str(work / "nnUNet_raw" / DATASET / f"images{part}" / f"{case.id}_0000.nii.gz"),
    }

    def compared(encoder: Any, checkpoint: Path) -> dict[str, Any]:
        with torch.no_grad():
            maps = {f"map{number}": one.numpy() for number, one in enumerate(encoder(images))}
        np.savez(work / "maps.npz", images=images.numpy(), volume=volume, **maps)
        asked = {**request, "checkpoint": str(checkpoint), "maps": str(work / "maps.npz")}
        (work / "request.json").write_text(json.dumps(asked))
        answer = run_nnunet(python, work, str(SIDE), str(work / "request.json"))
        return dict(json.loads(answer.splitlines()[-1]))

    checkpoint = out / "checkpoint_final.pth"
    answer = compared(trained.encoder, checkpoint)
    row = {"kind": kind, "dims": dims, "size": size, "patch": patch}
    row |= {
        "checkpoint_mb": round(checkpoint.stat().st_size / 1e6, 1),
        "difference_at_export": made.difference,
    }
    row |= {**answer, "losses": train_by_command(python, work, dims, checkpoint)}
    folder = f"ThreeIterations__medmimPlans__{CONFIGURATIONS[dims]}"
    changed = work / "nnUNet_results" / DATASET / folder / "fold_0" / "checkpoint_final.pth"
    origin = read_weights_file(changed, None)
    described = replace(origin, description={**origin.description, "in_channels": 1})
    back = compared(pretrained_encoder(described), changed)
    row["largest_difference_of_nnunets_checkpoint_in_medmim"] = back["largest_difference"]
    if nnssl and trial == ("pretraining", 3, "S"):
        row["adaptation_plan_losses"] = train_by_adaptation_plan(python, work, checkpoint, nnssl)
    return row


def train_by_command(python: Path, work: Path, dims: int, checkpoint: Path) -> list[float]:
    """Run `nnUNetv2_train … -pretrained_weights` for three iterations and return the losses."""
    (work / "trainers").mkdir(exist_ok=True)
    words = {"module": "nnUNetTrainer", "base": "nnUNetTrainer", "name": "ThreeIterations"}
    (work / "trainers" / "three_iterations.py").write_text(TRAINER.format(**words))
    command = [str(python.parent / "nnUNetv2_train"), "4", CONFIGURATIONS[dims], "0", "-p", "medmimPlans"]
    command += ["-pretrained_weights", str(checkpoint), "-tr", words["name"], "-device", "cpu"]
    return losses_in(run_nnunet(python, work, *command))


def train_by_adaptation_plan(python: Path, work: Path, checkpoint: Path, nnssl: Path) -> list[float]:
    """Run nnU-Net's commands for nnssl checkpoints for three iterations and return the losses."""
    preprocess = "import nnunetv2.experiment_planning.like_nnssl as m; m.preprocess_like_nnssl_entrypoint()"
    words = ["-d", "4", "-n", "medmim", "-pc", str(checkpoint), "-am", "default_nnunet", "-np", "1"]
    run_nnunet(python, work, "-c", preprocess, *words, source=nnssl)
    plans = next((work / "nnUNet_preprocessed" / DATASET).glob("ptPlans__medmim*.json"))
    module = "pretraining.pretrainedTrainer"
    trainer = nnssl / "nnunetv2/training/nnUNetTrainer/pretraining/three_iterations.py"
    words = {"module": module, "base": "PretrainedTrainer", "name": "ThreePretrainedIterations"}
    trainer.write_text(TRAINER.format(**words))
    train = "import nnunetv2.run.run_training_from_pretrained as m; m.train_pretrained_entrypoint()"
    command = ["-c", train, "4", "3d_fullres", "0", "-p", plans.stem, "-tr", words["name"], "-device", "cpu"]
    return losses_in(run_nnunet(python, work, *command, source=nnssl))


def losses_in(log: str) -> list[float]:
    """Return the training losses that nnU-Net logs, one per epoch."""
    return [float(found) for found in re.findall(r"train_loss (-?[\d.]+)", log)]


def main() -> None:
    """Run all encoders; print and write one row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nnunet", type=Path, required=True, help="Python of nnU-Net's environment")
    parser.add_argument("--data", type=Path, required=True, help="Task04 of the Decathlon")
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--work", type=Path, help="folder of intermediate files; kept")
    parser.add_argument("--nnssl", type=Path, help="source of nnU-Net with nnUNetv2_preprocess_like_nnssl")
    parser.add_argument("--size", action="append", choices="SML", help="may be repeated")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if not (asked.data / "imagesTr").is_dir():
        sys.exit(f"skipped: no imagesTr in '{asked.data}'")
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('nnunetv2') is None)"
    if not asked.nnunet.is_file() or subprocess.run([asked.nnunet, "-c", look], check=False).returncode:
        sys.exit(f"skipped: nnU-Net v2 is not installed for '{asked.nnunet}'")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = (asked.work or Path(folder)).resolve()
        data = prepare(asked.nnunet, asked.data, work, asked.cases)
        rows = []
        for trial in TRIALS:
            if asked.size and trial[2] not in asked.size:
                continue
            rows.append(round_trip(asked.nnunet, data, work, trial, nnssl=asked.nnssl))
            print(json.dumps(rows[-1]), flush=True)  # noqa: T201
            result = {"medmim": __version__, "torch": torch.__version__, "rows": rows}
            if asked.out:
                asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
