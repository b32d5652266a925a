"""The paper's tables: methods on its data sets, beside what it publishes.

    python -m tests.bench.paper --suite editing-mask|imagenet|imagen|pie-bench --data DIR --model PATH --out DIR
    python -m tests.bench.paper --suite composed --out DIR [--limit 60] [--strengths 0.4,0.5,0.6]

`data.py` says in which layouts data are read, `networks.py` which networks the figures need and where they
go, docs/benchmarks.md how all of it is done step by step. The suite "composed" writes scenes of its own in
the layout of ImageNet's list, and takes the benchmark's classifier for the networks: every figure is
there, and compares with no others'.

Every edit is saved under OUT/edits as soon as it is there, and a run that was stopped goes on where it was.
Pictures and masks that cannot be read are listed at the end. Writes results.json, table.md (a row for each
method and strength, with those of the paper, marked as published), and tradeoff.png and .svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from instdiff_core.arrays import Mask
from instdiff_core.batch.work import write_whole
from instdiff_core.files import read_picture
from instdiff_core.mini.scenes import compose, with_article
from instdiff_core.options import INPAINTING_FINISH, FinishOptions, SamplingOptions
from instdiff_core.pipeline import Picture

from . import data, masks
from .figures import FIGURES, EditedScene, Figures, measure
from .networks import ClassifierNetworks, LibraryNetworks, MissingNetworks, Networks
from .scenes import SEED, Scene
from .tradeoff import draw
from .unets import UNetEngine

METHODS = ("default", "paper", "DiffEdit", "SDEdit", "LEdits++")
"""Those of the paper's tables that are in `methods.py`, and our own."""

NOISE_SAMPLES = 3
"""Of the method "paper", as published."""

PUBLISHED = SamplingOptions(50), FinishOptions()
"""Sampling and finish, the steps being those of the whole schedule: an edit at strength r takes r of them."""

COMPOSED = SamplingOptions(20), INPAINTING_FINISH
"""Those of composed scenes: the embedded model's in the mask benchmark."""

WORDS = ("cat", "tree", "ball", "flower", "house", "car")
"""What the composed scenes show, and become: few, so that each has pictures enough for an FID of its own."""


@dataclass(frozen=True)
class Suite:
    """A data set: whether its list has masks, whether structures are compared, and the paper's rows."""

    masks: bool
    structure: bool = False
    published: tuple[tuple[str, Figures], ...] = ()


SUITES = {
    "editing-mask": Suite(
        True,
        published=(("InstDiffEdit", {"iou": 0.562, "seconds": 10.8}), ("DiffEdit", {"iou": 0.33, "seconds": 64.0})),
    ),
    "imagenet": Suite(False, published=(("InstDiffEdit", {"lpips": 0.286, "csfid": 65.1}),)),
    "imagen": Suite(
        False,
        published=(("InstDiffEdit", {"lpips": 0.17, "fid": 55.3, "clip": 0.249}), ("DiffEdit", {"lpips": 0.297})),
    ),
    "pie-bench": Suite(True, structure=True),
    "composed": Suite(True),
}
"""The published figures are those of Zou et al. 2024; seconds on an A30."""


@dataclass(frozen=True)
class Run:
    """A method at a strength."""

    method: str
    strength: float

    @property
    def folder(self) -> str:
        return f"{self.method.replace('+', 'p')}-{self.strength:g}"

    def sampling(self, engine: UNetEngine) -> SamplingOptions:
        """How it samples where the engine's steps are those of the whole schedule."""
        steps = max(1, round(engine.sampling.steps * self.strength))
        noise_samples = NOISE_SAMPLES if self.method == "paper" else 1
        return replace(engine.sampling, steps=steps, strength=self.strength, noise_samples=noise_samples)


