"""The finish: the masked area painted once more, so that it agrees with its surroundings (docs/method.md, 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..arrays import Mask, Picture
from ..blend import feather_edits, match_colours, paste
from ..grain import add_grain
from ..options import FinishOptions
from ..passes import next_seed, plan_passes
from ..region import Region, find_enlargement
from .denoising import Progress, Schedule, denoise, encode_prompts, make_noise
from .model import EditModel, check_picture
from .prompts import Prompt, split_edits


@torch.no_grad()
def finish(
    model: EditModel,
    picture: Picture,
    mask: Mask | Sequence[Mask],
    latent: Tensor,
    prompt: Prompt,
    *,
    options: FinishOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Picture:
    """Regenerate the masked area so that it agrees with its surroundings, and put it into `picture`.

    `mask` ``[H, W]`` has the size of the picture, `latent` ``[1, C, h, w]`` is an edit's, to start
    from. Of several edits each prompt has a mask, which is painted after the one before. Without `options` the
    edit is finished as suits the model (`EditModel.finishing`). Outside the grown mask the result is `picture`
    bit for bit.

    Raises ``ValueError`` for a picture that is not uint8 ``[H, W, 3]``, for a mask or a latent of
    another size, and for another number of masks than of prompts.
    """
    check_picture(picture)
    texts = [[edit_prompt.text] for edit_prompt in split_edits(prompt)]
    masks = [mask] if isinstance(mask, np.ndarray) else list(mask)
    if len(masks) != len(texts):
        raise ValueError(f"{len(texts)} edit prompts and {len(masks)} masks do not go together")
    for own in masks:
        if own.shape != picture.shape[:2]:
            raise ValueError(f"the mask is {own.shape}, the picture {picture.shape[:2]}")
    size = model.working_size(*picture.shape[:2])
    if tuple(latent.shape[-2:]) != tuple(side // model.scale for side in size):
        raise ValueError(f"the latent {tuple(latent.shape)} is not of a picture of {picture.shape[:2]}")
    image_latents, report_progress = model.encode([picture]), progress or (lambda done, total: None)
    of_picture = [torch.from_numpy(own) for own in masks]
    options = options or model.finishing
    return finish_batch(model, options, [picture], image_latents, [of_picture], latent, texts, [seed], report_progress)[
        0
    ]


def finish_batch(
    model: EditModel,
    options: FinishOptions,
    pictures: Sequence[Picture],
    image_latents: Tensor,
    masks: Sequence[Sequence[Tensor]],
    latents: Tensor,
    texts: Sequence[Sequence[str]],
    seeds: Sequence[int],
    progress: Progress,
) -> list[Picture]:
    """`finish` for pictures of one size: one edit after the other, in all pictures together.

    `image_latents` are theirs ``[pictures, C, h, w]``, `latents` those of their edits. `masks` are
    those of the edits of each picture ``[H, W]`` bool, `texts` the prompts of all pictures for each edit.
    """
    by_edit = torch.stack([torch.stack(list(of_picture)) for of_picture in masks], 1)
    areas = feather_edits(by_edit.float(), options.grow, options.feather)
    painting = [number for number, (area, _) in enumerate(areas) if area.any()]
    edited = list(pictures)
    sampled = None if options.strength else model.decode(latents, pictures[0].shape[:2])
    for before, number in enumerate(painting):
        area, alpha = areas[number]
        if before:
            image_latents = model.encode(edited)
        canvas = _Canvas(edited, image_latents, latents, by_edit[number], area, texts[number], seeds)
        painted = sampled or _paint_in_parts(model, options, canvas, _part_of(progress, before, len(painting)))
        edited = _pasted(options, edited, painted, alpha)
    if options.strength and not painting:
        progress(options.steps, options.steps)
    return edited


def _pasted(
    options: FinishOptions, pictures: Sequence[Picture], painted: Sequence[Picture], alpha: Tensor
) -> list[Picture]:
    """What was `painted` in the pictures where `alpha` ``[pictures, H, W]`` takes it."""
    before, after = (torch.from_numpy(np.stack(list(parts))).float() for parts in (pictures, painted))
    if options.match_colour:
        after = match_colours(before, after, alpha)
    if options.grain:
        after = add_grain(before / 255, after / 255, alpha) * 255
    return list(paste(before, after, alpha).round().to(torch.uint8).numpy())


@dataclass(frozen=True)
class _Canvas:
    """What is painted in one sampling: an edit of pictures of one size, with what `finish_batch` knows of it.

    `mask` and `area`, which is grown, ``[pictures, H, W]`` bool.
    """

    pictures: list[Picture]
    image_latents: Tensor
    latents: Tensor
    mask: Tensor
    area: Tensor
    texts: Sequence[str]
    seeds: Sequence[int]

    def part(self, numbers: Sequence[int]) -> _Canvas:
        """Some of the pictures."""
        texts = [self.texts[number] for number in numbers]
        seeds = [self.seeds[number] for number in numbers]
        pictures = [self.pictures[number] for number in numbers]
        latents = self.image_latents[numbers], self.latents[numbers]
        return _Canvas(pictures, *latents, self.mask[numbers], self.area[numbers], texts, seeds)

    def enlarged(self, model: EditModel, region: Region) -> _Canvas:
        """A region of a single picture, at the region's working size."""
        height, width = self.pictures[0].shape[:2]
        before = [self.pictures[0], model.decode(self.latents, (height, width))[0]]
        cuts = [(region.cut(torch.tensor(picture)[None])[0] * 255).round().byte().numpy() for picture in before]
        image_latents, latents = (model.encode([cut]) for cut in cuts)
        mask, area = (region.cut_mask(own) > 0.5 for own in (self.mask, self.area))
        return _Canvas(cuts[:1], image_latents, latents, mask, area, self.texts, self.seeds)


