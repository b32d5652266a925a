"""The autoencoder: diffusers' AutoencoderTiny (TAESD), an eighth of the resolution, from the shipped weights on."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional

from .run import Course, Run
from .shards import shipped_autoencoder, to_pixels

CUT = 128
LATENT_NOISE = 0.05
"""Added before decoding, so that what a diffusion model does not get quite right decodes well too."""

CAPACITY = 40_000


def train(work: Path, device: torch.device, course: Course, *, first: int) -> None:
    """Learn cuts of the pictures in ``work/pictures``, of which `first` must be there, into ``work/model/vae``.

    The network has no normalisation layers, so what it learns on cuts holds for whole pictures.
    """
    model = AutoencoderTiny.from_pretrained(shipped_autoencoder()).float().to(device, memory_format=torch.channels_last)
    pictures = Pictures(work, device, first)
    run = Run("autoencoder", work, model, course)

    def loss() -> Tensor:
        target = pictures.cuts(course.batch, CUT)
        with torch.autocast(device.type, torch.bfloat16):
            latents = model.encode(target).latents
            decoded = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample.float()
        latents = latents.float()
        unit = (latents.std((0, 2, 3)) - 1).square().mean() + latents.mean((0, 2, 3)).square().mean()
        edges = sum((decoded.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (2, 3))
        return functional.l1_loss(decoded, target) + edges + 2 * functional.mse_loss(decoded, target) + 0.1 * unit

    run.train(loss)
    average = run.average
    for part in torch.split(pictures.held_out, 16):
        target = to_pixels(part)
        with torch.no_grad():
            decoded = average.decode(average.encode(target).latents).sample.clamp(-1, 1)
        noise = (decoded - target).square().mean((1, 2, 3)) / 4
        print(f"autoencoder: unseen pictures {(-10 * noise.log10()).mean().item():.2f} dB", flush=True)
    average.half().save_pretrained(work / "model" / "vae")


class Pictures:
    """The pictures that wait in ``work/pictures``, on the device; new ones are taken in now and then."""

    def __init__(self, work: Path, device: torch.device, first: int) -> None:
        self.folder, self.device, self.looked = work / "pictures", device, 0.0
        self.seen: set[str] = set()
        self.parts: list[Tensor] = []
        while sum(map(len, self.parts)) < first:
            self._look()
            time.sleep(0.2)
        self.held_out = self.parts.pop(0)[:64]

    def cuts(self, count: int, side: int) -> Tensor:
        """``[count, 3, side, side]`` float32 in -1..1, out of one shard."""
        if time.time() - self.looked > 5:
            self._look()
        shard = self.parts[int(np.random.randint(len(self.parts)))]
        top, left = np.random.randint(0, shard.shape[1] - side + 1, 2)
        chosen = torch.randint(len(shard), (count,), device=self.device)
        return to_pixels(shard[chosen, top : top + side, left : left + side])

    def _look(self) -> None:
        self.looked = time.time()
        for path in sorted(self.folder.glob("*.npz")):
            if path.name not in self.seen and sum(map(len, self.parts)) < CAPACITY:
                self.seen.add(path.name)
                self.parts.append(torch.from_numpy(np.load(path)["pictures"]).to(self.device))
