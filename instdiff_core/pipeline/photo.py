"""Edits of photos of any size: found on a small copy, done in a crop, and put back into the untouched photo."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..arrays import Mask, Picture
from ..blend import feather_mask
from ..options import PRESETS, SAMPLING, FinishOptions, MaskSettings
from ..refine import InstantMask
from ..region import Region, find_regions
from ..search import QUICK_STEPS, Sighting, find_in_photo, see
from .editing import Edit, edit, record_batch
from .model import EditModel, check_picture
from .own_mask import check_own_mask, own_masks
from .prompts import Prompt, read_edits, split_edits

LARGE = 1.5
"""From how many times the pixels that the model was made for on a picture is edited in a crop."""

SEAM = 4
"""Pixels of the crop within which it passes into the photo, around what was painted."""


def is_large(model: EditModel, height: int, width: int) -> bool:
    """Whether a picture of this size is edited in a crop."""
    return height * width > LARGE * model.native_pixels


def edit_photo(
    model: EditModel,
    picture: Picture,
    prompt: Prompt,
    *,
    seed: int = 0,
    mask: Mask | None = None,
    there: str | None = None,
    finishing: FinishOptions | None = None,
    **options: Any,
) -> Edit:
    """`edit` for a picture of any size, which comes back at its own size, the same bit for bit outside the edit.

    A picture that is not much larger than what the model was made for is edited as it is. In a larger
    one the mask is found first (`search`), its surroundings are edited in a crop, which finds its own
    mask once more, and the crop is put back. `Edit.latent` and `Edit.record` are then of the crop.

    Several edits are searched one by one, and done in one crop that shows all of them.

    With an own `mask` of the picture's size nothing is searched or found: it is edited in there. `there` says what is
    there now, such as "a bird": a larger picture is then searched for that. `options`
    are those of `edit_batch`, which says what is raised; a mask of another size, an empty one, one or `there` for
    several edits, both together, and a `there` without words do too.
    """
    check_picture(picture)
    several = len(split_edits(prompt)) > 1
    if mask is not None:
        check_own_mask(mask, picture)
        if several:
            raise ValueError("a mask of one's own is for a single edit prompt")
    if there is not None:
        if mask is not None or several:
            raise ValueError("what is there is for a single edit prompt without a mask of its own")
        if not model.words(there).words:
            raise ValueError("what is there holds no words: say what the photo shows, for example 'a bird'")
    pixels, unit, finishing = model.native_pixels, model.unit, finishing or model.finishing

    def edit_inside(part: Picture, mask: Mask | None, own: FinishOptions) -> Edit:
        sessions = own_masks(model, [mask])
        return edit(model, part, prompt, seed=seed, finishing=own, new_session=sessions, **options)

    if not is_large(model, *picture.shape[:2]):
        return edit_inside(picture, mask, finishing)
    pictures = torch.from_numpy(picture)[None]
    settings = options.get("settings", PRESETS["default"])
    sampling = options.get("sampling", SAMPLING)

    def look(text: str, own: MaskSettings, crops: Tensor, quick: bool) -> Sighting:
        cuts = list(_in_bytes(crops).numpy())
        steps = min(QUICK_STEPS, sampling.steps) if quick else sampling.steps
        records = record_batch(
            model, cuts, [text] * len(cuts), seeds=[seed] * len(cuts), settings=own,
            sampling=replace(sampling, steps=steps, noise_samples=1),
        )  # fmt: skip
        return Sighting.joined([see(record, own, crop[None]) for record, crop in zip(records, crops, strict=True)])

    if mask is None:
        look_for = None if there is None else partial(look, there, PRESETS["default"])
        looks = [partial(look, each.prompt.text, each.settings) for each in read_edits(model, prompt, settings)]
        found = [find_in_photo(pictures, each, pixels, unit, look_for=look_for) for each in looks]
        area = torch.stack(found).any(0)
    else:
        area = torch.from_numpy(mask)[None]
    (region,) = find_regions(area, pixels, unit=unit)
    crop = _in_bytes(region.cut(pictures))[0].numpy()
    own_mask = None if mask is None else (region.cut_mask(area)[0] > 0.5).numpy()
    # the grain is the photo's, at the photo's size
    edited = edit_inside(crop, own_mask, replace(finishing, grain=False))
    return _put_back(pictures, region, edited, finishing)


def _put_back(pictures: Tensor, region: Region, edited: Edit, finishing: FinishOptions) -> Edit:
    """The edit of a crop as one of the whole photo ``[1, H, W, 3]`` uint8."""
    grown, _ = feather_mask(edited.mask.binary.float(), finishing.grow, 0)
    _, alpha = feather_mask(grown.float(), SEAM, SEAM)
    finished = _pasted(pictures, region, edited.picture, alpha, finishing.grain)
    unfinished = _pasted(pictures, region, edited.unfinished, alpha)
    masks = tuple(_marked(pictures, region, mask) for mask in edited.masks)
    return replace(edited, picture=finished, unfinished=unfinished, masks=masks)


def _marked(pictures: Tensor, region: Region, mask: InstantMask) -> InstantMask:
    """The mask of a crop as one of the whole photo."""
    soft, binary = (torch.zeros(pictures.shape[:3]) for _ in range(2))
    region.mark(soft, mask.soft)
    region.mark(binary, mask.binary.float())
    return replace(mask, soft=soft, binary=binary > 0.5)


def _pasted(pictures: Tensor, region: Region, crop: Picture, alpha: Tensor, grain: bool = False) -> Picture:
    photo = pictures.clone()
    region.put_back(photo, torch.from_numpy(crop)[None].float() / 255, alpha, grain)
    return photo[0].numpy()


def _in_bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)
