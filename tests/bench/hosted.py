"""Models of the benchmark in ComfyUI, through the pack's own nodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import Module

from instdiff_core.arrays import Mask
from instdiff_core.evidence import AttentionRecord
from instdiff_core.options import FinishOptions, SamplingOptions
from instdiff_core.pipeline import Edit, Picture
from instdiff_core.pipeline.editing import first_mask
from instdiff_core.session import MaskSession

from .engines import Approach
from .host import PACK, load_pack
from .scenes import Scene

SAMPLER: dict[str, Any] = {"sampler_name": "euler", "scheduler": "simple"}


class HostedEngine:
    """An `engines.Engine` of the flow model in a folder, or of the embedded U-Net (None).

    `block` reads one of the flow model's blocks alone (double ones first).
    """

    def __init__(
        self, folder: Path | None, sampling: SamplingOptions, finishing: FinishOptions, block: int | None = None
    ) -> None:
        load_pack()
        from tests.flow_model import load_flow

        loaders = _module("host.mini_model")
        if folder is None:
            self.model, self.clip = loaders.load_mini_unet(), loaders.load_mini_clip()
        else:
            self.model, self.clip = load_flow(loaders, folder)
        self.vae = loaders.load_mini_vae()
        self.sampling, self.finishing = sampling, finishing
        if block is not None:
            _read_one_block(block)

    @property
    def networks(self) -> list[Module]:
        return [self.model.model.diffusion_model]

    def prepare(self, scenes: Sequence[Scene], seeds: Sequence[int]) -> HostedBatch:
        return HostedBatch(scenes, [_HostedScene(self, *each) for each in zip(scenes, seeds, strict=True)])

    def run(self, module: str, name: str, **inputs: Any) -> tuple[Any, ...]:
        """What a node of the pack gives, its widgets at their defaults where they are not named."""
        node = getattr(_module(module), name)
        defaults = {
            widget.id: widget.default
            for widget in node.define_schema().inputs
            if getattr(widget, "default", None) is not None
        }
        outputs: tuple[Any, ...] = node.execute(**defaults | inputs).result
        return outputs

    def encode_prompt(self, text: str) -> Any:
        return self.run("encode", "EncodeEditPrompt", clip=self.clip, text=text)[0]

    @torch.inference_mode()
    def record(self, scene: Scene, seed: int, **widgets: Any) -> AttentionRecord:
        """What Masked Sampler records of a scene, with these values of its widgets."""
        record: AttentionRecord = self.run(
            "sampler", "MaskedSampler", model=self.model, positive=self.encode_prompt(scene.prompt),
            negative=self.empty_prompt, latent_image={"samples": self.vae.encode(_image(scene))}, seed=seed, **widgets,
        )[2]  # fmt: skip
        return record

    @cached_property
    def empty_prompt(self) -> Any:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(""))


@dataclass
class HostedBatch:
    """An `engines.Batch`, edited one by one: a graph has one edit prompt for all of its pictures."""

    scenes: Sequence[Scene]
    each: Sequence[_HostedScene]

    @property
    def latent_size(self) -> tuple[int, int]:
        height, width = self.each[0].latent["samples"].shape[-2:]
        return height, width

    @torch.inference_mode()
    def edit(self, approach: Approach) -> list[Edit]:
        return [scene.edit(approach, partial(approach.new_session, number)) for number, scene in enumerate(self.each)]

    @torch.inference_mode()
    def difference_masks(self) -> list[Mask]:
        return [scene.difference_mask() for scene in self.each]


class _HostedScene:
    @torch.inference_mode()
    def __init__(self, engine: HostedEngine, scene: Scene, seed: int) -> None:
        self.engine, self.scene, self.seed = engine, scene, seed
        self.image = _image(scene)
        self.latent = {"samples": engine.vae.encode(self.image)}
        self.positive = engine.encode_prompt(scene.prompt)
        prompts = {"positive": self.positive, "negative": engine.empty_prompt}
        self.shared = {"model": engine.model, **prompts, "seed": seed, **SAMPLER}

    def edit(self, approach: Approach, new_session: Callable[..., MaskSession]) -> Edit:
        engine, sampling, finishing = self.engine, self.engine.sampling, self.engine.finishing
        sessions: list[MaskSession] = []

        def make_session(*arguments: Any) -> MaskSession:
            sessions.append(new_session(*arguments))
            return sessions[-1]

        started = time.perf_counter()
        # what no graph can choose: the mask of another method
        with patch.object(_module("host.wrapper"), "MaskSession", make_session):
            samples, _, record, _ = engine.run(
                "sampler", "MaskedSampler", **self.shared, latent_image=self.latent, settings=approach.settings,
                steps=sampling.steps, denoise=sampling.strength, cfg=sampling.cfg,
            )  # fmt: skip
        sampled = time.perf_counter()
        height, width = self.scene.picture.shape[:2]
        mask = first_mask(sessions[0].final((height, width), approach.settings, self.image.movedim(-1, 1)))
        unfinished = finished = engine.vae.decode(samples["samples"])
        if approach.finishes:
            finished, _ = engine.run(
                "finish", "InpaintFinish", **self.shared, vae=engine.vae, image=self.image, mask=mask.binary.float(),
                samples=samples, steps=finishing.steps, denoise=finishing.strength, cfg=finishing.cfg,
                grow=finishing.grow, feather=finishing.feather, passes=finishing.passes, enlarge=finishing.enlarge,
            )  # fmt: skip
        timings = {"sample": sampled - started, "finish": time.perf_counter() - sampled}
        return Edit(_picture(finished), _picture(unfinished), (mask,), samples["samples"], record, timings)

    def difference_mask(self) -> Mask:
        engine = self.engine
        mask, _ = engine.run(
            "diffedit", "DiffEditMask", model=engine.model, source=engine.encode_prompt(self.scene.source_prompt),
            target=self.positive, latent_image=self.latent, seed=self.seed, denoise=engine.sampling.strength,
        )  # fmt: skip
        found: Mask = mask[0].cpu().numpy() > 0.5
        return found


def _module(name: str) -> Any:
    """A module of the pack in the host."""
    return sys.modules[f"{PACK}.nodes.{name}"]


def _read_one_block(number: int) -> None:
    """From now on read this block of every Flux model alone."""
    readers = _module("host.readers")

    def reader(network: Any, latent_size: tuple[int, int]) -> Any:
        made = readers.JointReader(network, latent_size)
        made.blocks = range(number, number + 1)
        return made

    readers.READERS["Flux"] = reader


def _image(scene: Scene) -> Tensor:
    """The scene's picture as the host has it ``[1, H, W, 3]`` in 0..1."""
    return torch.tensor(scene.picture)[None].float() / 255


def _picture(image: Tensor) -> Picture:
    return (image[0] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
