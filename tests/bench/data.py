"""Other people's edits, as scenes: folders in the layout of Editing-Mask or of PIE-Bench.

Editing-Mask (Zou et al. 2024): a list, the one .txt file in the folder that has lines of
"id <> caption <> source phrase <> target phrase" or "file <> source class <> target class". Pictures
are in the folder or in images/, as the id or the file says, with or without .png, .jpg or .jpeg;
the authors' names, "<caption>_<number>.jpg", are found as well. A mask is in masks/ under the
picture's name or the id (of a file "..._val_00028602.JPEG", 28602 is one too), or beside the picture
as "<name>_mask.png"; what is brighter than half is to change. The edit prompt is the target phrase, or the
target class behind its article, as the authors have it. Groups: "Imagen" and "ImageNet".

PIE-Bench (Ju et al. 2024): mapping_file.json and annotation_images/. The mapping gives each entry an
image_path, an original_prompt, an editing_prompt whose [edited words] are in brackets, and a mask:
start, length, start, length, ... over the rows of 512 x 512. A group for each folder of pictures.

A picture or a mask of another size or shape is stretched. Nothing outside the folder is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instdiff_core.arrays import Mask
from instdiff_core.mini.scenes import with_article
from instdiff_core.pipeline import Picture

from .scenes import Scene

SEPARATOR = "<>"
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPEG", ".JPG", ".PNG")
PIE_SIZE = 512
"""Masks of PIE-Bench are of pictures this large."""

ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True)
class Entry:
    """A scene of a list by its name there; `load` reads it, with its group.

    `load` raises ``ValueError`` for an entry that is incomplete, a picture or a mask that is missing, and a
    name that leads out of the folder.
    """

    name: str
    load: Callable[[], tuple[str, Scene]]


def read(folder: Path, size: int = 512) -> Iterator[tuple[str, Scene]]:
    """The scenes of a folder with their groups, as `entries` has them. Raises ``ValueError`` as it does and they do."""
    return (entry.load() for entry in entries(folder, size))


def entries(folder: Path, size: int = 512, masks: bool = True) -> list[Entry]:
    """The scenes of a folder, at `size` x `size` pixels, in the order of its list; `masks` says that each has one.

    Raises ``ValueError`` for a folder in neither layout.
    """
    if (folder / "mapping_file.json").is_file():
        mapping = json.loads((folder / "mapping_file.json").read_text(encoding="utf-8"))
        return [Entry(number, partial(_pie_bench, folder, number, entry, size)) for number, entry in mapping.items()]
    for path in sorted(folder.glob("*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if any(SEPARATOR in line for line in lines):
            return [
                Entry(line.split(SEPARATOR)[0].strip(), partial(_editing_mask, folder, line, size, masks))
                for line in filter(str.strip, lines)
            ]
    raise ValueError(f"{folder} has neither a mapping_file.json nor a list with lines of 'file <> class <> class'")


def _editing_mask(folder: Path, line: str, size: int, masks: bool) -> tuple[str, Scene]:
    fields = [field.strip() for field in line.split(SEPARATOR)]
    if len(fields) not in (3, 4) or not all(fields):
        raise ValueError(f"not 'id <> caption <> phrase <> phrase' nor 'file <> class <> class': {line!r}")
    name, *captions, source, target = fields
    path = _picture_path(folder, name, captions)
    mask = None
    if masks:
        shorter = re.sub(r".*_0*", "", path.stem)
        mask_path = _existing(
            [folder / "masks" / f"{stem}{suffix}" for stem in (path.stem, name, shorter) for suffix in SUFFIXES]
            + [path.with_name(f"{path.stem}_mask.png")],
            f"mask of {name!r}",
        )
        mask = np.asarray(_opened(mask_path).convert("L")) > 127
    prompts = (source, target) if captions else (with_article(source), with_article(target))
    picture = np.asarray(_opened(path).convert("RGB"))
    return "Imagen" if captions else "ImageNet", _scene(picture, mask, *prompts, _words(target), size)


def _pie_bench(folder: Path, number: str, entry: dict[str, Any], size: int) -> tuple[str, Scene]:
    if missing := {"image_path", "original_prompt", "editing_prompt", "mask"} - entry.keys():
        raise ValueError(f"entry {number!r} of mapping_file.json has no {min(missing)}")
    name, source, target = entry["image_path"], entry["original_prompt"], entry["editing_prompt"]
    path = _existing([folder / "annotation_images" / _checked(name)], f"picture {name!r}")
    before, after = (re.sub(r"[\[\]]", "", prompt) for prompt in (source, target))
    # what is not in brackets is new all the same when the prompt before did not have it
    new = [word for word in _words(after) if word not in _words(before)]
    words = _words(" ".join(re.findall(r"\[(.*?)\]", target))) or tuple(new) or _words(after)
    picture = np.asarray(_opened(path).convert("RGB"))
    return Path(name).parts[0], _scene(picture, runs_to_mask(entry["mask"]), before, after, words, size)


def runs_to_mask(runs: Sequence[int]) -> Mask:
    """The mask ``[512, 512]`` of PIE-Bench's runs: start, length, start, length, ... over its rows."""
    if len(runs) % 2:
        raise ValueError(f"a mask is pairs of a start and a length, not {len(runs)} numbers")
    mask = np.zeros(PIE_SIZE**2, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start < 0 or length < 0:
            raise ValueError(f"a mask has no pixels from {start} on, {length} of them")
        mask[start : start + length] = True
    return mask.reshape(PIE_SIZE, PIE_SIZE)


def _scene(picture: Picture, mask: Mask | None, source: str, target: str, words: tuple[str, ...], size: int) -> Scene:
    resized = np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))
    truth = None if mask is None else np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
    if truth is not None and not truth.any():
        truth = None
    return Scene(resized, truth, source, target, words[-1], words)


def _words(phrase: str) -> tuple[str, ...]:
    """The words of a phrase in lower case, without articles unless there is nothing else."""
    words = tuple(re.findall(r"\w+", phrase.casefold()))
    return tuple(word for word in words if word not in ARTICLES) or words


def _picture_path(folder: Path, name: str, captions: list[str]) -> Path:
    places = (folder, folder / "images")
    exact = [place / f"{_checked(name)}{suffix}" for place in places for suffix in SUFFIXES]
    numbered = [
        path
        for place in places
        for caption in captions
        for path in sorted((place / _checked(caption)).parent.glob("*.jpg"))
        if re.fullmatch(re.escape(Path(caption).name) + r"_\d+", path.stem)
    ]
    return _existing([*exact, *numbered], f"picture of {name!r}")


def _checked(name: str) -> Path:
    path = Path(name)
    if path.anchor or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the folder")
    return path


def _existing(candidates: Sequence[Path], what: str) -> Path:
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ValueError(f"no {what} at {candidates[0]}")
    return found


def _opened(path: Path) -> Any:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except OSError as error:
        raise ValueError(f"{path} is not a picture: {error}") from error
