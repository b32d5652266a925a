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
