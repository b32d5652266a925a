"""The hooks of a sampling run.

`guided` returns a clone of a model that carries an instant mask. The hooks are put into the
sampling run's own options when it starts, so they end with it, however it ends, and chain onto
whatever other nodes have put there, whichever came first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSampler
from torch import Tensor
from torch.nn.functional import interpolate

import nodes

from ...instdiff_core.attention import affinity, downscale_to_read, word_maps
from ...instdiff_core.blend import keep_original
from ...instdiff_core.evidence import AttentionRecord, Predictions, Recorder
from ...instdiff_core.preview import marching_ants, white_and_black
from ...instdiff_core.refine import MaskSettings, refine
from ...instdiff_core.tokens import PromptWords
from .pictures import Latent, repeat_to_batch
from .text import WORDS, Conditioning, checked_words

Attend = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
Read = Callable[[Tensor, Tensor, dict[str, Any]], None]
Progress = Callable[[int, Tensor, Tensor, int], Any]

SAMPLERS, SCHEDULERS = KSampler.SAMPLERS, KSampler.SCHEDULERS
"""The names that KSampler offers, with those that other packs have added."""


class InstantMaskGuide:
    """Gives every sampling of a guided model an instant mask of its own, and keeps what the last one recorded.

    `settings` of none only records. `words` are those of the edit prompt; without them they are
    found in the positive conditioning. `mask` ``[B, h, w]`` in 0..1, of any size, takes the place
    of the instant mask. `original` ``[B, C, H, W]`` is the latent of the picture; without it the
    latent that is sampled is.
    """

    def __init__(
        self,
        settings: MaskSettings | None,
        words: PromptWords | None = None,
        mask: Tensor | None = None,
        original: Tensor | None = None,
    ) -> None:
        self.settings, self.words, self.mask, self.original = settings, words, mask, original
        self._record: AttentionRecord | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> InstantMaskGuide:
        # ComfyUI v0.3.64 copies a model's options deeply when the next node clones it: it is the same guide still.
        return self

    @property
    def record(self) -> AttentionRecord:
        """What the last sampling recorded. Raises ``ValueError`` when nothing was sampled."""
        if self._record is None:
            raise ValueError(
                "nothing was sampled with this model yet: set denoise above 0, and connect the sampler's LATENT to "
                "this node's input 'sampled', so that it runs after the sampler"
            )
        return self._record

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """OUTER_SAMPLE: install a run's hooks into this sampling's own options, sample, keep the original."""
        guider = executor.class_obj
        # the compiled code does not look at the hooks again, neither when they come nor when they go
        if guider.model_patcher.get_wrappers(WrappersMP.APPLY_MODEL, "torch.compile"):
            raise ValueError("the model is compiled, and its attention cannot be read: leave TorchCompileModel out")
        positive = guider.conds.get("positive", [])
        given = [(cond["cross_attn"], cond) for cond in positive if "cross_attn" in cond]
        words = checked_words(given, self.settings, self.words)
        original = latent if self.original is None else _like_latent(self.original, latent)
        mask = None
        if self.mask is not None:
            # a mask of whole pixels: the host's samplers take no softer one either
            small = interpolate(self.mask[:, None].float(), latent.shape[-2:], mode="bilinear")[:, 0] > 0.5
            mask = repeat_to_batch(small, len(latent)).to(guider.model_patcher.load_device)
        named = self.words is not None
        run = InstantMaskRun(guider, words, named, self.settings, mask, original, bool(noise.any()))
        run.install()
        self._record = None
        # before sampling: uni_pc writes into the sigmas
        leaves_noise = float(sigmas[-1]) > 0
        samples: Tensor = executor(noise, latent, sampler, sigmas, *args, **kwargs)
        self._record = run.record()
        if run.mask is None or leaves_noise:
            return samples
        return keep_original(run.mask.to(samples.device), samples, original.to(samples))


def record_of(attention: AttentionRecord | InstantMaskGuide) -> AttentionRecord:
    """The record behind an ATTENTION: Instant Mask Guidance gives one that sampling fills."""
    return attention.record if isinstance(attention, InstantMaskGuide) else attention


class InstantMaskRun:
    """The hooks and the state of one sampling.

    `mask` ``[B, H, W]`` bool in latent pixels, when given, is the mask throughout; else it is the
    last step's. `named` words are those of every positive conditioning, else only of those that
    carry words. `noisy` says that the sampling adds noise to its latent, rather than going on
    with one that is noisy already.
    """

    _noise: Tensor | None
    _clean: Tensor

    def __init__(
        self, guider: Any, words: PromptWords, named: bool, settings: MaskSettings | None, mask: Tensor | None,
        original: Tensor, noisy: bool,
    ) -> None:  # fmt: skip
        self.mask = mask
        self._guider, self._words, self._named = guider, words, named
        self._original, self._noisy = original, noisy
        self._settings = settings if mask is None else None
        self._recorder = Recorder()
        self._matrices: dict[int, Tensor] = {}
        self._positive: int | None = None
        self._awaiting_call = False
        self._predictions: tuple[Tensor, Tensor | None] | None = None

    def install(self) -> None:
        """Put the hooks into the options of the guider, which are this sampling's own."""
        options = self._guider.model_options
        for kind, wrapper in (
            (WrappersMP.SAMPLER_SAMPLE, self._sampler_sample),
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),
        ):
            comfy.patcher_extension.add_wrapper(kind, wrapper, options, is_model_options=True)
        size = self._original.shape[-2], self._original.shape[-1]
        unet = self._guider.model_patcher.model.diffusion_model
        for kind, read in (("attn2", self._read_words), ("attn1", self._read_affinity)):
            replaced = options["transformer_options"].get("patches_replace", {}).get(kind, {})
            for key in _keys_to_read(unet, size, kind, replaced):
                attend = self._reading(read, replaced.get(key, replaced.get(key[:2])))
                comfy.model_patcher.set_model_options_patch_replace(options, attend, kind, *key)

    def record(self) -> AttentionRecord:
        """What the attention said. Raises ``ValueError`` when no step saw the edit prompt."""
        latent_format = self._guider.model_patcher.get_model_object("latent_format")
        return self._recorder.freeze(self._words, getattr(latent_format, "spacial_downscale_ratio", 8))

    def _sampler_sample(
        self, executor: Any, guider: Any, sigmas: Tensor, extra: Any, callback: Any, noise: Tensor,
        latent: Tensor, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """SAMPLER_SAMPLE: learn the clean latent and the noise, in the model's own space; outline the previews."""
        self._check_areas(latent)
        self._clean = guider.inner_model.process_latent_in(self._original.to(latent))
        self._noise = noise if self._noisy else None
        if callback is not None:
            callback = self._outlining(callback)
        return executor(guider, sigmas, extra, callback, noise, latent, *args, **kwargs)

    def _outlining(self, callback: Progress) -> Progress:
        """A callback whose preview shows the mask's outline, where the host can show latents of this kind."""
        latent_format = self._guider.model_patcher.get_model_object("latent_format")
        if latent_format.latent_rgb_factors is None:
            return callback
        white, black = (
            colour.to(self._clean)
            for colour in white_and_black(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias)
        )

        def show(step: int, denoised: Tensor, x: Tensor, total: int) -> Any:
            if self.mask is None:
                return callback(step, denoised, x, total)
            shown = marching_ants(denoised, self.mask, white, black, step)
            result = callback(step, shown, x, total)
            # who keeps it, as SamplerCustomAdvanced does for its second output, keeps what was denoised
            shown.copy_(denoised)
            return result

        return show

    def _check_areas(self, latent: Tensor) -> None:
        """Raises ``ValueError`` when the edit prompt is limited to a part of the picture.

        The host has resolved the areas by now, and crops the model's input to them.
        """
        height, width = latent.shape[-2:]
        areas = [cond.get("area", (height, width, 0, 0)) for cond in self._edit_prompts()]
        if areas and not any(area[0] >= height and area[1] >= width and not any(area[2:]) for area in areas):
            raise ValueError(
                "the edit prompt is limited to an area, where the model sees a part of the picture only: limit it with "
                "Conditioning (Set Mask) and set_cond_area 'default' instead, or by the input 'mask'"
            )

    def _edit_prompts(self) -> list[dict[str, Any]]:
        """The positive conditionings whose attention is read, as the host has prepared them."""
        return [cond for cond in self._guider.conds.get("positive", []) if self._named or WORDS in cond]

    def _predict_noise(self, executor: Any, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PREDICT_NOISE: show the model the original outside the last mask, then refine and apply this one's."""
        if self._noise is None:
            # the latent came with its noise: what is left of it without the picture
            self._noise = (x - self._clean) / sigma.flatten()[0]
        if self.mask is not None:
            noised = executor.class_obj.inner_model.scale_latent_inpaint(
                x=x, sigma=sigma, noise=self._noise, latent_image=self._clean
            )
            x = keep_original(self.mask, x, noised.to(x))
        self._awaiting_call = True
        try:
            denoised = executor(x, sigma, *args, **kwargs)
        except BaseException:
            self._recorder.drop_step()
            raise
        finally:
            self._awaiting_call = False
        if self._close_step(sigma.flatten()[0], denoised) and self._settings is not None:
            self.mask = refine(self._recorder.evidence(), self._words, self._settings).binary
        return denoised if self.mask is None else keep_original(self.mask, denoised, self._clean.to(denoised))

    def _close_step(self, sigma: Tensor, denoised: Tensor) -> bool:
        """Whether the step saw the edit prompt."""
        predictions, self._predictions = self._predictions, None
        if predictions is None:
            self._recorder.drop_step()
            return False
        return self._recorder.close_step(sigma, Predictions(denoised, *predictions, self._clean.to(denoised)))

    def _calc_cond_batch(self, executor: Any, model: Any, conds: list[Any], *args: Any, **kwargs: Any) -> Any:
        """CALC_COND_BATCH: find the edit prompt in the step's first call; later calls of a step are other nodes'."""
        if not self._awaiting_call:
            return executor(model, conds, *args, **kwargs)
        self._awaiting_call = False
        self._positive, negative = (
            next((number for number, cond in enumerate(conds) if cond is self._guider.conds.get(name)), None)
            for name in ("positive", "negative")
        )
        try:
            predictions = executor(model, conds, *args, **kwargs)
            if self._positive is not None:
                without = None if negative is None else predictions[negative]
                self._predictions = predictions[self._positive], without
            return predictions
        finally:
            self._positive = None

    def _reading(self, read: Read, previous: Attend | None) -> Attend:
        """An attention replacement that attends as before, and shows `read` the rows of the edit prompt."""

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            if self._positive is not None:
                for part in self._rows(q, extra):
                    read(q[part], k[part], extra)
            if previous is not None:
                return previous(q, k, v, extra)
            return optimized_attention(
                q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"], transformer_options=extra
            )

        return attend

    def _rows(self, q: Tensor, extra: dict[str, Any]) -> Iterator[slice]:
        """The rows of a call that belong to the edit prompt on the whole picture."""
        uuids = {cond["uuid"] for cond in self._edit_prompts()}
        chunks = extra["cond_or_uncond"]
        rows = q.shape[0] // len(chunks)
        whole = tuple(extra["original_shape"][-2:]) == tuple(self._clean.shape[-2:])
        for number, (chunk, uuid) in enumerate(zip(chunks, extra["uuids"], strict=True)):
            if whole and chunk == self._positive and uuid in uuids:
                yield slice(number * rows, (number + 1) * rows)

    def _read_words(self, q: Tensor, k: Tensor, extra: dict[str, Any]) -> None:
        grid = tuple(extra["activations_shape"][-2:])
        self._recorder.add_words(word_maps(q, k, extra["n_heads"], self._matrix(k), grid))

    def _read_affinity(self, q: Tensor, k: Tensor, extra: dict[str, Any]) -> None:
        height, width = extra["activations_shape"][-2:]
        # other nodes merge or tile the cells of self-attention: then it is not of this grid
        if q.shape[1] == k.shape[1] == height * width:
            self._recorder.add_affinity(affinity(q, k, extra["n_heads"]))

    def _matrix(self, k: Tensor) -> Tensor:
        length = k.shape[1]
        if length not in self._matrices:
            self._matrices[length] = self._words.matrix(length, k.device)
        return self._matrices[length]


def guided(model: Any, guide: InstantMaskGuide) -> Any:
    """A clone of `model` whose samplings have instant masks. Raises ``ValueError`` for models without U-Net."""
    if not isinstance(model.model.diffusion_model, UNetModel):
        raise ValueError(
            f"{type(model.model).__name__} has no U-Net with cross-attention. InstDiffEdit works with Stable Diffusion "
            "1.x, 2.x and SDXL models: load one of those"
        )
    clone = model.clone()
    comfy.patcher_extension.add_wrapper(
        WrappersMP.OUTER_SAMPLE, guide.outer_sample, clone.model_options, is_model_options=True
    )
    return clone


def _like_latent(original: Tensor, latent: Tensor) -> Tensor:
    """The picture's latent, for a batch like that of `latent`. Raises ``ValueError`` for another size."""
    if original.shape[1:] != latent.shape[1:]:
        raise ValueError(
            f"Instant Mask Guidance has a latent of {tuple(original.shape[1:])}, and {tuple(latent.shape[1:])} is "
            "sampled: give the sampler the LATENT that comes out of Instant Mask Guidance"
        )
    return repeat_to_batch(original, len(latent))


def _keys_to_read(
    unet: UNetModel, size: tuple[int, int], kind: str, replaced: Mapping[tuple[Any, ...], Any]
) -> Iterator[tuple[Any, ...]]:
    """The keys of the layers to read: of all cross-attention (attn2), and of a block's first self-attention (attn1).

    With the keys of single transformers that others hold in them.
    """
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
        if kind == "attn1":
            yield *key, 0
        else:
            yield key
            yield from (other for other in replaced if len(other) == 3 and other[:2] == key)


def sample(model: Any, latent: Latent, positive: Conditioning, negative: Conditioning, **widgets: Any) -> Latent:
    """KSampler: the host's own sampling with its progress and preview; `widgets` are its arguments by name."""
    return nodes.common_ksampler(model=model, positive=positive, negative=negative, latent=latent, **widgets)[0]
