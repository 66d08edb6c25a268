"""MAE against its formula written out in float64."""

import pytest
from reconstruction_maker import batch_for, build, naive_loss, predictions_of


@pytest.mark.parametrize("dims", [2, 3])
def test_maes_loss_is_that_of_normalised_patches_of_hidden_cells(dims):
    method, (images, hidden) = build("mae", dims), batch_for(dims)
    seen = predictions_of(method)
    loss = method(images, hidden).loss.item()
    expected = naive_loss(seen[0], images, hidden, unit=2, cell=4, normalised=True, power=2)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_mae_computes_visible_patches_only():
    method, (images, hidden) = build("mae", 2), batch_for(2)
    lengths = []
    method.encoder.blocks[0].register_forward_hook(lambda module, inputs, out: lengths.append(out.shape[1]))
    method(images, hidden)
    assert lengths == [4 * int((~hidden[0]).sum())]  # four patches a cell


def test_the_prediction_layer_is_initialised_as_a_linear_layer_of_mae():
    predict = build("mae", 2, decoder_width=64).predict.linear
    outputs, inputs = predict.weight.flatten(1).shape
    limit = (6 / (inputs + outputs)) ** 0.5
    assert 0.95 * limit < predict.weight.abs().max() <= limit
    assert not predict.bias.any()
