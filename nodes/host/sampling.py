"""KSampler, and the names that it offers."""

from __future__ import annotations

from typing import Any

from comfy.samplers import KSampler

import nodes

from .pictures import Latent
from .text import Conditioning

SAMPLERS, SCHEDULERS = KSampler.SAMPLERS, KSampler.SCHEDULERS
"""The names that KSampler offers, with those that other packs have added."""


def sample(model: Any, latent: Latent, positive: Conditioning, negative: Conditioning, **widgets: Any) -> Latent:
    """KSampler: the host's own sampling with its progress and preview; `widgets` are its arguments by name."""
    return nodes.common_ksampler(model=model, positive=positive, negative=negative, latent=latent, **widgets)[0]
