"""A record as a file, for programs that make masks of it elsewhere: the browser does."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from safetensors.torch import save

from .evidence import AttentionRecord
from .refine import MaskSettings


def exported(record: AttentionRecord, settings: MaskSettings) -> bytes:
    """The record as a safetensors file: its tensors by name, with `sigmas` ``[steps]`` float32.

    `noise_mask`, bool, is there only where the record has one.
    Its metadata are JSON texts: `words`, a list of texts, `scale`, and `settings`.
    """
    tensors = {
        "maps": record.maps.half().contiguous(),
        "extents": record.extents.half().contiguous(),
        "guide": record.guide.half().contiguous(),
        "sigmas": torch.tensor(record.sigmas, dtype=torch.float32),
    }
    if record.noise_mask is not None:
        tensors["noise_mask"] = record.noise_mask.contiguous()
    metadata = {"words": record.words.texts, "scale": record.scale, "settings": asdict(settings)}
    return save(tensors, {name: json.dumps(value) for name, value in metadata.items()})
