"""One sampling run: which of the host's wrappers calls what, and when."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...instdiff_core.blend import keep_edits
from ...instdiff_core.evidence import AttentionRecord, Predictions
from ...instdiff_core.look import look_again, look_at_picture, scale_latents
from ...instdiff_core.noise import make_noise, make_opposed_noise
from ...instdiff_core.rest import ALMOST_PURE, ask_about_rest
from ...instdiff_core.session import EditSessions
from .edits import EditPredictions, SampledEdit
from .levels import find_noise_level, find_sigma
from .notices import warn_of_noise
from .pictures import drop_time, keep_picture
from .preview import outline_previews
from .readers import Reader
from .region_sampling import RegionSampling
from .sizes import latent_scale

EMPTY = "instdiff_empty"
"""The name of the empty prompt among a guider's conditionings."""

WITHOUT_PROMPT = ("empty_negative_prompt", "negative")
"""The conditionings that stand for no prompt, by their names in the host's guiders, the more suitable first."""

LIMITS = ("timestep_start", "timestep_end", "area", "mask")
"""What the host makes of a conditioning's limits to some steps and to a part of the picture."""

EXTRA_STEPS = 2
"""Steps, and looks before them, in which the model is asked what it makes of the picture without prompt, where the
sampling never does.

Mask IoU at cfg 1 with none, 2 and all steps, on 8 scenes each with the embedded model: one object 0.93, 0.91,
0.91; two 0.48, 0.66, 0.62; a new background 0.01, 0.98, 0.97.
"""


