"""U-Nets in the benchmark: diffusers models, in this package's own pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch.nn import Module
from transformers import CLIPTextModel, CLIPTokenizer

from instdiff_core.arrays import Mask
from instdiff_core.options import DiffEditOptions, FinishOptions, SamplingOptions
from instdiff_core.pipeline import Edit, EditModel, Picture, edit_batch, load_mini, load_model
from instdiff_core.pipeline.diffedit import find_masks
from instdiff_core.pipeline.model import load_rows

from . import float8
from .common import device
from .engines import Approach
from .scenes import Scene

PARTS: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "tokenizer": CLIPTokenizer,
    "scheduler": DDIMScheduler,
}
"""diffusers' folders of a model of the benchmark beside its autoencoder, and what reads them."""


def load_unet(path: Path | None) -> EditModel:
    """A model with U-Net and VAE in bfloat16, which halves the time.

    None: the embedded one. A folder without model_index.json, or a part of one, has those parts that differ from
    the embedded model's; whatever else there is at `path` is read by `load_model`.
    """
    if path is None:
        model = load_mini(device())
    elif (path / "unet").is_dir() and not (path / "model_index.json").is_file():
        model = _load_parts(path)
    else:
        model = load_model(path, device())
    # on a processor, pictures pass the VAE fastest one by one
    model.vae.enable_slicing()
    parts = {name: part for name in ("unet", "vae", "inpainting") if (part := getattr(model, name)) is not None}
    converted = {name: part.to(torch.bfloat16, memory_format=torch.channels_last) for name, part in parts.items()}
    return replace(model, **converted)


def _load_parts(folder: Path) -> EditModel:
    """The embedded model with the parts that are in the folder in place of its own, float32."""
    parts: dict[str, Any] = {
        name: _read(kind, folder / name) for name, kind in PARTS.items() if (folder / name).is_dir()
    }
    if (text := folder / "text_encoder").is_dir():
        config = json.loads((text / "config.json").read_text(encoding="utf-8"))
        rows_only = (text / "rows.safetensors").is_file()
        parts["text_encoder"] = (load_rows(config, text) if rows_only else _read(CLIPTextModel, text)).to(device())
    if (folder / "vae").is_dir():
        tiny = '"AutoencoderTiny"' in (folder / "vae" / "config.json").read_text(encoding="utf-8")
        parts["vae"] = _read(AutoencoderTiny if tiny else AutoencoderKL, folder / "vae")
    return replace(load_mini(device()), inpainting=None, **parts)


def _read(kind: Any, folder: Path) -> Any:
    if (folder / float8.FILE).is_file():
        part = kind.from_config(kind.load_config(folder))
        part.load_state_dict(float8.unpack(load_file(folder / float8.FILE)))
    else:
        part = kind.from_pretrained(folder, local_files_only=True)
    return part.eval().float().to(device()) if isinstance(part, Module) else part


class UNetEngine:
    """An `engines.Engine` of a diffusers model."""

    def __init__(self, path: Path | None, sampling: SamplingOptions, finishing: FinishOptions) -> None:
        self.model = load_unet(path)
        self.sampling, self.finishing = sampling, finishing

    @property
    def networks(self) -> list[Module]:
        return [unet for unet in (self.model.unet, self.model.inpainting) if unet is not None]

    @torch.no_grad()
    def prepare(self, scenes: Sequence[Scene], seeds: Sequence[int]) -> UNetBatch:
        pictures = [scene.picture for scene in scenes]
        model = _EncodedModel(**vars(self.model), pictures=pictures, latents=self.model.encode(pictures))
        return UNetBatch(model, scenes, seeds, self.sampling, self.finishing)


@dataclass(frozen=True)
class _EncodedModel(EditModel):
    """A model that has the latents of some pictures already: they are the same for all methods."""

    pictures: Sequence[Picture]
    latents: torch.Tensor

    def encode(self, pictures: Sequence[Picture]) -> torch.Tensor:
        known = {id(picture): latent for picture, latent in zip(self.pictures, self.latents, strict=True)}
        if all(id(picture) in known for picture in pictures):
            return torch.stack([known[id(picture)] for picture in pictures])
        return super().encode(pictures)


@dataclass
class UNetBatch:
    """An `engines.Batch`, edited side by side."""

    model: EditModel
    scenes: Sequence[Scene]
    seeds: Sequence[int]
    sampling: SamplingOptions
    finishing: FinishOptions

    @property
    def latent_size(self) -> tuple[int, int]:
        height, width = self.model.working_size(*self.scenes[0].picture.shape[:2])
        return height // self.model.scale, width // self.model.scale

    def edit(self, approach: Approach) -> list[Edit]:
        return edit_batch(
            self.model,
            [scene.picture for scene in self.scenes],
            [scene.prompts for scene in self.scenes],
            seeds=self.seeds,
            settings=approach.settings,
            sampling=self.sampling,
            finishing=self.finishing if approach.finishes else replace(self.finishing, strength=0),
            new_session=approach.new_session,
        )

    def difference_masks(self) -> list[Mask]:
        return find_masks(
            self.model,
            [scene.picture for scene in self.scenes],
            [scene.source_prompt for scene in self.scenes],
            [scene.prompt for scene in self.scenes],
            seeds=self.seeds,
            options=DiffEditOptions(strength=self.sampling.strength),
        )
