"""The U-Nets with their text models: the shipped one, and one that differs from it in layout, text and prediction."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from .. import TEXT_ENCODER
from .shards import LONGEST, Batch
from .words import END, PLACES, START, UNKNOWN, Words

SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
UNET: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (64, 128, 192),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_ENCODER["hidden_size"],
    "attention_head_dim": 4,
}
OTHER_UNET: dict[str, Any] = UNET | {
    "block_out_channels": (64, 96, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 128,
}
OTHER_TEXT: dict[str, Any] = TEXT_ENCODER | {
    "hidden_size": 128,
    "intermediate_size": 512,
    "projection_dim": 128,
    "num_hidden_layers": 1,
}


class Subject(nn.Module, ABC):
    """A model that is trained: what a step loses, what it predicts, and how it is stored."""

    name: str
    empty = 0.1
    """The part of the pictures that are shown without a caption, for guidance."""

    lengths: tuple[int, ...] = (LONGEST,)
    """The lengths of the captions' tokens, by turns, so that the model does not depend on the number of pads."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, at random noise levels."""

    @abstractmethod
    def sample(self, noise: Tensor, tokens: Tensor, guidance: float) -> Tensor:
        """Latents out of noise ``[N, 4, h, w]``, for tokens ``[N, LONGEST]``."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Store the weights, in half precision, as they are loaded."""


class UNetSubject(Subject):
    """A diffusers U-Net on SD's noise schedule, with min-SNR weights (Hang et al. 2023, gamma 5)."""

    kept: Tensor
    prediction = "epsilon"

    def __init__(self, config: dict[str, Any], device: torch.device) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**config)
        if device.type == "cpu":
            # torch's fused attention has a slow backward pass on a processor
            self.unet.set_attn_processor(AttnProcessor())
        self.scheduler = DDIMScheduler(**SCHEDULER, prediction_type=self.prediction)
        self.register_buffer("kept", self.scheduler.alphas_cumprod.clone(), persistent=False)

    @abstractmethod
    def context(self, tokens: Tensor) -> Tensor:
        """``[B, 77, D]`` of token ids ``[B, 77]``."""

    def loss(self, batch: Batch) -> Tensor:
        clean, noise = batch.latents, torch.randn_like(batch.latents)
        times = self.times(len(clean))
        kept = self.kept[times][:, None, None, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        ratio = (kept / (1 - kept)).flatten()
        if self.prediction == "epsilon":
            target, weights = noise, ratio.clamp(max=5) / ratio
        else:
            target, weights = kept.sqrt() * noise - (1 - kept).sqrt() * clean, ratio.clamp(max=5) / (ratio + 1)
        with torch.autocast(clean.device.type, torch.bfloat16):
            predicted = self.unet(self.shown(noisy, batch), times, self.context(_padded(batch.tokens))).sample
        return (weights * self.mean((predicted.float() - target).square(), batch)).mean()

    def times(self, count: int) -> Tensor:
        """The time steps of a batch, int64 ``[count]``."""
        return torch.randint(len(self.kept), (count,), device=self.kept.device)

    def shown(self, noisy: Tensor, batch: Batch | None) -> Tensor:
        """What the U-Net gets to see; without a batch it paints a picture of its own."""
        return noisy

    def mean(self, error: Tensor, batch: Batch) -> Tensor:
        """The mean over every picture ``[B]`` of an error ``[B, C, h, w]``."""
        return error.mean((1, 2, 3))

    @torch.no_grad()
    def sample(self, noise: Tensor, tokens: Tensor, guidance: float) -> Tensor:
        empty = torch.full_like(tokens, END)
        empty[:, 0] = START
        context = self.context(_padded(torch.cat([empty, tokens])))
        self.scheduler.set_timesteps(25)
        latents = noise
        for time in self.scheduler.timesteps:
            without, guided = self.unet(self.shown(latents.repeat(2, 1, 1, 1), None), time, context).sample.chunk(2)
            latents = self.scheduler.step(without + guidance * (guided - without), time, latents).prev_sample
        return latents

    def write(self, folder: Path) -> None:
        copy.deepcopy(self.unet).half().save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")
        (folder / "text_encoder").mkdir(exist_ok=True)


class Shipped(UNetSubject):
    """The model that the pack comes with: words that speak for themselves, noise prediction."""

    name = "shipped"

    def __init__(self, token_ids: list[int], device: torch.device) -> None:
        super().__init__(UNET, device)
        self.words = Words(token_ids)

    def context(self, tokens: Tensor) -> Tensor:
        return self.words(tokens)

    def write(self, folder: Path) -> None:
        super().write(folder)
        self.words.write(folder / "text_encoder" / "rows.safetensors")


class Velocity(UNetSubject):
    """Attention at the finest and the coarsest level, a text model with a causal layer, v-prediction."""

    name = "v_prediction"
    prediction = "v_prediction"

    def __init__(self, token_ids: list[int], device: torch.device) -> None:
        super().__init__(OTHER_UNET, device)
        self.text = CLIPTextModel(CLIPTextConfig(**OTHER_TEXT, attn_implementation="sdpa"))
        self.register_buffer("token_ids", torch.tensor(sorted({*token_ids, START, END} - {UNKNOWN})))
        with torch.no_grad():
            for embedding in (module for module in self.text.modules() if isinstance(module, nn.Embedding)):
                embedding.weight.mul_(0.02 / embedding.weight.std())

    def context(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.text(tokens).last_hidden_state
        return hidden

    def write(self, folder: Path) -> None:
        super().write(folder)
        weights = {
            name.removeprefix("text_model."): value.half().cpu().contiguous()
            for name, value in self.text.state_dict().items()
            if "position_ids" not in name
        }
        tokens = weights.pop("embeddings.token_embedding.weight")
        weights["token_ids"] = self.token_ids.to("cpu", torch.int32)
        weights["token_embedding"] = tokens[self.token_ids.cpu()]
        save_file(weights, folder / "text_encoder" / "rows.safetensors")
        (folder / "text_encoder" / "config.json").write_text(json.dumps(OTHER_TEXT, indent=2) + "\n")


def _padded(tokens: Tensor) -> Tensor:
    return functional.pad(tokens, (0, PLACES - tokens.shape[-1]), value=END)
