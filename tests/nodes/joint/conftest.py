"""Transformers and text encoders of the host's own classes, a few thousand random weights each, and random prompts."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from .small_tokenizers import llama, sentence_piece, tekken

ROPE = {"axes_dim": [4, 6, 6], "theta": 100}
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 8,
    "hidden_size": 32, "mlp_ratio": 1.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [], **ROPE,
}  # fmt: skip
SD3 = {
    "in_channels": 16, "input_size": None, "patch_size": 2, "depth": 2, "num_patches": 576, "adm_in_channels": 8,
    "pos_embed_max_size": 24, "pos_embed_scaling_factor": None,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 8, "out_features": 128}},
}  # fmt: skip
LUMINA = {
    "image_model": "lumina2", "in_channels": 16, "dim": 32, "n_layers": 3, "n_refiner_layers": 0, "n_heads": 2,
    "n_kv_heads": 1, "cap_feat_dim": 8, "axes_dims": [4, 6, 6], "axes_lens": [64, 64, 64], "qk_norm": True,
    "multiple_of": 32,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "flux": ("Flux", FLUX),
    "schnell": ("FluxSchnell", FLUX | {"guidance_embed": False}),
    "chroma": (
        "Chroma",
        {name: value for name, value in FLUX.items() if name != "guidance_embed"}
        | {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 32,
           "hidden_dim": 32, "n_layers": 1, "vec_in_dim": None},
    ),
    "flux2": (
        "Flux2",
        FLUX
        | {"image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "patch_size": 1,
           "qkv_bias": False, "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
           "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [2]},
    ),
    "sd3": ("SD3", SD3),
    "sd3_5_medium": ("SD3", SD3 | {"x_block_self_attn_layers": [0], "qk_norm": "rms"}),
    "sd3_of_encoders": (
        "SD3",
        SD3
        | {"adm_in_channels": 16, "context_embedder_config":
           {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}},
    ),
    "qwen_image": (
        "QwenImage",
        {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 3, "attention_head_dim": 16,
         "num_attention_heads": 2, "joint_attention_dim": 8, "axes_dims_rope": (4, 6, 6)},
    ),
    "lumina2": ("Lumina2", LUMINA),
    "lumina2_refined": ("Lumina2", LUMINA | {"n_refiner_layers": 1}),
    "z_image": (
        "ZImage",
        LUMINA | {"n_kv_heads": 2, "pad_tokens_multiple": 32, "time_scale": 1000.0},
    ),
    "z_image_omni": (
        "ZImage",
        LUMINA | {"n_kv_heads": 2, "pad_tokens_multiple": 32, "time_scale": 1000.0, "siglip_feat_dim": 8},
    ),
    "hidream": (
        "HiDream",
        {"image_model": "hidream", "in_channels": 16, "out_channels": 16, "num_layers": 2, "num_single_layers": 2,
         "patch_size": 2, "attention_head_dim": 16, "num_attention_heads": 2, "caption_channels": [8, 8],
         "text_emb_dim": 8, "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (4, 6, 6),
         "max_resolution": (64, 64), "llama_layers": [0, 1, 0, 1]},
    ),
    "wan": (
        "WAN21_T2V",
        {"image_model": "wan2.1", "model_type": "t2v", "dim": 32, "ffn_dim": 32, "freq_dim": 16, "text_dim": 8,
         "num_heads": 2, "num_layers": 3, "in_dim": 16, "out_dim": 16, "text_len": 512},
    ),
    "wan_2_2": (
        "WAN22_T2V",
        {"image_model": "wan2.1", "model_type": "t2v", "dim": 32, "ffn_dim": 32, "freq_dim": 16, "text_dim": 8,
         "num_heads": 2, "num_layers": 3, "in_dim": 48, "out_dim": 48, "text_len": 512},
    ),
}  # fmt: skip
"""The host's class and the layout of each family."""

VARIANTS = ("lumina2_refined", "sd3_of_encoders", "z_image_omni", "wan_2_2")
"""Layouts that single tests are about: one with refiners, one for the text encoder's prompts, one with references, one
with latents of another size."""

TEXT, LLAMA = 13, 6
"""Token positions of the prompts here; HiDream has Llama's too."""


