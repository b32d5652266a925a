"""Region sampling against the whole picture: masks and edits of scenes, with the embedded model in the host.

    python -m tests.bench.region --scenes 10 [--groups "one object,small object"] [--steps 20] [--seed-offset 9000]

Edits each scene by Masked Sampler with `region` off and auto, and finishes both. Prints for each group and both:
the mean mask IoU, the share of successful edits and of those before the finish (the classifier of
`tests.bench.masks`); and of auto the median ratio of its processor time to that of off, how many masks settled,
after how many steps, and how much of the picture was computed then. `python -m tests.bench.speed --region`
measures the time against KSampler, for models of other sizes too.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import defaultdict
from dataclasses import replace
from statistics import fmean, median
from typing import Any

import torch

from .host import PACK, load_pack

load_pack()
from instdiff_core.options import FINISH, PRESETS  # noqa: E402
from instdiff_core.pipeline import Edit  # noqa: E402
from instdiff_core.refine import refine_record  # noqa: E402

from .judge import Figures, judged  # noqa: E402
from .scenes import GROUPS, Scene, scenes  # noqa: E402

SAMPLER: dict[str, Any] = {"cfg": 7.5, "sampler_name": "euler", "scheduler": "normal"}
REMARK = re.compile(r"settled after (\d+) of \d+ steps, and the rest computed (\d+)%")
SHOWN = ("iou", "edit_success", "edit_success_unfinished")


class Bench:
    """The embedded model in the host, and the pack's nodes."""

    def __init__(self, steps: int) -> None:
        host = sys.modules[f"{PACK}.nodes.host"]
        self.model, self.clip, self.vae = host.load_mini_unet(), host.load_mini_clip(), host.load_mini_vae()
        self.steps = steps

    def edit(self, scene: Scene, seed: int, region: Any) -> Edit:
        """The scene edited and finished; its timings are processor time."""
        image = torch.tensor(scene.picture)[None].float() / 255
        (positive,) = self._node("encode", "EncodeEditPrompt", clip=self.clip, text=scene.prompt)
        negative = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(""))
        shared = {"model": self.model, "positive": positive, "negative": negative, "seed": seed, **SAMPLER}
        sampling = {"latent_image": {"samples": self.vae.encode(image)}, "steps": self.steps, "denoise": 0.5}
        settings = replace(PRESETS["default"], region=region)
        started = time.process_time()
        samples, _, record, _ = self._node("sampler", "MaskedSampler", settings=settings, **sampling, **shared)
        seconds = time.process_time() - started
        mask = refine_record(record, settings, picture=image.movedim(-1, 1))
        finished = image
        if mask.binary.any():
            finishing = {"vae": self.vae, "image": image, "mask": mask.binary.float(), "samples": samples}
            finishing |= {"steps": 10, "denoise": FINISH.strength, "grow": FINISH.grow, "feather": FINISH.feather}
            finished = self._node("finish", "InpaintFinish", **finishing, **shared)[0]
        pictures = _picture(finished), _picture(self.vae.decode(samples["samples"]))
        return Edit(*pictures, (mask,), samples["samples"], record, {"sample": seconds})

    @staticmethod
    def _node(module: str, name: str, **inputs: Any) -> Any:
        return getattr(sys.modules[f"{PACK}.nodes.{module}"], name).execute(**inputs).result


def _picture(image: torch.Tensor) -> Any:
    return (image[0] * 255).round().clamp(0, 255).to(torch.uint8).numpy()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=10, help="of each group; default: 10")
    parser.add_argument("--groups", default="one object,small object", help="default: one object,small object")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps; default: 20")
    parser.add_argument("--seed-offset", type=int, default=9000, help="number of the first scene; default: 9000")
    options = parser.parse_args()
    bench = Bench(options.steps)
    for group in options.groups.split(","):
        if group not in GROUPS:
            parser.error(f"no group {group!r}: choose from {', '.join(GROUPS)}")
        figures: dict[str, list[Figures]] = defaultdict(list)
        ratios, settled = [], []
        for seed, scene in enumerate(scenes(group, options.scenes, options.seed_offset), options.seed_offset):
            edits = {}
            # in turns the one or the other before
            for region in ("off", "auto") if seed % 2 else ("auto", "off"):
                edits[region] = bench.edit(scene, seed, region)
                figures[region].append(judged(group, scene, edits[region], instant=True))
            ratios.append(edits["auto"].timings["sample"] / edits["off"].timings["sample"])
            settled += [tuple(map(int, numbers)) for numbers in REMARK.findall(edits["auto"].record.remark)]
        for region in ("off", "auto"):
            means = (fmean(float(each[name] or 0) for each in figures[region]) for name in SHOWN)
            print(f"{group}, {region:4} " + ", ".join(f"{n} {m:.3f}" for n, m in zip(SHOWN, means, strict=True)))
        print(f"{group}, time auto / off: median {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        if settled:
            steps, parts = zip(*settled, strict=True)
            print(
                f"{group}, settled {len(settled)} of {len(ratios)}, after {median(steps)} steps ({min(steps)} to "
                f"{max(steps)}), then {median(parts)} % computed ({min(parts)} to {max(parts)} %)",
                flush=True,
            )


if __name__ == "__main__":
    main()
