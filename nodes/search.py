"""Find in Photo."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..instdiff_core.options import PRESETS, SAMPLING, MaskSettings
from ..instdiff_core.search import QUICK_STEPS, Sighting, find_in_photo, see
from . import host
from .checks import check_inputs, list_boxes, read_points
from .types import CATEGORY, Box, Settings, read_given_prompt, sampling_inputs, search_aliases, words_inputs

UNIT = 64
"""What the sides of the crops are multiples of."""


class FindInPhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffFindInPhoto",
            display_name="Find in Photo",
            category=CATEGORY,
            **search_aliases("large photo", "mask by text", "find object", "tiles", "segment by text"),
            description=(
                "Finds what the prompt would change in a photo of any size: on a small copy and, where that shows "
                "nothing sure, in tiles. For Crop to Edit."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that will edit."),
                io.Conditioning.Input("positive", tooltip="The edit prompt, from Encode Edit Prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid, from any text encoder; may be empty."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input("image", tooltip="The photo, at its own size."),
                *sampling_inputs(
                    SAMPLING,
                    "How much noise the pictures get. Around 0.5 finds best, with Flux, SD3 and other transformers "
                    "0.2 to 0.3.",
                ),
                Settings.Input("settings", optional=True, tooltip="From Mask Settings; without it the defaults hold."),
                *words_inputs(),
                io.Mask.Input(
                    "hint",
                    optional=True,
                    tooltip="Roughly where it is, such as a stroke over it: only its surroundings are looked at, and "
                    "what touches it is taken. Finds what is too small to be found alone. An empty one says nothing.",
                ),
                Box.Input("box", optional=True, tooltip="The same as a box, or several, in pixels of the photo."),
                io.Conditioning.Input(
                    "there",
                    optional=True,
                    tooltip="What is there now, from Encode Edit Prompt: 'a bird', where a bird is to become a dog. "
                    "The photo is searched for it. Where a hint, a box or points say where it is, it is not needed.",
                ),
                io.String.Input(
                    "points",
                    optional=True,
                    force_input=True,
                    tooltip="Points on it, in pixels of the photo, as point editors and SAM3 Detect have them: a JSON "
                    "list with x and y of each. What they touch is taken.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="What was found, at the photo's size.")],
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
        steps: int,
        settings: Any = None,
        clip: Any = None,
        text: str | None = None,
        hint: Any = None,
        box: Any = None,
        there: Any = None,
        points: str | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        prompt = read_given_prompt(clip, text)
        prompts = host.get_edit_prompts(positive, settings or PRESETS["default"], prompt)
        if len(prompts) > 1:
            raise ValueError(
                "positive combines several edit prompts, and Find in Photo looks for one thing: find one after the "
                "other, and give each Encode Edit Prompt its mask"
            )
        # the tiles of a batch are different pictures
        settings = replace(prompts[0].settings or settings or PRESETS["default"], share=False)

        def look(
            conditioning: Any, settings: MaskSettings, prompt: host.EditPrompt | None, crops: Tensor, quick: bool
        ) -> Sighting:
            latent = host.encode(vae, crops)
            host.check_channels(model, host.get_samples(latent))
            wrapper = host.InstantMaskWrapper(settings, prompt, asks=False)
            taken = min(steps, QUICK_STEPS) if quick else steps
            host.sample(host.wrap_model(model, wrapper), latent, conditioning, negative, steps=taken, **widgets)
            return see(wrapper.record, settings, crops)

        if there is not None:
            _check_there(there)
        look_for = None if there is None else partial(look, there, PRESETS["default"], None)
        pixels = host.native_side(model) ** 2
        hints, places = _hints(image, hint, box), read_points(points)
        look_at = partial(look, positive, settings, prompt)
        masks = [
            find_in_photo(photo[None].float().cpu(), look_at, pixels, UNIT, own[None], places, look_for)
            for photo, own in zip(image, hints, strict=True)
        ]
        return io.NodeOutput(host.to_intermediate(torch.cat(masks).float()))


def _check_there(there: Any) -> None:
    """Raises ``ValueError`` for a conditioning that does not carry the words of one prompt."""
    if len(host.find_prompts(options for _, options in there)) != 1:
        raise ValueError(
            "the input 'there' takes one prompt that says what is there now, with its words: connect a single Encode "
            "Edit Prompt"
        )


def _hints(image: Tensor, hint: Tensor | None, box: Any) -> Tensor:
    """Where a MASK of any size or boxes say something of pictures ``[B, H, W, C]``, ``[B, H, W]`` bool."""
    hints = torch.zeros(image.shape[:3], dtype=torch.bool)
    if hint is not None:
        hints |= host.repeat_to_batch(host.fit_mask(hint, image).cpu(), len(image)) > 0.5
    for sides in list_boxes(box or []):
        rows, columns = (
            slice(max(0, round(sides[start])), max(0, round(sides[start] + sides[length])))
            for start, length in (("y", "height"), ("x", "width"))
        )
        hints[:, rows, columns] = True
    return hints
