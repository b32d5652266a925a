"""Capture Attention."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..instdiff_core.options import SAMPLING
from . import host
from .checks import check_inputs
from .types import (
    CATEGORY,
    Attention,
    read_given_prompt,
    readable_model_input,
    sampling_inputs,
    search_aliases,
    words_inputs,
)


class CaptureAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffCaptureAttention",
            display_name="Capture Attention",
            category=CATEGORY,
            **search_aliases("find object", "mask by text", "segment by text", "attention maps"),
            description=(
                "Samples exactly as KSampler does, and records where each word of the prompt acted. "
                "With Refine Instant Mask this finds an object by text, without editing the picture."
            ),
            inputs=[
                readable_model_input(),
                io.Conditioning.Input("positive", tooltip="The prompt, from Encode Edit Prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid, from any text encoder; may be empty."),
                io.Latent.Input("latent_image", tooltip="The picture, from VAE Encode."),
                *sampling_inputs(
                    SAMPLING,
                    "How much noise the picture gets. Around 0.5 words find their objects best, with Flux, SD3 and "
                    "other transformers at 0.2 to 0.3.",
                ),
                *words_inputs(),
            ],
            outputs=[
                io.Latent.Output(tooltip="What KSampler would have made."),
                Attention.Output(display_name="attention", tooltip="For Refine Instant Mask."),
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
        clip: Any = None,
        text: str | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        host.check_channels(model, host.get_samples(latent_image))
        prompt = read_given_prompt(clip, text)
        host.get_edit_prompts(positive, None, prompt)
        wrapper = host.InstantMaskWrapper(None, prompt)
        latent = host.sample(host.wrap_model(model, wrapper), latent_image, positive, negative, **widgets)
        return io.NodeOutput(latent, wrapper.record)
