"""The small flow model of the benchmarks, in the layout of Flux (`flux`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .flux import Flow, FlowConfig
from .shards import Batch
from .unets import Subject
from .words import END, START, Words

NOISE_CENTRE, NOISE_SPREAD, EVEN_NOISE = 0.25, 1.0, 0.1
"""Noise levels: logit-normal, around those at which edits start and end; a tenth evenly, to sample from noise."""


class FlowSubject(Subject):
    """Rectified flow: noisy is ``(1 - sigma) * clean + sigma * noise``, and the model learns ``noise - clean``."""

    name = "flow"
    lengths = (16, 24)

    def __init__(self, token_ids: list[int]) -> None:
        super().__init__()
        self.flow = Flow(FlowConfig())
        self.words = Words(token_ids)

    def loss(self, batch: Batch) -> Tensor:
        clean, noise = batch.latents, torch.randn_like(batch.latents)
        count = len(clean)
        sigmas = torch.sigmoid(NOISE_CENTRE + NOISE_SPREAD * torch.randn(count, device=clean.device))
        even = torch.rand(count, device=clean.device) < EVEN_NOISE
        sigmas = torch.where(even, torch.rand_like(sigmas), sigmas)
        noisy = torch.lerp(clean, noise, sigmas[:, None, None, None])
        with torch.autocast(clean.device.type, torch.bfloat16):
            predicted = self.flow(noisy, sigmas, self.words(batch.tokens))
        return (predicted.float() - (noise - clean)).square().mean()

    @torch.no_grad()
    def sample(self, noise: Tensor, tokens: Tensor, guidance: float) -> Tensor:
        tokens = tokens[:, : self.lengths[0]]
        empty = torch.full_like(tokens, END)
        empty[:, 0] = START
        context = self.words(torch.cat([empty, tokens]))
        times = torch.linspace(1, 0, 26, device=noise.device)
        times = 3 * times / (1 + 2 * times)
        latents = noise
        for now, then in pairwise(times):
            doubled = latents.repeat(2, 1, 1, 1)
            without, guided = self.flow(doubled, now.expand(len(doubled)), context).chunk(2)
            latents = latents + (then - now) * (without + guidance * (guided - without))
        return latents

    def write(self, folder: Path) -> None:
        """Weights under Flux's names, the layout, and the text rows."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.half().cpu().contiguous() for name, value in self.flow.state_dict().items()}
        save_file(weights, folder / "diffusion_pytorch_model.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(FlowConfig()), indent=2) + "\n", encoding="utf-8")
        self.words.write(folder / "rows.safetensors")
