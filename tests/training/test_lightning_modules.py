import lightning as L
import pytest
import torch
from fake_trainer import Trainer
from small_modules import finetuning, pretraining
from torch import nn
from torch.utils.data import DataLoader

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.encoders import build_encoder
from medmim.heads import build_head
from medmim.masks import build_mask
from medmim.methods import Method, Step
from medmim.training.budget import Budget
from medmim.training.callbacks import StepSeeding
from medmim.training.lightning_modules import FinetuningModule, PretrainingModule
from medmim.training.tasks.classification import Classification


@pytest.mark.parametrize("dims", [2, 3])
def test_a_pretraining_step_gives_a_loss(dims):
    torch.manual_seed(1)
    loss = pretraining(dims).training_step({"image": torch.randn(2, 1, *(16,) * dims)}, 0)
    assert loss.shape == ()
    assert loss.requires_grad


def test_the_masks_of_a_step_depend_on_the_seed():
    batch = {"image": torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))}
    losses = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        module = pretraining(seed=seed)
        torch.manual_seed(noise)
        losses.append(module.training_step(batch, 0).item())
    assert losses[0] == losses[1] != losses[2]


class SeenChannels(Method):
    """Records which channels of its encoder's input are not zero."""

    def __init__(self, encoder):
        super().__init__()
        self.axes = {}
        self.encoder = encoder
        self.seen = []
        encoder.register_forward_pre_hook(
            lambda _, inputs: self.seen.append(inputs[0].abs().sum((0, 2, 3)) > 0)
        )

    def forward(self, images, hidden):
        return Step(self.encoder(images)[-1].square().mean())


def test_whole_channels_are_hidden_from_the_encoder_but_never_all():
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=3, filters=[2, 2])
    settings = PretrainSettings(hide_channels=0.9, seed=1)
    words = {"cell": (4, 4), "settings": settings, "budget": Budget(steps=4, minutes=None)}
    module = PretrainingModule(SeenChannels(encoder), build_mask("random", ratio=0.5), **words)
    encoder._forward_pre_hooks.move_to_end(min(encoder._forward_pre_hooks))  # record after the module's hook
    images = torch.ones(2, 3, 8, 8)
    for _ in range(3):
        module.training_step({"image": images}, 0)
    module.method(images, None)
    *hidden, whole = (int(seen.sum()) for seen in module.method.seen)
    assert all(1 <= count < 3 for count in hidden)
    assert whole == 3


def test_channels_are_dropped_from_samples_by_their_numbers_but_never_all():
    settings = FinetuneSettings(channels="t1,t2,flair", channel_dropout=0.5)
    seen = []
    network = nn.ModuleDict({"encoder": nn.Linear(1, 1)})

    def loss(_, batch):
        seen.append(batch["image"])
        return batch["image"].sum()

    module = FinetuningModule(network, loss, settings=settings)
    for numbers in (range(64), range(60, 64)):
        images = torch.ones(len(numbers), 3, 4, 4)
        module.training_step({"image": images, "draw": torch.tensor(list(numbers))}, 0)
    kept = seen[0].flatten(2)
    assert (kept.amin(2) == kept.amax(2)).all()
    assert kept.amax(2).any(1).all()
    assert 0.3 < kept.mean() < 0.7
    assert torch.equal(seen[0][60:], seen[1])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_finetuning_step_gives_a_loss(dims):
    batch = {
        "image": torch.randn(2, 1, *(16,) * dims),
        "label": torch.randint(0, 3, (2, 1, *(16,) * dims), dtype=torch.uint8),
    }
    loss = finetuning(dims).training_step(batch, 0)
    assert loss.shape == ()
    assert torch.isfinite(loss)


def test_patches_without_foreground_have_a_finite_loss():
    batch = {"image": torch.randn(2, 1, 16, 16), "label": torch.zeros(2, 1, 16, 16, dtype=torch.uint8)}
    loss = finetuning().training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)


def test_one_patch_can_be_overfitted():
    torch.manual_seed(0)
    label = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    label[..., 4:12, 4:12] = 1
    label[..., 6:9, 6:9] = 2
    batch = {"image": torch.randn(1, 1, 16, 16) * 0.1 + label.float(), "label": label}
    module = finetuning()
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = module.training_step(batch, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]


def test_the_encoder_has_its_own_learning_rate():
    module = finetuning(encoder_lr=0.1)
    rates = {}
    for group in module.configure_optimizers().param_groups:
        assert group["lr"] == group["initial_lr"]
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    for name, parameter in module.network.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-4 if name.startswith("encoder.") else 1e-3), name


def test_an_encoder_learning_rate_of_zero_freezes_the_encoder():
    module = finetuning(encoder_lr=0.0)
    groups = module.configure_optimizers().param_groups
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    for name, parameter in module.network.named_parameters():
        assert parameter.requires_grad != name.startswith("encoder.")
        assert (id(parameter) in trained) != name.startswith("encoder.")


