"""Instant Mask Guidance."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..instdiff_core.refine import PRESETS
from . import host
from .checks import checked
from .types import CATEGORY, Attention, Settings, found_by, prompt_given, words_inputs


class InstantMaskGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffMaskGuidance",
            display_name="Instant Mask Guidance",
            category=CATEGORY,
            **found_by("edit by text", "replace object", "remove object", "inpaint by text", "auto mask"),
            description=(
                "Makes any sampler edit only where the prompt acts: put it between the model and your own KSampler, "
                "KSampler Advanced or custom sampler. Masked Sampler is this and a KSampler in one."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion model with a U-Net."),
                io.Latent.Input("latent", tooltip="The picture to edit, from VAE Encode."),
                Settings.Input("settings", optional=True, tooltip="From Mask Settings; without it the defaults hold."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Your own mask, to edit this area instead of the one that is found: where it is above 0.5.",
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
    @checked
    def execute(
        cls, model: Any, latent: Any, settings: Any = None, mask: Any = None, clip: Any = None, text: str | None = None
    ) -> io.NodeOutput:
        samples = host.picture_latent(latent)
        host.check_channels(model, samples)
        if mask is not None:
            host.check_own_mask(mask, samples)
        guide = host.InstantMaskGuide(settings or PRESETS["default"], prompt_given(clip, text), mask, samples)
        return io.NodeOutput(host.guided(model, guide), latent, guide)
