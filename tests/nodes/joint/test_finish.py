"""Inpaint Finish with models and VAEs of video, of which a picture is one frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def video_vae(host: Any) -> Any:
    """Wan's VAE, which Qwen-Image uses too, with a few random weights."""
    import comfy.ldm.wan.vae
    import comfy.sd

    small = comfy.ldm.wan.vae.WanVAE(dim=2, z_dim=16, temperal_downsample=[False, True, True])
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(value.shape, generator=generator) * 0.1 + ("gamma" in key)
        for key, value in small.state_dict().items()
    }
    try:
        return comfy.sd.VAE(sd=state)
    except RuntimeError:
        pytest.skip("this ComfyUI loads Wan's VAE in its full size alone")


@pytest.mark.parametrize("name", ["qwen_image", "wan"])
@pytest.mark.parametrize("count", [1, 2])
def test_pictures_are_edited_and_finished(host, joint_family, video_vae, make_picture, name, count):
    family, image = joint_family(name), make_picture(count, 67, 100)
    latent = torch.cat([video_vae.encode(picture[None]) for picture in image])
    assert latent.shape == (count, 16, 1, 8, 12)
    samples, _, attention = host.edit(latent, **family.inputs())
    mask = host.run("InstDiffRefineMask", attention=attention, image=image)[0]
    assert mask.shape == (count, 67, 100)
    half = torch.zeros(1, 67, 100)
    half[..., 20:50, 20:50] = 1
    inputs = family.inputs()
    finished, area = host.run(
        "InstDiffInpaintFinish", image=image, mask=half, vae=video_vae, samples={"samples": samples},
        **{key: inputs[key] for key in ("model", "positive", "negative", "steps")},
    )  # fmt: skip
    assert finished.shape == image.shape
    outside = area == 0
    assert torch.equal(finished[outside], image[outside])
    assert (finished != image).any(-1)[:, 20:50, 20:50].float().mean() > 0.9


@pytest.mark.one_host
def test_what_is_small_is_painted_at_the_models_size_and_nothing_else(host, joint_family, video_vae, make_picture):
    inputs, image, mask = joint_family("wan").inputs(), make_picture(1, 336, 340), torch.zeros(1, 336, 340)
    mask[:, 100:140, 200:230] = 1
    sizes = []

    def note(apply, given):
        sizes.append(tuple(given["input"].shape[1:]))
        return apply(given["input"], given["timestep"], **given["c"])

    model = inputs["model"].clone()
    model.set_model_unet_function_wrapper(note)
    finished, area = host.run(
        "InstDiffInpaintFinish", model=model, image=image, mask=mask, vae=video_vae, steps=1, cfg=1.0,
        samples={"samples": video_vae.encode(image)}, **{key: inputs[key] for key in ("positive", "negative")},
    )  # fmt: skip
    assert set(sizes) == {(16, 1, 128, 128)}
    assert torch.equal(finished[area == 0], image[area == 0])
    assert (finished != image).any(-1)[mask > 0].float().mean() > 0.9
