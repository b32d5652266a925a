"""Pictures of every mode that Pillow reads keep their brightness, and what is transparent stays so."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from instdiff_core.files import read_picture, save_edit, save_picture

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8)[None].repeat(8, 0)
COLOURS = np.dstack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 100)])
ALPHA = np.linspace(0, 255, 8).round().astype(np.uint8)[:, None].repeat(64, 1)
GREY = np.dstack([RAMP] * 3)


def transparent_palette():
    image = Image.fromarray(RAMP).convert("P")
    image.info["transparency"] = 255
    return image


def lab():
    space, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(Image.fromarray(COLOURS), rgb, space, outputMode="LAB")


DEEP = {
    "I;16 png": (lambda: Image.fromarray(RAMP.astype(np.uint16) * 257), "png"),
    "I;16 tif": (lambda: Image.fromarray(RAMP.astype(np.uint16) * 257), "tif"),
    "I;16B tif": (lambda: Image.frombytes("I;16B", (64, 8), (RAMP.astype(">u2") * 257).tobytes()), "tif"),
    "I of 8 bits": (lambda: Image.fromarray(RAMP.astype(np.int32)), "tif"),
    "I of 16 bits": (lambda: Image.fromarray(RAMP.astype(np.int32) * 257), "tif"),
    "F of 0 to 1": (lambda: Image.fromarray(RAMP.astype(np.float32) / 255), "tif"),
    "F of 0 to 255": (lambda: Image.fromarray(RAMP.astype(np.float32)), "tif"),
    "L": (lambda: Image.fromarray(RAMP), "png"),
}

COLOURED = {
    "RGB": (lambda: Image.fromarray(COLOURS), "png"),
    "CMYK": (lambda: Image.fromarray(COLOURS).convert("CMYK"), "tif"),
    "YCbCr": (lambda: Image.fromarray(COLOURS).convert("YCbCr"), "tif"),
    "LAB": (lab, "tif"),
    "RGBX": (lambda: Image.fromarray(COLOURS).convert("RGBX"), "tif"),
    "P": (lambda: Image.fromarray(COLOURS).quantize(256), "png"),
}

TRANSPARENT = {
    "RGBA": (lambda: Image.fromarray(np.dstack([COLOURS, ALPHA])), "png", COLOURS),
    "LA": (lambda: Image.fromarray(np.dstack([RAMP, ALPHA])), "png", GREY),
    "RGBA webp": (lambda: Image.fromarray(np.dstack([COLOURS, ALPHA])), "webp", None),
    "RGBA tif": (lambda: Image.fromarray(np.dstack([COLOURS, ALPHA])), "tif", COLOURS),
}


def saved(image, path):
    image.save(path, **({"lossless": True, "exact": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("name", DEEP)
def test_grey_pictures_of_any_depth_keep_their_brightness(tmp_path, name):
    make, suffix = DEEP[name]
    colours, alpha = read_picture(saved(make(), tmp_path / f"grey.{suffix}"))
    assert np.array_equal(colours, GREY)
    assert alpha is None


def test_a_dark_16_bit_picture_stays_dark(tmp_path):
    dark = Image.fromarray(RAMP.astype(np.uint16))
    assert read_picture(saved(dark, tmp_path / "dark.png"))[0].max() == 1


def test_black_and_white_stay_so(tmp_path):
    image = Image.fromarray(RAMP > 127)
    assert image.mode == "1"
    assert np.array_equal(read_picture(saved(image, tmp_path / "sketch.png"))[0], np.dstack([(RAMP > 127) * 255] * 3))


@pytest.mark.parametrize("name", COLOURED)
def test_colours_of_any_mode_are_right(tmp_path, name):
    make, suffix = COLOURED[name]
    colours, alpha = read_picture(saved(make(), tmp_path / f"picture.{suffix}"))
    assert np.abs(colours.astype(int) - COLOURS).mean() < 3
    assert alpha is None


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_read_beside_the_colours(tmp_path, name):
    make, suffix, wanted = TRANSPARENT[name]
    colours, alpha = read_picture(saved(make(), tmp_path / f"picture.{suffix}"))
    assert alpha is not None
    assert np.array_equal(alpha, ALPHA)
    if wanted is not None:
        assert np.array_equal(colours, wanted)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_colour_of_a_palette_is_transparent(tmp_path, suffix):
    _, alpha = read_picture(saved(transparent_palette(), tmp_path / f"palette.{suffix}"))
    assert alpha is not None
    assert np.array_equal(alpha == 0, RAMP == 255)


def test_a_transparent_level_of_16_bit_grey_is_transparent(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png", transparency=2**16 - 1)
    colours, alpha = read_picture(tmp_path / "deep.png")
    assert np.array_equal(colours, GREY)
    assert alpha is not None
    assert np.array_equal(alpha == 0, RAMP == 255)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_kept_where_the_format_holds_it(tmp_path, suffix):
    save_picture(COLOURS, tmp_path / f"out.{suffix}", ALPHA)
    _, alpha = read_picture(tmp_path / f"out.{suffix}")
    assert alpha is not None
    assert np.array_equal(alpha, ALPHA)


def test_where_it_does_not_the_colours_are_saved(tmp_path):
    save_picture(COLOURS, tmp_path / "out.jpg", ALPHA)
    colours, alpha = read_picture(tmp_path / "out.jpg")
    assert alpha is None
    assert np.abs(colours.astype(int) - COLOURS).mean() < 6


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp"])
def test_what_a_tiff_says_of_its_own_pixels_is_not_said_of_the_edit(tmp_path, suffix):
    source = tmp_path / "scan.tif"
    tags = {270: "A description", 271: "A scanner", 700: b"<x:xmpmeta/>"}
    Image.fromarray(COLOURS).convert("CMYK").save(source, compression="tiff_adobe_deflate", tiffinfo=tags)
    save_edit(COLOURS, tmp_path / f"out.{suffix}", source)
    with Image.open(tmp_path / f"out.{suffix}") as image:
        said = image.getexif()
        assert (said[270], said[271]) == ("A description", "A scanner")
        if suffix != "tif":
            assert set(said) == {270, 271}
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - COLOURS).mean() < 4


def test_a_picture_of_nan_is_refused(tmp_path):
    path = saved(Image.fromarray(np.full((8, 8), np.nan, np.float32)), tmp_path / "nan.tif")
    with pytest.raises(ValueError, match=r"nan.tif cannot be read as a picture: it holds NaN"):
        read_picture(path)
