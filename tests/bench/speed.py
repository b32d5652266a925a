"""Masked Sampler's time against KSampler's: same model, same steps, one process, alternating pairs.

    python -m tests.bench.speed [--size mini|sd15|sdxl] [--side PIXELS] [--rounds N] [--steps N] [--device cuda|cpu]
    python -m tests.bench.speed --region [--call] [--areas 0.05,0.15,0.25] [--size ...]

`sd15` and `sdxl` are U-Nets in the layouts of Stable Diffusion 1.5 and SDXL with random weights, built
of the host's own classes, at 512 x 512 and 1024 x 1024 unless --side says otherwise. Prints the ratio of the medians
with its bootstrap interval over the pairs, on a processor of its time in all threads.

--region: Masked Sampler with `region` auto and a square mask in the middle of the picture, of each of these areas.
The first step computes the whole picture, as it does for a mask that is given. Prints also what this makes of
20 steps, with a given mask and with one that is found and settles after 5 steps.

--call: for models of which a run takes minutes. Instead of sampling, the U-Net is called once with the whole latent and
once with each region, without classifier-free guidance, in bfloat16; what Masked Sampler does beside is left out.

Needs ComfyUI's folder (COMFYUI_PATH), no server; runs on the GPU where there is one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .common import interval
from .host import load_pack

SD15_LAYOUT: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
SDXL_LAYOUT: dict[str, Any] = {
    **SD15_LAYOUT,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "num_heads": -1,
    "num_head_channels": 64,
    "adm_in_channels": 2816,
}
DEFAULTS = {"mini": {"rounds": 20, "steps": 20}, "sd15": {"rounds": 5, "steps": 2}, "sdxl": {"rounds": 2, "steps": 1}}

Inputs = dict[str, Any]
"""Model, conditionings and latent, under KSampler's names."""


def mini(dtype: torch.dtype | None = None) -> Inputs:
    """The embedded model at 256 x 256, in its own type."""
    host = _pack("nodes.host")
    clip = host.load_mini_clip()
    return {
        "model": host.load_mini_unet(),
        "positive": host.encode_prompt(clip, "a dog on the grass"),
        "negative": host.encode_prompt(clip, ""),
        "latent": {"samples": torch.randn(1, 4, 32, 32)},
    }


def sd15(dtype: torch.dtype | None = None) -> Inputs:
    """Stable Diffusion 1.5's U-Net with random weights, at 512 x 512."""
    return random_inputs("SD15", SD15_LAYOUT, 860_000_000, 64, dtype)


def sdxl(dtype: torch.dtype | None = None) -> Inputs:
    """SDXL's U-Net with random weights, at 1024 x 1024."""
    return random_inputs("SDXL", SDXL_LAYOUT, 2_570_000_000, 128, dtype)


SIZES: dict[str, Callable[..., Inputs]] = {"mini": mini, "sd15": sd15, "sdxl": sdxl}


def random_inputs(
    family: str, layout: dict[str, Any], parameters: int, latent: int, dtype: torch.dtype | None = None
) -> Inputs:
    """A `random_model` and what it is sampled with; `latent` is the side of its latent."""
    tokens, host = _pack("instdiff_core.tokens"), _pack("nodes.host")
    names = ("a", "dog", "on", "the", "grass")
    words = tuple(tokens.Word(text, (column,)) for column, text in enumerate(names, 1))
    pooled = torch.randn(1, 1280)
    context = layout["context_dim"]
    empty = torch.randn(1, 77, context), {"pooled_output": pooled}
    prompt = host.EditPrompt(tokens.PromptWords(words, (0,), (len(names) + 1,), 77), empty)
    return {
        "model": random_model(family, layout, parameters, dtype),
        "positive": [[torch.randn(1, 77, context), {"pooled_output": pooled, host.PROMPT: prompt}]],
        "negative": [[torch.randn(1, 77, context), {"pooled_output": pooled}]],
        "latent": {"samples": torch.randn(1, 4, latent, latent)},
    }


def random_model(family: str, layout: dict[str, Any], parameters: int, dtype: torch.dtype | None = None) -> Any:
    """The model as the host wraps it, of this type; None: of the one that the host picks on this device."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, family)(layout)
    device = management.get_torch_device()
    if dtype is None:
        dtype = management.unet_dtype(model_params=parameters, supported_dtypes=config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device))
    model = config.get_model({})
    for weight in model.diffusion_model.parameters():  # the host leaves them as the memory was
        torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, load_device=device, offload_device=management.unet_offload_device())


def samplers(inputs: Inputs, steps: int, **masked: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Masked Sampler and KSampler, with the same inputs and widgets; `masked` are more inputs of the former."""
    host, node = _pack("nodes.host"), _pack("nodes.sampler").MaskedSampler
    widgets = {"seed": 0, "steps": steps, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5}
    node_inputs = {"latent_image" if name == "latent" else name: value for name, value in inputs.items()}
    return lambda: node.execute(**node_inputs, **widgets, **masked), lambda: host.sample(**inputs, **widgets)


