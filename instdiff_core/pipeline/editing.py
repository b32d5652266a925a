"""The edit around a DDIM loop: sample with instant masks, then finish. The method is in the rest of the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..attention import downscale_to_read, split_heads, word_maps
from ..blend import feather_mask, keep_original, paste
from ..evidence import AttentionRecord, Predictions
from ..noise import NoiseLevel
from ..refine import PRESETS, InstantMask, MaskSettings, WordRoles, find_target_words
from ..report import collect_facts
from ..session import MaskSession
from ..tokens import PromptWords
from .model import EditModel, Picture

Mask = NDArray[np.bool_]
"""``[H, W]``, true where a picture may change."""

Progress = Callable[[int, int], None]
"""Called after every step with the number of steps done and the number of all."""

NewSession = Callable[[int, PromptWords, MaskSettings], MaskSession]
"""The session of a picture of a batch, from its number, its words and the settings."""

MaskOfStep = Callable[[NoiseLevel, Predictions], Tensor]
"""The mask ``[B, h, w]`` bool after a step, from its noise level and what the model made of it."""


@dataclass(frozen=True)
class Edit:
    """An edited picture and how it came about.

    `picture` has the size of the input, and so has `unfinished`, the sample before the finish. `mask`
    is the mask of the last step at that size, a batch of one, on the CPU. `latent`
    ``[1, C, h, w]`` is the sample before the finish: `finish` takes it again with other settings.
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


def edit(model: EditModel, picture: Picture, prompt: str, *, seed: int = 0, **settings: Any) -> Edit:
    """Make `picture` show what the edit prompt says, and change it only where that is (docs/method.md).

    `settings` are those of `edit_batch`, which says what is raised. The same seed gives the same result.
    """
    return edit_batch(model, [picture], [prompt], seeds=[seed], **settings)[0]


