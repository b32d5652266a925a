"""A model whose samplings have instant masks, and the records that they leave.

`wrap_model` returns a clone of a model that carries an instant mask. The hooks are put into the
sampling run's own options when it starts, so they end with it, however it ends, and chain onto
whatever other nodes have put there, whichever came first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...instdiff_core.evidence import AttentionRecord
from ...instdiff_core.options import MaskSettings
from ...instdiff_core.session import MaskSession
from ..checks import find_tensor_problem
from .edits import POSITIVE, SampledEdit, find_limit
from .notices import warn_of_size
from .patches import find_patches, follows_steps, hold_places
from .pictures import Latent, drop_time, find_editable, get_samples, keep_picture, repeat_to_batch, scale_mask_to_latent
from .readers import Reader, check_readable, reader_for
from .region_sampling import RegionSampling
from .run import InstantMaskRun
from .sizes import size_to_look
from .text import EditPrompt, check_prompts, settings_of_prompts

SAMPLING = "instdiff_sampling"
"""The attribute of a sampled tensor that holds its `Sampling`."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """What a sampled latent carries of its sampling: the record, and the noise samples that are left in it."""

    record: AttentionRecord
    noise: Tensor | None


class InstantMaskWrapper:
    """Gives every sampling of a wrapped model an instant mask of its own.

    `settings`: None samples without a mask and only records. `prompt` is the edit prompt; without it
    it is found in the positive conditioning, or several are. `mask` ``[B, h, w]`` in 0..1, of any size, takes the
    place of the instant mask. `image_latent` ``[B, C, H, W]`` is the latent of the picture; without it
    the latent that is sampled is. `asks`: whether `ask_about_rest` may be asked, which it is where no other node
    changes the model's calls.

    Every sampled latent carries the record of its own sampling (`get_record`), so that caches, and
    several samplers behind one guide, cannot mix them up.
    """

    def __init__(
        self,
        settings: MaskSettings | None,
        prompt: EditPrompt | None = None,
        mask: Tensor | None = None,
        image_latent: Tensor | None = None,
        asks: bool = True,
    ) -> None:
        self.asks = asks
        self.settings, self.prompt, self.mask, self.image_latent = settings, prompt, mask, image_latent
        self._record: AttentionRecord | None = None
        self._runs = 0
        self._running = False

    def __deepcopy__(self, memo: dict[int, Any]) -> InstantMaskWrapper:
        # ComfyUI v0.3.64 copies a model's options deeply when the next node clones it: it is the same guide still.
        return self

    @property
    def record(self) -> AttentionRecord:
        """What the only sampling recorded. Raises ``ValueError`` when there was none, or more than one."""
        if self._runs > 1:
            raise ValueError(
                "this Instant Mask Guidance has sampled more than once: connect the LATENT of the sampler whose mask "
                "you want to this node's input 'sampled'"
            )
        if self._record is None:
            raise ValueError(
                "nothing was sampled with this model yet: set denoise above 0, and connect the sampler's LATENT to "
                "this node's input 'sampled', so that it runs after the sampler"
            )
        return self._record

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor,
        denoise_mask: Tensor | None = None, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """OUTER_SAMPLE: install a run's hooks into this sampling's own options, sample, keep the original."""
        self._runs += 1
        self._record = None
        run = self._started(executor.class_obj, noise, latent, denoise_mask)
        # before sampling: uni_pc writes into the sigmas
        leaves_noise = float(sigmas[-1]) > 0
        self._running = True
        try:
            with run.installed():
                samples: Tensor = executor(noise, latent, sampler, sigmas, denoise_mask, *args, **kwargs)
        finally:
            self._running = False
        record = run.record()
        if self._runs == 1:
            self._record = record
        mask = run.session.mask
        if mask is not None and not leaves_noise:
            samples = keep_picture(mask.to(samples.device), samples, run.image_latent.to(samples))
        # to where the host would move it next: a moved tensor is another one, and loses what it carries
        samples = _to_intermediate(samples)
        setattr(samples, SAMPLING, Sampling(record, run.noise.to(samples) if leaves_noise else None))
        return samples

    def prepare_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """PREPARE_SAMPLING: raises ``ValueError`` for a wrapped model that another model's sampling only uses."""
        if not self._running:
            raise ValueError(
                "a model from Instant Mask Guidance is used as a second model, where its mask has no effect: connect "
                "it to the guider's first input 'model', and the plain model here"
            )
        return executor(*args, **kwargs)

    def _started(self, guider: Any, noise: Tensor, latent: Tensor, denoise_mask: Tensor | None) -> InstantMaskRun:
        """The run of a sampling, with its hooks installed. Raises ``ValueError`` for one that cannot have a mask."""
        model = guider.model_patcher
        get_samples({"samples": latent})
        if problem := find_tensor_problem("LATENT", latent):
            raise ValueError(f"the latent that is sampled {problem}")
        # the compiled code does not look at the hooks again, neither when they come nor when they go
        if model.get_wrappers(WrappersMP.APPLY_MODEL, "torch.compile"):
            raise ValueError("the model is compiled, and its attention cannot be read: leave TorchCompileModel out")
        positive = guider.conds.get("positive", [])
        contexts = [(cond["cross_attn"], cond) for cond in positive if "cross_attn" in cond]
        prompts = check_prompts(contexts, self.settings, self.prompt)
        image_latent = latent if self.image_latent is None else _like_latent(self.image_latent, latent)
        warn_of_size(model, image_latent)
        latent_size = image_latent.shape[-2], image_latent.shape[-1]
        reader = reader_for(model, latent_size)
        device = model.load_device
        noise_mask = None if denoise_mask is None else find_editable(denoise_mask, latent, device)
        edits = self._edits(prompts, reader, positive, noise_mask, latent, device)
        # what others do around the model's calls, such as caches, may not bear one outside of the steps
        alone = (
            _count_wrappers(guider.model_options) == 1
            and find_patches(guider.model_options, guider.conds) is None
            and not follows_steps(guider.conds)
        )
        look_size = latent_size
        by_change = any(edit.session.is_found_by_change for edit in edits)
        if alone and by_change and not hold_places(guider.conds):
            look_size = size_to_look(model, reader, latent_size)
        if look_size != latent_size:
            # in the steps the same layers are read as in the looks
            reader = reader_for(model, look_size)
            edits = self._edits(prompts, reader, positive, noise_mask, latent, device)
        region = None
        if self.settings is not None and self.settings.region == "auto":
            region = RegionSampling(reader, guider.model_options, guider.conds)
        noisy = bool(noise.any())
        run = InstantMaskRun(
            guider, edits, reader, image_latent, noisy, look_size if alone else None, alone and self.asks, region
        )
        earlier: Sampling | None = getattr(latent, SAMPLING, None)
        if earlier is not None and earlier.noise is not None and not noisy:
            run.go_on(earlier.record, earlier.noise)
        return run

    def _edits(
        self, prompts: Sequence[EditPrompt], reader: Reader, positive: Sequence[dict[str, Any]],
        noise_mask: Tensor | None, latent: Tensor, device: torch.device,
    ) -> list[SampledEdit]:  # fmt: skip
        """The edits of a sampling of `latent`, whose `positive` conditionings are these.

        The mask of this wrapper is the mask of a single edit; of several it is what each is found inside of.
        """
        several = len(prompts) > 1
        settings = [None] * len(prompts) if self.settings is None else settings_of_prompts(prompts, self.settings)
        edits = []
        for number, (prompt, own) in enumerate(zip(prompts, settings, strict=True)):
            limits = [noise_mask]
            if several:
                limits.append(find_limit(positive, prompt, latent))
                if self.mask is not None and prompt.mask is None:
                    limits.append(scale_mask_to_latent(self.mask, latent))
            session = MaskSession(prompt.words, own, reader.grid, _all_of(limits, device))
            mask = self.mask if prompt.mask is None and not several else prompt.mask
            if mask is not None and own is not None:
                session.fix_mask(scale_mask_to_latent(mask, latent).to(device))
            name = f"instdiff_edit_{number + 1}" if number else POSITIVE
            edits.append(SampledEdit(prompt, session, name, self.prompt is not None))
        return edits


