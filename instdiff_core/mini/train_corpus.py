"""Train the embedded model further, on the larger world of `corpus.py`, from the weights in this folder.

    python -m instdiff_core.mini.train_corpus autoencoder --work DIR --artwork DIR
    python -m instdiff_core.mini.train_corpus unet --work DIR --artwork DIR --clip CLIP_TOKENIZER_FOLDER
    python -m instdiff_core.mini.train_corpus sheet --work DIR --clip CLIP_TOKENIZER_FOLDER

The autoencoder comes first, if at all: the U-Net learns on its latents, and a new one makes the encoded
scenes in DIR worthless. Each stage goes on from its newest checkpoint. The rate stays constant until a
fifth of the steps is left: to end a run early, start it again with `--steps` 1.25 times those it has.
What is made is written to DIR/model, not into this folder. "sheet" samples prompts from the newest checkpoint.

Start, end and pads share one embedding row, and no place in the prompt has a position (`Words.share_sink`).

On a GPU: `--batch 256 --rate 6e-4 --scenes 100000 --jobs 16`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from .corpus import Corpus, Shown, caption, caption_words
from .scenes import FOLDER, Picture
from .train import (
    EMPTY_CAPTIONS,
    LATENT_NOISE,
    SCHEDULER,
    SEED,
    UNKNOWN_WORDS,
    Run,
    Words,
    every_word,
    pixels,
    write_unet,
)

SHARD = 100
STEPS_PER_SHARD = 60
"""A shard of new scenes is encoded every so many steps, beyond those that were there at the start."""

SCENES_OF_AUTOENCODER = 10**6
"""Its series of scenes, out of the way of the shards'."""

CUT = 64
SHOWN_PROMPTS = (
    "a cat on the grass",
    "a red apple on the wood",
    "a dog and a ball on the sand",
    "a lion on the road",
    "a small rocket in the sky",
    "a blue car in the snow",
    "a frog in the leaves",
    "a crown and a cake",
    "a penguin on the gravel",
    "a butterfly at night",
    "a house on the bricks",
    "a big strawberry on the carpet",
)

Scene = tuple[Picture, Shown]


