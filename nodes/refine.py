"""Mask Settings and Refine Instant Mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from comfy_api.latest import io, ui

from ..instdiff_core.corrections import Corrections
from ..instdiff_core.edits import part_masks, select_edits, settings_of_edits, share_settings
from ..instdiff_core.evidence import AttentionRecord
from ..instdiff_core.options import PRESETS, MaskSettings, MaskShape, RegionSampling
from ..instdiff_core.refine import refine_record, retouch_mask
from ..instdiff_core.report import describe_edits
from ..instdiff_core.tokens import split_names
from . import host
from .checks import check_inputs, find_text_problem
from .types import (
    ADVANCED,
    CATEGORY,
    Settings,
    attention_input,
    edit_input,
    edit_masks_output,
    sampled_input,
    search_aliases,
)

DEFAULT = PRESETS["default"]


class MaskSettingsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffMaskSettings",
            display_name="Mask Settings",
            category=CATEGORY,
            **search_aliases("auto mask", "mask threshold"),
            description="How attention becomes a mask. For Masked Sampler and Refine Instant Mask.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="default",
                    tooltip="The most accurate method (default), or the published one (paper), whose own threshold "
                    "is 0.2, blur 2 and min_area 0.",
                ),
                io.Float.Input(
                    "threshold",
                    default=DEFAULT.threshold,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the soft mask is cut. Higher makes the mask smaller. With the preset default, "
                    "0.5 is where the mask parts best from the rest.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the edit prompt that make the mask, with commas between them. "
                    "Empty: what has to change is found by itself.",
                ),
                io.Boolean.Input(
                    "share",
                    default=DEFAULT.share,
                    tooltip="One mask for the whole batch, for several noises of one picture.",
                ),
                io.Float.Input(
                    "positive",
                    default=DEFAULT.positive,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Words whose maps are at least this similar to the main word's go with it: +1 in the "
                    "report, and with the preset paper added to the mask. Higher takes fewer.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "negative",
                    default=DEFAULT.negative,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Words whose maps are at most this similar to the main word's go against it: -1 in the "
                    "report, and with the preset paper taken out of the mask. Higher takes more.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "blur",
                    default=DEFAULT.blur,
                    min=0,
                    max=16,
                    tooltip="How often the soft mask is smoothed. Higher gives rounder masks.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "min_area",
                    optional=True,
                    default=DEFAULT.min_area,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Takes specks out of the mask and fills its holes: pieces smaller than this part of "
                    "the largest one. 0 leaves all. The soft mask keeps them.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "region",
                    optional=True,
                    options=list(get_args(RegionSampling)),
                    default=DEFAULT.region,
                    tooltip="auto: once the mask has settled it stays as it is, and only its surroundings are "
                    "computed, which is faster. Where that is not possible the report says why. off: the whole "
                    "picture in every step.",
                    **ADVANCED,
                ),
            ],
            outputs=[Settings.Output(display_name="settings")],
        )

    @classmethod
    def validate_inputs(
        cls, positive: float | None = None, negative: float | None = None, words: str | None = None
    ) -> bool | str:
        # the host leaves the range of an input to the function that names it; what it refused itself comes here too
        limits = {"positive": positive, "negative": negative}
        known = {name: value for name, value in limits.items() if isinstance(value, (int, float))}
        for name, value in known.items():
            if not -1 <= value <= 1:
                return f"{name} must be from -1 to 1, not {value}"
        if len(known) == 2 and known["negative"] >= known["positive"]:
            return f"negative ({negative}) must be below positive ({positive})"
        return _valid_words(words)

    @classmethod
    @check_inputs
    def execute(cls, preset: str, words: str, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(replace(PRESETS[preset], target=split_names(words), **values))


class RefineInstantMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffRefineMask",
            display_name="Refine Instant Mask",
            category=CATEGORY,
            **search_aliases("auto mask", "mask by text", "find object", "mask threshold"),
            description="Makes the mask again from recorded attention, with other settings and without sampling.",
            is_output_node=True,
            inputs=[
                attention_input(),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="Use only the first steps of the run; 0 uses all. Fewer gives rounder, rougher masks.",
                ),
                io.Float.Input(
                    "threshold",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the soft mask is cut. Higher makes the mask smaller. 0: that of the settings.",
                ),
                io.String.Input(
                    "words",
                    optional=True,
                    default="",
                    tooltip="Words or phrases of the edit prompt that make the mask, with commas between them. "
                    "Empty: those of the settings.",
                ),
                Settings.Input("settings", optional=True, tooltip="From Mask Settings; without it the defaults hold."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that was edited: the masks get its size, and with the preset default they "
                    "follow its edges.",
                ),
                sampled_input(),
                io.Int.Input(
                    "grow",
                    optional=True,
                    default=0,
                    min=-256,
                    max=256,
                    tooltip="Makes the mask larger by so many pixels, or smaller.",
                ),
                io.Int.Input(
                    "smooth",
                    optional=True,
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Takes corners, threads and notches of up to about so many pixels off its edge.",
                ),
                io.Boolean.Input(
                    "fill_holes",
                    optional=True,
                    default=False,
                    tooltip="Fills what the mask encloses, however large.",
                ),
                io.String.Input(
                    "corrections",
                    optional=True,
                    default="",
                    socketless=True,
                    tooltip="What was painted and dropped by hand in the mask editor; it writes this itself.",
                ),
                edit_input(),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="The mask, at exactly the size of image; without one at the size that VAE Decode gives.",
                ),
                io.Mask.Output(
                    display_name="soft_mask",
                    tooltip="The same before it is cut at the threshold, cleaned of specks and holes, and retouched.",
                ),
                io.String.Output(display_name="report", tooltip="The words, their weights, the area, the confidence."),
                edit_masks_output(),
            ],
        )

    @classmethod
    def validate_inputs(cls, words: str | None = None, corrections: str | None = None) -> bool | str:
        valid = _valid_words(words)
        return _valid_corrections(corrections) if valid is True else valid

    @classmethod
    @check_inputs
    def execute(
        cls, attention: Any, steps: int, threshold: float | None = None, words: str | None = None,
        settings: Any = None, image: Any = None, sampled: Any = None, grow: int | None = None,
        smooth: int | None = None, fill_holes: bool | None = None, corrections: str | None = None,
        edit: int | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        attention = host.get_record(attention, sampled)
        shown = select_edits(attention, edit)
        own = settings_of_edits(attention, settings or DEFAULT)
        chosen = _changed(attention, own, shown, threshold, split_names(words or ""))
        picture = None if image is None else host.match_image_to_record(image, attention)
        shape, by_hand = MaskShape(bool(fill_holes), smooth or 0, grow or 0), _read_corrections(corrections)
        pairs = zip(attention.edits, chosen, strict=True)
        made = [refine_record(record, values, steps or None, picture) for record, values in pairs]
        for number in shown:
            made[number] = retouch_mask(made[number], shape, by_hand, attention.edits[number].noise_mask)
        masks = part_masks(made)
        binary = torch.stack([masks[number].binary for number in shown]).any(0).float()
        soft = torch.stack([masks[number].soft for number in shown]).amax(0)
        of_edits = torch.cat([mask.binary for mask in masks]).float()
        binary, soft, of_edits = (
            host.to_intermediate(each if image is None else host.undo_vae_crop(each, image))
            for each in (binary, soft, of_edits)
        )
        text = describe_edits(masks, attention, chosen, shown, steps or None)
        pictures = picture[:1] if picture is not None and len(image) == 1 else picture
        inputs = {
            "steps": steps, "threshold": threshold, "words": words, "grow": grow, "smooth": smooth,
            "fill_holes": fill_holes, "edit": edit,
        }  # fmt: skip
        left = host.leave_for_browser(attention, own, pictures) | {"inputs": inputs}
        preview = ui.PreviewMask(binary, cls=cls).as_dict()
        return io.NodeOutput(binary, soft, text, of_edits, ui=preview | {"instdiff_record": [left]})


def _changed(
    record: AttentionRecord, settings: list[MaskSettings], numbers: Sequence[int], threshold: float | None,
    words: tuple[str, ...],
) -> list[MaskSettings]:  # fmt: skip
    """The settings of all edits, with another threshold and other words (none: as they are) for the numbered ones."""
    prompts = [record.edits[number].words for number in numbers]
    changed = list(settings)
    for number, common in zip(numbers, share_settings(prompts, replace(DEFAULT, target=words)), strict=True):
        own = settings[number]
        changed[number] = replace(own, threshold=threshold or own.threshold, target=common.target or own.target)
    return changed


def _valid_words(words: str | None) -> bool | str:
    """What `validate_inputs` gives for a list of words; the host lets it see what is no text too."""
    wrong = find_text_problem(words) if isinstance(words, str) else None
    return f"words {wrong}" if wrong else True


def _read_corrections(text: str | None) -> Corrections:
    """Raises ``ValueError`` with a sentence."""
    try:
        return Corrections.read(text or "")
    except ValueError as error:
        raise ValueError(f"corrections {error}: clear them in the mask editor") from None


def _valid_corrections(text: str | None) -> bool | str:
    """What `validate_inputs` gives for corrections; the host lets it see what is no text too."""
    wrong = find_text_problem(text) if isinstance(text, str) else None
    if wrong:
        return f"corrections {wrong}"
    try:
        _read_corrections(text if isinstance(text, str) else None)
    except ValueError as error:
        return str(error)
    return True
