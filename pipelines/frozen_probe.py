"""Linear and nearest-neighbour probes of a frozen encoder, fitted on training and tested on test patients.

Features are the means of all of the encoder's maps. The regularisation strength of the linear probe is chosen
on validation patients; test patients are evaluated once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmim.data.dataset.manifest import read_dataset
from medmim.data.dataset.splits import partition
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import plan_for
from medmim.data.loading.probe_images import ProbeImages, build_probe_images
from medmim.encoders import Encoder, build_encoder
from medmim.encoders.batch_norm import batch_norms, recalibrate_batch_norms
from medmim.errors import DataError
from medmim.heads import transfer
from medmim.randomness import stream_seed
from medmim.stages.pretrain.setup import class_numbers, volumes_with_labels
from medmim.training.evaluation import probes
from medmim.training.evaluation.probes import extract_features
from medmim.training.weights import load_weights

_CALIBRATION_IMAGES = 128  # images
_BATCH_SIZE = 32
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class ProbeResult:
    """Scores of an encoder's frozen features.

    Attributes:
        strength: regularisation of the linear probe, chosen on validation patients.
    """

    linear_f1: float
    knn_f1: float
    strength: float
    images: int


def probe(
    weights: Path | None,
    *,
    data: Path,
    encoder: str,
    encoder_options: Mapping[str, Any],
    size: int,
    seed: int,
) -> ProbeResult:
    """Probe the classes of 2D images.

    Args:
        weights: weights of a pretraining run; None: random weights, with batch norms calibrated on whole
            images as after pretraining, so that only the learnt weights differ.
        data: dataset folder whose images have classes.
        encoder: name in the table of encoders.
        size: voxels along each axis to which whole images are scaled.
        seed: seed of the random weights, equal to the initial weights of a pretraining with this seed.

    Raises:
        DataError: if there are fewer than two classes.
    """
    dataset = read_dataset(data)
    divided = partition(dataset, fold=None)
    classes = class_numbers(divided.train)
    if len(classes) < 2:
        raise DataError("a probe needs training images of two classes or more", reason="one_class")
    torch.manual_seed(stream_seed(seed, "encoder"))
    network = build_encoder(encoder, spatial_dims=2, in_channels=1, **encoder_options)
    if weights is not None:
        transfer(network, load_weights(weights)[0])
    plan = plan_for(divided.train, dims=2, size=(size,), multiple=network.total_stride)
    volumes = VolumeLoader(data, plan, cache_gb=0.1)  # each image is read once
    train, val, test = (
        build_probe_images(volumes_with_labels(part, "target"), volumes, plan, classes)
        for part in (divided.train, divided.val, divided.test)
    )
    if weights is None and batch_norms(network):
        some = train.images[:: max(len(train.images) // _CALIBRATION_IMAGES, 1)]
        recalibrate_batch_norms(network, torch.split(some, _BATCH_SIZE))
    return _evaluate(*(_features(network, shown) for shown in (train, val, test)))


def _features(network: Encoder, shown: ProbeImages) -> tuple[np.ndarray, np.ndarray]:
    return extract_features(network, shown.images, precision="fp32").pooled.numpy(), shown.targets.numpy()


def _evaluate(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> ProbeResult:
    fitted = {strength: probes.linear(*train, strength=strength) for strength in _STRENGTHS}
    scores = {
        strength: probes.mean_f1_of_present(val[1], model.predict(val[0]))
        for strength, model in fitted.items()
    }
    best = max(scores, key=lambda strength: scores[strength])
    return ProbeResult(
        linear_f1=probes.mean_f1_of_present(test[1], fitted[best].predict(test[0])),
        knn_f1=probes.mean_f1_of_present(test[1], probes.nearest(*train).predict(test[0])),
        strength=best,
        images=len(test[1]),
    )