def get_record(attention: AttentionRecord | InstantMaskWrapper, sampled: Latent | None = None) -> AttentionRecord:
    """The record behind an ATTENTION.

    Instant Mask Guidance gives one that sampling fills: then the LATENT `sampled` says which sampling
    is meant. Raises ``ValueError`` when that was not sampled with a wrapped model, and without it
    when there was no sampling, or more than one.
    """
    if isinstance(attention, AttentionRecord):
        return attention
    if sampled is None:
        return attention.record
    sampling: Sampling | None = getattr(sampled["samples"], SAMPLING, None)
    if sampling is None:
        raise ValueError(
            "the LATENT at 'sampled' was not made with Instant Mask Guidance: connect it straight from the sampler "
            "whose model comes from there (of SamplerCustomAdvanced the first output), and set its denoise above 0"
        )
    return sampling.record


def wrap_model(model: Any, wrapper: InstantMaskWrapper) -> Any:
    """A clone of `model` whose samplings have instant masks. Raises ``ValueError`` for models that cannot be read."""
    check_readable(model)
    clone = model.clone()
    for kind, function in (
        (WrappersMP.OUTER_SAMPLE, wrapper.outer_sample),
        (WrappersMP.PREPARE_SAMPLING, wrapper.prepare_sampling),
    ):
        comfy.patcher_extension.add_wrapper(kind, function, clone.model_options, is_model_options=True)
    return clone


