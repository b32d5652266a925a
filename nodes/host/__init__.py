"""The one place that touches ComfyUI's internals."""

from .browser import leave_for_browser
from .difference import noise_difference
from .pictures import (
    check_channels,
    decode,
    inpaint_latent,
    is_inpainting_model,
    mask_for,
    picture_for,
    picture_latent,
    repeat_to_batch,
    to_intermediate,
)
from .sampling import SAMPLERS, SCHEDULERS, InstantMaskGuide, guided, record_of, sample
from .text import WORDS, encode_prompt, words_in, words_of

__all__ = [
    "SAMPLERS",
    "SCHEDULERS",
    "WORDS",
    "InstantMaskGuide",
    "check_channels",
    "decode",
    "encode_prompt",
    "guided",
    "inpaint_latent",
    "is_inpainting_model",
    "leave_for_browser",
    "mask_for",
    "noise_difference",
    "picture_for",
    "picture_latent",
    "record_of",
    "repeat_to_batch",
    "sample",
    "to_intermediate",
    "words_in",
    "words_of",
]
