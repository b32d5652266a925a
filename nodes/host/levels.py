"""Noise levels, as the host's models have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...instdiff_core.noise import NoiseLevel


def find_noise_level(model_sampling: Any, sigma: Tensor) -> NoiseLevel:
    """The noise level of a model's sigma, by how the model mixes a picture with nothing, and noise with nothing."""
    picture, noise = torch.eye(2, dtype=sigma.dtype, device=sigma.device)
    return NoiseLevel(*model_sampling.noise_scaling(sigma, noise, picture))


def find_sigma(model_sampling: Any, ratio: float) -> Tensor:
    """The sigma at which there is `ratio` times as much noise as picture, or the model's largest."""
    half = find_noise_level(model_sampling, torch.tensor(0.5))
    # the picture keeps its size, or makes room for the noise, in equal steps (flow)
    sigma = ratio if half.signal == 1 else ratio / (ratio + half.ratio)
    return torch.as_tensor(sigma).clamp(max=float(model_sampling.sigma_max))
