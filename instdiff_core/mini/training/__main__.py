"""Train the models.

    python -m instdiff_core.mini.training compose     --work DIR --artwork DIR --clip DIR --jobs 16 --minutes 9
    python -m instdiff_core.mini.training autoencoder --work DIR --minutes 1.5
    python -m instdiff_core.mini.training encode      --work DIR --minutes 7
    python -m instdiff_core.mini.training shipped     --work DIR --clip DIR --minutes 7
    python -m instdiff_core.mini.training v_prediction --work DIR --clip DIR --minutes 7
    python -m instdiff_core.mini.training flow        --work DIR --clip DIR --minutes 7
    python -m instdiff_core.mini.training inpainting  --work DIR --clip DIR --minutes 7

All may run side by side: what needs another's work waits for it. `--artwork` is what `training.corpus` made,
`--clip` the folder of CLIP's whole tokenizer. A training that was stopped goes on from its checkpoint. The
models, and a sheet of samples of each, are written to DIR/model.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from . import autoencoder, shards
from .flow import FlowSubject
from .inpainting import MASKED, Inpainting
from .run import Course, Run
from .sheet import write_sheet
from .unets import Shipped, Subject, Velocity
from .words import token_ids
from .world import texts

MODELS = ("shipped", "v_prediction", "flow", "inpainting")


def build(name: str, tokenizer: Any, device: torch.device) -> Subject:
    """The untrained model of a name out of `MODELS`."""
    ids = sorted({int(token) for token in token_ids(tokenizer, texts()).flatten()})
    if name == "flow":
        return FlowSubject(ids).to(device)
    if name == "inpainting":
        return Inpainting(device).to(device)
    kinds = {"shipped": Shipped, "v_prediction": Velocity}
    subject = kinds[name](ids, device).to(device)
    subject.unet.to(memory_format=torch.channels_last)
    return subject


def train(name: str, options: argparse.Namespace, device: torch.device) -> None:
    """Train a model on the latents that are there and come, and write it and its sheet."""
    tokenizer = CLIPTokenizer.from_pretrained(options.clip)
    subject = build(name, tokenizer, device)
    loss: Any = torch.compile(subject.loss, dynamic=False) if options.compile else subject.loss
    latents = shards.Latents(options.work, device, options.capacity)
    if options.compile:
        _warm_up(subject, loss, options.batch, device)
    latents.wait(options.first)
    run = Run(name, options.work, subject, Course(options.minutes, options.batch, options.rate))

    def step() -> Tensor:
        value: Tensor = loss(latents.draw(options.batch, random.choice(subject.lengths), subject.empty))
        return value

    run.train(step)
    folder = options.work / "model" / name
    folder.mkdir(parents=True, exist_ok=True)
    run.average.write(folder)
    print(f"{name}: {run.step} steps of {options.batch} out of {latents.count} pictures", flush=True)
    write_sheet(run.average, options.work / "model" / "vae", tokenizer, folder / "sheet.png")


def _warm_up(subject: Subject, loss: Any, batch: int, device: torch.device) -> None:
    """Compile before there is anything to learn."""
    for length in subject.lengths:
        tokens = torch.ones(batch, length, dtype=torch.long, device=device)
        latents, masked = (torch.randn(batch, channels, 32, 32, device=device) for channels in (4, MASKED))
        loss(shards.Batch(latents, masked, tokens)).backward()
    subject.zero_grad(set_to_none=True)
    print(f"{subject.name}: compiled", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["compose", "autoencoder", "encode", *MODELS])
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, latents, checkpoints, models")
    parser.add_argument("--minutes", type=float, required=True, help="how long to go on")
    parser.add_argument("--artwork", type=Path, default=Path(), help="folder that training.corpus wrote")
    parser.add_argument("--clip", type=Path, default=Path(), help="folder of CLIP's whole tokenizer")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compose")
    parser.add_argument("--batch", type=int, default=32, help="pictures in a step; default: 32, on a GPU 256 and more")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate; default: 1e-3")
    parser.add_argument("--first", type=int, default=1024, help="pictures that must be there before the first step")
    parser.add_argument("--capacity", type=int, default=20_000, help="pictures that are kept on the device")
    parser.add_argument("--compile", action="store_true", help="compile the model: worth a minute on a GPU")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # the gradients of the first steps are tiny, and denormals slow a processor down tenfold
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    deadline = time.time() + 60 * options.minutes
    if options.stage == "compose":
        shards.compose(options.work, options.artwork, options.clip, options.jobs, deadline)
    elif options.stage == "autoencoder":
        course = Course(options.minutes, options.batch, options.rate)
        autoencoder.train(options.work, device, course, first=options.first)
    elif options.stage == "encode":
        while not (options.work / "model" / "vae" / "config.json").exists():
            time.sleep(0.2)
        shards.encode(options.work, options.work / "model" / "vae", device, deadline)
    else:
        train(options.stage, options, device)


if __name__ == "__main__":
    main()
