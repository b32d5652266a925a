"""U-Nets: Stable Diffusion 1.x, 2.x and SDXL, whose cross-attention layers can be replaced one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import comfy.model_patcher
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from torch import Tensor

from ....instdiff_core.attention import downscale_to_read, split_heads

if TYPE_CHECKING:
    from ..edits import SampledEdit
    from ..run import InstantMaskRun

Attend = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
Read = Callable[["SampledEdit", Tensor, Tensor, dict[str, Any]], None]
Key = tuple[Any, ...]


class UNetReader:
    """Reads the layers whose grid is nearest to 16x16: all cross-attention, and a block's first self-attention."""

    def __init__(self, unet: UNetModel, latent_size: tuple[int, int]) -> None:
        self.unit: int | None = 2 ** sum(isinstance(layer, Downsample) for layer in unet.modules())
        blocks = _blocks_by_downscale(unet)
        downscale = downscale_to_read(latent_size, blocks)
        self._blocks = blocks[downscale]
        # rounded up, as the U-Net's own downsampling does
        self.grid = -(-latent_size[0] // downscale), -(-latent_size[1] // downscale)

    def install(self, options: dict[str, Any], run: InstantMaskRun) -> None:
        """Replace the layers' attention, on top of what other nodes have replaced it with."""

        def keep_cross_attention(edit: SampledEdit, q: Tensor, k: Tensor, extra: dict[str, Any]) -> None:
            height, width = extra["activations_shape"][-2:]
            q, k = (split_heads(each, extra["n_heads"]) for each in (q, k))
            matrix = edit.token_matrix(k.shape[2], k.device)
            edit.session.observe_cross_attention(q, k, matrix, (height, width))

        def keep_self_attention(edit: SampledEdit, q: Tensor, k: Tensor, extra: dict[str, Any]) -> None:
            height, width = extra["activations_shape"][-2:]
            # other nodes merge or tile the cells of self-attention: then it is not of this grid
            if q.shape[1] == k.shape[1] == height * width:
                q, k = (split_heads(each, extra["n_heads"]) for each in (q, k))
                edit.session.observe_self_attention(q, k, (height, width))

        for kind, read in (("attn2", keep_cross_attention), ("attn1", keep_self_attention)):
            replaced = options["transformer_options"].get("patches_replace", {}).get(kind, {})
            for key in self._keys(kind, replaced):
                attend = _reading(run, read, replaced.get(key, replaced.get(key[:2])))
                comfy.model_patcher.set_model_options_patch_replace(options, attend, kind, *key)

    def _keys(self, kind: str, replaced: Mapping[Key, Any]) -> Iterator[Key]:
        """The keys of the layers to read, with those of single transformers that others hold in them."""
        for block in self._blocks:
            if kind == "attn1":
                yield *block, 0
            else:
                yield block
                yield from (other for other in replaced if len(other) == 3 and other[:2] == block)


def _blocks_by_downscale(unet: UNetModel) -> dict[int, list[tuple[str, int]]]:
    """The blocks with cross-attention outside the middle, by how much smaller their grid is than the latent."""
    downscale = 1
    found: dict[int, list[tuple[str, int]]] = {}
    blocks = [("input", number, block) for number, block in enumerate(unet.input_blocks)]
    blocks += [("output", number, block) for number, block in enumerate(unet.output_blocks)]
    for name, number, block in blocks:
        if any(isinstance(layer, Downsample) for layer in block):
            downscale *= 2
        if any(isinstance(layer, SpatialTransformer) for layer in block):
            found.setdefault(downscale, []).append((name, number))
        if any(isinstance(layer, Upsample) for layer in block):
            downscale //= 2
    return found


def _reading(run: InstantMaskRun, read: Read, previous: Attend | None) -> Attend:
    """An attention replacement that attends as before, and shows `read` the edit prompts' batch entries."""

    def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        for edit, part in run.edit_entries(q.shape[0], tuple(extra["original_shape"][-2:]), extra):
            read(edit, q[part], k[part], extra)
        if previous is not None:
            return previous(q, k, v, extra)
        return optimized_attention(
            q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"], transformer_options=extra
        )

    return attend
