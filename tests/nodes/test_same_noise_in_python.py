"""A strength is the same noise in Python as in ComfyUI, and leads to the same picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from instdiff_core.options import FinishOptions
from instdiff_core.pipeline import finish, load_mini
from instdiff_core.pipeline.denoising import Schedule

pytestmark = pytest.mark.one_host


@pytest.mark.parametrize(
    ("steps", "strength"), [(10, 0.9), (10, 0.5), (20, 1.0), (8, 0.3), (7, 0.62), (1, 1.0), (50, 0.5)]
)
def test_a_strength_begins_and_goes_on_with_the_noise_of_k_sampler(host, steps, strength):
    levels = Schedule(load_mini(), steps, strength).levels
    sigmas = host.extra("BasicScheduler", model=host.model, scheduler="normal", steps=steps, denoise=strength)
    # whole timesteps there, parts of them here: at most half a one apart
    torch.testing.assert_close(torch.stack([level.ratio for level in levels]), sigmas, rtol=0.015, atol=0)


def test_the_same_strength_and_seed_give_the_same_picture(host):
    image, _ = host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)
    latent = host.vae.encode(image)
    options: dict[str, Any] = {"steps": 4, "cfg": 5.0}
    samples = host.k_sampler(latent, positive=host.prompt("a dog"), denoise=0.9, seed=3, **options)
    there = host.vae.decode(samples)[0]
    model = replace(load_mini(), inpainting=None)
    picture = (image[0] * 255).round().to(torch.uint8).numpy()
    everywhere, start = np.ones(picture.shape[:2], bool), model.encode([picture])
    here = finish(
        model, picture, everywhere, start, "a dog", options=FinishOptions(strength=0.9, passes=1, **options), seed=3
    )  # fmt: skip
    assert (torch.from_numpy(here) / 255 - there).abs().mean() < 0.01


@pytest.mark.parametrize(("side", "inpaints"), [(48, True), (200, True), (200, False)])
def test_the_finish_paints_the_same_in_its_passes_and_crops(host, side, inpaints):
    image, _ = host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)
    mask = torch.zeros(1, 256, 256)
    mask[:, 24 : 24 + side, 32 : 32 + side] = 1
    options: dict[str, Any] = {"steps": 8, "cfg": 5.0, "passes": 2}
    inputs = host.sampling(None) | {"vae": host.vae, "image": image, "mask": mask, "positive": host.prompt("a dog")}
    del inputs["latent_image"]
    if inpaints:
        inputs["model"] = host.inpainting_model
    samples = {"samples": host.vae.encode(image)}
    there, _ = host.run("InstDiffInpaintFinish", **inputs | options | {"denoise": 0.9, "samples": samples})
    model = load_mini() if inpaints else replace(load_mini(), inpainting=None)
    picture = (image[0] * 255).round().to(torch.uint8).numpy()
    here = finish(
        model, picture, mask[0].bool().numpy(), model.encode([picture]), "a dog",
        options=FinishOptions(strength=0.9, **options), seed=3,
    )  # fmt: skip
    changed = (there != image).any(-1)[0]
    assert changed.any()
    assert (torch.from_numpy(here) / 255 - there[0])[changed].abs().mean() < 0.02
