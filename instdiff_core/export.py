"""A record as a file, from which masks are made elsewhere and later: ComfyUI's server does, for the mask editor.

The file is a safetensors file. Nobody vouches for one that comes back: all that it says is checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .evidence import FIRST_PROPAGATED, FIRST_WORD, AttentionRecord
from .options import MaskSettings
from .tokens import PromptWords, Word

VERSION = 2
"""Of the format. Version 1 holds one edit: its tensors' names have no number, and its `words`, `start` and `settings`
are metadata of their own. Files from before there were versions have none; they hold `weights` in place of `sigmas`.
"""

LARGEST_SIDE = 16384
"""What the host allows for the side of a picture."""

MOST_EDITS = 64
"""How many edits a file may hold: more than anyone samples at once."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def export_record(record: AttentionRecord, settings: Sequence[MaskSettings], pictures: Tensor | None = None) -> bytes:
    """The record as a file, with the settings of each edit and the pictures ``[1 or batch, 3, H, W]`` in 0..1.

    Its tensors: for the edits, numbered from 0 on, `maps.0`, `propagated_maps.0`, `sigmas.0` and, where there is one,
    `noise_mask.0` (bool), `rest_ratio.0`, `look.0` and `looks.0`; for all of them `image_latent`, and, where there are
    any, `pictures` ``[1 or batch, H, W, 3]``, which are rounded to bytes. Its metadata are JSON texts: `version`,
    `scale`, and `edits`, a list with for each edit its `words` (texts), `start` (whether the prompt has a start token),
    `settings` and `look_size` (two numbers, or null).
    """
    tensors = {"image_latent": record.image_latent}
    edits = []
    for number, (edit, own) in enumerate(zip(record.edits, settings, strict=True)):
        tensors |= {
            f"maps.{number}": edit.maps,
            f"propagated_maps.{number}": edit.propagated,
            f"sigmas.{number}": torch.tensor(edit.sigmas, dtype=torch.float64),
        }
        if edit.noise_mask is not None:
            tensors[f"noise_mask.{number}"] = edit.noise_mask.clone()  # edits may share it, tensors of a file may not
        if edit.rest_ratio is not None:
            tensors[f"rest_ratio.{number}"] = edit.rest_ratio
        if edit.look is not None:
            tensors[f"look.{number}"] = edit.look
        if edit.looks is not None:
            tensors[f"looks.{number}"] = edit.looks
        words = {"words": edit.words.texts, "start": bool(edit.words.start)}
        edits.append({**words, "settings": asdict(own), "look_size": edit.look_size})
    if pictures is not None:
        tensors["pictures"] = (pictures.movedim(1, -1) * 255).round().clamp(0, 255).byte()
    metadata = {"version": VERSION, "scale": record.scale, "edits": edits}
    return save(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        {name: json.dumps(value) for name, value in metadata.items()},
    )


def import_record(data: bytes) -> tuple[AttentionRecord, tuple[MaskSettings, ...], Tensor | None]:
    """What `export_record` made a file of: record, settings, and pictures, uint8 ``[1 or batch, H, W, 3]`` or None.

    The words come without their token positions.

    Reads older versions too, and files without one. Raises ``ValueError`` with a sentence for a file of a newer
    version, and for anything that is no record.
    """
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"the record's file cannot be read: {error}") from None
    metadata = _metadata(data)
    version = metadata.get("version", 0)
    if not isinstance(version, int) or version < 0:
        raise ValueError("the record's file has no version that can be read")
    if version > VERSION:
        raise ValueError(
            f"the record is of format {version}, which a newer InstDiffEdit wrote, and this one reads formats up to "
            f"{VERSION}: update InstDiffEdit, or run the workflow again"
        )
    if not version:
        tensors = _with_current_names(tensors)
    edits = [metadata] if version < 2 else metadata.get("edits")
    if not isinstance(edits, list) or not 0 < len(edits) <= MOST_EDITS or not all(isinstance(e, dict) for e in edits):
        raise ValueError("the record's file does not say which edits it holds")
    first, *further = (
        _checked_record(tensors if version < 2 else _of_edit(tensors, number), edit, metadata.get("scale"))
        for number, edit in enumerate(edits)
    )
    settings = tuple(_settings(edit.get("settings")) for edit in edits)
    return replace(first, further=tuple(further)), settings, tensors.get("pictures")


