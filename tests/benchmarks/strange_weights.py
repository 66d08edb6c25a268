"""Weights files as users bring them, given to `medmim weights`: what each answers, and that none runs code.

torchvision and timm are imported by the Python given with `--maker`, from an environment of their own:

    python -m tests.benchmarks.strange_weights --maker ENV/bin/python --out FILE.csv
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import tempfile
from pathlib import Path

import torch
from click.testing import CliRunner
from monai.networks import nets

from medmim.cli import main as medmim

MAKER = """
import argparse, os, pickle
import numpy, timm, torch, torchvision
from safetensors.torch import save_file

def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}

def floats(change, weights):
    return {name: change(value) if value.is_floating_point() else value for name, value in weights.items()}

class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)

networks, save = torchvision.models, torch.save
resnet = networks.resnet50().state_dict()
lightning = {"state_dict": under("model.", resnet), "pytorch-lightning_version": "2.4.0"}
lightning["optimizer_states"] = [{"state": {0: {"m": torch.ones(3)}}}]
save({**lightning, "hyper_parameters": {"lr": 0.1}}, "lightning.ckpt")
save({**lightning, "hyper_parameters": argparse.Namespace(lr=0.1)}, "lightning_namespace.ckpt")
for name, prefix in {"module": "module.", "backbone": "backbone.", "deep": "model.module.backbone."}.items():
    save(under(prefix, resnet), f"prefix_{name}.pth")
copies = under("module.encoder_q.", resnet)
copies |= under("module.encoder_k.", floats(lambda value: value + 1, resnet))
save({"arch": "resnet50", "state_dict": copies | {"module.queue": torch.ones(4, 4)}}, "moco_v2.pth.tar")
vit = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
student = under("module.backbone.", floats(lambda value: value + 1, vit))
save({"student": student, "teacher": under("backbone.", vit), "args": argparse.Namespace()}, "dino.pth")
save_file(floats(torch.Tensor.half, resnet), "half.safetensors")
save_file(floats(torch.Tensor.bfloat16, resnet), "bfloat16.safetensors")
save(floats(torch.Tensor.double, resnet), "double.pth")
save(floats(torch.Tensor.char, resnet), "int8.pth")
save(floats(lambda value: value * torch.nan, resnet), "nan.pth")
save({name: value for name, value in resnet.items() if "layer3" not in name}, "incomplete.pth")
save(list(resnet.values()), "list.pth")
save(torch.ones(3), "tensor.pth")
save(networks.resnet18(), "whole_network.pth")
torch.jit.save(torch.jit.script(networks.resnet18()), "script.pt")
save({"state_dict": resnet, "x": Code()}, "code.pth")
pickle.dump({"w": Code()}, open("code_in_pickle.pth", "wb"))
pickle.dump({"w": numpy.ones(3)}, open("numpy.pth", "wb"))
for name in ("empty.pth", "empty.safetensors"):
    open(name, "wb").close()
parts = list(networks.resnet50().children())[:-1]
save(torch.nn.Sequential(*parts).state_dict(), "radimagenet_resnet50.pth")
save(under("backbone.0.", networks.densenet121().features.state_dict()), "radimagenet_densenet121.pth")
names = "inception_v3 convnext_tiny swin_t vit_b_16 efficientnet_b0 vgg16 densenet121"
for name in names.split():
    save(getattr(networks, name)(weights=None).state_dict(), f"torchvision_{name}.pth")
for name in ("resnet34", "resnext50_32x4d", "resnet50d", "convnext_tiny", "convnextv2_atto", "regnety_004",
             "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "efficientnet_b0"):
    save(timm.create_model(name).state_dict(), f"timm_{name}.pth")
"""


def make_monai_files(folder: Path) -> None:
    """Write files of MONAI's classes with the names of published checkpoints."""
    swin = nets.SwinUNETR(in_channels=1, out_channels=14, feature_size=12).state_dict()
    segresnet = nets.SegResNet(init_filters=8, in_channels=1, out_channels=2).state_dict()
    unetr = nets.UNETR(1, 14, (32, 32, 32), feature_size=4, hidden_size=64, mlp_dim=256, num_heads=1)
    content = {
        "swinunetr_btcv.pt": {"state_dict": swin},
        "suprem_swinunetr.pth": {"net": {f"module.backbone.{name}": each for name, each in swin.items()}},
        "suprem_segresnet.pth": {"net": {f"module.backbone.{name}": v for name, v in segresnet.items()}},
        "suprem_unet.pth": {
            "net": {"module.backbone.down_tr64.ops.0.conv1.weight": torch.ones(8, 1, 3, 3, 3)}
        },
        "unetr_btcv.pth": unetr.state_dict(),
        "medicalnet_resnet18.pth": nets.resnet18(spatial_dims=3, n_input_channels=1).state_dict(),
        "monai_densenet121.pth": nets.DenseNet121(3, 1, 2).state_dict(),
        "monai_unet.pth": nets.UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=2).state_dict(),
        "totalsegmentator.pth": {
            "network_weights": {"encoder.stages.0.0.convs.0.conv.weight": torch.ones(8)}
        },
        "medsam.pth": {
            f"image_encoder.{name}": torch.ones(8, 8)
            for name in ("patch_embed.proj.weight", "blocks.0.mlp.lin1.weight")
        },
        "hugging_face_vit.bin": {
            "vit.embeddings.patch_embeddings.projection.weight": torch.ones(8, 3, 16, 16)
        },
    }
    for name, each in content.items():
        torch.save(each, folder / name)


def answer(path: Path, *words: str) -> list[str | int]:
    """Return the name of a file, the exit code, and the network with the loaded share or the error line."""
    result = CliRunner().invoke(medmim, ["weights", str(path), *words])
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines() if " " in line.strip())
    if result.exit_code:
        return [" ".join([path.name, *words]), result.exit_code, _one_line(result.output, path)]
    found = f"{lines['network']}; {lines['encoder']}; {lines['loads']}"
    return [" ".join([path.name, *words]), 0, found]


def _one_line(output: str, path: Path) -> str:
    return " / ".join(output.replace(f"{path.parent}/", "").splitlines())


def main() -> None:
    """Make all files, ask for each, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maker", type=Path, required=True, help="Python with torchvision and timm")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run([asked.maker.absolute(), "-c", MAKER], cwd=folder, check=True, capture_output=True)
        make_monai_files(folder)
        rows = [answer(path) for path in sorted(folder.iterdir())]
        rows.append(answer(folder / "prefix_module.pth", "--dims", "3"))
        executed = (folder / "executed").exists() or Path("executed").exists()
    with asked.out.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["file", "exit", "answer"], *rows])
    print(f"{len(rows)} files; code executed: {executed}")  # noqa: T201


if __name__ == "__main__":
    main()
