"""KSampler, and the names that it offers."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrappersMP, add_wrapper
from comfy.samplers import KSampler
from torch import Tensor

import nodes

from ...instdiff_core.passes import next_seed, plan_passes
from .pictures import Latent
from .text import Conditioning

SAMPLERS, SCHEDULERS = KSampler.SAMPLERS, KSampler.SCHEDULERS
"""The names that KSampler offers, with those that other packs have added."""


def sample(model: Any, latent: Latent, positive: Conditioning, negative: Conditioning, **widgets: Any) -> Latent:
    """KSampler: the host's own sampling with its progress and preview; `widgets` are its arguments by name."""
    return nodes.common_ksampler(model=model, positive=positive, negative=negative, latent=latent, **widgets)[0]


def sample_in_passes(
    model: Any, latent: Latent, positive: Conditioning, negative: Conditioning, *, passes: int, seed: int, steps: int,
    denoise: float, **widgets: Any,
) -> Latent:  # fmt: skip
    """`sample`, its steps taken in passes (`plan_passes`), each with noise of its own."""
    for number, part in enumerate(plan_passes(passes, steps, denoise)):
        own = {"seed": next_seed(seed, number), "steps": part.steps, "denoise": part.strength}
        latent = sample(model, latent, positive, negative, **own, **widgets)
    return latent


def share_progress(model: Any, steps: int) -> Any:
    """A clone of a model whose samplings, one after the other, show their progress as parts of `steps`."""
    done = 0

    def outer_sample(
        executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, denoise_mask: Tensor | None,
        callback: Any = None, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        nonlocal done
        before, done = done, done + len(sigmas) - 1

        def show(step: int, denoised: Tensor, x: Tensor, total: int) -> Any:
            return callback(before + step, denoised, x, steps)

        shown = None if callback is None else show
        samples: Tensor = executor(noise, latent, sampler, sigmas, denoise_mask, shown, *args, **kwargs)
        return samples

    shared = model.clone()
    add_wrapper(WrappersMP.OUTER_SAMPLE, outer_sample, shared.model_options, is_model_options=True)
    return shared
