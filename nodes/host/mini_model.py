"""The embedded model, on the host's own classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch

from ...instdiff_core.mini import FOLDER, TEXT_ENCODER, inpainting_weights, text_encoder_weights

PREVIEW_COLOURS = [[0.54, 0.05, 0.02], [0.09, 0.44, 0.04], [0.00, 0.08, 0.54], [-0.01, -0.01, 0.00]]
PREVIEW_BIAS = [0.12, 0.04, -0.09]


def _config(part: str) -> dict[str, Any]:
    return json.loads((FOLDER / part / "config.json").read_text(encoding="utf-8"))


def _weights(part: str) -> dict[str, torch.Tensor]:
    return comfy.utils.load_torch_file(str(FOLDER / part / "diffusion_pytorch_model.safetensors"), safe_load=True)


class MiniLatent(comfy.latent_formats.LatentFormat):
    """SD1.5's latents, with the colours that this model's channels show in previews."""

    scale_factor = 0.18215
    latent_rgb_factors = PREVIEW_COLOURS
    latent_rgb_factors_bias = PREVIEW_BIAS


class MiniModel(comfy.supported_models.SD15):
    """SD1.5's model class for the small U-Net."""

    unet_config: dict[str, Any] = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
    latent_format = MiniLatent


class MiniClip(comfy.sd1_clip.SDClipModel):
    config = TEXT_ENCODER

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=self.config,
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class MiniTextEncoder(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=MiniClip)


class MiniTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        super().__init__(embedding_directory, tokenizer_data or {})
        self.clip_l.embedding_size = TEXT_ENCODER["hidden_size"]


def load_mini_unet() -> Any:
    """The U-Net as a MODEL."""
    return _make_unet(_weights("unet"), load_mini_unet)


def load_mini_inpainting_unet() -> Any:
    """The U-Net that paints masked areas, as a MODEL."""
    return _make_unet(inpainting_weights(), load_mini_inpainting_unet)


def _make_unet(weights: dict[str, torch.Tensor], load_again: Callable[[], Any]) -> Any:
    config = _config("unet")
    channels, depth = config["block_out_channels"], config["layers_per_block"]
    attends = [int(kind.startswith("CrossAttn")) for kind in config["down_block_types"]]
    layout = {
        "image_size": 32,
        "in_channels": weights["conv_in.weight"].shape[1],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": [depth] * len(channels),
        "transformer_depth": [has for has in attends for _ in range(depth)],
        "transformer_depth_output": [has for has in attends for _ in range(depth + 1)],
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "legacy": False,
    }
    names = comfy.utils.unet_to_diffusers(layout)
    return make_model(MiniModel(layout), {names[name]: value for name, value in weights.items()}, load_again)


def load_mini_clip() -> Any:
    """The text model as a CLIP, with the host's own tokenizer."""
    return make_clip(MiniTokenizer, MiniTextEncoder, text_encoder_weights())


def make_model(
    config: comfy.supported_models_base.BASE, weights: dict[str, torch.Tensor], load_again: Callable[[], Any]
) -> Any:
    """A MODEL of the host's class for the config. The host calls `load_again` where it needs a second one."""
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=config.supported_inference_dtypes,
    )
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device))
    model = config.get_model({})
    model.load_model_weights(weights)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    loaded = patcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    loaded.cached_patcher_init = (load_again, ())
    return loaded


def make_clip(tokenizer: type, text_encoder: type, weights: dict[str, torch.Tensor]) -> Any:
    """A CLIP of a text model without layers, whose weights have transformers' names."""
    target = comfy.supported_models_base.ClipTarget(tokenizer, text_encoder)
    weights = {f"clip_l.transformer.{name}": value for name, value in weights.items()}
    parameters = sum(value.numel() for value in weights.values())
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.CLIP(target, embedding_directory=embeddings, tokenizer_data={}, parameters=parameters)
    clip.load_sd(weights, full_model=True)
    return clip


def load_mini_vae() -> Any:
    """The autoencoder as a VAE, under the names of the original TAESD."""
    weights = {"vae_scale": torch.tensor(MiniLatent.scale_factor), "vae_shift": torch.tensor(0.0)}
    for name, value in _weights("vae").items():
        half, _, number, rest = name.split(".", 3)
        # The original counts the clamp of the decoder's input as its layer 0; diffusers does not.
        weights[f"taesd_{half}.{int(number) + (half == 'decoder')}.{rest}"] = value
    return comfy.sd.VAE(sd=weights)
