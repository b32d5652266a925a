"""What the browser needs to make masks by itself, in the host's folder of temporary files."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ...instdiff_core.evidence import AttentionRecord
from ...instdiff_core.export import export_record
from ...instdiff_core.options import MaskSettings


def leave_for_browser(record: AttentionRecord, settings: MaskSettings, pictures: Tensor | None) -> dict[str, Any]:
    """Write a record, and its pictures ``[N, 3, H, W]`` as PNGs, where the route /view finds them.

    Returns what to ask that route for: `record`, and `pictures`, a list.
    """
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"instdiff_{secrets.token_hex(16)}.safetensors"
    (folder / name).write_bytes(export_record(record, settings))
    saved = [] if pictures is None else ui.PreviewImage(pictures.movedim(1, -1)).values
    return {"record": ui.SavedResult(name, "", io.FolderType.temp), "pictures": saved}
