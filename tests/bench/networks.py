"""The networks behind the paper's figures: those of the libraries, and the benchmark's classifier in their place.

The libraries download theirs when they need them. In a folder for --features they are found without:

    checkpoints/alexnet-owt-7be5be79.pth                      LPIPS: torchvision's AlexNet
    checkpoints/weights-inception-2015-12-05-6726825d.pth     FID: torch-fidelity's Inception
    clip-vit-base-patch16/                                    CLIP score: openai/clip-vit-base-patch16
    dino-vitb8/                                               structure distance: facebook/dino-vitb8

The first two are as torch.hub keeps them (~/.cache/torch/hub), the others as Hugging Face has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import lpips
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import ViTModel

from instdiff_core.arrays import Mask

from . import classifier
from .common import device

ALEXNET = "checkpoints/alexnet-owt-7be5be79.pth"
INCEPTION = "checkpoints/weights-inception-2015-12-05-6726825d.pth"
CLIP, DINO = "clip-vit-base-patch16", "dino-vitb8"

ORIGINS = {
    ALEXNET: "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    INCEPTION: "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    f"{CLIP}/config.json": "https://huggingface.co/openai/clip-vit-base-patch16",
    f"{DINO}/config.json": "https://huggingface.co/facebook/dino-vitb8",
}
"""Where the files of a folder for --features come from."""

DINO_SIZE = 224
"""Pixels of the pictures whose structure is compared, as in PIE-Bench's evaluation."""


class Networks(Protocol):
    """What the figures need. Pictures are ``[N, 3, H, W]`` uint8."""

    def distance(self, before: Tensor, after: Tensor) -> Tensor:
        """How far apart pictures are, LPIPS or one like it, ``[N]``."""

    def score(self, pictures: Tensor, prompts: Sequence[str], areas: Sequence[Mask | None]) -> Tensor:
        """How well pictures fit their prompts, ``[N]``: the cosine of CLIP, or a score like it in the areas."""

    def frechet(self) -> FrechetInceptionDistance:
        """A metric for the Fréchet distance between two sets of pictures; real ones stay through a reset."""

    def structure(self, before: Tensor, after: Tensor) -> Tensor:
        """How far apart the structures of pictures are, ``[N]``."""


class MissingNetworks(Exception):
    """Which files are missing, and where they come from, in one line."""


