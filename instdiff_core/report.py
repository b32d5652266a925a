"""What a mask rests on, in words."""

from __future__ import annotations

from typing import Any

from .refine import InstantMask
from .tokens import PromptWords

UNSURE = 0.5
"""Below this confidence a mask is called unsure."""


def facts(mask: InstantMask, words: PromptWords, picture: int = 0) -> dict[str, Any]:
    """Index word, weight of every word (-1, 0 or +1, in prompt order), area and confidence (0 to 1)."""
    return {
        "index_word": words.texts[int(mask.roles.index[picture])],
        "words": [
            {"word": text, "weight": int(weight)}
            for text, weight in zip(words.texts, mask.roles.weights[picture].tolist(), strict=True)
        ],
        "mask_area": round(mask.binary[picture].float().mean().item(), 4),
        "confidence": round(mask.confidence[picture].item(), 4),
    }


def report(mask: InstantMask, words: PromptWords) -> str:
    """The facts of every picture of a batch, with a remedy where the mask is empty, full or unsure."""
    return "\n".join(_line(facts(mask, words, picture), picture) for picture in range(len(mask.binary)))


def _line(found: dict[str, Any], picture: int) -> str:
    weights = ", ".join(f"{entry['word']} {entry['weight']:+d}" for entry in found["words"])
    text = (
        f"picture {picture + 1}: index word '{found['index_word']}' ({weights}), "
        f"area {found['mask_area']:.1%}, confidence {found['confidence']:.2f}"
    )
    if found["mask_area"] == 0:
        return f"{text}. The mask is empty: lower the threshold, or name the words to use."
    if found["mask_area"] == 1:
        return f"{text}. The mask is the whole picture: raise the threshold, or name the words to use."
    if found["confidence"] < UNSURE:
        return f"{text}. The mask is unsure: try a denoise of 0.4 to 0.6, or name the words to use."
    return text
