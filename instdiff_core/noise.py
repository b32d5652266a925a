"""How a picture, noise and what the model sees of them belong together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level: what the model sees is ``signal * clean latent + noise * noise sample``.

    Two scalar tensors, 0 and above. Eps and v models of the host: 1 and sigma; flow models: 1 - sigma and sigma;
    diffusers' schedules: the roots of alphas_cumprod and of the rest.
    """

    signal: Tensor
    noise: Tensor

    @cached_property
    def ratio(self) -> Tensor:
        """Noise to signal: the sigma of a model whose signal is 1."""
        return self.noise / self.signal

    def noised(self, image_latent: Tensor, sample: Tensor) -> Tensor:
        """What the model sees of clean latents and a noise sample."""
        return self.signal * image_latent + self.noise * sample

    def noise_in(self, x: Tensor, image_latent: Tensor) -> Tensor:
        """The noise sample in `x`, noisy latents, that the latents `image_latent` leave."""
        return (x - self.signal * image_latent) / self.noise

    def error(self, predicted: Tensor, image_latent: Tensor) -> Tensor:
        """How far clean latents as `predicted` are from `image_latent`, in noise samples, float32."""
        return (predicted - image_latent).float() / self.ratio


def make_noise(image_latent: Tensor, seed: int) -> Tensor:
    """The noise of a seed, the same for every picture of a batch and on every device, like `image_latent`."""
    noise = torch.randn(image_latent.shape[1:], generator=torch.Generator().manual_seed(seed))
    return noise.to(image_latent).expand_as(image_latent)


def make_opposed_noise(image_latent: Tensor, number: int) -> Tensor:
    """The noise of a number, 0 and above: 0 and 1, 2 and 3, and so on are opposed, so that chance cancels in a mean."""
    noise = make_noise(image_latent, number // 2)
    return -noise if number % 2 else noise
