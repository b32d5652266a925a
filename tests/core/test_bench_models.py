"""The models of the mask benchmark: what a folder may hold, and the table of the worst."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from instdiff_core import mini
from instdiff_core.options import FinishOptions, SamplingOptions
from tests.bench import float8, masks
from tests.bench.catalogue import KEPT_OUT, BenchModel, model_at, model_named, model_names
from tests.bench.judge import FIGURES
from tests.bench.methods import METHODS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A U-Net with random weights, v-prediction and a causal text model; the rest is the shipped model's."""
    torch.manual_seed(3)
    UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, block_out_channels=(8, 16), norm_num_groups=4,
        layers_per_block=1, cross_attention_dim=24, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).half().save_pretrained(tmp_path / "unet")  # fmt: skip
    layer = {"num_hidden_layers": 1, "hidden_size": 24, "intermediate_size": 32}
    text_encoder = CLIPTextModel(CLIPTextConfig(**mini.TEXT_ENCODER | layer))
    text_encoder.half().save_pretrained(tmp_path / "text_encoder")
    shipped = DDIMScheduler.from_pretrained(mini.FOLDER / "scheduler", local_files_only=True)
    DDIMScheduler.from_config(shipped.config, prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    return tmp_path


def test_a_folder_without_autoencoder_and_tokenizer_is_edited_by_every_method(folder: Path) -> None:
    model = model_at(folder)
    short = BenchModel("short", folder, SamplingOptions(2), FinishOptions(1, strength=0.25))
    results = masks.run(short, masks.own_cases(["one object"], 1, 20000), list(METHODS))
    content = masks.report(results)
    assert model.name == folder.name
    for method, entry in content["methods"].items():
        assert 0 <= entry["overall"]["iou"] <= 1, method
        assert entry["overall"]["psnr_outside"] > 5, method
    json.dumps(content, allow_nan=False)


def test_what_is_in_the_folder_is_used(folder: Path) -> None:
    from tests.bench.unets import load_unet

    model = load_unet(folder)
    assert model.scheduler.config.prediction_type == "v_prediction"
    assert model.text_encoder.config.num_hidden_layers == 1
    assert model.unet.dtype == torch.bfloat16
    (tokens,) = model.context(["a cat"])
    assert tokens.shape == (77, 24)


def test_weights_in_float8_are_a_sixteenth_off_at_most_and_norms_and_biases_not_at_all(folder: Path) -> None:
    from tests.bench.unets import load_unet

    weights = dict(UNet2DConditionModel.from_pretrained(folder / "unet").state_dict())
    unpacked = float8.unpack(float8.pack(weights))
    assert unpacked.keys() == weights.keys()
    for name, value in weights.items():
        least = value.abs().flatten(1).amax(1).max() / 2**14 if value.ndim > 1 else 0.0
        assert ((unpacked[name] - value).abs() <= (value.abs() / 16 + least if value.ndim > 1 else 0)).all(), name
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    save_file(float8.pack(weights), folder / "unet" / float8.FILE)
    loaded = load_unet(folder).unet.state_dict()
    assert all(torch.equal(loaded[name], value.bfloat16()) for name, value in unpacked.items())


def test_the_shipped_model_and_every_folder_can_be_named() -> None:
    assert {"shipped", "flow", KEPT_OUT} <= set(model_names())
    assert model_named("shipped").path is None
    for name in model_names():
        assert model_named(name).name == name
    # the noise at the start is the same share of the picture
    assert model_named("flow").sampling.strength < model_named("shipped").sampling.strength


def entry(iou: float | None, seconds: float) -> dict[str, Any]:
    figures = dict.fromkeys(FIGURES) | {"iou": iou, "seconds": seconds}
    return {"default": {"overall": figures, "groups": {"one object": figures}}}


def test_the_worst_is_the_lowest_of_a_figure_and_the_highest_of_a_cost() -> None:
    worst = masks.worst({"shipped": entry(0.9, 2.0), "flow": entry(0.7, 1.0), "other": entry(None, 1.5)})
    figures = worst["default"]["groups"]["one object"]
    assert (figures["iou"], figures["iou_model"]) == (0.7, "flow")
    assert (figures["seconds"], figures["seconds_model"]) == (2.0, "shipped")
    assert figures["edit_success"] is None
    lines = masks.worst_table(worst).splitlines()
    assert any(line.split() == ["one", "object", "flow"] for line in lines)
    assert math.isclose(worst["default"]["overall"]["iou"], 0.7)
