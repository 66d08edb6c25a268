"""Tests of MaskAnyNet as a regulariser of fine-tuning."""

import pytest
import torch
from fake_trainer import Trainer

from medmim.config.runs import FinetuneSettings
from medmim.encoders import build_encoder
from medmim.heads import build_head
from medmim.training.lightning_modules import FinetuningModule
from medmim.training.mask_any_net_regularizer import MaskAnyNetRegularizer
from medmim.training.tasks.classification import Classification
from medmim.training.tasks.segmentation import Segmentation

CASES = [("segment", Segmentation()), ("classify", Classification())]


def network_for(task, dims):
    torch.manual_seed(0)
    encoder = build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=(4, 6, 8))
    return build_head(task, encoder=encoder, spatial_dims=dims, classes=2)


def batch_for(dims):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, *[16] * dims, generator=generator)
    return {"image": images, "label": (images > 0).long(), "target": torch.tensor([0, 1])}


def module_for(task, rule, dims, *, reuse=True):
    network = network_for(task, dims)
    extra = MaskAnyNetRegularizer(network.encoder, spatial_dims=dims, seed=0) if reuse else None
    return FinetuningModule(network, rule.loss, settings=FinetuneSettings(task=task), regularizer=extra)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("task", "rule"), CASES, ids=["segment", "classify"])
def test_the_additional_loss_trains_the_network_and_the_branch(task, rule, dims):
    module, plain = module_for(task, rule, dims), module_for(task, rule, dims, reuse=False)
    loss = module.training_step(batch_for(dims), 0)
    assert loss > plain.training_step(batch_for(dims), 0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.reuse.parameters())
    trained = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert trained == {id(parameter) for parameter in module.parameters()}


def test_the_saved_network_is_the_same_as_without_the_regulariser():
    module, plain = (module_for("segment", Segmentation(), 2, reuse=reuse) for reuse in (True, False))
    assert module.network.state_dict().keys() == plain.network.state_dict().keys()
    encoder = module.network.encoder
    module.training_step(batch_for(2), 0).backward()
    assert module.network.encoder is encoder


def test_running_statistics_come_from_unmasked_images():
    """The network is evaluated on unmasked images, so batch norm statistics must not include masked ones."""

    def norms_after_a_step(*, reuse):
        torch.manual_seed(0)
        encoder = build_encoder("resnet18", spatial_dims=2, in_channels=1, widths=[4, 4, 4, 4])
        network = build_head("classify", encoder=encoder, spatial_dims=2, classes=2)
        extra = MaskAnyNetRegularizer(encoder, spatial_dims=2, seed=0) if reuse else None
        settings = FinetuneSettings(task="classify")
        module = FinetuningModule(network, Classification().loss, settings=settings, regularizer=extra)
        images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        module.training_step({"image": images, "target": torch.tensor([0, 1])}, 0)
        return {name: value for name, value in network.state_dict().items() if "running" in name}

    with_reuse, without = norms_after_a_step(reuse=True), norms_after_a_step(reuse=False)
    assert with_reuse
    assert all(torch.equal(value, without[name]) for name, value in with_reuse.items())


def test_masks_depend_on_the_step():
    network, batch = network_for("segment", 2), batch_for(2)
    reuse = MaskAnyNetRegularizer(network.encoder, spatial_dims=2, seed=0)
    masked = [reuse(network, batch, step=step)[1]["image"] for step in (0, 0, 1)]
    assert torch.equal(masked[0], masked[1])
    assert not torch.equal(masked[0], masked[2])
    assert (masked[0] == 0).float().mean().item() == pytest.approx(0.25)
    assert (batch["image"] != 0).all()


def test_masks_do_not_depend_on_the_division_of_a_step_into_batches(monkeypatch):
    module, batch = module_for("segment", Segmentation(), 2), batch_for(2)
    shown = []
    monkeypatch.setattr(
        module, "loss", lambda network, batch: shown.append(batch["image"]) or torch.zeros(())
    )
    monkeypatch.setattr(Trainer, "accumulate_grad_batches", 2)
    monkeypatch.setattr(Trainer, "world_size", 2)
    for number in range(2):
        for rank in range(2):
            monkeypatch.setattr(Trainer, "global_rank", rank)
            module._trainer = Trainer()
            module.training_step(batch, number)
    divided = torch.cat([image == 0 for image in shown[1::2]])
    assert len({mask.numpy().tobytes() for mask in divided}) == len(divided)
    whole = {"image": batch["image"].repeat(4, 1, 1, 1)}
    assert torch.equal(divided, module.reuse(module.network, whole, step=0)[1]["image"] == 0)
