"""What a mask rests on, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .evidence import AttentionRecord
from .look import LOOKS, LOOKS_IN_DOUBT
from .options import MaskSettings
from .refine import Convergence, InstantMask, is_in_doubt, trace_convergence
from .rest import NOISE_SAMPLES
from .tokens import PromptWords

UNSURE = 0.7
"""Below this confidence a mask is called unsure: on the benchmark six in ten of those had an IoU under 0.6.

Of all masks one in eight had."""

HALF_NOISE = 1.62
"""The noise level from which a denoise of 0.5 starts, on Stable Diffusion.

The sigma in the middle of its 1000 training timesteps (betas scaled linear from 0.00085 to 0.012,
Rombach et al. 2022), which is 1.616. The host's scheduler "normal" starts below it at any number of
steps, 1.55 at 20, and "simple", "sgm_uniform" and "beta" start there.
"""


def collect_facts(
    mask: InstantMask, words: PromptWords, convergence: Convergence | None = None, picture: int = 0
) -> dict[str, Any]:
    """What is known of the mask of one picture, for JSON.

    Index word, weight of every word (-1, 0 or +1, in prompt order), whether the prompt fits what is
    there, area and confidence (0 to 1). With its `convergence` also the step at which the mask settled,
    and the confidence counts how far steps and draws agree.
    """
    confidence = mask.confidence[picture].item()
    facts = {
        "index_word": words.texts[int(mask.roles.index[picture])],
        "words": [
            {"word": text, "weight": int(weight)}
            for text, weight in zip(words.texts, mask.roles.weights[picture].tolist(), strict=True)
        ],
        "fits": bool(mask.fits[picture]),
        "mask_area": mask.binary[picture].float().mean().item(),
    }
    if convergence is not None:
        confidence *= convergence.agreement[picture].item()
        facts |= {"settled": int(convergence.settled[picture]), "steps": convergence.steps}
    return {**facts, "confidence": round(confidence, 4)}


def describe_mask(
    mask: InstantMask, record: AttentionRecord, settings: MaskSettings, convergence: Convergence | None = None
) -> str:
    """The facts of every picture of a batch, with a remedy where the mask is empty, full or unsure.

    Last comes the record's remark.

    The mask was made from `record` with `settings`: what these do already is no remedy for one that is unsure.
    """
    remedy = _remedy(record, settings)
    pictures = range(len(mask.binary))
    lines = [_line(collect_facts(mask, record.words, convergence, picture), picture, remedy) for picture in pictures]
    if record.rest_ratio is not None and mask.fits.any():
        lines.append(
            f"Whether the prompt fits the rest too was asked in {2 * NOISE_SAMPLES} more model evaluations, and in as "
            "many again where that was in doubt."
        )
    by_change = settings.method == "change" and not settings.target
    if record.rest_ratio is not None and by_change and len(mask.binary) == 1 and not mask.fits[0]:
        lines.append(
            "The prompt turned out to say nothing of the rest of the picture. This mask was found only after the "
            "sampling, which has changed nothing in it: paint it with Inpaint Finish, or sample again with this mask."
        )
    before = _looks_before(record)
    if record.rests_on_looks and settings.method == "change":
        lines.append(
            f"{_why_looks_count_alone(record)}, so the mask was found before the sampling, in {2 * before} more model "
            "evaluations."
        )
    # others of the batch may have been in doubt
    if record.looks is not None and by_change and is_in_doubt(record.evidence()).any():
        lines.append(
            "The prompt contradicts the picture so little that it may be chance: the picture was looked at again, in "
            f"{2 * (LOOKS_IN_DOUBT - before)} more model evaluations."
        )
    return "\n".join([*lines, record.remark] if record.remark else lines)


def describe_edits(
    masks: Sequence[InstantMask], record: AttentionRecord, settings: Sequence[MaskSettings], numbers: Sequence[int],
    steps: int | None = None,
) -> str:  # fmt: skip
    """`describe_mask` for the numbered edits of a run, of which `masks`, made of the first `steps` (default: all), and
    `settings` has one for each; their prompts stand above where there are several."""
    texts = []
    for number in numbers:
        edit, own = record.edits[number], settings[number]
        text = describe_mask(masks[number], edit, own, trace_convergence(edit, own, steps))
        title = f"edit {number + 1}, '{' '.join(edit.words.texts)}':\n" if len(record.edits) > 1 else ""
        texts.append(title + text)
    return "\n".join(texts)


def _looks_before(record: AttentionRecord) -> int:
    """How many looks there were before the sampling, if there were any."""
    if record.look_size is not None:
        return LOOKS_IN_DOUBT
    return LOOKS if record.rests_on_looks else 1


def _why_looks_count_alone(record: AttentionRecord) -> str:
    if record.look_size is None:
        return "The sampling begins with too much noise to show the picture"
    height, width = (side * record.scale for side in record.look_size)
    return f"The picture is larger than those that the model was made for, and was looked at in {width} x {height}"


def _remedy(record: AttentionRecord, settings: MaskSettings) -> str:
    """What to try where the mask is unsure."""
    looked = record.rests_on_looks and settings.method == "change"
    too_noisy = record.sigmas[0] > HALF_NOISE and not looked
    ways = []
    if too_noisy:
        ways.append("try a lower denoise (0.3 to 0.5 with Stable Diffusion)")
    if not settings.target:
        ways.append("name the words to use")
    if not too_noisy and not looked and not settings.share:
        ways.append("let several noises of the picture share a mask")
    return ", or ".join(ways) or ("correct it by hand" if looked else "try another seed")


def _line(facts: dict[str, Any], picture: int, remedy: str) -> str:
    weights = ", ".join(f"{entry['word']} {entry['weight']:+d}" for entry in facts["words"])
    text = f"picture {picture + 1}: index word '{facts['index_word']}' ({weights}), area {facts['mask_area']:.1%}, "
    if "settled" in facts:
        text += f"settled at step {facts['settled']} of {facts['steps']}, "
    text += f"confidence {facts['confidence']:.2f}"
    if facts["mask_area"] == 0 and facts["fits"]:
        return (
            f"{text}. The prompt fits the picture as it is, so there is nothing to change: "
            "name the word to change if that is wrong."
        )
    if facts["mask_area"] == 0:
        return f"{text}. The mask is empty: lower the threshold, or name the words to use."
    if facts["mask_area"] == 1:
        return f"{text}. The mask is the whole picture: raise the threshold, or name the words to use."
    if facts["fits"]:
        text += (
            ". The prompt fits what stands out in the picture, so the mask is the rest of it: "
            "name the word to change if that is wrong"
        )
    if facts["confidence"] < UNSURE:
        return f"{text}. The mask is unsure: {remedy}."
    return text
