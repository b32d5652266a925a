"""How right the masks are on a joint-attention model: the small flow model, in the host.

    python -m tests.bench.flow --out DIR --scenes 10
    python -m tests.bench.flow --out DIR --groups "one object" --methods default --denoise 0.2,0.3,0.4,0.5
    python -m tests.bench.flow --out DIR --groups "one object" --methods default,DAAM --block 2

The Masked Sampler edits composed scenes inside the instant mask (`default`), inside DiffEdit's mask (from
the velocities of two prompts) and inside the map of the target's words (`DAAM`: mean over steps and
blocks, cut at 0.4 of its range); Inpaint Finish ends each edit. The figures are those of `tests.bench.masks`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .host import PACK, load_pack

load_pack()
from instdiff_core.evidence import FIRST_WORD, AttentionRecord  # noqa: E402
from instdiff_core.maps import rescale_to_unit, resize  # noqa: E402
from instdiff_core.options import PRESETS  # noqa: E402
from instdiff_core.pipeline import Edit  # noqa: E402
from instdiff_core.refine import refine_record  # noqa: E402
from tests.flow_model import load_flow  # noqa: E402

from .common import grey, outlined, save_sheet  # noqa: E402
from .judge import judged  # noqa: E402
from .masks import SHOWN, Case, Results, own_cases, report, tables  # noqa: E402
from .methods import DAAM_CUT  # noqa: E402
from .scenes import GROUPS, Scene  # noqa: E402

SAMPLER: dict[str, Any] = {"cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
STEPS, FINISH_STEPS, FINISH_DENOISE = 8, 5, 0.3
METHODS = ("default", "DiffEdit", "DAAM")
"""In this order: the map of the words is in the record of the first."""


class Bench:
    """The flow model in the host, and the pack's nodes."""

    def __init__(self) -> None:
        loaders = sys.modules[f"{PACK}.nodes.host.mini_model"]
        self.model, self.clip = load_flow(loaders)
        self.vae = loaders.load_mini_vae()

    def node(self, module: str, name: str, **inputs: Any) -> tuple[Any, ...]:
        """What a node of the pack gives, its widgets at their defaults where they are not named."""
        node = getattr(sys.modules[f"{PACK}.nodes.{module}"], name)
        defaults = {
            widget.id: widget.default
            for widget in node.define_schema().inputs
            if getattr(widget, "default", None) is not None
        }
        outputs: tuple[Any, ...] = node.execute(**defaults | inputs).result
        return outputs

    def first_sigma(self, denoise: float) -> float:
        """The noise level that the sampling starts from."""
        from comfy.samplers import KSampler

        return float(
            KSampler(self.model, STEPS, "cpu", SAMPLER["sampler_name"], SAMPLER["scheduler"], denoise).sigmas[0]
        )

    def edits(self, scene: Scene, seed: int, denoise: float, methods: Sequence[str]) -> Iterator[tuple[str, Edit]]:
        """The scene's edit by every method; "default" is among them and comes first."""
        image = torch.tensor(scene.picture)[None].float() / 255
        latent = {"samples": self.vae.encode(image)}
        (positive,) = self.node("encode", "EncodeEditPrompt", clip=self.clip, text=scene.prompt)
        source, negative = (self._encoded(text) for text in (scene.source_prompt, ""))
        shared = {"model": self.model, "positive": positive, "negative": negative, "seed": seed, **SAMPLER}
        sampling = {**shared, "latent_image": latent, "steps": STEPS, "denoise": denoise}
        record = None
        for method in methods:
            mask = None
            if method == "DiffEdit":
                prompts = {"source": source, "target": positive, "latent_image": latent}
                mask = self.node("diffedit", "DiffEditMask", model=self.model, seed=seed, denoise=denoise, **prompts)[0]
            elif method == "DAAM":
                assert record is not None
                mask = _words_mask(record, scene)
            started = time.perf_counter()
            samples, finished = latent, image
            # a method that finds nothing changes nothing
            if mask is None or mask.any():
                samples, _, attention = self.node("sampler", "MaskedSampler", mask=mask, **sampling)
                record = record or attention
            assert record is not None
            found = refine_record(record, PRESETS["default"], picture=image.movedim(-1, 1))
            if mask is not None:
                found = replace(found, soft=mask, binary=mask > 0.5)
            if found.binary.any():
                finishing = {"vae": self.vae, "image": image, "mask": found.binary.float(), "samples": samples}
                finishing |= {"steps": FINISH_STEPS, "denoise": FINISH_DENOISE}
                finished = self.node("finish", "InpaintFinish", **shared, **finishing)[0]
            pictures = (_picture(finished), _picture(self.vae.decode(samples["samples"])))
            seconds = {"edit": time.perf_counter() - started}
            yield method, Edit(*pictures, found, samples["samples"], record, seconds)

    def _encoded(self, text: str) -> Any:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))


