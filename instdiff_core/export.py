"""A record as a file, for programs that make masks of it elsewhere: the browser does."""

from __future__ import annotations

import json
from dataclasses import asdict

from safetensors.torch import save

from .evidence import AttentionRecord
from .options import MaskSettings


def export_record(record: AttentionRecord, settings: MaskSettings) -> bytes:
    """The record as a safetensors file: its tensors by name, with the steps' `weights` in place of their `sigmas`.

    `noise_mask`, bool, is there only where the record has one.
    Its metadata are JSON texts: `words`, a list of texts, `scale`, and `settings`.
    """
    tensors = {
        "maps": record.maps.contiguous(),
        "extents": record.propagated.contiguous(),
        "guide": record.image_latent.contiguous(),
        "weights": record.weights,
    }
    if record.noise_mask is not None:
        tensors["noise_mask"] = record.noise_mask.contiguous()
    metadata = {"words": record.words.texts, "scale": record.scale, "settings": asdict(settings)}
    return save(tensors, {name: json.dumps(value) for name, value in metadata.items()})
