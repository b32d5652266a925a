"""One edit in one run: from what is observed to the mask of each step."""

from __future__ import annotations

import torch
from torch import Tensor

from .evidence import AttentionRecord, Evidence, Predictions, Recorder
from .noise import NoiseLevel
from .options import MaskSettings
from .refine import InstantMask, refine, resize_mask
from .tokens import PromptWords


class MaskSession:
    """Makes the mask of every step of a run, and keeps the record.

    `settings`: None only records. `grid` and `noise_mask` are those of `Recorder`.
    """

    def __init__(
        self,
        words: PromptWords,
        settings: MaskSettings | None,
        grid: tuple[int, int] | None = None,
        noise_mask: Tensor | None = None,
    ) -> None:
        self.words = words
        self.mask: Tensor | None = None
        """``[B, H, W]`` bool in latent pixels, of the last step; None before the first."""
        self.confidence: Tensor | None = None
        """``[B]``, of `InstantMask`; None for a mask that the session did not find."""
        self.observed_steps = 0
        """How many steps saw the edit prompt."""
        self._settings, self._noise_mask = settings, noise_mask
        self._recorder = Recorder(grid, noise_mask)

    def fix_mask(self, mask: Tensor) -> None:
        """Use this mask ``[B, H, W]`` bool, inside the noise mask, in every step."""
        self.mask = mask if self._noise_mask is None else mask & self._noise_mask
        self._settings = None

    def resume(self, record: AttentionRecord, device: torch.device) -> None:
        """Begin where an earlier run on the same picture and words ended."""
        self._recorder.resume(record, device)
        self._find_mask()

    def observe_words(self, maps: Tensor) -> None:
        """`Recorder.add_words`."""
        self._recorder.add_words(maps)

    def observe_self_attention(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> None:
        """`Recorder.add_self_attention`."""
        self._recorder.add_self_attention(q, k, grid)

    def drop_step(self) -> None:
        """Forget what was observed in the step under way."""
        self._recorder.drop_step()

    def step(self, level: NoiseLevel, predictions: Predictions) -> Tensor | None:
        """End a step, and give its mask: the last one, where no layer saw the edit prompt in it."""
        if self._recorder.close_step(level, predictions):
            self.observed_steps += 1
            self._find_mask()
        return self.mask

    def final(self, size: tuple[int, int], settings: MaskSettings, picture: Tensor) -> InstantMask:
        """The mask of the steps so far at image size ``(H, W)``, by the edges of `picture`, as `resize_mask` has it."""
        mask = refine(self._recorder.evidence(), self.words, settings)
        return resize_mask(mask, size, settings, picture, self._noise_mask)

    def record(self, scale: int) -> AttentionRecord:
        """What was observed; a latent pixel is `scale` image pixels. Raises ``ValueError`` as `Recorder.freeze`."""
        return self._recorder.freeze(self.words, scale)

    def _find_mask(self) -> None:
        if self._settings is not None:
            self.mask = self.mask_from(self._recorder.evidence(), self._settings)

    def mask_from(self, evidence: Evidence, settings: MaskSettings) -> Tensor:
        """The mask ``[B, H, W]`` bool of a step. Other methods derive from this class and replace this."""
        mask = refine(evidence, self.words, settings)
        self.confidence = mask.confidence
        return mask.binary
