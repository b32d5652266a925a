"""Other people's pictures for the mask benchmark: what is read from a folder, and that it can be run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instdiff_core.mini.scenes import compose
from instdiff_core.options import FinishOptions, SamplingOptions
from tests.bench import data, masks
from tests.bench.catalogue import BenchModel
from tests.bench.common import spearman
from tests.bench.methods import METHODS

SIDE = 512
BOX = np.zeros((SIDE, SIDE), bool)
BOX[100:300, 200:400] = True


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(seed: int = 0) -> np.ndarray:
    return compose(np.random.default_rng(seed), ["cat"], "grass", size=SIDE)[0]


def is_mask(truth: np.ndarray | None, mask: np.ndarray) -> bool:
    return truth is not None and np.array_equal(truth, mask)


def grey(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


@pytest.fixture
def editing_mask(tmp_path: Path) -> Path:
    """An Editing-Mask folder: a phrase, and a class of ImageNet."""
    save(tmp_path / "images" / "7.png", picture())
    save(tmp_path / "masks" / "7.png", grey(BOX))
    save(tmp_path / "val_00028602.JPEG", picture(1))
    save(tmp_path / "val_00028602_mask.png", grey(~BOX))
    (tmp_path / "readme.txt").write_text("Masks by hand.", encoding="utf-8")
    lines = ["7 <> A photo of a cat. <> a cat <> a red car", "", "val_00028602.JPEG <> cat <> owl", ""]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def pie_bench(folder: Path, **changes: object) -> Path:
    """A PIE-Bench folder of one entry."""
    runs = [number for row in range(100, 300) for number in (row * SIDE + 200, 200)]
    entry = {
        "image_path": "1_change_object/2_natural/000000000003.jpg",
        "original_prompt": "a [cat] on the grass",
        "editing_prompt": "a [Dog] on the grass",
        "blended_word": "cat dog",
        "mask": runs,
    }
    save(folder / "annotation_images" / "1_change_object" / "2_natural" / "000000000003.jpg", picture())
    mapping = json.dumps({"000000000003": entry | changes})
    (folder / "mapping_file.json").write_text(mapping, encoding="utf-8")
    return folder


def test_editing_mask_is_read(editing_mask: Path) -> None:
    (first, phrase), (second, label) = data.read(editing_mask)
    assert (first, second) == ("Imagen", "ImageNet")
    assert (phrase.source_prompt, phrase.prompt) == ("a cat", "a red car")
    assert (phrase.words, phrase.target) == (("red", "car"), "car")
    assert is_mask(phrase.truth, BOX)
    assert np.array_equal(phrase.picture, picture())
    assert (label.source_prompt, label.prompt, label.words) == ("a cat", "an owl", ("owl",))
    assert is_mask(label.truth, ~BOX)


def test_the_authors_names_are_found(tmp_path: Path) -> None:
    save(tmp_path / "images" / "A photo of a cat._2.jpg", picture())
    save(tmp_path / "masks" / "7.png", grey(BOX))
    save(tmp_path / "images" / "val_00028602.JPEG", picture())
    save(tmp_path / "masks" / "28602.png", grey(~BOX))
    lines = "7 <> A photo of a cat. <> a cat <> a car\nval_00028602.JPEG <> cat <> owl"
    (tmp_path / "list.txt").write_text(lines, encoding="utf-8")
    (_, first), (_, second) = data.read(tmp_path)
    assert is_mask(first.truth, BOX)
    assert is_mask(second.truth, ~BOX)


def test_pie_bench_is_read(tmp_path: Path) -> None:
    ((group, scene),) = data.read(pie_bench(tmp_path))
    assert group == "1_change_object"
    assert (scene.source_prompt, scene.prompt) == ("a cat on the grass", "a Dog on the grass")
    assert (scene.words, scene.target) == (("dog",), "dog")
    assert is_mask(scene.truth, BOX)
    assert scene.picture.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a [big red] dog on [the] grass", ("big", "red")),
        ("a dog on the grass", ("dog",)),
        ("a cat on the grass", ("cat", "on", "grass")),
    ],
)
def test_the_edited_words_are_those_in_brackets_else_the_new_ones(
    tmp_path: Path, prompt: str, words: tuple[str, ...]
) -> None:
    ((_, scene),) = data.read(pie_bench(tmp_path, editing_prompt=prompt))
    assert scene.words == words


def test_an_empty_mask_is_no_truth(tmp_path: Path) -> None:
    ((_, scene),) = data.read(pie_bench(tmp_path, mask=[]))
    assert scene.truth is None


def test_everything_is_brought_to_one_size(tmp_path: Path) -> None:
    save(tmp_path / "wide.jpg", picture()[:200])
    save(tmp_path / "wide_mask.png", grey(BOX[:, :300]))
    (tmp_path / "list.txt").write_text("wide <> cat <> dog", encoding="utf-8")
    ((_, scene),) = data.read(tmp_path, 128)
    assert scene.picture.shape == (128, 128, 3)
    assert scene.truth is not None
    assert scene.truth.shape == (128, 128)


@pytest.mark.parametrize("name", ["../7", "/etc/7", "a/../../7"])
def test_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    save(tmp_path / "7.png", picture())
    pie_bench(folder, image_path=f"{name}.png")
    with pytest.raises(ValueError, match="leads out of the folder"):
        list(data.read(folder))
    (folder / "mapping_file.json").unlink()
    for line in (f"{name} <> cat <> dog", f"7 <> {name} <> a cat <> a dog"):
        (folder / "list.txt").write_text(line, encoding="utf-8")
        with pytest.raises(ValueError, match="leads out of the folder"):
            list(data.read(folder))


@pytest.mark.parametrize("line", ["7 <> cat", "7 <> <> dog", "1 <> 2 <> 3 <> 4 <> 5"])
def test_an_incomplete_line_is_quoted(editing_mask: Path, line: str) -> None:
    (editing_mask / "list.txt").write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=line):
        list(data.read(editing_mask))


def test_what_is_missing_is_named(tmp_path: Path, editing_mask: Path) -> None:
    (editing_mask / "masks" / "7.png").unlink()
    with pytest.raises(ValueError, match="no mask of '7'"):
        list(data.read(editing_mask))
    (editing_mask / "images" / "7.png").unlink()
    with pytest.raises(ValueError, match="no picture of '7'"):
        list(data.read(editing_mask))
    (editing_mask / "list.txt").unlink()
    with pytest.raises(ValueError, match="has neither"):
        data.read(editing_mask)


@pytest.mark.parametrize("runs", [[0], [-5, 10], [5, -10]])
def test_runs_that_are_none_are_refused(runs: list[int]) -> None:
    with pytest.raises(ValueError, match="a mask"):
        data.runs_to_mask(runs)


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 200, 3000]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4
    assert spearman([0, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([], []) is None


def test_a_folder_can_be_run(editing_mask: Path) -> None:
    cases = masks.data_cases(editing_mask, [], None, 0, size=128)
    model = BenchModel("shipped", None, SamplingOptions(2), FinishOptions(1, strength=0.25))
    results = masks.run(model, cases, list(METHODS))
    found = masks.report(results)
    assert found["scenes"] == {"Imagen": 1, "ImageNet": 1}
    overall = {method: each["overall"] for method, each in found["methods"].items()}
    assert {method: each["unet_evals"] for method, each in overall.items()} == {
        "default": 8, "paper": 6, "DiffEdit": 26, "LEdits++": 6, "DAAM": 6, "SDEdit": 4, "true mask": 6,
    }  # fmt: skip
    assert {method: each["mask_evals"] for method, each in overall.items() if each["mask_evals"]} == {"DiffEdit": 20}
    for each in overall.values():
        assert 0 <= each["iou"] <= 1
        assert each["psnr_outside"] > 5
        assert each["edit_success"] is None
    assert overall["SDEdit"]["recall"] == overall["true mask"]["iou"] == 1
    assert overall["default"]["index_word_right"] is not None
    assert overall["DAAM"]["index_word_right"] is None
    # overall, IoU and boundary F: the other figures mean nothing here
    assert masks.tables(found["methods"]).count("SDEdit") == 3
    assert [len(images) for _, images in results.rows] == [8, 8]
    json.dumps(found, allow_nan=False)
