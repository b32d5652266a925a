"""The paper's tables: the runner from end to end, and that its figures are those of the libraries."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.functional.classification import binary_jaccard_index

from instdiff_core.metrics import iou
from instdiff_core.options import FinishOptions, SamplingOptions
from tests.bench import data, paper
from tests.bench.networks import ORIGINS, ClassifierNetworks, _Pooled

FEW = SamplingOptions(2), FinishOptions(1, strength=0.25)
METHODS, STRENGTHS = ("default", "SDEdit"), ("0.4", "0.6")


def run(out: Path) -> None:
    arguments = ["--suite", "composed", "--limit", "12", "--size", "96", "--out", str(out)]
    paper.main([*arguments, "--methods", ",".join(METHODS), "--strengths", ",".join(STRENGTHS)])


def read_figures(out: Path) -> dict[str, dict[str, dict[str, float]]]:
    """By method and strength."""
    figures: dict[str, dict[str, dict[str, float]]] = json.loads((out / "results.json").read_text())["figures"]
    return figures


def pictures(paths: list[Path]) -> torch.Tensor:
    """``[N, 3, 96, 96]`` uint8."""
    values = [np.asarray(Image.open(path).convert("RGB").resize((96, 96), Image.Resampling.LANCZOS)) for path in paths]
    return torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over composed pictures."""
    folder = tmp_path_factory.mktemp("paper") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "COMPOSED", FEW)
        run(folder)
    return folder


def test_there_is_a_row_for_each_method_and_strength_and_a_column_for_each_figure(out: Path) -> None:
    lines = (out / "table.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| default, 0.4", "| default, 0.6", "| SDEdit, 0.4", "| SDEdit, 0.6"
    ]  # fmt: skip
    assert lines[0] == (
        "| | mask IoU | LPIPS | FID | CSFID | CLIP score | PSNR outside | SSIM outside | seconds | U-Net evals |"
    )
    assert all("|  |" not in line for line in lines[2:])


def test_a_plot_is_drawn_for_the_screen_and_for_print(out: Path) -> None:
    with Image.open(out / "tradeoff.png") as drawing:
        assert drawing.width > 1000
    assert (out / "tradeoff.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_figures_are_those_of_the_libraries_on_the_same_files(out: Path) -> None:
    figures = read_figures(out)["SDEdit"]["0.6"]
    numbers = range(12)
    before = pictures([out / "data" / "images" / f"{number:04}.png" for number in numbers])
    after = pictures([out / "edits" / "SDEdit-0.6" / f"{number}.png" for number in numbers])
    networks = ClassifierNetworks()

    features = _Pooled(networks._model)
    statistics = (fid_features_to_statistics(features(part)) for part in (before, after))
    fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert figures["fid"] == pytest.approx(fid, rel=1e-3)

    distance = lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, lpips=False, verbose=False).eval()
    distance.net, distance.scaling_layer, distance.L = networks._lpips.net, torch.nn.Identity(), 5
    with torch.no_grad():
        pairs = zip(before, after, strict=True)
        distances = [float(distance(*(part[None].float() / 127.5 - 1 for part in pair))) for pair in pairs]
    assert figures["lpips"] == pytest.approx(np.mean(distances), rel=1e-4)


def test_started_again_nothing_is_edited_twice_and_what_is_missing_is(out: Path) -> None:
    edits = sorted((out / "edits").rglob("*.png"))
    assert len(edits) == 2 * 12 * len(METHODS) * len(STRENGTHS)
    times = {path: path.stat().st_mtime_ns for path in edits}
    before = read_figures(out)
    journal = (out / "edits.jsonl").read_text(encoding="utf-8")
    (out / "edits.jsonl").write_text(journal[:-10], encoding="utf-8")  # killed while it wrote
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "COMPOSED", FEW)
        run(out)
    again = {path for path in edits if path.stat().st_mtime_ns != times[path]}
    assert {path.name for path in again} == {"11.png", "11.mask.png"}
    assert len({path.parent for path in again}) == 1
    after = read_figures(out)
    for method, strength in itertools.product(METHODS, STRENGTHS):
        assert after[method][strength].pop("seconds") > 0
        del before[method][strength]["seconds"]
    assert after == before


def test_a_folder_with_edits_of_another_size_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        paper.main(["--suite", "composed", "--limit", "12", "--size", "64", "--out", str(out)])
    assert end.value.code == 2
    assert "take another folder" in capsys.readouterr().err


def test_what_cannot_be_read_is_listed_and_stops_nothing(out: Path, tmp_path: Path) -> None:
    lines = (out / "data" / "list.txt").read_text(encoding="utf-8").splitlines()[:2]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0000.png").write_bytes((out / "data" / "images" / "0000.png").read_bytes())
    (tmp_path / "images" / "0001.png").write_bytes(b"no picture")
    (tmp_path / "list.txt").write_text("\n".join([*lines, "nowhere.png <> cat <> dog", "cat"]), encoding="utf-8")
    scenes = paper.Scenes(data.entries(tmp_path, 96, masks=False))
    ((number, scene),) = scenes
    assert number == 0
    assert scene.truth is None
    assert list(scenes.skipped) == ["2: 0001.png", "3: nowhere.png", "4: cat"]


def test_missing_networks_are_said_in_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--suite", "pie-bench", "--data", str(tmp_path), "--features", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        paper.main([*arguments, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    assert all(name in error and origin in error for name, origin in ORIGINS.items())
    assert not (tmp_path / "out").exists()


def test_our_iou_is_the_librarys() -> None:
    masks = torch.rand(2, 40, 40) > 0.5
    assert float(iou(*masks)) == pytest.approx(float(binary_jaccard_index(*masks.int())))
