"""Latents, masks and images, between the host's sizes and batches and ours."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.sampler_helpers import prepare_mask
from torch import Tensor
from torch.nn.functional import interpolate, pad

import nodes

from ...instdiff_core.blend import keep_original
from ...instdiff_core.evidence import AttentionRecord
from .text import Conditioning

Latent = dict[str, Any]


def get_samples(latent: Latent) -> Tensor:
    """The samples of a latent of pictures ``[B, C, H, W]``. Raises ``ValueError`` for video, 3D and nested latents."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or drop_time(samples).ndim != 4:
        raise ValueError("the latent must be of pictures (batch, channels, height, width), not of video or audio")
    return drop_time(samples)


def drop_time(samples: Tensor) -> Tensor:
    """Latents ``[B, C, 1, H, W]`` as ``[B, C, H, W]``, others as they are.

    Qwen-Image and Wan have latents of video, of which a picture is one frame. The host samples them as
    they are; what is ours, and everything in the core, has no time. ``view_as`` the host's brings it back.
    """
    return samples.squeeze(2) if samples.ndim == 5 and samples.shape[2] == 1 else samples


def keep_picture(mask: Tensor, edited: Tensor, picture: Tensor) -> Tensor:
    """`keep_original` for latents of the host, with or without time."""
    return keep_original(mask, drop_time(edited), drop_time(picture)).view_as(edited)


def check_channels(model: Any, samples: Tensor) -> None:
    """Raises ``ValueError`` when the latent is not of this model's kind."""
    expected = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != expected:
        raise ValueError(
            f"the latent has {samples.shape[1]} channels and the model needs {expected}: "
            "encode the picture with the VAE that belongs to the model"
        )


def is_inpainting_model(model: Any) -> bool:
    """Whether the model takes the mask and the masked picture as extra channels."""
    return "mask" in getattr(model.model, "concat_keys", ())


def to_intermediate(tensor: Tensor) -> Tensor:
    """On the device where the host keeps what passes between nodes."""
    return tensor.to(comfy.model_management.intermediate_device())


def repeat_to_batch(tensor: Tensor, count: int) -> Tensor:
    """A batch of another length repeated, or cut, to `count`, as the host does with masks."""
    return comfy.utils.repeat_to_batch_size(tensor, count)


def match_image_to_record(image: Tensor, record: AttentionRecord) -> Tensor:
    """An IMAGE ``[B, H, W, C]`` as ``[B or batch, 3, H, W]`` at the record's size and batch.

    As VAE Encode does, the middle is kept where the picture is larger by less than a latent pixel.
    Raises ``ValueError`` for a picture of another size.
    """
    (height, width), scale = record.image_size, record.scale
    slack = image.shape[1] - height, image.shape[2] - width
    if not all(0 <= excess < scale for excess in slack):
        raise ValueError(
            f"the image is {image.shape[2]} x {image.shape[1]}, the sampled picture {width} x {height}: "
            "connect the picture that went into VAE Encode"
        )
    top, left = slack[0] // 2, slack[1] // 2
    picture = image[:, top : top + height, left : left + width, :3].movedim(-1, 1)
    return repeat_to_batch(picture, record.maps.shape[1]).cpu()


def undo_vae_crop(mask: Tensor, image: Tensor) -> Tensor:
    """A mask ``[N, h, w]`` of the part that VAE Encode keeps of an IMAGE ``[B, H, W, C]``, at the image's size.

    It is put where that part was cut from, and its border repeated.
    """
    down, across = image.shape[1] - mask.shape[1], image.shape[2] - mask.shape[2]
    top, left = down // 2, across // 2
    return pad(mask, (left, across - left, top, down - top), mode="replicate")


def scale_mask_to_latent(mask: Tensor, samples: Tensor) -> Tensor:
    """Where a user's MASK ``[N, h, w]`` lets latents ``[B, C, H, W]`` be edited, ``[B, H, W]`` bool.

    A mask of whole pixels: the host's samplers take no softer one either.
    """
    area = interpolate(mask[:, None].float(), samples.shape[-2:], mode="bilinear")[:, 0] > 0.5
    return repeat_to_batch(area, len(samples))


def check_own_mask(mask: Tensor, samples: Tensor, name: str = "mask") -> None:
    """Raises ``ValueError`` for a user's MASK ``[N, h, w]`` with which nothing of the latents would be edited."""
    if not scale_mask_to_latent(mask, samples).any():
        raise ValueError(
            f"{name} is empty: it is nowhere above 0.5 in an area of the size of a latent pixel, so nothing would be "
            "edited (Load Image gives such a mask for a picture without transparency). Draw the area to edit, or "
            "disconnect the input to have it found"
        )


def scale_own_mask(mask: Tensor, record: AttentionRecord) -> Tensor:
    """Where a user's MASK ``[N, h, w]`` let a recorded sampling edit, ``[batch, H, W]`` bool at picture size."""
    area = scale_mask_to_latent(mask, record.image_latent)
    if record.noise_mask is not None:
        area = area & record.noise_mask.to(area.device)
    return interpolate(area[:, None].float(), record.image_size)[:, 0] > 0


def fit_mask(mask: Tensor, image: Tensor) -> Tensor:
    """A MASK ``[N, h, w]`` stretched to the size of an IMAGE ``[B, H, W, C]``, still in 0..1."""
    size = image.shape[1], image.shape[2]
    return mask if tuple(mask.shape[1:]) == size else interpolate(mask[:, None], size, mode="bilinear")[:, 0]


