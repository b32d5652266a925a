"""The mask benchmark: how right the masks are, whether the edits show, and what they cost, by method.

    python -m tests.bench.masks --out DIR [--scenes 50] [--groups a,b] [--methods a,b] [--seed-offset 0]
    python -m tests.bench.masks --out DIR --model PATH --data FOLDER [--size 512]

Edits the scenes of `scenes.py`, which have exact masks (or, with --data, other people's pictures:
`data.py` says in which layouts), by every method of `methods.py`, on the embedded model unless --model
names another one, in bfloat16. Every method starts from the same noise at half strength, samples 10 steps, and
is followed by the same short finish.

What is measured (None where it has no meaning):

- iou, precision, recall, boundary_f of the mask at picture size, against the truth. SDEdit's mask
  is the whole picture.
- edit_success after the finish, and edit_success_unfinished before it: the classifier finds the new object in
  the square around the truth. "background": the truth's mean colour is nearest to the new background's, and the
  object that was to stay is still found. "not there yet": found in the square around the method's own mask.
  "nothing to change": the object is still found. None for other people's pictures.
- psnr_outside, psnr_outside_unfinished in dB outside the truth; 100 stands for an equal picture. kept (found
  again, 0 or 1) and kept_psnr: the object that must stay.
- area, the masked part of the picture; sane, where there is no truth: it is 0.5 to 60 %.
- index_word_right and confidence of instant masks, and confidence_correlation, Spearman's, with the IoU.
- unet_evals, the latents that passed the U-Net for one edit, two a step; mask_evals, those of them
  that were for nothing but the mask. seconds for an edit, in batches of 16, without encoding the picture; on a
  processor those of one thread of one process.

Writes results.json (means with bootstrap 95 % intervals, over all scenes that have a truth and by group),
outcomes.json (every single edit) and results.png (the first scenes of each group: the picture, then every
method's mask with the truth outlined).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from instdiff_core.options import PRESETS, FinishOptions, SamplingOptions
from instdiff_core.pipeline import EditModel, Picture, edit_batch, load_mini, load_model

from . import data
from .common import device, grey, outlined, save_sheet, spearman
from .judge import FIGURES, Figures, judged, summary
from .methods import METHODS
from .scenes import GROUPS, Scene, scenes

BATCH = 16
SHOWN = 2
"""Scenes of each group on the contact sheet."""

SAMPLING: dict[str, Any] = {
    "sampling": SamplingOptions(steps=10, strength=0.5),
    "finishing": FinishOptions(steps=5, strength=0.25, feather=4),
}
"""What all methods share, as arguments of `edit_batch`."""

OVERALL = ("iou", "precision", "recall", "boundary_f", "edit_success", "psnr_outside", "unet_evals", "seconds")
BY_GROUP = ("iou", "boundary_f", "edit_success", "kept", "sane")


@dataclass(frozen=True)
class Case:
    """A scene to edit, and the seed of its noise: its number in its group."""

    group: str
    seed: int
    scene: Scene


Batch = list[Case]

Found = tuple[Batch, dict[str, tuple[list[Figures], list[Image.Image]]]]
"""A batch, and what `edited` gives for it by every method."""


@dataclass
class Results:
    """Every edit's figures, by method, with the group and seed of each case, and the lines of the contact sheet."""

    cases: list[tuple[str, int]] = field(default_factory=list)
    figures: dict[str, list[Figures]] = field(default_factory=lambda: defaultdict(list))
    rows: list[tuple[str, list[Image.Image]]] = field(default_factory=list)


@dataclass(frozen=True)
class EncodedModel(EditModel):
    """A model that has the latents of its pictures already: they are the same for all methods."""

    latents: torch.Tensor

    def encode(self, pictures: Sequence[Picture]) -> torch.Tensor:
        assert len(pictures) == len(self.latents)
        return self.latents


def load(path: Path | None) -> EditModel:
    """The model in a folder or file, or the embedded one, with U-Net and VAE in bfloat16, which halves the time."""
    model = load_model(path, device()) if path else load_mini(device())
    # on a processor, pictures pass the VAE fastest one by one
    model.vae.enable_slicing()
    unet, vae = (part.to(torch.bfloat16).to(memory_format=torch.channels_last) for part in (model.unet, model.vae))
    return replace(model, unet=unet, vae=vae)


