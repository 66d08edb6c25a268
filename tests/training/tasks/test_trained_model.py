"""Encoders rebuilt from weights files."""

import pytest
import torch

from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.errors import RunError, TransferError
from medmim.heads.transfer import PREFIX
from medmim.training.tasks.trained_model import load_trained_encoder
from medmim.training.weights import save_weights

OPTIONS = {"filters": [4, 8]}


def write(folder, **about):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, **OPTIONS)
    weights = {PREFIX + name: value for name, value in encoder.state_dict().items()}
    plan = PreprocessingPlan(2, (16, 16)).as_json()
    network = {"encoder": "dynunet", "encoder_options": OPTIONS, "in_channels": 1, "spatial_dims": 2}
    return encoder, save_weights(
        folder, {**weights, "head.bias": torch.zeros(1)}, {**network, **plan, **about}
    )


def test_an_encoder_is_rebuilt_and_other_weights_are_ignored(tmp_path):
    encoder, path = write(tmp_path)
    trained, images = load_trained_encoder(path), torch.randn(1, 1, 16, 16)
    assert not trained.encoder.training
    for one, other in zip(trained.encoder(images), encoder.eval()(images), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert trained.plan == PreprocessingPlan(2, (16, 16))


def test_descriptions_that_do_not_fit_are_refused(tmp_path):
    _, path = write(tmp_path / "a", encoder_options={"filters": [4, 8, 16]})
    with pytest.raises(TransferError, match=r"only 66\.7% of the encoder's .* were loaded"):
        load_trained_encoder(path)
    _, path = write(tmp_path / "b", spatial_dims=None, in_channels=None)
    with pytest.raises(RunError, match=r"do not describe their encoder"):
        load_trained_encoder(path)
