"""Photos as people have them, through the command line: each comes back whole, and the same outside its edit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from scipy import ndimage

from instdiff_core import __main__ as command_line
from instdiff_core.files import read_picture
from tests.bench.guard_pairs import photographs, scene

ROOM = 16
"""Pixels of the mask's smallest crop by which the finish and the seam reach beyond it."""


def picture(height: int = 200, width: int = 280) -> Image.Image:
    return Image.fromarray(scene(np.random.default_rng(3), max(height, width))[:height, :width])


def turned(path: Path) -> None:
    """A picture that is larger than what the embedded model was made for."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture(420, 560).save(path, exif=exif, quality=95)


def transparent(path: Path) -> None:
    image = picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


PHOTOS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "turned by EXIF": ("jpg", turned),
    "with transparency": ("png", transparent),
    "a panorama, 20:1": ("png", lambda path: picture(64, 1280).save(path)),
    "a column, 1:20": ("png", lambda path: picture(1280, 64).save(path)),
    "an icon of 64 pixels": ("png", lambda path: picture(64, 64).save(path)),
    "a line of one pixel": ("png", lambda path: picture(1, 600).save(path)),
    "one pixel": ("png", lambda path: picture(1, 1).save(path)),
    "one colour": ("png", lambda path: Image.new("RGB", (280, 200), "grey").save(path)),
}
"""Other kinds of colours are tested where they are read: test_files.py."""


def edited(source: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Edit a file, check what must hold of the result, and say what was said."""
    out, mask_path = source.with_name("edited.png"), source.with_name("mask.png")
    command = ["edit", str(source), "a red ball", "--out", str(out), "--mask", str(mask_path), "--steps", "2"]
    command_line.main(command)
    (before, alpha), (after, alpha_after) = read_picture(source), read_picture(out)
    assert after.shape == before.shape
    if alpha is None or alpha_after is None:
        assert alpha is alpha_after
    else:
        assert np.array_equal(alpha, alpha_after)
    with Image.open(mask_path) as mask:
        assert mask.size == before.shape[1::-1]
        reach = 2 * round(ROOM * max(1, max(mask.size) / 256)) + 1
        far = ndimage.maximum_filter(np.asarray(mask), reach) == 0
    assert np.array_equal(after[far], before[far])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", PHOTOS)
def test_it_comes_back_at_its_size_and_the_same_outside_the_edit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    suffix, make = PHOTOS[name]
    make(tmp_path / f"photo.{suffix}")
    assert "confidence" in edited(tmp_path / f"photo.{suffix}", capsys)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_photograph_comes_back_at_its_size_and_the_same_outside_the_edit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """The first in its size, the others in half of it: one smaller than what the model was made for, two larger."""
    photograph = next(itertools.islice(photographs(), number, None), None)
    if photograph is None:
        pytest.skip("needs the photographs of scikit-image and scikit-learn")
    image = Image.fromarray(photograph)
    (image if number == 0 else image.reduce(2)).save(tmp_path / "photo.png")
    assert "confidence" in edited(tmp_path / "photo.png", capsys)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 a JPEG that ends here"])
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    source = tmp_path / "broken.jpg"
    source.write_bytes(content)
    with pytest.raises(SystemExit):
        command_line.main(["edit", str(source), "a dog", "--out", str(tmp_path / "edited.png")])
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "broken.jpg cannot be read as a picture" in message
