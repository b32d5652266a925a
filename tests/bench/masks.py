"""The mask benchmark: how right the masks are, whether the edits show, and what they cost, by method and model.

    python -m tests.bench.masks --out DIR [--scenes 50] [--groups a,b] [--methods a,b] [--seed-offset 0]
    python -m tests.bench.masks --out DIR --models all|shipped,flow,... [--strength 0.3] [--block 2]
    python -m tests.bench.masks --out DIR --model PATH --data FOLDER [--size 512]

Edits the scenes of `scenes.py`, which have exact masks (or, with --data, other people's pictures:
`data.py` says in which layouts), by every method of `methods.py`, on the models of `catalogue.py`: the embedded
one unless --models or --model names others. Every method starts from the same noise at the same strength,
samples as many steps, and is followed by the same short finish.

What is measured (None where it has no meaning):

- iou, precision, recall, boundary_f of the mask at picture size, against the truth. SDEdit's mask
  is the whole picture.
- edit_success after the finish, and edit_success_unfinished before it: the classifier finds the new object in
  the square around the truth. "background": the truth's mean colour is nearest to the new background's, and the
  object that was to stay is still found. "not there yet": found where the edit differs most from the picture.
  "nothing to change": the object is still found. None for other people's pictures.
- psnr_outside, psnr_outside_unfinished in dB outside the truth; 100 stands for an equal picture. kept (found
  again, 0 or 1) and kept_psnr: the object that must stay.
- area, the masked part of the picture; sane, where there is no truth: it is 0.5 to 60 %,
  or none where nothing is to change.
- index_word_right and confidence of instant masks, and confidence_correlation, Spearman's, with the IoU.
- unet_evals, the latents that passed the network for one edit, two a step; mask_evals, those of them
  that were for nothing but the mask. seconds for an edit, in batches of 16, without encoding the picture; on a
  processor those of one thread of one process.

Writes results.json (means with bootstrap 95 % intervals, over all scenes that have a truth and by group),
outcomes.json (every single edit) and results.png (the first scenes of each group: the picture, then every
method's mask with the truth outlined). With several models, a folder for each, and worst.json: each figure of
the model that is worst at it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from instdiff_core.options import PRESETS
from instdiff_core.pipeline import Edit

from . import data
from .catalogue import BenchModel, is_flow, model_at, model_named, model_names
from .common import device, grey, outlined, save_sheet, spearman
from .engines import Batch, Engine
from .judge import FIGURES, Figures, judged, summary
from .methods import METHODS
from .scenes import GROUPS, Scene, scenes

BATCH = 16
T = TypeVar("T")
SHOWN = 2
"""Scenes of each group on the contact sheet."""

OVERALL = ("iou", "precision", "recall", "boundary_f", "edit_success", "psnr_outside", "unet_evals", "seconds")
COSTS = ("unet_evals", "mask_evals", "seconds")
BY_GROUP = ("iou", "boundary_f", "edit_success", "kept", "sane")


@dataclass(frozen=True)
class Case:
    """A scene to edit, and the seed of its noise: its number in its group."""

    group: str
    seed: int
    scene: Scene


Judged = tuple[list[Figures], list[Image.Image]]
"""The figures of a batch's edits by one method, and their masks with the truth outlined."""


@dataclass
class Results:
    """Every edit's figures, by method, with the group and seed of each case, and the lines of the contact sheet."""

    cases: list[tuple[str, int]] = field(default_factory=list)
    figures: dict[str, list[Figures]] = field(default_factory=lambda: defaultdict(list))
    rows: list[tuple[str, list[Image.Image]]] = field(default_factory=list)


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


def run(model: BenchModel, cases: Iterable[Case], methods: Sequence[str], jobs: int = 1) -> Results:
    """Edit every case by every method, in `jobs` processes."""
    remaining = iter(cases)
    batches = iter(lambda: list(islice(remaining, BATCH)), [])
    results = Results()
    for batch, by_method in _by_all(model, batches, partial(_edited_by_all, methods=methods), jobs):
        for method, (figures, _) in by_method.items():
            results.figures[method] += figures
        for number, case in enumerate(batch):
            if sum(group == case.group for group, _ in results.cases) < SHOWN:
                caption = f"{case.group}, {case.seed}: {case.scene.prompt}"
                images = [Image.fromarray(case.scene.picture), *(masks[number] for _, masks in by_method.values())]
                results.rows.append((caption, images))
            results.cases.append((case.group, case.seed))
        print(f"{model.name}: {len(results.cases)} scenes", flush=True)
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


