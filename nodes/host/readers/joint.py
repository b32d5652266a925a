"""Transformers whose blocks attend over text and picture together, and Wan, whose blocks do so one after the other.

The host lets nodes take the place of attention as a whole (`optimized_attention_override`), without saying
what a call is about: that is known by the length of its sequence (`layouts.py`), and the blocks are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....instdiff_core.attention import split_heads, word_maps
from .layouts import FAMILIES, Call, Layout, count_cells

if TYPE_CHECKING:
    from ..edits import SampledEdit
    from ..run import InstantMaskRun

Tables = dict[tuple[str, Layout, torch.device], tuple[Tensor, Tensor]]

CALL = "instdiff_call"
"""The key of a `_Reading` in the options of a model call."""

OVERRIDE = "optimized_attention_override"

GRID = 32
"""Cells across the grid that is read, of all that there are: at 1024 px each second one of 64, down and across.

A block of Flux's width, 1024 px, two CPU cores, bf16: its own attention 0.25 s, reading all cells 0.21 s, these 0.06 s.
"""

BLOCKS = 8
"""How many blocks are read at most, at equal distances: of Flux's 57 all would cost 6 % of a step, these 1 %."""


class JointReader:
    """Reads the words in some blocks, and the self-attention of the picture's cells in the middle one of these."""

    unit: int | None = None
    """The place of a cell is part of what these models see."""

    def __init__(self, network: Any, latent_size: tuple[int, int]) -> None:
        self.network, self.family = network, FAMILIES[type(network).__name__]
        self.cells = count_cells(latent_size, network)
        self.stride = max(1, round((self.cells[0] * self.cells[1]) ** 0.5 / GRID))
        # from the middle of a stride on
        self.first = (self.stride - 1) // 2
        down, along = (len(range(self.first, count, self.stride)) for count in self.cells)
        self.grid = down, along
        total = sum(len(getattr(network, name)) for name in self.family.blocks)
        distance = 1 + total // BLOCKS
        self.blocks = range(min(distance // 2, total - 1), total, distance)

    def install(self, options: dict[str, Any], run: InstantMaskRun) -> None:
        """Say in the options of each model call what it holds, and look at its attention on top of other nodes'."""
        tables: Tables = {}

        def apply_model(
            executor: Any, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any,
            transformer_options: dict[str, Any], *args: Any, **kwargs: Any,
        ) -> Any:  # fmt: skip
            """APPLY_MODEL: a call that holds the edit prompt on the whole picture is read."""
            parts = list(run.edit_entries(len(x), tuple(x.shape[-2:]), transformer_options))
            if parts and c_crossattn is not None:
                call = Call(self.network, c_crossattn.shape[1], *self.cells, kwargs)
                reading = _Reading(self, self.family.lay_out(call), parts, tables)
                transformer_options = {**transformer_options, CALL: reading}
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, *args, **kwargs)

        previous: Callable[..., Tensor] | None = options["transformer_options"].get(OVERRIDE)

        def attend(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            """The override: attention as it is, or as another node has it, after a look at its input."""
            reading: _Reading | None = kwargs.get("transformer_options", {}).get(CALL)
            if reading is not None:
                reading.look(*args, **kwargs)
            return func(*args, **kwargs) if previous is None else previous(func, *args, **kwargs)

        comfy.patcher_extension.add_wrapper(WrappersMP.APPLY_MODEL, apply_model, options, is_model_options=True)
        options["transformer_options"][OVERRIDE] = attend


@dataclass
class _Reading:
    """What is read in one model call, of the `parts` of its batch that hold edit prompts.

    `tables` are kept for the whole sampling: for each edit and layout the places in its sequence that are read, and
    the words' matrix for it.
    """

    reader: JointReader
    layout: Layout
    parts: list[tuple[SampledEdit, slice]]
    tables: Tables
    seen: dict[str, int] = field(default_factory=lambda: {"words": 0, "cells": 0})

    def look(self, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> None:
        """Read one attention, with the host's arguments, where it is one of a block that is read."""
        kinds = self._kinds(q.shape[-2], k.shape[-2])
        wanted = [kind for kind in kinds if self._is_read(kind)]
        if not wanted:
            return
        if not kwargs.get("skip_reshape", False):
            heads: int = args[0] if args else kwargs["heads"]
            q, k = split_heads(q, heads), split_heads(k, heads)
        mask: Tensor | None = args[1] if len(args) > 1 else kwargs.get("mask")
        for edit, part in self.parts:
            rows, matrix = self._tables(edit, q.device)
            queries, keys = q[part].index_select(2, rows), k[part]
            if "words" in wanted:
                masked = None if mask is None else _mask_of(mask, part, rows, len(q))
                maps = word_maps(queries, keys, matrix, self.reader.grid, masked)
                edit.session.observe_words(maps)
            if "cells" in wanted:
                edit.session.observe_self_attention(queries, keys.index_select(2, rows), self.reader.grid)

    def _kinds(self, queries: int, keys: int) -> tuple[str, ...]:
        """What an attention of so many queries and keys shows: the words, the picture's own cells, both or nothing.

        Refiners of text or picture alone, and further attentions of a block, have other lengths.
        """
        if queries != self.layout.length:
            return ()
        if not self.reader.family.crosses:
            return ("words", "cells") if keys == queries else ()
        # where a text is as long as the picture, the block's first attention is the picture's
        if keys == queries and self.seen["cells"] == self.seen["words"]:
            return ("cells",)
        return ("words",) if keys == self.layout.text[0].stop else ()

    def _is_read(self, kind: str) -> bool:
        """Whether the block that is reached is read for this; it counts the blocks."""
        number, blocks = self.seen[kind], self.reader.blocks
        self.seen[kind] += 1
        return number in blocks if kind == "words" else number == blocks[len(blocks) // 2]

    def _tables(self, edit: SampledEdit, device: torch.device) -> tuple[Tensor, Tensor]:
        """The places in the sequence of the cells that are read, and the matrix of an edit's words for all its keys."""
        layout, reader = self.layout, self.reader
        if (edit.name, layout, device) not in self.tables:
            down, along = (torch.arange(reader.first, count, reader.stride, device=device) for count in reader.cells)
            rows = (layout.picture + down[:, None] * layout.across + along).flatten()
            matrix = edit.token_matrix(layout.text[0].stop, device)
            if not reader.family.crosses:
                placed = matrix.new_zeros(layout.length, matrix.shape[1])
                for span in layout.text:
                    placed[span.place : span.place + span.stop - span.first] = matrix[span.first : span.stop]
                matrix = placed
            self.tables[edit.name, layout, device] = rows, matrix
        return self.tables[edit.name, layout, device]


def _mask_of(mask: Tensor, part: slice, rows: Tensor, batch: int) -> Tensor:
    """What of a mask, of any shape that the host's attention takes, is for these entries of the batch and queries."""
    if mask.ndim < 4:
        mask = mask.view(-1, 1, *mask.shape[-2:])
    if len(mask) == batch:
        mask = mask[part]
    return mask if mask.shape[-2] == 1 else mask.index_select(-2, rows)
