"""The templates of transformers: on the file names of the host's own templates, and run on tiny random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from .conftest import is_there

ROOT = Path(__file__).resolve().parent.parent.parent.parent
TEMPLATES = {
    file.stem.partition("_")[2]: json.loads(file.read_text(encoding="utf-8"))
    for file in (ROOT / "example_workflows").glob("*.json")
}
FAMILIES = {
    "flux_dev": ("flux", "flux"),
    "sd3_5": ("sd3_of_encoders", "sd3"),
    "qwen_image": ("qwen_image", "qwen_image"),
    "z_image_turbo": ("z_image", "z_image"),
    "flux_kontext_guard": ("flux", "flux"),
}
"""By template: the tiny family and the text encoder that take the place of its files."""

LOADED = {"MODEL": 0, "CLIP": 1, "VAE": 2}
STEPS = 2


def models(template: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The files that a template and its subgraphs say they need: name, folder, address."""
    graphs = [template, *template.get("definitions", {}).get("subgraphs", [])]
    for node in (node for graph in graphs for node in graph["nodes"]):
        for model in node.get("properties", {}).get("models", []):
            yield model["name"], model["directory"], model["url"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_files_are_those_of_the_hosts_own_templates(name):
    templates = pytest.importorskip("comfyui_workflow_templates_json")
    folder = Path(templates.__file__).parent / "templates"
    read = (json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json"))
    offered = {model for each in read if "nodes" in each for model in models(each)}
    needed = set(models(TEMPLATES[name]))
    assert needed
    assert needed <= offered
    chosen = {
        value
        for node in TEMPLATES[name]["nodes"] if node["type"].endswith(("Loader", "LoaderSimple"))
        for value in node["widgets_values"] if value.endswith(".safetensors")
    }  # fmt: skip
    assert chosen == {file for file, _, _ in needed}


@pytest.fixture(scope="session")
def vae(host: Any) -> Any:
    """``vae(time)``: an autoencoder of the host's classes with random weights, for latents of 16 channels."""

    def build(time: bool) -> Any:
        import comfy.ldm.wan.vae
        import comfy.sd
        import comfy.taesd.taesd

        if time:
            sizes = {"dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
            made = comfy.ldm.wan.vae.WanVAE(**sizes, temperal_downsample=[False, True, True], dropout=0.0)
        else:
            made = comfy.taesd.taesd.TAESD(latent_channels=16)
        generator = torch.Generator().manual_seed(1)
        weights = {}
        for name, weight in made.state_dict().items():
            if weight.ndim > 1 and "gamma" not in name:
                weights[name] = torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5
            elif name.startswith("vae_"):
                weights[name] = weight
            else:
                weights[name] = torch.full_like(weight, float("gamma" in name))
        return comfy.sd.VAE(sd=weights)

    return build


def run_template(
    host: Any, template: dict[str, Any], loaded: tuple[Any, Any, Any], picture: Tensor
) -> dict[str, tuple[Any, ...]]:
    """Execute a template node by node, as the host does: what each node gives, by its title or type.

    What its loaders would load is `loaded`, and its photo is `picture`.
    """
    outputs: dict[int, tuple[Any, ...]] = {}
    named: dict[str, tuple[Any, ...]] = {}
    origins = {link: (node, slot) for link, node, slot, *_ in template["links"]}
    remaining = [node for node in template["nodes"] if node["type"] != "MarkdownNote"]
    while remaining:
        node = next(
            node for node in remaining
            if all(each["link"] is None or origins[each["link"]][0] in outputs for each in node["inputs"])
        )  # fmt: skip
        remaining.remove(node)
        inputs = dict(node.get("widgets_values_named", {})) | {
            each["name"]: outputs[origins[each["link"]][0]][origins[each["link"]][1]]
            for each in node["inputs"] if each["link"] is not None
        }  # fmt: skip
        if node["type"].endswith(("Loader", "LoaderSimple")):
            result = tuple(loaded[LOADED[output["type"]]] for output in node["outputs"])
        elif node["type"] == "LoadImage":
            result = (picture, torch.zeros(1, 64, 64))
        elif node["type"] == "FluxKontextImageScale":
            result = (picture,)  # it would be a megapixel
        elif node["type"] in ("SaveImage", "PreviewImage", "PreviewAny", "MaskPreview"):
            result = tuple(inputs[each["name"]] for each in node["inputs"] if each["link"] is not None)
        else:
            inputs.pop("control_after_generate", None)
            if "steps" in inputs and node["type"] != "InstDiffRefineMask":
                inputs["steps"] = STEPS
            if "width" in inputs:
                inputs["width"] = picture.shape[2]
            run = host.run if node["type"] in host.classes else host.extra
            result = run(node["type"], **inputs)
            result = result if isinstance(result, tuple) else (result,)
        outputs[node["id"]] = result
        named[node.get("title", node["type"])] = result
    return named


@pytest.fixture
def picture() -> Tensor:
    """A photo of 120 x 88 pixels."""
    y, x = np.mgrid[:88, :120] / 88
    pixels = np.stack([x, y, (x * 9).astype(int) % 2 * 0.5 + 0.2], -1).clip(0, 1)
    return torch.tensor(pixels, dtype=torch.float32)[None]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_template_runs_and_gives_the_photo_back_outside_the_area(
    host, joint_family, text_encoder, vae, picture, name, caplog
):
    family_name, encoder = FAMILIES[name]
    family = joint_family(family_name)
    if family.time and not is_there("z_image"):
        pytest.skip("the small autoencoder of Qwen-Image is not read by this ComfyUI")
    loaded = (family.model, text_encoder(encoder), vae(family.time))
    given = run_template(host, TEMPLATES[name], loaded, picture)
    (after,) = given["After"]
    (before,) = next((result for title, result in given.items() if title.startswith("Scale")), [picture])
    assert after.shape == before.shape == picture.shape
    assert after.isfinite().all()
    if name == "flux_kontext_guard":
        _, area, _, report = given["InstDiffEditGuard"]
        assert "picture 1" in report
    else:
        _, area = given["InstDiffInpaintFinish"]
        attention = given["InstDiffMaskedSampler"][2]
        assert attention.words.texts == ("a", "snowman")
        assert len(attention.sigmas) == STEPS
        # the denoise that it comes with is none that a user is warned of
        assert "set denoise" not in caplog.text
    assert torch.equal(after[area == 0], before[area == 0])