def _paint_in_parts(model: EditModel, options: FinishOptions, canvas: _Canvas, progress: Progress) -> list[Picture]:
    """The pictures with their area painted: each that is enlarged by itself."""
    regions = {
        number: region
        for number, (mask, area) in enumerate(zip(canvas.mask, canvas.area, strict=True))
        if options.enlarge and (region := find_enlargement(mask, area, model.native_pixels, unit=model.unit))
    }
    whole = [number for number in range(len(canvas.area)) if number not in regions]
    samplings, edited = len(regions) + bool(whole), list(canvas.pictures)

    for before, (number, region) in enumerate(regions.items()):
        (crop,) = _paint(
            model, options, canvas.part([number]).enlarged(model, region), _part_of(progress, before, samplings)
        )
        picture = torch.tensor(edited[number])[None]
        region.put_back(picture, torch.from_numpy(crop)[None].float() / 255, torch.ones(1, *region.size))
        edited[number] = picture[0].numpy()
    if whole:
        # Kernels are chosen by the size of a batch, and round in ways of their own: it is filled, so that how a
        # picture comes out does not depend on the masks of the others.
        filled = [*whole, *[whole[-1]] * len(regions)]
        painted = _paint(model, options, canvas.part(filled), _part_of(progress, len(regions), samplings))
        for number, picture_of_whole in zip(whole, painted, strict=False):
            edited[number] = picture_of_whole
    return edited


def _paint(model: EditModel, options: FinishOptions, canvas: _Canvas, progress: Progress) -> list[Picture]:
    """The pictures as the model paints them in all passes."""
    latents, image_latents = canvas.latents, canvas.image_latents
    area = functional.adaptive_max_pool2d(canvas.area.float(), latents.shape[-2:]).to(model.device) > 0
    context, before = encode_prompts(model, [canvas.texts]), 0
    without = None if model.inpainting is None else model.encode_without(canvas.pictures, canvas.area)
    for number, part in enumerate(plan_passes(options.passes, options.steps, options.strength)):
        latents = denoise(
            Schedule(model, part.steps, part.strength), latents, image_latents,
            make_noise(image_latents, [next_seed(seed, number) for seed in canvas.seeds]), context, options.cfg,
            lambda *_: [area], _continued(progress, before, options.steps), without,
        )  # fmt: skip
        before += part.steps
    return model.decode(latents, canvas.pictures[0].shape[:2])


def _continued(progress: Progress, before: int, total: int) -> Progress:
    """That of a sampling which goes on after so many steps."""
    return lambda done, _: progress(before + done, total)


def _part_of(progress: Progress, before: int, count: int) -> Progress:
    """That of one of `count` samplings, after those `before`, which count as one together."""
    return lambda done, total: progress((before * total + done) // count, total)
