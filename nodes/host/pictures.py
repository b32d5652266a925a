"""Latents, masks and images, between the host's sizes and batches and ours."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
from torch import Tensor
from torch.nn.functional import interpolate, pad

import nodes

from ...instdiff_core.evidence import AttentionRecord
from .text import Conditioning

Latent = dict[str, Any]


def picture_latent(latent: Latent) -> Tensor:
    """The samples of a latent of pictures. Raises ``ValueError`` for video, 3D and nested latents."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        raise ValueError("the latent must be of pictures (batch, channels, height, width), not of video or audio")
    return samples


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


def picture_for(image: Tensor, record: AttentionRecord) -> Tensor:
    """An IMAGE ``[B, H, W, C]`` as ``[B or batch, 3, H, W]`` at the record's size and batch.

    As VAE Encode does, the middle is kept where the picture is larger by less than a latent pixel.
    Raises ``ValueError`` for a picture of another size.
    """
    (height, width), scale = record.image_size, record.scale
    slack = image.shape[1] - height, image.shape[2] - width
    if not all(0 <= each < scale for each in slack):
        raise ValueError(
            f"the image is {image.shape[2]} x {image.shape[1]}, the sampled picture {width} x {height}: "
            "connect the picture that went into VAE Encode"
        )
    top, left = slack[0] // 2, slack[1] // 2
    picture = image[:, top : top + height, left : left + width, :3].movedim(-1, 1)
    return repeat_to_batch(picture, record.maps.shape[1]).cpu()


def own_mask(mask: Tensor, record: AttentionRecord) -> Tensor:
    """Where a user's MASK ``[N, h, w]`` let a recorded sampling edit, ``[batch, H, W]`` bool at picture size."""
    size, batch = record.image_size, record.maps.shape[1]
    area = repeat_to_batch(interpolate(mask[:, None].float(), size, mode="bilinear")[:, 0] > 0.5, batch)
    if record.noise_mask is None:
        return area
    return area & (interpolate(record.noise_mask[:, None].float(), size)[:, 0] > 0).to(area.device)


def mask_for(mask: Tensor, image: Tensor, vae: Any) -> Tensor:
    """A MASK ``[N, h, w]`` brought to the batch and size of an IMAGE ``[B, H, W, C]``, still in 0..1.

    A mask of the size that VAE Encode keeps of the picture is put where that was cut from.
    """
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    height, width = image.shape[1:3]
    ratio = vae.spacial_compression_encode()
    if tuple(mask.shape[-2:]) == (height // ratio * ratio, width // ratio * ratio):
        top, left = height % ratio // 2, width % ratio // 2
        mask = pad(mask, (left, width % ratio - left, top, height % ratio - top), mode="replicate")
    elif tuple(mask.shape[-2:]) != (height, width):
        mask = interpolate(mask, (height, width), mode="bilinear")
    return repeat_to_batch(mask[:, 0], len(image)).to(image.device)


def inpaint_latent(
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
        latent = {"samples": vae.encode(pixels), "noise_mask": area.unsqueeze(1)}
    if samples is not None:
        start = picture_latent(samples)
        ratio = vae.spacial_compression_encode()
        height, width = (length // ratio for length in image.shape[1:3])
        if tuple(start.shape[-2:]) != (height, width):
            raise ValueError(
                "samples and image are of different size: give Inpaint Finish the picture that Masked Sampler edited"
            )
        row, column = -(-top // ratio), -(-left // ratio)
        whole = latent["samples"].clone()
        whole[..., row : row + height, column : column + width] = repeat_to_batch(start, len(image)).to(whole)
        latent["samples"] = whole
    return positive, negative, latent


def decode(vae: Any, latent: Latent, image: Tensor) -> Tensor:
    """The decoded latent without the padding, at the size, device and type of `image`, RGB."""
    (top, _), (left, _) = (_margins(vae, length) for length in image.shape[1:3])
    return vae.decode(latent["samples"])[:, top : top + image.shape[1], left : left + image.shape[2], :3].to(image)


def _margins(vae: Any, length: int) -> tuple[int, int]:
    """What to pad before and after `length` pixels: VAE Encode cuts to whole latent pixels from the middle."""
    ratio = vae.spacial_compression_encode()
    unit = max(8, ratio)
    before = -(length % ratio // 2) % unit
    return before, -(length + before) % unit
