"""Reads the attention of a diffusers U-Net while it predicts, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..attention import downscale_to_read, split_heads

Kind = Literal["attn1", "attn2"]
"""Self-attention and cross-attention, by their names in the U-Net."""

Observe = Callable[[Kind, Tensor, Tensor], None]
"""Takes a layer's kind, queries ``[B, heads, h*w, d]`` and keys ``[B, heads, L, d]``, float32."""


class AttentionReader:
    """Reads the layers of a U-Net whose grid, for a latent of `latent_size`, is nearest to 16x16.

    All cross-attention, and the first self-attention of a block. Raises ``ValueError`` for a U-Net
    without cross-attention outside its middle.
    """

    def __init__(self, unet: UNet2DConditionModel, latent_size: tuple[int, int]) -> None:
        by_downscale: dict[int, list[tuple[Kind, Attention]]] = {}
        for level, blocks in enumerate(zip(unet.down_blocks, reversed(unet.up_blocks), strict=True)):
            layers: list[tuple[Kind, Attention]] = []
            for block in blocks:
                for name, module in block.named_modules():
                    if name.endswith("attn2"):
                        layers.append(("attn2", module))
                    elif name.endswith("transformer_blocks.0.attn1"):
                        layers.append(("attn1", module))
            if layers:
                by_downscale[2**level] = layers
        self._downscale = downscale_to_read(latent_size, by_downscale)
        self._layers = by_downscale[self._downscale]

    def grid(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """The grid of these layers ``(height, width)`` for a latent of any size."""
        return latent_size[0] // self._downscale, latent_size[1] // self._downscale

    @contextmanager
    def reading(self, observe: Observe, prompts: int) -> Iterator[None]:
        """While this context is open, every call of the U-Net shows `observe` what of its batch is not the first part.

        A batch has 1 + `prompts` parts of one size, the first of them without prompt.
        """
        previous = [layer.processor for _, layer in self._layers]
        try:
            for (kind, layer), processor in zip(self._layers, previous, strict=True):
                layer.set_processor(_Processor(processor, partial(observe, kind), prompts))
            yield
        finally:
            for (_, layer), processor in zip(self._layers, previous, strict=True):
                layer.set_processor(processor)


class _Processor:
    """An attention processor that shows the conditional entries' queries and keys, and attends as the previous one."""

    def __init__(self, previous: Any, observe: Callable[[Tensor, Tensor], None], prompts: int) -> None:
        self.previous, self.observe, self.prompts = previous, observe, prompts

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        unconditional = len(hidden_states) // (1 + self.prompts)
        conditional, attended = hidden_states[unconditional:], context[unconditional:]
        q, k = (split_heads(tokens, attn.heads).float() for tokens in (attn.to_q(conditional), attn.to_k(attended)))
        self.observe(q, k)
        output: Tensor = self.previous(attn, hidden_states, encoder_hidden_states, attention_mask)
        return output
