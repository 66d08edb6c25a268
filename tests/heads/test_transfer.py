import pytest
import torch
from torch import nn

from medmim.encoders import build_encoder
from medmim.errors import TransferError
from medmim.heads import Transfer, transfer


def encoder(*, filters=(4, 8), seed=0):
    torch.manual_seed(seed)
    return build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=list(filters))


def weights_of(network):
    return {f"encoder.{name}": value.clone() for name, value in network.state_dict().items()}


def unchanged(network, before):
    return all(torch.equal(value, before[f"encoder.{name}"]) for name, value in network.state_dict().items())


def test_all_tensors_are_transferred():
    source, target = encoder(seed=1), encoder(seed=2)
    result = transfer(target, weights_of(source))
    assert result == Transfer(1.0, (), (), ())
    assert unchanged(target, weights_of(source))


def test_tensors_of_other_modules_are_ignored():
    weights = weights_of(encoder(seed=1)) | {"decoder.head.weight": torch.ones(1), "up.0.x": torch.ones(1)}
    assert transfer(encoder(seed=2), weights).unused == ()


def test_additional_tensors_of_the_source_are_reported():
    result = transfer(encoder(), weights_of(encoder(filters=(4, 8, 8))))
    assert result.loaded_fraction == 1
    assert result.unused
    assert all(name.startswith("stages.2") for name in result.unused)


def test_missing_tensors_are_reported_and_the_network_is_unchanged():
    target, weights = encoder(seed=2), weights_of(encoder(seed=1))
    before = weights_of(target)
    gone = sorted(weights)[0]
    del weights[gone]
    count = len(before)
    fraction = f"only {(count - 1) / count:.1%} of the encoder's {count} tensors were loaded, expected 99%"
    with pytest.raises(
        TransferError, match=f"^{fraction}: .*{gone.removeprefix('encoder.')}.*--init scratch$"
    ):
        transfer(target, weights)
    assert unchanged(target, before)


def test_mismatched_shapes_are_reported_and_the_network_is_unchanged():
    target = encoder(filters=(4, 16), seed=2)
    before = weights_of(target)
    with pytest.raises(TransferError, match=r"of another shape stages\.1\S+, \S+, \S+ and \d+ more; use the"):
        transfer(target, weights_of(encoder(seed=1)))
    assert unchanged(target, before)


def test_an_empty_set_of_weights_is_rejected():
    with pytest.raises(TransferError, match=r"only 0\.0%"):
        transfer(encoder(), {"other": torch.ones(1)})


def test_a_lower_threshold_transfers_the_matching_tensors():
    target, weights = encoder(seed=2), weights_of(encoder(seed=1))
    gone = sorted(weights)[0]
    kept = target.state_dict()[gone.removeprefix("encoder.")].clone()
    del weights[gone]
    result = transfer(target, weights, least=0.5)
    assert result.missing == (gone.removeprefix("encoder."),)
    assert torch.equal(target.state_dict()[gone.removeprefix("encoder.")], kept)
    assert all(
        torch.equal(target.state_dict()[name.removeprefix("encoder.")], value)
        for name, value in weights.items()
    )


def test_a_prefix_within_a_name_is_kept():
    module = nn.ModuleDict({"encoder": nn.Linear(2, 2)})
    weights = {f"encoder.{name}": torch.ones_like(value) for name, value in module.state_dict().items()}
    transfer(module, weights)
    assert bool((module["encoder"].weight == 1).all())
