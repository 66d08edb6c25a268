"""A trained encoder, rebuilt from the weights of a pretraining, a fine-tuning or an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.data.loading.preprocessing_plan import PreprocessingPlan, plan_of_model
from medmim.encoders import Encoder, build_encoder
from medmim.errors import RunError
from medmim.heads import transfer
from medmim.training.weights import load_weights


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder with everything needed to use it.

    Attributes:
        encoder: the network with its weights, in evaluation mode.
    """

    encoder: Encoder
    plan: PreprocessingPlan
    description: Mapping[str, Any]


def load_trained_encoder(path: Path) -> TrainedEncoder:
    """Load the encoder of a weights file; other parts of the network are ignored.

    Raises:
        RunError: if the file is missing or damaged, or its description does not name the encoder.
        TransferError: if the weights do not fit the encoder.
    """
    weights, description = load_weights(path)
    try:
        plan = plan_of_model(description)
        encoder = build_encoder(
            description["encoder"],
            spatial_dims=description["spatial_dims"],
            in_channels=description["in_channels"],
            **description["encoder_options"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"weights at '{path}' do not describe their encoder ({type(error).__name__}: {error}): expected "
            "the files of one run of medmim"
        ) from error
    transfer(encoder, weights, least=1.0)
    return TrainedEncoder(encoder.eval(), plan, description)
