"""The flow model that we train and the host's Flux class are one model, and so are its two text encoders."""

import sys
from dataclasses import asdict

import pytest
import torch

pytest.importorskip("diffusers")

from transformers import CLIPTokenizer

from instdiff_core.metrics import iou
from instdiff_core.mini import FOLDER
from instdiff_core.mini.training.flow import FlowSubject
from instdiff_core.mini.training.flux import Flow, FlowConfig
from instdiff_core.mini.training.words import token_ids
from instdiff_core.mini.training.world import texts
from tests.flow_model import diffusion_model_layout, load_flow

from .conftest import PACK


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture
def twins(host):
    """A model of ours with weights that all matter, and the host's with the same."""
    from comfy.ldm.flux.model import Flux
    from comfy.ops import disable_weight_init

    torch.manual_seed(5)
    config = FlowConfig(
        hidden_size=64, num_heads=2, depth=2, depth_single_blocks=2, context_in_dim=24, axes_dim=(8, 12, 12)
    )
    ours = Flow(config)
    theirs = Flux(**diffusion_model_layout(asdict(config)), dtype=torch.float32, operations=disable_weight_init)
    names = set(theirs.state_dict())
    with torch.no_grad():
        # the pooled text's weights stay zero: nothing of it is used
        for parameter in (each for each in ours.parameters() if each.requires_grad):
            parameter.copy_(torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5)
    renamed = {
        name if name in names else name.replace(".scale", ".weight"): value for name, value in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    return ours, theirs


@pytest.mark.parametrize(("height", "width", "words"), [(32, 32, 16), (8, 20, 5), (16, 6, 77)])
@torch.no_grad()
def test_the_trained_model_is_the_hosts_flux(twins, height, width, words):
    ours, theirs = twins
    latents, context = torch.randn(2, 4, height, width), torch.randn(2, words, 24)
    sigmas = torch.tensor([0.9, 0.3])
    expected = theirs(latents, sigmas, context, torch.zeros(2, 1))
    torch.testing.assert_close(ours(latents, sigmas, context), expected, atol=2e-6, rtol=2e-6)


@torch.no_grad()
def test_what_is_written_is_read_by_the_host_with_the_same_words_and_velocity(host, tokenizer, tmp_path):
    torch.manual_seed(6)
    trained = FlowSubject(token_ids(tokenizer, texts()).flatten().tolist())
    for parameter in trained.flow.final_layer.parameters():
        parameter.normal_(std=0.1)
    trained.write(tmp_path)
    model, clip = load_flow(sys.modules[f"{PACK}.nodes.host.mini_model"], tmp_path)
    text = "a red car on the grass"
    context = clip.encode_from_tokens(clip.tokenize(text))
    expected = trained.words(token_ids(tokenizer, [text], context.shape[1]))
    torch.testing.assert_close(context, expected, atol=2e-3, rtol=2e-3)
    latents, sigmas = torch.randn(1, 4, 32, 32), torch.tensor([0.6])
    predicted = model.model.diffusion_model(latents, sigmas, context, torch.randn(1, 1))
    torch.testing.assert_close(predicted.float(), trained.flow(latents, sigmas, expected), atol=1e-2, rtol=1e-2)


@pytest.fixture(scope="module")
def flow(host):
    """MODEL and CLIP with the weights of the benchmark."""
    return load_flow(sys.modules[f"{PACK}.nodes.host.mini_model"])


def test_the_mask_of_an_edit_lies_on_the_object(host, flow):
    model, clip = flow
    picture, truth = host.run("InstDiffMiniScene", object="panda", background="sand", seed=2)
    _, mask, _ = host.edit(
        host.vae.encode(picture), model=model, cfg=3.0, denoise=0.4, steps=8, scheduler="simple",
        positive=host.run("InstDiffEncodeEditPrompt", clip=clip, text="a red car"),
        negative=clip.encode_from_tokens_scheduled(clip.tokenize("")),
    )  # fmt: skip
    assert iou(mask.bool(), truth.bool()).item() > 0.8
