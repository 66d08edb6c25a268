"""The EMA teacher against its formula, without gradient."""

import math

import pytest
import torch
from torch import nn

from medmim.errors import UsageError
from medmim.methods.ema_teacher import EMATeacher


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))


def disturb(network, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    network(torch.randn(8, 3, generator=generator))  # moves the batch norm's buffers


def test_weights_equal_the_average_written_out_in_float64():
    network = student()
    teacher = EMATeacher(network, momentum=0.9, last_momentum=0.98)
    expected = {name: value.double() for name, value in network.named_parameters()}
    for step in range(1, 6):
        disturb(network, step)
        progress = step / 5
        kept = 0.98 - (0.98 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
        expected = {
            name: kept * expected[name] + (1 - kept) * value.double()
            for name, value in network.named_parameters()
        }
        teacher.update(network, progress=progress)
    for name, value in teacher.network.named_parameters():
        torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0)])
def test_the_momentum_rises_along_a_cosine(progress, momentum):
    assert EMATeacher(student()).momentum_at(progress) == pytest.approx(momentum, abs=1e-12)


def test_a_momentum_of_zero_copies_and_a_momentum_of_one_keeps_the_teacher():
    network = student()
    copying, keeping = EMATeacher(network, momentum=0.0, last_momentum=0.0), EMATeacher(network, momentum=1.0)
    before = {name: value.clone() for name, value in network.named_parameters()}
    disturb(network, 1)
    for teacher in (copying, keeping):
        teacher.update(network, progress=0.3)
    for name, value in network.named_parameters():
        assert torch.equal(copying.network.get_parameter(name), value)
        assert torch.equal(keeping.network.get_parameter(name), before[name])


def test_buffers_are_copied():
    network = student()
    teacher = EMATeacher(network)
    disturb(network, 1)
    teacher.update(network, progress=0.0)
    for ours, theirs in zip(teacher.network.buffers(), network.buffers(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


def test_the_teacher_has_no_gradient_and_no_randomness():
    network = student()
    teacher = EMATeacher(network)
    images = torch.randn(4, 3, requires_grad=True)
    teacher.train()
    first, second = teacher(images), teacher(images)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.training


def test_the_teacher_is_evaluated_in_evaluation_mode_and_its_mode_is_restored():
    teacher = EMATeacher(student())
    for mode in (True, False):
        teacher.train(mode)
        with teacher.inference() as network:
            assert not any(module.training for module in network.modules())
            assert not network(torch.randn(4, 3)).requires_grad
        assert all(module.training == mode for module in teacher.modules())


def test_the_update_does_not_change_the_student():
    network = student()
    teacher = EMATeacher(network)
    disturb(network, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    teacher.update(network, progress=0.5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_state_dict_restores_the_method_exactly():
    network = student()
    teacher, other = EMATeacher(network), EMATeacher(student())
    disturb(network, 1)
    teacher.update(network, progress=0.0)
    other.load_state_dict(teacher.state_dict())
    images = torch.randn(4, 3)
    assert torch.equal(other(images), teacher(images))


@pytest.mark.parametrize(
    "words", [{"momentum": -0.1}, {"momentum": 1.2}, {"momentum": 0.9, "last_momentum": 0.5}]
)
def test_momenta_out_of_range_are_rejected(words):
    with pytest.raises(UsageError, match=r"^method_options: expected 0 ≤ momentum ≤ last_momentum ≤ 1, got "):
        EMATeacher(student(), **words)