@dataclasses.dataclass
class Family:
    """A family's model, and what a sampling of it takes."""

    name: str
    model: Any
    host: Any

    @property
    def time(self) -> bool:
        """Whether its latents have one."""
        return self.model.get_model_object("latent_format").latent_dimensions == 3

    def latent(self, height: int, width: int, batch: int = 1) -> Tensor:
        channels = self.model.get_model_object("latent_format").latent_channels
        latent = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(height + width))
        return latent[:, :, None] if self.time else latent

    def conditioning(self, seed: int, length: int = TEXT, **options: Any) -> Any:
        """A prompt of `length` random vectors."""
        generator = torch.Generator().manual_seed(seed)
        context = torch.randn(1, length, 8, generator=generator)
        options |= {"pooled_output": torch.randn(1, 8, generator=generator)}
        if self.name == "flux":
            options["guidance"] = 3.5
        if self.name.startswith(("lumina2", "z_image")):
            options["attention_mask"] = torch.ones(1, length, dtype=torch.long)
        if self.name == "hidream":
            options["conditioning_llama3"] = torch.randn(1, 2, LLAMA, 8, generator=generator)
        return [[context, options]]

    def positive(self, length: int = TEXT, **options: Any) -> Any:
        """An edit prompt, "a green frog", whose last word has two tokens, and with HiDream one of Llama's too."""
        tokens = sys.modules[self.host.hooks.__name__.removesuffix("nodes.host") + "instdiff_core.tokens"]
        llama = (LLAMA, (length + 2,)) if self.name == "hidream" else (0, ())
        words = (
            tokens.Word("a", (2,)), tokens.Word("green", (3,)), tokens.Word("frog", (5, 6, *llama[1])),
        )  # fmt: skip
        prompt = tokens.PromptWords(words, (), (7,), length + llama[0], self.name == "flux2")
        context, empty = self.conditioning(3, length)[0]
        edit = self.host.hooks.EditPrompt(prompt, (context, empty))
        return self.conditioning(1, length, instdiff_prompt=edit, **options)

    def inputs(self, **changes: Any) -> dict[str, Any]:
        """The inputs of a sampling node."""
        prompts = {"positive": self.positive(), "negative": self.conditioning(2)}
        return {"model": self.model, **prompts, "steps": 2, **changes}


def is_there(name: str) -> bool:
    """Whether the host has this family."""
    import comfy.supported_models

    return hasattr(comfy.supported_models, CONFIGS[name][0])


@pytest.fixture(scope="session")
def joint_family(host: Any) -> Any:
    """``joint_family(name, dtype, cast)``: a family of `CONFIGS`; skips the test where the host has none."""

    @functools.cache
    def build(name: str, dtype: torch.dtype = torch.float32, cast: torch.dtype | None = None) -> Family:
        import comfy.ldm.chroma.model
        import comfy.ldm.flux.model
        import comfy.model_management
        import comfy.model_patcher
        import comfy.supported_models

        kind, config = CONFIGS[name]
        if not is_there(name):
            pytest.skip(f"this ComfyUI has no {kind}")
        parameters = {
            "Flux": comfy.ldm.flux.model.FluxParams, "FluxSchnell": comfy.ldm.flux.model.FluxParams,
            "Chroma": comfy.ldm.chroma.model.ChromaParams,
        }.get(kind)  # fmt: skip
        if parameters is not None:  # older hosts have fewer
            known = {field.name for field in dataclasses.fields(parameters)} | {"image_model"}
            config = {key: value for key, value in config.items() if key in known}
        described = getattr(comfy.supported_models, kind)(dict(config))
        described.set_inference_dtype(dtype, cast)
        model = described.get_model({})
        generator = torch.Generator().manual_seed(0)
        for key, weight in model.diffusion_model.named_parameters():
            values = torch.randn(weight.shape, generator=generator)
            scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
            weight.data.copy_(values * scale + (1 if "norm" in key and weight.ndim == 1 else 0))
        for values in model.diffusion_model.buffers():
            if values.is_floating_point():  # SD3's positions
                values.copy_(torch.randn(values.shape, generator=generator))
        cpu = comfy.model_management.get_torch_device()
        return Family(name, comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu), host)

    return build


SAME_NETWORK = {"schnell": pytest.param("schnell", marks=pytest.mark.one_host)}
"""Families whose network is another one's: Flux, without guidance."""


@pytest.fixture(params=[SAME_NETWORK.get(name, name) for name in CONFIGS if name not in VARIANTS])
def family(request: pytest.FixtureRequest, joint_family: Any) -> Family:
    """Each family that the host has."""
    return joint_family(request.param)