def _words_mask(record: AttentionRecord, scene: Scene) -> Tensor:
    """Where the attention of the target's words, mean over the steps, is above the cut."""
    texts = [text.casefold() for text in record.words.texts]
    numbers = [number for number, text in enumerate(texts) if text in scene.words] or list(range(len(texts)))
    maps = record.evidence().maps[:, FIRST_WORD:][:, numbers].mean(1)
    return (rescale_to_unit(resize(maps, record.image_size, "bicubic")) >= DAAM_CUT).float()


def _picture(image: Tensor) -> np.ndarray:
    return (image[0] * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def read_one_block(number: int) -> None:
    """From now on read this block of the model alone: double blocks come first."""
    readers = sys.modules[f"{PACK}.nodes.host.readers"]

    def reader(network: Any, latent_size: tuple[int, int]) -> Any:
        made = readers.JointReader(network, latent_size)
        made.blocks = range(number, number + 1)
        return made

    readers.READERS["Flux"] = reader


def run(bench: Bench, cases: list[Case], denoise: float, methods: Sequence[str]) -> Results:
    results = Results()
    for case in cases:
        shown = [Image.fromarray(case.scene.picture)]
        for method, edit in bench.edits(case.scene, case.seed, denoise, methods):
            own = {"unet_evals": None, "mask_evals": None, "seconds": edit.timings["edit"]}
            results.figures[method].append(judged(case.group, case.scene, edit, method in PRESETS) | own)
            mask = grey(edit.mask.binary[0].numpy())
            shown += [mask if case.scene.truth is None else outlined(mask, case.scene.truth)]
            shown += [Image.fromarray(edit.picture)]
        if sum(group == case.group for group, _ in results.cases) < SHOWN:
            results.rows.append((f"{case.group}, {case.seed}: {case.scene.prompt}", shown))
        results.cases.append((case.group, case.seed))
    return results


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--scenes", type=int, default=10, help="scenes of each group; default: 10")
    parser.add_argument("--groups", default=",".join(GROUPS), help="names, separated by commas; default: all")
    parser.add_argument("--seed-offset", type=int, default=0, help="number of the first scene; default: 0")
    parser.add_argument("--denoise", default="0.3", help="values, separated by commas; default: 0.3")
    parser.add_argument("--methods", default=",".join(METHODS), help="names; default: all")
    parser.add_argument("--block", type=int, help="read one block alone; default: all")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench()
    if options.block is not None:
        read_one_block(options.block)
    methods = [name for name in METHODS if name in ("default", *options.methods.split(","))]
    cases = list(own_cases(options.groups.split(","), options.scenes, options.seed_offset))
    for denoise in map(float, options.denoise.split(",")):
        results = run(bench, cases, denoise, methods)
        sigma = bench.first_sigma(denoise)
        found = report(results) | {"denoise": denoise, "first_sigma": sigma, "block": options.block}
        print(
            f"\ndenoise {denoise}, first sigma {sigma:.2f}, s {sigma / (1 - sigma):.2f}\n{tables(found['methods'])}",
            flush=True,
        )
        (options.out / f"results-{denoise}.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
        columns = ["picture", *(name for method in methods for name in (method, "edit"))]
        save_sheet(options.out / f"results-{denoise}.png", columns, results.rows)


if __name__ == "__main__":
    main()
