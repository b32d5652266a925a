"""Pictures in files: every mode that Pillow reads, with its brightness, and with its transparency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from .arrays import Alpha, Picture

WHITES = (1, 255, 2**16 - 1, 2**32 - 1)
"""What may be white in pictures that do not say it: the smallest that the brightest value does not exceed."""

OF_THE_FILE = (
    *range(254, 260), 262, 266, 273, *range(277, 280), 284, 317, 320, *range(322, 326), 330, 338, 339, 347,
    512, 513, 514, *range(529, 533), 700, 34675, 37724,
)  # fmt: skip
"""The tags of TIFF, whose list is EXIF's too, that say how a file's pixels are stored."""


def read_picture(path: Path) -> tuple[Picture, Alpha | None]:
    """A picture's colours ``[H, W, 3]`` in sRGB, upright, and its alpha channel ``[H, W]``, if it has one.

    Raises ``ValueError`` for what is no picture.
    """
    try:
        with _open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(_in_bytes(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    if not upright.has_transparency_data:
        return np.array(upright.convert("RGB")), None
    # these two become RGBA only by way of their own plain kin
    kin = {"La": "LA", "PA": "RGBA"}.get(upright.mode)
    values = np.array((upright.convert(kin) if kin else upright).convert("RGBA"))
    return values[..., :3].copy(), values[..., 3]


def picture_size(path: Path) -> tuple[int, int]:
    """The height and width in which `read_picture` gives a picture, from the head of its file.

    Raises ``ValueError`` for what is no picture.
    """
    try:
        with _open(path) as image:
            lying = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
            return image.size if lying else image.size[::-1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def read_details(path: Path) -> dict[str, bytes]:
    """What a picture's file says beside it, for `save_picture`: EXIF, and the ICC profile of RGB colours.

    Without the orientation, as `read_picture` turns the picture upright, and without what is about the file itself.
    """
    with Image.open(path) as image:
        exif = image.getexif()
        for tag in (ExifTags.Base.Orientation, *OF_THE_FILE):
            exif.pop(tag, None)
        profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    details = {"exif": exif.tobytes() if len(exif) else None, "icc_profile": profile}
    return {name: value for name, value in details.items() if value}


def save_edit(picture: Picture, path: Path, source: Path, alpha: Alpha | None = None) -> None:
    """`save_picture` for an edit of the picture in the file `source`, with what that file says beside it.

    In formats with losses as well as is usual for photos: quality 95, and colours as fine as brightness.
    """
    save_picture(picture, path, alpha, quality=95, subsampling="4:4:4", exact=True, **read_details(source))


def save_picture(picture: Picture, path: Path, alpha: Alpha | None = None, **details: Any) -> None:
    """Save ``[H, W, 3]``, with an alpha channel ``[H, W]`` where the format of the path's suffix holds one.

    `details` are Pillow's, such as those of `read_details`; a format takes those that it knows.
    """
    image = Image.fromarray(picture)
    if alpha is None:
        image.save(path, **details)
        return
    try:
        Image.fromarray(np.dstack([picture, alpha])).save(path, **details)
    except OSError:  # what Pillow raises for a mode that a format does not have
        image.save(path, **details)


def _open(path: Path) -> Image.Image:
    """As Pillow does. Raises ``OSError`` for a pipe or a device as well, which would keep it waiting without end."""
    if path.exists() and not path.is_file():
        raise OSError("it is no plain file")
    return Image.open(path)


def _in_bytes(image: Image.Image) -> Image.Image:
    """A picture in a mode that Pillow turns into RGB rightly: it clips deeper ones, and takes no Lab."""
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    deep = image.mode.startswith("I;16") or image.format == "PNG"
    white = 2**16 - 1 if deep else next((level for level in WHITES if values.max() <= level), values.max())
    grey = Image.fromarray((values / white * 255).round().clip(0, 255).astype(np.uint8))
    grey.info = image.info
    return grey
