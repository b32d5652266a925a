"""The edits of a run: from what is observed to the mask of each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .edits import find_others_pixels
from .evidence import AttentionRecord, Evidence, Predictions
from .maps import KeptFilters
from .noise import NoiseLevel
from .options import MaskSettings
from .recorder import Recorder
from .refine import InstantMask, is_in_doubt, refine, refine_area, resize_mask
from .tokens import PromptWords


class MaskSession:
    """One edit in one run: makes its mask of every step, and keeps the record.

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
        """``[B]``, of `InstantMask`, where the settings' `region` asks for it; None for a mask that was not found."""
        self.soft: Tensor | None = None
        """``[B, H, W]``, of `InstantMask`; None for a mask that was not found."""
        self.observed_steps = 0
        """How many steps saw the edit prompt."""
        self._settings, self._noise_mask = settings, noise_mask
        self._recorder = Recorder(grid, noise_mask)
        self._follow = KeptFilters()

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

    def observe_cross_attention(self, q: Tensor, k: Tensor, matrix: Tensor, grid: tuple[int, int]) -> None:
        """`Recorder.add_cross_attention`."""
        self._recorder.add_cross_attention(q, k, matrix, grid)

    def observe_self_attention(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> None:
        """`Recorder.add_self_attention`."""
        self._recorder.add_self_attention(q, k, grid)

    def drop_step(self) -> None:
        """Forget what was observed in the step under way."""
        self._recorder.drop_step()

    def step(self, level: NoiseLevel, predictions: Predictions, foreign: Tensor | None = None) -> Tensor | None:
        """End a step, and give its mask: the last one, where no layer saw the edit prompt in it.

        `foreign` is that of `Recorder.close_step`.
        """
        if self._recorder.close_step(level, predictions, foreign):
            self.observed_steps += 1
            self._find_mask()
        return self.mask

    @property
    def is_found_by_change(self) -> bool:
        """Whether the mask is found, and by the method "change"."""
        return self._settings is not None and self._settings.method == "change"

    def look(self, level: NoiseLevel, predictions: Predictions) -> None:
        """`Recorder.close_look`; after the sampling make the mask again."""
        self._recorder.close_look(level, predictions)
        if self.observed_steps:
            self._find_mask()

    @property
    def is_steady(self) -> bool:
        """Whether no step changes the mask: it is given, or that of looks alone. Waits for the device."""
        return self._settings is None or self._recorder.rests_on_looks

    @property
    def is_in_doubt(self) -> bool:
        """Whether what any picture's mask rests on may be chance (`refine.is_in_doubt`). Waits for the device."""
        if self._settings is None or not self.is_found_by_change or self._settings.target or not self.observed_steps:
            return False
        evidence = self._recorder.evidence()
        return bool(is_in_doubt(evidence.shared() if self._settings.share else evidence).any())

    @property
    def leaves_rest(self) -> bool:
        """Whether the mask of any picture is all but what the prompt explains. Waits for the device."""
        if self._settings is None or not self.is_found_by_change or not self.observed_steps:
            return False
        return bool(refine(self._recorder.evidence(), self.words, self._settings).fits.any())

    def answer_rest(self, ratio: Tensor) -> None:
        """Make the mask again, with the `rest_ratio` ``[B]`` of `Evidence`."""
        self._recorder.rest_ratio = ratio
        self._find_mask()

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
        if settings.region == "auto":
            mask = refine(evidence, self.words, settings, self._follow)
            self.confidence, self.soft = mask.confidence, mask.soft
            return mask.binary
        self.soft, binary = refine_area(evidence, self.words, settings, self._follow)
        return binary


class EditSessions:
    """The edits of one run, each with a session of its own, and which edit each pixel belongs to (`edits`).

    To edits whose mask was not found, but given, or made by another method, what they take belongs in any case.
    """

    def __init__(self, sessions: Sequence[MaskSession]) -> None:
        self.sessions = list(sessions)

    @property
    def masks(self) -> list[Tensor] | None:
        """The mask of each edit ``[B, H, W]`` bool, in latent pixels, without overlap; None before the first step."""
        binary = [session.mask for session in self.sessions if session.mask is not None]
        if len(binary) < len(self.sessions):
            return None
        if len(binary) == 1:
            return binary
        soft = [
            mask.float() if session.soft is None else session.soft
            for session, mask in zip(self.sessions, binary, strict=True)
        ]
        return [mask & ~find_others_pixels(soft, binary, number) for number, mask in enumerate(binary)]

    @property
    def mask(self) -> Tensor | None:
        """Where any of them edits ``[B, H, W]`` bool; None before the first step."""
        masks = self.masks
        return None if masks is None else torch.stack(masks).any(0) if len(masks) > 1 else masks[0]

    @property
    def confidence(self) -> Tensor | None:
        """``[B]``, that of the edit whose mask is least sure; None where none was found."""
        confidences = [session.confidence for session in self.sessions if session.confidence is not None]
        return torch.stack(confidences).amin(0) if confidences else None

    @property
    def observed_steps(self) -> int:
        """How many steps saw every edit prompt."""
        return min(session.observed_steps for session in self.sessions)

    def step(self, level: NoiseLevel, predictions: Sequence[Predictions | None]) -> None:
        """`MaskSession.step` for each edit, whose pixels so far are foreign to the others; None: it had no part."""
        masks = self.masks
        joined = None if masks is None or len(masks) == 1 else torch.stack(masks).any(0)
        for number, (session, of_edit) in enumerate(zip(self.sessions, predictions, strict=True)):
            if of_edit is None:
                session.drop_step()
            else:
                session.step(level, of_edit, None if masks is None or joined is None else joined & ~masks[number])

    def look(self, level: NoiseLevel, predictions: Sequence[Predictions | None]) -> None:
        """`MaskSession.look` for each edit whose mask a look is good for; None: it had no part."""
        for session, of_edit in zip(self.sessions, predictions, strict=True):
            if of_edit is None or not session.is_found_by_change:
                session.drop_step()
            else:
                session.look(level, of_edit)

    @property
    def is_steady(self) -> bool:
        """Whether no step changes any of the masks. Waits for the device."""
        return all(session.is_steady for session in self.sessions)

    def resume(self, record: AttentionRecord, device: torch.device) -> None:
        """`MaskSession.resume` for each edit, from an earlier run with as many."""
        for session, edit in zip(self.sessions, record.edits, strict=True):
            session.resume(edit, device)

    def drop_step(self) -> None:
        """`MaskSession.drop_step` for each edit."""
        for session in self.sessions:
            session.drop_step()

    def records(self, scale: int) -> list[AttentionRecord]:
        """`MaskSession.record` for each edit."""
        return [session.record(scale) for session in self.sessions]
