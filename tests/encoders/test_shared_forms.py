import pytest
import torch
import torch.nn.functional as F

from medmim.encoders import mask, pack
from medmim.errors import ShapeError

kinds = pytest.mark.parametrize(("hide", "kind"), [(mask, "masked"), (pack, "packed")])
HIDDEN = torch.tensor([[[True, False], [False, True]], [[False, True], [True, True]]])
IMAGES = torch.arange(2 * 4 * 4 * 4.0).reshape(2, 4, 4, 4)
VISIBLE = ~HIDDEN.repeat_interleave(2, 1).repeat_interleave(2, 2).unsqueeze(1)
SHOWN = IMAGES * VISIBLE


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.permute(0, 2, 3, 1).permute((0, 3, 1, 2)).permute(0, 1, 2, 3),
        lambda x: x.movedim(1, -1),
        lambda x: torch.cat([x, x * 2], axis=1),
        lambda x: torch.cat(x.movedim(1, -1).split([1, 3], -1)[::-1], -1),
        lambda x: x[:, 1:3] + x[:, [0, 2]],
        lambda x: x.movedim(1, -1)[..., :2],
        lambda x: x.to(torch.float64, memory_format=torch.contiguous_format),
        lambda x: x.movedim(1, -1) + torch.zeros(4),
    ],
)
@kinds
def test_forms_equal_those_of_tensors_with_zeros(hide, kind, form):
    result, expected = form(hide(IMAGES, HIDDEN)), form(SHOWN)
    assert result.shape == expected.shape
    assert torch.equal(result.unpack(), expected)


@kinds
def test_softmax_is_over_the_channels_of_visible_voxels(hide, kind):
    result = F.softmax(hide(IMAGES, HIDDEN), dim=1).unpack()
    torch.testing.assert_close(result, SHOWN.softmax(1) * VISIBLE)


@pytest.mark.parametrize("last", [False, True])
@kinds
def test_reductions_are_over_visible_voxels(hide, kind, last):
    value = hide(IMAGES - 200, HIDDEN)  # hidden zeros would be the maximum
    value, space = (value.movedim(1, -1), (1, 2)) if last else (value, (2, 3))
    shown = [image[:, visible[0]] for image, visible in zip(IMAGES - 200, VISIBLE, strict=True)]
    torch.testing.assert_close(value.mean(space), torch.stack([one.mean(1) for one in shown]))
    norms = torch.stack([one.norm(dim=1) for one in shown])
    torch.testing.assert_close(torch.norm(value, dim=space, keepdim=True).flatten(1), norms)
    if not last:
        highest = torch.stack([one.amax(1) for one in shown])
        assert torch.equal(F.adaptive_max_pool2d(value, 1), highest[:, :, None, None])
        torch.testing.assert_close(F.adaptive_avg_pool2d(value, (1, 1)).flatten(1), value.mean(space))


@kinds
def test_channel_norms_equal_those_of_tensors_on_visible_voxels(hide, kind):
    value, dense = hide(IMAGES, HIDDEN).movedim(1, -1), IMAGES.movedim(1, -1)
    for norm in (torch.nn.LayerNorm(4), torch.nn.RMSNorm(4)):
        torch.testing.assert_close(norm(value).unpack(), norm(dense) * VISIBLE.movedim(1, -1))
    with pytest.raises(ShapeError, match=rf"'layer_norm' over \(4, 4\) of {kind} .*: expected channels last"):
        F.layer_norm(value, (4, 4))


@kinds
def test_a_new_tensor_has_dtype_and_device_of_the_value(hide, kind):
    value = hide(IMAGES.double(), HIDDEN)
    new = value.new_zeros(3)
    assert (type(new), new.dtype, new.device) == (torch.Tensor, value.dtype, value.device)
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda x: x.permute(0, 1, 3, 2),
            r"'permute' to \(0, 1, 3, 2\) has no {} form, only channels last and back",
        ),
        (lambda x: x.softmax(2), "'softmax' over axis 2 has no {} form, only over channels"),
        (lambda x: x.mean((1, 2)), r"'mean' over axes \(1, 2\) has no {} form, only over all spatial axes"),
        (lambda x: x.norm(p=1, dim=(2, 3)), "'norm' of order 1 has no {} form, only 2 over space"),
        (lambda x: x[:, :, 0], r"'indexing' with .* has no {} form, only slices of channels"),
    ],
)
@kinds
def test_other_uses_are_rejected_with_advice(hide, kind, use, message):
    with pytest.raises(ShapeError, match=f"^{message.format(kind)}: use an encoder without it$"):
        use(hide(IMAGES, HIDDEN))


@kinds
def test_values_of_other_forwards_and_axis_orders_do_not_mix(hide, kind):
    value = hide(IMAGES, HIDDEN)
    for mixed in (lambda: value + hide(IMAGES, HIDDEN.clone()), lambda: torch.cat([value, IMAGES], 1)):
        with pytest.raises(ShapeError, match="expected values of one forward, got values with different"):
            mixed()
    with pytest.raises(
        ShapeError, match=f"'add' of {kind} .*, channels first and channels last: permute one"
    ):
        value + value.movedim(1, -1)
    with pytest.raises(ShapeError, match=rf"{kind} .* are divided along channels \(dim=1\), got dim=2"):
        value.chunk(2, 2)
    with pytest.raises(ShapeError, match=rf"{kind} .* are concatenated along channels \(dim=1\), got dim=2"):
        torch.cat([value, value], 2)