class Edits:
    """The edits in a folder: pictures, masks, and what each cost, in a journal.

    Raises ``ValueError`` for a folder with edits of other `settings`.
    """

    def __init__(self, out: Path, settings: dict[str, str]) -> None:
        noted = out / "settings.json"
        if noted.exists() and (earlier := json.loads(noted.read_text(encoding="utf-8"))) != settings:
            raise ValueError(f"{out} holds edits of {earlier}, not of {settings}: take another folder")
        self._out = out
        self._costs: dict[tuple[str, int], dict[str, float]] = {}
        (out / "unfinished").mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(settings), encoding="utf-8")
        self._journal = out / "edits.jsonl"
        for line in self._journal.read_text(encoding="utf-8").split("\n") if self._journal.exists() else ():
            try:
                folder, number, cost = json.loads(line)
            except ValueError:  # a run was killed while it wrote
                continue
            self._costs[folder, number] = cost

    def has(self, run: Run, number: int) -> bool:
        return (run.folder, number) in self._costs

    def add(self, run: Run, number: int, picture: Picture, mask: Mask, cost: dict[str, float]) -> None:
        (self._out / "edits" / run.folder).mkdir(parents=True, exist_ok=True)
        for name, image in (("", Image.fromarray(picture)), (".mask", Image.fromarray(mask.astype(np.uint8) * 255))):
            write_whole(self._out, f"edits/{run.folder}/{number}{name}.png", image.save)
        with self._journal.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([run.folder, number, cost]))
        self._costs[run.folder, number] = cost

    def read(self, run: Run, scenes: Iterable[tuple[int, Scene]]) -> Iterator[EditedScene]:
        """The edits of a run, with the scenes that have one."""
        for number, scene in scenes:
            if self.has(run, number):
                stem = self._out / "edits" / run.folder / str(number)
                mask = read_picture(stem.with_name(f"{number}.mask.png"))[0].max(-1) > 127
                yield EditedScene(scene, read_picture(stem.with_name(f"{number}.png"))[0], mask)

    def mean_cost(self, run: Run) -> Figures:
        costs = [cost for (folder, _), cost in self._costs.items() if folder == run.folder]
        return {name: float(np.mean([cost[name] for cost in costs])) for name in costs[0]} if costs else {}


class Scenes:
    """The scenes of a list that can be read, by their number in it, and why others cannot."""

    def __init__(self, entries: Sequence[data.Entry]) -> None:
        self._entries = entries
        self.skipped: dict[str, str] = {}

    def __iter__(self) -> Iterator[tuple[int, Scene]]:
        for number, entry in enumerate(self._entries):
            try:
                yield number, entry.load()[1]
            except ValueError as error:
                self.skipped[f"{number + 1}: {entry.name}"] = str(error)


def edit_scenes(engine: UNetEngine, scenes: Scenes, runs: Sequence[Run], edits: Edits, size: int) -> None:
    """Edit what has not been edited yet, `size` scenes at a time."""
    remaining = iter(scenes)
    for batch in iter(lambda: list(islice(remaining, size)), []):
        for run in runs:
            missing = [(number, scene) for number, scene in batch if not edits.has(run, number)]
            if not missing:
                continue
            numbers, pending = zip(*missing, strict=True)
            prepared = engine.prepare(pending, numbers)
            made, costs = masks.edit_by(engine, replace(prepared, sampling=run.sampling(engine)), run.method)
            for number, edit in zip(numbers, made, strict=True):
                edits.add(run, number, edit.picture, edit.mask.binary[0].numpy(), costs)
        print(f"{batch[-1][0] + 1} scenes", flush=True)


