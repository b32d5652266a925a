"""An edit with a diffusers model: sample with instant masks, then finish. The method is in the rest of the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..attention import word_maps
from ..blend import feather_mask, paste
from ..evidence import AttentionRecord, Predictions
from ..noise import NoiseLevel
from ..options import FINISH, PRESETS, SAMPLING, FinishOptions, MaskSettings, SamplingOptions
from ..refine import InstantMask, WordRoles, find_target_words
from ..report import collect_facts
from ..session import MaskSession
from ..tokens import PromptWords
from .denoising import Progress, Schedule, denoise, encode_prompts, make_noise
from .model import EditModel, Picture
from .reading import AttentionReader, Kind

Mask = NDArray[np.bool_]
"""``[H, W]``, true where a picture may change."""

NewSession = Callable[[int, PromptWords, MaskSettings], MaskSession]
"""The session of a picture of a batch, from its number, its words and the settings."""


@dataclass(frozen=True)
class Edit:
    """An edited picture and how it came about.

    `picture` has the size of the input, and so has `unfinished`, the sample before the finish. `mask`
    is the mask of the last step at that size, a batch of one, on the CPU. `latent`
    ``[1, C, h, w]`` is the sample before the finish: `finish` takes it again with other options.
    `timings` are seconds: encode, sample, finish.
    """

    picture: Picture
    unfinished: Picture
    mask: InstantMask
    latent: Tensor
    record: AttentionRecord
    timings: dict[str, float]

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the mask (`report.collect_facts`) and the timings, for JSON."""
        return {**collect_facts(self.mask, self.record.words), "timings": dict(self.timings)}


def edit(model: EditModel, picture: Picture, prompt: str, *, seed: int = 0, **options: Any) -> Edit:
    """Make `picture` show what the edit prompt says, and change it only where that is (docs/method.md).

    `options` are those of `edit_batch`, which says what is raised. The same seed gives the same result.
    """
    return edit_batch(model, [picture], [prompt], seeds=[seed], **options)[0]


@torch.no_grad()
def edit_batch(
    model: EditModel,
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    settings: MaskSettings = PRESETS["default"],
    sampling: SamplingOptions = SAMPLING,
    finishing: FinishOptions = FINISH,
    new_session: NewSession = lambda number, words, settings: MaskSession(words, settings),
    progress: Progress | None = None,
) -> list[Edit]:
    """Edit pictures of one size side by side, each by its own prompt and seed.

    Pictures of any size are sampled at the nearest size that fits the U-Net. `new_session` makes the
    sessions, for masks that do not come from the `settings`.

    Raises ``ValueError`` for pictures that are not uint8 ``[H, W, 3]`` of one size, a prompt without
    words or too long for the model, and a U-Net that cannot be read.
    """
    _check_batch(pictures, prompts, seeds)
    words = _read_words(model, prompts, settings)
    settings = replace(settings, share=settings.share or sampling.noise_samples > 1)
    report_progress = progress or (lambda done, total: None)
    schedule = Schedule(model, sampling.steps, sampling.strength)
    total = sampling.steps + (finishing.steps if finishing.strength else 0)

    started = _now(model.device)
    image_latents = model.encode(pictures)
    sessions = [new_session(number, prompt_words, settings) for number, prompt_words in enumerate(words)]
    encoded = _now(model.device)
    latents = _sample(
        schedule, sampling, image_latents, prompts, seeds, sessions, lambda done, _: report_progress(done, total)
    )
    masks = [
        first_mask(session.final(picture.shape[:2], settings, torch.tensor(picture).permute(2, 0, 1)[None] / 255))
        for session, picture in zip(sessions, pictures, strict=True)
    ]
    ended = _now(model.device)
    finished = _finish(
        model, finishing, pictures, image_latents, [mask.binary[0].numpy() for mask in masks], latents, prompts, seeds,
        lambda done, _: report_progress(sampling.steps + done, total),
    )  # fmt: skip
    seconds = {"encode": encoded - started, "sample": ended - encoded, "finish": _now(model.device) - ended}
    timings = {name: value / len(pictures) for name, value in seconds.items()}
    unfinished = model.decode(latents, pictures[0].shape[:2])
    records = [session.record(model.scale) for session in sessions]
    return [
        Edit(picture, sample, mask, latent[None], record, timings)
        for picture, sample, mask, latent, record in zip(finished, unfinished, masks, latents, records, strict=True)
    ]


@torch.no_grad()
def record_batch(
    model: EditModel,
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    settings: MaskSettings = PRESETS["default"],
    sampling: SamplingOptions = SAMPLING,
) -> list[AttentionRecord]:
    """What the sampling of `edit_batch` records, with nothing decoded or finished. Raises ``ValueError`` as it does."""
    _check_batch(pictures, prompts, seeds)
    sessions = [MaskSession(words, settings) for words in _read_words(model, prompts, settings)]
    schedule = Schedule(model, sampling.steps, sampling.strength)
    _sample(schedule, sampling, model.encode(pictures), prompts, seeds, sessions, lambda done, total: None)
    return [session.record(model.scale) for session in sessions]


