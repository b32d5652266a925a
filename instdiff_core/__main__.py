"""python -m instdiff_core: edit pictures, put another editor's edit back, or see the embedded model edit four."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .arrays import Mask, Picture
from .edits import settings_of_edits
from .files import read_picture, save_edit
from .guard import guard_edit
from .metrics import iou
from .mini.scenes import compose, with_article
from .options import (
    GUARD,
    PRESETS,
    SAMPLING,
    GuardOptions,
    MaskSettings,
    Refused,
    SamplingOptions,
    read_settings,
)
from .report import describe_edits, describe_mask

SCENES = (
    ("cat", "grass", "panda"),
    ("tree", "sand", "mushroom"),
    ("panda", "bricks", "cat"),
    ("flower", "snow", "apple"),
)
"""What the demo edits: object, background, what the object becomes."""

EXTRAS = {
    **dict.fromkeys(("diffusers", "transformers", "huggingface_hub"), "demo"),
    **dict.fromkeys(("ray", "pyarrow", "tqdm", "filelock"), "batch"),
}
"""What the commands need beside the pack, and with which of its extras it comes."""

SHOWN_ERRORS = 10
"""Of a batch, in the terminal; the table of results has them all."""

OWN_SETTINGS = re.compile(r":(?=[^:]*=)")
"""What parts the prompt of a further edit from its settings: a colon with an equals sign behind it."""

COLUMNS = ("before", "soft mask", "mask", "after")
TILE = 256


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"instdiff: {message}\n")


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exits with 2 and one line on stderr, nothing written, when it cannot be done."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _quiet()
    try:
        options.run(options)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        parser.error(f'{error.name} is not installed: in the folder of the pack, run pip install -e ".[{extra}]"')
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    except KeyboardInterrupt:
        parser.exit(130, "instdiff: stopped\n")


def demo(options: argparse.Namespace) -> None:
    """Edit four composed scenes with the embedded model and draw them into one picture."""
    _check_output(options.out)
    from . import pipeline

    model = pipeline.load_mini(_device())
    rows: dict[str, list[Image.Image]] = {}
    scores: list[float] = []
    for number, (before, background, after) in enumerate(SCENES):
        picture, masks = compose(np.random.default_rng([options.seed, number]), [before], background)
        prompt = with_article(after)
        result = pipeline.edit(model, picture, prompt, seed=options.seed)
        binary = result.mask.binary[0].numpy()
        scores.append(float(iou(result.mask.binary[0], torch.from_numpy(masks[0]))))
        soft = (result.mask.soft[0].numpy() * 255).astype(np.uint8)
        line = f"{with_article(before)} -> {prompt}: mask IoU {scores[-1]:.2f}"
        rows[line] = [Image.fromarray(part) for part in (picture, soft, _grey(binary), result.picture)]
        print(line, flush=True)
    print(f"mean mask IoU {np.mean(scores):.2f}")
    _sheet(rows).save(options.out)


def edit(options: argparse.Namespace) -> None:
    """Edit one picture."""
    outputs = [options.out, options.mask] if options.mask else [options.out]
    for output in outputs:
        _check_output(output)
    settings, sampling = _settings(options), SamplingOptions(options.steps, options.cfg, options.strength)
    further = [_read_edit(text, settings) for text in options.edits]
    picture, alpha = read_picture(options.picture)
    from . import pipeline

    model = (
        pipeline.load_model(options.model, _device(), inpainting=options.inpainting_model)
        if options.model
        else pipeline.load_mini(_device())
    )
    result = pipeline.edit_photo(
        model,
        picture,
        [options.prompt, *(pipeline.EditPrompt(*each) for each in further)],
        settings=settings,
        sampling=sampling,
        finishing=replace(model.finishing, steps=options.steps, cfg=options.cfg),
        seed=options.seed,
        there=options.there,
    )
    binary = result.mask.binary[0].numpy()
    save_edit(result.picture, options.out, options.picture, alpha)
    if options.mask:
        Image.fromarray(_grey(binary)).save(options.mask)
    if options.json:
        print(json.dumps(result.facts))
    elif further:
        own = settings_of_edits(result.record, settings)
        print(describe_edits(result.masks, result.record, own, range(len(own))))
    else:
        print(describe_mask(result.mask, result.record, settings))


def batch(options: argparse.Namespace) -> None:
    """Edit the pictures of a folder or of a table. Exits with 1 when some could not be edited."""
    from .batch import BatchOptions, run_batch

    if options.workers and not options.ray:
        raise ValueError("--workers are those of --ray: add --ray local for workers on this machine")
    _settings(options)
    SamplingOptions(options.steps, options.cfg, options.strength)
    for path in (options.model, options.inpainting_model):
        if path and not path.exists():
            raise ValueError(f"no model at {path}")
    model, inpainting = (str(path.resolve()) if path else None for path in (options.model, options.inpainting_model))
    defaults = {"prompt": options.prompt, "seed": options.seed, "strength": options.strength}
    results = run_batch(
        options.jobs,
        options.out,
        BatchOptions(
            model, inpainting, options.preset, options.steps, options.cfg, options.batch_size, options.threads
        ),
        {**defaults, "threshold": options.threshold},
        options.ray,
        options.workers,
    )
    failed = [result for result in results if result.error]
    for result in failed[:SHOWN_ERRORS]:
        print(f"{result.id}: {result.error}", file=sys.stderr)
    print(f"jobs: {len(results) - len(failed)} done, {len(failed)} failed: {options.out / 'results.parquet'}")
    if failed:
        sys.exit(1)


def guard(options: argparse.Namespace) -> None:
    """Put only the edit of an edited picture into its original."""
    _check_output(options.out)
    settings = GuardOptions(
        options.sensitivity, options.grow, options.feather, not options.keep_colours, options.if_refused
    )
    original, alpha = read_picture(options.original)
    edited, _ = read_picture(options.edited)
    mask = read_picture(options.mask)[0].max(-1) if options.mask else None
    result = guard_edit(_values(original), _values(edited), None if mask is None else _values(mask), settings)
    picture = (result.picture * 255).round().byte().numpy()
    save_edit(picture, options.out, options.original, alpha)
    print(json.dumps(result.report.facts()) if options.json else result.report.describe())


def _parser() -> Parser:
    parser = Parser(prog="python -m instdiff_core", description="Edit pictures with instant masks.")
    commands = parser.add_subparsers(required=True, metavar="demo, edit, batch or guard")

    command = commands.add_parser("demo", help="edit four scenes with the embedded model, into one picture")
    command.add_argument("--out", type=Path, default=Path("instdiff-demo.png"), help="default: instdiff-demo.png")
    command.add_argument("--seed", type=_seed, default=0, help="of scenes and noise; default: 0")
    command.set_defaults(run=demo)

    command = commands.add_parser("edit", help="edit a picture")
    command.add_argument("picture", type=Path, help="the picture to edit")
    command.add_argument("prompt", help="what the picture should show, for example 'a dog'")
    command.add_argument("--out", type=Path, required=True, help="where the edited picture goes: a .png, .jpg or .webp")
    command.add_argument(
        "--edit",
        dest="edits",
        action="append",
        default=[],
        metavar="PROMPT[:NAME=VALUE,...]",
        help="a further edit in the same run, with mask settings of its own: 'a red car:threshold=0.4'; repeatable",
    )
    command.add_argument("--mask", type=Path, help="where the mask goes, of all edits; default: nowhere")
    command.add_argument(
        "--there", metavar="PROMPT", help="what is there now, for example 'a bird': a large photo is searched for it"
    )
    _add_settings(command)
    command.add_argument("--json", action="store_true", help="print words, weights, area and timings as JSON")
    command.set_defaults(run=edit)

    command = commands.add_parser("batch", help="edit the pictures of a folder or of a table, here or on Ray")
    command.add_argument("jobs", type=Path, help="a folder of pictures, or a table: .csv, .jsonl or .parquet")
    command.add_argument("--out", type=Path, required=True, help="the folder of the results; it may be there already")
    command.add_argument("--prompt", help="what the pictures should show, where the table has no prompt")
    _add_settings(command)
    command.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster, or 'local' for one on this machine")
    command.add_argument("--workers", type=_count, help="of Ray; default: one for each GPU, or each CPU")
    command.add_argument("--batch-size", type=_count, default=1, help="pictures of one size at a time; default: 1")
    command.add_argument("--threads", type=_count, default=1, help="of each worker, on a CPU; default: 1")
    command.set_defaults(run=batch)

    command = commands.add_parser("guard", help="put only the edit of an edited picture into its original")
    command.add_argument("original", type=Path, help="the picture before the edit")
    command.add_argument("edited", type=Path, help="what an editor made of it, of any size")
    command.add_argument("--out", type=Path, required=True, help="where the picture goes, of the original's size")
    command.add_argument("--mask", type=Path, help="white where the edit is; default: that is found")
    for name, text in (
        ("sensitivity", "0 to 1, higher finds smaller differences"),
        ("grow", "how much the area is made larger, in percent of the longer side"),
        ("feather", "width of its soft edge, in percent of the longer side"),
    ):
        command.add_argument(
            f"--{name}", type=float, default=getattr(GUARD, name), help=f"{text}; default: %(default)s"
        )
    command.add_argument("--keep-colours", action="store_true", help="keep the editor's change of all colours")
    command.add_argument(
        "--if-refused",
        choices=get_args(Refused),
        default=GUARD.refused,
        help="what goes out where the edit is not told from the rest; default: %(default)s",
    )
    command.add_argument("--json", action="store_true", help="print what was found out as JSON")
    command.set_defaults(run=guard)
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    """The settings of an edit."""
    command.add_argument("--model", type=Path, help="diffusers folder or .safetensors; default: the embedded model")
    command.add_argument(
        "--inpainting-model", type=Path, help="another one, with the same latents, that finishes the edits of --model"
    )
    command.add_argument("--preset", choices=sorted(PRESETS), default="default", help="mask settings")
    command.add_argument("--threshold", type=float, help="0 to 1, higher makes the mask smaller; default: the preset's")
    command.add_argument(
        "--strength", type=float, default=SAMPLING.strength, help="noise to start from, 0 to 1; default: %(default)s"
    )
    command.add_argument("--steps", type=int, default=SAMPLING.steps, help="sampling steps; default: %(default)s")
    command.add_argument("--cfg", type=float, default=SAMPLING.cfg, help="scale of the guidance; default: %(default)s")
    command.add_argument("--seed", type=_seed, default=0, help="of the noise; default: 0")


def _settings(options: argparse.Namespace) -> MaskSettings:
    """How masks are made. Raises ``ValueError`` for a threshold out of range or an inpainting model without a model."""
    if options.inpainting_model and not options.model:
        raise ValueError("--inpainting-model finishes the edits of --model: the embedded model has one of its own")
    preset = PRESETS[options.preset]
    return preset if options.threshold is None else replace(preset, threshold=options.threshold)


def _read_edit(text: str, settings: MaskSettings) -> tuple[str, MaskSettings | None]:
    """The prompt of a further edit, and its settings where it has its own: the command's, with what it changes."""
    prompt, *own = OWN_SETTINGS.split(text, maxsplit=1)
    try:
        return prompt.strip(), read_settings(own[0], settings) if own else None
    except ValueError as error:
        raise ValueError(f"--edit {text!r}: {error}") from error


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0, below 2**63, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**15:
        raise argparse.ArgumentTypeError(f"a number from 1 to {2**15 - 1}, not {text!r}")
    return int(text)


