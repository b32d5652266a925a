"""What a run says about where the prompt acts: collected while sampling, and kept to be refined again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from .tokens import PromptWords

START, END, FIRST_WORD = 0, 1, 2
"""Channels of the cross-attention maps: the start token, the end token, then the words."""

CHANGE, ERROR, ERROR_WITHOUT, FIRST_EXTENT = 0, 1, 2, 3
"""Channels of the extents: see `Evidence`; then the words."""

FULL_NOISE = 2.0
"""From this noise level on steps count alike: they show little of the picture."""

LARGEST = 60000.0
"""What float16 holds; only the last, least noisy steps come near it, and they hardly count."""


@dataclass(frozen=True)
class Predictions:
    """What the model makes of a step, as clean latents ``[B, C, H, W]``.

    `with_prompt` and `without_prompt` are its two predictions (none where there was no negative
    prompt), `guided` is what the sampler gets, and `clean` the latent of the picture.
    """

    guided: Tensor
    with_prompt: Tensor
    without_prompt: Tensor | None
    clean: Tensor

    def rows(self, part: slice) -> Predictions:
        """Those of some pictures of the batch."""
        without = self.without_prompt if self.without_prompt is None else self.without_prompt[part]
        return Predictions(self.guided[part], self.with_prompt[part], without, self.clean[part])

    def signals(self, sigma: Tensor) -> Tensor:
        """``[B, 3, H, W]``, in units of the noise level `sigma`: change, error with the prompt, error without.

        The change is how far the guided prediction is from the picture. The errors are squared: a
        prompt that fits a place lowers the error there, one that contradicts it raises it, which
        is the likelihood ratio of Li et al. 2023 ("Your Diffusion Model is Secretly a Zero-Shot
        Classifier"), cell by cell. Without a prediction without prompt its error is 0, so that
        the prompt contradicts every place.
        """
        change, error = self._away(self.guided, sigma).abs(), self._away(self.with_prompt, sigma).square()
        without = torch.zeros_like(error)
        if self.without_prompt is not None:
            without = self._away(self.without_prompt, sigma).square()
        return torch.stack([change.mean(1), error.mean(1), without.mean(1)], 1)

    def _away(self, prediction: Tensor, sigma: Tensor) -> Tensor:
        return (prediction - self.clean).float() / sigma


@dataclass(frozen=True)
class Evidence:
    """The evidence up to a step, float32, on one device.

    `first` and `maps` ``[B, 2 + words, h, w]``: cross-attention of the start token, the end token
    and the words, in the first step and as mean over the steps. `extents` ``[B, 3 + words, h, w]``:
    the signals (`Predictions.signals`) and the words' maps, carried over the self-attention, which
    spreads them over whole objects; a mean in which steps count by the fourth power of their noise
    level, since early steps show the picture and late ones its edit. `guide` ``[B, C, H, W]``
    is the latent of the picture. `noise_mask` ``[B, H, W]`` bool is where the latent's own noise
    mask lets the sampler edit; none: everywhere.
    """

    first: Tensor
    maps: Tensor
    extents: Tensor
    guide: Tensor
    noise_mask: Tensor | None = None

    def shared(self) -> Evidence:
        """The mean over the batch, as a batch of one: for noise draws of one picture.

        Without the noise masks, of which every picture keeps its own.
        """
        return Evidence(*(part.mean(0, keepdim=True) for part in (self.first, self.maps, self.extents, self.guide)))


@dataclass(frozen=True)
class AttentionRecord:
    """The evidence of a run step by step, kept to be refined again without sampling.

    `maps` ``[steps, batch, 2 + words, h, w]``, `extents` ``[steps, batch, 3 + words, h, w]`` and
    `guide` ``[batch, C, H, W]`` are those of `Evidence`, float16 on the CPU; one entry for each
    model call that saw the edit prompt. `sigmas` are the noise levels of those calls, and `scale`
    the image pixels in one latent pixel. `noise_mask` ``[batch, H, W]`` bool is that of `Evidence`.
    """

    maps: Tensor
    extents: Tensor
    guide: Tensor
    words: PromptWords
    sigmas: tuple[float, ...]
    scale: int
    noise_mask: Tensor | None = None

    @property
    def latent_size(self) -> tuple[int, int]:
        """``(height, width)`` in latent pixels."""
        return self.guide.shape[-2], self.guide.shape[-1]

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)`` in image pixels."""
        return self.latent_size[0] * self.scale, self.latent_size[1] * self.scale

    def evidence(self, steps: int | None = None) -> Evidence:
        """The evidence after the first `steps` (default: all)."""
        maps, extents = self.maps[:steps].float(), self.extents[:steps].float()
        weights = _weight(torch.tensor(self.sigmas[:steps]))
        weighted = torch.einsum("s,sbchw->bchw", weights / weights.sum(), extents)
        return Evidence(maps[0], maps.mean(0), weighted, self.guide.float(), self.noise_mask)


class Recorder:
    """Collects the evidence of the layers of a step, and of the steps of a run, on their device.

    Its words are those of one prompt; its pictures a batch, with the noise mask of `Evidence`.
    """

    def __init__(self, noise_mask: Tensor | None = None) -> None:
        self._noise_mask = noise_mask
        self._maps = _Mean()
        self._affinity = _Mean()
        self._steps: list[Tensor] = []
        self._extents: list[Tensor] = []
        self._sigmas: list[Tensor] = []
        self._clean: Tensor | None = None
        self._total: Tensor | None = None
        self._weighted: Tensor | None = None
        self._weight: Tensor | None = None

    def add_words(self, maps: Tensor) -> None:
        """Add the word maps ``[B, 2 + words, h, w]`` of a cross-attention layer to the step under way."""
        self._maps.add(maps)

    def add_affinity(self, affinity: Tensor) -> None:
        """Add the affinity ``[B, h*w, h*w]`` of a self-attention layer to the step under way."""
        self._affinity.add(affinity)

    def close_step(self, sigma: Tensor, predictions: Predictions) -> bool:
        """End the step that was denoised from `sigma` (a scalar); false when no layer saw the edit prompt in it."""
        maps, affinity = self._maps.value, self._affinity.value
        self.drop_step()
        if maps is None:
            return False
        grid = maps.shape[-2], maps.shape[-1]
        signals = functional.adaptive_avg_pool2d(predictions.signals(sigma), grid)
        extents = torch.cat([signals, maps[:, FIRST_WORD:]], 1)
        if affinity is not None:
            extents = rearrange(extents.flatten(2) @ affinity.mT, "b m (h w) -> b m h w", h=grid[0])
        extents = torch.nan_to_num(extents, 0.0, LARGEST, 0.0).clamp(max=LARGEST)
        weight = _weight(sigma)
        self._total = maps if self._total is None else self._total + maps
        self._weighted = extents * weight if self._weighted is None else self._weighted + extents * weight
        self._weight = weight if self._weight is None else self._weight + weight
        self._clean = predictions.clean
        self._steps.append(maps)
        self._extents.append(extents.half())
        self._sigmas.append(sigma)
        return True

    def drop_step(self) -> None:
        """Forget the step that is under way."""
        self._maps, self._affinity = _Mean(), _Mean()

    def evidence(self) -> Evidence:
        """The evidence of all closed steps. Raises ``ValueError`` when there is none."""
        if self._total is None or self._weighted is None or self._weight is None or self._clean is None:
            raise ValueError("no step has been recorded yet")
        maps, extents = self._total / len(self._steps), self._weighted / self._weight
        return Evidence(self._steps[0], maps, extents, self._clean.float(), self._noise_mask)

    def freeze(self, words: PromptWords, scale: int) -> AttentionRecord:
        """Hand the record over, on the CPU. Raises ``ValueError`` when nothing was recorded."""
        if self._clean is None:
            raise ValueError(
                "the model never attended to the edit prompt: its cross-attention was switched off or replaced, "
                "or the prompt was limited to steps that were not sampled"
            )
        maps, extents = (torch.stack(steps).half().cpu() for steps in (self._steps, self._extents))
        sigmas = tuple(float(sigma) for sigma in torch.stack(self._sigmas).cpu())
        noise_mask = None if self._noise_mask is None else self._noise_mask.cpu()
        return AttentionRecord(maps, extents, self._clean.half().cpu(), words, sigmas, scale, noise_mask)


class _Mean:
    """The mean of tensors that come one after the other, none of which is kept."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, value: Tensor) -> None:
        self._total = value if self._total is None else self._total + value
        self._count += 1

    @property
    def value(self) -> Tensor | None:
        """None where nothing came."""
        return None if self._total is None else self._total / self._count


def _weight(sigma: Tensor) -> Tensor:
    """What a step counts: the fourth power of its noise level."""
    return sigma.clamp(max=FULL_NOISE) ** 4
