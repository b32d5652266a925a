"""A host in this process, with the pack loaded as the host loads it, and the embedded model."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent.parent
PACK = "custom_nodes/odd name_x_1"
"""The host names a pack's module after its folder, which may be no Python name at all."""

WIDGETS: dict[str, Any] = {
    "seed": 3, "steps": 4, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.6,
}  # fmt: skip


EXTRAS = (
    "nodes_custom_sampler", "nodes_perpneg", "nodes_advanced_samplers", "nodes_context_windows",
    "nodes_model_downscale", "nodes_tomesd", "nodes_hypertile", "nodes_freelunch", "nodes_pag", "nodes_sag",
    "nodes_model_advanced", "nodes_differential_diffusion", "nodes_easycache", "nodes_hooks", "nodes_lt",
    "nodes_flux", "nodes_edit_model", "nodes_qwen",
)  # fmt: skip
"""Where the host's further nodes are."""


def find_class(name: str) -> Any:
    """The host's node of this id, or of this class where `EXTRAS` have it by that alone; None where it has none."""
    modules = [importlib.import_module(name) for name in ("nodes", *(f"comfy_extras.{each}" for each in EXTRAS))]
    classes = (getattr(each, "NODE_CLASS_MAPPINGS", {}).get(name) or getattr(each, name, None) for each in modules)
    return next(filter(None, classes), None)


class Host:
    """The host's nodes and ours, by id, and the parts of the embedded model."""

    def __init__(self, pack: ModuleType) -> None:
        self.pack = pack
        self.nodes = sys.modules["nodes"]
        self.hooks = sys.modules[f"{PACK}.nodes.host"]
        extension = asyncio.run(pack.comfy_entrypoint())
        self.classes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        self.model, self.clip, self.vae, self.inpainting_model = self.run("InstDiffLoadMiniModel")
        self._scenes: dict[tuple[str, str, int], tuple[Tensor, Tensor]] = {}

    def run(self, node_id: str, **inputs: Any) -> Any:
        """What our node gives back; widgets that are not named have their defaults. One output comes bare."""
        node = self.classes[node_id]
        defaults = {
            each.id: each.default for each in node.define_schema().inputs if getattr(each, "default", None) is not None
        }
        result = node.execute(**defaults | inputs).result
        return result[0] if len(result) == 1 else result

    def prompt(self, text: str) -> Any:
        return self.run("InstDiffEncodeEditPrompt", clip=self.clip, text=text)

    def other_prompt(self, text: str = "") -> Any:
        """The host's own CLIPTextEncode: no words in it."""
        return self.nodes.CLIPTextEncode().encode(self.clip, text)[0]

    def sampling(self, latent: Tensor, **changes: Any) -> dict[str, Any]:
        """The inputs that KSampler, Capture Attention and Masked Sampler share."""
        inputs = {"model": self.model, "positive": self.prompt("a frog"), "negative": self.other_prompt()}
        return inputs | {"latent_image": {"samples": latent}} | WIDGETS | changes

    def k_sampler(self, latent: Tensor, **changes: Any) -> Tensor:
        return self.nodes.KSampler().sample(**self.sampling(latent, **changes))[0]["samples"]

    def capture(self, latent: Tensor, **changes: Any) -> tuple[Tensor, Any]:
        """Capture Attention: samples and attention."""
        samples, attention = self.run("InstDiffCaptureAttention", **self.sampling(latent, **changes))
        return samples["samples"], attention

    def edit(self, latent: Tensor, **changes: Any) -> tuple[Tensor, Tensor, Any]:
        """Masked Sampler: samples, mask and attention."""
        samples, mask, attention, _ = self.run("InstDiffMaskedSampler", **self.sampling(latent, **changes))
        return samples["samples"], mask, attention

    def changed(self, samples: Tensor, latent: Tensor, attention: Any) -> Tensor:
        """Where the samples are not the source's, bit for bit: ``[B, H, W]``, after a check that this is the mask.

        The mask is refined again from the record, whose float16 moves some pixels at its edge.
        """
        changed = (samples != latent).any(1)
        refine, options = (sys.modules[f"{PACK}.instdiff_core.{name}"] for name in ("refine", "options"))
        record = getattr(attention, "record", attention)
        mask = refine.refine(record.evidence(), record.words, options.PRESETS["default"]).binary
        assert samples.isfinite().all()
        assert 0 < changed.float().mean() < 1
        if record.rest_ratio is not None:
            # a mask that was found after the sampling may hold what was kept in it
            mask = mask & changed
        assert (changed == mask).float().mean() > 0.95
        return changed

    def scene(self, thing: str, background: str = "grass", seed: int = 1) -> tuple[Tensor, Tensor]:
        """Mini Scene: the latent of a picture of 256 pixels, and its object's exact mask, bool."""
        if (key := (thing, background, seed)) not in self._scenes:
            image, truth = self.run("InstDiffMiniScene", object=thing, background=background, seed=seed)
            self._scenes[key] = self.vae.encode(image), truth > 0.5
        latent, truth = self._scenes[key]
        return latent.clone(), truth

    @staticmethod
    def has(name: str) -> bool:
        """Whether the host has this node."""
        return find_class(name) is not None

    @staticmethod
    def extra(name: str, *arguments: Any, **inputs: Any) -> Any:
        """What a node of the host gives back, old style or new. One output comes bare."""
        node = find_class(name)
        assert node is not None, f"this ComfyUI has no {name}"
        run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
        result = run(*arguments, **inputs)
        result = getattr(result, "result", result)
        return result[0] if len(result) == 1 else result

    def lora_weights(self) -> dict[str, Tensor]:
        """A LoRA for the embedded model with random weights, as a file has it."""
        generator = torch.Generator().manual_seed(1)
        weights = {}
        for name, value in self.model.model.state_dict().items():
            if name.endswith(("attn2.to_k.weight", "attn2.to_q.weight", "attn1.to_v.weight")):
                layer = name.removesuffix(".weight")
                weights[f"{layer}.lora_up.weight"] = torch.randn(value.shape[0], 4, generator=generator) * 0.2
                weights[f"{layer}.lora_down.weight"] = torch.randn(4, value.shape[1], generator=generator) * 0.2
        assert weights
        return weights

    @staticmethod
    def iou(mask: Tensor, truth: Tensor) -> float:
        """How well a MASK and a true one, bool, agree: intersection over union."""
        mask = mask > 0.5
        return float((mask & truth).sum() / (mask | truth).sum())

    def settings(self, **changes: Any) -> Any:
        return self.run("InstDiffMaskSettings", **changes)


