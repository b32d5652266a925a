"""Attention Heatmaps."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..instdiff_core.edits import select_edits
from ..instdiff_core.heatmap import COLORMAPS, draw_heatmaps
from . import host
from .checks import check_inputs
from .types import CATEGORY, attention_input, edit_input, sampled_input, search_aliases


class AttentionHeatmaps(io.ComfyNode):
    """The pictures are one batch in float32, on the CPU as a rule: a megapixel takes 12 MB a word."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffAttentionHeatmaps",
            display_name="Attention Heatmaps",
            category=CATEGORY,
            **search_aliases("attention maps", "DAAM"),
            description=(
                "Shows for every word of the prompt where it acted, and which of them is the index word: the one "
                "whose place is most like the mask."
            ),
            inputs=[
                attention_input(),
                io.Combo.Input(
                    "colormap",
                    options=list(COLORMAPS),
                    default="viridis",
                    tooltip="The colours, from 0 (dark: the word does not act there) to 1 (bright: it acts most "
                    "there). All are told apart by colour-blind people too.",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much the colours cover the picture: 0 shows the picture alone, 1 the colours alone.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="Use only the first steps of the run; 0 uses all.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that was sampled, to see the words on it; without it the colours alone.",
                ),
                sampled_input(),
                edit_input(),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="A picture for each word, in the order of the prompt; of a batch, picture by picture. "
                    "Of several edits, one edit after the other."
                )
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls, attention: Any, colormap: str, opacity: float, steps: int, image: Any = None, sampled: Any = None,
        edit: int | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        attention = host.get_record(attention, sampled)
        picture = None if image is None else host.match_image_to_record(image, attention)
        edits = [attention.edits[number] for number in select_edits(attention, edit)]
        drawn = [
            draw_heatmaps(each.evidence(steps or None), each.words, each.image_size, colormap, picture, opacity)
            for each in edits
        ]
        return io.NodeOutput(host.to_intermediate(drawn[0] if len(drawn) == 1 else torch.cat(drawn)))
