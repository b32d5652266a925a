"""What the nodes share: their category, their own types, and KSampler's inputs."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

from ..instdiff_core.export import MOST_EDITS
from ..instdiff_core.options import FINISH, FinishOptions, SamplingOptions
from .host import SAMPLERS, SCHEDULERS, EditPrompt, read_prompt

CATEGORY = "InstDiffEdit"

ADVANCED: dict[str, Any] = {"advanced": True} if "advanced" in inspect.signature(io.Float.Input).parameters else {}
"""Folds a widget away, in hosts that know how (ComfyUI v0.3.64 does not)."""

Attention = io.Custom("INSTDIFF_ATTENTION")
Settings = io.Custom("INSTDIFF_SETTINGS")
Area = io.Custom("INSTDIFF_AREA")
Box = io.Custom("BOUNDING_BOX")
"""The host's, as a connection in every version."""


def search_aliases(*searches: str) -> dict[str, Any]:
    """What else a node is looked for by, as arguments of its schema, in hosts that know how (v0.3.64 does not)."""
    return {"search_aliases": list(searches)} if "search_aliases" in inspect.signature(io.Schema).parameters else {}


def readable_model_input() -> Any:
    """A model whose attention is read."""
    return io.Model.Input(
        "model", tooltip="Stable Diffusion, SDXL, Flux, SD3, Qwen-Image, Z-Image and others: see help."
    )


def attention_input() -> Any:
    """What a sampling recorded, to be read by `host.get_record`."""
    return Attention.Input("attention", tooltip="From Masked Sampler, Capture Attention or Instant Mask Guidance.")


def sampled_input() -> Any:
    """A link that makes a node wait for the sampler that fills its `attention`."""
    return io.Latent.Input(
        "sampled",
        optional=True,
        tooltip="For attention from Instant Mask Guidance: connect the LATENT of the sampler whose mask you want. "
        "It carries what that sampling recorded, and this node runs after it.",
    )


def edit_input() -> Any:
    """Which of several edits of a sampling is meant, for `edits.select_edits`."""
    return io.Int.Input(
        "edit",
        optional=True,
        default=0,
        min=0,
        max=MOST_EDITS,
        tooltip="Of several edits in one sampling the one to show, by the place of its prompt: 1 is the first. 0: all.",
    )


def edit_masks_output() -> Any:
    """The masks of several edits as one batch."""
    return io.Mask.Output(
        display_name="edit_masks",
        tooltip="A mask for each edit, without overlap, for Inpaint Finish; of a batch first those of the first edit. "
        "With one edit the same as mask.",
    )


def match_colour_input() -> Any:
    """Whether `blend.match_colours` is done."""
    return io.Boolean.Input(
        "match_colour",
        optional=True,
        default=FINISH.match_colour,
        tooltip="Takes the step in colour from the edge of the painted area, by how the VAE has tinted the picture "
        "around it.",
    )


def grain_input() -> Any:
    """Whether `grain.add_grain` is done."""
    return io.Boolean.Input(
        "grain",
        optional=True,
        default=FINISH.grain,
        tooltip="Gives the painted area the grain of the picture around it, as far as it is smoother.",
    )


def sampling_inputs(defaults: SamplingOptions | FinishOptions, denoise_tooltip: str) -> list[Any]:
    """KSampler's widgets, under its names, with these defaults; their strength is its denoise."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The noise that the picture is mixed with. Another seed gives another edit.",
        ),
        io.Int.Input(
            "steps",
            default=defaults.steps,
            min=1,
            max=10000,
            tooltip="Sampling steps. More is slower and finer.",
        ),
        io.Float.Input(
            "cfg",
            default=defaults.cfg,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How strictly the prompt is followed. Higher values follow it more, at the cost of natural looks.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=SAMPLERS,
            default="euler",
            tooltip="The sampling algorithm, as in KSampler.",
        ),
        io.Combo.Input(
            "scheduler",
            options=SCHEDULERS,
            default="normal",
            tooltip="How the noise is taken away over the steps, as in KSampler.",
        ),
        io.Float.Input("denoise", default=defaults.strength, min=0.01, max=1.0, step=0.01, tooltip=denoise_tooltip),
    ]


def words_inputs() -> list[Any]:
    """CLIP and text, for conditionings that came from another encoder than Encode Edit Prompt."""
    return [
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="The CLIP of the positive conditioning, if that came from another node than Encode Edit Prompt.",
        ),
        io.String.Input(
            "text", optional=True, force_input=True, tooltip="The text of that conditioning, word for word."
        ),
    ]


def read_given_prompt(clip: Any, text: str | None) -> EditPrompt | None:
    """The edit prompt of `words_inputs`, none when nothing is connected. Raises ``ValueError`` for only one of them."""
    if clip is None and text is None:
        return None
    if clip is None or text is None:
        raise ValueError("clip and text belong together: connect both, or none")
    return read_prompt(clip, text)
