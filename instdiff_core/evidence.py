"""What a run says about where the prompt acts: collected while sampling, and kept to be refined again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from .noise import NoiseLevel
from .options import MaskSettings
from .tokens import PromptWords

START, END, FIRST_WORD = 0, 1, 2
"""Channels of the cross-attention maps: the start token, the end token, then the words."""

CHANGE, ERROR, ERROR_WITHOUT, FIRST_PROPAGATED = 0, 1, 2, 3
"""Channels of the extents: see `Evidence`; then the words."""

FULL_NOISE = 5.0
"""From this noise level on steps count alike: they show little of the picture."""

TOO_NOISY = 2.0
"""Noise to signal of the first step above which a sampling hardly shows the picture, and looks at it count alone."""


@dataclass(frozen=True)
class Predictions:
    """What the model makes of a step, as clean latents ``[B, C, H, W]``.

    `with_prompt` and `without_prompt` are its two predictions (None where there was no negative
    prompt), `guided` is what the sampler gets, and `image_latent` the latent of the picture.
    """

    guided: Tensor
    with_prompt: Tensor
    without_prompt: Tensor | None
    image_latent: Tensor

    def entries(self, part: slice) -> Predictions:
        """The predictions of some entries of the batch."""
        without = self.without_prompt if self.without_prompt is None else self.without_prompt[part]
        return Predictions(self.guided[part], self.with_prompt[part], without, self.image_latent[part])

    def signals(self, level: NoiseLevel) -> Tensor:
        """``[B, 3, H, W]``, in units of the noise at its `level`: change, error with the prompt, error without.

        The change is how far the guided prediction is from the picture. The errors are squared: a
        prompt that fits a place lowers the error there, one that contradicts it raises it, which
        is the likelihood ratio of Li et al. 2023 ("Your Diffusion Model is Secretly a Zero-Shot
        Classifier"), cell by cell. Without a prediction without prompt its error is 0, so that
        the prompt contradicts every place.
        """
        predictions = [self.guided, self.with_prompt]
        if self.without_prompt is not None:
            predictions.append(self.without_prompt)
        errors = level.error(torch.stack(predictions, 1), self.image_latent.unsqueeze(1))
        errors[:, CHANGE].abs_()
        errors[:, ERROR:].square_()
        signals = errors.mean(2)
        return functional.pad(signals, (0, 0, 0, 0, 0, 1)) if self.without_prompt is None else signals


@dataclass(frozen=True)
class Evidence:
    """The evidence up to a step, float32, on one device.

    `first` and `maps` ``[B, 2 + words, h, w]``: cross-attention of the start token, the end token
    and the words, in the first step and as mean over the steps. `propagated` ``[B, 3 + words, h, w]``:
    the signals (`Predictions.signals`) and the words' maps, carried over the self-attention, which
    spreads them over whole objects; a mean in which steps count by the fourth power of their noise
    level, since early steps show the picture and late ones its edit. `image_latent` ``[B, C, H, W]``
    is the latent of the picture. `noise_mask` ``[B, H, W]`` bool is where the latent's own noise
    mask lets the sampler edit; None: everywhere. `rest_ratio` ``[B]`` says how well the prompt fits what the mask
    leaves to it (`rest.ask_about_rest`); None where that was not asked. A look at the picture before the
    sampling (`look`) counts in `propagated` as much as the first step, or alone (`TOO_NOISY`). `looks`, of the shape
    of `propagated`, is the mean of all looks, where there were more after the sampling (`look.look_again`); else None.
    """

    first: Tensor
    maps: Tensor
    propagated: Tensor
    image_latent: Tensor
    noise_mask: Tensor | None = None
    rest_ratio: Tensor | None = None
    looks: Tensor | None = None

    def shared(self) -> Evidence:
        """The mean over the batch, as a batch of one: for several noise samples of one picture.

        Without the noise masks, of which every picture keeps its own.
        """
        parts = self.first, self.maps, self.propagated, self.image_latent
        first, maps, propagated, image_latent = (part.mean(0, keepdim=True) for part in parts)
        ratio, looks = (None if part is None else part.mean(0, keepdim=True) for part in (self.rest_ratio, self.looks))
        return Evidence(first, maps, propagated, image_latent, None, ratio, looks)


@dataclass(frozen=True)
class AttentionRecord:
    """The evidence of a run step by step, kept to be refined again without sampling.

    `maps` ``[steps, batch, 2 + words, h, w]``, `propagated` ``[steps, batch, 3 + words, h, w]`` and
    `image_latent` ``[batch, C, H, W]`` are those of `Evidence`, float32 on the CPU; one entry for each
    model call that saw the edit prompt. `sigmas` are the noise levels of those calls (`NoiseLevel.ratio`, infinite
    for noise alone), and `scale` the image pixels in one latent pixel. `noise_mask` ``[batch, H, W]`` bool,
    `rest_ratio` ``[batch]`` and `looks` ``[batch, 3 + words, h, w]`` are those of `Evidence`. `look`, of the same
    shape, is the mean of `propagated` over the looks at the picture before the sampling (`look`); None where there
    were none. `look_size` is the size ``(height, width)`` of the latents that these saw, where it is not that of
    `image_latent`. `remark` is a sentence on the sampling, for the report. `settings` are the edit's own, where it has
    any. Of several edits in one run this is the first, and `further` has the others.
    """

    maps: Tensor
    propagated: Tensor
    image_latent: Tensor
    words: PromptWords
    sigmas: tuple[float, ...]
    scale: int
    noise_mask: Tensor | None = None
    remark: str = ""
    settings: MaskSettings | None = None
    further: tuple[AttentionRecord, ...] = ()
    rest_ratio: Tensor | None = None
    look: Tensor | None = None
    looks: Tensor | None = None
    look_size: tuple[int, int] | None = None

    @staticmethod
    def joined(edits: Sequence[AttentionRecord]) -> AttentionRecord:
        """The records of the edits of a run as one."""
        return replace(edits[0], further=tuple(edits[1:]))

    @property
    def edits(self) -> tuple[AttentionRecord, ...]:
        """The records of all edits of the run, each alone."""
        return (replace(self, further=()), *self.further) if self.further else (self,)

    @property
    def latent_size(self) -> tuple[int, int]:
        """``(height, width)`` in latent pixels."""
        return self.image_latent.shape[-2], self.image_latent.shape[-1]

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)`` in image pixels."""
        return self.latent_size[0] * self.scale, self.latent_size[1] * self.scale

    @property
    def rests_on_looks(self) -> bool:
        """Whether looks at the picture count alone: the sampling began with too much noise to show it, or shows it
        larger than the model knows pictures."""
        return self.look is not None and (self.sigmas[0] > TOO_NOISY or self.look_size is not None)

    @property
    def weights(self) -> Tensor:
        """What each step counts ``[steps]``: by its noise level, or 0.

        0 for a step without a prediction without prompt, where others or a look have one, and where looks count alone.
        """
        sigmas = torch.tensor(self.sigmas)
        # in units of noise alone nothing errs; but such steps are a sampling's first, which always have one
        compared = (self.propagated[:, :, ERROR_WITHOUT] > 0).flatten(1).any(1) | sigmas.isinf()
        if self.look is None:
            compared |= ~compared.any()
        return step_weight(sigmas) * compared * (not self.rests_on_looks)

    def evidence(self, steps: int | None = None) -> Evidence:
        """The evidence after the first `steps` (default: all)."""
        *_, evidence = islice(self.evidences(), steps)
        return evidence

    def evidences(self) -> Iterator[Evidence]:
        """The evidence after each step."""
        sums = RunningEvidence()
        if self.look is not None:
            sums.look.add(self.look.float())
        for maps, propagated, weight in zip(self.maps, self.propagated, self.weights, strict=True):
            sums.add(maps.float(), propagated.float(), weight)
            evidence = sums.evidence(self.image_latent.float(), self.noise_mask)
            yield replace(evidence, rest_ratio=self.rest_ratio, looks=self.looks)


class RunningEvidence:
    """The running sums of a run's evidence, of which none of the steps is kept but the first.

    `look` is that of the looks before the steps, to which it is added with the first of them.
    """

    def __init__(self) -> None:
        self.look = RunningMean()
        self._first: Tensor | None = None
        self._maps = RunningMean()
        self._propagated = RunningMean()

    def add(self, maps: Tensor, propagated: Tensor, weight: Tensor) -> None:
        """Add a step: its maps, its propagated maps, and its weight (a scalar)."""
        if self._first is None:
            self._first = maps
            if self.look.value is not None:
                # as much as the first step, and alone where no step counts
                self._propagated.add(self.look.value, torch.where(weight > 0, weight, 1.0))
        self._maps.add(maps)
        self._propagated.add(propagated, weight)

    def evidence(self, image_latent: Tensor, noise_mask: Tensor | None) -> Evidence:
        """The evidence of the steps so far, of which there must be one."""
        maps, propagated = self._maps.value, self._propagated.value
        assert self._first is not None
        assert maps is not None
        assert propagated is not None
        return Evidence(self._first, maps, propagated, image_latent, noise_mask)


class RunningMean:
    """The weighted mean of tensors that come one after the other, none of which is kept."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._weight: Tensor | float = 0

    def add(self, value: Tensor, weight: Tensor | None = None) -> None:
        """Without a weight it is one."""
        weighted = value if weight is None else value * weight
        self._total = weighted if self._total is None else self._total + weighted
        self._weight = self._weight + (1 if weight is None else weight)

    @property
    def value(self) -> Tensor | None:
        """None where nothing came."""
        return None if self._total is None else self._total / self._weight


def step_weight(sigma: Tensor) -> Tensor:
    """What a step counts: the fourth power of its noise level."""
    return sigma.clamp(max=FULL_NOISE) ** 4
