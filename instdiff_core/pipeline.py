"""The edit for diffusers models: sample with instant masks, then finish.

The method is in the rest of the package; here is a DDIM loop around it, for scripts and for the
demo. Nothing in this file reaches for the network, and no pickle is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import fetch_diffusers_config
from diffusers.models.attention_processor import Attention
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import mini
from .attention import AttentionRecord, Recorder, downscale_to_read, word_maps
from .blend import feathered, keep_original, paste
from .refine import PRESETS, InstantMask, MaskSettings, WordRoles, at_size, refine, target_numbers
from .report import facts
from .tokens import PromptWords, prompt_words

Picture = NDArray[np.uint8]
"""``[H, W, 3]``, sRGB, 0 to 255."""

Progress = Callable[[int, int], None]
"""Called after every step with the number of steps done and the number of all."""


@dataclass(frozen=True)
class EditModel:
    """The parts of a Stable Diffusion model. Raises ``ValueError`` for parts that do not fit the edit."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    def __post_init__(self) -> None:
        if self.unet.config.in_channels != self.vae.config.latent_channels:
            raise ValueError(
                f"the U-Net takes {self.unet.config.in_channels} channels, the VAE makes "
                f"{self.vae.config.latent_channels}: inpainting and depth models cannot edit"
            )
        if self.unet.config.cross_attention_dim != self.text_encoder.config.hidden_size:
            raise ValueError("the text encoder does not fit the U-Net: only Stable Diffusion 1 and 2 can edit")

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

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The nearest picture size that every level of the U-Net divides evenly."""
        unit = self.scale * 2 ** (len(self.unet.down_blocks) - 1)
        return max(1, round(height / unit)) * unit, max(1, round(width / unit)) * unit


def load_mini(device: torch.device | str = "cpu") -> EditModel:
    """The embedded model, float32."""
    text_encoder = CLIPTextModel(CLIPTextConfig(**mini.TEXT_ENCODER)).eval()
    names = text_encoder.state_dict().keys()
    weights = mini.text_encoder_weights()
    # transformers 5 dropped the prefix
    text_encoder.load_state_dict(
        {name if name in names else name.removeprefix("text_model."): weight for name, weight in weights.items()}
    )
    return EditModel(
        UNet2DConditionModel.from_pretrained(mini.FOLDER / "unet", local_files_only=True).float().to(device),
        AutoencoderTiny.from_pretrained(mini.FOLDER / "vae", local_files_only=True).float().to(device),
        text_encoder.to(device),
        CLIPTokenizer.from_pretrained(mini.FOLDER / "tokenizer", local_files_only=True),
        DDIMScheduler.from_pretrained(mini.FOLDER / "scheduler", local_files_only=True),
    )


def load_model(path: str | Path, device: torch.device | str = "cpu") -> EditModel:
    """A Stable Diffusion 1 or 2 model, float32: a diffusers folder, or one ``.safetensors`` file.

    A single file holds no configuration: that of its base model must be in the cache of Hugging
    Face. Raises ``ValueError`` with one line for whatever cannot be read, pickles included.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no model at {path}")
    if not path.is_dir() and path.suffix != ".safetensors":
        raise ValueError(f"{path} is neither a diffusers folder nor a .safetensors file")
    kind = {"local_files_only": True, "safety_checker": None}
    try:
        if path.is_dir():
            pipe = StableDiffusionPipeline.from_pretrained(path, use_safetensors=True, **kind)
        else:
            # without the configuration at hand, from_single_file would download it all the same
            base = fetch_diffusers_config(load_file(path))["pretrained_model_name_or_path"]
            pipe = StableDiffusionPipeline.from_single_file(str(path), config=_cached(base), **kind)
    except Exception as error:  # diffusers, transformers and safetensors raise every kind there is
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a Stable Diffusion model: {reason}") from error
    unet, vae, text_encoder = (part.float().to(device) for part in (pipe.unet, pipe.vae, pipe.text_encoder))
    return EditModel(unet, vae, text_encoder, pipe.tokenizer, DDIMScheduler.from_config(pipe.scheduler.config))


def _cached(base: str) -> str:
    try:
        return snapshot_download(base, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"the configuration of {base} is not in Hugging Face's cache, use a diffusers folder"
        ) from error


