"""How well Edit Guard lays edits over their originals, finds them, and leaves the rest alone.

    python -m tests.bench.guard --pairs 5 --out results

Makes pairs of photographs that scikit-image and scikit-learn bring, where they are installed, and of composed
scenes; prints tables and writes a sheet of pictures. `--seed-offset` takes other pairs. `--templates` takes
what real editors made instead: the before and after pictures of ComfyUI's templates, where their package
(comfyui-workflow-templates-media-image) is installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median

import kornia.color
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from instdiff_core.arrays import Picture
from instdiff_core.guard import Guarded, guard_edit
from instdiff_core.metrics import iou
from instdiff_core.options import GuardOptions

from .common import grey, outlined, save_sheet
from .guard_pairs import EDITS, SEED, Pair, drift, pair, photographs, places, scene
from .guard_templates import template_pairs

EXACT = GuardOptions(grow=0, feather=0)
"""With neither, the area is the mask that was found."""

PEER = 2.0
"""The difference in CIELAB from which peers take a place as edited, in pictures laid over one another as they are."""

OTHER = "another picture"


def night(picture: Picture, other: Picture) -> Picture:
    return (picture * [0.25, 0.3, 0.5]).astype(np.uint8)


def relight(picture: Picture, other: Picture) -> Picture:
    light = np.linspace(0.35, 1.35, picture.shape[1])[:, None]
    return (255 * (picture / 255) ** 1.1 * light).clip(0, 255).astype(np.uint8)


def style(picture: Picture, other: Picture) -> Picture:
    image = Image.fromarray(picture).filter(ImageFilter.ModeFilter(9)).filter(ImageFilter.EDGE_ENHANCE_MORE)
    return np.asarray(ImageOps.posterize(image, 2))


def background(picture: Picture, other: Picture) -> Picture:
    height, width = picture.shape[:2]
    new = np.array(Image.fromarray(other).resize((width, height)))
    new[height // 3 :, width // 3 : 2 * width // 3] = picture[height // 3 :, width // 3 : 2 * width // 3]
    return new


def waves(picture: Picture, other: Picture) -> Picture:
    down, across = np.mgrid[: picture.shape[0], : picture.shape[1]]
    moved = down + 4 * np.sin(across / 40), across + 4 * np.sin(down / 37)
    return np.stack([ndimage.map_coordinates(picture[..., band], moved, order=1) for band in range(3)], -1)


GLOBAL: dict[str, Callable[[Picture, Picture], Picture]] = {
    OTHER: lambda picture, other: other,
    "night": night,
    "relight": relight,
    "style": style,
    "new background": background,
    "waves": waves,
}
"""Changes of everything, which are to be refused."""


def tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(picture.copy()).float() / 255


def image(picture: Tensor) -> Image.Image:
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy())


def resized(picture: Tensor, size: tuple[int, ...]) -> Tensor:
    values = functional.interpolate(picture.movedim(-1, 0)[None], size, mode="bicubic", antialias=True)
    return values[0].movedim(0, -1).clamp(0, 1)


def psnr(first: Tensor, second: Tensor) -> float:
    return float(-10 * (first - second).square().mean().clamp(min=1e-10).log10())


def moved_wrong(made: Pair, result: Guarded) -> float:
    """By how many pixels of the edit the places of the original are wrong, in the mean."""
    size = made.edited.shape[:2]
    error = places(result.homography.double().numpy(), (40, 40)) - places(made.homography, (40, 40))
    return float((error * torch.tensor(size[::-1]) / 2).norm(dim=-1).mean())


def peer(original: Tensor, edited: Tensor) -> Tensor:
    """Where two pictures differ by `PEER`, ``[H, W]`` bool."""
    lab = kornia.color.rgb_to_lab(torch.stack([original, edited]).movedim(-1, 1))
    return (lab[0] - lab[1]).norm(dim=0) > PEER


def parts_of_error(picture: Tensor, ideal: Tensor, area: Tensor, original: Tensor) -> tuple[float, float, float]:
    """What of a result's squared error lies where the edit was left out, put in, and where an area is too large."""
    error, edited = (picture - ideal).square().sum(-1), (ideal != original).any(-1)
    total = max(float(error.sum()), 1e-12)
    parts = edited & ~area, edited & area, ~edited
    left_out, put_in, around = (float(error[part].sum()) / total for part in parts)
    return left_out, put_in, around