def scale_mask_to_image(mask: Tensor, image: Tensor, vae: Any) -> Tensor:
    """A MASK ``[N, h, w]`` brought to the size of an IMAGE ``[B, H, W, C]``, still in 0..1.

    A mask of the size that VAE Encode keeps of the picture is put where that was cut from.
    """
    ratio = vae.spacial_compression_encode()
    if mask.shape[1:] == (image.shape[1] // ratio * ratio, image.shape[2] // ratio * ratio):
        mask = undo_vae_crop(mask, image)
    return fit_mask(mask, image).to(image.device)


def find_editable(noise_mask: Tensor, samples: Tensor, device: torch.device) -> Tensor:
    """Where a latent's own noise mask lets samplers edit its `samples`, ``[B, H, W]`` bool in latent pixels."""
    if noise_mask.shape != samples.shape:  # as the host's samplers prepare it
        noise_mask = prepare_mask(noise_mask, samples.shape, device)
    return (drop_time(noise_mask) > 0).any(1)


def find_editable_pixels(latent: Latent, image: Tensor, vae: Any) -> Tensor | None:
    """`find_editable` for the pixels of an IMAGE ``[B, H, W, C]``, of which LATENT is an edit; None: everywhere.

    Raises ``ValueError`` when they are of different size.
    """
    start = _get_start(latent, image, vae)
    if latent.get("noise_mask") is None:
        return None
    area = find_editable(latent["noise_mask"], latent["samples"], image.device)
    ratio = vae.spacial_compression_encode()
    size = start.shape[-2] * ratio, start.shape[-1] * ratio
    return undo_vae_crop(interpolate(area[:, None].float(), size)[:, 0], image) > 0


def encode_for_inpainting(
    model: Any, vae: Any, image: Tensor, area: Tensor, samples: Latent | None,
    positive: Conditioning, negative: Conditioning,
) -> tuple[Conditioning, Conditioning, Latent]:  # fmt: skip
    """What a sampler needs to paint `area` ``[B, H, W]``: conditionings and a latent with its noise mask.

    The picture is padded to whole latent pixels, around those that VAE Encode keeps of it; `decode`
    takes the padding off again. An inpainting model gets the host's InpaintModelConditioning.
    `samples` is the edit to start from, else the picture is. Raises ``ValueError`` when `samples`
    is of another size.
    """
    (top, bottom), (left, right) = (_margins(vae, length) for length in image.shape[1:3])
    padding = (left, right, top, bottom)
    pixels = pad(image[..., :3].movedim(-1, 1), padding, mode="replicate").movedim(1, -1)
    area = pad(area.float(), padding)
    if is_inpainting_model(model):
        positive, negative, latent = nodes.InpaintModelConditioning().encode(positive, negative, pixels, vae, area)
    else:
        latent = encode(vae, pixels)
        latent["noise_mask"] = area[:, None] if latent["samples"].ndim == 4 else area[:, None, None]
    if samples is not None:
        start, ratio = _get_start(samples, image, vae), vae.spacial_compression_encode()
        height, width = start.shape[-2:]
        row, column = -(-top // ratio), -(-left // ratio)
        whole = latent["samples"].clone()
        drop_time(whole)[..., row : row + height, column : column + width] = repeat_to_batch(start, len(image)).to(
            whole
        )
        latent["samples"] = whole
    return positive, negative, latent


def decode_start(vae: Any, samples: Latent, image: Tensor) -> Tensor:
    """What the samples of an edit show, at the size of its `image` ``[B, H, W, C]``, ``[B, H, W, 3]``.

    Around what VAE Encode keeps of the image it is the image. Raises ``ValueError`` when they are of different size.
    """
    _get_start(samples, image, vae)
    pictures = image[..., :3].clone()
    decoded = _decode(vae, samples).to(image)
    height, width = decoded.shape[1:3]
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    pictures[:, top : top + height, left : left + width] = repeat_to_batch(decoded, len(image))
    return pictures


def encode(vae: Any, pictures: Tensor) -> Latent:
    """Pictures ``[B, H, W, 3 or more]`` as a latent of them.

    To VAEs of video a batch is the frames of one: it is encoded picture by picture.
    """
    pixels = pictures[..., :3]
    if getattr(vae, "latent_dim", 2) != 3:
        return {"samples": vae.encode(pixels)}
    return {"samples": torch.cat([vae.encode(picture[None]) for picture in pixels])}


def decode(vae: Any, latent: Latent, image: Tensor) -> Tensor:
    """The decoded latent without the padding, at the size, device and type of `image`, RGB."""
    (top, _), (left, _) = (_margins(vae, length) for length in image.shape[1:3])
    pictures = _decode(vae, latent)
    return pictures[:, top : top + image.shape[1], left : left + image.shape[2]].to(image)


def _decode(vae: Any, latent: Latent) -> Tensor:
    """The decoded latent ``[B, H, W, 3]``."""
    pictures: Tensor = vae.decode(latent["samples"]).flatten(0, -4)  # VAEs of video have frames
    return pictures[..., :3]


def _get_start(samples: Latent, image: Tensor, vae: Any) -> Tensor:
    """The samples of an edit of `image`. Raises ``ValueError`` when they are of another size."""
    start = get_samples(samples)
    ratio = vae.spacial_compression_encode()
    if tuple(start.shape[-2:]) != (image.shape[1] // ratio, image.shape[2] // ratio):
        raise ValueError(
            "samples and image are of different size: give Inpaint Finish the picture that Masked Sampler edited"
        )
    return start


def _margins(vae: Any, length: int) -> tuple[int, int]:
    """What to pad before and after `length` pixels: VAE Encode cuts to whole latent pixels from the middle."""
    ratio = vae.spacial_compression_encode()
    unit = max(8, ratio)
    before = -(length % ratio // 2) % unit
    return before, -(length + before) % unit
