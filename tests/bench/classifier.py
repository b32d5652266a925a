"""A small classifier that names the object in a cut of a picture, to judge edits.

It knows the object words of the vocabulary (adjectives merged), "nothing" (bare background) and "none of these":
other objects, and what a person would not call the object, so that a smear in its colours is a failure.
`classifier_training` makes it, and says how well it does.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from instdiff_core.arrays import Mask, Picture
from instdiff_core.mini.scenes import object_words

WEIGHTS = Path(__file__).with_name("classifier.safetensors")
NOTHING = "nothing"
NONE_OF_THESE = "none of these"
SIZE = 64

Cuts = NDArray[np.uint8]
"""``[N, S, S, 3]``."""


def classes() -> list[str]:
    """The names that the classifier gives, in the order of its outputs."""
    return [*object_words(), NOTHING, NONE_OF_THESE]


class Classifier(nn.Module):
    """Five convolutions, mean and maximum over the cut, one linear layer: 0.15 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, stride in ((32, 2), (48, 2), (64, 2), (80, 1), (80, 2)):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * before, len(classes()))

    def forward(self, cuts: Tensor) -> Tensor:
        """Scores ``[N, classes]`` of cuts ``[N, 3, 64, 64]`` in -1..1."""
        found = self.features(cuts)
        return self.head(torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1))


@functools.cache
def load() -> Classifier:
    """The shipped classifier, float32, on the CPU."""
    model = Classifier()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()}, strict=False)
    return model.eval()


@torch.no_grad()
def name(cuts: Cuts, model: Classifier | None = None) -> list[str]:
    """The object in each cut."""
    names = classes()
    return [names[number] for number in (model or load())(to_pixels(cuts)).argmax(1).tolist()]


def shows(picture: Picture, area: Mask, word: str) -> bool:
    """Whether `word` is what the classifier sees in the square around the area, with a tenth of its size to spare."""
    return name(np.stack([cut(picture, area)]))[0] == word


def cut(
    picture: Picture, area: Mask, *, margin: float = 0.1, offset: tuple[float, float] = (0, 0), size: int = SIZE
) -> Picture:
    """The square around `area` (the middle of the picture when it is empty), resized to `size`.

    `margin` and `offset` (right, down) are fractions of the area's longer side. The square is
    moved, and if need be shrunk, to lie in the picture.
    """
    rows, columns = np.nonzero(area if area.any() else np.ones_like(area))
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
    longer = (high - low).max()
    whole = np.array(picture.shape[1::-1], float)
    side = min(longer * (1 + 2 * margin), *whole)
    corner = np.clip((low + high - side) / 2 + np.array(offset) * longer, 0, whole - side)
    box = tuple(np.concatenate([corner, corner + side]).tolist())
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2))


def to_pixels(cuts: Cuts) -> Tensor:
    """``[N, 3, S, S]`` float32 in -1..1."""
    return torch.from_numpy(cuts).permute(0, 3, 1, 2).float().div(127.5).sub(1)
