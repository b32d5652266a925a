"""An edit with a diffusers model: sample with instant masks, then finish. The method is in the rest of the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..arrays import Picture
from ..attention import word_maps
from ..edits import join_masks, part_masks
from ..evidence import AttentionRecord, Predictions
from ..look import find_look_size, look_again, look_at_picture, scale_latents
from ..noise import NoiseLevel
from ..options import PRESETS, SAMPLING, FinishOptions, MaskSettings, SamplingOptions
from ..refine import InstantMask, WordRoles
from ..report import collect_facts
from ..rest import ask_about_rest
from ..session import EditSessions, MaskSession
from ..tokens import PromptWords
from .denoising import (
    Progress,
    Schedule,
    denoise,
    encode_prompts,
    make_noise,
    predict_at_almost_pure_noise,
    predict_in_a_look,
)
from .finishing import finish_batch
from .model import EditModel, check_picture
from .prompts import Prompt, ReadEdit, read_edits
from .reading import AttentionReader, Kind

NewSession = Callable[[int, PromptWords, MaskSettings], MaskSession]
"""The session of an edit of a picture of a batch, from the picture's number, the edit's words and its settings."""


@dataclass(frozen=True)
class Edit:
    """An edited picture and how it came about.

    `picture` has the size of the input, and so has `unfinished`, the sample before the finish. `masks`
    are those of the last step at that size, each a batch of one, on the CPU: one for each prompt of the
    picture, without overlap. `latent` ``[1, C, h, w]`` is the sample before the finish: `finish` takes it
    again with other options. `timings` are seconds: encode, sample, finish.
    """

    picture: Picture
    unfinished: Picture
    masks: tuple[InstantMask, ...]
    latent: Tensor
    record: AttentionRecord
    timings: dict[str, float]

    @property
    def mask(self) -> InstantMask:
        """What is edited: the masks as one (`edits.join_masks`)."""
        return join_masks(self.masks)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the mask (`report.collect_facts`) and the timings, for JSON.

        Of several edits `edits` has those of each, and `mask_area` is that of all.
        """
        edits = [collect_facts(mask, record.words) for mask, record in zip(self.masks, self.record.edits, strict=True)]
        facts = edits[0] if len(edits) == 1 else {"edits": edits, "mask_area": self.mask.binary.float().mean().item()}
        return {**facts, "timings": dict(self.timings)}


def edit(model: EditModel, picture: Picture, prompt: Prompt, *, seed: int = 0, **options: Any) -> Edit:
    """Make `picture` show what the edit prompt says, and change it only where that is (docs/method.md).

    Several prompts are several edits in one sampling, each with its own mask (docs/method.md, 7.1).

    `options` are those of `edit_batch`, which says what is raised. The same seed gives the same result.
    """
    return edit_batch(model, [picture], [prompt], seeds=[seed], **options)[0]


@torch.no_grad()
def edit_batch(
    model: EditModel,
    pictures: Sequence[Picture],
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[int],
    settings: MaskSettings = PRESETS["default"],
    sampling: SamplingOptions = SAMPLING,
    finishing: FinishOptions | None = None,
    new_session: NewSession = lambda number, words, settings: MaskSession(words, settings),
    progress: Progress | None = None,
) -> list[Edit]:
    """Edit pictures of one size side by side, each by its own prompt and seed; or by as many prompts as the others.

    Pictures of any size are sampled at the nearest size that fits the U-Net. `new_session` makes the
    sessions, for masks that do not come from the `settings`. Without `finishing` the edit is finished as
    suits the model (`EditModel.finishing`).

    Raises ``ValueError`` for pictures that are not uint8 ``[H, W, 3]`` of one size, a prompt without
    words or too long for the model, and a U-Net that cannot be read.
    """
    finishing = finishing or model.finishing
    edits = _read_batch(model, pictures, prompts, seeds, settings, share=sampling.noise_samples > 1)
    texts = _texts(edits)
    report_progress = progress or (lambda done, total: None)
    schedule = Schedule(model, sampling.steps, sampling.strength)
    total = sampling.steps + (finishing.steps if finishing.strength else 0)

    started = _now(model.device)
    image_latents = model.encode(pictures)
    sessions = [
        EditSessions([new_session(number, one.words, one.settings) for one in of_picture])
        for number, of_picture in enumerate(edits)
    ]
    encoded = _now(model.device)
    latents = _sample(
        schedule, sampling, image_latents, texts, seeds, sessions, lambda done, _: report_progress(done, total)
    )
    latents = _keep_what_fits(model, image_latents, latents, texts, sessions)
    masks = [_final_masks(*parts) for parts in zip(sessions, edits, pictures, strict=True)]
    ended = _now(model.device)
    finished = finish_batch(
        model, finishing, pictures, image_latents, [[mask.binary[0] for mask in of_picture] for of_picture in masks],
        latents, texts, seeds, lambda done, _: report_progress(sampling.steps + done, total),
    )  # fmt: skip
    seconds = {"encode": encoded - started, "sample": ended - encoded, "finish": _now(model.device) - ended}
    timings = {name: value / len(pictures) for name, value in seconds.items()}
    unfinished = model.decode(latents, pictures[0].shape[:2])
    records = [_record(model, *parts) for parts in zip(sessions, edits, strict=True)]
    return [
        Edit(picture, sample, of_picture, latent[None], record, timings)
        for picture, sample, of_picture, latent, record in zip(
            finished, unfinished, masks, latents, records, strict=True
        )
    ]


