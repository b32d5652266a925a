"""The one place that touches ComfyUI's internals."""

from .browser import leave_for_browser
from .difference import measure_difference
from .edits import find_edited_areas
from .mini_model import load_mini_clip, load_mini_inpainting_unet, load_mini_unet, load_mini_vae
from .pictures import (
    check_channels,
    check_own_mask,
    decode,
    decode_start,
    encode,
    encode_for_inpainting,
    find_editable_pixels,
    fit_mask,
    get_samples,
    is_inpainting_model,
    match_image_to_record,
    repeat_to_batch,
    scale_mask_to_image,
    scale_own_mask,
    to_intermediate,
    undo_vae_crop,
)
from .routes import add_routes
from .sampling import SAMPLERS, SCHEDULERS, sample, sample_in_passes, share_progress
from .sizes import native_side
from .text import (
    PROMPT,
    EditPrompt,
    encode_prompt,
    find_prompts,
    get_edit_prompts,
    part_conditioning,
    read_prompt,
    suits_a_crop,
)
from .wrapper import InstantMaskWrapper, get_record, is_wrapped, wrap_model

__all__ = [
    "PROMPT",
    "SAMPLERS",
    "SCHEDULERS",
    "EditPrompt",
    "InstantMaskWrapper",
    "add_routes",
    "check_channels",
    "check_own_mask",
    "decode",
    "decode_start",
    "encode",
    "encode_for_inpainting",
    "encode_prompt",
    "find_editable_pixels",
    "find_edited_areas",
    "find_prompts",
    "fit_mask",
    "get_edit_prompts",
    "get_record",
    "get_samples",
    "is_inpainting_model",
    "is_wrapped",
    "leave_for_browser",
    "load_mini_clip",
    "load_mini_inpainting_unet",
    "load_mini_unet",
    "load_mini_vae",
    "match_image_to_record",
    "measure_difference",
    "native_side",
    "part_conditioning",
    "read_prompt",
    "repeat_to_batch",
    "sample",
    "sample_in_passes",
    "scale_mask_to_image",
    "scale_own_mask",
    "share_progress",
    "suits_a_crop",
    "to_intermediate",
    "undo_vae_crop",
    "wrap_model",
]