class LibraryNetworks:
    """The published ones. `structure` says that DINO is needed too.

    Raises ``MissingNetworks`` where one of them is neither in the folder nor, without one, to be had.
    """

    def __init__(self, folder: Path | None, structure: bool = False) -> None:
        names = [name for name in ORIGINS if structure or not name.startswith(DINO)]
        if folder and (missing := [name for name in names if not (folder / name).is_file()]):
            raise MissingNetworks(f"{folder} lacks " + ", ".join(f"{name} ({ORIGINS[name]})" for name in missing))
        if folder:
            torch.hub.set_dir(str(folder))
        self._inception = None if folder is None else str(folder / INCEPTION)
        clip, dino = ("openai/" + CLIP, "facebook/" + DINO) if folder is None else (folder / CLIP, folder / DINO)
        try:
            self._lpips = lpips.LPIPS(net="alex", verbose=False).to(device()).eval()
            self._clip = CLIPScore(str(clip)).to(device())
            self.frechet()
            self._dino = ViTModel.from_pretrained(dino, attn_implementation="eager").to(device()) if structure else None
        except Exception as error:  # every library fails in its own way
            files = ", ".join(f"{name} ({ORIGINS[name]})" for name in names)
            reason = " ".join(str(error).split())[:200]
            raise MissingNetworks(
                f"the networks cannot be had ({reason}): put into a folder for --features {files}"
            ) from error

    @torch.no_grad()
    def distance(self, before: Tensor, after: Tensor) -> Tensor:
        pair = (pictures.to(device()).float() / 127.5 - 1 for pictures in (before, after))
        return self._lpips(*pair).flatten().cpu()

    @torch.no_grad()
    def score(self, pictures: Tensor, prompts: Sequence[str], areas: Sequence[Mask | None]) -> Tensor:
        pairs = zip(pictures.to(device()), prompts, strict=True)
        return torch.stack([self._clip(picture, prompt).cpu() / 100 for picture, prompt in pairs])

    def frechet(self) -> FrechetInceptionDistance:
        metric = FrechetInceptionDistance(reset_real_features=False, feature_extractor_weights_path=self._inception)
        return metric.to(device())

    @torch.no_grad()
    def structure(self, before: Tensor, after: Tensor) -> Tensor:
        """The mean squared difference of the self-similarities of DINO's last keys (Tumanyan et al. 2022)."""
        first, second = (self._similarity(pictures) for pictures in (before, after))
        return (first - second).square().mean((1, 2)).cpu()

    def _similarity(self, pictures: Tensor) -> Tensor:
        """The cosine of the last layer's keys with each other, ``[N, L, L]``."""
        assert self._dino is not None
        size = (DINO_SIZE, DINO_SIZE)
        values = functional.interpolate(pictures.to(device()).float() / 255, size, mode="bilinear", antialias=True)
        mean, deviation = (
            values.new_tensor(row)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        keys: list[Tensor] = []
        layer = dict(self._dino.named_modules())
        last = [name for name in layer if name.endswith((".key", ".k_proj"))][-1]
        hook = layer[last].register_forward_hook(lambda module, inputs, output: keys.append(output))
        try:
            self._dino(pixel_values=(values - mean) / deviation)
        finally:
            hook.remove()
        unit = functional.normalize(keys[0], dim=-1)
        return unit @ unit.transpose(1, 2)


class ClassifierNetworks:
    """The benchmark's classifier in their place, for composed pictures. Its figures compare with no others'."""

    def __init__(self) -> None:
        self._model = classifier.load()
        self._lpips = lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, lpips=False, verbose=False).eval()
        self._lpips.net, self._lpips.scaling_layer = _Layers(self._model), nn.Identity()
        self._lpips.L = len(_Layers.ENDS)

    @torch.no_grad()
    def distance(self, before: Tensor, after: Tensor) -> Tensor:
        return self._lpips(*(pictures.float() / 127.5 - 1 for pictures in (before, after))).flatten()

    @torch.no_grad()
    def score(self, pictures: Tensor, prompts: Sequence[str], areas: Sequence[Mask | None]) -> Tensor:
        """How sure the classifier is of the prompt's last word, 0 to 1, in the square around the area."""
        scores = []
        for picture, prompt, area in zip(pictures.permute(0, 2, 3, 1).numpy(), prompts, areas, strict=True):
            cut = classifier.cut(picture, picture.any(-1) if area is None else area)
            values = torch.tensor(cut).permute(2, 0, 1)[None].float() / 127.5 - 1
            place = classifier.classes().index(prompt.split()[-1])
            scores.append(self._model(values).softmax(1)[0, place])
        return torch.stack(scores)

    def frechet(self) -> FrechetInceptionDistance:
        return FrechetInceptionDistance(_Pooled(self._model), reset_real_features=False, input_img_size=(3, 64, 64))

    def structure(self, before: Tensor, after: Tensor) -> Tensor:
        raise NotImplementedError


class _Layers(nn.Module):
    """What the classifier sees after each of its convolutions, as the networks of lpips give it."""

    ENDS = (2, 5, 8, 11, 14)

    def __init__(self, model: classifier.Classifier) -> None:
        super().__init__()
        self.features = model.features

    def forward(self, pictures: Tensor) -> list[Tensor]:
        layers = []
        for number, layer in enumerate(self.features):
            pictures = layer(pictures)
            if number in self.ENDS:
                layers.append(pictures)
        return layers


class _Pooled(nn.Module):
    """What the classifier's last layer takes, of whole pictures uint8, ``[N, 160]``."""

    num_features = 160

    def __init__(self, model: classifier.Classifier) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Any:
        size = (classifier.SIZE, classifier.SIZE)
        values = functional.interpolate(pictures.float() / 127.5 - 1, size, mode="bilinear", antialias=True)
        features = self.model.features(values)
        return torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
