"""Inpaint Finish at several widths of its soft edge: a picture to look at, and how much the mask's inside changed.

    python -m tests.bench.feather --out feather.png

A cat becomes a frog, with the embedded model; the change is the mean over the mask, in 0..1. It hardly depends on
the feather, since the edit is opaque inside the mask: what differs with grow is what is painted around it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from .host import PACK, load_pack

load_pack()

FEATHERS = (0, 8, 32, 64)
GROWS = (8, 64)
CAPTION = 18
"""Pixels above each picture."""


def _run(module: str, name: str, **inputs: Any) -> Any:
    """What a node of the pack gives back, with its defaults where nothing is named."""
    node = getattr(sys.modules[f"{PACK}.nodes.{module}"], name)
    known = {each.id: getattr(each, "default", None) for each in node.define_schema().inputs}
    return node.execute(**{name: value for name, value in known.items() if value is not None} | inputs).result


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("feather.png"), help="the picture; default: feather.png")
    options = parser.parse_args()
    model, clip, vae = _run("mini", "LoadMiniModel")
    image, _ = _run("mini", "MiniScene", object="cat", background="grass", seed=1)
    (positive,) = _run("encode", "EncodeEditPrompt", clip=clip, text="a frog")
    prompts = {
        "model": model, "positive": positive, "negative": clip.encode_from_tokens_scheduled(clip.tokenize("")),
        "seed": 3, "cfg": 5.0,
    }  # fmt: skip
    samples, _, attention = _run("sampler", "MaskedSampler", **prompts, latent_image={"samples": vae.encode(image)})
    mask = _run("refine", "RefineInstantMask", attention=attention, image=image)[0]
    side = image.shape[1]
    sheet = Image.new("RGB", (len(FEATHERS) * side, len(GROWS) * (side + CAPTION)), "white")
    for row, grow in enumerate(GROWS):
        for column, feather in enumerate(FEATHERS):
            result, _ = _run(
                "finish", "InpaintFinish", **prompts, vae=vae, image=image, mask=mask, samples=samples,
                grow=grow, feather=feather,
            )  # fmt: skip
            change = float((result - image).abs().mean(-1)[mask > 0.5].mean())
            print(f"grow {grow:>3}, feather {feather:>3}: change inside the mask {change:.3f}", flush=True)
            pixels = Image.fromarray((result[0].clamp(0, 1) * 255).round().numpy().astype(np.uint8))
            tile = ImageOps.expand(pixels, (0, CAPTION, 0, 0), "white")
            ImageDraw.Draw(tile).text((4, 3), f"grow {grow}, feather {feather}: change {change:.3f}", "black")
            sheet.paste(tile, (column * side, row * (side + CAPTION)))
    sheet.save(options.out)


if __name__ == "__main__":
    main()