def measure_edits(
    pictures: list[Picture], count: int, offset: int, bend: float
) -> list[tuple[str, Sequence[Image.Image]]]:
    """Print how edits of every kind come out, and return rows for the sheet.

    The IoU is that of the area without a soft edge; the rest is measured with the default options, and once more
    with the true mask, which shows what the editor's own softness inside the edit leaves to gain.
    """
    rows: list[tuple[str, Sequence[Image.Image]]] = []
    print(f"{'':<10}{'IoU':>6}{'peer':>6}{'missed':>7}{'dB':>6}{'true mask':>10}{'resized':>8}", end="")
    print(f"{'left out':>9}{'put in':>7}{'around':>7}{'px mean':>8}{'px max':>7}{'s':>5}")
    for number, kind in enumerate([*EDITS, "nothing"]):
        figures: list[tuple[float, ...]] = []
        for place in range(offset, offset + count):
            made = pair(np.random.default_rng([SEED, number, place]), kind, pictures, bend=bend)
            original, edited, ideal = (tensor(each) for each in (made.original, made.edited, made.ideal))
            truth = torch.from_numpy(made.truth)
            begun = time.process_time()
            result = guard_edit(original, edited)
            seconds = time.process_time() - begun
            area = guard_edit(original, edited, options=EXACT).area
            whole = resized(edited, truth.shape)
            assert torch.equal(result.picture[~result.area], original[~result.area])
            figures.append(
                (
                    float(iou(area, truth)),
                    float(iou(peer(original, whole), truth)),
                    float(truth.any() and not (area & truth).any()),
                    min(99.0, psnr(result.picture, ideal)),
                    min(99.0, psnr(guard_edit(original, edited, truth.float()).picture, ideal)),
                    psnr(whole, ideal),
                    *parts_of_error(result.picture, ideal, result.area, original),
                    moved_wrong(made, result),
                    seconds,
                )
            )
            shown = outlined(image(edited), np.asarray(grey(made.truth).resize(image(edited).size)) > 127)
            caption = f"{kind}: IoU {figures[-1][0]:.2f}" + (
                f", {result.report.refusal}" if result.report.refusal else ""
            )
            rows.append((caption, [image(original), shown, grey(area.numpy()), image(result.picture)]))
        *columns, error, times = zip(*figures, strict=True)
        overlap, rule, missed, *levels, left_out, put_in, around = map(fmean, columns)
        guarded, true_mask, plain = levels
        print(
            f"{kind:<10}{overlap:>6.2f}{rule:>6.2f}{round(count * missed):>7}{guarded:>6.1f}{true_mask:>10.1f}"
            f"{plain:>8.1f}{left_out:>9.0%}{put_in:>7.0%}{around:>7.0%}{fmean(error):>8.3f}{max(error):>7.3f}{median(times):>5.1f}",
            flush=True,
        )
    return rows


def measure_refusals(pictures: list[Picture], count: int, offset: int) -> None:
    """Print how many changes of everything are refused."""
    for number, (name, change) in enumerate(GLOBAL.items()):
        refused = 0
        for place in range(offset, offset + count):
            rng = np.random.default_rng([SEED, 100 + number, place])
            first, second = rng.permutation(len(pictures))[:2]
            picture = pictures[first]
            edited, _ = drift(rng, change(picture, pictures[second]))
            refused += guard_edit(tensor(picture), tensor(edited)).report.refusal is not None
        print(f"refused {name:<16}{refused:>3} of {count}", flush=True)


def measure_chain(pictures: list[Picture], turns: int, offset: int) -> None:
    """Print how near a picture is to what was asked for after each of some edits in a row, guarded and not."""
    rng = np.random.default_rng([SEED, 200, offset])
    wanted = guarded = plain = pictures[0]
    height, width = wanted.shape[:2]
    for turn in range(1, turns + 1):
        down, across = (int(rng.uniform(0.1, 0.8) * side) for side in (height, width))
        area = slice(down, down + height // 10), slice(across, across + width // 10)
        colour = rng.integers(0, 256, 3)
        asked = []
        for picture in (wanted, guarded, plain):
            asked.append(picture.copy())
            asked[-1][area] = colour
        seed = [SEED, 201, offset, turn]
        edits = [drift(np.random.default_rng(seed), picture)[0] for picture in asked[1:]]
        result = guard_edit(tensor(guarded), tensor(edits[0]))
        wanted = asked[0]
        guarded = np.asarray(image(result.picture))
        plain = np.asarray(image(resized(tensor(edits[1]), (height, width))))
        figures = [psnr(tensor(picture), tensor(wanted)) for picture in (guarded, plain)]
        print(f"edit {turn} in a row: {figures[0]:.1f} dB guarded, {figures[1]:.1f} dB resized", flush=True)


def show_templates() -> list[tuple[str, Sequence[Image.Image]]]:
    """Print what is found in the pictures of real editors, and return rows for the sheet."""
    rows: list[tuple[str, Sequence[Image.Image]]] = []
    for name, original, edited in template_pairs():
        result = guard_edit(tensor(original), tensor(edited))
        print(f"{name}\n    " + result.report.describe().replace("\n", "\n    "), flush=True)
        shown = [image(picture) for picture in (tensor(original), tensor(edited), result.picture)]
        refused = " (refused)" if result.report.refusal else ""
        rows.append((name[-40:] + refused, [*shown[:2], grey(result.area.numpy()), shown[2]]))
    return rows


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of each kind; default: 5")
    parser.add_argument("--seed-offset", type=int, default=0, help="the number of the first pair; default: 0")
    parser.add_argument(
        "--bend", type=float, default=0, help="pixels by which the editor bends the picture here and there; default: 0"
    )
    parser.add_argument("--templates", action="store_true", help="pictures of ComfyUI's templates instead")
    parser.add_argument("--out", type=Path, help="a folder for the sheet; default: none is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.templates:
        _save(options.out, "templates.png", show_templates())
        return
    pictures = list(photographs()) or [scene(np.random.default_rng([SEED, 300, number])) for number in range(8)]
    print(f"{len(pictures)} pictures, pairs from {options.seed_offset}")
    rows = measure_edits(pictures, options.pairs, options.seed_offset, options.bend)
    _save(options.out, "guard.png", rows)
    measure_refusals(pictures, options.pairs, options.seed_offset)
    measure_chain(pictures, 5, options.seed_offset)


def _save(folder: Path | None, name: str, rows: list[tuple[str, Sequence[Image.Image]]]) -> None:
    if folder:
        folder.mkdir(exist_ok=True)
        save_sheet(folder / name, ("original", "edit", "found", "guarded"), rows)


if __name__ == "__main__":
    main()