def is_wrapped(model: Any) -> bool:
    """Whether the samplings of a MODEL have instant masks."""
    return _count_wrappers(model.model_options) > 0


def check_unwrapped(model: Any) -> None:
    """Raises ``ValueError`` for a MODEL whose samplings have instant masks."""
    if is_wrapped(model):
        raise ValueError(
            "the model comes from Instant Mask Guidance, and its samplings have a mask already: connect the model that "
            "goes into Instant Mask Guidance"
        )


def _count_wrappers(options: dict[str, Any]) -> int:
    """How many instant masks the samplings with these model options have."""
    wrappers = comfy.patcher_extension.get_all_wrappers(WrappersMP.OUTER_SAMPLE, options, is_model_options=True)
    return sum(isinstance(getattr(each, "__self__", None), InstantMaskWrapper) for each in wrappers)


def _like_latent(image_latent: Tensor, latent: Tensor) -> Tensor:
    """The picture's latent, for a batch like that of `latent`. Raises ``ValueError`` for another size."""
    if image_latent.shape[1:] != drop_time(latent).shape[1:]:
        raise ValueError(
            f"Instant Mask Guidance has a latent of {tuple(image_latent.shape[1:])}, and {tuple(latent.shape[1:])} is "
            "sampled: give the sampler the LATENT that comes out of Instant Mask Guidance. For a second pass on an "
            "upscaled latent, put a Masked Sampler behind the upscaling, with the mask of the first pass at its "
            "input 'mask'"
        )
    return repeat_to_batch(image_latent, len(latent)).view_as(latent)


def _all_of(limits: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """Where all of the limits ``[B, H, W]`` bool let something be; None: everywhere."""
    known = [limit.to(device) for limit in limits if limit is not None]
    return torch.stack(known).all(0) if known else None


def _to_intermediate(samples: Tensor) -> Tensor:
    management = comfy.model_management
    dtype = management.intermediate_dtype() if hasattr(management, "intermediate_dtype") else samples.dtype
    return samples.to(device=management.intermediate_device(), dtype=dtype)
