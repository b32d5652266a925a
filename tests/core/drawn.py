"""Evidence and records of drawn pictures, for the tests of the masks that are made of them."""

import numpy as np
import pytest
import torch

from instdiff_core.evidence import AttentionRecord, Evidence
from instdiff_core.options import PRESETS
from instdiff_core.tokens import PromptWords, Word

GRID = (16, 16)
PAPER, CHANGE = PRESETS["paper"], PRESETS["default"]


def prompt(*texts):
    words = tuple(Word(text, (i + 1,)) for i, text in enumerate(texts))
    return PromptWords(words, (0,), (len(texts) + 1,), 77)


def tensor(*maps):
    return torch.from_numpy(np.stack(maps)).float()


def iou(mask, other):
    return ((mask & other).sum() / (mask | other).sum()).item()


PARTS = ("first", "maps", "propagated", "image_latent")


def part_of(evidence, rows):
    return Evidence(*(getattr(evidence, part)[rows] for part in PARTS))


def joined(*evidences):
    return Evidence(*(torch.cat([getattr(each, part) for each in evidences]) for part in PARTS))


# ---- pictures for the method "attention": Gaussian bumps in the cross-attention ----


def blob(y, x, spread=2.0, grid=GRID):
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * spread**2))


def scene(grid=GRID):
    """Maps of "hairy dog runs grass": the dog at the upper left, the grass at the lower right."""
    dog = blob(5, 5, grid=grid)
    start = 0.9 - 0.5 * dog
    hairy = blob(5.3, 5.4, grid=grid)
    runs = blob(6.4, 6.4, grid=grid)
    grass = blob(12, 11, 2.5, grid)
    end = blob(2, 13, grid=grid)
    return np.stack([start, end, 0.02 + 0.05 * hairy, 0.01 + 0.2 * dog, 0.3 * runs, 0.4 * grass])


SCENE_WORDS = prompt("hairy", "dog", "runs", "grass")


def attention(maps, size=GRID, first=None):
    """Evidence with these cross-attention maps; the propagated maps and the latent say nothing."""
    batch, channels = maps.shape[:2]
    propagated = torch.zeros(batch, channels + 1, *maps.shape[-2:])
    return Evidence(maps if first is None else first, maps, propagated, torch.zeros(batch, 4, *size))


# ---- pictures for the method "change": discs in a latent of 64x64 whose colours the guide shows ----


def disc(y, x, radius, size=(64, 64)):
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


DOG, BALL, NOWHERE = disc(22, 20, 12), disc(46, 46, 10), torch.zeros(64, 64, dtype=torch.bool)
OBJECTS = prompt("dog", "grass", "ball")


def at_grid(values):
    return torch.nn.functional.adaptive_avg_pool2d(values[None].float(), GRID)[0]


def changed(*places, words=(DOG, ~(DOG | BALL), BALL), plain_guide=False):
    """Evidence where the prompt changes `places`, each a disc and the ratio of the prompt's error to that without."""
    change, error, guide = torch.full((64, 64), 0.1), torch.full((64, 64), 0.4), torch.zeros(4, 64, 64)
    for number, (place, ratio) in enumerate(places):
        change = change + place
        error = torch.where(place, 0.4 * ratio, error)
        guide = guide + place * torch.tensor([1.0, -1.0, 0.5, 2.0]).roll(number).view(4, 1, 1)
    guide = guide + 0.05 * torch.randn(guide.shape, generator=torch.Generator().manual_seed(0))
    signals = [at_grid(change), at_grid(error), at_grid(torch.full((64, 64), 0.4))]
    propagated = torch.stack([*signals, *(0.02 + 0.1 * at_grid(word) for word in words)])[None]
    maps = torch.cat([torch.ones(1, 2, *GRID), propagated[:, 3:]], 1)
    return Evidence(maps, maps, propagated, guide[None] * (not plain_guide))


def both():
    """A picture of a dog and a ball, of which the prompt contradicts the dog."""
    return changed((DOG, 1.3), (BALL, 0.8))


# ---- both ----


def three_pictures(method):
    if method == "change":
        return joined(both(), changed((DOG, 0.8)), changed((disc(40, 24, 16), 1.3), plain_guide=True))
    maps = scene()
    batch = tensor(maps, maps[:, ::-1].copy(), np.concatenate([maps[:2], maps[[3, 2, 5, 4]]]))
    return attention(batch, (48, 48))


def words_of(method):
    return OBJECTS if method == "change" else SCENE_WORDS


METHODS = {"attention": PAPER, "change": CHANGE}
for_both_methods = pytest.mark.parametrize("method", METHODS)


def get_record(*steps, settings=None, sigmas=None, words=SCENE_WORDS, size=(32, 32)):
    """A record whose steps have these cross-attention maps ``[batch, channels, h, w]``."""
    maps = torch.stack(steps).half()
    propagated = torch.cat([torch.ones_like(maps[:, :, :3]), maps[:, :, 2:]], 2)
    sigmas = sigmas or tuple(float(len(steps) - i) for i in range(len(steps)))
    return AttentionRecord(maps, propagated, torch.zeros(maps.shape[1], 4, *size).half(), words, sigmas, 8)


def record_of(evidence, words, scale):
    """The record of a run of one step that said this."""
    maps, propagated = (part[None].half() for part in (evidence.maps, evidence.propagated))
    return AttentionRecord(maps, propagated, evidence.image_latent.half(), words, (5.0,), scale)
