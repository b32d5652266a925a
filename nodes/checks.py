"""Inputs as a node needs them, whatever the workflow holds.

The host checks the range of widgets, but not that of values that come from other nodes, and lets through NaN, a plain
value where a connection belongs, and connections to inputs that do not exist. Of masks, pictures and
latents it checks nothing, and other packs' come in several shapes.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LONGEST = 10_000
"""Characters that a text may have: far more than any prompt. A model would attend to a megabyte for hours."""

FARTHEST = 2**31
"""Pixels from a picture's corner beyond which there is no place."""

OVERSHOOT = 0.5
"""How far resampling by bicubic or Lanczos filters takes a mask out of 0..1, and more."""


def check_inputs(execute: Callable[..., Any]) -> Callable[..., Any]:
    """For a node's `execute`: it gets the inputs of its schema and no others, masks as `normalize_mask` gives them.

    Raises ``ValueError`` with the name of an input that is not what the schema says.
    """

    @functools.wraps(execute)
    def run(cls: Any, **values: Any) -> Any:
        inputs = {schema.id: schema for schema in cls.define_schema().inputs if schema.id in values}
        for name, schema in inputs.items():
            if problem := find_problem(schema, values[name]):
                raise ValueError(f"{name} {problem}")
            if schema.get_io_type() == "MASK" and values[name] is not None:
                values[name] = normalize_mask(name, values[name])
        return execute(cls, **{name: values[name] for name in inputs})

    return run


def find_problem(schema: Any, value: Any) -> str | None:
    """What is wrong with the value of an input, by its `schema`, as the end of a sentence; None when nothing is."""
    kind = schema.get_io_type()
    if kind == "BOOLEAN" or (value is None and schema.optional):
        return None
    if kind == "COMBO":
        return None if value in schema.options else f"must be one of {', '.join(schema.options)}, not {value!r:.100}"
    if kind == "STRING":
        return find_text_problem(value)
    if kind in ("FLOAT", "INT"):
        return (
            None
            if schema.min <= value <= schema.max
            else f"must be from {schema.min} to {schema.max}, not {value!r:.100}"
        )
    if value is None and kind == "CLIP":
        return None  # a checkpoint without CLIP: `host.read_prompt` says more
    if kind == "BOUNDING_BOX":
        return None if list_boxes(value) else "holds no box with x, y, width and height, in pixels"
    if _from_json(value):
        return f"must be connected to a node that gives {kind}"
    samples = value.get("samples") if kind == "LATENT" and isinstance(value, dict) else value
    return find_tensor_problem(kind, samples) if kind in ("IMAGE", "MASK", "LATENT") else None


def list_boxes(value: Any) -> list[dict[str, Any]]:
    """The boxes of a BOUNDING_BOX, one or lists of them, with what else they hold; empty where anything is no box."""
    if isinstance(value, (list, tuple)):
        parts = [list_boxes(part) for part in value]
        return [box for part in parts for box in part] if all(parts) else []
    sides = [value.get(name) for name in ("x", "y", "width", "height")] if isinstance(value, dict) else [None]
    return [value] if all(isinstance(side, (int, float)) and abs(side) <= FARTHEST for side in sides) else []


def read_points(text: str | None) -> list[tuple[float, float]]:
    """The points, across and down, that point editors and SAM3 write as JSON: ``[{"x": 10, "y": 20}]``.

    None and an empty text hold none. Raises ``ValueError`` for what is not of this kind.
    """
    try:
        entries = json.loads(text) if text and text.strip() else []
        points = [(float(entry["x"]), float(entry["y"])) for entry in entries]
    except (ValueError, TypeError, KeyError, OverflowError):
        points = [(math.nan, math.nan)]
    if not all(abs(side) <= FARTHEST for point in points for side in point):
        raise ValueError('points must be JSON such as [{"x": 10, "y": 20}], in pixels of the photo')
    return points


def find_tensor_problem(kind: str, values: Any) -> str | None:
    """What is wrong with the values of a picture, a mask or a latent. A nested latent is none of ours to look into."""
    if not isinstance(values, Tensor):
        return None if kind == "LATENT" else f"must be connected to a node that gives {kind}"
    if not values.numel():
        return f"is empty, of shape {list(values.shape)}"
    # one pass, without a copy; NaN and infinity come through
    low, high = (float(bound) for bound in torch.aminmax(values if values.is_floating_point() else values.float()))
    if not (math.isfinite(low) and math.isfinite(high)):
        return (
            "holds NaN or infinite values, as a VAE or a model makes that fails in half precision: start ComfyUI with "
            "--fp32-vae or --bf16-vae (for a diffusion model --fp32-unet), or use another VAE"
        )
    if kind == "MASK" and not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        return (
            f"has values from {low:g} to {high:g}, and a mask goes from 0 to 1: have the node that made it scale it "
            "(0 to 255: divide by 255), or make it a picture and use Convert Image to Mask"
        )
    return None


def normalize_mask(name: str, mask: Tensor) -> Tensor:
    """A MASK as the host has them, ``[B, H, W]`` float32 in 0..1.

    Takes ``[H, W]``, ``[B, 1, H, W]``, ``[B, H, W, 1]`` and ``[H, W, 1]``, of any type. Raises
    ``ValueError`` with the name of the input for other shapes.
    """
    if mask.ndim == 2:
        mask = mask[None]
    elif mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    elif mask.ndim == 4 and mask.shape[3] == 1:
        mask = mask[..., 0]
    elif mask.ndim == 3 and mask.shape[2] == 1 < mask.shape[1]:
        mask = mask[None, ..., 0]
    if mask.ndim != 3:
        raise ValueError(
            f"{name} has the shape {list(mask.shape)}, and a mask is [batch, height, width]: "
            "of a picture, take Convert Image to Mask"
        )
    return mask.float().clamp(0, 1)


def find_text_problem(text: str) -> str | None:
    """What is wrong with a text: its length, or a lone surrogate, which no tokenizer reads."""
    if len(text) > LONGEST:
        return f"has {len(text)} characters, and {LONGEST} are the most: make it shorter"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds a broken character (half of a surrogate pair): type the text again"
    return None


def _from_json(value: Any) -> bool:
    """Whether a value is of what a workflow's file can hold, and of nothing else."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
        elif part is not None and not isinstance(part, (str, int, float)):
            return False
    return True
