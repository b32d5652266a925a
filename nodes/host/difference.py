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
from ...instdiff_core.options import DiffEditOptions
from .pictures import Latent, check_channels, drop_time, get_samples
from .sizes import latent_scale
from .text import Conditioning
from .wrapper import check_unwrapped


def measure_difference(
    model: Any, source: Conditioning, target: Conditioning, latent: Latent, options: DiffEditOptions, seed: int
) -> tuple[Tensor, tuple[int, int]]:
    """How far the predictions of `target` and `source` are apart, and the size of the picture.

    The mean over the noise samples, ``[B, h, w]`` float32 in latent pixels, on the model's device, for
    DiffEdit's mask. The noise level is the one at the options' strength in the model's own schedule,
    whatever the number of steps and the scheduler of the sampling that follows. The host samples: it
    loads the model with its patches, sees to areas, controls and memory, shows progress, and may
    interrupt. A noise mask of the latent plays no part. Raises ``ValueError`` for a latent that is not
    of pictures or of another model, and as `check_unwrapped`.
    """
    check_unwrapped(model)
    check_channels(model, get_samples(latent))
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**63 - 1, (options.noise_samples,), generator=generator).tolist()
    noises = [comfy.sample.prepare_noise(samples, noise_seed, latent.get("batch_index")) for noise_seed in seeds]
    guider = _BothPrompts(model)
    # not as "negative": some models condition that one in another way
    guider.inner_set_conds({"positive": target, "source": source})
    callback = latent_preview.prepare_callback(model, len(noises))
    sigmas = _noise_level(model, options.strength)
    guider.sample(noises[0], samples, _NoiseSamples(noises), sigmas, callback=callback, seed=seed)
    scale = latent_scale(model)
    return torch.stack(guider.differences).mean(0), (samples.shape[-2] * scale, samples.shape[-1] * scale)


def _noise_level(model: Any, strength: float) -> Tensor:
    """The sigma at a strength (above 0, to 1) in the model's training schedule, ``[1]`` float32."""
    sampling = model.get_model_object("model_sampling")
    # at full strength the host gives infinity
    return torch.tensor([sampling.percent_to_sigma(1 - strength)]).clamp(max=float(sampling.sigma_max))


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
        self.differences.append(measure_disagreement(drop_time(target), drop_time(source)))
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
        for number, sample in enumerate(self.noises):
            comfy.model_management.throw_exception_if_processing_interrupted()
            x = mix(level, sample.to(noise), latent_image, whole)
            denoised = model_wrap(x, level.expand(len(x)), **extra_args)
            if callback is not None:
                callback(number, denoised, x, len(self.noises))
        return latent_image
