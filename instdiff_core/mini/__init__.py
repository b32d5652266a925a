"""The embedded model: a small text-to-image model that knows the scenes of `scenes`.

`unet/` and `vae/` are diffusers folders, `tokenizer/` is the part of CLIP's that it needs, and
`text_encoder/` holds the few embedding rows in use, which `text_encoder_weights` expands. `inpainting/`
holds what makes the U-Net one that paints a masked area, which `inpainting_weights` adds to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent
CLIP_VOCABULARY = 49408

TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": CLIP_VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 768,
    "projection_dim": 192,
    "num_hidden_layers": 0,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
"""The text model as a transformers ``CLIPTextConfig``, and as the host's CLIP config."""


def text_encoder_weights(folder: Path | None = None) -> dict[str, Tensor]:
    """The weights of a CLIP text model, float32, under transformers' names.

    `folder` holds its ``rows.safetensors``; default: the embedded model's, which has no layers. The
    file has the embedding rows of the tokens in use, and whatever else is not zero under its own name.
    Tokens that no caption uses get a zero row: the model was trained with such words in its captions,
    and ignores them.
    """
    stored = load_file((folder or FOLDER / "text_encoder") / "rows.safetensors")
    ids, rows = stored.pop("token_ids").long(), stored.pop("token_embedding").float()
    tokens = torch.zeros(CLIP_VOCABULARY, rows.shape[1])
    tokens[ids] = rows
    weights = {f"text_model.{name}": value.float() for name, value in stored.items()}
    return weights | {"text_model.embeddings.token_embedding.weight": tokens}


def inpainting_weights() -> dict[str, Tensor]:
    """The weights of the U-Net that paints masked areas, under diffusers' names.

    It takes nine channels, as Stable Diffusion's inpainting models do: those of the noisy latents, the mask,
    and those of the picture without what is masked. The file has the first layer, and a low-rank change
    (LoRA) of the others.
    """
    weights = load_file(FOLDER / "unet" / "diffusion_pytorch_model.safetensors")
    changes = load_file(FOLDER / "inpainting" / "changes.safetensors")
    for name, change in changes.items():
        layer, _, part = name.rpartition(".")
        if part == "up":
            weight = weights[f"{layer}.weight"]
            by = change.float() @ changes[f"{layer}.down"].float()
            weights[f"{layer}.weight"] = (weight.float() + by.view_as(weight)).to(weight.dtype)
        elif part != "down":
            weights[name] = change
    return weights
