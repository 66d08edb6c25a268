"""The part of `nnunet_round_trip.py` that runs in nnU-Net's environment, without medmim.

Reads a JSON request from the path given, loads the checkpoint with nnU-Net's own function, compares the maps
of the encoder, and prints one JSON line.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import torch
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import get_trainer_from_args


def largest_difference(network, request):
    """Return the largest difference of the maps that medmim computed and those of nnU-Net's encoder."""
    arrays, axes = np.load(request["maps"]), request["axes"]
    order = [0, 1, *(axis + 2 for axis in axes)]
    images = torch.from_numpy(arrays["images"].transpose(order).copy())
    with torch.no_grad():
        maps = network.eval().encoder(images)
    pairs = ((one.numpy(), arrays[f"map{number}"].transpose(order)) for number, one in enumerate(maps))
    return max(float(np.abs(one - other).max()) for one, other in pairs)


def main():
    """Answer one request."""
    request = json.loads(Path(sys.argv[1]).read_text())
    torch.manual_seed(0)
    torch.set_num_threads(1)
    words = (request["dataset"], request["configuration"], 0, "nnUNetTrainer", "medmimPlans")
    trainer = get_trainer_from_args(*words, device=torch.device("cpu"))
    trainer.initialize()
    load_pretrained_weights(trainer.network, request["checkpoint"])
    volume, _ = NibabelIOWithReorient().read_images([request["image"]])
    raw = np.load(request["maps"])["volume"]
    names = ("nnunetv2", "dynamic-network-architectures", "torch")
    answer = {
        "versions": {name: importlib.metadata.version(name) for name in names},
        "encoder_tensors": len(trainer.network.encoder.state_dict()),
        "largest_difference": largest_difference(trainer.network, request),
        "same_voxels": bool(np.array_equal(volume[0], raw.transpose(2, 1, 0))),
    }
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
