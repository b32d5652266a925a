"""Stable Diffusion models for the edit, and what they make of prompts and pictures.

Nothing in this file reaches for the network, and no pickle is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import fetch_diffusers_config
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .. import mini
from ..arrays import Picture
from ..options import FINISH, INPAINTING_FINISH, FinishOptions
from ..tokens import PromptWords, prompt_words


@dataclass(frozen=True)
class EditModel:
    """The parts of a Stable Diffusion model. Raises ``ValueError`` for parts that do not fit the edit.

    `inpainting` is the U-Net of an inpainting model, which finishes edits where there is one.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler
    inpainting: UNet2DConditionModel | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.unet.config.in_channels != self.vae.config.latent_channels:
            raise ValueError(
                f"the U-Net takes {self.unet.config.in_channels} channels, the VAE makes "
                f"{self.vae.config.latent_channels}: inpainting and depth models cannot edit"
            )
        given = self.unet.config.in_channels * 2 + 1
        if self.inpainting is not None and self.inpainting.config.in_channels != given:
            raise ValueError(
                f"the U-Net of the finish takes {self.inpainting.config.in_channels} channels, not {given}: "
                "it is not of an inpainting model"
            )
        unets = [self.unet, *([] if self.inpainting is None else [self.inpainting])]
        if any(unet.config.cross_attention_dim != self.text_encoder.config.hidden_size for unet in unets):
            raise ValueError("the text encoder does not fit the U-Net: only Stable Diffusion 1 and 2 can edit")

    @property
    def finishing(self) -> FinishOptions:
        """How edits are best finished."""
        return FINISH if self.inpainting is None else INPAINTING_FINISH

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        device: torch.device = self.unet.device
        return device

    @property
    def scale(self) -> int:
        """Picture pixels in one latent pixel."""
        halvings = len(self.vae.config.block_out_channels) - 1
        return 1 << halvings

    def words(self, prompt: str) -> PromptWords:
        """The words of a prompt. Raises ``ValueError`` for one that is too long for the model."""
        longest = self.text_encoder.config.max_position_embeddings
        tokens = len(self.tokenizer(prompt).input_ids)
        if tokens > longest:
            raise ValueError(f"the edit prompt has {tokens - 2} tokens, and the model reads {longest - 2} at most")
        return prompt_words(self._ids([prompt]), self.tokenizer, prompt)

    def context(self, prompts: Sequence[str]) -> Tensor:
        """What the U-Net attends to, ``[prompts, L, D]``."""
        context: Tensor = self.text_encoder(torch.tensor(self._ids(prompts), device=self.device))[0]
        return context.to(self.unet.dtype)

    def _ids(self, prompts: Sequence[str]) -> list[list[int]]:
        longest = self.text_encoder.config.max_position_embeddings
        ids: list[list[int]] = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=longest
        ).input_ids
        return ids

    def encode(self, pictures: Sequence[Picture]) -> Tensor:
        """``[pictures, C, h, w]`` float32, the latents of pictures of one size at their working size."""
        return self._encode(self._pixels(pictures))

    def encode_without(self, pictures: Sequence[Picture], areas: Tensor) -> Tensor:
        """What an inpainting model gets besides the noisy latents, ``[pictures, 1 + C, h, w]`` float32.

        It is the area to paint, 0 or 1, and the pictures with middle grey there. `areas` ``[pictures, H, W]`` bool
        are of the size of the `pictures`.
        """
        pixels = self._pixels(pictures)
        area = interpolate(areas[:, None].to(pixels), pixels.shape[-2:], mode="bilinear").round()
        latents = self._encode(pixels * (1 - area))
        return torch.cat([interpolate(area, latents.shape[-2:], mode="bilinear").round().float(), latents], 1)

    def _pixels(self, pictures: Sequence[Picture]) -> Tensor:
        """``[pictures, 3, H, W]`` in -1 to 1, at the working size."""
        size = self.working_size(*pictures[0].shape[:2])
        whole = torch.from_numpy(np.stack([_resized(picture, size) for picture in pictures])).permute(0, 3, 1, 2)
        return whole.to(self.device, self.vae.dtype) / 127.5 - 1

    def _encode(self, pixels: Tensor) -> Tensor:
        encoded = self.vae.encode(pixels)
        latents: Tensor = encoded.latents if isinstance(self.vae, AutoencoderTiny) else encoded.latent_dist.mode()
        return latents.float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor, size: tuple[int, int]) -> list[Picture]:
        """The pictures of latents ``[N, C, h, w]``, at `size` ``(height, width)``."""
        pixels = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()
        pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return [_resized(picture, size) for picture in pixels.permute(0, 2, 3, 1).cpu().numpy()]

    def predict(self, latents: Tensor, step: Tensor, context: Tensor, without: Tensor | None = None) -> Tensor:
        """The U-Net's output ``[N, C, h, w]`` float32, whatever type it computes in.

        With `without` (`encode_without`) it is that of the inpainting model, which there must be.
        """
        unet, seen = self.unet, latents
        if without is not None:
            assert self.inpainting is not None
            unet, seen = self.inpainting, torch.cat([latents, without], 1)
        sample = unet(seen.to(self.unet.dtype), step, encoder_hidden_states=context).sample
        return sample.float()

    @property
    def unit(self) -> int:
        """What the sides of a picture must be multiples of, so that every level of the U-Net divides it evenly."""
        halvings = len(self.unet.down_blocks) - 1
        return self.scale * (1 << halvings)

    @property
    def native_pixels(self) -> int:
        """Pixels of the pictures that the model was made for: Stable Diffusion's 512 x 512, where it does not say."""
        side: int = (self.unet.config.sample_size or 64) * self.scale
        return side**2

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The nearest picture size that every level of the U-Net divides evenly."""
        unit = self.unit
        return max(1, round(height / unit)) * unit, max(1, round(width / unit)) * unit


def load_mini(device: torch.device | str = "cpu") -> EditModel:
    """The embedded model, float32."""
    text_encoder = load_rows(mini.TEXT_ENCODER, mini.FOLDER / "text_encoder")
    return EditModel(
        UNet2DConditionModel.from_pretrained(mini.FOLDER / "unet", local_files_only=True).float().to(device),
        _laid_out(AutoencoderTiny.from_pretrained(mini.FOLDER / "vae", local_files_only=True).float().to(device)),
        text_encoder.to(device),
        CLIPTokenizer.from_pretrained(mini.FOLDER / "tokenizer", local_files_only=True),
        DDIMScheduler.from_pretrained(mini.FOLDER / "scheduler", local_files_only=True),
        inpainting=_load_mini_inpainting().to(device),
    )


def _load_mini_inpainting() -> UNet2DConditionModel:
    weights = mini.inpainting_weights()
    config = UNet2DConditionModel.load_config(mini.FOLDER / "unet", local_files_only=True)
    unet = UNet2DConditionModel.from_config(config, in_channels=weights["conv_in.weight"].shape[1])
    unet.load_state_dict(weights)
    return unet.float().eval()


def load_rows(config: dict[str, Any], folder: Path) -> CLIPTextModel:
    """A CLIP text model, float32, of which `folder` holds only the rows in use (`mini.text_encoder_weights`)."""
    text_encoder = CLIPTextModel(CLIPTextConfig(**config)).eval()
    names = text_encoder.state_dict().keys()
    weights = mini.text_encoder_weights(folder)
    # transformers 5 dropped the prefix
    text_encoder.load_state_dict(
        {name if name in names else name.removeprefix("text_model."): weight for name, weight in weights.items()}
    )
    return text_encoder


def load_model(
    path: str | Path, device: torch.device | str = "cpu", *, inpainting: str | Path | None = None
) -> EditModel:
    """A Stable Diffusion 1 or 2 model, float32: a diffusers folder, or one ``.safetensors`` file.

    `inpainting` is the same of an inpainting model with the same latents, which then finishes the edits. A single
    file holds no configuration: that of its base model must be in the cache of Hugging Face. Raises
    ``ValueError`` with one line for whatever cannot be read, pickles included.
    """
    pipe = _read_pipeline(Path(path))
    finishing = None if inpainting is None else _read_pipeline(Path(inpainting))
    if finishing is not None:
        kinds = [each.scheduler.config.get("prediction_type", "epsilon") for each in (pipe, finishing)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"{path} predicts {kinds[0]} and {inpainting} {kinds[1]}: take an inpainting model of the same kind"
            )
        finishing = finishing.unet.float().to(device)
    unet, vae, text_encoder = (part.float().to(device) for part in (pipe.unet, pipe.vae, pipe.text_encoder))
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return EditModel(unet, _laid_out(vae), text_encoder, pipe.tokenizer, scheduler, inpainting=finishing)


def _read_pipeline(path: Path) -> StableDiffusionPipeline:
    if not path.exists():
        raise ValueError(f"no model at {path}")
    if not path.is_dir() and path.suffix != ".safetensors":
        raise ValueError(f"{path} is neither a diffusers folder nor a .safetensors file")
    kind = {"local_files_only": True, "safety_checker": None}
    try:
        if path.is_dir():
            return StableDiffusionPipeline.from_pretrained(path, use_safetensors=True, **kind)
        # without the configuration at hand, from_single_file would download it all the same
        base = fetch_diffusers_config(load_file(path))["pretrained_model_name_or_path"]
        return StableDiffusionPipeline.from_single_file(str(path), config=_cached(base), **kind)
    except Exception as error:  # diffusers, transformers and safetensors raise every kind there is
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a Stable Diffusion model: {reason}") from error


def check_picture(picture: Picture) -> None:
    """Raises ``ValueError`` for what is not uint8 ``[H, W, 3]``."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"a picture is uint8 [height, width, 3], not {picture.dtype} {list(picture.shape)}")


def _laid_out(vae: Any) -> Any:
    """On a CPU the convolutions of an autoencoder take half the time in this layout."""
    return vae.to(memory_format=torch.channels_last)


def _cached(base: str) -> str:
    try:
        return snapshot_download(base, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"the configuration of {base} is not in Hugging Face's cache, use a diffusers folder"
        ) from error


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    height, width = size
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
