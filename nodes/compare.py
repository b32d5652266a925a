"""Compare Edit."""

from __future__ import annotations

import math
from statistics import fmean

from comfy_api.latest import io, ui
from torch import Tensor
from torch.nn.functional import interpolate

from ..instdiff_core.drawing import AMPLIFIED, BLUE, ORANGE, draw_outline, show_difference, show_masks
from ..instdiff_core.metrics import iou, psnr_outside, ssim_outside
from . import host
from .checks import check_inputs
from .types import CATEGORY, search_aliases

EQUAL = 100.0
"""What is given in dB for pictures that are equal, or so nearly that it would be more."""


class CompareEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffCompareEdit",
            display_name="Compare Edit",
            category=CATEGORY,
            **search_aliases("compare masks", "IoU", "PSNR", "SSIM"),
            description=(
                "Shows and measures what an edit changed outside its mask, and how well two masks agree. "
                "Connect two pictures, two masks, or both."
            ),
            is_output_node=True,
            inputs=[
                io.Image.Input("before", optional=True, tooltip="The picture before the edit."),
                io.Image.Input("after", optional=True, tooltip="The edited picture, of the same size."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The edited area: the pictures are compared outside it. Without it, everywhere.",
                ),
                io.Mask.Input(
                    "other_mask",
                    optional=True,
                    tooltip="A mask to compare the first with, for example the true one.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="difference",
                    tooltip=f"Of pictures: black where they are equal, else {AMPLIFIED} times their difference, with "
                    "the mask's outline in orange, the other's in blue. Of masks alone: their areas, white in both.",
                ),
                io.Float.Output(
                    display_name="iou",
                    tooltip="How well the masks agree: 1 is the same area, 0 is none in common. The mean of a batch.",
                ),
                io.Float.Output(
                    display_name="psnr_outside",
                    tooltip="How near the pictures are outside the mask, in dB: higher is nearer, 100 is equal.",
                ),
                io.Float.Output(
                    display_name="ssim_outside",
                    tooltip="How alike their structure is outside the mask, from -1 to 1: 1 is equal, 0 has nothing in "
                    "common, below 0 is reversed.",
                ),
                io.String.Output(display_name="report", tooltip="The figures, a line for each picture."),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        before: Tensor | None = None,
        after: Tensor | None = None,
        mask: Tensor | None = None,
        other_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        pictures = _pictures(before, after)
        masks = _masks(mask, other_mask, pictures)
        if not pictures and len(masks) < 2:
            raise ValueError("nothing to compare: connect before and after, or mask and other_mask, or all four")
        count = max(len(batch) for batch in pictures + masks)
        pictures, masks = ([host.repeat_to_batch(batch, count) for batch in group] for group in (pictures, masks))

        difference = show_difference(*pictures) if pictures else show_masks(*masks)
        if pictures:
            for area, colour in zip(masks, (ORANGE, BLUE), strict=False):
                difference = draw_outline(difference, area, colour)
        figures = [_figures([batch[i] for batch in pictures], [batch[i] for batch in masks]) for i in range(count)]
        where = " outside the mask" if masks else ""
        report = "\n".join(_line(number, values, where) for number, values in enumerate(figures, 1))
        shown = ui.PreviewImage(difference, cls=cls).as_dict() | ui.PreviewText(report).as_dict()
        return io.NodeOutput(
            host.to_intermediate(difference),
            *(fmean(values) for values in zip(*figures, strict=True)),
            report,
            ui=shown,
        )


Figures = tuple[float, float, float]
"""IoU, PSNR and SSIM; not a number where there was nothing to measure it on."""


def _figures(pictures: list[Tensor], masks: list[Tensor]) -> Figures:
    """Of one pair ``[H, W, 3]``, or none, and of up to two masks ``[H, W]`` bool."""
    overlap = float(iou(*masks)) if len(masks) == 2 else math.nan
    if not pictures:
        return overlap, math.nan, math.nan
    before, after = pictures
    inside = masks[0] if masks else before.new_zeros(before.shape[:2]).bool()
    bytes_before, bytes_after = ((picture * 255).round().clamp(0, 255).byte() for picture in pictures)
    decibels = min(EQUAL, float(psnr_outside(bytes_before, bytes_after, inside)))
    return overlap, decibels, float(ssim_outside(before[None], after[None], inside[None]))


def _line(number: int, figures: Figures, where: str) -> str:
    names = ("masks agree {:.3f} (IoU)", "PSNR {:.1f} dB" + where, "SSIM {:.4f}" + where)
    known = [name.format(value) for name, value in zip(names, figures, strict=True) if not math.isnan(value)]
    return f"picture {number}: {', '.join(known)}"


def _pictures(before: Tensor | None, after: Tensor | None) -> list[Tensor]:
    """The colours ``[B, H, W, 3]`` of both, or of none. Raises ``ValueError`` for one, and for other sizes."""
    if (before is None) != (after is None):
        raise ValueError(
            f"one picture has nothing to be compared with: connect {'after' if after is None else 'before'} too"
        )
    if before is None or after is None:
        return []
    if before.shape[1:3] != after.shape[1:3]:
        sizes = " and ".join(f"{picture.shape[2]} x {picture.shape[1]}" for picture in (before, after))
        raise ValueError(
            f"the pictures are of different size, {sizes}: crop or scale one to the other's size first. "
            "Inpaint Finish keeps the size; VAE Decode gives multiples of 8"
        )
    return [picture[..., :3] for picture in (before, after.to(before.device))]


def _masks(mask: Tensor | None, other: Tensor | None, pictures: list[Tensor]) -> list[Tensor]:
    """The masks ``[B, H, W]`` bool at the size of the pictures, else of the first.

    Raises ``ValueError`` for an other mask without a first.
    """
    if mask is None and other is not None:
        raise ValueError("other_mask has nothing to be compared with: connect mask too")
    masks = [area[:, None] for area in (mask, other) if area is not None]
    if not masks:
        return []
    like = pictures[0] if pictures else masks[0][:, 0]
    size = like.shape[1], like.shape[2]
    return [interpolate(area.to(like.device), size, mode="bilinear")[:, 0] > 0.5 for area in masks]
