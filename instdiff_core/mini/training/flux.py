"""A small flow model in the layout of Flux, in plain torch, under the names of Flux's own weights.

The host's classes add in place, which autograd refuses: this is what is trained, and what the
host's classes then load. The two agree to rounding (tests/nodes/test_flow_model.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class FlowConfig:
    """The layout, under the names of the host's parameters."""

    in_channels: int = 4
    out_channels: int = 4
    patch_size: int = 2
    context_in_dim: int = 192
    vec_in_dim: int = 1
    hidden_size: int = 240
    num_heads: int = 6
    mlp_ratio: float = 4.0
    depth: int = 2
    depth_single_blocks: int = 4
    axes_dim: tuple[int, int, int] = (8, 16, 16)
    theta: int = 100
    qkv_bias: bool = True
    guidance_embed: bool = False


class Flow(nn.Module):
    """The velocity ``noise - clean`` that the model predicts for noisy latents."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, config.patch_size**2
        self.img_in = nn.Linear(config.in_channels * patch, width)
        self.time_in = Embedder(256, width)
        # Flux takes pooled text here, which would speak for the words: it stays zero
        self.vector_in = Embedder(config.vec_in_dim, width).requires_grad_(False)
        self.txt_in = nn.Linear(config.context_in_dim, width)
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.depth_single_blocks))
        self.final_layer = LastLayer(width, config.out_channels * patch)
        for layer in (self.vector_in.in_layer, self.vector_in.out_layer, self.final_layer.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor, sigmas: Tensor, context: Tensor) -> Tensor:
        """Velocities ``[B, C, H, W]`` of latents ``[B, C, H, W]`` at noise levels ``[B]`` for contexts ``[B, L, D]``.

        H and W are multiples of the patch.
        """
        patch = self.config.patch_size
        rows, columns = latents.shape[-2] // patch, latents.shape[-1] // patch
        picture = self.img_in(functional.pixel_unshuffle(latents, patch).flatten(2).transpose(1, 2))
        text = self.txt_in(context)
        time = self.time_in(_waves(sigmas))
        rotation = _rotation(self.config, text.shape[1], rows, columns).to(latents.device)
        for block in self.double_blocks:
            picture, text = block(picture, text, time, rotation)
        sequence = torch.cat([text, picture], 1)
        for block in self.single_blocks:
            sequence = block(sequence, time, rotation)
        patches = self.final_layer(sequence[:, text.shape[1] :], time)
        return functional.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (rows, columns)), patch)


class Embedder(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(width_in, width), nn.Linear(width, width)

    def forward(self, vector: Tensor) -> Tensor:
        return self.out_layer(functional.silu(self.in_layer(vector)))


class Modulation(nn.Module):
    """Shift, scale and gate of `parts` branches, each ``[B, 1, D]``; zero at the start."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.lin = nn.Linear(width, 3 * parts * width)
        nn.init.zeros_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        return self.lin(functional.silu(time))[:, None].chunk(3 * self.parts, -1)


class Scale(nn.Module):
    """RMS norm under the name of its weight in Flux."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, values: Tensor) -> Tensor:
        return functional.rms_norm(values, self.scale.shape, self.scale.to(values.dtype), 1e-6)


class Norms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = Scale(width), Scale(width)


class Attention(nn.Module):
    """Queries, keys and values of one stream, and the projection of what it attends to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = Norms(width // heads)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _heads(self.qkv(tokens), self.heads, self.norm)


class DoubleBlock(nn.Module):
    """Picture and text attend together, each with weights of its own."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.img_mod = Modulation(width, 2)
        self.img_attn = Attention(width, config.num_heads)
        self.img_mlp = _mlp(width, inner)
        self.txt_mod = Modulation(width, 2)
        self.txt_attn = Attention(width, config.num_heads)
        self.txt_mlp = _mlp(width, inner)

    def forward(self, picture: Tensor, text: Tensor, time: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        of_picture, of_text = self.img_mod(time), self.txt_mod(time)
        streams = (
            self.txt_attn(_modulated(text, *of_text[:2])),
            self.img_attn(_modulated(picture, *of_picture[:2])),
        )
        query, key, value = (torch.cat(parts, 2) for parts in zip(*streams, strict=True))
        attended = _attend(query, key, value, rotation)
        words = text.shape[1]
        picture = picture + of_picture[2] * self.img_attn.proj(attended[:, words:])
        picture = picture + of_picture[5] * self.img_mlp(_modulated(picture, *of_picture[3:5]))
        text = text + of_text[2] * self.txt_attn.proj(attended[:, :words])
        text = text + of_text[5] * self.txt_mlp(_modulated(text, *of_text[3:5]))
        return picture, text


class SingleBlock(nn.Module):
    """Text and picture in one sequence with the same weights; attention and MLP side by side."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.heads, self.inner = config.num_heads, inner
        self.linear1, self.linear2 = nn.Linear(width, 3 * width + inner), nn.Linear(width + inner, width)
        self.norm = Norms(width // config.num_heads)
        self.modulation = Modulation(width, 1)

    def forward(self, sequence: Tensor, time: Tensor, rotation: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(time)
        joint = self.linear1(_modulated(sequence, shift, scale))
        qkv, inner = joint.split([joint.shape[-1] - self.inner, self.inner], -1)
        query, key, value = _heads(qkv, self.heads, self.norm)
        attended = _attend(query, key, value, rotation)
        inner = functional.gelu(inner, approximate="tanh")
        return sequence + gate * self.linear2(torch.cat([attended, inner], -1))


class LastLayer(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        return self.linear(_modulated(tokens, *self.adaLN_modulation(time)[:, None].chunk(2, -1)))


def _mlp(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6), 1 + scale)


def _heads(qkv: Tensor, heads: int, norm: Norms) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values ``[B, H, L, D]``; the first two normed."""
    query, key, value = rearrange(qkv, "b l (part h d) -> part b h l d", part=3, h=heads)
    return norm.query_norm(query), norm.key_norm(key), value


def _attend(query: Tensor, key: Tensor, value: Tensor, rotation: Tensor) -> Tensor:
    """``[B, L, H * D]``; as matrices on a processor, where torch's fused attention has a slow backward pass."""
    query, key = _rotated(query, rotation), _rotated(key, rotation)
    if query.is_cuda:
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def _rotated(tokens: Tensor, rotation: Tensor) -> Tensor:
    """Each pair of channels turned by its angle: `rotation` holds cosines and sines ``[2, L, D / 2]``."""
    even, odd = rearrange(tokens, "... (d pair) -> pair ... d", pair=2)
    cosine, sine = rotation.to(tokens.dtype)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def _rotation(config: FlowConfig, words: int, rows: int, columns: int) -> Tensor:
    """Cosines and sines ``[2, L, D / 2]``: text stands at 0, the patches at (0, row, column)."""
    places = torch.zeros(words + rows * columns, 3, dtype=torch.float64)
    places[words:, 1:] = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    angles = torch.cat(
        [
            places[:, axis, None] * config.theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
            for axis, size in enumerate(config.axes_dim)
        ],
        -1,
    )
    return torch.stack([angles.cos(), angles.sin()]).float()


def _waves(sigmas: Tensor) -> Tensor:
    """Cosines and sines ``[B, 256]`` of a thousand times the noise level."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32, device=sigmas.device) / 128)
    angles = 1000 * sigmas[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
