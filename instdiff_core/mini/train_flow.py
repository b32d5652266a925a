"""Train the small flow model, `flow.Flow`, on the embedded autoencoder's latents of composed scenes.

    python -m instdiff_core.mini.train_flow train --work DIR
    python -m instdiff_core.mini.train_flow sheet --work DIR
    python -m instdiff_core.mini.train_flow write --work DIR --out FOLDER

"train" goes on from the newest checkpoint in DIR, else from the weights in `--start`, a folder that
"write" made, else from nothing. The first `--small-steps` see pictures of half the size, spread over
the same area, in a quarter of the time. The rate stays constant until a fifth of the steps is left:
to end a run early, start it again with `--steps` 1.25 times those it has. "sheet" samples prompts.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from .flow import Flow, FlowConfig
from .scenes import FOLDER, background_words, object_names, with_article
from .train import SEED, Run, Words, every_word, pixels, random_caption, scene

SHARD = 250
FIRST_SHARDS = 4
STEPS_PER_SHARD = 300
"""A shard of new scenes is encoded every so many steps, beyond those that were there at the start."""

LENGTHS = (14, 22)
"""The bounds of a context's length. It differs, so that the model does not depend on the number of pads."""

NOISE_CENTRE, NOISE_SPREAD, EVEN_NOISE = 0.25, 1.0, 0.1
"""Noise levels: logit-normal, around those at which edits start and end; a tenth evenly, to sample from noise."""

WINDOW = 24
"""The side in latent pixels of the windows out of whole pictures that most steps see: they take half the time."""

SHOWN_LENGTH = 16


