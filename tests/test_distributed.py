"""Losses that are no means over patches: two processes with half of a step each, and one with all of it."""

import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist

from medmim.distributed import all_gather, all_reduce_sum, rank, world_size
from medmim.encoders import build_encoder
from medmim.encoders.batch_norm import sync_batch_norms
from medmim.heads import build_head, detection
from medmim.masks import build_mask
from medmim.methods import build_method
from medmim.methods.dice_loss import CRITERIA, batch_dice

HALF = 3  # images of a process


class Scores(torch.nn.Module):
    """Scores of voxels, and a loss of them."""

    def __init__(self, dims, criterion):
        super().__init__()
        self.net = (torch.nn.Conv2d, torch.nn.Conv3d)[dims - 2](1, 3, 3, padding=1)
        self.loss = batch_dice(criterion)

    def forward(self, images, hidden, labels):
        return self.loss(self.net(images), labels)


class Boxes(torch.nn.Module):
    """A detector; the first two images have a box each, those of the second process none."""

    def __init__(self, dims):
        super().__init__()
        encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=(4, 6, 8))
        anchors = [[[4.0 * 2**level] * dims] for level in range(2)]
        words = {"spatial_dims": dims, "classes": 2, "anchors": anchors, "width": 8}
        self.net = build_head("detect", encoder=encoder, **words)

    def forward(self, images, hidden, labels):
        dims = images.dim() - 2
        boxes = torch.tensor([[2.0] * dims + [6.0 + row] * dims for row in range(len(images))])
        present = labels.flatten(1)[:, :1] > 0
        return detection.detection_loss(self.net, images, boxes[:, None], present.long() - 1)


class Pretrained(torch.nn.Module):
    """A method under given masks."""

    def __init__(self, dims, method, encoder, words, **options):
        super().__init__()
        built = build_encoder(encoder, spatial_dims=dims, in_channels=1, **words)
        self.method = build_method(method, encoder=built, spatial_dims=dims, cell=(4,) * dims, **options)

    def forward(self, images, hidden, labels):
        return self.method(images, hidden).loss


CONVOLUTIONS = ("dynunet", {"filters": (4, 6, 8)})
TOKENS = ("vit", {"patch": 4, "width": 24, "depth": 1, "heads": 2})
CASES = {name: (lambda dims, name=name: Scores(dims, name)) for name in CRITERIA}
CASES |= {
    "detect": Boxes,
    "contrastive": lambda dims: Pretrained(dims, "contrastive", *CONVOLUTIONS, queue=4),
    "contrastive, one network": lambda dims: Pretrained(dims, "contrastive", *CONVOLUTIONS, teacher="shared"),
    "latent_mim": lambda dims: Pretrained(dims, "latent_mim", *TOKENS, projector=16, similarity=1.0),
}


def step_of(name, dims, share=None):
    """The loss and gradients of a step, or of one process's share of it."""
    torch.manual_seed(0)
    network = CASES[name](dims)
    sync_batch_norms(network)
    torch.manual_seed(1)
    views = 2 if name.startswith("contrastive") else 1
    images = torch.randn(views, 2 * HALF, 1, *(16,) * dims)
    hidden = build_mask("random", ratio=0.5).sample(
        views * 2 * HALF, (4,) * dims, generator=torch.Generator().manual_seed(0)
    )
    hidden = hidden.unflatten(0, (views, 2 * HALF))
    labels = torch.randint(0, 3, (views, 2 * HALF, 1, *(16,) * dims))
    labels[:, 2:] = 0  # no foreground elsewhere
    labels[:, :2, 0].flatten(1)[:, 0] = 1
    labels[:, 0, ..., 0], labels[:, 1, ..., 0] = 1, 2
    own = slice(None) if share is None else slice(share * HALF, (share + 1) * HALF)
    loss = network(*(one[:, own].flatten(0, 1) for one in (images, hidden, labels)))
    loss.backward()
    return {"loss": loss.detach(), **{n: p.grad for n, p in network.named_parameters() if p.grad is not None}}


def share_of_all(index, port, dims, queue):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=index, world_size=2)
    assert (world_size(), rank()) == (2, index)
    found = {}
    for name in CASES:
        mean = {key: all_reduce_sum(value) / 2 for key, value in step_of(name, dims, index).items()}
        found[name] = {key: value.tolist() for key, value in mean.items()}
    found["each"] = all_gather(torch.tensor([index, 5])).tolist()
    if index == 0:
        queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("dims", [2, 3])
def test_two_processes_have_the_loss_and_the_gradients_of_one(dims, free_port):
    context = multiprocessing.get_context("fork")
    queue, port = context.Queue(), free_port()
    processes = [context.Process(target=share_of_all, args=(r, port, dims, queue)) for r in (0, 1)]
    for process in processes:
        process.start()
    shared = queue.get(timeout=120)
    for process in processes:
        process.join()
    assert shared["each"] == [[0, 5], [1, 5]]
    for name in CASES:
        alone = step_of(name, dims)
        assert alone.keys() == shared[name].keys()
        # a bias before a norm has no gradient but rounding
        rounding = 1e-5 * max(float(value.abs().max()) for value in alone.values())
        for key, value in alone.items():
            found = torch.tensor(shared[name][key])
            assert torch.allclose(found, value, rtol=1e-3, atol=rounding), (name, key, found, value)


def test_one_process_has_its_own_values():
    values = torch.arange(3.0)
    assert (world_size(), rank()) == (1, 0)
    assert all_reduce_sum(values) is values
    assert torch.equal(all_gather(values), values[None])
