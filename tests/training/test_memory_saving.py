import logging

import lightning as L
import pytest
import torch
from small_modules import finetuning, pretraining
from small_training import equal
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from medmim.config.runs import FinetuneSettings
from medmim.training.memory_saving import apply_memory_options, blocks_of
from medmim.training.resume.checkpoint_files import read_state, verified_state


def test_accumulated_batches_equal_one_step_of_a_large_batch(tiny_dataset, home):
    """The loss is a mean over patches with masks drawn for the whole step; the encoder has no batch norm."""
    import tiny
    from safetensors.torch import load_file

    from medmim.config.runs import PretrainSettings
    from medmim.stages.pretrain.run import pretrain

    vit = {"method": "simmim", "encoder": "vit", "encoder_options": {"patch": 4, "width": 12, "depth": 2}}
    words = {**tiny.TINY, **vit, "data": tiny_dataset, "steps": 2, "num_evaluations": 1, "lr": 1e-2}
    whole, parts = (
        pretrain(PretrainSettings(**{**words, **more}, mask=mask), home=home)
        for mask in ("mesh",)
        for more in ({"batch_size": 4}, {"batch_size": 2, "accumulate": 2})
    )
    first, second = load_file(whole.checkpoint), load_file(parts.checkpoint)
    # attention does not depend on key biases: their gradients are rounding errors, which AdamW amplifies
    exact = [name for name in first if not name.endswith("qkv.bias")]
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in exact)
    assert parts.metrics["last/train_loss"] == pytest.approx(whole.metrics["last/train_loss"], rel=1e-5)


def test_accumulated_steps_resume_exactly(training):
    from small_training import StopHereError

    words = {"accumulate": 3, "checkpoint_every_steps": 1}
    whole, broken = training("whole", **words), training("broken", **words)
    _, weights = whole.run()
    with pytest.raises(StopHereError, match="power cut"):
        broken.run(stop_at=4)
    assert equal(broken.run(resume=True)[1], weights)


@pytest.mark.parametrize("word", ["activation_checkpointing", "channels_last"])
def test_memory_options_change_results_only_by_rounding(training, word):
    _, plain = training("plain").run()
    made = training("saving", **{word: True})
    _, saving = made.run()
    assert plain.keys() == saving.keys()  # the names of weights do not change
    assert all(torch.allclose(plain[name], saving[name], atol=1e-3) for name in plain)
    assert read_state(verified_state(made.folder))["state_dict"].keys() == plain.keys()


def test_recomputed_blocks_update_running_statistics_once():
    moved = []
    for recompute in (False, True):
        torch.manual_seed(0)
        module = L.LightningModule()
        module.block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3))
        apply_memory_options(module, FinetuneSettings(activation_checkpointing=recompute))
        assert isinstance(module.block, nn.Sequential) != recompute
        module.block(torch.randn(4, 1, 8, 8)).square().sum().backward()
        moved.append({name: value for name, value in module.state_dict().items() if "running" in name})
    assert len(moved[0]) == 2
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


@pytest.mark.parametrize("build", [pretraining, finetuning])
def test_recomputed_blocks_store_fewer_activations(build):
    kept = {}
    for recompute in (False, True):
        module, sizes = build(3), []
        apply_memory_options(module, FinetuneSettings(activation_checkpointing=recompute))
        torch.manual_seed(0)
        batch = {"image": torch.randn(2, 1, 16, 16, 16), "label": torch.ones(2, 1, 16, 16, 16)}

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = module.training_step(batch, 0)
        loss.backward()
        kept[recompute] = sum(sizes)
    assert kept[True] < 0.7 * kept[False]


def test_weights_have_the_channels_last_memory_format():
    module = finetuning(3)
    apply_memory_options(module, FinetuneSettings(channels_last=True))
    weight = next(p for p in module.parameters() if p.dim() == 5 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_blocks_are_the_smallest_modules_with_two_convolutions():
    pair = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    net = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.Sequential(pair, nn.ReLU()), nn.ModuleList([nn.Conv2d(1, 1, 1)] * 2)
    )
    assert blocks_of(net) == [pair]


def test_training_continues_uncompiled_if_compilation_fails(training, monkeypatch, caplog):
    def failing(self):
        def fail(*words, **more):
            raise RuntimeError("no compiler")

        self._compiled_call_impl = fail

    _, plain = training("plain").run()
    monkeypatch.setattr(nn.Module, "compile", failing)
    with caplog.at_level(logging.WARNING, logger="medmim"):
        _, compiled = training("compiled", compile=True).run()
    assert "torch.compile does not work for this network here (RuntimeError)" in caplog.text
    assert equal(plain, compiled)


def test_training_continues_uncompiled_if_compilation_fails_later(training, monkeypatch, caplog):
    called = []

    def failing(self):
        def call(*words, **named):
            called.append(self)
            if len(called) > 6:
                raise TorchDynamoException("another size")
            return self._call_impl(*words, **named)

        self._compiled_call_impl = call

    _, plain = training("plain").run()
    monkeypatch.setattr(nn.Module, "compile", failing)
    with caplog.at_level(logging.WARNING, logger="medmim"):
        _, compiled = training("compiled", compile=True).run()
    assert "torch.compile does not work for this network here (TorchDynamoException)" in caplog.text
    assert equal(plain, compiled)


def test_the_trial_compilation_does_not_change_random_states(training, monkeypatch):
    monkeypatch.setattr(
        nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", self._call_impl)
    )
    results = []
    for word in (False, True):
        made = training(str(word), compile=word)
        module = made.module()
        module.network.score = nn.Sequential(nn.Dropout(), module.network.score)
        results.append(made.run(module=module)[1])
    assert equal(*results)


def test_a_working_compiler_is_used(training, monkeypatch):
    used = []

    def working(self):
        self._compiled_call_impl = lambda *words, **more: used.append(1) or self._call_impl(*words, **more)

    _, plain = training("plain").run()
    monkeypatch.setattr(nn.Module, "compile", working)
    assert equal(plain, training("compiled", compile=True).run()[1])
    assert len(used) >= 7  # the trial call and six steps