@pytest.fixture(scope="session")
def host(host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Host:
    sys.path.insert(0, str(host_path))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import folder_paths

    import nodes

    assert Path(nodes.__file__).parent == host_path
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
    with torch.inference_mode():
        return Host(pack)


@pytest.fixture(autouse=True)
def _as_the_host_executes() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def latent() -> Tensor:
    """A latent of one picture, 128 pixels square."""
    return random_latent(1, 16, 16)


@pytest.fixture
def make_latent() -> Any:
    return random_latent


def random_latent(batch: int, height: int, width: int, channels: int = 4) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(height * width)) * 4


@pytest.fixture
def make_picture() -> Any:
    """``make_picture(batch, height, width, channels=3)``: pictures as the host has them, in 0..1."""
    return lambda batch, height, width, channels=3: torch.rand(
        batch, height, width, channels, generator=torch.Generator().manual_seed(height * width)
    )


@pytest.fixture
def progress(host: Host) -> Iterator[Callable[[Any], None]]:
    """Takes part in the host's progress; the hook is gone afterwards."""
    import comfy.utils

    yield comfy.utils.set_progress_bar_global_hook
    comfy.utils.set_progress_bar_global_hook(None)


@pytest.fixture
def control_net(host: Host) -> Any:
    """A ControlNet with random weights for the embedded model, on the host's own classes."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops

    config = dict(host.model.model.model_config.unet_config)
    del config["out_channels"]
    config.update(hint_channels=3, operations=comfy.ops.manual_cast, device="cpu", dtype=torch.float32)
    config.update(num_heads=4, num_head_channels=-1)
    model = comfy.cldm.cldm.ControlNet(**config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return comfy.controlnet.ControlNet(model, load_device=comfy.model_management.get_torch_device())


@pytest.fixture(scope="session")
def inpainting_model(host: Host) -> Any:
    """A small inpainting model with random weights, on the host's own classes."""
    import comfy.latent_formats
    import comfy.model_patcher
    import comfy.supported_models

    class SmallInpainting(comfy.supported_models.SD15):
        unet_config: dict[str, Any] = {}
        unet_extra_config = {"num_heads": 2, "num_head_channels": -1}

    config = SmallInpainting(
        {
            "image_size": 32,
            "in_channels": 9,
            "out_channels": 4,
            "model_channels": 32,
            "channel_mult": [1, 1, 1],
            "num_res_blocks": [1, 1, 1],
            "transformer_depth": [0, 0, 1],
            "transformer_depth_output": [0, 0, 0, 0, 1, 1],
            "transformer_depth_middle": 1,
            "context_dim": 192,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
            "use_temporal_attention": False,
            "legacy": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return _patcher(model)


@pytest.fixture(scope="session")
def transformer_model(host: Host) -> Any:
    """A small Flux: a model without U-Net."""
    import comfy.ldm.flux.model
    import comfy.supported_models

    config = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 8,
        "hidden_size": 32, "mlp_ratio": 1.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
        "axes_dim": [4, 6, 6], "theta": 100, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
    }  # fmt: skip
    if "txt_ids_dims" in {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}:
        config["txt_ids_dims"] = []
    flux = comfy.supported_models.Flux(config)
    flux.set_inference_dtype(torch.float32, None)
    model = flux.get_model({})
    generator = torch.Generator().manual_seed(0)
    for weight in model.diffusion_model.parameters():  # the host leaves them as the memory was
        weight.data.normal_(0, 0.2, generator=generator)
    return _patcher(model)


@pytest.fixture(scope="session")
def unreadable_model(host: Host) -> Any:
    """A small PixArt, which calls its attention without options."""
    import comfy.supported_models

    config = comfy.supported_models.PixArtAlpha(
        {
            "image_model": "pixart_alpha", "input_size": 16, "patch_size": 2, "in_channels": 4, "hidden_size": 32,
            "depth": 1, "num_heads": 2, "caption_channels": 8, "model_max_length": 8, "micro_condition": False,
        }
    )  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    return _patcher(config.get_model({}))


def _patcher(model: Any) -> Any:
    import comfy.model_management
    import comfy.model_patcher

    cpu = comfy.model_management.get_torch_device()
    assert cpu.type == "cpu"
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


@pytest.fixture(scope="session")
def layout_model(host: Host) -> Any:
    """``layout_model(name, ...)``: a model in a real layout with random weights, on the host's own classes.

    `sd1`, `sd2` and `sdxl` have the blocks of the real U-Nets and a tenth of their width; `sdxl` has
    the transformers of its small brother Segmind Vega. `context` is the width of the prompt.
    """
    import comfy.supported_models

    layouts: dict[str, Any] = {
        "sd1": (
            comfy.supported_models.SD15,
            {
                "channel_mult": [1, 2, 4, 4],
                "num_res_blocks": [2, 2, 2, 2],
                "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
                "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
                "transformer_depth_middle": 1,
                "use_linear_in_transformer": False,
                "adm_in_channels": None,
            },
        )
    }
    layouts["sd2"] = comfy.supported_models.SD20, layouts["sd1"][1] | {
        "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 32,
    }  # fmt: skip
    layouts["sdxl"] = (
        comfy.supported_models.SDXL,
        {
            "channel_mult": [1, 2, 4],
            "num_res_blocks": [2, 2, 2],
            "transformer_depth": [0, 0, 1, 1, 2, 2],
            "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
            "transformer_depth_middle": 2,
            "use_linear_in_transformer": True,
            "num_heads": -1,
            "num_head_channels": 32,
        },
    )

    def build(
        name: str, context: int = 192, pooled: int = 0, in_channels: int = 4, dtype: Any = torch.float32,
        cast: Any = None, state: dict[str, Tensor] | None = None,
    ) -> Any:  # fmt: skip
        kind, layout = layouts[name]
        common: dict[str, Any] = {
            "image_size": 32,
            "out_channels": 4,
            "model_channels": 32,
            "use_spatial_transformer": True,
        }
        common |= {"use_temporal_attention": False, "legacy": False}
        if pooled:
            common |= {"num_classes": "sequential", "adm_in_channels": pooled + 6 * 256}
        config = kind({"in_channels": in_channels, "context_dim": context} | common | layout)
        # the classes' own extras are of the real width
        config.unet_config |= {key: value for key, value in layout.items() if key.startswith("num_head")}
        config.set_inference_dtype(dtype, cast)
        model = config.get_model(state or {})
        generator = torch.Generator().manual_seed(0)
        for weight in model.diffusion_model.parameters():
            values = torch.randn(weight.shape, generator=generator)
            weight.data.copy_(values * (weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1))
        return _patcher(model)

    return build
