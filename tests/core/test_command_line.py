"""What ``python -m instdiff_core`` promises."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from scipy import ndimage

import instdiff_core
from instdiff_core import __main__ as command_line
from instdiff_core import pipeline
from instdiff_core.mini.scenes import compose
from instdiff_core.options import SamplingOptions
from tests.bench.guard_pairs import scene


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a picture in it."""
    Image.fromarray(compose(np.random.default_rng(5), ["cat"], "grass", size=128)[0][:100]).save(tmp_path / "cat.png")
    (tmp_path / "text.png").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command prints; it writes nothing and exits with 2."""
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as end:
        command_line.main(arguments)
    output = capsys.readouterr()
    assert end.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("instdiff: ")
    assert sorted(folder.iterdir()) == before
    return output.err


def test_edit_writes_picture_and_mask_and_prints_json_only(folder: Path) -> None:
    command = [sys.executable, "-m", "instdiff_core", "edit", "cat.png", "a dog", "--steps", "4"]
    done = subprocess.run(
        [*command, "--out", "dog.png", "--mask", "mask.png", "--json"],
        env={**os.environ, "PYTHONPATH": str(Path(instdiff_core.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report) == {"words", "index_word", "fits", "mask_area", "confidence", "timings"}
    with Image.open(folder / "dog.png") as picture, Image.open(folder / "mask.png") as mask:
        assert picture.size == mask.size == (128, 100)
        values = np.asarray(mask)
    assert set(np.unique(values)) <= {0, 255}
    assert (values > 0).mean() == pytest.approx(report["mask_area"], abs=1e-3)


def test_edit_without_json_says_what_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main(["edit", "cat.png", "a dog", "--out", "dog.png", "--steps", "2"])
    assert "index word" in capsys.readouterr().out
    assert not (folder / "mask.png").exists()


def test_the_threshold_makes_the_mask_smaller(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    areas = []
    for threshold in ("0.1", "0.9"):
        command_line.main(
            ["edit", "cat.png", "a dog", "--out", "dog.png", "--steps", "2", "--json", "--threshold", threshold]
        )
        areas.append(json.loads(capsys.readouterr().out)["mask_area"])
    assert areas[1] < areas[0]


def test_further_edits_come_with_settings_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["edit", "cat.png", "a dog", "--out", "dog.png", "--steps", "2", "--mask", "mask.png"]
    command_line.main([*command, "--edit", "a red car:threshold=0.9,target=red,car", "--edit", "a tree", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [len(of_edit["words"]) for of_edit in report["edits"]] == [2, 3, 2]
    with Image.open(folder / "mask.png") as mask:
        assert (np.asarray(mask) > 0).mean() == pytest.approx(report["mask_area"], abs=1e-3)
    command_line.main([*command, "--edit", "a red car"])
    output = capsys.readouterr().out
    assert output.startswith("edit 1, 'a dog':\n")
    assert "edit 2, 'a red car':\n" in output


def test_a_deep_transparent_or_grey_picture_is_edited_like_its_plain_colours(folder: Path) -> None:
    with Image.open("cat.png") as image:
        grey = np.asarray(image.convert("L"))
    alpha = np.linspace(0, 255, grey.size).reshape(grey.shape).astype(np.uint8)
    Image.fromarray(grey.astype(np.uint16) * 257).save("deep.png")
    Image.fromarray(np.dstack([grey, alpha])).save("transparent.png")
    Image.fromarray(grey).save("grey.png")
    for name in ("grey", "deep", "transparent"):
        command_line.main(["edit", f"{name}.png", "a dog", "--out", f"{name}-dog.png", "--steps", "2"])
    grey_dog, deep_dog, transparent_dog = (
        np.asarray(Image.open(f"{name}-dog.png")) for name in ("grey", "deep", "transparent")
    )
    assert np.array_equal(deep_dog, grey_dog)
    assert np.array_equal(transparent_dog, np.dstack([grey_dog, alpha]))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_edited_photo_keeps_its_size_and_what_its_file_says(folder: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "A camera", 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open("cat.png") as image:
        before = np.asarray(image)
        alpha = Image.new("L", image.size, 200)
        image.putalpha(alpha)
        image.rotate(90, expand=True).save("photo.webp", lossless=True, exact=True, exif=exif, icc_profile=profile)
    out = f"dog.{suffix}"
    command_line.main(["edit", "photo.webp", "a dog", "--out", out, "--mask", "mask.png", "--steps", "2"])
    with Image.open(out) as picture:
        assert picture.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[suffix]
        assert picture.size == before.shape[1::-1]
        assert dict(picture.getexif()) == {ExifTags.Base.Make: "A camera"}
        assert picture.info["icc_profile"] == profile
        if suffix == "jpg":
            assert picture.mode == "RGB"
        else:
            assert np.asarray(picture)[..., 3].min() == np.asarray(picture)[..., 3].max() == 200
        after = np.asarray(picture.convert("RGB"))
    different = np.abs(after.astype(int) - before).max(-1)
    if suffix == "png":
        with Image.open("mask.png") as mask:
            far = ndimage.maximum_filter(np.asarray(mask), 63) == 0
        assert not different[far].any()
    assert np.median(different) < 8


def test_the_demo_writes_one_sheet_and_prints_the_mask_iou(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "SCENES", command_line.SCENES[:1])
    monkeypatch.setattr(pipeline, "edit", functools.partial(pipeline.edit, sampling=SamplingOptions(2)))
    command_line.main(["demo"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a cat -> a panda: mask IoU ")
    assert lines[-1].startswith("mean mask IoU ")
    with Image.open(folder / "instdiff-demo.png") as sheet:
        assert sheet.width >= 4 * 256
        last = sheet.convert("L").crop((0, sheet.height - 20, *sheet.size))
    assert min(last.getdata()) < 128  # the prompt and the IoU, under the pictures


def test_guard_puts_the_edit_into_the_original_and_keeps_what_its_file_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = scene(np.random.default_rng(1), 192)[:160]
    edited = np.roll(original, 2, 1)
    edited[60:100, 70:110] = [250, 220, 30]
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "A camera", 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.fromarray(original).rotate(90, expand=True)
    turned.save("photo.png", exif=exif, icc_profile=profile)
    Image.fromarray(edited).save("edited.png")
    command_line.main(["guard", "photo.png", "edited.png", "--out", "guarded.png", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["shift"] == pytest.approx([2, 0], abs=0.1)
    assert 0.03 < facts["found"] < 0.1
    with Image.open("guarded.png") as picture:
        assert dict(picture.getexif()) == {ExifTags.Base.Make: "A camera"}
        assert picture.info["icc_profile"] == profile
        values = np.asarray(picture)
    unchanged = (values == original).all(-1)
    assert unchanged.mean() == pytest.approx(facts["kept"], abs=0.02)
    assert (np.abs(values[70:90, 80:100].astype(int) - [250, 220, 30]) < 12).all()


def test_guard_takes_a_mask_and_says_in_words_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = scene(np.random.default_rng(1), 160)
    mask = np.zeros((160, 160), np.uint8)
    mask[40:80, 40:80] = 255
    for name, values in (("photo", original), ("edited", np.roll(original, 1, 0)), ("mask", mask)):
        Image.fromarray(values).save(f"{name}.png")
    command_line.main(["guard", "photo.png", "edited.png", "--out", "guarded.png", "--mask", "mask.png"])
    assert "edited: 6.2% of the picture" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["guard", "cat.png", "nowhere.png"], "nowhere.png"),
        (["guard", "text.png", "cat.png"], "text.png"),
        (["guard", "cat.png", "cat.png", "--mask", "text.png"], "text.png"),
        (["guard", "cat.png", "cat.png", "--grow", "11"], "grow"),
        (["guard", "cat.png", "cat.png", "--if-refused", "nothing"], "nothing"),
        (["edit", "nowhere.png", "a dog"], "nowhere.png"),
        (["edit", "text.png", "a dog"], "text.png"),
        (["edit", "cat.png", ""], "no words"),
        (["edit", "cat.png", "a dog", "--model", "nowhere"], "no model at nowhere"),
        (["edit", "cat.png", "a dog", "--preset", "best"], "best"),
        (["edit", "cat.png", "a dog", "--strength", "2"], "strength"),
        (["edit", "cat.png", "a dog", "--threshold", "1.1"], "threshold"),
        (["edit", "cat.png", "a dog", "--steps", "0"], "steps"),
        (["edit", "cat.png", "a dog", "--steps", "many"], "many"),
        (["edit", "cat.png", "a dog", "--cfg", "-1"], "cfg"),
        (["edit", "cat.png", "a dog", "--seed", "-1"], "seed"),
        (["edit", "cat.png", "a dog", "--mask", "mask.text"], "mask.text"),
        (["edit", "cat.png", "a dog", "--edit", ""], "no words"),
        (["edit", "cat.png", "a dog", "--edit", ":threshold=0.4"], "no words"),
        (["edit", "cat.png", "a dog", "--edit", "a car:threshold=2"], "threshold must be from 0 to 1"),
        (["edit", "cat.png", "a dog", "--edit", "a car:threshold=high"], "threshold must be a number, not 'high'"),
        (["edit", "cat.png", "a dog", "--edit", "a car:limit=0.4"], "with one of the names method, threshold"),
        (["edit", "cat.png", "a dog", "--edit", "a car:target=tree"], "'tree' is not in the edit prompt"),
        (["edit", "cat.png", "a dog", "--there", ""], "what is there holds no words"),
        (["edit", "cat.png", "a dog", "--edit", "a car", "--there", "a bird"], "for a single edit prompt"),
        (["edit", "cat.png", "a dog", "--mask", "no/mask.png"], "no/mask.png"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    assert message in refused([*changes, "--out", "dog.png"], folder, capsys)


@pytest.mark.parametrize("arguments", [[], ["paint"], ["edit", "cat.png", "a dog"], ["demo", "--out", "no/demo.png"]])
def test_a_wrong_command_is_said_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    refused(arguments, folder, capsys)


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_a_missing_library_comes_with_its_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("instdiff_core.pipeline")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(instdiff_core, "pipeline", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    assert 'in the folder of the pack, run pip install -e ".[demo]"' in refused(["demo"], folder, capsys)