def own_cases(groups: Iterable[str], count: int, offset: int) -> Iterator[Case]:
    """`count` composed scenes of every group, from number `offset` on."""
    for group in groups:
        for seed, scene in enumerate(scenes(group, count, offset), offset):
            yield Case(group, seed, scene)


def data_cases(folder: Path, groups: Sequence[str], count: int | None, offset: int, size: int) -> Iterator[Case]:
    """The scenes of a folder (`data.read`), at most `count` of every group, from number `offset` on."""
    seen: Counter[str] = Counter()
    for group, scene in data.read(folder, size):
        seed = seen[group]
        seen[group] += 1
        if (not groups or group in groups) and seed >= offset and (count is None or seed < offset + count):
            yield Case(group, seed, scene)


def run(
    model: Path | None, cases: Iterable[Case], methods: Sequence[str], sampling: dict[str, Any], jobs: int = 1
) -> Results:
    """Edit every case by every method, in `jobs` processes; `sampling` are arguments of `edit_batch`."""
    remaining = iter(cases)
    batches = iter(lambda: list(islice(remaining, BATCH)), [])
    results = Results()
    for batch, found in _by_all(model, batches, partial(_edited_by_all, methods=methods, sampling=sampling), jobs):
        for method, (figures, _) in found.items():
            results.figures[method] += figures
        for number, case in enumerate(batch):
            if sum(group == case.group for group, _ in results.cases) < SHOWN:
                caption = f"{case.group}, {case.seed}: {case.scene.prompt}"
                images = [Image.fromarray(case.scene.picture), *(masks[number] for _, masks in found.values())]
                results.rows.append((caption, images))
            results.cases.append((case.group, case.seed))
        print(f"{len(results.cases)} scenes", flush=True)
    return results


def report(results: Results) -> dict[str, Any]:
    """The content of results.json under "methods", and how many scenes each group has."""
    counts = Counter(group for group, _ in results.cases)
    methods: dict[str, Any] = {}
    for method, figures in results.figures.items():
        members: dict[str, list[Figures]] = {group: [] for group in counts}
        for (group, _), each in zip(results.cases, figures, strict=True):
            members[group].append(each)
        judged_scenes = [each for each in figures if each["iou"] is not None]
        methods[method] = {
            "overall": summary(judged_scenes),
            "groups": {group: summary(each) for group, each in members.items()},
        }
        if method in PRESETS:
            pairs = [(each["confidence"] or 0.0, each["iou"] or 0.0) for each in judged_scenes]
            first, second = ([pair[place] for pair in pairs] for place in (0, 1))
            methods[method]["overall"]["confidence_correlation"] = spearman(first, second)
    return {"methods": methods, "scenes": dict(counts)}


def tables(methods: dict[str, Any]) -> str:
    """The overall figures of every method, and some figures by group."""
    lines = [f"{'over all with a truth':22}" + "".join(f"{FIGURES[name]:>14}" for name in OVERALL)]
    lines += [
        f"{method:22}" + "".join(_cell(each["overall"][name]) for name in OVERALL) for method, each in methods.items()
    ]
    for name in BY_GROUP:
        values = {
            group: [each["groups"][group][name] for each in methods.values()]
            for group in next(iter(methods.values()))["groups"]
        }
        shown = {group: each for group, each in values.items() if any(value is not None for value in each)}
        if shown:
            lines += ["", f"{FIGURES[name]:22}" + "".join(f"{method:>14}" for method in methods)]
            lines += [f"{group:22}" + "".join(map(_cell, each)) for group, each in shown.items()]
    return "\n".join(lines)


_loaded: EditModel
"""The model of a process."""


def _by_all(model: Path | None, batches: Iterable[Batch], edit: Callable[[Batch], Found], jobs: int) -> Iterator[Found]:
    if jobs == 1:
        _start(model, torch.get_num_threads())
        yield from map(edit, batches)
        return
    # threads of one process wait for each other in every layer, processes do not
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start, (model, threads)) as pool:
        yield from pool.map(edit, batches)


def _start(model: Path | None, threads: int) -> None:
    global _loaded
    torch.set_num_threads(threads)
    _loaded = load(model)


