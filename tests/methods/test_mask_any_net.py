"""MaskAnyNet: fusion levels, inputs of both branches, state, and its two objectives."""

import copy

import pytest
import torch
import torch.nn.functional as F

from medmim.encoders import ENCODERS, build_encoder
from medmim.encoders.custom import CustomEncoder
from medmim.errors import UsageError
from medmim.masks import MASKS, build_mask
from medmim.methods import build_method
from medmim.methods.mask_any_net import Supervision
from medmim.methods.reconstruction import TARGETS
from medmim.methods.two_branch_encoder import (
    LEVELS,
    OPERATIONS,
    Fusion,
    FusionConfig,
    TwoBranchEncoder,
    stitch,
)
from medmim.training.cost import cost_of

CELL = 4
both_dims = pytest.mark.parametrize("dims", [2, 3])
every_level = pytest.mark.parametrize("level", LEVELS)


def encoder_for(dims, filters=(4, 6, 8)):
    torch.manual_seed(0)
    return build_encoder("dynunet", spatial_dims=dims, in_channels=1, filters=filters)


def build(dims, **options):
    return build_method(
        "mask_any_net", encoder=encoder_for(dims), spatial_dims=dims, cell=(CELL,) * dims, **options
    )


def batch_for(dims, *, ratio=0.25, rule="combined"):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, *[16] * dims, generator=generator)
    return images, build_mask(rule, ratio=ratio).sample(2, (4,) * dims, generator=generator)


def voxels_of(images, hidden):
    for axis in range(1, hidden.dim()):
        hidden = hidden.repeat_interleave(CELL, dim=axis)
    return hidden.unsqueeze(1).expand_as(images)


def watch(module, seen):
    module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))


@both_dims
@every_level
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kernel", [0, 5])
def test_every_fusion_trains_every_parameter(dims, level, operation, kernel):
    fusion = {"level": level, "operation": operation, "kernel": kernel, "width": 0.5}
    method = build(dims, fusion=fusion)
    method(*batch_for(dims)).loss.backward()
    for place, parameter in method.named_parameters():
        assert parameter.grad is not None, place
        assert parameter.grad.any(), place


@pytest.mark.parametrize(  # every level meets every encoder, in 2D or 3D
    ("name", "level", "dims"),
    [
        (name, level, 2 + (first + second) % 2)
        for first, name in enumerate(sorted(ENCODERS))
        for second, level in enumerate(LEVELS)
    ],
)
def test_every_encoder_can_be_trained_and_keeps_its_state_dict(dims, name, level):
    small = {"resnet18": {"widths": (4, 4, 6, 8)}, "resnet50": {"widths": (4, 4, 6, 8)}}
    torch.manual_seed(0)
    encoder = build_encoder(name, spatial_dims=dims, in_channels=1, **small.get(name, {}))
    before = set(encoder.state_dict())
    cell = encoder.total_stride
    words = {"encoder": encoder, "spatial_dims": dims, "cell": cell, "fusion": {"level": level}}
    if level in ("low", "mid") and not encoder.steps():
        with pytest.raises(UsageError, match=r"which \w+ cannot; use level image or decision"):
            build_method("mask_any_net", **words)
        return
    method = build_method("mask_any_net", **words)
    images = torch.randn(2, 1, *[2 * step for step in cell])
    hidden = build_mask("random", ratio=0.5).sample(2, (2,) * dims, generator=torch.Generator())
    step = method(images, hidden)
    step.loss.backward()
    assert step.loss.isfinite()
    kept = {name.removeprefix("encoder.") for name in method.state_dict() if name.startswith("encoder.")}
    assert kept == before
    assert len(encoder(images)) == len(encoder.channels)


def test_steps_applied_in_sequence_equal_the_encoder():
    for name in ENCODERS:
        torch.manual_seed(0)
        encoder = build_encoder(name, spatial_dims=2, in_channels=1).eval()
        x = images = torch.randn(1, 1, *[2 * step for step in encoder.total_stride])
        steps = encoder.steps()
        for step, expected in zip(steps, encoder(images), strict=bool(steps)):
            x = step(x)
            assert torch.equal(x, expected), name