@torch.no_grad()
def record_batch(
    model: EditModel,
    pictures: Sequence[Picture],
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[int],
    settings: MaskSettings = PRESETS["default"],
    sampling: SamplingOptions = SAMPLING,
) -> list[AttentionRecord]:
    """What the sampling of `edit_batch` records, with nothing decoded or finished. Raises ``ValueError`` as it does."""
    edits = _read_batch(model, pictures, prompts, seeds, settings)
    sessions = [EditSessions([MaskSession(one.words, one.settings) for one in of_picture]) for of_picture in edits]
    schedule = Schedule(model, sampling.steps, sampling.strength)
    _sample(schedule, sampling, model.encode(pictures), _texts(edits), seeds, sessions, lambda done, total: None)
    return [_record(model, *parts) for parts in zip(sessions, edits, strict=True)]


def _sample(
    schedule: Schedule,
    options: SamplingOptions,
    image_latents: Tensor,
    texts: Sequence[Sequence[str]],
    seeds: Sequence[int],
    sessions: Sequence[EditSessions],
    progress: Progress,
) -> Tensor:
    """Sample ``[pictures, C, h, w]``, whose masks the `sessions` make; of several noise samples, the first of each.

    `texts` are `_texts`'s.
    """
    model, noise_samples = schedule.model, options.noise_samples
    context = encode_prompts(model, texts)
    looks = any(session.is_found_by_change for of_picture in sessions for session in of_picture.sessions)
    looked_at = _as_looked_at(model, image_latents) if looks else image_latents
    reader = AttentionReader(model.unet, _size(looked_at))
    # as the rows of the U-Net with a prompt: all pictures for the first edit, then all for the second
    in_order = [of_picture.sessions[number] for number in range(len(texts)) for of_picture in sessions]
    matrices = [session.words.matrix(context.shape[2], model.device) for session in in_order]
    parts = [slice(number * noise_samples, (number + 1) * noise_samples) for number in range(len(in_order))]

    def observe(grid: tuple[int, int], kind: Kind, q: Tensor, k: Tensor) -> None:
        for session, matrix, part in zip(in_order, matrices, parts, strict=True):
            if kind == "attn2":
                session.observe_words(word_maps(q[part], k[part], matrix, grid))
            else:
                session.observe_self_attention(q[part], k[part], grid)

    def reading(latents: Tensor) -> AbstractContextManager[None]:
        return reader.reading(partial(observe, reader.grid(_size(latents))), len(texts))

    def masks_of_step(level: NoiseLevel, predictions: Sequence[Predictions]) -> list[Tensor]:
        for of_picture, part in zip(sessions, parts[: len(sessions)], strict=True):
            of_picture.step(level, [of_edit.entries(part) for of_edit in predictions])
        masks = [of_picture.masks or [] for of_picture in sessions]
        return [
            torch.cat([mask.expand(noise_samples, -1, -1) for mask in of_edit]) for of_edit in zip(*masks, strict=True)
        ]

    def look(ratio: float, seed: int) -> None:
        with reading(looked_at):
            level, predictions = predict_in_a_look(model, shown, contexts, options.cfg, ratio, seed)
        for of_picture, part in zip(sessions, parts[: len(sessions)], strict=True):
            of_picture.look(level, [of_edit.entries(part) for of_edit in predictions])

    repeated, contexts = (
        each.repeat_interleave(noise_samples, axis) for axis, each in enumerate((image_latents, context))
    )
    shown = looked_at.repeat_interleave(noise_samples, 0)
    in_full = shown.shape == repeated.shape
    noise = make_noise(image_latents, seeds, noise_samples)
    look_at_picture(sessions, schedule.levels[0], look, in_full)
    with reading(image_latents):
        latents = denoise(schedule, repeated, repeated, noise, contexts, options.cfg, masks_of_step, progress)
    look_again(sessions, schedule.levels[0], look, in_full)
    return latents[::noise_samples]


