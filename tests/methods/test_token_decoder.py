"""Token decoders: attention, visual cues, padding, options."""

import pytest
import torch

from medmim.encoders.patch_tokens import select_patches, wave_positions
from medmim.errors import UsageError
from medmim.methods.token_decoder import DECODERS, CrossDecoder

every_decoder = pytest.mark.parametrize("name", sorted(DECODERS))
GRID = (3, 4)


def build(name, **options):
    torch.manual_seed(0)
    return DECODERS[name](10, **{"width": 32, "depth": 2, **options})


def problem(counts=(7, 7), *, seed=0):
    """Latents of visible patches, who is visible and who is hidden, with these counts hidden."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.zeros(len(counts), *GRID, dtype=torch.bool)
    for sample, count in enumerate(counts):
        hidden[sample].view(-1)[torch.randperm(12, generator=generator)[:count]] = True
    visible = select_patches(~hidden)
    latents = torch.randn(*visible.index.shape, 10, generator=generator)
    return latents, visible, select_patches(hidden)


@every_decoder
@pytest.mark.parametrize("cues", [False, True])
def test_samples_of_unequal_counts_are_decoded_as_if_alone(name, cues):
    decoder = build(name, cues=cues)
    latents, visible, wanted = problem((3, 8))
    latents = latents.where(visible.weight.bool(), 1e3)  # what stands at fillers must not matter
    together = decoder(latents, visible, wanted, GRID)
    for sample, count in enumerate((3, 8)):
        hidden = torch.zeros(12, dtype=torch.bool)
        hidden[wanted.index[sample, :count]] = True
        alone = select_patches(hidden.reshape(1, *GRID)), select_patches(~hidden.reshape(1, *GRID))
        expected = decoder(latents[[sample], : 12 - count], alone[1], alone[0], GRID)
        torch.testing.assert_close(together[[sample], :count], expected, rtol=1e-5, atol=1e-5)


@every_decoder
def test_hidden_patches_depend_on_every_visible_one(name):
    decoder = build(name)
    latents, visible, wanted = problem()
    latents.requires_grad_()
    decoder(latents, visible, wanted, GRID)[0, 0].square().sum().backward()
    assert latents.grad[0].any(dim=1).all()
    assert not latents.grad[1].any()


@every_decoder
@pytest.mark.parametrize("cues", [False, True])
def test_gradients_reach_every_parameter(name, cues):
    decoder = build(name, cues=cues)
    decoder(*problem(), GRID).square().mul(torch.arange(32)).sum().backward()
    for place, parameter in decoder.named_parameters():
        assert parameter.grad.any(), place


def test_the_cross_decoder_does_not_update_visible_patches():
    decoder, contexts = build("cross"), []
    for block in decoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: contexts.append(inputs[1]))
    decoder(*problem(), GRID)
    assert len(contexts) == 2
    assert torch.equal(*contexts)


@every_decoder
def test_visual_cues_are_visible_embeddings_weighted_by_position_similarity(name):
    decoder, seen = build(name, cues=True), []
    through = decoder._through
    decoder._through = lambda queries, *rest: seen.append(queries) or through(queries, *rest)
    latents, visible, wanted = problem()
    decoder(latents, visible, wanted, GRID)
    waves = wave_positions(GRID, 32, device=torch.device("cpu")).double()
    for sample in range(2):
        keys, asked = waves[visible.index[sample]], waves[wanted.index[sample]]
        weights = (asked @ keys.T / 32**0.5).softmax(dim=-1)
        cue = weights @ decoder.embed(latents[sample]).double()
        torch.testing.assert_close(
            seen[0][sample].double(), decoder.token[0].double() + asked + cue, rtol=1e-4, atol=1e-5
        )


def test_cues_have_no_parameters():
    assert build("cross", cues=True).state_dict().keys() == build("cross", cues=False).state_dict().keys()


@pytest.mark.parametrize(("in_width", "width"), [(192, 96), (48, 32), (768, 384)])
def test_the_width_is_half_of_the_encoders_by_default(in_width, width):
    assert CrossDecoder(in_width).width == width


@pytest.mark.parametrize("words", [{"depth": 0}, {"width": 97}])
def test_invalid_options_are_rejected(words):
    with pytest.raises(
        UsageError, match=r"^decoder: expected a depth of at least 1 and a width that is a mult"
    ):
        build("self", **words)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_hidden_patches_depend_on_a_class_token_in_the_decoder(name):
    torch.manual_seed(0)
    decoder = DECODERS[name](32, width=32, depth=1, cues=False)
    hidden = torch.tensor([[[True, False], [False, True]], [[True, True], [False, True]]])  # unequal counts
    visible, wanted = select_patches(~hidden), select_patches(hidden)
    latents, token = torch.randn(2, 2, 32), torch.randn(2, 1, 32)
    outputs = [decoder(latents, visible, wanted, (2, 2), extra) for extra in (None, token, 2 * token)]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])


def test_cross_attention_is_initialised_as_two_linear_layers():
    weight = build("cross").blocks[0].across.in_proj_weight
    for part, outputs in ((weight[:32], 32), (weight[32:], 64)):
        limit = (6 / (32 + outputs)) ** 0.5
        assert 0.95 * limit < part.abs().max() <= limit