@both_dims
@pytest.mark.parametrize("rule", sorted(MASKS))
def test_the_primary_branch_sees_visible_cells_only_and_the_auxiliary_hidden_cells_only(dims, rule):
    method, (images, hidden) = build(dims), batch_for(dims, rule=rule)
    covered = voxels_of(images, hidden)
    primary, auxiliary = [], []
    watch(method.encoder.steps()[0], primary), watch(method.blend.branch, auxiliary)
    noise = 5 * torch.randn_like(images)
    for given in (images, images + noise * covered, images + noise * ~covered):
        method(given, hidden)
    (plain, _), (disturbed, _), (elsewhere, _) = primary
    assert torch.equal(plain, images * ~covered)
    assert torch.equal(plain, disturbed)
    assert not torch.equal(plain, elsewhere)
    (plain, _), (disturbed, _), (elsewhere, _) = auxiliary
    assert torch.equal(plain, stitch(images, hidden, (CELL,) * dims))
    assert torch.equal(plain, elsewhere)
    assert not torch.equal(plain, disturbed)


@both_dims
def test_loss_equals_the_formula_and_ignores_visible_cells(dims):
    method, (images, hidden) = build(dims), batch_for(dims)
    covered = voxels_of(images, hidden)
    prediction = torch.randn_like(images)
    method.goal.decode.forward = lambda maps: prediction
    loss = method(images, hidden).loss
    errors = []
    for sample, *place in hidden.nonzero().tolist():
        window = (sample, 0, *[slice(CELL * i, CELL * (i + 1)) for i in place])
        true = images[window].double()
        target = (true - true.mean()) / (true.var(unbiased=True) + 1e-6).sqrt()
        errors.append((prediction[window].double() - target).square().mean())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    prediction = torch.where(covered, prediction, 100.0)
    assert torch.equal(method(images, hidden).loss, loss)


@both_dims
@every_level
@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_the_control_has_equal_cost_and_sees_no_hidden_cells(dims, level, ratio):
    method, control = (build(dims, fusion={"level": level}, reuse=reuse) for reuse in (True, False))
    assert method.sees_hidden_content
    assert not control.sees_hidden_content
    images, hidden = batch_for(dims, ratio=ratio)
    assert cost_of(method, images[:1], hidden[:1]) == cost_of(control, images[:1], hidden[:1])
    covered = voxels_of(images, hidden)
    seen = []
    watch(control.blend, seen)
    control(images, hidden), control(images + 5 * covered, hidden)
    for first, second in zip(seen[0][1], seen[1][1], strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_fusion_without_alignment_is_the_formula(operation):
    torch.manual_seed(0)
    fusion = Fusion(2, 3, FusionConfig(operation=operation, kernel=0)).double()
    primary, auxiliary = torch.randn(2, 3, 6, 4).double(), torch.randn(2, 3, 3, 2).double()
    large = F.interpolate(auxiliary, size=(6, 4), mode="bilinear", align_corners=False)
    if operation == "add":
        expected = primary + large
    else:
        weight, bias = fusion.align.weight[:, :, 0, 0], fusion.align.bias
        both = torch.cat([primary, large], dim=1)
        expected = torch.einsum("oc,bcyx->boyx", weight, both) + bias[:, None, None]
    torch.testing.assert_close(fusion(primary, auxiliary), expected)


@pytest.mark.parametrize(("kernel", "width", "between"), [(3, 1.0, 8), (5, 0.5, 4), (7, 2.0, 16)])
def test_alignment_is_three_convolutions_in_its_variants(kernel, width, between):
    fusion = Fusion(2, 8, FusionConfig(kernel=kernel, width=width))
    convolutions = [layer for layer in fusion.align if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(kernel, kernel)] * 3
    shape = [(layer.in_channels, layer.out_channels) for layer in convolutions]
    assert shape == [(16, between), (between, between), (between, 8)]


def test_the_branch_copies_the_encoder_up_to_the_fusion_level():
    encoder = encoder_for(2)
    whole = sum(one.numel() for one in encoder.parameters())
    sizes = []
    for level in LEVELS:
        branch = TwoBranchEncoder(encoder, spatial_dims=2, how=FusionConfig(level=level)).branch
        sizes.append(sum(one.numel() for one in branch.parameters()))
    assert sizes[0] == 0
    assert sizes == sorted(sizes)
    assert sizes[-1] == whole


def test_the_branch_has_weights_of_its_own():
    method = build(2)
    before = copy.deepcopy(method.encoder.state_dict())
    with torch.no_grad():
        for parameter in method.blend.branch.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in method.encoder.state_dict().items())


