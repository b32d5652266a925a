"""Inpaint Finish."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..instdiff_core.blend import feather_edits, match_colours, paste
from ..instdiff_core.grain import add_grain
from ..instdiff_core.options import FINISH
from ..instdiff_core.passes import MOST_PASSES
from ..instdiff_core.region import Region, find_enlargement
from . import host
from .checks import check_inputs, find_tensor_problem
from .types import CATEGORY, grain_input, match_colour_input, sampling_inputs, search_aliases


class InpaintFinish(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffInpaintFinish",
            display_name="Inpaint Finish",
            category=CATEGORY,
            **search_aliases("inpaint by text", "replace object", "remove object", "inpaint", "paste back"),
            description=(
                "Paints the masked area once more, so that the edit and its surroundings agree. "
                "Outside the grown mask the result is the input picture, bit for bit."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An inpainting model, or the model that edited."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The edit prompt. Of several Encode Edit Prompt, joined by Conditioning (Combine), each "
                    "paints its mask.",
                ),
                io.Conditioning.Input("negative", tooltip="What to avoid; may be empty."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input("image", tooltip="The picture before the edit."),
                io.Mask.Input(
                    "mask",
                    tooltip="The area to paint, from Masked Sampler, Refine Instant Mask or you: where it is above "
                    "0.5. The soft edge is made by feather. For several edits connect edit_masks.",
                ),
                *sampling_inputs(
                    FINISH,
                    "How freely the area is painted: 1 starts from nothing, lower keeps more of the edit. 0.9 suits "
                    "Stable Diffusion, 0.7 transformers (Flux, SD3, Qwen-Image), 1 inpainting models.",
                ),
                io.Int.Input(
                    "grow",
                    default=FINISH.grow,
                    min=0,
                    max=256,
                    tooltip="Pixels by which the mask is made larger first. Higher leaves more room for new shapes "
                    "and for the soft edge.",
                ),
                io.Int.Input(
                    "feather",
                    default=FINISH.feather,
                    min=0,
                    max=256,
                    tooltip="Width in pixels of the soft edge. It lies in what grow added, so more than grow counts as "
                    "grow; the mask itself is painted over fully. Higher hides the seam better.",
                ),
                io.Latent.Input(
                    "samples",
                    optional=True,
                    tooltip="The edit of Masked Sampler, to start from. Without it the picture itself is the start. "
                    "Its noise mask, where it has one, bounds the painted area.",
                ),
                match_colour_input(),
                grain_input(),
                io.Int.Input(
                    "passes",
                    optional=True,
                    default=FINISH.passes,
                    min=1,
                    max=MOST_PASSES,
                    tooltip="Into how many passes, of at least 4 steps, the steps are divided, each from less noise "
                    "than the one before: what came out wrong is painted anew. 1 takes all steps at once, as KSampler "
                    "does.",
                ),
                io.Boolean.Input(
                    "enlarge",
                    optional=True,
                    default=FINISH.enlarge,
                    tooltip="Paints what is small in a crop around it, enlarged to the size that the model was made "
                    "for. Off, and where a prompt holds places of the picture or a ControlNet, in the whole picture.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The finished pictures: as many as the most of pictures, masks and samples."),
                io.Mask.Output(
                    display_name="painted_area",
                    tooltip="The grown mask, inside the noise mask of samples: outside it the finished picture is the "
                    "input picture, bit for bit.",
                ),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        image: Any,
        mask: Any,
        grow: int,
        feather: int,
        samples: Any = None,
        match_colour: bool = FINISH.match_colour,
        grain: bool = FINISH.grain,
        passes: int = FINISH.passes,
        enlarge: bool = FINISH.enlarge,
        **widgets: Any,
    ) -> io.NodeOutput:
        widgets["passes"] = passes
        edits = host.part_conditioning(positive)
        count = max(len(image), 1 if samples is None else len(host.get_samples(samples)))
        if len(edits) == 1:
            count = max(count, len(mask))
        elif len(mask) != len(edits) * count:
            raise ValueError(
                f"positive combines {len(edits)} edit prompts, and mask has {len(mask)} masks for {count} pictures: "
                "connect edit_masks of Masked Sampler or Refine Instant Mask, which has one for each edit and picture"
            )
        mask = host.scale_mask_to_image(mask, image, vae)
        image = host.repeat_to_batch(image, count)
        masks = host.repeat_to_batch(mask, len(edits) * count).view(len(edits), count, *mask.shape[1:]) > 0.5
        editable = None if samples is None else host.find_editable_pixels(samples, image[:1], vae)
        # Instant Mask Guidance knows the whole picture only
        suitable = enlarge and not host.is_wrapped(model) and host.suits_a_crop(negative)
        pixels = host.native_side(model) ** 2
        painted_area = torch.zeros_like(masks[0])
        parts = []
        areas = feather_edits(masks.float(), grow, feather)
        for own, own_masks, (area, alpha) in zip(edits, masks, areas, strict=True):
            if editable is not None:
                allowed = host.repeat_to_batch(editable, count)
                area, alpha = area & allowed, alpha * allowed
            painted_area |= area
            if area.any():
                in_crops = suitable and host.suits_a_crop(own)
                regions = [
                    find_enlargement(*pair, pixels) if in_crops else None for pair in zip(own_masks, area, strict=True)
                ]
                parts.append(_Part(own, area, alpha, regions))
        model = host.share_progress(model, widgets["steps"] * sum(part.samplings for part in parts))
        for part in parts:
            painted = _paint(model, part, negative, vae, image, samples, widgets)
            if match_colour:
                painted = match_colours(image, painted, part.alpha)
            if grain:
                painted = add_grain(image, painted, part.alpha)
            image = paste(image, painted, part.alpha)
        return io.NodeOutput(image, host.to_intermediate(painted_area.float()))


@dataclass(frozen=True)
class _Part:
    """What an edit prompt paints: its `area` ``[B, H, W]`` bool, which `alpha` blends in.

    `regions` are the crops of the pictures where that is painted enlarged, None where it is not.
    """

    positive: Any
    area: Tensor
    alpha: Tensor
    regions: list[Region | None]

    @property
    def samplings(self) -> int:
        """One, or, where a picture is enlarged, one for each."""
        return int(self.area.flatten(1).any(1).sum()) if any(self.regions) else 1


def _paint(
    model: Any, part: _Part, negative: Any, vae: Any, image: Tensor, samples: Any, widgets: dict[str, Any]
) -> Tensor:
    """Pictures ``[B, H, W, C]`` with the area of a part painted, RGB."""
    sample = partial(_sample, model, part.positive, negative, vae, widgets)
    if not any(part.regions):
        return sample(image, part.area, samples)
    painted = image[..., :3].clone()
    if samples is not None:
        start = host.decode_start(vae, samples, image)
        latents = host.repeat_to_batch(samples["samples"], len(image))
    for number, region in enumerate(part.regions):
        entry = slice(number, number + 1)
        own = part.area[entry]
        if region is not None:
            edit = None if samples is None else host.encode(vae, region.cut(start[entry]))
            crop = sample(region.cut(image[entry]), region.cut_mask(own) > 0.5, edit, number)
            region.put_back(painted[entry], crop, torch.ones(1, *region.size))
        elif own.any():
            edit = None if samples is None else {"samples": latents[entry]}
            painted[entry] = sample(image[entry], own, edit, number)
    return painted


def _sample(
    model: Any, positive: Any, negative: Any, vae: Any, widgets: dict[str, Any],
    image: Tensor, area: Tensor, samples: Any, number: int | None = None,
) -> Tensor:  # fmt: skip
    """Pictures ``[B, H, W, 3]`` with their `area` ``[B, H, W]`` painted; or the one of a `number` in its batch."""
    positive, negative, latent = host.encode_for_inpainting(model, vae, image, area, samples, positive, negative)
    host.check_channels(model, host.get_samples(latent))
    if number is not None:
        latent["batch_index"] = [number]
    painted = host.decode(vae, host.sample_in_passes(model, latent, positive, negative, **widgets), image)
    if problem := find_tensor_problem("IMAGE", painted):
        raise ValueError(f"what was painted {problem}")
    return painted
