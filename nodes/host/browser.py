"""What the browser needs to make masks by itself, in the host's folder of temporary files."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui
from safetensors.torch import save_file
from torch import Tensor

from ...instdiff_core.evidence import AttentionRecord
from ...instdiff_core.refine import MaskSettings


def leave_for_browser(record: AttentionRecord, settings: MaskSettings, pictures: Tensor | None) -> dict[str, Any]:
    """Write a record and its pictures ``[N, 3, H, W]`` where the route /view finds them.

    Returns their references: `record`, a safetensors file with the tensors of the record and, as
    metadata, its words, its scale and the settings; and `pictures`, PNGs.
    """
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"instdiff_{secrets.token_hex(16)}.safetensors"
    tensors = {
        "maps": record.maps.half(),
        "extents": record.extents.half(),
        "guide": record.guide.half(),
        "sigmas": torch.tensor(record.sigmas, dtype=torch.float32),
    }
    metadata = {"words": record.words.texts, "scale": record.scale, "settings": asdict(settings)}
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        folder / name,
        {key: json.dumps(value) for key, value in metadata.items()},
    )
    saved = [] if pictures is None else ui.PreviewImage(pictures.movedim(1, -1)).values
    return {"record": ui.SavedResult(name, "", io.FolderType.temp), "pictures": saved}