@dataclass(frozen=True)
class Place:
    """Where to train, and with what: folders, the device, pictures a step, rate, scenes at the start, processes."""

    work: Path
    artwork: Path
    device: torch.device
    batch: int
    rate: float
    scenes: int
    jobs: int

    def composed(self, series: Iterable[int], count: int) -> Iterator[Scene]:
        """`count` scenes of every numbered series, the same ones whenever they are asked for."""
        compose = partial(_composed, Corpus(self.artwork))
        seeds = [(SEED, number, scene) for number in series for scene in range(count)]
        if self.jobs == 1:
            yield from map(compose, seeds)
            return
        with ProcessPoolExecutor(self.jobs) as pool:
            yield from pool.map(compose, seeds, chunksize=16)

    def autocast(self) -> Any:
        """bfloat16 on a GPU; processors without AMX are slower with it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def autoencoder(self) -> AutoencoderTiny:
        """The newest one, float32."""
        made = self.work / "model" / "vae"
        folder = made if made.exists() else FOLDER / "vae"
        model = AutoencoderTiny.from_pretrained(folder, torch_dtype=torch.float32)
        return model.to(self.device, memory_format=torch.channels_last)


def _composed(corpus: Corpus, seed: tuple[int, ...]) -> Scene:
    picture, _, shown = corpus.scene(np.random.default_rng(seed))
    return picture, shown


class Shards:
    """Encoded scenes, `SHARD` to a file, with what they show; missing ones are made when they are asked for."""

    def __init__(self, place: Place) -> None:
        self.place, self.folder = place, place.work / "shards"
        self.latents: list[Tensor] = []
        self.shown: list[Shown] = []
        self.folder.mkdir(exist_ok=True)

    def load(self, count: int) -> None:
        """Have at least `count` shards."""
        present = len(self.latents)
        missing = [number for number in range(present, count) if not self._path(number).exists()]
        if missing:
            model, scenes = self.place.autoencoder(), self.place.composed(missing, SHARD)
            for number in missing:
                self._encode(self._path(number), list(islice(scenes, SHARD)), model)
        for number in range(present, count):
            stored = torch.load(self._path(number), weights_only=True)
            self.latents.append(stored["latents"].to(self.place.device))
            self.shown += [
                Shown(tuple((tuple(adjectives), word) for adjectives, word in objects), background)
                for objects, background in json.loads(stored["shown"])
            ]

    def pick(self, chosen: Iterable[int]) -> Tensor:
        """The latents ``[N, 4, 32, 32]`` float32 of the numbered scenes."""
        return torch.stack([self.latents[number // SHARD][number % SHARD] for number in chosen]).float()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04}.pt"

    def _encode(self, path: Path, scenes: list[Scene], model: AutoencoderTiny) -> None:
        latents = []
        for part in range(0, SHARD, 10):
            batch = pixels([picture for picture, _ in scenes[part : part + 10]]).to(self.place.device)
            with torch.no_grad():
                latents.append(model.encode(batch.contiguous(memory_format=torch.channels_last)).latents.half().cpu())
        shown = json.dumps([(shown.objects, shown.background) for _, shown in scenes])
        torch.save({"latents": torch.cat(latents), "shown": shown}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)


def train_autoencoder(place: Place, steps: int) -> None:
    """The shipped autoencoder, on 64 px cuts of `place.scenes` pictures, on which it has the loss of `train.py`."""
    model = place.autoencoder()
    run = Run("corpus-autoencoder", place.work, model, steps, place.rate, 0.998, constant=True)
    pictures = np.stack([picture for picture, _ in place.composed([SCENES_OF_AUTOENCODER], place.scenes)])
    for rng in run:
        corners = rng.integers(0, pictures.shape[1] - CUT + 1, (place.batch, 2))
        chosen = rng.integers(0, len(pictures), place.batch)
        cuts = [pictures[n, y : y + CUT, x : x + CUT] for n, (y, x) in zip(chosen, corners, strict=True)]
        target = pixels(cuts).to(place.device, memory_format=torch.channels_last)
        with place.autocast():
            latents = model.encode(target).latents
            decoded = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample.float()
        latents = latents.float()
        unit = (latents.std((0, 2, 3)) - 1).square().mean() + latents.mean((0, 2, 3)).square().mean()
        edges = sum((decoded.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (2, 3))
        run.update(functional.l1_loss(decoded, target) + edges + 0.1 * unit)
    run.average.half().save_pretrained(place.work / "model" / "vae")


def starting_model(tokenizer: Any) -> Any:
    """The shipped U-Net and text rows, the corpus's further words, and one sink."""
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet", torch_dtype=torch.float32)
    # torch's fused attention has a slow backward pass on a processor
    unet.set_attn_processor(AttnProcessor())
    words = Words(tokenizer, [*every_word(), *caption_words()])
    stored = load_file(FOLDER / "text_encoder" / "rows.safetensors")
    with torch.no_grad():
        rows = stored["token_embedding"].float()
        drawn = torch.randn(words.tokens.weight[1:].shape, generator=torch.Generator().manual_seed(SEED))
        words.tokens.weight[1:] = rows.mean(0) + rows.std() * drawn
    words.load_stored(stored)
    words.share_sink()
    return nn.ModuleDict({"unet": unet, "words": words})


def random_caption(rng: np.random.Generator, shown: Shown) -> str:
    """A caption, or none (for guidance), or one with a word in it that the model cannot know."""
    if rng.random() < EMPTY_CAPTIONS:
        return ""
    words = caption(rng, shown).split()
    if rng.random() < UNKNOWN_WORDS:
        words.insert(int(rng.integers(0, len(words) + 1)), "?")
    return " ".join(words)