@torch.no_grad()
def edit_batch(
    model: EditModel,
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    settings: MaskSettings = PRESETS["default"],
    new_session: NewSession = lambda number, words, settings: MaskSession(words, settings),
    strength: float = 0.5,
    steps: int = 50,
    cfg: float = 7.5,
    noise_samples: int = 1,
    finish_strength: float = 0.7,
    progress: Progress | None = None,
) -> list[Edit]:
    """Edit pictures of one size side by side, each by its own prompt and seed.

    `new_session` makes the sessions, where their masks are not to be those of the `settings`.
    `strength` (above 0, to 1) is the noise level to start from, out of a schedule of `steps`; `cfg`
    the guidance; `noise_samples` how many noise draws of a picture share one mask, of which the first
    becomes the result; `finish_strength` (0 to 1) that of `finish`. Pictures of any size are sampled
    at the nearest size that fits the U-Net.

    Raises ``ValueError`` for pictures that are not uint8 ``[H, W, 3]`` of one size, a value out of
    range, a prompt without words or too long for the model, and a U-Net that cannot be read.
    """
    for picture in pictures:
        _check_picture(picture)
    if not pictures or len({picture.shape for picture in pictures}) != 1:
        raise ValueError("the pictures of a batch must be of one size")
    if not len(pictures) == len(prompts) == len(seeds):
        raise ValueError(f"{len(pictures)} pictures, {len(prompts)} prompts and {len(seeds)} seeds do not go together")
    _check_range("strength", strength, 0, 1, open_low=True)
    _check_range("finish strength", finish_strength, 0, 1)
    _check_range("cfg", cfg, 0, 100)
    _check_range("noise_samples", noise_samples, 1, 64)
    words = [model.words(prompt) for prompt in prompts]
    for each in words:
        find_target_words(each, settings.target)
    scheduler = ddim(model, steps)
    settings = replace(settings, share=settings.share or noise_samples > 1)

    started = _now(model.device)
    image_latents = model.encode(pictures)
    repeated_latents = image_latents.repeat_interleave(noise_samples, 0)
    context = _contexts(model, prompts)
    size = (image_latents.shape[-2], image_latents.shape[-1])
    downscale, layers = _layers_to_read(model.unet, size)
    grid = (size[0] // downscale, size[1] // downscale)
    matrices = [each.matrix(context.shape[2], model.device) for each in words]
    sessions = [new_session(number, each, settings) for number, each in enumerate(words)]
    parts = [slice(number * noise_samples, (number + 1) * noise_samples) for number in range(len(pictures))]
    encoded = _now(model.device)

    def take(kind: str, q: Tensor, k: Tensor, heads: int) -> None:
        q, k = (split_heads(each, heads).float() for each in (q, k))
        for session, matrix, part in zip(sessions, matrices, parts, strict=True):
            if kind == "attn2":
                session.observe_words(word_maps(q[part], k[part], matrix, grid))
            else:
                session.observe_self_attention(q[part], k[part], grid)

    def masks_of(level: NoiseLevel, predictions: Predictions) -> Tensor:
        masks = [session.step(level, predictions.entries(part)) for session, part in zip(sessions, parts, strict=True)]
        return torch.cat([mask.expand(noise_samples, -1, -1) for mask in masks if mask is not None])

    sampled_steps, finish_steps = _count(steps, strength), _count(steps, finish_strength)
    on_step = progress or (lambda done, total: None)
    total = sampled_steps + finish_steps
    noise = torch.cat([noise_like(image_latents[:1].expand(noise_samples, -1, -1, -1), seed) for seed in seeds])
    with _reading(layers, take):
        latents = _denoise(
            model, scheduler, repeated_latents, repeated_latents, noise, sampled_steps,
            context.repeat_interleave(noise_samples, 1), cfg, masks_of, lambda done, _: on_step(done, total),
        )[::noise_samples]  # fmt: skip
    records = [session.record(model.scale) for session in sessions]
    final = [
        _first(session.final(picture.shape[:2], settings, torch.tensor(picture).permute(2, 0, 1)[None] / 255))
        for session, picture in zip(sessions, pictures, strict=True)
    ]
    sampled = _now(model.device)

    areas = [mask.binary[0].numpy() for mask in final]
    finished = _finish(
        model, pictures, image_latents, areas, latents, prompts, finish_strength, steps, cfg, seeds, None, None,
        lambda done, _: on_step(sampled_steps + done, total),
    )  # fmt: skip
    done = _now(model.device)
    unfinished = model.decode(latents, pictures[0].shape[:2])
    seconds = {"encode": encoded - started, "sample": sampled - encoded, "finish": done - sampled}
    timings = {name: value / len(pictures) for name, value in seconds.items()}
    return [
        Edit(picture, sample, mask, latent[None], record, timings)
        for picture, sample, mask, latent, record in zip(finished, unfinished, final, latents, records, strict=True)
    ]


@torch.no_grad()
def finish(
    model: EditModel,
    picture: Picture,
    mask: Mask,
    latent: Tensor,
    prompt: str,
    *,
    strength: float = 0.7,
    steps: int = 50,
    cfg: float = 7.5,
    seed: int = 0,
    grow: int | None = None,
    feather: int | None = None,
    progress: Progress | None = None,
) -> Picture:
    """Regenerate the masked area so that it agrees with its surroundings, and put it into `picture`.

    `mask` ``[H, W]`` has the size of the picture, `latent` ``[1, C, h, w]`` is an edit's. It is
    noised to `strength` (0 leaves it as it is, 1 is as good as pure noise) and denoised with the
    noised original outside the mask, which is grown by `grow` pixels first (default: 1/32 of the
    picture's shorter side) and gets an edge `feather` pixels soft (default: 1/64; `grow` at most) in
    what growing added. Outside the grown mask the result is `picture` bit for bit.

    Raises ``ValueError`` for a picture that is not uint8 ``[H, W, 3]``, a mask or a latent of
    another size, and a value out of range.
    """
    _check_picture(picture)
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"the mask is {mask.shape}, the picture {picture.shape[:2]}")
    size = model.working_size(*picture.shape[:2])
    if tuple(latent.shape[-2:]) != tuple(side // model.scale for side in size):
        raise ValueError(f"the latent {tuple(latent.shape)} is not of a picture of {picture.shape[:2]}")
    _check_range("finish strength", strength, 0, 1)
    _check_range("cfg", cfg, 0, 100)
    for name, value in (("grow", grow), ("feather", feather)):
        _check_range(name, value or 0, 0, min(mask.shape))
    on_step = progress or (lambda done, total: None)
    image_latents = model.encode([picture])
    return _finish(
        model, [picture], image_latents, [mask], latent, [prompt], strength, steps, cfg, [seed], grow, feather, on_step
    )[0]


def _finish(
    model: EditModel,
    pictures: Sequence[Picture],
    image_latents: Tensor,
    masks: Sequence[Mask],
    latents: Tensor,
    prompts: Sequence[str],
    strength: float,
    steps: int,
    cfg: float,
    seeds: Sequence[int],
    grow: int | None,
    feather: int | None,
    progress: Progress,
) -> list[Picture]:
    """`finish` for a batch: `image_latents` and `latents` ``[pictures, C, h, w]``, of the pictures and their edits."""
    side = min(masks[0].shape)
    grow, feather = side // 32 if grow is None else grow, side // 64 if feather is None else feather
    area, alpha = feather_mask(torch.from_numpy(np.stack(masks)).float(), grow, feather)
    if count := _count(steps, strength):
        changed = functional.adaptive_max_pool2d(area.float(), latents.shape[-2:]).to(model.device) > 0
        noise = torch.cat([noise_like(image_latents[:1], seed) for seed in seeds])
        latents = _denoise(
            model, ddim(model, steps), latents, image_latents, noise, count, _contexts(model, prompts), cfg,
            lambda *_: changed, progress,
        )  # fmt: skip
    edited = model.decode(latents, pictures[0].shape[:2])
    before, after = (torch.from_numpy(np.stack(parts)).float() for parts in (pictures, edited))
    return list(paste(before, after, alpha).round().to(torch.uint8).numpy())


def ddim(model: EditModel, steps: int) -> DDIMScheduler:
    """The model's noise schedule in `steps` DDIM steps. Raises ``ValueError`` for too few or too many."""
    # not every configuration says that latents are never clipped, and DDIM's default is to clip
    scheduler = DDIMScheduler.from_config(model.scheduler.config, clip_sample=False)
    _check_range("steps", steps, 1, scheduler.config.num_train_timesteps // 2)
    scheduler.set_timesteps(steps)
    return scheduler


def noise_like(latent: Tensor, seed: int) -> Tensor:
    """Noise of a latent's shape, the same for a seed on every device."""
    return torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).to(latent)


class _Reader:
    """An attention processor that shows the conditional rows' queries and keys, and changes nothing."""

    def __init__(self, previous: Any, take: Callable[[Tensor, Tensor, int], None]) -> None:
        self.previous, self.take = previous, take

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        seen, attended = hidden_states.chunk(2)[1], context.chunk(2)[1]
        self.take(attn.to_q(seen), attn.to_k(attended), attn.heads)
        output: Tensor = self.previous(attn, hidden_states, encoder_hidden_states, attention_mask)
        return output


@contextmanager
def _reading(layers: list[tuple[str, Attention]], take: Callable[[str, Tensor, Tensor, int], None]) -> Iterator[None]:
    previous = [layer.processor for _, layer in layers]
    try:
        for (kind, layer), processor in zip(layers, previous, strict=True):
            layer.set_processor(_Reader(processor, partial(take, kind)))
        yield
    finally:
        for (_, layer), processor in zip(layers, previous, strict=True):
            layer.set_processor(processor)


def _layers_to_read(unet: UNet2DConditionModel, size: tuple[int, int]) -> tuple[int, list[tuple[str, Attention]]]:
    """The downscaling to read for a latent of `size`; its cross-attention and first self-attention layers."""
    layers: dict[int, list[tuple[str, Attention]]] = {}
    for level, blocks in enumerate(zip(unet.down_blocks, reversed(unet.up_blocks), strict=True)):
        modules = [
            (name[-5:], module)
            for block in blocks
            for name, module in block.named_modules()
            if name.endswith(("attn2", "transformer_blocks.0.attn1"))
        ]
        if modules:
            layers[2**level] = modules
    downscale = downscale_to_read(size, layers)
    return downscale, layers[downscale]


def _denoise(
    model: EditModel,
    scheduler: DDIMScheduler,
    start: Tensor,
    image_latents: Tensor,
    noise: Tensor,
    count: int,
    context: Tensor,
    cfg: float,
    mask_of: MaskOfStep,
    progress: Progress,
) -> Tensor:
    """Noise the clean `start` and denoise it in the last `count` steps, with the original outside the mask.

    Latents ``[B, C, h, w]``; `context` ``[2, B, L, D]`` is of empty prompts, then of edit prompts.
    """
    times = scheduler.timesteps[-count:]
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    latent: Tensor = scheduler.add_noise(start, noise, times[:1])
    for done, step in enumerate(times, 1):
        without, wanted = model.predict(latent.repeat(2, 1, 1, 1), step, context.flatten(0, 1)).chunk(2)
        stepped = scheduler.step(without + cfg * (wanted - without), step, latent)
        with_prompt, without_prompt = (
            scheduler.step(part, step, latent).pred_original_sample for part in (wanted, without)
        )
        predictions = Predictions(stepped.pred_original_sample, with_prompt, without_prompt, image_latents)
        signal = scheduler.alphas_cumprod[step].to(latent.device)
        mask = mask_of(NoiseLevel(signal.sqrt(), (1 - signal).sqrt()), predictions)
        kept = image_latents
        if done < count:
            kept = scheduler.add_noise(image_latents, noise, (step - stride).clamp(min=0)[None])
        latent = keep_original(mask, stepped.prev_sample, kept)
        progress(done, count)
    return latent


def _count(steps: int, strength: float) -> int:
    """How many of the steps a strength takes: none for 0, else at least one."""
    return max(1, round(steps * strength)) if strength else 0


def _contexts(model: EditModel, prompts: Sequence[str]) -> Tensor:
    """``[2, prompts, L, D]``: of empty prompts, and of the edit prompts."""
    return torch.stack([model.context([""]).expand(len(prompts), -1, -1), model.context(prompts)])


def _first(mask: InstantMask) -> InstantMask:
    """The first of a batch of masks, on the CPU."""
    roles = WordRoles(mask.roles.index[:1].cpu(), mask.roles.weights[:1].cpu())
    soft, binary, confidence, fits = (part[:1].cpu() for part in (mask.soft, mask.binary, mask.confidence, mask.fits))
    return InstantMask(soft, binary, roles, confidence, fits)


def _check_picture(picture: Picture) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"a picture is uint8 [height, width, 3], not {picture.dtype} {list(picture.shape)}")


def _check_range(name: str, value: float, low: float, high: float, open_low: bool = False) -> None:
    if not low <= value <= high or (open_low and value == low):
        raise ValueError(f"{name} must be {'above' if open_low else 'from'} {low} to {high}, not {value}")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