class Latents:
    """Encoded scenes of a picture size, in shards kept on disk; the same ones whenever they are asked for."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.latents: list[Tensor] = []
        self.shown: list[tuple[list[str], str]] = []

    def load(self, shards: int) -> None:
        """See to it that as many shards are in memory."""
        for number in range(len(self.latents), shards):
            path = self.folder / f"latents-{self.size}-{number:03}.pt"
            if not path.exists():
                self._encode(path, np.random.default_rng((SEED, self.size, number)))
            stored = torch.load(path, weights_only=True)
            self.latents.append(stored["latents"])
            self.shown += json.loads(stored["shown"])

    def pick(self, chosen: np.ndarray) -> Tensor:
        """The latents ``[N, 4, size / 8, size / 8]`` float32 of the numbered scenes."""
        return torch.stack([self.latents[number // SHARD][number % SHARD] for number in chosen]).float()

    @torch.no_grad()
    def _encode(self, path: Path, rng: np.random.Generator) -> None:
        model = autoencoder()
        latents, shown = [], []
        for _ in range(SHARD // 10):
            scenes = [scene(rng) for _ in range(10)]
            batch = pixels([_resized(picture, self.size) for picture, _, _ in scenes])
            with torch.autocast("cpu", torch.bfloat16):
                latents.append(model.encode(batch.contiguous(memory_format=torch.channels_last)).latents.half())
            shown += [(objects, background) for _, objects, background in scenes]
        torch.save({"latents": torch.cat(latents), "shown": json.dumps(shown)}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))


def autoencoder() -> AutoencoderTiny:
    model = AutoencoderTiny.from_pretrained(FOLDER / "vae", torch_dtype=torch.float32)
    return model.to(memory_format=torch.channels_last)


def starting_model(start: Path | None) -> Any:
    """The model with its text rows, from a folder that `write_flow` made, else untrained."""
    words = Words(CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"), every_word())
    words.share_sink()
    model = nn.ModuleDict({"flow": Flow(FlowConfig()), "words": words})
    if start:
        model["flow"].load_state_dict(load_file(start / "diffusion_pytorch_model.safetensors"))
        words.load_stored(load_file(start / "rows.safetensors"))
    return model


def context_of(model: Any, captions: list[str], length: int) -> Tensor:
    """``[N, length, 192]``: the words of each caption between pads."""
    words = model["words"]
    context: Tensor = words(torch.tensor([words.rows(text)[:length] for text in captions]))
    return context


def noise_levels(rng: np.random.Generator, count: int) -> Tensor:
    logits = rng.normal(NOISE_CENTRE, NOISE_SPREAD, count)
    even = rng.random(count)
    return torch.from_numpy(np.where(rng.random(count) < EVEN_NOISE, even, 1 / (1 + np.exp(-logits)))).float()


@dataclass(frozen=True)
class Course:
    """How long to train, and how much of it on small pictures and on windows; pictures a step; learning rate."""

    steps: int = 20_000
    small_steps: int = 2_500
    windows: float = 0.75
    batch: int = 32
    rate: float = 1e-3


def train(work: Path, start: Path | None, course: Course) -> None:
    """Rectified flow: noisy is ``(1 - sigma) * clean + sigma * noise``, and the model learns ``noise - clean``."""
    torch.manual_seed(SEED)
    model = starting_model(start)
    run = Run("flow", work, model, course.steps, course.rate, 0.998, constant=True)
    small, full = Latents(work, 128), Latents(work, 256)
    for rng in run:
        on_small = run.step < course.small_steps
        pictures, seen = (small, run.step) if on_small else (full, run.step - course.small_steps)
        pictures.load(FIRST_SHARDS + seen // STEPS_PER_SHARD)
        chosen = rng.integers(0, len(pictures.shown), course.batch)
        captions = [random_caption(rng, *pictures.shown[number]) for number in chosen]
        clean, origin = pictures.pick(chosen), (0, 0)
        if rng.random() < 0.5:
            clean = clean.flip(-1)
        if not on_small and rng.random() < course.windows:
            clean, origin = cut_window(rng, clean)
        noise = torch.randn_like(clean)
        sigmas = noise_levels(rng, course.batch)
        noisy = torch.lerp(clean, noise, sigmas[:, None, None, None])
        context = context_of(model, captions, int(rng.integers(*LENGTHS)))
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model["flow"](noisy, sigmas, context, origin=origin, stride=256 / pictures.size)
        run.update((predicted.float() - (noise - clean)).square().mean())


def cut_window(rng: np.random.Generator, latents: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """A `WINDOW` out of latents, and the row and column of its first patch."""
    patch = FlowConfig.patch_size
    top, left = (int(first) for first in rng.integers(0, (latents.shape[-1] - WINDOW) // patch + 1, 2))
    rows, columns = (slice(patch * first, patch * first + WINDOW) for first in (top, left))
    return latents[..., rows, columns], (top, left)


def newest(work: Path) -> tuple[Any, int]:
    """The averaged weights of the newest checkpoint, and its step."""
    model = starting_model(None)
    state = torch.load(work / "flow.pt", weights_only=True)
    model.load_state_dict(state["average"])
    return model.eval(), state["step"]


@torch.no_grad()
def sampled(model: Any, prompts: list[str], size: int, *, steps: int = 20, guidance: float = 4) -> Tensor:
    """Latents ``[N, 4, size / 8, size / 8]`` sampled from noise by Euler steps."""
    context = context_of(model, ["", *prompts], SHOWN_LENGTH)
    context = torch.cat([context[:1].expand(len(prompts), -1, -1), context[1:]])
    latents = torch.randn(len(prompts), 4, size // 8, size // 8, generator=torch.Generator().manual_seed(SEED))
    times = torch.linspace(1, 0, steps + 1)
    shift = 3 * size / 256
    times = shift * times / (1 + (shift - 1) * times)
    for now, then in pairwise(times):
        doubled = latents.repeat(2, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            velocity = model["flow"](doubled, now.expand(len(doubled)), context, stride=256 / size).float()
        without, predicted = velocity.chunk(2)
        latents = latents + (then - now) * (without + guidance * (predicted - without))
    return latents


@torch.no_grad()
def write_sheet(work: Path, size: int) -> None:
    model, step = newest(work)
    names, grounds = object_names(), background_words()
    prompts = [f"{with_article(name)} on the {grounds[n % len(grounds)]}" for n, name in enumerate(names)]
    prompts += ["a cat and a red car", "a frog and a ball on the snow", "a house", "a photo of the bricks"]
    decoded = autoencoder().decode(sampled(model, prompts, size)).sample
    pictures = decoded.add(1).mul(127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    lines = [np.concatenate(list(pictures[first : first + 6]), 1) for first in range(0, len(pictures) // 6 * 6, 6)]
    Image.fromarray(np.concatenate(lines)).save(work / f"sheet-{size}-{step:06}.png")


def write_flow(model: Any, out: Path) -> None:
    """Weights under Flux's names, the layout, and the text rows, all in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    flow = {name: value.half().contiguous() for name, value in model["flow"].state_dict().items()}
    save_file(flow, out / "diffusion_pytorch_model.safetensors")
    (out / "config.json").write_text(json.dumps(asdict(FlowConfig()), indent=2) + "\n", encoding="utf-8")
    save_file(model["words"].stored(), out / "rows.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "sheet", "write"])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, encoded scenes and sheets")
    parser.add_argument("--start", type=Path, help="folder of the weights to start from; default: none")
    parser.add_argument("--out", type=Path, help="folder for the weights; default: WORK/model")
    parser.add_argument("--steps", type=int, default=Course.steps, help="default: %(default)s")
    parser.add_argument(
        "--small-steps", type=int, default=Course.small_steps, help="of them on small pictures; default: %(default)s"
    )
    parser.add_argument(
        "--windows", type=float, default=Course.windows, help="part of the others on windows; default: %(default)s"
    )
    parser.add_argument("--batch", type=int, default=Course.batch, help="pictures in a step; default: %(default)s")
    parser.add_argument("--rate", type=float, default=Course.rate, help="learning rate; default: %(default)s")
    parser.add_argument("--size", type=int, default=256, help="pixels of a sheet's pictures; default: 256")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    if options.stage == "train":
        course = Course(options.steps, options.small_steps, options.windows, options.batch, options.rate)
        train(options.work, options.start, course)
    elif options.stage == "sheet":
        write_sheet(options.work, options.size)
    else:
        write_flow(newest(options.work)[0], options.out or options.work / "model")


if __name__ == "__main__":
    main()
