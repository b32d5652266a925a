"""Before and after pictures that real editors made: those of ComfyUI's own templates, where their package is installed.

They show what users get, and there is no truth to them: the sheet is to be looked at.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PACKAGE = "comfyui_workflow_templates_media_image"

TEMPLATES = {
    "image_qwen_image_edit": (2, 1),
    "image_qwen_image_edit_2509": (2, 1),
    "image_qwen_image_edit_2511": (2, 1),
    "image_flux2": (2, 1),
    "flux_fill_inpaint_example": (2, 1),
    "image_flux.1_fill_dev_OneReward": (1, 2),
    "hidream_e1_full": (1, 2),
    "hidream_e1_1": (1, 2),
    "image_boogu_image_0_1_edit": (1, 2),
    "api_grok_image_edit": (1, 2),
    "api_grok_imagine_image_quality_image_edit": (2, 1),
    "api_wavespeed_seedvr2_ai_image_fix": (2, 1),
    "api_nano_banana_2_lite_image_edit": (2, 1),
    "utility_nanobanana_pro_product_upscale": (2, 1),
    "image_qwen_image_instantx_inpainting_controlnet": (1, 2),
    "image_flux2_klein_image_edit_9b_distilled": (2, 1),
    "image_qwen_image_edit_2509_relight": (2, 1),
    "image_longcat_image_edit": (2, 1),
    "image_firered_image_edit1_1": (2, 1),
    "image_omnigen2_image_edit": (2, 1),
    "image-qwen_image_edit_2511_lora_inflation": (2, 1),
    "image_chrono_edit_14B": (2, 1),
    "api_luma_uni_1_image_edit": (1, 2),
    "video_bernini_r_image_editing": (2, 1),
}
"""Templates that show one picture before and after, and the numbers of these two."""


def template_pairs() -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """The name, the original and the edit ``[H, W, 3]`` of each template that is there."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in spec.submodule_search_locations or () if spec else ():
        for name, numbers in TEMPLATES.items():
            files = [Path(folder, "templates", f"{name}-{number}.webp") for number in numbers]
            if all(file.exists() for file in files):
                first, second = (np.asarray(Image.open(file).convert("RGB")) for file in files)
                yield name, first, second