@torch.no_grad()
def finish(
    model: EditModel,
    picture: Picture,
    mask: Mask,
    latent: Tensor,
    prompt: str,
    *,
    options: FinishOptions = FINISH,
    seed: int = 0,
    progress: Progress | None = None,
) -> Picture:
    """Regenerate the masked area so that it agrees with its surroundings, and put it into `picture`.

    `mask` ``[H, W]`` has the size of the picture, `latent` ``[1, C, h, w]`` is an edit's, to start
    from. Outside the grown mask the result is `picture` bit for bit.

    Raises ``ValueError`` for a picture that is not uint8 ``[H, W, 3]``, and for a mask or a latent of
    another size.
    """
    check_picture(picture)
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"the mask is {mask.shape}, the picture {picture.shape[:2]}")
    size = model.working_size(*picture.shape[:2])
    if tuple(latent.shape[-2:]) != tuple(side // model.scale for side in size):
        raise ValueError(f"the latent {tuple(latent.shape)} is not of a picture of {picture.shape[:2]}")
    image_latents, report_progress = model.encode([picture]), progress or (lambda done, total: None)
    return _finish(model, options, [picture], image_latents, [mask], latent, [prompt], [seed], report_progress)[0]


def _sample(
    schedule: Schedule,
    options: SamplingOptions,
    image_latents: Tensor,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sessions: Sequence[MaskSession],
    progress: Progress,
) -> Tensor:
    """Sample ``[pictures, C, h, w]``, whose masks the `sessions` make; of several noise samples, the first of each."""
    model, noise_samples = schedule.model, options.noise_samples
    context = encode_prompts(model, prompts)
    reader = AttentionReader(model.unet, (image_latents.shape[-2], image_latents.shape[-1]))
    matrices = [session.words.matrix(context.shape[2], model.device) for session in sessions]
    parts = [slice(number * noise_samples, (number + 1) * noise_samples) for number in range(len(sessions))]

    def observe(kind: Kind, q: Tensor, k: Tensor) -> None:
        for session, matrix, part in zip(sessions, matrices, parts, strict=True):
            if kind == "attn2":
                session.observe_words(word_maps(q[part], k[part], matrix, reader.grid))
            else:
                session.observe_self_attention(q[part], k[part], reader.grid)

    def mask_of_step(level: NoiseLevel, predictions: Predictions) -> Tensor:
        masks = [session.step(level, predictions.entries(part)) for session, part in zip(sessions, parts, strict=True)]
        return torch.cat([mask.expand(noise_samples, -1, -1) for mask in masks if mask is not None])

    repeated = image_latents.repeat_interleave(noise_samples, 0)
    noise = make_noise(image_latents, seeds, noise_samples)
    with reader.reading(observe):
        return denoise(
            schedule, repeated, repeated, noise, context.repeat_interleave(noise_samples, 1), options.cfg,
            mask_of_step, progress,
        )[::noise_samples]  # fmt: skip


def _finish(
    model: EditModel,
    options: FinishOptions,
    pictures: Sequence[Picture],
    image_latents: Tensor,
    masks: Sequence[Mask],
    latents: Tensor,
    prompts: Sequence[str],
    seeds: Sequence[int],
    progress: Progress,
) -> list[Picture]:
    """`finish` for a batch: `image_latents` and `latents` ``[pictures, C, h, w]``, of the pictures and their edits."""
    area, alpha = feather_mask(torch.from_numpy(np.stack(masks)).float(), options.grow, options.feather)
    if options.strength:
        changed = functional.adaptive_max_pool2d(area.float(), latents.shape[-2:]).to(model.device) > 0
        latents = denoise(
            Schedule(model, options.steps, options.strength), latents, image_latents,
            make_noise(image_latents, seeds), encode_prompts(model, prompts), options.cfg,
            lambda *_: changed, progress,
        )  # fmt: skip
    edited = model.decode(latents, pictures[0].shape[:2])
    before, after = (torch.from_numpy(np.stack(parts)).float() for parts in (pictures, edited))
    return list(paste(before, after, alpha).round().to(torch.uint8).numpy())


def first_mask(mask: InstantMask) -> InstantMask:
    """The first of a batch of masks, on the CPU."""
    roles = WordRoles(mask.roles.index[:1].cpu(), mask.roles.weights[:1].cpu())
    soft, binary, confidence, fits = (part[:1].cpu() for part in (mask.soft, mask.binary, mask.confidence, mask.fits))
    return InstantMask(soft, binary, roles, confidence, fits)


def _read_words(model: EditModel, prompts: Sequence[str], settings: MaskSettings) -> list[PromptWords]:
    """The words of the prompts. Raises ``ValueError`` for a prompt that lacks them, or a target of the settings."""
    words = [model.words(prompt) for prompt in prompts]
    for prompt_words in words:
        find_target_words(prompt_words, settings.target)
    return words


def _check_batch(pictures: Sequence[Picture], prompts: Sequence[str], seeds: Sequence[int]) -> None:
    for picture in pictures:
        check_picture(picture)
    if not pictures or len({picture.shape for picture in pictures}) != 1:
        raise ValueError("the pictures of a batch must be of one size")
    if not len(pictures) == len(prompts) == len(seeds):
        raise ValueError(f"{len(pictures)} pictures, {len(prompts)} prompts and {len(seeds)} seeds do not go together")


def check_picture(picture: Picture) -> None:
    """Raises ``ValueError`` for what is not uint8 ``[H, W, 3]``."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"a picture is uint8 [height, width, 3], not {picture.dtype} {list(picture.shape)}")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
