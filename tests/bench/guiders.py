"""How right the masks are under the host's guiders, with and without a prediction for no prompt.

    python -m tests.bench.guiders --scenes 8

Prints the mean IoU of the masks of Refine Instant Mask on composed scenes with the embedded model, at denoise 0.5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch

from .host import PACK, load_pack
from .scenes import Scene, scenes

load_pack()
from instdiff_core.metrics import iou  # noqa: E402

GROUPS = ("one object", "two objects", "background")

Guided = Callable[[Any, Any, Any], Any]
"""A guider from model, positive and negative conditioning."""


def _node(name: str, **inputs: Any) -> Any:
    """What a node of the host's custom sampling gives back, old style or new."""
    from comfy_extras import nodes_custom_sampler

    node = getattr(nodes_custom_sampler, name)
    return (node.execute(**inputs).result if hasattr(node, "execute") else getattr(node(), node.FUNCTION)(**inputs))[0]


GUIDERS: dict[str, Guided] = {
    "CFGGuider, cfg 5": lambda model, positive, negative: _node(
        "CFGGuider", model=model, positive=positive, negative=negative, cfg=5.0
    ),
    "CFGGuider, cfg 1": lambda model, positive, negative: _node(
        "CFGGuider", model=model, positive=positive, negative=negative, cfg=1.0
    ),
    "BasicGuider": lambda model, positive, negative: _node("BasicGuider", model=model, conditioning=positive),
}


class Bench:
    """The embedded model in the host, and the pack's nodes by name."""

    def __init__(self, steps: int) -> None:
        host = sys.modules[f"{PACK}.nodes.host"]
        self.model, self.clip, self.vae = host.load_mini_unet(), host.load_mini_clip(), host.load_mini_vae()
        self.guidance = sys.modules[f"{PACK}.nodes.guidance"].InstantMaskGuidance
        self.refine = sys.modules[f"{PACK}.nodes.refine"].RefineInstantMask
        self.encode = sys.modules[f"{PACK}.nodes.encode"].EncodeEditPrompt
        self.steps = steps

    def score(self, scene: Scene, seed: int, guided: Guided) -> float:
        """The IoU of a scene's mask."""
        assert scene.truth is not None
        image = torch.tensor(scene.picture).float()[None] / 255
        (positive,) = self.encode.execute(clip=self.clip, text=scene.prompt).result
        negative = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(""))
        latent = {"samples": self.vae.encode(image)}
        model, latent, attention = self.guidance.execute(model=self.model, latent=latent).result
        sampled = _node(
            "SamplerCustomAdvanced",
            noise=_node("RandomNoise", noise_seed=seed),
            guider=guided(model, positive, negative),
            sampler=_node("KSamplerSelect", sampler_name="euler"),
            sigmas=_node("BasicScheduler", model=self.model, scheduler="normal", steps=self.steps, denoise=0.5),
            latent_image=latent,
        )
        mask = self.refine.execute(attention=attention, steps=0, image=image, sampled=sampled).result[0]
        return float(iou(mask[0].bool(), torch.from_numpy(scene.truth)))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8, help="scenes of each group; default: 8")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps; default: 10")
    options = parser.parse_args()
    bench = Bench(options.steps)
    print(f"{'':<20}" + "".join(f"{group:>14}" for group in GROUPS))
    for name, guided in GUIDERS.items():
        means = [
            fmean(bench.score(scene, seed, guided) for seed, scene in enumerate(scenes(group, options.scenes)))
            for group in GROUPS
        ]
        print(f"{name:<20}" + "".join(f"{mean:>14.2f}" for mean in means), flush=True)


if __name__ == "__main__":
    main()
