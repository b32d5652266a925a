"""How many torch operations Masked Sampler adds to a step of KSampler, by the part of the pack that calls them.

    python -m tests.bench.launches [--size mini|sd15|sdxl]

A fast GPU waits for the processor to launch its operations, so that their number is what a step costs there, and not
their size. Counted are those that compute, not the views. `sd15` and `sdxl` have the layers of the real U-Nets, a tenth
of their width, random weights and float16, in which GPUs have them.

Needs ComfyUI's folder (COMFYUI_PATH), no server and no GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import ROOT

from .speed import SD15_LAYOUT, SDXL_LAYOUT, SIZES, Inputs, random_inputs, samplers

HOST = "what the host computes for these"
PARTS = {
    "readers": "reading the layers",
    "evidence.py": "closing the step",
    "refine.py": "finding the mask",
    "preview.py": "outlining the preview",
    "run.py": "putting the picture back, and the rest",
}
"""The parts, by the file or the folder of the pack that calls an operation, the innermost that is named."""

NOTHING = frozenset(
    f"aten::{name}"
    for name in ("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "detach", "lift_fresh")
)
"""Operations that compute nothing, beside the views."""

LAYOUTS = {"sd15": ("SD15", SD15_LAYOUT), "sdxl": ("SDXL", SDXL_LAYOUT)}


class Counting(TorchDispatchMode):
    """Counts operations in `counts`, by the part of which `find_part` says that their call came from it."""

    def __init__(self, find_part: Callable[[FrameType], str]) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._find_part = find_part

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = function._schema
        if not function.is_view and schema.name not in NOTHING:
            self.counts[self._find_part(sys._getframe(1))] += 1
        return function(*args, **kwargs or {})


def find_part(call: FrameType) -> str:
    """The part whose code is the innermost of a call, or the host."""
    import comfy

    host = Path(comfy.__path__[0])
    frame: FrameType | None = call
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(host):
            return HOST
        if path.is_relative_to(ROOT):
            for name in (path.name, path.parent.name):
                if name in PARTS:
                    return PARTS[name]
        frame = frame.f_back
    return HOST


def count_per_step(masked: Callable[[int], Any], plain: Callable[[int], Any]) -> Counter[str]:
    """What one sampling does more than another in each step after the second, by part; both take their steps."""
    counts: Counter[str] = Counter()
    masked(2)  # the first loads the model
    for sampling, sign in ((masked, 1), (plain, -1)):
        for steps, change in ((3, sign), (2, -sign)):
            with torch.inference_mode(False), torch.no_grad(), Counting(find_part) as counting:
                sampling(steps)
            counts.update({part: change * count for part, count in counting.counts.items()})
    return counts


def count_of_model(inputs: Inputs) -> Counter[str]:
    """`count_per_step` of Masked Sampler and KSampler with these inputs."""
    return count_per_step(lambda steps: samplers(inputs, steps)[0](), lambda steps: samplers(inputs, steps)[1]())


def make_inputs(size: str) -> Inputs:
    """The embedded model, or a narrow model in a real layout, at 512 x 512."""
    if size not in LAYOUTS:
        return SIZES[size]()
    family, layout = LAYOUTS[size]
    return random_inputs(family, {**layout, "model_channels": 32}, 1, 64, torch.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), action="append", help="of the model; default: all")
    for size in parser.parse_args().size or SIZES:
        torch.manual_seed(0)
        counts = count_of_model(make_inputs(size))
        print(f"{size}: {sum(counts.values())} operations more in a step")
        for part in (*PARTS.values(), HOST):
            print(f"  {counts[part]:4} {part}", flush=True)


if __name__ == "__main__":
    main()
