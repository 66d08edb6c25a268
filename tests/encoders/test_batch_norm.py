"""Two processes that share a batch give the outputs, gradients and statistics of one process."""

import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

from medmim.encoders import build_encoder, mask, pack
from medmim.encoders.batch_norm import (
    SyncedBatchNorm,
    batch_norms,
    recalibrate_batch_norms,
    recalibrated_copy,
    sync_batch_norms,
)
from medmim.masks import build_mask

KINDS = ("dense", "packed", "masked")


def network(dims):
    torch.manual_seed(0)
    conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dims - 2]
    return nn.Sequential(
        conv(1, 3, 3, padding=1), norm(3), nn.ReLU(), conv(3, 2, 3, padding=1), norm(2)
    ).double()


def data(dims):
    torch.manual_seed(1)
    images = torch.randn(4, 1, *(8,) * dims, dtype=torch.float64)
    hidden = torch.zeros(4, *(2,) * dims, dtype=torch.bool)
    for sample, cell in enumerate((0, 1, 1, 0)):  # unequal shares of voxels: one, two, two, one cells
        hidden[sample].view(-1)[: 1 + cell] = True
    return images, hidden


def result(net, images, hidden, kind):
    """The loss (a sum), gradients and statistics of one forward and backward."""
    if kind == "dense":
        values = net(images)
    else:
        given = net((pack if kind == "packed" else mask)(images, hidden))
        values = given.values if kind == "packed" else given.dense
    weights = torch.linspace(-1, 1, values.shape[1], dtype=torch.float64).reshape(
        1, -1, *[1] * (values.dim() - 2)
    )
    (values.tanh() * weights).square().sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}, dict(net.named_buffers())


def share(rank, port, dims, kind, queue):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    net = network(dims)
    sync_batch_norms(net)
    images, hidden = data(dims)
    mine = slice(2 * rank, 2 * rank + 2)
    gradients, statistics = result(net, images[mine], hidden[mine], kind)
    for gradient in gradients.values():
        dist.all_reduce(gradient)
    if rank == 0:
        plain = [{name: t.tolist() for name, t in part.items()} for part in (gradients, statistics)]
        queue.put(plain)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("dims", [2, 3])
def test_two_processes_equal_one(dims, free_port):
    context = multiprocessing.get_context("fork")
    for kind in KINDS:
        queue, port = context.Queue(), free_port()
        processes = [context.Process(target=share, args=(r, port, dims, kind, queue)) for r in (0, 1)]
        for process in processes:
            process.start()
        together = queue.get(timeout=120)
        for process in processes:
            process.join()
        alone = result(network(dims), *data(dims), kind)
        for found, expected in zip(together, alone, strict=True):
            for name, value in expected.items():
                got = torch.tensor(found[name], dtype=value.dtype)
                assert torch.allclose(got, value, rtol=1e-9, atol=1e-9), (kind, name)


def settle(rank, port, queue):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    net = network(2)
    sync_batch_norms(net)
    if rank == 0:
        settled = recalibrated_copy(net, data(2)[0])
        queue.put([buffer.tolist() for one in (settled, net) for buffer in one.buffers()])
    dist.barrier()
    dist.destroy_process_group()


def test_a_copy_is_recalibrated_by_one_process_alone(free_port):
    context = multiprocessing.get_context("fork")
    queue, port = context.Queue(), free_port()
    processes = [context.Process(target=settle, args=(r, port, queue)) for r in (0, 1)]
    for process in processes:
        process.start()
    found = queue.get(timeout=120)
    for process in processes:
        process.join()
    alone = network(2)
    expected = [*recalibrated_copy(alone, data(2)[0]).buffers(), *alone.buffers()]
    assert found == [buffer.tolist() for buffer in expected]


def test_in_one_process_it_is_pytorchs():
    net, synced = network(2), network(2)
    sync_batch_norms(synced)
    images, hidden = data(2)
    for kind in KINDS:
        first, second = (result(each, images, hidden, kind) for each in (net, synced))
        assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
        assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def test_weights_keep_their_names_and_memory():
    net = network(2)
    before = dict(net.state_dict(keep_vars=True))
    sync_batch_norms(net)
    after = net.state_dict(keep_vars=True)
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert isinstance(net[1], SyncedBatchNorm)


def small(dims):
    torch.manual_seed(0)
    return build_encoder(
        "resnet18", spatial_dims=dims, in_channels=1, widths=(4, 4, 6, 8), stem_stride=1
    ).train()


def batches(dims, count=3):
    return [torch.randn(4, 1, *(16,) * dims) + 0.5 * number for number in range(count)]


@pytest.mark.parametrize("dims", [2, 3])
def test_recalibration_gives_statistics_of_whole_images(dims):
    net, images = small(dims), batches(dims)
    hidden = build_mask("random", ratio=0.5).sample(
        4, (2,) * dims, generator=torch.Generator().manual_seed(0)
    )
    net(pack(images[0], hidden))
    recalibrate_batch_norms(net, images)
    seen = [net.stem[0](x) for x in images]
    axes = (0, *range(2, dims + 2))
    first = batch_norms(net)[0]
    torch.testing.assert_close(first.running_mean, torch.stack([x.mean(axes) for x in seen]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([x.var(axes) for x in seen]).mean(0))


def test_nothing_else_changes():
    net = nn.Sequential(small(2), nn.Identity())
    net[0].stages[0].eval()
    momenta = [norm.momentum for norm in batch_norms(net)]
    modes = [module.training for module in net.modules()]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    recalibrate_batch_norms(net, batches(2))
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in changed)
    assert [norm.momentum for norm in batch_norms(net)] == momenta
    assert [module.training for module in net.modules()] == modes


def test_dropout_is_inactive_during_recalibration():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1)).train()
    images = torch.ones(2, 1, 4, 4) + torch.arange(4.0)
    recalibrate_batch_norms(net, [images])
    assert net[1].running_mean.item() == pytest.approx(2.5)
    assert net[0].training


def test_a_network_without_batch_norm_has_none():
    assert not batch_norms(build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=(4, 4)))
