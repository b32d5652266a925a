"""Load Mini Model and Mini Scene: the embedded model, and pictures for it."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..instdiff_core.mini.scenes import background_words, compose, object_names
from . import host
from .checks import check_inputs
from .types import CATEGORY, search_aliases


class LoadMiniModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffLoadMiniModel",
            display_name="Load Mini Model",
            category=CATEGORY,
            **search_aliases("example model", "test model"),
            description=(
                "Loads the small model that comes with this pack, to try everything without a download. It knows "
                "simple pictures of 256 x 256 pixels: one or two things (cat, dog, car, apple ...) on a background."
            ),
            inputs=[],
            outputs=[
                io.Model.Output(),
                io.Clip.Output(),
                io.Vae.Output(),
                io.Model.Output(
                    display_name="inpainting_model",
                    tooltip="The same model, trained on to paint a masked area: for Inpaint Finish.",
                ),
            ],
        )

    @classmethod
    @check_inputs
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(
            host.load_mini_unet(), host.load_mini_clip(), host.load_mini_vae(), host.load_mini_inpainting_unet()
        )


class MiniScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffMiniScene",
            display_name="Mini Scene",
            category=CATEGORY,
            **search_aliases("example image", "test image"),
            description="Draws a picture that the mini model understands, with the exact mask of its object.",
            inputs=[
                io.Combo.Input("object", options=object_names(), default="cat", tooltip="What the picture shows."),
                io.Combo.Input("background", options=background_words(), default="grass", tooltip="And where."),
                io.Int.Input(
                    "seed",
                    default=1,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Place, size and turn of the object. Another seed gives another picture.",
                ),
                io.Int.Input(
                    "batch_size",
                    optional=True,
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many pictures: the first has this seed, each after it the next.",
                ),
            ],
            outputs=[io.Image.Output(), io.Mask.Output(display_name="object_mask", tooltip="The object's exact area.")],
        )

    @classmethod
    @check_inputs
    def execute(cls, object: str, background: str, seed: int, batch_size: int = 1) -> io.NodeOutput:
        seeds = range(seed, seed + batch_size)
        scenes = [compose(np.random.default_rng(number), [object], background) for number in seeds]
        pictures = np.stack([picture for picture, _ in scenes]).astype(np.float32) / 255
        masks = np.concatenate([masks for _, masks in scenes]).astype(np.float32)
        return io.NodeOutput(torch.from_numpy(pictures), torch.from_numpy(masks))
