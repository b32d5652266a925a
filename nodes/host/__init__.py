"""The one place that touches ComfyUI's internals."""

from .browser import leave_for_browser
from .difference import noise_difference
from .guide import InstantMaskGuide, guided, record_of
from .pictures import (
    check_channels,
    check_own_mask,
    decode,
    inpaint_latent,
    is_inpainting_model,
    mask_for,
    own_mask,
    picture_for,
    picture_latent,
    repeat_to_batch,
    to_intermediate,
    uncut,
)
from .sampling import SAMPLERS, SCHEDULERS, sample
from .text import PROMPT, EditPrompt, edit_prompt_of, encode_prompt, read_prompt

__all__ = [
    "PROMPT",
    "SAMPLERS",
    "SCHEDULERS",
    "EditPrompt",
    "InstantMaskGuide",
    "check_channels",
    "check_own_mask",
    "decode",
    "edit_prompt_of",
    "encode_prompt",
    "guided",
    "inpaint_latent",
    "is_inpainting_model",
    "leave_for_browser",
    "mask_for",
    "noise_difference",
    "own_mask",
    "picture_for",
    "picture_latent",
    "read_prompt",
    "record_of",
    "repeat_to_batch",
    "sample",
    "to_intermediate",
    "uncut",
]