def worst(reports: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Of the "methods" of several models (`report`), by name: each figure of the model that is worst at it.

    In the same layout, and beside each figure, as "<figure>_model", whose it is. Costs are worse where they are
    higher. Figures that a model lacks are left out.
    """

    def worst_of(entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for figure in FIGURES:
            values = {name: entry[figure] for name, entry in entries.items() if entry[figure] is not None}
            name = (max if figure in COSTS else min)(values, key=values.__getitem__, default=None)
            figures |= {figure: None if name is None else values[name], f"{figure}_model": name}
        return figures

    first = next(iter(reports.values()))
    methods: dict[str, Any] = {}
    for method, entry in first.items():
        entries = {name: methods[method] for name, methods in reports.items()}
        methods[method] = {
            "overall": worst_of({name: each["overall"] for name, each in entries.items()}),
            "groups": {
                group: worst_of({name: each["groups"][group] for name, each in entries.items()})
                for group in entry["groups"]
            },
        }
    return methods


def worst_table(methods: dict[str, Any]) -> str:
    """`tables` of what `worst` gives, and which model has the lowest IoU."""
    lines = [tables(methods), "", f"{'lowest IoU':22}" + "".join(f"{method:>14}" for method in methods)]
    for group in next(iter(methods.values()))["groups"]:
        names = [each["groups"][group]["iou_model"] for each in methods.values()]
        if any(names):
            lines.append(f"{group:22}" + "".join(f"{name or '-':>14}" for name in names))
    return "\n".join(lines)


_engine: Engine
"""The loaded model of a process."""


def _by_all(
    model: BenchModel, batches: Iterable[list[Case]], edit: Callable[[list[Case]], T], jobs: int
) -> Iterator[T]:
    if jobs == 1:
        _start(model, torch.get_num_threads())
        yield from map(edit, batches)
        return
    # threads of one process wait for each other in every layer, processes do not
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start, (model, threads)) as pool:
        yield from pool.map(edit, batches)


def _start(model: BenchModel, threads: int) -> None:
    global _engine
    torch.set_num_threads(threads)
    _engine = model.load()


def _edited_by_all(cases: list[Case], methods: Sequence[str]) -> tuple[list[Case], dict[str, Judged]]:
    batch = _engine.prepare([case.scene for case in cases], [case.seed for case in cases])
    return cases, {method: edited(_engine, batch, cases, method) for method in methods}


def edited(engine: Engine, batch: Batch, cases: Sequence[Case], method: str) -> Judged:
    """Edit the batch of these cases by one method."""
    edits, costs = edit_by(engine, batch, method)
    figures = [
        {**judged(case.group, case.scene, edit, method in PRESETS), **costs}
        for case, edit in zip(cases, edits, strict=True)
    ]
    masks = [grey(edit.mask.binary[0].numpy()) for edit in edits]
    truths = [case.scene.truth for case in cases]
    pairs = zip(masks, truths, strict=True)
    return figures, [mask if truth is None else outlined(mask, truth) for mask, truth in pairs]


def edit_by(engine: Engine, batch: Batch, method: str) -> tuple[list[Edit], dict[str, float]]:
    """A batch edited by one method, and what each edit has cost: `unet_evals`, `mask_evals`, `seconds`."""
    started, count = time.perf_counter(), len(batch.scenes)
    with counted_rows(engine) as rows:
        approach = METHODS[method](batch)
        mask_rows = sum(rows)
        edits = batch.edit(approach)
    seconds = time.perf_counter() - started
    return edits, {"unet_evals": sum(rows) / count, "mask_evals": mask_rows / count, "seconds": seconds / count}


@contextmanager
def counted_rows(engine: Engine) -> Iterator[list[int]]:
    """Collects how many latents each call of the network had."""
    rows: list[int] = []
    hooks = [
        network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
        for network in engine.networks
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def _cell(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>14}"


def _chosen(text: str | None, known: Iterable[str] | None, what: str) -> list[str]:
    """The names of a comma-separated list; all for none."""
    names = [name.strip() for name in text.split(",")] if text else list(known or [])
    if known is not None and (unknown := [name for name in names if name not in known]):
        raise SystemExit(f"no {what} {unknown[0]!r}: choose from {', '.join(known)}")
    return names


def _chosen_models(options: argparse.Namespace) -> list[BenchModel]:
    if options.model:
        models = [model_at(options.model)]
    else:
        wanted = None if options.models == "all" else options.models
        models = [model_named(name) for name in _chosen(wanted, model_names(), "model")]
    if options.block is not None and not all(model.path and is_flow(model.path) for model in models):
        raise SystemExit("--block is for flow models alone")
    sampling = {} if options.strength is None else {"strength": options.strength}
    return [replace(model, sampling=replace(model.sampling, **sampling), block=options.block) for model in models]


def measured(
    model: BenchModel, cases: Iterable[Case], methods: Sequence[str], jobs: int, out: Path, about: dict[str, Any]
) -> dict[str, Any]:
    """Run a model, and write its files into `out`; gives the content of results.json, with `about` in it."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results = run(model, cases, methods, jobs)
    content = report(results) | {
        "model": model.name,
        "sampling": asdict(model.sampling),
        "finishing": asdict(model.finishing),
        "wall_seconds": time.perf_counter() - started,
        **about,
    }
    (out / "results.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    outcomes = [
        {
            "group": group,
            "seed": seed,
            "methods": {name: each[number] for name, each in results.figures.items()},
        }
        for number, (group, seed) in enumerate(results.cases)
    ]
    (out / "outcomes.json").write_text(json.dumps(outcomes), encoding="utf-8")
    save_sheet(out / "results.png", ("picture", *methods), results.rows)
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--scenes", type=int, help="scenes of each group; default: 50, or all of a folder's")
    parser.add_argument("--groups", help="names, separated by commas; default: all")
    parser.add_argument("--methods", help="names, separated by commas; default: all")
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--models", default="shipped", help=f"all, or of {', '.join(model_names())}, by commas; default: shipped"
    )
    models.add_argument("--model", type=Path, help="a diffusers folder, a .safetensors file, or a folder as in models/")
    parser.add_argument("--strength", type=float, help="default: 0.5, and 0.3 for flow models, which is as noisy")
    parser.add_argument("--block", type=int, help="read one block of a flow model alone; default: all")
    parser.add_argument("--data", type=Path, help="a folder of other people's pictures; default: composed scenes")
    parser.add_argument("--size", type=int, default=512, help="the side of a folder's pictures; default: 512")
    parser.add_argument("--seed-offset", type=int, default=0, help="number of the first scene; default: 0")
    jobs = 1 if device().type == "cuda" else min(4, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help=f"processes; default here: {jobs}")
    options = parser.parse_args()
    groups = _chosen(options.groups, None if options.data else GROUPS, "group")
    methods = _chosen(options.methods, METHODS, "method")
    chosen = _chosen_models(options)

    reports: dict[str, Any] = {}
    for model in chosen:
        if options.data:
            cases = data_cases(options.data, groups, options.scenes, options.seed_offset, options.size)
        else:
            cases = own_cases(groups, options.scenes or 50, options.seed_offset)
        out = options.out if len(chosen) == 1 else options.out / model.name
        about = {"data": str(options.data or "composed"), "seed_offset": options.seed_offset}
        content = measured(model, cases, methods, options.jobs, out, about)
        reports[model.name] = content["methods"]
        print(f"\n{model.name}\n{tables(content['methods'])}\n", flush=True)
    if len(chosen) > 1:
        (options.out / "worst.json").write_text(json.dumps(worst(reports), indent=2), encoding="utf-8")
        print(f"the worst of {', '.join(reports)}\n{worst_table(worst(reports))}")


if __name__ == "__main__":
    main()
