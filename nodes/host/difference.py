"""How differently a model takes the noise out of a picture for two prompts, by the host's own sampling."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from ...instdiff_core.diffedit import measure_disagreement
from .pictures import Latent, check_channels, get_samples
from .text import Conditioning

STEPS, SCHEDULER = 20, "normal"
"""The schedule in which `denoise` finds its noise level: KSampler's default steps, our samplers' scheduler."""


def noise_difference(
    model: Any,
    source: Conditioning,
    target: Conditioning,
    latent: Latent,
    *,
    seed: int,
    noise_samples: int,
    denoise: float,
) -> tuple[Tensor, tuple[int, int]]:
    """The mean over `noise_samples` of how far `target` and `source` are apart, and the size of the picture.

    ``[B, h, w]`` float32 in latent pixels, on the model's device, for DiffEdit's mask. The noise
    level is the one at which KSampler starts with this `denoise`. The host samples: it loads the
    model with its patches, sees to areas, controls and memory, shows progress, and may interrupt.
    A noise mask of the latent plays no part. Raises ``ValueError`` for a latent that is not of
    pictures or of another model, and for a `denoise` of 0.
    """
    samples = get_samples(latent)
    check_channels(model, samples)
    sigmas = comfy.samplers.KSampler(model, STEPS, model.load_device, "euler", SCHEDULER, denoise).sigmas
    if not len(sigmas):
        raise ValueError("without noise the prompts cannot differ: set denoise above 0")
    seeds = torch.randint(2**63 - 1, (noise_samples,), generator=torch.Generator().manual_seed(seed)).tolist()
    noises = [comfy.sample.prepare_noise(samples, each, latent.get("batch_index")) for each in seeds]
    guider = _BothPrompts(model)
    # not as "negative": some models condition that one in another way
    guider.inner_set_conds({"positive": target, "source": source})
    callback = latent_preview.prepare_callback(model, noise_samples)
    guider.sample(noises[0], samples, _NoiseSamples(noises), sigmas[:2], callback=callback, seed=seed)
    scale = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
    return torch.stack(guider.differences).mean(0), (samples.shape[-2] * scale, samples.shape[-1] * scale)


class _BothPrompts(comfy.samplers.CFGGuider):
    """Predicts with both prompts in one call, without guidance, and keeps their `differences`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.differences: list[Tensor] = []

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """What is left of `x` without the noise, by the target prompt."""
        prompts = [self.conds["positive"], self.conds["source"]]
        target, source = comfy.samplers.calc_cond_batch(self.inner_model, prompts, x, timestep, model_options or {})
        self.differences.append(measure_disagreement(target, source))
        return target


class _NoiseSamples(comfy.samplers.Sampler):
    """A sampler that mixes the picture with one noise after the other, and takes no step."""

    def __init__(self, noises: list[Tensor]) -> None:
        self.noises = noises

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        level, whole = sigmas[0], self.max_denoise(model_wrap, sigmas)
        mix = model_wrap.inner_model.model_sampling.noise_scaling
        for number, each in enumerate(self.noises):
            comfy.model_management.throw_exception_if_processing_interrupted()
            x = mix(level, each.to(noise), latent_image, whole)
            denoised = model_wrap(x, level.expand(len(x)), **extra_args)
            if callback is not None:
                callback(number, denoised, x, len(self.noises))
        return latent_image