T5 = {"t5xxl_model_config": {"d_ff": 8, "d_kv": 4, "d_model": 8, "num_heads": 2, "num_layers": 1}}
CLIP_L = {
    "clip_l_model_config": {
        "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "projection_dim": 8,
    }
}  # fmt: skip
CLIP_G = {"clip_g_model_config": CLIP_L["clip_l_model_config"]}
WIDE_T5 = {"t5xxl_model_config": T5["t5xxl_model_config"] | {"d_model": 4096}}
LLM = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
ENCODERS: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any]]] = {
    "flux": ("flux", "FluxTokenizer", "flux_clip", {}, T5 | CLIP_L),
    "chroma": ("pixart_t5", "PixArtTokenizer", "pixart_te", {}, T5),
    "sd3": ("sd3_clip", "SD3Tokenizer", "sd3_clip", {}, WIDE_T5 | CLIP_L | CLIP_G),
    "sd3_without_t5": ("sd3_clip", "SD3Tokenizer", "sd3_clip", {"t5": False}, CLIP_L | CLIP_G),
    "sd3_t5_alone": ("sd3_clip", "SD3Tokenizer", "sd3_clip", {"clip_l": False, "clip_g": False}, WIDE_T5),
    "qwen_image": (
        "qwen_image", "QwenImageTokenizer", "te", {}, {"qwen25_7b_model_config": LLM | {"num_hidden_layers": 1}},
    ),
    "z_image": ("z_image", "ZImageTokenizer", "te", {}, {"qwen3_4b_model_config": LLM | {"num_hidden_layers": 3}}),
    "klein": ("flux", "KleinTokenizer", "klein_te", {}, {"qwen3_4b_model_config": LLM | {"num_hidden_layers": 28}}),
    "flux2": (
        "flux", "Flux2Tokenizer", "flux2_te", {},
        {"mistral3_24b_model_config": LLM | {"num_hidden_layers": 31}},
    ),
    "lumina2": (
        "lumina2", "LuminaTokenizer", "te", {},
        {"gemma2_2b_model_config": LLM | {"num_hidden_layers": 3}},
    ),
    "wan": (
        "wan", "WanT5Tokenizer", "te", {},
        {"umt5xxl_model_config": T5["t5xxl_model_config"]},
    ),
    "hidream": (
        "hidream", "HiDreamTokenizer", "hidream_clip", {},
        T5 | CLIP_L | CLIP_G | {"llama_model_config": LLM | {"num_hidden_layers": 2}},
    ),
}  # fmt: skip
"""Module, tokenizer, what makes the encoder's class and with what, and the sizes of its models."""

TOKENIZERS: dict[str, Callable[[], dict[str, Any]]] = {
    "flux2": tekken,
    "lumina2": partial(sentence_piece, prefix=False, end=1, begin=2, unknown=3),
    "wan": partial(sentence_piece, prefix=True, end=1, begin=-1, unknown=2),
}
"""Those that come with the encoder's file."""

LARGE = 10**7
"""The rows of larger tensors, the embeddings of T5 at its full width, share their memory."""


@pytest.fixture(scope="session")
def text_encoder(host: Any, host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``text_encoder(name)``: a CLIP of `ENCODERS`; skips the test where the host has none."""

    @functools.cache
    def build(name: str) -> Any:
        import comfy.sd
        import comfy.supported_models_base

        module_name, tokenizer, factory, arguments, options = ENCODERS[name]
        try:
            module = importlib.import_module(f"comfy.text_encoders.{module_name}")
            encoder = getattr(module, factory)(**arguments)
        except (ImportError, AttributeError):
            pytest.skip(f"this ComfyUI has no {factory} in {module_name}")

        class Small(encoder):  # type: ignore[misc, valid-type]
            def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
                copies = {key: dict(value) for key, value in options.items()}
                super().__init__(device=device, dtype=dtype, model_options=copies | (model_options or {}))

        target = comfy.supported_models_base.ClipTarget(getattr(module, tokenizer), Small)
        data = TOKENIZERS[name]() if name in TOKENIZERS else {}
        with llama(host_path, tmp_path_factory.mktemp("llama")) if name == "hidream" else nullcontext():
            clip = comfy.sd.CLIP(target, embedding_directory=None, tokenizer_data=data, parameters=1)
        generator = torch.Generator().manual_seed(0)
        for key, weight in clip.cond_stage_model.named_parameters():
            if "visual" in key:
                continue
            if weight.numel() < LARGE:
                weight.data.normal_(0, 0.2, generator=generator)
            else:  # not as the host leaves them, which is as the memory was
                rows, width = weight.shape
                weight.data = torch.randn(rows + width - 1, generator=generator).mul(0.2).to(weight).unfold(0, width, 1)
        return clip

    return build
