"""A sheet of samples, to judge a model by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from .run import SEED
from .shards import LONGEST
from .unets import Subject
from .words import token_ids

PROMPTS = (
    "a cat on the grass",
    "a dog and a ball on the sand",
    "a red apple on the wood",
    "a small rocket in the sky",
    "a frog on the snow",
    "a blue car at night",
    "a panda on the bricks",
    "a bird and a fish on the water",
    "a lion on the road",
    "a crown and a cake",
    "a penguin on the gravel",
    "a butterfly at night",
    "a house on the grass",
    "a big strawberry on the carpet",
    "a hat",
    "a pig, a banana and a tree on the grass",
)
ACROSS = 8


@torch.no_grad()
def write_sheet(subject: Subject, vae: Path, tokenizer: object, path: Path, guidance: float = 5) -> None:
    """Sample `PROMPTS` from noise that is the same every time."""
    device = next(subject.parameters()).device
    model = AutoencoderTiny.from_pretrained(vae).float().to(device)
    noise = torch.randn(len(PROMPTS), 4, 32, 32, generator=torch.Generator().manual_seed(SEED)).to(device)
    latents = subject.sample(noise, token_ids(tokenizer, PROMPTS, LONGEST).to(device), guidance)
    decoded = torch.cat([model.decode(part).sample for part in torch.split(latents, 1)])
    pictures = decoded.add(1).mul(127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    lines = [np.concatenate(list(pictures[first : first + ACROSS]), 1) for first in range(0, len(pictures), ACROSS)]
    Image.fromarray(np.concatenate(lines)).save(path)
