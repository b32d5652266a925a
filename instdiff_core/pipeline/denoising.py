"""The DDIM loop for diffusers models, with the picture put back outside a mask after every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from .. import rest
from ..blend import keep_edits
from ..evidence import Predictions
from ..noise import NoiseLevel, make_opposed_noise
from ..noise import make_noise as make_shared_noise
from .model import EditModel

Progress = Callable[[int, int], None]
"""Called after every step with the number of steps done and the number of all."""

MasksOfStep = Callable[[NoiseLevel, Sequence[Predictions]], Sequence[Tensor]]
"""The mask of each edit ``[B, h, w]`` bool after a step, without overlap, from the step's noise level and what the
model made of it for each."""


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a sampling in `steps`, at `strength` (above 0, to 1): KSampler's, with scheduler "normal".

    As there the number of steps does not depend on the strength: a lower one takes finer steps.
    Raises ``ValueError`` for more steps than the model was trained on levels.
    """

    model: EditModel
    steps: int
    strength: float

    def __post_init__(self) -> None:
        levels = self.model.scheduler.config.num_train_timesteps
        if self._steps_of_whole > levels:
            raise ValueError(
                f"steps {self.steps} at strength {self.strength} would need a schedule of more than {levels} steps: "
                "take fewer steps"
            )

    @property
    def _steps_of_whole(self) -> int:
        """The steps that strength 1 takes where `strength` takes `steps`."""
        return int(self.steps / self.strength)

    @property
    def timesteps(self) -> Tensor:
        """The model's timestep before each step, ``[steps]`` int64, down to 0; the last step leads to no noise."""
        last = self.model.scheduler.config.num_train_timesteps - 1
        return torch.linspace(last, 0, self._steps_of_whole).round().long()[-self.steps :]

    @property
    def levels(self) -> list[NoiseLevel]:
        """The noise level before each step, and none after the last, on the model's device."""
        signals = self.model.scheduler.alphas_cumprod[self.timesteps].to(self.model.device)
        return [_noise_level(signal) for signal in (*signals, torch.ones_like(signals[0]))]


def _make_scheduler(model: EditModel) -> DDIMScheduler:
    """The model's scheduler, for what its outputs predict at any timestep."""
    # not every configuration says that latents are never clipped, and DDIM's default is to clip
    scheduler = DDIMScheduler.from_config(model.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(scheduler.config.num_train_timesteps)
    return scheduler


def make_noise(latent: Tensor, seeds: Sequence[int], noise_samples: int = 1) -> Tensor:
    """Noise ``[seeds * noise_samples, C, h, w]`` of the latents' type, the same for a seed on every device."""
    shape = (noise_samples, *latent.shape[1:])
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(noise).to(latent)


def predict_at_almost_pure_noise(
    model: EditModel, image_latent: Tensor, context: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """`rest.Predict` for one picture ``[1, C, h, w]``, with the contexts ``[2, L, D]`` of a prompt and of none."""
    scheduler = _make_scheduler(model)
    step, level = _find_step(model, rest.ALMOST_PURE)
    noisy = level.noised(image_latent, make_opposed_noise(image_latent, number))
    outputs = model.predict(noisy.expand(2, -1, -1, -1), step, context)
    with_prompt, without = scheduler.step(outputs, step, noisy).pred_original_sample.split(1)
    return with_prompt, without


def predict_in_a_look(
    model: EditModel, image_latents: Tensor, context: Tensor, cfg: float, ratio: float, seed: int
) -> tuple[NoiseLevel, list[Predictions]]:
    """What the model makes of pictures with `ratio` of noise to signal, the noise of a seed, for each edit.

    The other arguments are those of `denoise`.
    """
    step, level = _find_step(model, ratio)
    noisy = level.noised(image_latents, make_shared_noise(image_latents, seed))
    return level, _predict(model, _make_scheduler(model), step, noisy, context, cfg, image_latents)


def encode_prompts(model: EditModel, prompts: Sequence[Sequence[str]]) -> Tensor:
    """``[1 + edits, B, L, D]``: the contexts of empty prompts, then those of each edit, of which `prompts` has B."""
    return torch.stack([model.context([""]).expand(len(prompts[0]), -1, -1), *map(model.context, prompts)])


def denoise(
    schedule: Schedule,
    start: Tensor,
    image_latents: Tensor,
    noise: Tensor,
    context: Tensor,
    cfg: float,
    masks_of_step: MasksOfStep,
    progress: Progress,
    without: Tensor | None = None,
) -> Tensor:
    """Add `noise` to the clean latents `start`, denoise them, and keep `image_latents` outside the masks.

    Latents and noise ``[B, C, h, w]``; `context` ``[1 + edits, B, L, D]`` is `encode_prompts`'s; `cfg` is the
    scale of classifier-free guidance. Every edit has its own guided prediction of the same latents, and counts
    in its mask. With `without` (`EditModel.encode_without`) the inpainting model predicts. Returns clean latents
    ``[B, C, h, w]``.
    """
    model, levels = schedule.model, schedule.levels
    scheduler = _make_scheduler(model)
    latent = levels[0].noised(start, noise)
    of_rows = None if without is None else without.repeat(len(context), 1, 1, 1)
    for done, (step, (level, after)) in enumerate(zip(schedule.timesteps, pairwise(levels), strict=True), 1):
        predictions = _predict(model, scheduler, step, latent, context, cfg, image_latents, of_rows)
        masks = masks_of_step(level, predictions)
        guided = [of_edit.guided for of_edit in predictions]
        stepped = [after.noised(of_edit, level.noise_in(latent, of_edit)) for of_edit in guided]
        latent = keep_edits(masks, stepped, after.noised(image_latents, noise))
        progress(done, schedule.steps)
    return latent


def _predict(
    model: EditModel,
    scheduler: DDIMScheduler,
    step: Tensor,
    latent: Tensor,
    context: Tensor,
    cfg: float,
    image_latents: Tensor,
    of_rows: Tensor | None = None,
) -> list[Predictions]:
    """What the model makes of a noisy `latent` for each edit. The other arguments are those of `denoise`.

    `of_rows` is its `without` for each row of the U-Net.
    """
    rows = model.predict(latent.repeat(len(context), 1, 1, 1), step, context.flatten(0, 1), of_rows)
    unconditional, *conditional = rows.chunk(len(context))
    directed = [unconditional + cfg * (of_edit - unconditional) for of_edit in conditional]
    without_prompt, *clean = (
        scheduler.step(output, step, latent).pred_original_sample for output in (unconditional, *conditional, *directed)
    )
    with_prompt, guided = clean[: len(conditional)], clean[len(conditional) :]
    return [Predictions(*of_edit, without_prompt, image_latents) for of_edit in zip(guided, with_prompt, strict=True)]


def _find_step(model: EditModel, ratio: float) -> tuple[Tensor, NoiseLevel]:
    """The model's timestep nearest to this ratio of noise to signal, and its level."""
    signals = model.scheduler.alphas_cumprod
    step = ((1 / signals - 1).sqrt() - ratio).abs().argmin()
    return step, _noise_level(signals[step].to(model.device))


def _noise_level(signal: Tensor) -> NoiseLevel:
    """That of a step's alphas_cumprod."""
    return NoiseLevel(signal.sqrt(), (1 - signal).sqrt())
