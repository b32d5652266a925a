"""Several edits in one sampling: each has its own guided prediction, by whatever guider samples.

A guider asks once a step for its predictions. With several edits the prompts of all of them are in that call, a row
more for each further edit; then the guider is asked again for each of these, with the edit's prompt for its positive
one, and gets the predictions that are there already. So cfg, and what other nodes do before and after it, is the
guider's own for every edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...instdiff_core.edits import part_masks
from ...instdiff_core.evidence import AttentionRecord
from ...instdiff_core.options import MaskSettings
from ...instdiff_core.refine import refine_record
from ...instdiff_core.session import MaskSession
from .pictures import scale_mask_to_latent, scale_own_mask
from .text import PROMPT, EditPrompt, settings_of_prompts

POSITIVE = "positive"

LIMITS = ("mask", "mask_strength", "set_area_to_bounds")
"""What Conditioning (Set Mask) leaves in a conditioning."""


@dataclass(eq=False)
class SampledEdit:
    """An edit of a sampling, and the name of its conditionings among the guider's.

    A `named` prompt is that of all of these conditionings, else only of those that carry it.
    """

    prompt: EditPrompt
    session: MaskSession
    name: str = POSITIVE
    named: bool = False
    _matrices: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict)

    def conditionings(self, guider: Any) -> list[dict[str, Any]]:
        """Those whose attention is read, as the host has prepared them."""
        return [cond for cond in guider.conds.get(self.name, []) if self.named or is_of(cond, self.prompt)]

    def token_matrix(self, length: int, device: torch.device) -> Tensor:
        """`PromptWords.matrix` for a context of this length, made once."""
        if (length, device) not in self._matrices:
            self._matrices[length, device] = self.prompt.words.matrix(length, device)
        return self._matrices[length, device]


def is_of(cond: dict[str, Any], prompt: EditPrompt) -> bool:
    """Whether a conditioning is of this edit."""
    return PROMPT in cond and cond[PROMPT].is_same_edit(prompt)


def find_limit(conds: Sequence[dict[str, Any]], prompt: EditPrompt, latent: Tensor) -> Tensor | None:
    """Where Conditioning (Set Mask) lets one of several edits be, ``[B, H, W]`` bool in latent pixels; None: anywhere.

    `latent` is ``[B, C, H, W]``.
    """
    masks = [cond.get("mask") for cond in conds if is_of(cond, prompt)]
    areas = [scale_mask_to_latent(mask, latent) for mask in masks if mask is not None]
    return torch.stack(areas).any(0) if len(areas) == len(masks) else None


def find_edited_areas(
    record: AttentionRecord, prompts: Sequence[EditPrompt], settings: MaskSettings, mask: Tensor | None
) -> list[Tensor]:
    """What each edit of a sampling took, without overlap, ``[batch, H, W]`` bool at picture size.

    `settings` and `mask` are the sampler's.
    """
    edits, masks = record.edits, []
    for edit, prompt, own in zip(edits, prompts, settings_of_prompts(prompts, settings), strict=True):
        drawn = mask if prompt.mask is None and len(edits) == 1 else prompt.mask
        found = refine_record(edit, own)
        if drawn is not None:
            area = scale_own_mask(drawn, edit).to(found.binary.device)
            found = replace(found, soft=area.float(), binary=area)
        masks.append(found)
    return [found.binary for found in part_masks(masks)]


class EditPredictions:
    """The guided predictions of all edits of a sampling, in every step."""

    def __init__(self, guider: Any, edits: Sequence[SampledEdit]) -> None:
        self._guider, self._edits = guider, edits
        self._predict: Callable[..., Tensor] = guider.predict_noise
        self._positive = self._first_row = 0
        self._asked: list[Any] = []
        self._outputs: list[Tensor] = []
        self._own: list[Tensor] = []
        self._answered: int | None = None
        self._active: set[int] = set()
        self._apart: list[Tensor] = []

    @contextmanager
    def installed(self, options: dict[str, Any]) -> Iterator[None]:
        """While this context is open the guider has a positive conditioning for each edit, and predicts for each.

        `options` are the model options of the sampling. A single edit needs none of it.
        """
        if len(self._edits) == 1:
            yield
            return
        self._part_conditionings()
        comfy.patcher_extension.add_wrapper(WrappersMP.APPLY_MODEL, self._apply_model, options, is_model_options=True)
        before = vars(self._guider).get("predict_noise")
        # on the guider itself: inside of what other nodes do around its predictions
        self._guider.predict_noise = self._predict_each
        try:
            yield
        finally:
            del self._guider.predict_noise
            if before is not None:
                self._guider.predict_noise = before

    def begin_step(self) -> None:
        """Forget the step before."""
        self._own, self._active = [], set()

    def call(
        self, executor: Any, model: Any, conds: list[Any], positive: int, *args: Any, **kwargs: Any
    ) -> list[Tensor]:
        """What the guider gets for its `conds`, of which the numbered one is positive; those of all edits are kept."""
        further = [self._guider.conds[edit.name] for edit in self._edits[1:]]
        self._positive, self._first_row = positive, len(conds)
        outputs = executor(model, [*conds, *further], *args, **kwargs)
        self._own = [outputs[positive], *outputs[len(conds) :]]
        if further:
            # copies: other nodes may work on theirs in place
            self._asked, self._outputs = conds, [output.clone() for output in outputs[: len(conds)]]
        return list(outputs[: len(conds)])

    @property
    def is_answering(self) -> bool:
        """Whether the guider is asked for another edit, and its next call is to be answered."""
        return self._answered is not None

    def answer(self, executor: Any, model: Any, conds: list[Any], *args: Any, **kwargs: Any) -> Any:
        """What the guider gets when it is asked for another edit."""
        number, self._answered = self._answered, None
        assert number is not None
        positive = self._guider.conds[POSITIVE]
        outputs = []
        for cond in conds:
            known = next(
                (output for asked, output in zip(self._asked, self._outputs, strict=True) if asked is cond), None
            )
            output = self._own[number] if cond is positive else known
            if output is None:
                return executor(model, conds, *args, **kwargs)
            outputs.append(output.clone())
        return outputs

    def row_is_positive(self, row: int) -> bool:
        """Whether a conditioning of the call, by its number, is the positive one, or that of a further edit."""
        return row == self._positive or (len(self._edits) > 1 and row >= self._first_row)

    def guided(self, guided: Tensor) -> list[Tensor]:
        """The guided prediction of each edit in this step, of which that of the first is known.

        Where another node took the step from a cache, the others are as far from the first as in the last step.
        """
        return [guided, *(guided + apart for apart in self._apart)] if self._apart else [guided] * len(self._edits)

    def with_prompt(self, number: int) -> Tensor | None:
        """What the model predicted with an edit's prompt alone; None where that has no part in this step."""
        if not self._own or (len(self._edits) > 1 and number not in self._active):
            return None
        return self._own[number]

    def _part_conditionings(self) -> None:
        conds = self._guider.conds
        positive = conds[POSITIVE]
        for edit in self._edits:
            conds[edit.name] = [
                {"prompt_type": POSITIVE} | {name: value for name, value in cond.items() if name not in dropped}
                for cond, dropped in ((cond, LIMITS if PROMPT in cond else ()) for cond in positive)
                if PROMPT not in cond or is_of(cond, edit.prompt)
            ]

    def _apply_model(
        self, executor: Any, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any,
        transformer_options: dict[str, Any], *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """APPLY_MODEL: the rows of further edits are called positive, which is all that other nodes know."""
        rows = transformer_options["cond_or_uncond"]
        for number, edit in enumerate(self._edits):
            own = {cond["uuid"] for cond in edit.conditionings(self._guider)}
            if own.intersection(transformer_options["uuids"]):
                self._active.add(number)
        renamed = [self._positive if self.row_is_positive(row) else row for row in rows]
        options = {**transformer_options, "cond_or_uncond": renamed}
        return executor(x, t, c_concat, c_crossattn, control, options, *args, **kwargs)

    def _predict_each(self, *args: Any, **kwargs: Any) -> Tensor:
        """The guider's predict_noise: its prediction for the first edit, after which those for the others are kept.

        Edits without a part in this step, as their prompt is limited to others, get that of the first that has one.
        """
        guided = [self._predict(*args, **kwargs)]
        if self._own:
            guided += [self._predicted_for(number, *args, **kwargs) for number in range(1, len(self._edits))]
            stand_in = guided[min(self._active, default=0)]
            guided = [each if number in self._active else stand_in for number, each in enumerate(guided)]
            self._apart = [each - guided[0] for each in guided[1:]]
        return guided[0]

    def _predicted_for(self, number: int, *args: Any, **kwargs: Any) -> Tensor:
        conds = self._guider.conds
        first, conds[POSITIVE] = conds[POSITIVE], conds[self._edits[number].name]
        self._answered = number
        try:
            return self._predict(*args, **kwargs)
        finally:
            conds[POSITIVE] = first
            self._answered = None
