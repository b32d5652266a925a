"""Crop to Edit and Put Back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..instdiff_core.blend import feather_mask, match_colours
from ..instdiff_core.options import FINISH
from ..instdiff_core.region import Region, find_regions
from . import host
from .checks import check_inputs
from .types import ADVANCED, CATEGORY, Area, grain_input, match_colour_input, search_aliases

MEGAPIXEL = 1024**2


@dataclass(frozen=True, eq=False)
class CroppedArea:
    """What was cropped from pictures of a `size` ``(height, width)``: the regions and their masks ``[N, h, w]``."""

    regions: tuple[Region, ...]
    masks: Tensor
    size: tuple[int, int]

    def check_picture(self, image: Tensor) -> None:
        """Raises ``ValueError`` for pictures ``[B, H, W, C]`` that the area does not belong to."""
        height, width = self.size
        if tuple(image.shape[1:3]) != self.size:
            raise ValueError(
                f"the image is {image.shape[2]} x {image.shape[1]}, and the area is of one of {width} x {height}: "
                "connect the picture that went into Crop to Edit"
            )


class CropToEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffCropToEdit",
            display_name="Crop to Edit",
            category=CATEGORY,
            **search_aliases("crop and stitch", "inpaint crop", "large photo", "crop by mask"),
            description=(
                "Cuts the surroundings of a mask out of a picture of any size, at the size that the model was made "
                "for. Put Back puts the edited crop into the untouched picture."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The picture, at its own size."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Around what to cut, of any size: where it is above 0.5. An empty mask takes all of the "
                    "picture.",
                ),
                io.Float.Input(
                    "context",
                    default=2.0,
                    min=1.0,
                    max=10.0,
                    step=0.1,
                    tooltip="How many times as wide as the mask the crop is. Higher shows the model more of the "
                    "surroundings, and the edited thing in fewer pixels.",
                ),
                io.Float.Input(
                    "megapixels",
                    default=0.0,
                    min=0.0,
                    max=16.0,
                    step=0.05,
                    tooltip="The size of the crop: about so many megapixels, in the crop's own shape. "
                    "0: what the model was made for.",
                ),
                io.Boolean.Input(
                    "separate",
                    default=False,
                    tooltip="A crop for each part of the mask, as a batch. Off: one crop around all of it.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that will edit the crop, for its size. Without it one megapixel.",
                ),
                Area.Input(
                    "area",
                    optional=True,
                    tooltip="From another Crop to Edit, to cut the same crop out of another picture of the same size, "
                    "such as the hint of a ControlNet. The settings above play no part then.",
                ),
                io.Int.Input(
                    "multiple_of",
                    optional=True,
                    default=64,
                    min=8,
                    max=128,
                    step=8,
                    tooltip="What both sides of the crop are multiples of, in pixels.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The crop, for VAE Encode. Of a batch or of separate parts one each."),
                io.Mask.Output(display_name="mask", tooltip="The mask in the crop."),
                Area.Output(display_name="area", tooltip="Where the crop belongs, for Put Back."),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        image: Any,
        context: float,
        megapixels: float,
        separate: bool,
        mask: Any = None,
        model: Any = None,
        area: CroppedArea | None = None,
        multiple_of: int = 64,
    ) -> io.NodeOutput:
        if area is None:
            if mask is None:
                raise ValueError("nothing says what to cut: connect mask, or the area of another Crop to Edit")
            area = _crop(image, mask, context, _pixels(megapixels, model), multiple_of, separate)
        area.check_picture(image)
        pictures = host.repeat_to_batch(image, 1 + max(region.picture for region in area.regions))
        crops = torch.cat([region.cut(pictures) for region in area.regions])
        return io.NodeOutput(crops, area.masks, area)


class PutBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffPutBack",
            display_name="Put Back",
            category=CATEGORY,
            **search_aliases("crop and stitch", "stitch", "uncrop", "paste back"),
            description=(
                "Puts an edited crop of Crop to Edit into its picture. "
                "Outside the painted area the picture stays as it was, bit for bit."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The picture that went into Crop to Edit."),
                Area.Input("area", tooltip="From Crop to Edit."),
                io.Image.Input(
                    "edited", tooltip="The edited crop, of any size. Several edits of one crop give as many pictures."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What of the crop to put back, such as the mask of Masked Sampler or the painted_area of "
                    "Inpaint Finish. Without it the mask in the crop.",
                ),
                io.Int.Input(
                    "grow",
                    default=FINISH.grow,
                    min=0,
                    max=256,
                    tooltip="Pixels of the crop by which the mask is made larger first. Higher leaves more room "
                    "for the soft edge.",
                ),
                io.Int.Input(
                    "feather",
                    default=FINISH.feather,
                    min=0,
                    max=256,
                    tooltip="Width of the soft edge, in pixels of the crop. It lies in what grow added, so more than "
                    "grow counts as grow.",
                ),
                match_colour_input(),
                grain_input(),
            ],
            outputs=[
                io.Image.Output(tooltip="The picture at its own size, with the edit in it."),
                io.Mask.Output(
                    display_name="painted_area",
                    tooltip="Where the edit was put: elsewhere the picture is the input picture, bit for bit.",
                ),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        image: Any,
        area: CroppedArea,
        edited: Any,
        grow: int,
        feather: int,
        mask: Any = None,
        match_colour: bool = FINISH.match_colour,
        grain: bool = FINISH.grain,
    ) -> io.NodeOutput:
        area.check_picture(image)
        variants, left_over = divmod(len(edited), len(area.regions))
        if left_over or not variants:
            raise ValueError(
                f"there are {len(area.regions)} crops and {len(edited)} edited ones: connect the crops that came from "
                "this Crop to Edit, edited once each, or a batch of edits of each"
            )
        pictures = host.repeat_to_batch(image, 1 + max(region.picture for region in area.regions))
        result = pictures.repeat(variants, 1, 1, 1)
        painted = torch.zeros(result.shape[:3])
        _, alpha = feather_mask(host.fit_mask(area.masks if mask is None else mask, edited), grow, feather)
        alpha = host.repeat_to_batch(alpha, len(edited))
        for number in range(len(edited)):
            variant, crop = divmod(number, len(area.regions))
            region = area.regions[crop].of_another(variant * len(pictures))
            entry = slice(number, number + 1)
            colours = edited[entry]
            if match_colour:
                before = replace(region, size=(colours.shape[1], colours.shape[2])).cut(result)
                colours = match_colours(before, colours[..., :3], alpha[entry])
            region.mark(painted, region.put_back(result, colours, alpha[entry], grain))
        return io.NodeOutput(result, painted)


def _crop(image: Tensor, mask: Tensor, context: float, pixels: int, unit: int, separate: bool) -> CroppedArea:
    size = image.shape[1], image.shape[2]
    masks = host.repeat_to_batch(host.fit_mask(mask, image), max(len(image), len(mask)))
    regions = find_regions(masks > 0.5, pixels, context=context, unit=unit, separate=separate)
    return CroppedArea(tuple(regions), torch.cat([region.cut_mask(masks) for region in regions]), size)


def _pixels(megapixels: float, model: Any) -> int:
    if megapixels:
        return round(megapixels * MEGAPIXEL)
    return MEGAPIXEL if model is None else host.native_side(model) ** 2
