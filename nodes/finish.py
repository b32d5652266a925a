"""Inpaint Finish."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..instdiff_core.blend import feather_mask, paste
from ..instdiff_core.options import FINISH
from . import host
from .checks import check_inputs, find_tensor_problem
from .types import CATEGORY, sampling_inputs, search_aliases


class InpaintFinish(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffInpaintFinish",
            display_name="Inpaint Finish",
            category=CATEGORY,
            **search_aliases("inpaint by text", "replace object", "remove object", "inpaint", "paste back"),
            description=(
                "Paints the masked area once more, so that the edit and its surroundings agree. "
                "Outside the grown mask the result is the input picture, bit for bit."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An inpainting model, or the model that edited."),
                io.Conditioning.Input("positive", tooltip="The edit prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid; may be empty."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input("image", tooltip="The picture before the edit."),
                io.Mask.Input(
                    "mask",
                    tooltip="The area to paint, from Masked Sampler, Refine Instant Mask or you: where it is above "
                    "0.5. The soft edge is made by feather.",
                ),
                *sampling_inputs(
                    FINISH, "How freely the area is painted: 1 starts from nothing, lower keeps more of the edit."
                ),
                io.Int.Input(
                    "grow",
                    default=FINISH.grow,
                    min=0,
                    max=256,
                    tooltip="Pixels by which the mask is made larger first. Higher leaves more room for new shapes "
                    "and for the soft edge.",
                ),
                io.Int.Input(
                    "feather",
                    default=FINISH.feather,
                    min=0,
                    max=256,
                    tooltip="Width in pixels of the soft edge. It lies in what grow added, so more than grow counts as "
                    "grow; the mask itself is painted over fully. Higher hides the seam better.",
                ),
                io.Latent.Input(
                    "samples",
                    optional=True,
                    tooltip="The edit of Masked Sampler, to start from. Without it the picture itself is the start. "
                    "Its noise mask, where it has one, bounds the painted area.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The finished pictures: as many as the most of pictures, masks and samples."),
                io.Mask.Output(
                    display_name="painted_area",
                    tooltip="The grown mask, inside the noise mask of samples: outside it the finished picture is the "
                    "input picture, bit for bit.",
                ),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        image: Any,
        mask: Any,
        grow: int,
        feather: int,
        samples: Any = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        count = max(len(image), len(mask), 1 if samples is None else len(host.get_samples(samples)))
        mask = host.scale_mask_to_image(mask, image, vae)
        image, mask = host.repeat_to_batch(image, count), host.repeat_to_batch(mask, count)
        area, alpha = feather_mask(mask, grow, feather)
        if samples is not None and (editable := host.find_editable_pixels(samples, image, vae)) is not None:
            editable = host.repeat_to_batch(editable, count)
            area, alpha = area & editable, alpha * editable
        painted_area = host.to_intermediate(area.float())
        if not area.any():
            return io.NodeOutput(image, painted_area)
        positive, negative, latent = host.encode_for_inpainting(model, vae, image, area, samples, positive, negative)
        host.check_channels(model, host.get_samples(latent))
        painted = host.decode(vae, host.sample(model, latent, positive, negative, **widgets), image)
        if problem := find_tensor_problem("IMAGE", painted):
            raise ValueError(f"what was painted {problem}")
        return io.NodeOutput(paste(image, painted, alpha), painted_area)
