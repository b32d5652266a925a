"""Masked Sampler."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..instdiff_core.options import PRESETS, SAMPLING
from . import host
from .checks import check_inputs
from .types import (
    CATEGORY,
    Attention,
    Settings,
    edit_masks_output,
    read_given_prompt,
    readable_model_input,
    sampling_inputs,
    search_aliases,
    words_inputs,
)


class MaskedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffMaskedSampler",
            display_name="Masked Sampler",
            category=CATEGORY,
            **search_aliases("edit by text", "replace object", "remove object", "inpaint by text", "auto mask"),
            description=(
                "Edits a picture towards the prompt. While it samples, the model's own attention finds the area that "
                "the prompt is about, and the rest of the picture is kept."
            ),
            inputs=[
                readable_model_input(),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The edit prompt, from Encode Edit Prompt. For several edits join theirs by Conditioning "
                    "(Combine).",
                ),
                io.Conditioning.Input("negative", tooltip="What to avoid, from any text encoder; may be empty."),
                io.Latent.Input("latent_image", tooltip="The picture to edit, from VAE Encode."),
                *sampling_inputs(
                    SAMPLING,
                    "Strength of the edit: how much noise the picture gets. "
                    "Higher changes more and keeps less of what is there; around 0.5 works best, with Flux, SD3 and "
                    "other transformers 0.2 to 0.3.",
                ),
                Settings.Input("settings", optional=True, tooltip="From Mask Settings; without it the defaults hold."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Your own mask, to edit this area instead of the one that is found: where it is above 0.5. "
                    "Of several edits each is found inside it.",
                ),
                *words_inputs(),
            ],
            outputs=[
                io.Latent.Output(tooltip="The edited picture, for VAE Decode or Inpaint Finish."),
                io.Mask.Output(display_name="mask", tooltip="The edited area, at the size that VAE Decode gives."),
                Attention.Output(display_name="attention", tooltip="For Refine Instant Mask."),
                edit_masks_output(),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: Any,
        settings: Any = None,
        mask: Any = None,
        clip: Any = None,
        text: str | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        settings = settings or PRESETS["default"]
        samples = host.get_samples(latent_image)
        host.check_channels(model, samples)
        prompt = read_given_prompt(clip, text)
        prompts = host.get_edit_prompts(positive, settings, prompt)
        for name, own in [("mask", mask), *(("mask of Encode Edit Prompt", each.mask) for each in prompts)]:
            if own is not None:
                host.check_own_mask(own, samples, name)
        wrapper = host.InstantMaskWrapper(settings, prompt, mask)
        latent = host.sample(host.wrap_model(model, wrapper), latent_image, positive, negative, **widgets)
        record = wrapper.record
        masks = host.find_edited_areas(record, prompts, settings, mask)
        areas = (torch.stack(masks).any(0), torch.cat(masks))
        union, of_edits = (host.to_intermediate(area.float()) for area in areas)
        return io.NodeOutput(latent, union, record, of_edits)
