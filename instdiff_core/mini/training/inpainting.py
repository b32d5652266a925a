"""The model that paints what an edit masked: the shipped U-Net, which also sees the area and the picture without it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...pipeline.model import load_rows
from .. import FOLDER, TEXT_ENCODER
from .shards import Batch, shipped_autoencoder
from .unets import UNET, UNetSubject

MASKED = 5
"""Channels of `Batch.masked`: as of Stable Diffusion's inpainting models, after those of the noisy latents."""

RANK = 16
KEPT = ("time_emb", "attn2.to_k", "attn2.to_v", "conv_in")
"""Layers without a low-rank change: what noise levels and words are stays, and the first one is learnt as a whole."""

SMALLEST = 0.02
"""Areas below this part of the picture count as much as one of it."""


class LowRank(nn.Module):
    """A weight with a change of low rank (LoRA, Hu et al. 2022)."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


class Inpainting(UNetSubject):
    """Learns the change of the shipped weights that `mini.inpainting_weights` adds to them."""

    name = "inpainting"
    blank: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__(UNET | {"in_channels": 4 + MASKED}, device)
        weights = load_file(FOLDER / "unet" / "diffusion_pytorch_model.safetensors")
        first = weights["conv_in.weight"]
        weights["conv_in.weight"] = torch.cat([first, first.new_zeros(len(first), MASKED, *first.shape[2:])], 1)
        self.unet.load_state_dict(weights)
        self.unet.requires_grad_(False)
        self.unet.conv_in.requires_grad_(True)
        for name, layer in list(self.unet.named_modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear) and not any(kept in name for kept in KEPT):
                parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, RANK))
        self.text = load_rows(TEXT_ENCODER, FOLDER / "text_encoder").requires_grad_(False)
        vae = AutoencoderTiny.from_pretrained(shipped_autoencoder()).float()
        with torch.no_grad():
            grey = vae.encode(torch.zeros(1, 3, 256, 256)).latents
        self.register_buffer("blank", torch.cat([torch.ones_like(grey[:, :1]), grey], 1), persistent=False)

    def context(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.text(tokens).last_hidden_state
        return hidden

    def times(self, count: int) -> Tensor:
        """More of the high noise levels, at which the model decides what to paint where."""
        return (torch.rand(count, device=self.blank.device).sqrt() * len(self.kept)).long()

    def shown(self, noisy: Tensor, batch: Batch | None) -> Tensor:
        masked = self.blank.expand(len(noisy), -1, -1, -1) if batch is None else batch.masked
        return torch.cat([noisy, masked], 1)

    def mean(self, error: Tensor, batch: Batch) -> Tensor:
        """Half of it in the area, however small that is."""
        area = batch.masked[:, :1]
        inside = (error * area).mean((1, 2, 3)) / area.mean((1, 2, 3)).clamp(min=SMALLEST)
        return (error.mean((1, 2, 3)) + inside) / 2

    def write(self, folder: Path) -> None:
        path = folder / "inpainting" / "changes.safetensors"
        path.parent.mkdir(exist_ok=True)
        changes = {name: value for name, value in self.unet.named_parameters() if value.requires_grad}
        shorter = {name.replace("parametrizations.weight.0.", ""): value for name, value in changes.items()}
        save_file({name: value.detach().half().cpu().contiguous() for name, value in shorter.items()}, path)
