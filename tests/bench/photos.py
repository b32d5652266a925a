"""Large photos: what is found, and what is edited, of things that are small in them.

    python -m tests.bench.photos [--scenes 6] [--side 1536] [--shares 0.08,0.15,0.3] [--routes shrunk,found]
    python -m tests.bench.photos --memory 12,48

Composes photos with one object, whose longer side is a share of the photo's height, on the backgrounds of
`mini/scenes.py`, and edits them with the embedded model: shrunk to the model's own size as a whole, by
`pipeline.edit_photo`, by `pipeline.edit_photo` with the word for the object, and in a crop around the true mask.
Prints the mean mask IoU at the photo's size, in how many photos the mask touches the object, the share of edits
in which the classifier sees the new object, the PSNR outside the truth, and seconds of processor time.

--memory: edits a photo of so many megapixels each, in a process of its own, with an object of a tenth of its height:
prints the most memory that the process held beyond what model and photo took, in which box of pixels the photo
changed, and seconds of processor time.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image

from instdiff_core.blend import feather_mask
from instdiff_core.metrics import iou, psnr_outside
from instdiff_core.mini.scenes import background_words, compose, object_words, with_article
from instdiff_core.options import INPAINTING_FINISH, SamplingOptions
from instdiff_core.pipeline import EditModel, Picture, edit, edit_photo, load_mini
from instdiff_core.pipeline.photo import SEAM
from instdiff_core.region import find_regions

from . import classifier

SAMPLING, FINISHING = SamplingOptions(10), INPAINTING_FINISH
BEST_PSNR = 100.0


@dataclass(frozen=True)
class Photo:
    """A picture, its object and the mask of it, and the object that it is to become."""

    picture: Picture
    truth: np.ndarray
    thing: str
    target: str

    @property
    def prompt(self) -> str:
        return with_article(self.target)


def make_pair() -> tuple[Picture, dict[str, np.ndarray]]:
    """A photo with a bird and a tree on sand, none of which is a sixth of its side; and their masks by their words."""
    picture = compose(np.random.default_rng(3), [], "sand", size=700)[0].copy()
    truths = {}
    for word, seed, top, left in (("bird", 4, 90, 80), ("tree", 6, 520, 540)):
        thing, masks = compose(np.random.default_rng(seed), [word], "sand", size=110, scale=(0.9, 0.95))
        truths[word] = np.zeros(picture.shape[:2], bool)
        truths[word][top : top + 110, left : left + 110] = masks[0]
        picture[truths[word]] = thing[masks[0]]
    return picture, truths


Route = Callable[[EditModel, Photo, int], tuple[Picture, np.ndarray]]
"""A photo edited, and its mask, both at the photo's size."""


def make_photo(number: int, side: int, share: float) -> Photo:
    """A photo of `side` pixels across and 3/4 of them down."""
    rng = np.random.default_rng([7, number])
    height = side * 3 // 4
    background = str(rng.choice(background_words()))
    # no "red car": the classifier says what a thing is, not its colour
    first, second = (str(name) for name in rng.permutation(object_words())[:2])
    picture = compose(rng, [], background, size=side)[0][:height].copy()
    length = round(share * height)
    thing, masks = compose(rng, [first], background, size=round(length / 0.95), scale=(0.95, 0.95))
    top, left = (int(rng.integers(0, limit - thing.shape[0])) for limit in (height, side))
    truth = np.zeros((height, side), bool)
    truth[top : top + thing.shape[0], left : left + thing.shape[1]] = masks[0]
    picture[truth] = thing[masks[0]]
    return Photo(picture, truth, first, second)


def edit_shrunk(model: EditModel, photo: Photo, seed: int) -> tuple[Picture, np.ndarray]:
    """The whole photo at the model's own size, enlarged again, and pasted where its mask is."""
    height, width = photo.truth.shape
    (whole,) = find_regions(torch.zeros(1, height, width, dtype=torch.bool), model.native_pixels, unit=model.unit)
    small = np.array(Image.fromarray(photo.picture).resize(whole.size[::-1], Image.Resampling.BOX))
    result = edit(model, small, photo.prompt, seed=seed, sampling=SAMPLING, finishing=FINISHING)
    mask = np.array(Image.fromarray(result.mask.binary[0].numpy()).resize((width, height)))
    enlarged = np.array(Image.fromarray(result.picture).resize((width, height), Image.Resampling.BICUBIC))
    return np.where(mask[..., None], enlarged, photo.picture), mask


def edit_found(model: EditModel, photo: Photo, seed: int) -> tuple[Picture, np.ndarray]:
    """As the command line does."""
    result = edit_photo(model, photo.picture, photo.prompt, seed=seed, sampling=SAMPLING, finishing=FINISHING)
    return result.picture, result.mask.binary[0].numpy()


