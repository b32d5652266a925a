"""What other nodes do to the model's calls of a sampling, which may not bear to be cut, or called more often."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.hooks
from comfy.patcher_extension import WrappersMP

Conditionings = dict[str, list[dict[str, Any]]]
"""A guider's, by their names, as the host has prepared them."""

CALLS = (
    WrappersMP.SAMPLER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL,
    WrappersMP.DIFFUSION_MODEL,
)  # fmt: skip
"""The kinds of wrappers that see the model's calls."""

FUNCTIONS = (
    "model_function_wrapper", "sampler_calc_cond_batch_function", "sampler_cfg_function", "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
)  # fmt: skip
"""The options of a model in which other nodes leave functions that see its calls."""


def find_patches(options: dict[str, Any], conds: Conditionings) -> str | None:
    """What changes the model's calls beside us, as a sentence; None: nothing does."""
    transformer = options.get("transformer_options", {})
    wrappers = transformer.get("wrappers", {})
    patched = [name for name in FUNCTIONS if options.get(name)]
    patched += [name for name in ("patches", "patches_replace") if _holds(transformer.get(name))]
    patched += [kind for kind in CALLS if _holds(wrappers.get(kind))]
    if patched:
        return f"another node changes the model's calls ({', '.join(patched)})"
    others = any(hook.hook_type != comfy.hooks.EnumHookType.Weight for hook in _hooks(conds))
    if others or any("gligen" in cond for cond in _all(conds)):
        return "a conditioning (GLIGEN or hooks) changes the model's calls"
    return None


def follows_steps(conds: Conditionings) -> bool:
    """Whether weights change from step to step: the host would take a call outside of the steps for one of them."""
    return any(not hook.hook_keyframe.is_empty() for hook in _hooks(conds))


def hold_places(conds: Conditionings) -> bool:
    """Whether a conditioning is limited to a part of the picture, which the host has found for one size of it."""
    return any("area" in cond or "mask" in cond for cond in _all(conds))


def _holds(options: Any) -> bool:
    """Whether there is anything in nested dicts and lists."""
    if isinstance(options, dict):
        return any(map(_holds, options.values()))
    return bool(options)


def _hooks(conds: Conditionings) -> Iterator[Any]:
    return (hook for cond in _all(conds) if cond.get("hooks") is not None for hook in cond["hooks"].hooks)


def _all(conds: Conditionings) -> Iterator[dict[str, Any]]:
    return (cond for conditioning in conds.values() for cond in conditioning or ())
