"""Models whose layers, or whose latents, change their size on the way."""

import pytest
import torch


def patched(host, model, block):
    """Kohya's deep shrink, for most of the steps."""
    options = {"downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.8, "downscale_after_skip": True}
    methods = {"downscale_method": "bicubic", "upscale_method": "bicubic"}
    return host.extra("PatchModelAddDownscale", model=model, block_number=block, **options, **methods)


@pytest.mark.parametrize(
    ("order", "block"),
    [
        pytest.param("before", 1, marks=pytest.mark.one_host),
        pytest.param("after", 2, marks=pytest.mark.one_host),
        ("before", 3),
        ("after", 3),
    ],
)
def test_deep_shrink_changes_the_grid_from_step_to_step(host, block, order):
    """Kohya's deep shrink makes some layers coarser in the first steps only."""
    latent, truth = host.scene("cat")
    model = patched(host, host.model, block) if order == "before" else host.model
    model, passed, attention = host.run("InstDiffMaskGuidance", model=model, latent={"samples": latent})
    if order == "after":
        model = patched(host, model, block)
    sampled = host.nodes.KSampler().sample(
        **host.sampling(None, latent_image=passed, model=model, steps=6, denoise=0.5)
    )[0]
    mask, *_ = host.run("InstDiffRefineMask", attention=attention, sampled=sampled)
    assert host.iou(mask, truth) > 0.75
    assert (sampled["samples"] == latent).all(1).any()


def windowed(host, model, length, dim):
    """The host's Context Windows over a dimension of the latent."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    known = {each.id: getattr(each, "default", None) for each in ContextWindowsManualNode.define_schema().inputs}
    windows = {"model": model, "context_length": length, "context_overlap": 1, "dim": dim, "fuse_method": "pyramid"}
    return host.extra("ContextWindowsManualNode", **known | windows | {"context_schedule": "standard_static"})


@pytest.mark.parametrize(("dim", "whole"), [(0, 4), (2, 16), (3, 24)], ids=["batch", "height", "width"])
def test_context_windows_are_refused_before_sampling_and_whole_ones_change_nothing(host, make_latent, dim, whole):
    """Over a batch, and over the height and the width of a picture."""
    latent = make_latent(4 if dim == 0 else 1, 16, 24)
    steps = []

    def counting(apply_model, args):
        steps.append(1)
        return apply_model(args["input"], args["timestep"], **args["c"])

    short = windowed(host, host.model, whole // 2, dim)
    short.set_model_unet_function_wrapper(counting)
    with pytest.raises(ValueError, match=f"leave the Context Windows node out, or set its .* to at least {whole}"):
        host.edit(latent, model=short)
    assert not steps
    assert torch.equal(host.edit(latent, model=windowed(host, host.model, whole, dim))[0], host.edit(latent)[0])


def test_a_sampler_that_enlarges_the_latent_is_refused_with_the_remedy(host, latent):
    model, passed, _ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    prompts = {"positive": host.prompt("a frog"), "negative": host.other_prompt()}
    inputs = {
        "noise": host.extra("RandomNoise", noise_seed=3),
        "guider": host.extra("CFGGuider", model=model, cfg=5.0, **prompts),
        "sampler": host.extra("SamplerLCMUpscale", scale_ratio=1.5, scale_steps=-1, upscale_method="bislerp"),
        "sigmas": host.extra("BasicScheduler", model=model, scheduler="normal", steps=5, denoise=0.6),
    }
    with pytest.raises(ValueError, match="choose another sampler, and upscale the edited latent afterwards"):
        host.extra("SamplerCustomAdvanced", **inputs, latent_image=passed)


@pytest.mark.one_host
def test_a_second_pass_on_an_upscaled_latent_takes_the_first_passs_mask(host):
    """As in "hires fix": the refusal says how, and that works."""
    latent, truth = host.scene("cat")
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    common = {"steps": 6, "denoise": 0.5, "model": model}
    first = host.nodes.KSampler().sample(**host.sampling(None, latent_image=passed, **common))[0]
    larger = host.nodes.LatentUpscaleBy().upscale(first, "nearest-exact", 1.5)[0]
    with pytest.raises(ValueError, match="Masked Sampler behind the upscaling, with the mask of the first pass"):
        host.nodes.KSampler().sample(**host.sampling(None, latent_image=larger, **common))
    mask, *_ = host.run("InstDiffRefineMask", attention=attention, sampled=first)
    second, edited, _ = host.edit(larger["samples"], mask=mask, steps=4, denoise=0.3)
    changed = (second != larger["samples"]).any(1)
    wanted = torch.nn.functional.interpolate(truth[:, None].float(), changed.shape[-2:], mode="area")[:, 0] > 0.5
    assert host.iou(changed.float(), wanted) > 0.75
    assert edited.shape == (1, 384, 384)