@both_dims
def test_supervised_with_one_class_per_image(dims):
    method = build(dims, objective="supervised", supervision=Supervision("target", 3))
    assert method.label_kind == "target"
    step = method(*batch_for(dims), torch.tensor([2, 0]))
    step.loss.backward()
    assert 0 <= step.parts["accuracy"] <= 1
    assert all(parameter.grad is not None for parameter in method.goal.parameters())


@both_dims
def test_supervised_with_one_label_per_voxel(dims):
    method = build(dims, objective="supervised", supervision=Supervision("label", 3))
    assert method.label_kind == "label"
    images, hidden = batch_for(dims)
    step = method(images, hidden, torch.randint(0, 3, images.shape))
    step.loss.backward()
    assert step.loss.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "supervized"}, r"unknown objective 'supervized'; did you mean 'supervised'\?"),
        ({"objective": "supervised"}, r"objective 'supervised' needs class targets or label volumes"),
        ({"fusion": {"level": "lo"}}, r"fusion: unknown level 'lo'; did you mean 'low'\?"),
        ({"fusion": {"operation": "ad"}}, r"fusion: unknown operation 'ad'; did you mean 'add'\?"),
        ({"fusion": {"kernel": 4}}, r"expected an odd kernel .* got kernel 4 and width 1$"),
        ({"fusion": {"width": 0.0}}, r"got kernel 3 and width 0$"),
        ({"fusion": {"levl": "low"}}, r"fusion does not take the option 'levl'; did you mean 'level'\?"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(UsageError, match=message):
        build(2, **options)


class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 4, 4, stride=4)

    def forward(self, images):
        return [self.layer(images)]


def test_a_network_without_steps_supports_image_and_decision_fusion_only():
    encoder = CustomEncoder(Plain(), spatial_dims=2, in_channels=1)
    words = {"encoder": encoder, "spatial_dims": 2, "cell": (4, 4)}
    with pytest.raises(UsageError, match=r"which \w+ cannot; use level image or decision"):
        build_method("mask_any_net", **words)
    for level in ("image", "decision"):
        method = build_method("mask_any_net", **words, fusion={"level": level})
        method(*batch_for(2)).loss.backward()


@pytest.mark.parametrize(("maps", "depths"), [(3, [0, 1, 2, 3]), (4, [0, 1, 2, 4]), (5, [0, 1, 3, 5])])
def test_levels_count_maps(maps, depths):
    encoder = encoder_for(2, filters=tuple(range(4, 4 + maps)))
    assert [FusionConfig(level=level).depth(encoder) for level in LEVELS] == depths


def test_two_maps_have_no_middle():
    encoder = encoder_for(2, filters=(4, 6))
    with pytest.raises(UsageError, match="needs an encoder of three maps or more, and DynUNetEncoder has 2"):
        FusionConfig(level="mid").depth(encoder)
    assert FusionConfig(level="low").depth(encoder) == 1


@both_dims
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_reassembly_supports_every_target(dims, target):
    method = build(dims, target=target)
    step = method(*batch_for(dims))
    step.loss.backward()
    assert step.loss.isfinite()
    assert all(parameter.grad.any() for parameter in method.parameters() if parameter.requires_grad)
