"""The masks of one record, made again whenever something moves: for the mask editor, which must not wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from .components import clean_masks
from .edits import find_others_pixels
from .evidence import FIRST_PROPAGATED, AttentionRecord, Evidence
from .maps import KeptFilters, rescale_to_unit
from .options import MaskSettings
from .refine import InstantMask, limit_mask, refine, resize_mask, resize_noise_mask


class EditRefineries:
    """A refinery for each edit of a run, with its settings; together they know what belongs to which."""

    def __init__(
        self, record: AttentionRecord, settings: Sequence[MaskSettings], pictures: Tensor | None = None
    ) -> None:
        self.edits = [Refinery(edit, own, pictures) for edit, own in zip(record.edits, settings, strict=True)]

    def find_own_pixels(self, edit: int, mask: InstantMask, steps: int, number: int) -> Tensor:
        """Where a pixel belongs to no other edit, as the settings of these have it, ``[H, W]`` bool.

        `mask` ``[1, H, W]`` is the one of this edit, made of the same steps and picture.
        """
        masks = [mask if other == edit else each.finish(steps, number) for other, each in enumerate(self.edits)]
        return ~find_others_pixels([each.soft for each in masks], [each.binary for each in masks], edit)[0]


class Refinery:
    """Makes masks of a record, as `refine.refine_record` does with these settings and pictures.

    `pictures` uint8 ``[1 or batch, H, W, 3]`` are at the record's image size; None: there are none.
    Masks of a batch may differ from `refine_record`'s by what rounding does when it is computed as a whole.
    What does not depend on what moved is kept from the last time, so an instance belongs to one thread.
    """

    def __init__(self, record: AttentionRecord, settings: MaskSettings, pictures: Tensor | None = None) -> None:
        self.record, self.settings = record, settings
        self._pictures = pictures
        self._follow = KeptFilters()
        self._evidence: tuple[int, Evidence] | None = None
        self._picture: tuple[int, Tensor] | None = None
        self._finished: tuple[tuple[int, int], InstantMask] | None = None

    def refine(self, target: tuple[str, ...], steps: int, number: int) -> InstantMask:
        """The mask of picture `number` of the batch, from the first `steps`, as a batch of one.

        `target` is that of the settings, or what takes its place. Neither mask ends at the noise
        mask (`noise_mask`), and the binary one is not cleaned: that is left to who cuts the soft
        one again. Raises ``ValueError`` for a word that is not in the edit prompt.
        """
        settings = replace(self.settings, target=target, share=False, min_area=0.0)
        mask = refine(self._evidence_of(steps, number), self.record.words, settings, self._follow)
        return resize_mask(mask, self.record.image_size, settings, self._picture_of(number), follow=self._follow)

    def finish(self, steps: int, number: int) -> InstantMask:
        """The mask that `refine_record` gives for that picture with the settings as they are."""
        if self._finished is None or self._finished[0] != (steps, number):
            mask = self.refine(self.settings.target, steps, number)
            mask = replace(mask, binary=clean_masks(mask.binary, self.settings.min_area))
            allowed = self.noise_mask(number)
            self._finished = (steps, number), limit_mask(None if allowed is None else allowed[None], mask)
        return self._finished[1]

    def word_maps(self, steps: int, number: int) -> Tensor:
        """Where each word acts on that picture ``[words, h, w]``, each from 0 to 1, on the grid of the evidence."""
        return rescale_to_unit(self._evidence_of(steps, number).propagated[0, FIRST_PROPAGATED:])

    def noise_mask(self, number: int) -> Tensor | None:
        """Where the latent's own noise mask lets that picture be edited ``[H, W]`` bool; None: everywhere."""
        noise_mask = self.record.noise_mask
        if noise_mask is None:
            return None
        at_image_size = resize_noise_mask(noise_mask[number : number + 1], self.record.image_size)
        assert at_image_size is not None
        return at_image_size[0]

    def _evidence_of(self, steps: int, number: int) -> Evidence:
        """The evidence of one picture, or of all that share a mask; without a noise mask."""
        if self._evidence is None or self._evidence[0] != steps:
            self._evidence = steps, self.record.evidence(steps)
        evidence = self._evidence[1]
        if self.settings.share:
            return evidence.shared()
        one = slice(number, number + 1)
        ratio, looks = (None if part is None else part[one] for part in (evidence.rest_ratio, evidence.looks))
        return Evidence(
            evidence.first[one], evidence.maps[one], evidence.propagated[one], evidence.image_latent[one], None, ratio,
            looks,
        )  # fmt: skip

    def _picture_of(self, number: int) -> Tensor | None:
        """The picture whose edges a mask follows, ``[1, 3, H, W]`` float32 in 0..1."""
        if self._pictures is None:
            return None
        number = min(number, len(self._pictures) - 1)
        if self._picture is None or self._picture[0] != number:
            self._picture = number, (self._pictures[number : number + 1] / 255).movedim(-1, 1)
        return self._picture[1]