def train_unet(place: Place, clip: Path, steps: int) -> None:
    """Noise prediction with SD's schedule and min-SNR weights, on scenes whose number grows with the steps."""
    shards = Shards(place)
    model = starting_model(CLIPTokenizer.from_pretrained(clip)).to(place.device)
    run = Run("corpus", place.work, model, steps, place.rate, 0.999, constant=True)
    scheduler = DDIMScheduler(**SCHEDULER)
    kept = scheduler.alphas_cumprod.to(place.device)
    weights = (5 * (1 - kept) / kept).clamp(max=1)
    for rng in run:
        shards.load(place.scenes // SHARD + run.step // STEPS_PER_SHARD)
        chosen = rng.integers(0, len(shards.shown), place.batch)
        captions = [random_caption(rng, shards.shown[number]) for number in chosen]
        rows = torch.tensor([model["words"].rows(text) for text in captions], device=place.device)
        clean = shards.pick(chosen)
        if rng.random() < 0.5:
            clean = clean.flip(-1)
        noise = torch.randn_like(clean)
        times = torch.from_numpy(rng.integers(0, 1000, len(chosen))).to(place.device)
        noisy = scheduler.add_noise(clean, noise, times)
        with place.autocast():
            predicted = model["unet"](noisy, times, model["words"](rows)).sample.float()
        run.update((weights[times] * (predicted - noise).square().mean((1, 2, 3))).mean())
    (place.work / "model").mkdir(exist_ok=True)
    write_unet(run.average, place.work / "model")


@torch.no_grad()
def write_sheet(place: Place, clip: Path) -> None:
    """Sample `SHOWN_PROMPTS` from the newest checkpoint: 25 DDIM steps, guidance 5."""
    model = starting_model(CLIPTokenizer.from_pretrained(clip)).to(place.device)
    state = torch.load(place.work / "corpus.pt", weights_only=True)
    model.load_state_dict(state["average"])
    vae = place.autoencoder()
    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(25)
    prompts = ["", *SHOWN_PROMPTS]
    context = model["words"](torch.tensor([model["words"].rows(text) for text in prompts], device=place.device))
    context = torch.cat([context[:1].expand(len(SHOWN_PROMPTS), -1, -1), context[1:]])
    start = torch.randn(len(SHOWN_PROMPTS), 4, 32, 32, generator=torch.Generator().manual_seed(SEED))
    latents = start.to(place.device)
    for time_step in scheduler.timesteps:
        without, predicted = model["unet"](latents.repeat(2, 1, 1, 1), time_step, context).sample.chunk(2)
        latents = scheduler.step(without + 5 * (predicted - without), time_step, latents).prev_sample
    decoded = torch.cat([vae.decode(each[None]).sample for each in latents])
    pictures = decoded.add(1).mul(127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    lines = [np.concatenate(list(pictures[first : first + 4]), 1) for first in range(0, len(pictures), 4)]
    Image.fromarray(np.concatenate(lines)).save(place.work / f"sheet-{state['step']:06}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["autoencoder", "unet", "sheet"])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, encoded scenes and results")
    parser.add_argument("--artwork", type=Path, default=Path(), help="folder that corpus.py wrote")
    parser.add_argument("--clip", type=Path, default=Path(), help="folder of CLIP's whole tokenizer")
    parser.add_argument("--steps", type=int, help="default: autoencoder 10000, unet 20000")
    parser.add_argument("--batch", type=int, default=16, help="pictures, or cuts of pictures, in a step; default: 16")
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate; default: 2e-4, for small batches")
    parser.add_argument("--scenes", type=int, default=400, help="scenes to begin with, in hundreds; default: 400")
    parser.add_argument(
        "--jobs", type=int, default=1, help=f"processes that compose scenes, here up to {os.cpu_count()}"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = Place(options.work, options.artwork, device, options.batch, options.rate, options.scenes, options.jobs)
    if options.stage == "autoencoder":
        train_autoencoder(place, options.steps or 10_000)
    elif options.stage == "unet":
        train_unet(place, options.clip, options.steps or 20_000)
    else:
        write_sheet(place, options.clip)


if __name__ == "__main__":
    main()