def _check_output(path: Path) -> None:
    """Raises ``ValueError`` for a path that no picture can be saved to, before any work is done."""
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"no picture can be written to {path}: {path.parent} is no folder, or {path} is one")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"no picture can be written to {path}: use a name that ends in .png, .jpg or .webp")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _quiet() -> None:
    """Keep the libraries' progress bars and warnings out of the output."""
    warnings.filterwarnings("ignore")
    os.environ["DIFFUSERS_VERBOSITY"] = os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"


def _values(picture: Picture) -> torch.Tensor:
    """Bytes in 0..1."""
    return torch.from_numpy(picture).float() / 255


def _grey(mask: Mask) -> NDArray[np.uint8]:
    return mask.astype(np.uint8) * 255


def _sheet(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """Rows of pictures, enlarged, under the names of their columns and each above its line of text."""
    line, gap = 24, 4
    step = TILE + gap
    sheet = Image.new("RGB", (len(COLUMNS) * step - gap, line + len(rows) * (TILE + line)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for column, name in enumerate(COLUMNS):
        draw.text((column * step + TILE // 2, line // 2), name, "black", font, anchor="mm")
    for number, (text, row) in enumerate(rows.items()):
        top = line + number * (TILE + line)
        for column, image in enumerate(row):
            enlarged = image.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (column * step, top))
        draw.text((sheet.width // 2, top + TILE + line // 2), text, "black", font, anchor="mm")
    return sheet


if __name__ == "__main__":
    main()
