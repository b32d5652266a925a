"""Encode Edit Prompt."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import host
from .checks import check_inputs, find_text_problem
from .types import CATEGORY, Settings, search_aliases


class EncodeEditPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffEncodeEditPrompt",
            display_name="Encode Edit Prompt",
            category=CATEGORY,
            **search_aliases("edit by text", "edit prompt", "replace object"),
            description="Encodes what the edited area should show, and remembers which words the prompt has.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the model that edits."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a dog",
                    tooltip="What the edited area should become: 'a dog'. No need to name what is there now.",
                ),
                Settings.Input(
                    "settings",
                    optional=True,
                    tooltip="From Mask Settings, for this edit alone, in place of the sampler's.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Your own mask for this edit, in place of the one that is found: where it is above 0.5.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    tooltip="For the positive input of Masked Sampler. Several edits at once: Conditioning (Combine)."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        if not isinstance(text, str):
            return True  # connected, or what the host refuses by itself
        if not text.strip():
            return "the edit prompt is empty: say what the picture should show, for example 'a dog'"
        wrong = find_text_problem(text)
        return f"the edit prompt {wrong}" if wrong else True

    @classmethod
    @check_inputs
    def execute(cls, clip: Any, text: str, settings: Any = None, mask: Any = None) -> io.NodeOutput:
        return io.NodeOutput(host.encode_prompt(clip, text, settings, mask))