class Following(Method):
    """Records the progress and its weight after each optimizer step."""

    def __init__(self):
        super().__init__()
        self.axes = {}
        self.weight = nn.Parameter(torch.ones(3))
        self.notified = []

    def forward(self, images, hidden):
        return Step((self.weight * images.mean()).square().sum())

    def on_step_end(self, progress):
        self.notified.append((progress, self.weight.detach().clone()))


class Watching(L.Callback):
    """Records, when callbacks run, how many steps the method has seen; a saved state includes the step."""

    def __init__(self, method):
        self.method, self.seen = method, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((len(self.method.notified), self.method.weight.detach().clone()))


def test_the_method_is_notified_after_each_step_and_before_callbacks():
    method = Following()
    mask, settings = build_mask("random", ratio=0.5), PretrainSettings(lr=0.1, weight_decay=0.0)
    module = PretrainingModule(method, mask, cell=(4, 4), settings=settings, budget=Budget(steps=4))
    watching = Watching(method)
    loader = DataLoader([{"image": torch.ones(1, 8, 8)}] * 4)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        max_steps=4, callbacks=[watching], accelerator="cpu", enable_model_summary=False, **quiet
    )
    trainer.fit(module, loader)
    assert [progress for progress, _ in method.notified] == [0.25, 0.5, 0.75, 1.0]
    assert [count for count, _ in watching.seen] == [1, 2, 3, 4]
    for (_, notified), (_, seen) in zip(method.notified, watching.seen, strict=True):
        assert torch.equal(notified, seen)
        assert not torch.equal(notified, torch.ones(3))


def test_the_moving_average_is_updated_and_evaluated(recwarn):
    module = finetuning(ema=0.5)
    start = {key: value.clone() for key, value in module.network.state_dict().items()}
    batch = {"image": torch.randn(2, 1, 16, 16), "label": torch.randint(0, 3, (2, 1, 16, 16))}
    loader = DataLoader([{key: value[0] for key, value in batch.items()}] * 2, batch_size=2)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    L.Trainer(max_steps=1, accelerator="cpu", enable_model_summary=False, **quiet).fit(module, loader)
    assert not any(
        "eval mode" in str(warning.message) for warning in recwarn
    )  # evaluating the average is intended
    assert module.evaluated_network is not module.network
    now, average = module.network.state_dict(), module.evaluated_network.state_dict()
    assert any(not torch.equal(now[key], start[key]) for key in now)
    for key, value in average.items():
        if value.is_floating_point():
            young = (start[key] * 2 + now[key] * 9) / 11
            assert torch.allclose(value, young, atol=1e-6), key


def test_the_initial_weights_have_little_influence_on_the_average_of_a_short_training():
    module = finetuning(ema=0.99)
    kept = {key: torch.zeros_like(value) for key, value in module.network.state_dict().items()}
    for parameter in module.average.network.parameters():
        parameter.data.fill_(1.0)
    module.network.load_state_dict(kept)
    share = 1.0
    for done in range(1, 41):
        module.average.update(module.network, progress=0.0, max_momentum=(1 + done) / (10 + done))
        share *= min(0.99, (1 + done) / (10 + done))
    left = next(module.average.network.parameters()).flatten()[0].item()
    assert left == pytest.approx(share, rel=1e-3)
    assert left < 1e-6 < 0.99**40


def test_without_a_moving_average_the_network_itself_is_evaluated():
    module = finetuning()
    assert module.evaluated_network is module.network


def test_a_linear_probe_does_not_change_norms_of_the_encoder():
    encoder = build_encoder("resnet18", spatial_dims=2, in_channels=1, widths=[4, 4, 8, 8])
    network = build_head("classify", encoder=encoder, spatial_dims=2, classes=2)
    module = FinetuningModule(network, Classification().loss, settings=FinetuneSettings(mode="linear_probe"))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    module.train()
    batch = {"image": torch.randn(4, 1, 16, 16), "target": torch.tensor([0, 1, 0, 1])}
    module.training_step(batch, 0).backward()
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert network.score.weight.grad is not None


def test_the_encoder_starts_to_train_after_the_head():
    optimiser = finetuning(freeze_until=0.3, layer_decay=0.5).configure_optimizers()
    begins = [group["begins"] for group in optimiser.param_groups]
    assert begins == sorted(begins, reverse=True)
    assert set(begins) == {0.0, 0.3}


def test_random_numbers_of_a_step_depend_on_seed_and_step():
    batch = {"image": torch.randn(4, 1, 16, 16), "target": torch.tensor([0, 1, 0, 1])}
    encoder = build_encoder("dynunet", spatial_dims=2, in_channels=1, filters=[4, 8])
    network = build_head("classify", encoder=encoder, spatial_dims=2, classes=2, dropout=0.5)
    loss = Classification(mixup=0.4).loss
    losses = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        module = FinetuningModule(network, loss, settings=FinetuneSettings(seed=seed))
        torch.manual_seed(noise)
        StepSeeding(seed).on_train_batch_start(Trainer(3), module, batch, 3)
        losses.append(module.training_step(batch, 0).item())
    assert losses[0] == losses[1] != losses[2]
