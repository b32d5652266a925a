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
from transformers import CLIPTokenizer

from ..scenes import FOLDER
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

    The file holds pictures uint8 ``[count, H, W, 3]`` and tokens uint16 ``[count, captions, LONGEST]``.
    """
    world, tokenizer = World(Corpus(artwork)), _tokenizer(clip)
    rng = np.random.default_rng((SEED, number))
    drawn = [world.draw(rng) for _ in range(count)]
    tokens = np.stack([token_ids(tokenizer, captions, LONGEST).numpy().astype(np.uint16) for _, captions in drawn])
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, pictures=np.stack([picture for picture, _ in drawn]), tokens=tokens)
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
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                parts = torch.split(torch.from_numpy(stored["pictures"]), 64)
                latents = torch.cat([model.encode(to_pixels(part.to(device))).latents.float() for part in parts])
            tokens = torch.from_numpy(stored["tokens"].astype(np.int32))
            part = work / "latents" / f"{path.stem}.part"
            torch.save({"latents": latents.half().cpu(), "tokens": tokens}, part)
            part.rename(part.with_suffix(".pt"))
            path.unlink()
        if time.time() > deadline:
            return
        if not waiting:
            time.sleep(0.2)


def to_pixels(pictures: Tensor) -> Tensor:
    """``[N, 3, H, W]`` float32 in -1..1 of pictures uint8 ``[N, H, W, 3]``, laid out for convolutions."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Batch:
    """Latents float32 ``[B, 4, h, w]``, and the token ids int64 ``[B, L]`` of a caption of each."""

    latents: Tensor
    tokens: Tensor


class Latents:
    """All that ``work/latents`` holds, on a device; it grows while others add to the folder."""

    def __init__(self, work: Path, device: torch.device, capacity: int) -> None:
        self.folder, self.device, self.capacity = work / "latents", device, capacity
        self.seen: set[str] = set()
        self.count, self.looked = 0, 0.0
        self.latents: Tensor
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
        return Batch(self.latents[chosen].float(), tokens)

    def _look(self) -> None:
        self.looked = time.time()
        for path in sorted(self.folder.glob("*.pt")):
            if path.name in self.seen or self.count >= self.capacity:
                continue
            self.seen.add(path.name)
            stored = torch.load(path, weights_only=True)
            if not self.count:
                for name in ("latents", "tokens"):
                    shape = (self.capacity, *stored[name].shape[1:])
                    setattr(self, name, torch.empty(shape, dtype=stored[name].dtype, device=self.device))
            fits = min(len(stored["latents"]), self.capacity - self.count)
            self.latents[self.count : self.count + fits] = stored["latents"][:fits].to(self.device)
            self.tokens[self.count : self.count + fits] = stored["tokens"][:fits].to(self.device)
            self.count += fits


def shipped_autoencoder() -> Path:
    """The folder of the autoencoder that the pack comes with."""
    return FOLDER / "vae"
