"""Edits of photos of any size: found on a small copy, done in a crop, and put back into the untouched photo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..blend import feather_mask
from ..options import FINISH, PRESETS, SAMPLING, FinishOptions
from ..region import Region, find_regions
from ..search import QUICK_STEPS, Sighting, find_in_photo, see
from .editing import Edit, check_picture, edit, record_batch
from .model import EditModel, Picture

LARGE = 1.5
"""From how many times the pixels that the model was made for on a picture is edited in a crop."""

SEAM = 4
"""Pixels of the crop within which it passes into the photo, around what was painted."""


def edit_photo(
    model: EditModel, picture: Picture, prompt: str, *, seed: int = 0, finishing: FinishOptions = FINISH, **options: Any
) -> Edit:
    """`edit` for a picture of any size, which comes back at its own size, the same bit for bit outside the edit.

    A picture that is not much larger than what the model was made for is edited as it is. In a larger
    one the mask is found first (`search`), its surroundings are edited in a crop, which finds its own
    mask once more, and the crop is put back. `Edit.latent` and `Edit.record` are then of the crop.

    `options` are those of `edit_batch`, which says what is raised.
    """
    check_picture(picture)
    pixels, unit = model.native_pixels, model.unit
    height, width = picture.shape[:2]
    if height * width <= LARGE * pixels:
        return edit(model, picture, prompt, seed=seed, finishing=finishing, **options)
    pictures = torch.from_numpy(picture)[None]
    settings = options.get("settings", PRESETS["default"])
    sampling = options.get("sampling", SAMPLING)

    def look(crops: Tensor, quick: bool) -> Sighting:
        cuts = list(_in_bytes(crops).numpy())
        steps = min(QUICK_STEPS, sampling.steps) if quick else sampling.steps
        records = record_batch(
            model, cuts, [prompt] * len(cuts), seeds=[seed] * len(cuts), settings=settings,
            sampling=replace(sampling, steps=steps, noise_samples=1),
        )  # fmt: skip
        return Sighting.joined([see(record, settings, crop[None]) for record, crop in zip(records, crops, strict=True)])

    (region,) = find_regions(find_in_photo(pictures, look, pixels, unit), pixels, unit=unit)
    crop = _in_bytes(region.cut(pictures))[0].numpy()
    edited = edit(model, crop, prompt, seed=seed, finishing=finishing, **options)
    return _put_back(pictures, region, edited, finishing)


def _put_back(pictures: Tensor, region: Region, edited: Edit, finishing: FinishOptions) -> Edit:
    """The edit of a crop as one of the whole photo ``[1, H, W, 3]`` uint8."""
    grown, _ = feather_mask(edited.mask.binary.float(), finishing.grow, 0)
    _, alpha = feather_mask(grown.float(), SEAM, SEAM)
    finished, unfinished = (_pasted(pictures, region, part, alpha) for part in (edited.picture, edited.unfinished))
    soft, binary = (torch.zeros(pictures.shape[:3]) for _ in range(2))
    region.mark(soft, edited.mask.soft)
    region.mark(binary, edited.mask.binary.float())
    mask = replace(edited.mask, soft=soft, binary=binary > 0.5)
    return replace(edited, picture=finished, unfinished=unfinished, mask=mask)


def _pasted(pictures: Tensor, region: Region, crop: Picture, alpha: Tensor) -> Picture:
    photo = pictures.clone()
    region.put_back(photo, torch.from_numpy(crop)[None].float() / 255, alpha)
    return photo[0].numpy()


def _in_bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)