def seconds_of_pairs(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> NDArray[np.float64]:
    """``[rounds, 2]``: both timed in every round, in turns the one or the other before; one round more warms up.

    On a processor in its time of all threads, which other work on the machine hardly changes.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    seconds = np.zeros((rounds + 1, 2))
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            start = clock()
            (first, second)[which]()
            seconds[number, which] = clock() - start
    return seconds[1:]


def ratio(seconds: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Median of the first column over the median of the second."""
    return np.median(seconds[..., 0], axis) / np.median(seconds[..., 1], axis)


def _pack(module: str) -> Any:
    return importlib.import_module(f"{load_pack().__name__}.{module}")


def squares(area: float, latent: torch.Tensor) -> dict[str, Any]:
    """The inputs of Masked Sampler with region sampling and a square of this part of the picture as its mask."""
    height, width = latent.shape[-2:]
    side = round((area * height * width) ** 0.5)
    mask = torch.zeros(1, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    mask[:, top : top + side, left : left + side] = 1
    options = _pack("instdiff_core.options")
    return {"mask": mask, "settings": replace(options.PRESETS["default"], region="auto")}


def measure_calls(inputs: Inputs, areas: list[float]) -> None:
    """Print the seconds of one call of the U-Net with all of the latent, and with the region of masks of some areas."""
    model, latent = inputs["model"], inputs["latent"]["samples"].bfloat16()
    context, extra = inputs["positive"][0][0].bfloat16(), {}
    if model.model.adm_channels:
        extra["y"] = torch.randn(1, model.model.adm_channels).bfloat16()
    reader = _pack("nodes.host.readers").reader_for(model, tuple(latent.shape[-2:]))
    margin = _pack("nodes.host.region_sampling").MARGIN * -(-latent.shape[-1] // reader.grid[1])

    def call(rows: slice, columns: slice) -> float:
        begun = time.process_time()
        model.model.diffusion_model(latent[..., rows, columns], torch.tensor([500.0]), context, **extra)
        return time.process_time() - begun

    frames = [
        _pack("instdiff_core.settling").frame_masks(squares(area, latent)["mask"].bool(), margin, reader.unit)
        for area in areas
    ]
    call(slice(16), slice(16))
    whole = call(slice(None), slice(None))
    print(f"one call with the whole latent: {whole:.1f} s of processor time", flush=True)
    for area, frame in zip(areas, frames, strict=True):
        if frame is None:
            print(f"a mask of {area:.0%} of the picture: its surroundings are most of it, so the whole is computed")
            continue
        seconds = call(*frame)
        sides = [(span.stop - span.start) * 8 for span in frame]
        given, found = (steps / 20 + (1 - steps / 20) * seconds / whole for steps in (1, 5))
        print(
            f"a mask of {area:.0%} of the picture: {sides[1]} x {sides[0]} px, {seconds:.1f} s, {seconds / whole:.2f} "
            f"of a step; of 20 steps {given:.2f}, and {found:.2f} for one that settles after 5",
            flush=True,
        )


def ratio_of_steps(seconds: NDArray[np.float64], measured: int, whole: int, steps: int = 20) -> float:
    """What seconds of `measured` steps each, the first of ours on the whole picture, make of `steps` with `whole`."""
    masked, plain = np.median(seconds, 0)
    step = plain / measured
    cut = (masked - step) / (measured - 1)
    return float((whole * step + (steps - whole) * cut) / (steps * step))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(DEFAULTS), default="mini", help="of the model; default: mini")
    parser.add_argument("--side", type=int, help="of the picture in pixels; default: 256, 512 or 1024 by size")
    parser.add_argument("--rounds", type=int, help="pairs of runs; default: 20, 5 or 2 by size")
    parser.add_argument("--steps", type=int, help="that a run takes; default: 20, 2 or 1 by size")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    parser.add_argument("--region", action="store_true", help="measure region sampling")
    parser.add_argument("--call", action="store_true", help="with --region: one call each instead of sampling")
    parser.add_argument("--areas", default="0.05,0.15,0.25", help="of its masks; default: 0.05,0.15,0.25")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    defaults = DEFAULTS[options.size]
    rounds = defaults["rounds"] if options.rounds is None else options.rounds
    steps = max(2, defaults["steps"]) if options.region else defaults["steps"]
    steps = steps if options.steps is None else options.steps
    if rounds < 1 or steps < 1 + options.region:
        parser.error(f"there must be at least a round and {1 + options.region} steps")
    torch.manual_seed(0)
    inputs = SIZES[options.size](*[torch.bfloat16] * options.call)
    if options.side:
        inputs["latent"] = {"samples": torch.randn(1, 4, options.side // 8, options.side // 8)}
    latent = inputs["latent"]["samples"]
    areas = [float(area) for area in options.areas.split(",")]
    if options.call:
        print(f"{options.size}, {latent.shape[-1] * 8} px, {torch.get_num_threads()} threads on {_device()}")
        measure_calls(inputs, areas)
        return
    print(f"{options.size}, {latent.shape[-1] * 8} px, {steps} steps, {rounds} pairs on {_device()}")
    if not options.region:
        print(_figures(seconds_of_pairs(*samplers(inputs, steps), rounds)))
        return
    for area in areas:
        seconds = seconds_of_pairs(*samplers(inputs, steps, **squares(area, latent)), rounds)
        given, found = (ratio_of_steps(seconds, steps, whole) for whole in (1, 5))
        print(f"a mask of {area:.0%} of the picture: {_figures(seconds)}")
        print(f"so of 20 steps {given:.3f}, and {found:.3f} for one that settles after 5", flush=True)


def _figures(seconds: NDArray[np.float64]) -> str:
    low, high = interval(seconds, ratio)
    masked, plain = np.median(seconds, 0)
    return (
        f"Masked Sampler {masked:.3f} s, KSampler {plain:.3f} s, ratio of the medians {ratio(seconds):.3f}, "
        f"95 % interval {low:.3f} to {high:.3f}"
    )


def _device() -> str:
    import comfy.model_management
    from comfy.ldm.modules.attention import optimized_attention

    return f"{comfy.model_management.get_torch_device()}, {optimized_attention.__name__}"


if __name__ == "__main__":
    main()