def write_composed(folder: Path, count: int) -> None:
    """`count` scenes with exact masks as a list "file <> source class <> target class", and pictures of each class."""
    lines = []
    for kind in ("images", "masks", *(f"references/{word}" for word in WORDS)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([SEED, 99, number])
        # every class comes about equally often, before and after
        source, target = WORDS[number % len(WORDS)], WORDS[(number + 1 + number // len(WORDS) % 5) % len(WORDS)]
        picture, (mask,) = compose(rng, [source], str(rng.choice(("grass", "sand", "snow"))))
        Image.fromarray(picture).save(folder / "images" / f"{number:04}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:04}.png")
        lines.append(f"{number:04}.png <> {source} <> {target}")
    for word in WORDS:
        for number in range(8):
            picture, _ = compose(np.random.default_rng([SEED, 98, WORDS.index(word), number]), [word], "grass")
            Image.fromarray(picture).save(folder / "references" / word / f"{number}.png")
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8")


def references(folder: Path, scenes: Iterable[tuple[int, Scene]], size: int, prompt: str) -> Iterator[Picture]:
    """Real pictures of what an edit prompt says: those of the data that show it, and of references/<class>/."""
    for _, scene in scenes:
        if scene.source_prompt == prompt:
            yield scene.picture
    for place in sorted((folder / "references").glob("*/")):
        if with_article(place.name) == prompt:
            for path in sorted(place.iterdir()):
                yield np.array(Image.fromarray(read_picture(path)[0]).resize((size, size), Image.Resampling.LANCZOS))


def table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Rows of figures as Markdown, without the columns that no row has."""
    names = [name for name in FIGURES if any(figures.get(name) is not None for _, figures in rows)]
    lines = ["| | " + " | ".join(FIGURES[name] for name in names) + " |", "|---|" + "---|" * len(names)]
    for title, figures in rows:
        cells = ["" if (value := figures.get(name)) is None else f"{value:.4g}" for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Exits with 2 and one line on stderr, nothing written, where data, model or networks are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for edits and results")
    parser.add_argument("--data", type=Path, help="the folder of the data")
    parser.add_argument("--model", type=Path, help="a diffusers folder or .safetensors file; default: embedded")
    parser.add_argument("--features", type=Path, help="a folder of networks; default: the libraries download them")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas; default: %(default)s")
    parser.add_argument("--strengths", default="0.5", help="separated by commas; default: %(default)s")
    parser.add_argument("--limit", type=int, help="how many scenes; default: all, or 60 composed ones")
    parser.add_argument("--size", type=int, help="the side of the pictures; default: 512, or 256 composed")
    parser.add_argument("--batch-size", type=int, default=4, help="scenes at a time; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        write_tables(options)
    except (ValueError, OSError, MissingNetworks) as error:
        print(f"paper: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def write_tables(options: argparse.Namespace) -> None:
    """Edit, measure, and write the results."""
    suite, composed = SUITES[options.suite], options.suite == "composed"
    methods = [name.strip() for name in options.methods.split(",")]
    if unknown := set(methods) - set(METHODS):
        raise ValueError(f"no method {min(unknown)!r}: choose from {', '.join(METHODS)}")
    runs = [Run(method, float(strength)) for method in methods for strength in options.strengths.split(",")]
    size, count = options.size or (256 if composed else 512), options.limit or (60 if composed else None)
    if not composed and not options.data:
        raise ValueError(f"--data names the folder of {options.suite}")
    folder = options.out / "data" if composed else options.data
    networks: Networks = ClassifierNetworks() if composed else LibraryNetworks(options.features, suite.structure)
    if composed:
        write_composed(folder, count or 0)
    scenes = Scenes(data.entries(folder, size, suite.masks)[:count])
    engine = UNetEngine(options.model, *(COMPOSED if composed else PUBLISHED))
    settings = {"suite": options.suite, "model": str(options.model or "mini"), "size": str(size)}
    edits = Edits(options.out, settings)
    edit_scenes(engine, scenes, runs, edits, options.batch_size)

    real = partial(references, folder, scenes, size)
    figures: dict[str, dict[float, Figures]] = defaultdict(dict)
    for run in runs:
        row = measure(partial(edits.read, run, scenes), networks, real, suite.structure) | edits.mean_cost(run)
        figures[run.method][run.strength] = row
        print(run.folder, row, flush=True)
    rows = [(f"{method}, {at:g}", row) for method, by_strength in figures.items() for at, row in by_strength.items()]
    rows += [(f"*{name}, published, not measured*", row) for name, row in suite.published]
    text = table(rows)
    if scenes.skipped:
        text += "\n\nLeft out:\n\n" + "\n".join(f"- {name}: {why}" for name, why in scenes.skipped.items())
    content = json.dumps({**settings, "figures": figures}, indent=2)
    (options.out / "results.json").write_text(content, encoding="utf-8")
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    draw(figures, options.out / "tradeoff")
    print(text)


if __name__ == "__main__":
    main()
