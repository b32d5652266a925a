"""Edit Guard."""

from __future__ import annotations

from typing import Any, get_args

import torch
from comfy_api.latest import io, ui

from ..instdiff_core.drawing import show_area
from ..instdiff_core.guard import guard_edit
from ..instdiff_core.options import GUARD, GuardOptions, Refused
from . import host
from .checks import check_inputs
from .types import CATEGORY, search_aliases


class EditGuard(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffEditGuard",
            display_name="Edit Guard",
            category=CATEGORY,
            **search_aliases("pixel shift", "align images", "color match", "restore original", "Qwen edit", "Kontext"),
            description=(
                "Puts only the edit into the original, whatever editor made it: undoes shift, zoom and colour drift, "
                "finds what was changed, and keeps the rest of the original bit for bit."
            ),
            inputs=[
                io.Image.Input("edited", tooltip="What the editor made of the picture, of any size."),
                io.Image.Input("original", tooltip="The picture before the edit, at its own size."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the edit is, on the original: where it is above 0.5. Without it that is found.",
                ),
                io.Float.Input(
                    "sensitivity",
                    default=GUARD.sensitivity,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Higher takes smaller differences for an edit, and more of the drift with them.",
                ),
                io.Float.Input(
                    "grow",
                    default=GUARD.grow,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    tooltip="By how much the area is made larger, in percent of the picture's longer side.",
                ),
                io.Float.Input(
                    "feather",
                    default=GUARD.feather,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    tooltip="Width of the soft edge, in percent of the picture's longer side. It lies in what grow "
                    "added, so more than grow counts as grow.",
                ),
                io.Boolean.Input(
                    "match_colour",
                    default=GUARD.match_colour,
                    tooltip="Take the editor's change of all colours back. Off: the edit keeps the editor's colours.",
                ),
                io.Combo.Input(
                    "if_refused",
                    options=list(get_args(Refused)),
                    default=GUARD.refused,
                    tooltip="What comes out where the edit cannot be told from the rest: all of it, laid over the "
                    "original where that is possible; the edit as it is, scaled; or the original.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The original at its own size, with the edit in it."),
                io.Mask.Output(
                    display_name="painted_area",
                    tooltip="Where the edit was put: elsewhere the picture is the original, bit for bit.",
                ),
                io.Image.Output(
                    display_name="aligned",
                    tooltip="All of the edit, laid over the original and in its colours, to compare or to cut from.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What was found out about each picture: how it moved, what was edited, why it was refused.",
                ),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        edited: Any,
        original: Any,
        sensitivity: float,
        grow: float,
        feather: float,
        match_colour: bool,
        if_refused: Refused,
        mask: Any = None,
    ) -> io.NodeOutput:
        options = GuardOptions(sensitivity, grow, feather, match_colour, if_refused)
        count = max(len(edited), len(original), 0 if mask is None else len(mask))
        edits, originals = (host.repeat_to_batch(pictures, count) for pictures in (edited, original))
        masks = [None] * count if mask is None else host.repeat_to_batch(mask, count)
        results = [guard_edit(*entry, options) for entry in zip(originals, edits, masks, strict=True)]
        report = "\n".join(f"picture {number}: {result.report.describe()}" for number, result in enumerate(results, 1))
        picture, area, aligned = (
            torch.stack([getattr(result, name) for result in results]) for name in ("picture", "area", "aligned")
        )
        outlined = torch.stack([show_area(result.picture, result.area) for result in results])
        shown = ui.PreviewImage(outlined, cls=cls).as_dict() | ui.PreviewText(report).as_dict()
        return io.NodeOutput(picture, area.float(), aligned, report, ui=shown)