def _edited_by_all(batch: Batch, methods: Sequence[str], sampling: dict[str, Any]) -> Found:
    with torch.no_grad():
        latents = _loaded.encode([case.scene.picture for case in batch])
    model = EncodedModel(**vars(_loaded), latents=latents)
    return batch, {method: edited(model, batch, method, sampling) for method in methods}


def edited(
    model: EditModel, batch: Batch, method: str, sampling: dict[str, Any]
) -> tuple[list[Figures], list[Image.Image]]:
    """The figures of a batch's edits by one method, and their masks with the truth outlined."""
    batch_scenes = [case.scene for case in batch]
    seeds = [case.seed for case in batch]
    started = time.perf_counter()
    with _counted_rows(model) as rows, METHODS[method](model, batch_scenes, seeds, sampling) as own:
        mask_rows = sum(rows)
        edits = edit_batch(
            model,
            [scene.picture for scene in batch_scenes],
            [scene.prompt for scene in batch_scenes],
            seeds=seeds,
            **{**sampling, **own},
        )
    each: Figures = {
        "unet_evals": sum(rows) / len(batch),
        "mask_evals": mask_rows / len(batch),
        "seconds": (time.perf_counter() - started) / len(batch),
    }
    figures = [
        judged(case.group, case.scene, edit, method in PRESETS) | each for case, edit in zip(batch, edits, strict=True)
    ]
    masks = [grey(edit.mask.binary[0].numpy()) for edit in edits]
    pairs = zip(masks, batch_scenes, strict=True)
    return figures, [mask if scene.truth is None else outlined(mask, scene.truth) for mask, scene in pairs]


@contextmanager
def _counted_rows(model: EditModel) -> Iterator[list[int]]:
    """Collects how many rows each call of the U-Net had."""
    rows: list[int] = []
    hook = model.unet.register_forward_hook(lambda module, inputs, output: rows.append(len(output[0])))
    try:
        yield rows
    finally:
        hook.remove()


def _cell(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>14}"


def _chosen(text: str | None, known: Iterable[str] | None, what: str) -> list[str]:
    """The names of a comma-separated list; all for none."""
    names = [name.strip() for name in text.split(",")] if text else list(known or [])
    if known is not None and (unknown := [name for name in names if name not in known]):
        raise SystemExit(f"no {what} {unknown[0]!r}: choose from {', '.join(known)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--scenes", type=int, help="scenes of each group; default: 50, or all of a folder's")
    parser.add_argument("--groups", help="names, separated by commas; default: all")
    parser.add_argument("--methods", help="names, separated by commas; default: all")
    parser.add_argument("--model", type=Path, help="a diffusers folder or .safetensors file; default: embedded")
    parser.add_argument("--data", type=Path, help="a folder of other people's pictures; default: composed scenes")
    parser.add_argument("--size", type=int, default=512, help="the side of a folder's pictures; default: 512")
    parser.add_argument("--seed-offset", type=int, default=0, help="number of the first scene; default: 0")
    jobs = 1 if device().type == "cuda" else min(4, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help=f"processes; default here: {jobs}")
    options = parser.parse_args()
    groups = _chosen(options.groups, None if options.data else GROUPS, "group")
    methods = _chosen(options.methods, METHODS, "method")
    options.out.mkdir(parents=True, exist_ok=True)

    if options.data:
        cases = data_cases(options.data, groups, options.scenes, options.seed_offset, options.size)
    else:
        cases = own_cases(groups, options.scenes or 50, options.seed_offset)
    started = time.perf_counter()
    results = run(options.model, cases, methods, SAMPLING, options.jobs)
    found = report(results) | {
        "model": str(options.model or "mini"),
        "data": str(options.data or "composed"),
        "seed_offset": options.seed_offset,
        **{name: asdict(options) for name, options in SAMPLING.items()},
        "wall_seconds": time.perf_counter() - started,
    }
    (options.out / "results.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    outcomes = [
        {
            "group": group,
            "seed": seed,
            "methods": {name: each[number] for name, each in results.figures.items()},
        }
        for number, (group, seed) in enumerate(results.cases)
    ]
    (options.out / "outcomes.json").write_text(json.dumps(outcomes), encoding="utf-8")
    save_sheet(options.out / "results.png", ("picture", *methods), results.rows)
    print(tables(found["methods"]))


if __name__ == "__main__":
    main()
