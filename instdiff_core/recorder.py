"""Collects the evidence of a run while it is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from .attention import Layer, attend_together, to_maps
from .evidence import (
    ERROR_WITHOUT,
    FIRST_PROPAGATED,
    FIRST_WORD,
    TOO_NOISY,
    AttentionRecord,
    Evidence,
    Predictions,
    RunningEvidence,
    RunningMean,
    step_weight,
)
from .noise import NoiseLevel
from .tokens import PromptWords

TOGETHER = 10
"""How many cross-attention layers wait for each other: those of a block of SDXL.

What they hold is less than what the model's larger layers compute with, so that the peak of its memory stays.
"""

Grid = tuple[int, int]
Kind = tuple[Grid, torch.Size, torch.Size]
"""The grid of an attention layer ``(h, w)``, and the shapes of its queries and keys."""

LARGEST = 60000.0
"""What float16 holds; only the last, least noisy steps come near it, and they hardly count."""


class Recorder:
    """Collects the evidence of the layers of a step, and of the steps of a run, on their device.

    Its words are those of one prompt; its pictures a batch, with the noise mask of `Evidence`. `grid`
    ``(h, w)`` is that of the evidence, to which layers of another size are brought; None: that of
    the first layer.
    """

    def __init__(self, grid: Grid | None = None, noise_mask: Tensor | None = None) -> None:
        self._grid, self._noise_mask = grid, noise_mask
        self._maps: list[Tensor] = []
        self._cross: dict[Kind, tuple[Tensor, list[Layer]]] = {}
        self._cells: dict[Kind, list[Layer]] = {}
        self._steps: list[Tensor] = []
        self._propagated: list[Tensor] = []
        self._sigmas: list[Tensor] = []
        self._sums = RunningEvidence()
        self._looks = RunningMean()
        self._looked_again = False
        self._seen_size: tuple[int, int] | None = None
        self._signals: Tensor | None = None
        self._compared = False
        self._image_latent: Tensor | None = None
        self.rest_ratio: Tensor | None = None
        """That of `Evidence`, to be set when the last step is closed."""

    def resume(self, record: AttentionRecord, device: torch.device) -> None:
        """Begin with the steps of an earlier run on the same picture and words, whose grid may be another one."""
        grid = self._grid = self._grid or (record.maps.shape[-2], record.maps.shape[-1])
        self._seen_size = record.look_size
        self._image_latent = record.image_latent.to(device)
        self._compared = bool(record.propagated[:, :, ERROR_WITHOUT].any())
        if record.look is not None:
            self._sums.look.add(_on_grid(record.look.to(device), grid))
        steps = zip(record.maps.to(device), record.propagated.to(device), record.weights.to(device), strict=True)
        for maps, propagated, weight in steps:
            self._add(_on_grid(maps, grid), _on_grid(propagated, grid), weight)
        self._signals = self.evidence().propagated[:, :FIRST_PROPAGATED]
        self._sigmas = list(torch.tensor(record.sigmas, device=device))

    def add_words(self, maps: Tensor) -> None:
        """Add the word maps ``[B, 2 + words, h, w]`` of a cross-attention layer to the step under way."""
        self._add_maps(maps, 1)

    def add_cross_attention(self, q: Tensor, k: Tensor, matrix: Tensor, grid: Grid) -> None:
        """Add a cross-attention layer, whose `grid` is ``(h, w)``, to the step.

        Its queries ``[B, heads, h*w, d]`` and keys ``[B, heads, L, d]``, of any float type, are kept until there are
        `TOGETHER` of their kind, or the step is closed; `matrix` ``[L, 2 + words]`` is that of
        `attention.word_maps`, one for all keys of a length.
        """
        self._grid = self._grid or grid
        kind = grid, q.shape, k.shape
        _, layers = self._cross.setdefault(kind, (matrix, []))
        layers.append((q, k))
        if len(layers) == TOGETHER:
            self._read_words(kind)

    def add_self_attention(self, q: Tensor, k: Tensor, grid: Grid) -> None:
        """Add a self-attention layer, whose `grid` is ``(h, w)``, to the step.

        Its queries and keys ``[B, heads, h*w, d]``, of any float type, are kept until the step is closed.
        """
        self._cells.setdefault((grid, q.shape, k.shape), []).append((q, k))

    def close_step(self, level: NoiseLevel, predictions: Predictions, foreign: Tensor | None = None) -> bool:
        """End the step that was denoised from `level`; false when no layer saw the edit prompt in it.

        `foreign` ``[B, H, W]`` bool is where the latent has been given to another edit: what the model makes of that
        says nothing of the picture, and the signals of the step before hold there. None: nowhere.
        """
        observed = self._observed(level, predictions, foreign)
        if observed is None:
            return False
        weight = step_weight(level.ratio)
        if predictions.without_prompt is None and self._compared:
            weight = torch.zeros_like(weight)
        self._compared = self._compared or predictions.without_prompt is not None
        self._sigmas.append(level.ratio)
        self._image_latent = predictions.image_latent.float()
        if self._sums.look.value is not None:
            weight = weight * (self._sigmas[0] <= TOO_NOISY) * (self._look_size is None)
        self._add(*observed, weight)
        return True

    def close_look(self, level: NoiseLevel, predictions: Predictions) -> None:
        """End a look at the picture, noised to `level`, before the first step or after the last.

        It may see the picture smaller than the steps do.
        """
        observed = self._observed(level, predictions)
        if observed is None:
            return
        self._looks.add(observed[1])
        if self._steps:
            self._looked_again = True
            return
        self._seen_size = predictions.image_latent.shape[-2], predictions.image_latent.shape[-1]
        self._sums.look.add(observed[1])
        self._compared = self._compared or predictions.without_prompt is not None

    @property
    def rests_on_looks(self) -> bool:
        """Whether looks at the picture count alone: that of `AttentionRecord`. Waits for the device."""
        if self._sums.look.value is None or not self._sigmas:
            return False
        return self._look_size is not None or bool(self._sigmas[0] > TOO_NOISY)

    @property
    def _look_size(self) -> Grid | None:
        """That of `AttentionRecord`."""
        assert self._image_latent is not None
        own = self._image_latent.shape[-2], self._image_latent.shape[-1]
        return None if self._seen_size == own else self._seen_size

    def _observed(
        self, level: NoiseLevel, predictions: Predictions, foreign: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """The maps and the propagated maps of what is under way, which ends; None when no layer saw the edit prompt."""
        for kind in list(self._cross):
            self._read_words(kind)
        layer_maps, cells = self._maps, self._cells
        self.drop_step()
        if not layer_maps or self._grid is None:
            return None
        signals = predictions.signals(level)
        # where a model is on several GPUs, another one may have computed this prompt
        maps = _mean(layer_maps).to(signals.device)
        if foreign is not None and self._signals is not None:
            before = _on_grid(self._signals, (signals.shape[-2], signals.shape[-1]))
            signals = torch.where(foreign.unsqueeze(1), before, signals)
            if predictions.without_prompt is None:
                signals[:, ERROR_WITHOUT] = 0
        self._signals = signals
        pooled = functional.adaptive_avg_pool2d(signals, self._grid)
        propagated = _propagate(torch.cat([pooled, maps[:, FIRST_WORD:]], 1), cells)
        return maps, torch.nan_to_num(propagated, 0.0, LARGEST, 0.0).clamp(max=LARGEST)

    def drop_step(self) -> None:
        """Forget the step that is under way."""
        self._maps, self._cross, self._cells = [], {}, {}

    def evidence(self) -> Evidence:
        """The evidence of all closed steps. Raises ``ValueError`` when there is none."""
        if self._image_latent is None:
            raise ValueError("no step has been recorded yet")
        evidence = self._sums.evidence(self._image_latent, self._noise_mask)
        return replace(evidence, rest_ratio=self.rest_ratio, looks=self._all_looks)

    def freeze(self, words: PromptWords, scale: int) -> AttentionRecord:
        """Hand the record over, on the CPU. Raises ``ValueError`` when nothing was recorded."""
        if self._image_latent is None:
            raise ValueError(
                f"the model never attended to the edit prompt '{' '.join(words.texts)}': its cross-attention was "
                "switched off or replaced, or the prompt was limited to steps that were not sampled"
            )
        maps, propagated = (torch.stack(steps).cpu() for steps in (self._steps, self._propagated))
        sigmas = tuple(float(sigma) for sigma in torch.stack(self._sigmas).cpu())
        noise_mask = None if self._noise_mask is None else self._noise_mask.cpu()
        rest_ratio, look, looks = (
            None if each is None else each.cpu() for each in (self.rest_ratio, self._sums.look.value, self._all_looks)
        )
        return AttentionRecord(
            maps, propagated, self._image_latent.cpu(), words, sigmas, scale, noise_mask, rest_ratio=rest_ratio,
            look=look, looks=looks, look_size=self._look_size,
        )  # fmt: skip

    @property
    def _all_looks(self) -> Tensor | None:
        """That of `Evidence`."""
        return self._looks.value if self._looked_again else None

    def _read_words(self, kind: Kind) -> None:
        """Make the maps of the cross-attention layers of a kind."""
        matrix, layers = self._cross.pop(kind)
        self._add_maps(to_maps(attend_together(layers, matrix), kind[0]), len(layers))

    def _add_maps(self, maps: Tensor, layers: int) -> None:
        """Add the mean of so many layers to the step."""
        self._grid = self._grid or (maps.shape[-2], maps.shape[-1])
        self._maps += [_on_grid(maps, self._grid)] * layers

    def _add(self, maps: Tensor, propagated: Tensor, weight: Tensor) -> None:
        self._steps.append(maps)
        self._propagated.append(propagated)
        self._sums.add(maps, propagated, weight)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors, of which some may be there several times."""
    alone = all(tensor is tensors[0] for tensor in tensors)
    return tensors[0] if alone else torch.stack(list(tensors)).mean(0)


def _on_grid(maps: Tensor, grid: Grid) -> Tensor:
    """Maps ``[B, M, h, w]`` on another grid: some nodes make a layer's coarser for some steps, and models differ."""
    if tuple(maps.shape[-2:]) == grid:
        return maps
    return functional.interpolate(maps, grid, mode="bilinear", align_corners=False)


def _propagate(maps: Tensor, cells: dict[Kind, list[Layer]]) -> Tensor:
    """Maps ``[B, M, h, w]`` propagated by self-attention, each layer's on its own grid; as they are without any.

    The mean over the kinds of layers, whose values are float32: the signals are beyond float16.
    """
    grid = (maps.shape[-2], maps.shape[-1])
    propagated = []
    for (own, *_), layers in cells.items():
        pooled = maps if own == grid else functional.adaptive_avg_pool2d(maps, own)
        attended = to_maps(attend_together(layers, pooled.flatten(2).mT), own)
        propagated.append(_on_grid(attended, grid).to(maps.device))
    return _mean(propagated) if propagated else maps
