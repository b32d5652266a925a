"""The small flow model of the benchmarks, on the host's Flux class: what Load Mini Model is to the U-Net.

Imported where the host and the pack are loaded already.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.bench import float8

FOLDER = Path(__file__).parent / "bench" / "models" / "flow"
SHORTEST = 16
"""The tokens that a prompt is padded to. As in Flux, and unlike CLIP, longer prompts just have more."""


def diffusion_model_layout(config: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the host's Flux class for the content of our config.json."""
    from comfy.ldm.flux.model import FluxParams

    newer: dict[str, Any] = {"txt_ids_dims": []}
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in config.items()},
        **{name: value for name, value in newer.items() if name in FluxParams.__dataclass_fields__},
    }


def load_flow(loaders: Any, folder: Path = FOLDER) -> tuple[Any, Any]:
    """MODEL and CLIP; the VAE is the embedded one. `loaders` is the pack's ``nodes.host.mini_model``."""
    import comfy.sd1_clip
    import comfy.supported_models

    class FlowModel(comfy.supported_models.Flux):  # type: ignore[misc]
        unet_config: dict[str, Any] = {}
        latent_format = loaders.MiniLatent

    class Clip(loaders.MiniClip):  # type: ignore[misc]
        config = loaders.TEXT_ENCODER | {"max_position_embeddings": 1}

    class TextEncoder(comfy.sd1_clip.SD1ClipModel):  # type: ignore[misc]
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=Clip)

    class Tokenizer(loaders.MiniTokenizer):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.clip_l.pad_to_max_length, self.clip_l.min_length = False, SHORTEST

    layout = diffusion_model_layout(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    packed = folder / float8.FILE
    weights = (
        float8.unpack(load_file(packed))
        if packed.is_file()
        else load_file(folder / "diffusion_pytorch_model.safetensors")
    )
    model = loaders.make_model(FlowModel(layout), weights, lambda: load_flow(loaders, folder)[0])
    rows = loaders.text_encoder_weights(folder)
    # no place in the prompt has a position of its own, so that one row serves prompts of any length
    name = "text_model.embeddings.position_embedding.weight"
    rows[name] = torch.zeros_like(rows[name][:1])
    return model, loaders.make_clip(Tokenizer, TextEncoder, rows)