def _of_edit(tensors: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """The tensors of one of several edits, and those that all have in common, by the names of version 1."""
    own = {name.removesuffix(f".{number}"): tensor for name, tensor in tensors.items() if name.endswith(f".{number}")}
    return own | {name: tensors[name] for name in ("image_latent", "pictures") if name in tensors}


def _metadata(data: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file that was found to be one, by name; without those that are no JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    values = {}
    for name, text in (header.get("__metadata__") or {}).items():
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            continue
    return values


def _with_current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file without a version, whose `weights` are the fourth powers of the noise levels."""
    names = {"extents": "propagated_maps", "guide": "image_latent", "weights": "sigmas"}
    renamed = {names.get(name, name): tensor for name, tensor in tensors.items()}
    if "sigmas" in renamed:
        renamed["sigmas"] = renamed["sigmas"].double() ** 0.25
    return renamed


def _checked_record(tensors: dict[str, Tensor], edit: dict[str, Any], scale: Any) -> AttentionRecord:
    words, start, look_size = edit.get("words"), edit.get("start", True), edit.get("look_size")
    if not _are_texts(words) or not words:
        raise ValueError("the record's file holds no words")
    if type(scale) is not int or scale < 1:
        raise ValueError("the record's file does not say how large its picture is")
    if not isinstance(start, bool):
        raise ValueError("the record's file does not say whether its prompt has a start token")
    if look_size is not None and not _is_size(look_size):
        raise ValueError("the record's file does not say in which size its picture was looked at")
    _check_shapes(tensors, len(words), scale)
    texts = tuple(Word(text, (number,)) for number, text in enumerate(words, start))
    return AttentionRecord(
        maps=tensors["maps"],
        propagated=tensors["propagated_maps"],
        image_latent=tensors["image_latent"].float(),
        words=PromptWords(texts, (0,) * start, (), len(texts) + start),
        sigmas=tuple(tensors["sigmas"].tolist()),
        scale=scale,
        noise_mask=tensors.get("noise_mask"),
        rest_ratio=tensors.get("rest_ratio"),
        look=tensors.get("look"),
        looks=tensors.get("looks"),
        look_size=None if look_size is None else tuple(look_size),
    )


def _check_shapes(tensors: dict[str, Tensor], words: int, scale: int) -> None:
    """Raises ``ValueError`` for tensors that do not fit together, or are missing."""
    steps, batch, _, *grid = _shape(tensors, "maps", 5)
    _, channels, *latent = _shape(tensors, "image_latent", 4)
    picture = [side * scale for side in latent]
    if max(picture) > LARGEST_SIDE:
        raise ValueError(f"the record's picture is larger than {LARGEST_SIDE} pixels")
    expected: dict[str, tuple[list[int], tuple[torch.dtype, ...]]] = {
        "maps": ([steps, batch, FIRST_WORD + words, *grid], FLOATS),
        "propagated_maps": ([steps, batch, FIRST_PROPAGATED + words, *grid], FLOATS),
        "image_latent": ([batch, channels, *latent], FLOATS),
        "sigmas": ([steps], FLOATS),
    }
    if "noise_mask" in tensors:
        expected["noise_mask"] = [batch, *latent], (torch.bool,)
    if "rest_ratio" in tensors:
        expected["rest_ratio"] = [batch], FLOATS
    for name in {"look", "looks"} & set(tensors):
        expected[name] = [batch, FIRST_PROPAGATED + words, *grid], FLOATS
    if "pictures" in tensors:
        count = 1 if len(tensors["pictures"]) == 1 else batch
        expected["pictures"] = [count, *picture, 3], (torch.uint8,)
    for name, (shape, dtypes) in expected.items():
        if _shape(tensors, name, len(shape)) != shape or 0 in shape or tensors[name].dtype not in dtypes:
            raise ValueError(f"the record's {name} do not fit the rest of its file")
    if not (tensors["sigmas"] >= 0).all():  # infinite where a flow model begins with noise alone
        raise ValueError("the record's sigmas are no noise levels")


def _shape(tensors: dict[str, Tensor], name: str, axes: int) -> list[int]:
    """Raises ``ValueError`` where there is no such tensor with so many axes."""
    if name not in tensors or tensors[name].ndim != axes:
        raise ValueError(f"the record's file has no {name}")
    return list(tensors[name].shape)


def _settings(values: Any) -> MaskSettings:
    """Raises ``ValueError`` for what no `MaskSettings` would hold."""
    kinds = {"method": str, "region": str, "target": list, "share": bool, "blur": int}
    try:
        for name, value in values.items():
            kind = kinds.get(name, (int, float))
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{name} is a {type(value).__name__}")
        return MaskSettings(**{**values, "target": tuple(values["target"])})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the record's settings are wrong: {error}") from None


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
