"""Pictures and their captions in files, and the latents that an autoencoder makes of them.

Composing needs the processor and training the device: both go on side by side, and meet in a folder.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from transformers import CLIPTokenizer

from ..scenes import FOLDER
from .areas import draw_area
from .corpus import Corpus
from .run import SEED
from .words import END, token_ids
from .world import World

SHARD = 256
LONGEST = 32
"""Tokens of a caption that are kept; the rest are pads."""

WAITING = 400
"""Shards of pictures that may wait to be encoded."""


def compose(work: Path, artwork: Path, clip: Path, jobs: int, deadline: float) -> None:
    """Fill ``work/pictures`` from `jobs` processes until `deadline`, in ``time.time()``."""
    (work / "pictures").mkdir(parents=True, exist_ok=True)
    arguments = [(work, artwork, clip, number, jobs, deadline) for number in range(jobs)]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        pool.starmap(_compose, arguments, chunksize=1)


def _compose(work: Path, artwork: Path, clip: Path, first: int, jobs: int, deadline: float) -> None:
    number = first
    while time.time() < deadline:
        if len(list((work / "pictures").glob("*.npz"))) >= WAITING:
            time.sleep(0.2)
            continue
        path = work / "pictures" / f"{number:06}.npz"
        if not path.exists() and not (work / "latents" / f"{number:06}.pt").exists():
            write_shard(path, artwork, clip, number)
        number += jobs


def write_shard(path: Path, artwork: Path, clip: Path, number: int, count: int = SHARD) -> None:
    """Draw the pictures of a number, the same ones whenever they are asked for.

    The file holds pictures uint8 ``[count, H, W, 3]``, tokens uint16 ``[count, captions, LONGEST]``, and an area of
    each picture that an inpainting model is to paint, bool ``[count, H, W]``.
    """
    world, tokenizer = World(Corpus(artwork)), _tokenizer(clip)
    rng = np.random.default_rng((SEED, number))
    drawn = [world.draw(rng) for _ in range(count)]
    tokens = [token_ids(tokenizer, captions, LONGEST).numpy().astype(np.uint16) for _, _, captions in drawn]
    others = [mask for _, masks, _ in drawn for mask in masks if mask.any()]
    areas = [draw_area(rng, masks, others) for _, masks, _ in drawn]
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, pictures=np.stack([drawing[0] for drawing in drawn]), tokens=np.stack(tokens), areas=areas)
    part.rename(path)


@functools.cache
def _tokenizer(clip: Path) -> Any:
    return CLIPTokenizer.from_pretrained(clip)


def encode(work: Path, vae: Path, device: torch.device, deadline: float) -> None:
    """Turn ``work/pictures`` into ``work/latents`` until `deadline`, and delete the pictures."""
    (work / "latents").mkdir(parents=True, exist_ok=True)
    model: AutoencoderTiny = (
        AutoencoderTiny.from_pretrained(vae).float().to(device, memory_format=torch.channels_last).eval()
    )
    while True:
        waiting = sorted((work / "pictures").glob("*.npz"))
        for path in waiting:
            stored = np.load(path)
            tokens = torch.from_numpy(stored["tokens"].astype(np.int32))
            pictures, areas = (torch.from_numpy(stored[name]) for name in ("pictures", "areas"))
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                encoded = [
                    _encode(model, picture.to(device), area.to(device))
                    for picture, area in zip(torch.split(pictures, 64), torch.split(areas, 64), strict=True)
                ]
            latents, masked = (torch.cat(parts).half().cpu() for parts in zip(*encoded, strict=True))
            part = work / "latents" / f"{path.stem}.part"
            torch.save({"latents": latents, "masked": masked, "tokens": tokens}, part)
            part.rename(part.with_suffix(".pt"))
            path.unlink()
        if time.time() > deadline:
            return
        if not waiting:
            time.sleep(0.2)


def _encode(model: AutoencoderTiny, pictures: Tensor, areas: Tensor) -> tuple[Tensor, Tensor]:
    """The latents of pictures, and what an inpainting model sees of them (`Batch.masked`)."""
    pixels, areas = to_pixels(pictures), areas[:, None]
    latents, without = (model.encode(shown).latents.float() for shown in (pixels, pixels * ~areas))
    small = adaptive_avg_pool2d(areas.float(), latents.shape[-2:]).round()
    return latents, torch.cat([small, without], 1)


def to_pixels(pictures: Tensor) -> Tensor:
    """``[N, 3, H, W]`` float32 in -1..1 of pictures uint8 ``[N, H, W, 3]``, laid out for convolutions."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Batch:
    """Latents float32 ``[B, 4, h, w]``, and the token ids int64 ``[B, L]`` of a caption of each.

    `masked` ``[B, 5, h, w]`` is what an inpainting model gets besides: the area to paint (1; 0 elsewhere), and the
    latents of the picture with middle grey there, as ComfyUI's InpaintModelConditioning makes them.
    """

    latents: Tensor
    masked: Tensor
    tokens: Tensor


class Latents:
    """All that ``work/latents`` holds, on a device; it grows while others add to the folder."""

    def __init__(self, work: Path, device: torch.device, capacity: int) -> None:
        self.folder, self.device, self.capacity = work / "latents", device, capacity
        self.seen: set[str] = set()
        self.count, self.looked = 0, 0.0
        self.latents: Tensor
        self.masked: Tensor
        self.tokens: Tensor

    def wait(self, least: int) -> None:
        """Return when there are `least` pictures."""
        while self.count < least:
            self._look()
            time.sleep(0.2)

    def draw(self, size: int, length: int, empty: float) -> Batch:
        """A batch at random, with `length` tokens a caption; a part `empty` of it has none, for guidance."""
        if time.time() - self.looked > 2:
            self._look()
        chosen = torch.randint(self.count, (size,), device=self.device)
        tokens = self.tokens[chosen, torch.randint(self.tokens.shape[1], (size,), device=self.device)].long()[
            :, :length
        ]
        without = torch.rand(size, device=self.device) < empty
        tokens[:, 1:][without] = END
        return Batch(self.latents[chosen].float(), self.masked[chosen].float(), tokens)

    def _look(self) -> None:
        self.looked = time.time()
        for path in sorted(self.folder.glob("*.pt")):
            if path.name in self.seen or self.count >= self.capacity:
                continue
            self.seen.add(path.name)
            stored = torch.load(path, weights_only=True)
            fits = min(len(stored["latents"]), self.capacity - self.count)
            for name, values in stored.items():
                if not self.count:
                    shape = (self.capacity, *values.shape[1:])
                    setattr(self, name, torch.empty(shape, dtype=values.dtype, device=self.device))
                getattr(self, name)[self.count : self.count + fits] = values[:fits].to(self.device)
            self.count += fits


def shipped_autoencoder() -> Path:
    """The folder of the autoencoder that the pack comes with."""
    return FOLDER / "vae"
