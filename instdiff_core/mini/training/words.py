"""A text model without layers, in which every word speaks for itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import CLIP_VOCABULARY, TEXT_ENCODER

START, END = 49406, 49407
PLACES = 77
UNKNOWN = 0
"""CLIP's token "!", which no caption holds, and the row of every token that captions do not use."""


class Words(nn.Module):
    """A CLIP text model without transformer layers, over the few tokens that captions use.

    With layers, in a short training, the end token and the pads take over the meaning and the words'
    own attention stays flat. Start, end and pads are one token, and no place has a position: attention
    that no word wants goes to copies of one token, so that the start token is dark where words act,
    as in Stable Diffusion.
    """

    rows: Tensor
    token_ids: Tensor

    def __init__(self, token_ids: Iterable[int]) -> None:
        super().__init__()
        width = TEXT_ENCODER["hidden_size"]
        ids = torch.tensor(sorted({*token_ids} - {START, END, UNKNOWN}))
        rows = torch.zeros(CLIP_VOCABULARY, dtype=torch.long)
        rows[ids] = torch.arange(2, len(ids) + 2)
        rows[[START, END]] = 1
        self.register_buffer("token_ids", ids)
        self.register_buffer("rows", rows)
        self.tokens = nn.Embedding(len(ids) + 2, width, padding_idx=UNKNOWN)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Contexts ``[B, L, D]`` of token ids ``[B, L]``."""
        context: Tensor = self.norm(self.tokens(self.rows[ids]))
        return context

    def write(self, path: Path) -> None:
        """The rows in use, in half precision, as `mini.text_encoder_weights` reads them."""
        ids = torch.cat([self.token_ids, self.token_ids.new_tensor([START, END])])
        rows = {
            "token_ids": ids.to(torch.int32),
            "token_embedding": self.tokens(self.rows[ids]).half(),
            "embeddings.position_embedding.weight": torch.zeros(PLACES, self.tokens.embedding_dim).half(),
            "final_layer_norm.weight": self.norm.weight.half(),
            "final_layer_norm.bias": self.norm.bias.half(),
        }
        save_file({name: value.detach().cpu().contiguous() for name, value in rows.items()}, path)


def token_ids(tokenizer: Any, texts: Iterable[str], length: int = PLACES) -> Tensor:
    """``[texts, length]`` int64: the tokens of every text between start, end and pads. "?" is an unknown word."""
    ids = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length).input_ids
    unknown = tokenizer.convert_tokens_to_ids("?</w>")
    return torch.tensor([[UNKNOWN if token == unknown else token for token in text] for text in ids])
