"""What Refine Instant Mask leaves for the mask editor in the browser, in the host's folder of temporary files."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ...instdiff_core.evidence import AttentionRecord
from ...instdiff_core.export import export_record
from ...instdiff_core.options import MaskSettings

RECORD_NAME = re.compile(r"instdiff_[0-9a-f]{32}\.safetensors")
"""Names of records' files. They come back from the browser, out of saved workflows that anyone may have written."""


def leave_for_browser(
    record: AttentionRecord, settings: Sequence[MaskSettings], pictures: Tensor | None
) -> dict[str, Any]:
    """Write a record, with the settings of each edit, where `routes` finds it, and its pictures as PNGs for /view.

    The pictures are ``[N, 3, H, W]``. Returns what to ask these routes for: `record`, and `pictures`, a list.
    """
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"instdiff_{secrets.token_hex(16)}.safetensors"
    (folder / name).write_bytes(export_record(record, settings, pictures))
    saved = [] if pictures is None else ui.PreviewImage(pictures.movedim(1, -1)).values
    return {"record": ui.SavedResult(name, "", io.FolderType.temp), "pictures": saved}


def find_record(name: str) -> Path:
    """The file of a record that was left.

    Raises ``ValueError`` for what is no name of one, and ``FileNotFoundError`` where it is gone.
    """
    if not RECORD_NAME.fullmatch(name):
        raise ValueError("record must be the name of a record's file")
    file = Path(folder_paths.get_temp_directory()) / name
    if not file.is_file():
        raise FileNotFoundError("the record is no longer there: run the workflow again")
    return file
