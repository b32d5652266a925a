"""Weights in float8, so that a model of the benchmark takes half of its float16, or less than that.

Those tensors of two axes and more that are packed are float8_e4m3fn with a scale for each output channel, under
``<name>.scale``; norms and biases stay as they are. Models compute with what `unpack` gives.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FILE = "float8.safetensors"
"""The name of such a file in the folder of a part."""

FLOAT8 = torch.float8_e4m3fn


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of any float type in float8, each within a sixteenth of what it was, the smallest of a channel aside."""
    packed = {}
    for name, value in weights.items():
        if value.ndim < 2:
            packed[name] = value.half()
            continue
        scale = (value.float().flatten(1).abs().amax(1) / torch.finfo(FLOAT8).max).clamp(min=1e-6).half()
        packed[name] = (value.float() / _beside(scale, value)).to(FLOAT8)
        packed[f"{name}.scale"] = scale
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that were packed, float32."""
    # norms of other models have weights of this name
    scales = {f"{name}.scale" for name, value in packed.items() if value.dtype == FLOAT8}
    return {
        name: value.float() * _beside(packed[f"{name}.scale"], value) if value.dtype == FLOAT8 else value.float()
        for name, value in packed.items()
        if name not in scales
    }


def _beside(scale: Tensor, value: Tensor) -> Tensor:
    """A channel's scale ``[C]`` in the shape in which it multiplies the channel, float32."""
    return scale.float().view(-1, *[1] * (value.ndim - 1))