def edit_by_word(model: EditModel, photo: Photo, seed: int) -> tuple[Picture, np.ndarray]:
    """As the command line does with --there."""
    there = with_article(photo.thing)
    result = edit_photo(
        model, photo.picture, photo.prompt, seed=seed, there=there, sampling=SAMPLING, finishing=FINISHING
    )
    return result.picture, result.mask.binary[0].numpy()


def edit_hinted(model: EditModel, photo: Photo, seed: int) -> tuple[Picture, np.ndarray]:
    """In the crop around the true mask: what a rough mask by hand gives."""
    truth = torch.from_numpy(photo.truth)[None]
    (region,) = find_regions(truth, model.native_pixels, unit=model.unit)
    result = torch.from_numpy(photo.picture)[None].float() / 255
    crop = (region.cut(result)[0] * 255).round().to(torch.uint8).numpy()
    edited = edit(model, crop, photo.prompt, seed=seed, sampling=SAMPLING, finishing=FINISHING)
    mask = torch.zeros(truth.shape)
    region.mark(mask, edited.mask.binary.float())
    painted, _ = feather_mask(edited.mask.binary.float(), FINISHING.grow, 0)
    _, alpha = feather_mask(painted.float(), SEAM, SEAM)
    region.put_back(result, torch.from_numpy(edited.picture)[None].float() / 255, alpha)
    return (result[0] * 255).round().to(torch.uint8).numpy(), mask[0].numpy() > 0.5


ROUTES: dict[str, Route] = {"shrunk": edit_shrunk, "found": edit_found, "by word": edit_by_word, "hinted": edit_hinted}


def judge(photo: Photo, picture: Picture, mask: np.ndarray) -> tuple[float, float, float, float]:
    """Mask IoU, whether the mask touches the truth, whether the new object is seen, and the PSNR outside the truth."""
    truth = torch.from_numpy(photo.truth)
    psnr = min(BEST_PSNR, float(psnr_outside(torch.from_numpy(photo.picture), torch.from_numpy(picture), truth)))
    shown = classifier.shows(picture, photo.truth, photo.target)
    return float(iou(torch.from_numpy(mask), truth)), float(mask[photo.truth].any()), float(shown), psnr


def measure_memory(megapixels: float) -> str:
    """What `--memory` prints for one photo, which is an enlarged one."""
    model = load_mini()
    photo = make_photo(0, 1024, 0.1)
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    picture = np.array(Image.fromarray(photo.picture).resize((width, width * 3 // 4), Image.Resampling.BICUBIC))
    truth = np.array(Image.fromarray(photo.truth).resize((width, width * 3 // 4)))
    edit(model, photo.picture[:256, :256].copy(), photo.prompt, sampling=SAMPLING, finishing=FINISHING)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    started = time.process_time()
    result = edit_photo(model, picture, photo.prompt, sampling=SAMPLING, finishing=FINISHING)
    seconds = time.process_time() - started
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    changed = (result.picture != picture).any(-1)
    height, width = (np.ptp(np.nonzero(changed.any(axis))[0]) + 1 for axis in (1, 0))
    overlap = float(iou(result.mask.binary[0], torch.from_numpy(truth)))
    return (
        f"{truth.size / 1e6:.0f} megapixels: {(most - held) / 2**30:.2f} GiB beyond {held / 2**30:.2f}, "
        f"{seconds:.0f} s, mask IoU {overlap:.2f}, changed within {width} x {height} pixels"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.photos", description=__doc__)
    parser.add_argument("--scenes", type=int, default=6, help="of each share; default: 6")
    parser.add_argument("--side", type=int, default=1536, help="of a photo, in pixels; default: 1536")
    parser.add_argument("--shares", default="0.08,0.15,0.3", help="of the height; default: 0.08,0.15,0.3")
    parser.add_argument("--routes", default=",".join(ROUTES), help=f"default: {','.join(ROUTES)}")
    parser.add_argument("--seed-offset", type=int, default=5000, help="number of the first scene; default: 5000")
    parser.add_argument("--memory", help="megapixels, separated by commas: measure memory instead")
    options = parser.parse_args()
    if options.memory:
        for megapixels in map(float, options.memory.split(",")):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                print(process.submit(measure_memory, megapixels).result(), flush=True)
        return
    model = load_mini()
    for share in map(float, options.shares.split(",")):
        photos = [make_photo(options.seed_offset + n, options.side, share) for n in range(options.scenes)]
        for name in options.routes.split(","):
            started, figures = time.process_time(), []
            for seed, photo in enumerate(photos):
                figures.append(judge(photo, *ROUTES[name](model, photo, seed)))
            seconds = (time.process_time() - started) / len(photos)
            overlap, touched, seen, psnr = (fmean(values) for values in zip(*figures, strict=True))
            print(
                f"{share:5.0%} of the height, {name:8} IoU {overlap:.2f}, touched {touched:4.0%}, seen {seen:4.0%}, "
                f"PSNR outside {psnr:5.1f} dB, {seconds:5.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