def _as_looked_at(model: EditModel, image_latents: Tensor) -> Tensor:
    """Latents of pictures in the size in which they are looked at."""
    pixels, unit = model.native_pixels // model.scale**2, model.unit // model.scale
    return scale_latents(image_latents, find_look_size(_size(image_latents), pixels, unit))


def _size(latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2], latents.shape[-1]


def _keep_what_fits(
    model: EditModel,
    image_latents: Tensor,
    latents: Tensor,
    texts: Sequence[Sequence[str]],
    sessions: Sequence[EditSessions],
) -> Tensor:
    """The sampled latents ``[pictures, C, h, w]``, with the picture outside of the masks that are final.

    These are others where it was looked at again, and where `ask_about_rest` finds nothing to change.
    """
    context = encode_prompts(model, texts)
    looked_at = _as_looked_at(model, image_latents)
    for number, of_picture in enumerate(sessions):
        image_latent = looked_at[number : number + 1]
        for session, of_edit in zip(of_picture.sessions, context[1:], strict=True):
            pair = torch.stack([of_edit[number], context[0, number]])
            ask_about_rest(session, image_latent, partial(predict_at_almost_pure_noise, model, image_latent, pair))
    masks = [of_picture.mask for of_picture in sessions]
    kept = [
        latent if mask is None else torch.where(mask[0], latent, image_latent)
        for latent, mask, image_latent in zip(latents, masks, image_latents, strict=True)
    ]
    return torch.stack(kept)


def _final_masks(sessions: EditSessions, edits: Sequence[ReadEdit], picture: Picture) -> tuple[InstantMask, ...]:
    """The masks of the edits of a picture, at its size."""
    pixels = torch.tensor(picture).permute(2, 0, 1)[None] / 255
    size = picture.shape[0], picture.shape[1]
    pairs = zip(sessions.sessions, edits, strict=True)
    return tuple(part_masks([first_mask(session.final(size, one.settings, pixels)) for session, one in pairs]))


def _record(model: EditModel, sessions: EditSessions, edits: Sequence[ReadEdit]) -> AttentionRecord:
    """What was observed of the edits of a picture."""
    pairs = zip(sessions.records(model.scale), edits, strict=True)
    return AttentionRecord.joined([replace(record, settings=one.prompt.settings) for record, one in pairs])


def _texts(edits: Sequence[Sequence[ReadEdit]]) -> list[list[str]]:
    """The prompts of the edits of each picture, by edit: those of all pictures for the first, and so on."""
    return [[one.prompt.text for one in of_edit] for of_edit in zip(*edits, strict=True)]


def first_mask(mask: InstantMask) -> InstantMask:
    """The first of a batch of masks, on the CPU."""
    roles = WordRoles(mask.roles.index[:1].cpu(), mask.roles.weights[:1].cpu())
    soft, binary, confidence, fits = (part[:1].cpu() for part in (mask.soft, mask.binary, mask.confidence, mask.fits))
    return InstantMask(soft, binary, roles, confidence, fits)


def _read_batch(
    model: EditModel,
    pictures: Sequence[Picture],
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    settings: MaskSettings,
    share: bool = False,
) -> list[list[ReadEdit]]:
    """The edits of each picture; `share`: with one mask for all noise samples, whatever the settings.

    Raises ``ValueError`` for what does not go together, and as `read_edits` does.
    """
    for picture in pictures:
        check_picture(picture)
    if not pictures or len({picture.shape for picture in pictures}) != 1:
        raise ValueError("the pictures of a batch must be of one size")
    if not len(pictures) == len(prompts) == len(seeds):
        raise ValueError(f"{len(pictures)} pictures, {len(prompts)} prompts and {len(seeds)} seeds do not go together")
    edits = [read_edits(model, prompt, settings) for prompt in prompts]
    if len({len(of_picture) for of_picture in edits}) != 1:
        raise ValueError("the pictures of a batch must have as many edit prompts each")
    if share:
        edits = [
            [replace(one, settings=replace(one.settings, share=True)) for one in of_picture] for of_picture in edits
        ]
    return edits


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
