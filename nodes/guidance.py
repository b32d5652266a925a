"""Instant Mask Guidance."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..instdiff_core.options import PRESETS
from . import host
from .checks import check_inputs
from .types import CATEGORY, Attention, Settings, read_given_prompt, readable_model_input, search_aliases, words_inputs


class InstantMaskGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffMaskGuidance",
            display_name="Instant Mask Guidance",
            category=CATEGORY,
            **search_aliases("edit by text", "replace object", "remove object", "inpaint by text", "auto mask"),
            description=(
                "Makes any sampler edit only where the prompt acts: put it between the model and your own KSampler, "
                "KSampler Advanced or custom sampler. Masked Sampler is this and a KSampler in one."
            ),
            inputs=[
                readable_model_input(),
                io.Latent.Input("latent", tooltip="The picture to edit, from VAE Encode."),
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
                io.Model.Output(tooltip="For the sampler, whose positive prompt comes from Encode Edit Prompt."),
                io.Latent.Output(tooltip="The same latent, for the sampler."),
                Attention.Output(
                    display_name="attention",
                    tooltip="For Refine Instant Mask; connect the sampler's LATENT to it as well.",
                ),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls, model: Any, latent: Any, settings: Any = None, mask: Any = None, clip: Any = None, text: str | None = None
    ) -> io.NodeOutput:
        samples = host.get_samples(latent)
        host.check_channels(model, samples)
        if mask is not None:
            host.check_own_mask(mask, samples)
        wrapper = host.InstantMaskWrapper(settings or PRESETS["default"], read_given_prompt(clip, text), mask, samples)
        return io.NodeOutput(host.wrap_model(model, wrapper), latent, wrapper)
