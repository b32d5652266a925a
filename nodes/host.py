"""The one place that touches ComfyUI's internals.

`guided` returns a clone of a model that carries an instant mask. The hooks are put into the
sampling run's own options when it starts, so they end with it, however it ends, and chain onto
whatever other nodes have put there, whichever came first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.utils
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSampler
from torch import Tensor
from torch.nn.functional import interpolate, pad

import nodes

from ..instdiff_core.attention import AttentionRecord, Recorder, downscale_to_read, word_maps
from ..instdiff_core.blend import keep_original
from ..instdiff_core.refine import MaskSettings, WordRoles, refine, target_numbers
from ..instdiff_core.tokens import PromptWords, prompt_words

SAMPLERS, SCHEDULERS = KSampler.SAMPLERS, KSampler.SCHEDULERS
"""The names that KSampler offers, with those that other packs have added."""

WORDS = "instdiff_words"
"""The key of a prompt's words in the options of a conditioning."""

Latent = dict[str, Any]
Conditioning = list[list[Any]]
Attend = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


class InstantMaskRun:
    """The instant mask of one sampling run.

    `settings` of none only records. `mask` ``[B, H, W]`` bool in latent pixels, when given, takes
    the place of the instant mask. After the run `record` holds what the attention said.
    """

    _guider: Any
    _clean: Tensor
    _noise: Tensor

    def __init__(self, words: PromptWords, settings: MaskSettings | None, mask: Tensor | None = None) -> None:
        self.words = words
        self.settings = settings
        self.given = mask
        self._record: AttentionRecord | None = None
        self._recorder = Recorder()
        self._mask: Tensor | None = None
        self._roles: WordRoles | None = None
        self._matrices: dict[int, Tensor] = {}
        self._positive: int | None = None
        self._awaiting_call = False

    def __deepcopy__(self, memo: dict[int, Any]) -> InstantMaskRun:
        # ComfyUI v0.3.64 copies a model's options deeply when the next node clones it: it is the same run still.
        return self

    @property
    def record(self) -> AttentionRecord:
        """What the attention said. Raises ``ValueError`` when nothing was sampled."""
        if self._record is None:
            raise ValueError("nothing was sampled: set denoise above 0")
        return self._record

    def outer_sample(self, executor: Any, noise: Tensor, latent: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """OUTER_SAMPLE: install the hooks into this run's options, sample, keep the original."""
        self._guider = guider = executor.class_obj
        options = guider.model_options
        for kind, wrapper in (
            (WrappersMP.SAMPLER_SAMPLE, self._sampler_sample),
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),
        ):
            comfy.patcher_extension.add_wrapper(kind, wrapper, options, is_model_options=True)
        replaced = options["transformer_options"].get("patches_replace", {}).get("attn2", {})
        size = latent.shape[-2], latent.shape[-1]
        for key in _keys_to_read(guider.model_patcher.model.diffusion_model, size, replaced):
            attend = self._reading(replaced.get(key))
            comfy.model_patcher.set_model_options_patch_replace(options, attend, "attn2", *key)
        if self.given is not None:
            self._mask = self.given.to(guider.model_patcher.load_device)
        samples = executor(noise, latent, *args, **kwargs)
        scale = getattr(guider.model_patcher.get_model_object("latent_format"), "spacial_downscale_ratio", 8)
        self._record = self._recorder.freeze(self.words, size, scale)
        if self._mask is None:
            return samples
        return keep_original(self._mask.to(samples.device), samples, latent.to(samples))

    def _sampler_sample(
        self, executor: Any, guider: Any, sigmas: Tensor, extra: Any, callback: Any, noise: Tensor,
        latent: Tensor, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """SAMPLER_SAMPLE: learn the clean latent and the noise, in the model's own space."""
        self._clean, self._noise = latent, noise
        return executor(guider, sigmas, extra, callback, noise, latent, *args, **kwargs)

    def _predict_noise(self, executor: Any, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PREDICT_NOISE: show the model the original outside the last mask, then refine and apply this one's."""
        if self._mask is not None:
            noised = executor.class_obj.inner_model.scale_latent_inpaint(
                x=x, sigma=sigma, noise=self._noise, latent_image=self._clean
            )
            x = keep_original(self._mask, x, noised.to(x))
        self._awaiting_call = True
        try:
            denoised = executor(x, sigma, *args, **kwargs)
        except BaseException:
            self._recorder.drop_step()
            raise
        finally:
            self._awaiting_call = False
        if self._recorder.close_step(sigma.flatten()[0]) and self.settings is not None and self.given is None:
            size = x.shape[-2], x.shape[-1]
            mask = refine(self._recorder.mean(), self.words, self.settings, size, self._roles)
            self._mask, self._roles = mask.binary, mask.roles
        return denoised if self._mask is None else keep_original(self._mask, denoised, self._clean)

    def _calc_cond_batch(self, executor: Any, model: Any, conds: list[Any], *args: Any, **kwargs: Any) -> Any:
        """CALC_COND_BATCH: find the edit prompt in the step's first call; later calls of a step are other nodes'."""
        if self._awaiting_call:
            self._awaiting_call = False
            positive = self._guider.conds["positive"]
            self._positive = next((number for number, cond in enumerate(conds) if cond is positive), None)
        try:
            return executor(model, conds, *args, **kwargs)
        finally:
            self._positive = None

    def _reading(self, previous: Attend | None) -> Attend:
        """An attn2 replacement that attends as before, and notes where the edit prompt's words attend."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            if self._positive is not None:
                self._read(q, k, extra)
            if previous is not None:
                return previous(q, k, v, extra)
            return optimized_attention(
                q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"], transformer_options=extra
            )

        return attend

    def _read(self, q: Tensor, k: Tensor, extra: dict[str, Any]) -> None:
        uuids = {cond["uuid"] for cond in self._guider.conds["positive"] if WORDS in cond}
        chunks = extra["cond_or_uncond"]
        rows = q.shape[0] // len(chunks)
        height, width = extra["activations_shape"][-2:]
        whole = tuple(extra["original_shape"][-2:]) == tuple(self._clean.shape[-2:])
        for number, (chunk, uuid) in enumerate(zip(chunks, extra["uuids"], strict=True)):
            if whole and chunk == self._positive and uuid in uuids:
                part = slice(number * rows, (number + 1) * rows)
                matrix = self._matrix(k)
                self._recorder.add(word_maps(q[part], k[part], extra["n_heads"], matrix, (height, width)))

    def _matrix(self, k: Tensor) -> Tensor:
        length = k.shape[1]
        if length not in self._matrices:
            self._matrices[length] = self.words.matrix(length, k.device)
        return self._matrices[length]


def guided(model: Any, run: InstantMaskRun) -> Any:
    """A clone of `model` whose next sampling carries `run`. Raises ``ValueError`` for models without U-Net."""
    if not isinstance(model.model.diffusion_model, UNetModel):
        raise ValueError(
            f"{type(model.model).__name__} has no U-Net with cross-attention. InstDiffEdit works with Stable Diffusion "
            "1.x, 2.x and SDXL models: load one of those"
        )
    clone = model.clone()
    comfy.patcher_extension.add_wrapper(
        WrappersMP.OUTER_SAMPLE, run.outer_sample, clone.model_options, is_model_options=True
    )
    return clone


def _keys_to_read(
    unet: UNetModel, size: tuple[int, int], replaced: Mapping[tuple[Any, ...], Any]
) -> Iterator[tuple[Any, ...]]:
    """The attn2 keys of the layers to read, and the keys of single transformers that others hold in them."""
    downscale = 1
    found: dict[int, list[tuple[str, int]]] = {}
    blocks = [("input", number, block) for number, block in enumerate(unet.input_blocks)]
    blocks += [("output", number, block) for number, block in enumerate(unet.output_blocks)]
    for name, number, block in blocks:
        if any(isinstance(layer, Downsample) for layer in block):
            downscale *= 2
        if any(isinstance(layer, SpatialTransformer) for layer in block):
            found.setdefault(downscale, []).append((name, number))
        if any(isinstance(layer, Upsample) for layer in block):
            downscale //= 2
    for key in found[downscale_to_read(size, found)]:
        yield key
        yield from (other for other in replaced if len(other) == 3 and other[:2] == key)


def sample(model: Any, latent: Latent, positive: Conditioning, negative: Conditioning, **widgets: Any) -> Latent:
    """KSampler: the host's own sampling with its progress and preview; `widgets` are its arguments by name."""
    return nodes.common_ksampler(model=model, positive=positive, negative=negative, latent=latent, **widgets)[0]


def encode_prompt(clip: Any, text: str) -> Conditioning:
    """CLIPTextEncode, with the prompt's words kept in the conditioning.

    Raises ``ValueError`` for a missing CLIP and for text encoders that are not CLIP.
    """
    if clip is None:
        raise ValueError("no CLIP: the checkpoint may hold none; load one with a CLIP loader and connect it")
    tokens = clip.tokenize(text, return_word_ids=True)
    key = next((key for key in ("l", "h", "g") if key in tokens), None)
    tokenizer = getattr(getattr(clip.tokenizer, f"clip_{key}", None), "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"InstDiffEdit reads the words of CLIP prompts, and this encoder is {', '.join(tokens)}")
    words = prompt_words(tokens[key], tokenizer)
    return clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict={WORDS: words})


def words_of(conditioning: Conditioning, settings: MaskSettings) -> PromptWords:
    """The words that `encode_prompt` put into a conditioning, checked against it and against the settings.

    Raises ``ValueError`` for a conditioning without words, for several with different words, for
    one whose length does not match them, and as `target_numbers`.
    """
    carrying = [(context, options[WORDS]) for context, options in conditioning if WORDS in options]
    if not carrying:
        raise ValueError(
            "the positive conditioning carries no words: encode the prompt with the node Encode Edit Prompt"
        )
    context, words = carrying[0]
    if any(other != words for _, other in carrying):
        raise ValueError("the positive conditioning combines several edit prompts: sample one edit at a time")
    words.matrix(context.shape[1])
    target_numbers(words, settings.target)
    return words


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
