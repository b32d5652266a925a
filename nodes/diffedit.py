"""DiffEdit Mask."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..instdiff_core.diffedit import threshold_difference
from ..instdiff_core.options import DIFFEDIT, DiffEditOptions
from . import host
from .checks import check_inputs, find_tensor_problem
from .types import CATEGORY, search_aliases


class DiffEditMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstDiffDiffEditMask",
            display_name="DiffEdit Mask",
            category=CATEGORY,
            **search_aliases("auto mask", "mask by text"),
            description=(
                "Finds what would change: the area where two prompts, one for the picture as it is and one for "
                "the edit, ask the model for different things. The method is DiffEdit's."
            ),
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Any image model, with its LoRAs."),
                io.Conditioning.Input(
                    "source", tooltip="What the picture shows. May be empty; naming the object gives a better mask."
                ),
                io.Conditioning.Input(
                    "target", tooltip="What it is to show. Change only the words that are to change the picture."
                ),
                io.Latent.Input("latent_image", tooltip="The picture, from VAE Encode. A batch gets a mask each."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The noises that the picture is mixed with. Another seed moves the mask's edge a little.",
                ),
                io.Int.Input(
                    "draws",
                    default=DIFFEDIT.noise_samples,
                    min=1,
                    max=64,
                    tooltip="How many noises are averaged. Higher gives a steadier mask and takes longer: "
                    "a draw is about one step of KSampler.",
                ),
                io.Float.Input(
                    "denoise",
                    default=DIFFEDIT.strength,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much noise the picture gets, as in KSampler. Higher gives larger, rougher areas; "
                    "lower finds fine parts, and may find too little.",
                ),
                io.Float.Input(
                    "ratio",
                    default=DIFFEDIT.ratio,
                    min=0.1,
                    max=100.0,
                    step=0.1,
                    tooltip="What counts as a full difference, in means over the picture. Higher makes the mask "
                    "smaller: an object that fills little of the picture can do with more.",
                ),
                io.Float.Input(
                    "threshold",
                    default=DIFFEDIT.threshold,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the soft mask is cut. Higher makes the mask smaller.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="The mask, at the size that VAE Decode gives."),
                io.Mask.Output(display_name="soft_mask", tooltip="The same before it is cut at the threshold."),
            ],
        )

    @classmethod
    @check_inputs
    def execute(
        cls,
        model: Any,
        source: Any,
        target: Any,
        latent_image: Any,
        seed: int,
        draws: int,
        denoise: float,
        ratio: float,
        threshold: float,
    ) -> io.NodeOutput:
        options = DiffEditOptions(draws, denoise, ratio, threshold)
        difference, size = host.measure_difference(model, source, target, latent_image, options, seed)
        if problem := find_tensor_problem("LATENT", difference):
            raise ValueError(f"what the model predicts {problem}")
        soft, binary = threshold_difference(difference, size, options)
        mask = host.to_intermediate(binary.float())
        return io.NodeOutput(mask, host.to_intermediate(soft), ui=ui.PreviewMask(mask, cls=cls))