class InstantMaskRun:
    """The hooks and the state of one sampling, of one edit or several.

    `image_latent` ``[B, C, H, W]`` is the latent of the picture. `noisy` says that the sampling adds noise
    to its latent, rather than going on with one that is noisy already; `look_size` is the size ``(height, width)`` in
    which `look_at_picture` may show the model the picture before the steps, None where it may not; `asks` says whether
    `ask_about_rest` may call the model at the end. `region` computes a part of the picture only; None: every step
    computes the whole.
    """

    _model_latent: Tensor
    _look_latent: Tensor

    def __init__(
        self, guider: Any, edits: Sequence[SampledEdit], reader: Reader, image_latent: Tensor, noisy: bool,
        look_size: tuple[int, int] | None, asks: bool, region: RegionSampling | None = None,
    ) -> None:  # fmt: skip
        self.session = EditSessions([edit.session for edit in edits])
        self.image_latent, self._region = image_latent, region
        self._guider, self._edits, self._edit_predictions = guider, edits, EditPredictions(guider, edits)
        self._reader, self._noisy, self._look_size, self._asks = reader, noisy, look_size, asks
        self._reading = False
        self._awaiting_call = False
        self._looking = False
        self._noise: Tensor | None = None
        self._without_prompt = EMPTY
        self._extra_steps = 0
        self._without: Tensor | None = None
        self._zeros: list[Tensor] = []

    @property
    def noise(self) -> Tensor:
        """The noise samples that the picture is mixed with, in the model's own space."""
        assert self._noise is not None
        return self._noise

    def go_on(self, record: AttentionRecord, noise: Tensor) -> None:
        """Begin with what an earlier sampling of the same picture has recorded, and with its noise samples."""
        words = [edit.prompt.words for edit in self._edits]
        if [edit.words for edit in record.edits] != words or noise.shape != self.image_latent.shape:
            return
        device = self._guider.model_patcher.load_device
        self._noise = noise.to(device)
        self.session.resume(record, device)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The hooks are in the options of the guider, which are this sampling's own; and its conditionings prepared."""
        options, conds = self._guider.model_options, self._guider.conds
        if self._region is not None:
            self._region.install(options)
        for kind, wrapper in (
            (WrappersMP.SAMPLER_SAMPLE, self._sampler_sample),
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),
        ):
            comfy.patcher_extension.add_wrapper(kind, wrapper, options, is_model_options=True)
        self._reader.install(options, self)
        spoken = (name for name in WITHOUT_PROMPT if any(map(_says_something, conds.get(name, []))))
        self._without_prompt = next(spoken, EMPTY)
        if self._without_prompt == EMPTY:
            # here, so that the host prepares it as it prepares its own
            conds[EMPTY] = [self._empty_conditioning()]
        with self._edit_predictions.installed(options):
            yield

    def record(self) -> AttentionRecord:
        """What the attention said. Raises ``ValueError`` for predictions of NaN, and where no step saw the prompt."""
        if self._zeros and torch.stack(self._zeros).isnan().any():
            raise ValueError(
                "the model's predictions hold NaN or infinite values, and no mask can be found: start ComfyUI with "
                "--force-upcast-attention, --bf16-unet or --fp32-unet, or lower cfg"
            )
        records = self.session.records(latent_scale(self._guider.model_patcher))
        pairs = zip(records, self._edits, strict=True)
        record = AttentionRecord.joined([replace(each, settings=edit.prompt.settings) for each, edit in pairs])
        return record if self._region is None else replace(record, remark=self._region.remark())

    def edit_entries(
        self, count: int, latent_size: tuple[int, ...], options: dict[str, Any]
    ) -> Iterator[tuple[SampledEdit, slice]]:
        """Which of the `count` entries of a model call's batch hold which edit's prompt on the whole picture.

        `latent_size` is ``(height, width)`` of the call's latents, `options` its transformer_options.
        """
        if not self._reading or latent_size != tuple(self._shown.shape[-2:]):
            return
        edits = {cond["uuid"]: edit for edit in self._edits for cond in edit.conditionings(self._guider)}
        chunks = options["cond_or_uncond"]
        length = count // len(chunks)
        for number, (chunk, uuid) in enumerate(zip(chunks, options["uuids"], strict=True)):
            if uuid in edits and self._edit_predictions.row_is_positive(chunk):
                yield edits[uuid], slice(number * length, (number + 1) * length)

    def _empty_conditioning(self) -> dict[str, Any]:
        """The empty prompt, with what else the model needs (of inpainting models the picture) from the edit prompt."""
        context, options = self._edits[0].prompt.empty
        # its own text's mask is among `options`, where there is one
        limits = ("area", "mask", "start_percent", "end_percent", "strength", "default", "attention_mask")
        first = self._edits[0].conditionings(self._guider)[0]
        kept = {name: value for name, value in first.items() if name not in limits}
        return {**kept, **options, "cross_attn": context, "model_conds": {}, "uuid": uuid4()}

    def _sampler_sample(
        self, executor: Any, guider: Any, sigmas: Tensor, extra: Any, callback: Any, noise: Tensor,
        latent: Tensor, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """SAMPLER_SAMPLE: learn the clean latent and the noise, in the model's own space; outline the previews."""
        self._check_areas(latent)
        self._check_windows(latent, sigmas)
        goes_on = self._noise is not None
        if not goes_on:
            self._check_steps(sigmas[:-1])
        self._model_latent = guider.inner_model.process_latent_in(self.image_latent.to(latent))
        size = latent.shape[-2], latent.shape[-1]
        self._look_latent = scale_latents(self._model_latent, self._look_size or size)
        if self._noisy:
            self._noise = noise
        if callback is not None:
            latent_format = self._guider.model_patcher.get_model_object("latent_format")
            callback = outline_previews(callback, latent_format, lambda: self.session.mask, self._model_latent)
        # before sampling: uni_pc writes into the sigmas
        leaves_noise = float(sigmas[-1]) > 0
        first = find_noise_level(self._guider.inner_model.model_sampling, sigmas[0])
        look = partial(self._look, dict(extra))  # what the sampler adds is not for a guider
        in_full = self._look_latent.shape == latent.shape
        looked = not goes_on and self._can_look and look_at_picture([self.session], first, look, in_full)
        if self._noisy and not goes_on and not looked:
            warn_of_noise(self._guider.model_patcher, sigmas[0])
        samples: Tensor = executor(guider, sigmas, extra, callback, noise, latent, *args, **kwargs)
        if self._region is not None:
            self._region.end()
        if looked and not leaves_noise:
            look_again([self.session], first, look, in_full)
        if self._asks and not leaves_noise:
            self._ask_about_rest(extra["model_options"])
        return samples

    @property
    def _shown(self) -> Tensor:
        """The latent of the picture as the model is shown it: in looks, or in the steps."""
        return self._look_latent if self._looking else self._model_latent

    @property
    def _can_look(self) -> bool:
        """Whether `look_at_picture` is possible."""
        return self._look_size is not None and all(map(self._holds_everywhere, self._edits))

    def _look(self, extra: dict[str, Any], ratio: float, seed: int) -> None:
        """`look.Look`, a step that is not taken: the guider predicts, and the sessions look (`_predict_noise`).

        `extra` is what samplers give the guider beside the latent and its sigma.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._looking = True
        try:
            self._guider(*self._noised(ratio, make_noise(self._look_latent, seed)), **extra)
        finally:
            self._looking = False

    def _ask_about_rest(self, options: dict[str, Any]) -> None:
        """`ask_about_rest` for every edit where it is possible; `options` are the model options of the steps."""
        latent = drop_time(self._look_latent)
        for edit in filter(self._holds_everywhere, self._edits):
            ask_about_rest(edit.session, latent, partial(self._predict_at_almost_pure_noise, options, edit))

    def _predict_at_almost_pure_noise(
        self, options: dict[str, Any], edit: SampledEdit, number: int
    ) -> tuple[Tensor, Tensor]:
        """`rest.Predict` for an edit."""
        conds = self._conditionings(edit)
        noised = self._noised(ALMOST_PURE, make_opposed_noise(self._look_latent, number))
        with_prompt, without = comfy.samplers.calc_cond_batch(self._guider.inner_model, conds, *noised, options)
        return drop_time(with_prompt), drop_time(without)

    def _conditionings(self, edit: SampledEdit) -> list[list[dict[str, Any]]]:
        """Those with an edit's prompt, and those without any."""
        return [self._guider.conds[edit.name], self._guider.conds[self._without_prompt]]

    def _holds_everywhere(self, edit: SampledEdit) -> bool:
        """Whether there is one prompt and one for none, and both hold in the whole picture and in all steps."""
        conds = self._conditionings(edit)
        return all(len(each) == 1 and not any(limit in each[0] for limit in LIMITS) for each in conds)

    def _noised(self, ratio: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The picture with `ratio` times as much of a noise sample as of itself, and its sigma ``[B]``."""
        sampling, latent = self._guider.inner_model.model_sampling, self._look_latent
        sigma = find_sigma(sampling, ratio).to(latent)
        return sampling.noise_scaling(sigma, noise, latent), sigma.expand(len(latent))

    def _check_areas(self, latent: Tensor) -> None:
        """Raises ``ValueError`` when the edit prompt is limited to a part of the picture.

        The host has resolved the areas by now, and crops the model's input to them.
        """
        size = tuple(latent.shape[2:])
        for edit in self._edits:
            areas = [cond.get("area") for cond in edit.conditionings(self._guider)]
            if not areas or any(area is None or _is_whole(area, size) for area in areas):
                continue
            raise ValueError(
                "the edit prompt is limited to an area, where the model sees a part of the picture only: limit it with "
                "Conditioning (Set Mask) and set_cond_area 'default' instead, or by the input 'mask'"
            )

    def _check_steps(self, sigmas: Tensor) -> None:
        """Raises ``ValueError`` when the edit prompt is limited to others than the steps that begin at these sigmas.

        Samplers that call the model between two steps as well may show it the prompt there, which makes no edit.
        """
        for edit in self._edits:
            conds = edit.conditionings(self._guider)
            if conds and not any(_takes_part(cond, sigmas) for cond in conds):
                raise ValueError(
                    f"the edit prompt '{' '.join(edit.prompt.words.texts)}' is limited to a range in which this "
                    "sampling takes no step: widen the range of ConditioningSetTimestepRange (0 is pure noise, with "
                    "which only a denoise of 1 begins, and 1 is none), or take more steps"
                )

    def _check_windows(self, latent: Tensor, sigmas: Tensor) -> None:
        """Raises ``ValueError`` when the host will show the model parts of the batch, or of the picture, only."""
        windows = self._guider.model_options.get("context_handler")
        if windows is not None and windows.should_use_context(
            self._guider.inner_model, [self._guider.conds["positive"]], latent, sigmas[0], self._guider.model_options
        ):
            whole = latent.shape[getattr(windows, "dim", 0)]
            raise ValueError(
                "context windows show the model a part at a time, and no step sees the whole: leave the Context "
                f"Windows node out, or set its context_length to at least {whole}"
            )

    def _predict_noise(self, executor: Any, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PREDICT_NOISE: show the model the original outside the last mask, then refine and apply this one's."""
        if x.shape[-2:] != self._shown.shape[-2:]:
            raise ValueError(
                "the sampler changes the size of the latent while it samples, and the picture outside the mask cannot "
                "be kept: choose another sampler, and upscale the edited latent afterwards"
            )
        level = find_noise_level(executor.class_obj.inner_model.model_sampling, sigma.flatten()[0])
        if self._looking:
            denoised, guided = self._predict(executor, x, sigma, *args, **kwargs)
            self.session.look(level, self._predictions(guided))
            return denoised
        if self._noise is None:
            # the latent came with its noise: what is left of it without the picture
            self._noise = level.noise_in(x, self._model_latent)
        mask = self.session.mask
        if mask is not None:
            noised = executor.class_obj.inner_model.scale_latent_inpaint(
                x=x, sigma=sigma, noise=self._noise, latent_image=self._model_latent
            )
            x = keep_picture(mask, x, noised.to(x))
        denoised, guided = self._predict(executor, x, sigma, *args, **kwargs)
        self.session.step(level, self._predictions(guided))
        if self._region is not None:
            self._region.close_step(self.session)
        masks = self.session.masks
        if masks is None:
            return denoised
        edited = keep_edits(masks, [drop_time(each) for each in guided], drop_time(self._model_latent.to(denoised)))
        return edited.view_as(denoised)

    def _predict(self, executor: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, list[Tensor]]:
        """What the guider predicts, and what it predicts for each edit, while the model's attention is read."""
        self._awaiting_call = True
        self._edit_predictions.begin_step()
        try:
            denoised: Tensor = executor(*args, **kwargs)
        except BaseException:
            self.session.drop_step()
            raise
        finally:
            self._awaiting_call = False
        guided = self._edit_predictions.guided(denoised)
        # zero where all of it is finite, in half the operations that isfinite takes, else NaN
        self._zeros += [(each * 0).sum() for each in guided]
        return denoised, guided

    def _predictions(self, guided: list[Tensor]) -> list[Predictions | None]:
        """What was predicted for each edit, of which `guided` are the guided predictions; None: it had no part."""
        without, self._without = self._without, None
        predictions: list[Predictions | None] = []
        for number, each in enumerate(guided):
            with_prompt = self._edit_predictions.with_prompt(number)
            parts = None if with_prompt is None else Predictions(
                drop_time(each), drop_time(with_prompt), None if without is None else drop_time(without),
                drop_time(self._shown.to(each)),
            )  # fmt: skip
            predictions.append(parts)
        return predictions

    def _calc_cond_batch(self, executor: Any, model: Any, conds: list[Any], *args: Any, **kwargs: Any) -> Any:
        """CALC_COND_BATCH: find the edit prompts in the step's first call; later calls of a step are other nodes'."""
        if self._edit_predictions.is_answering:
            return self._edit_predictions.answer(executor, model, conds, *args, **kwargs)
        positive = self._number_of("positive", conds) if self._awaiting_call else None
        self._awaiting_call = False
        if positive is None:
            return executor(model, conds, *args, **kwargs)
        self._reading = True
        try:
            predictions = self._edit_predictions.call(executor, model, conds, positive, *args, **kwargs)
        finally:
            self._reading = False
        numbers = (self._number_of(name, conds) for name in WITHOUT_PROMPT)
        number = next((number for number in numbers if number is not None), None)
        if number is not None:
            self._without = predictions[number]
        else:
            self._without = self._predicted_without_prompt(executor, model, *args, **kwargs)
        return predictions

    def _number_of(self, name: str, conds: list[Any]) -> int | None:
        """Which of the conditionings of a model call is the guider's of that name."""
        wanted = self._guider.conds.get(name)
        return next((number for number, cond in enumerate(conds) if cond is not None and cond is wanted), None)

    def _predicted_without_prompt(self, executor: Any, model: Any, *args: Any, **kwargs: Any) -> Tensor | None:
        """A prediction of our own, in the looks and first steps of a sampling that makes none."""
        if self._extra_steps >= EXTRA_STEPS and not self._looking:
            return None
        self._extra_steps += 1
        return executor(model, [None, self._guider.conds[self._without_prompt]], *args, **kwargs)[1]


def _takes_part(cond: dict[str, Any], sigmas: Tensor) -> bool:
    """Whether the host shows the model a conditioning in a step at any of these sigmas."""
    start, end = cond.get("timestep_start", math.inf), cond.get("timestep_end", 0.0)
    return bool(((sigmas <= start) & (sigmas >= end)).any())


def _is_whole(area: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether an area, as the host has it (its size, then where it begins), is all of a latent of this size."""
    half = len(area) // 2
    return all(map(operator.ge, reversed(area[:half]), reversed(size))) and not any(area[half:])


def _says_something(cond: dict[str, Any]) -> bool:
    """Whether a conditioning has a context that is not zeroed."""
    context = cond.get("cross_attn")
    return context is not None and bool(context.any())