@dataclass(frozen=True)
class Edit:
    """An edited picture and how it came about.

    `picture` has the size of the input. `mask` is the instant mask of the last step at that size,
    a batch of one, on the CPU. `latent` ``[1, C, h, w]`` is the sample before the finish: `finish`
    takes it again with other settings. `timings` are seconds: encode, sample, finish.
    """

    picture: Picture
    mask: InstantMask
    latent: Tensor
    record: AttentionRecord
    timings: dict[str, float]

    @property
    def report(self) -> dict[str, Any]:
        """The facts of the mask (`report.facts`) and the timings, for JSON."""
        return {**facts(self.mask, self.record.words), "timings": dict(self.timings)}


@torch.no_grad()
def edit(
    model: EditModel,
    picture: Picture,
    prompt: str,
    *,
    settings: MaskSettings = PRESETS["default"],
    strength: float = 0.5,
    steps: int = 50,
    cfg: float = 7.5,
    seed: int = 0,
    draws: int = 1,
    finish_strength: float = 0.7,
    progress: Progress | None = None,
) -> Edit:
    """Make `picture` show what the edit prompt says, and change it only where that is (algorithm.md).

    `strength` (above 0, to 1) is the noise level to start from, out of a schedule of `steps`;
    `cfg` the guidance; `draws` how many noise draws of the picture share one mask, of which the
    first becomes the result; `finish_strength` (0 to 1) that of `finish`. A picture of any
    size is sampled at the nearest size that fits the U-Net. The same seed gives the same result.

    Raises ``ValueError`` for a picture that is not uint8 ``[H, W, 3]``, a value out of range, a
    prompt without words or too long for the model, and a U-Net that cannot be read.
    """
    _check_picture(picture)
    _check_range("strength", strength, 0, 1, open_low=True)
    _check_range("finish strength", finish_strength, 0, 1)
    _check_range("cfg", cfg, 0, 100)
    _check_range("draws", draws, 1, 64)
    words = _words_of(model, prompt)
    target_numbers(words, settings.target)
    scheduler = _scheduler(model, steps)
    if draws > 1:
        settings = replace(settings, share=True)

    started = _now(model.device)
    original = _encode(model, picture)
    context = _context(model, prompt)
    size = (original.shape[-2], original.shape[-1])
    downscale, layers = _layers_to_read(model.unet, size)
    grid = (size[0] // downscale, size[1] // downscale)
    matrix = words.matrix(context.shape[1], model.device)
    encoded = _now(model.device)

    recorder = Recorder()
    mask: InstantMask | None = None

    def take(q: Tensor, k: Tensor, heads: int) -> None:
        recorder.add(word_maps(q, k, heads, matrix, grid))

    def mask_of(step: Tensor) -> Tensor:
        nonlocal mask
        kept = scheduler.alphas_cumprod[step]
        recorder.close_step(((1 - kept) / kept).sqrt())
        mask = refine(recorder.mean(), words, settings, size, mask.roles if mask else None)
        return mask.binary

    sampled_steps, finish_steps = _count(steps, strength), _count(steps, finish_strength)
    report = progress or (lambda done, total: None)
    total = sampled_steps + finish_steps
    original = original.expand(draws, -1, -1, -1)
    with _reading(layers, take):
        latent = _denoise(
            model, scheduler, original, original, _noise(original, seed), sampled_steps, context, cfg, mask_of,
            lambda done, _: report(done, total),
        )[:1]  # fmt: skip
    assert mask is not None
    mask = at_size(_first(mask), picture.shape[:2], settings)
    record = recorder.freeze(words, size, model.scale)
    sampled = _now(model.device)

    finished = finish(
        model, picture, mask.binary[0].numpy(), latent, prompt,
        strength=finish_strength, steps=steps, cfg=cfg, seed=seed,
        progress=lambda done, _: report(sampled_steps + done, total),
    )  # fmt: skip
    timings = {"encode": encoded - started, "sample": sampled - encoded, "finish": _now(model.device) - sampled}
    return Edit(finished, mask, latent, record, timings)


@torch.no_grad()
def finish(
    model: EditModel,
    picture: Picture,
    mask: NDArray[np.bool_],
    latent: Tensor,
    prompt: str,
    *,
    strength: float = 0.7,
    steps: int = 50,
    cfg: float = 7.5,
    seed: int = 0,
    grow: int | None = None,
    feather: int | None = None,
    progress: Progress | None = None,
) -> Picture:
    """Regenerate the masked area so that it agrees with its surroundings, and put it into `picture`.

    `mask` ``[H, W]`` has the size of the picture, `latent` ``[1, C, h, w]`` is an edit's. It is
    noised to `strength` (0 leaves it as it is, 1 is as good as pure noise) and denoised with the
    noised original outside the mask, which is grown by `grow` pixels first (default: 1/32 of the
    picture's shorter side) and gets an edge `feather` pixels soft (default: 1/64), within the grown
    mask. Outside the grown mask the result is `picture` bit for bit.

    Raises ``ValueError`` for a picture that is not uint8 ``[H, W, 3]``, a mask or a latent of
    another size, and a value out of range.
    """
    _check_picture(picture)
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"the mask is {mask.shape}, the picture {picture.shape[:2]}")
    size = model.working_size(*picture.shape[:2])
    if tuple(latent.shape[-2:]) != tuple(side // model.scale for side in size):
        raise ValueError(f"the latent {tuple(latent.shape)} is not of a picture of {picture.shape[:2]}")
    _check_range("finish strength", strength, 0, 1)
    _check_range("cfg", cfg, 0, 100)
    side = min(mask.shape)
    grow, feather = side // 32 if grow is None else grow, side // 64 if feather is None else feather
    _check_range("grow", grow, 0, side)
    _check_range("feather", feather, 0, side)
    area, alpha = feathered(torch.tensor(mask, dtype=torch.float32)[None], grow, feather)
    if count := _count(steps, strength):
        original = _encode(model, picture)
        changed = functional.adaptive_max_pool2d(area.float(), latent.shape[-2:]).to(model.device) > 0
        latent = _denoise(
            model, _scheduler(model, steps), latent, original, _noise(original, seed), count,
            _context(model, prompt), cfg, lambda _: changed, progress or (lambda done, total: None),
        )  # fmt: skip
    edited = _decode(model, latent, picture.shape[:2])
    before, after = (torch.tensor(part, dtype=torch.float32)[None] for part in (picture, edited))
    pasted: Picture = paste(before, after, alpha)[0].round().to(torch.uint8).numpy()
    return pasted


class _Reader:
    """A cross-attention processor that shows the conditional rows' queries and keys, and changes nothing."""

    def __init__(self, previous: Any, take: Callable[[Tensor, Tensor, int], None]) -> None:
        self.previous, self.take = previous, take

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        _, seen = hidden_states.chunk(2)
        _, prompt = encoder_hidden_states.chunk(2)
        self.take(attn.to_q(seen), attn.to_k(prompt), attn.heads)
        output: Tensor = self.previous(attn, hidden_states, encoder_hidden_states, attention_mask)
        return output


@contextmanager
def _reading(layers: list[Attention], take: Callable[[Tensor, Tensor, int], None]) -> Iterator[None]:
    previous = [layer.processor for layer in layers]
    try:
        for layer, processor in zip(layers, previous, strict=True):
            layer.set_processor(_Reader(processor, take))
        yield
    finally:
        for layer, processor in zip(layers, previous, strict=True):
            layer.set_processor(processor)


def _layers_to_read(unet: UNet2DConditionModel, size: tuple[int, int]) -> tuple[int, list[Attention]]:
    """The downscaling to read for a latent of `size`, and its cross-attention layers."""
    layers: dict[int, list[Attention]] = {}
    for level, blocks in enumerate(zip(unet.down_blocks, reversed(unet.up_blocks), strict=True)):
        modules = [module for block in blocks for name, module in block.named_modules() if name.endswith("attn2")]
        if modules:
            layers[2**level] = modules
    downscale = downscale_to_read(size, layers)
    return downscale, layers[downscale]


def _denoise(
    model: EditModel,
    scheduler: DDIMScheduler,
    start: Tensor,
    original: Tensor,
    noise: Tensor,
    count: int,
    context: Tensor,
    cfg: float,
    mask_of: Callable[[Tensor], Tensor],
    progress: Progress,
) -> Tensor:
    """Noise the clean `start` and denoise it in the last `count` steps, with the original outside the mask.

    Latents ``[B, C, h, w]``; `context` ``[2, L, D]`` is empty prompt, then edit prompt; `mask_of`
    gives the mask ``[B, h, w]`` after the model call at a timestep.
    """
    times = scheduler.timesteps[-count:]
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    context = context.repeat_interleave(len(start), 0)
    latent: Tensor = scheduler.add_noise(start, noise, times[:1])
    for done, step in enumerate(times, 1):
        predicted = model.unet(latent.repeat(2, 1, 1, 1), step, encoder_hidden_states=context).sample
        without, wanted = predicted.chunk(2)
        latent = scheduler.step(without + cfg * (wanted - without), step, latent).prev_sample
        kept = original
        if done < count:
            kept = scheduler.add_noise(original, noise, (step - stride).clamp(min=0)[None])
        latent = keep_original(mask_of(step), latent, kept)
        progress(done, count)
    return latent


def _scheduler(model: EditModel, steps: int) -> DDIMScheduler:
    # not every configuration says that latents are never clipped, and DDIM's default is to clip
    scheduler = DDIMScheduler.from_config(model.scheduler.config, clip_sample=False)
    _check_range("steps", steps, 1, scheduler.config.num_train_timesteps // 2)
    scheduler.set_timesteps(steps)
    return scheduler


def _count(steps: int, strength: float) -> int:
    """How many of the steps a strength takes: none for 0, else at least one."""
    return max(1, round(steps * strength)) if strength else 0


def _words_of(model: EditModel, prompt: str) -> PromptWords:
    longest = model.text_encoder.config.max_position_embeddings
    tokens = len(model.tokenizer(prompt).input_ids)
    if tokens > longest:
        raise ValueError(f"the edit prompt has {tokens - 2} tokens, and the model reads {longest - 2} at most")
    return prompt_words([_ids(model, prompt)], model.tokenizer)


def _ids(model: EditModel, prompt: str) -> list[int]:
    longest = model.text_encoder.config.max_position_embeddings
    ids: list[int] = model.tokenizer(prompt, padding="max_length", truncation=True, max_length=longest).input_ids
    return ids


def _context(model: EditModel, prompt: str) -> Tensor:
    """``[2, L, D]``: the empty prompt and the edit prompt."""
    ids = torch.tensor([_ids(model, text) for text in ("", prompt)], device=model.device)
    context: Tensor = model.text_encoder(ids)[0]
    return context


def _encode(model: EditModel, picture: Picture) -> Tensor:
    """``[1, C, h, w]``, the latent of the picture at its working size."""
    height, width = model.working_size(*picture.shape[:2])
    resized = torch.from_numpy(_resized(picture, (height, width))).permute(2, 0, 1)[None]
    pixels = resized.to(model.device, model.vae.dtype) / 127.5 - 1
    encoded = model.vae.encode(pixels)
    latent: Tensor = encoded.latents if isinstance(model.vae, AutoencoderTiny) else encoded.latent_dist.mode()
    return latent * model.vae.config.scaling_factor


def _decode(model: EditModel, latent: Tensor, size: tuple[int, int]) -> Picture:
    """The picture of a latent ``[1, C, h, w]``, at `size`."""
    pixels = model.vae.decode(latent / model.vae.config.scaling_factor).sample[0].float()
    pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return _resized(pixels.permute(1, 2, 0).cpu().numpy(), size)


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    height, width = size
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def _noise(like: Tensor, seed: int) -> Tensor:
    """The same for a seed on every device."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


def _first(mask: InstantMask) -> InstantMask:
    """The first of a batch of masks, on the CPU."""
    roles = WordRoles(mask.roles.index[:1].cpu(), mask.roles.weights[:1].cpu())
    return InstantMask(mask.soft[:1].cpu(), mask.binary[:1].cpu(), roles, mask.confidence[:1].cpu())


def _check_picture(picture: Picture) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"a picture is uint8 [height, width, 3], not {picture.dtype} {list(picture.shape)}")


def _check_range(name: str, value: float, low: float, high: float, open_low: bool = False) -> None:
    if not low <= value <= high or (open_low and value == low):
        raise ValueError(f"{name} must be {'above' if open_low else 'from'} {low} to {high}, not {value}")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
