"""How long the browser takes for a new mask when something moves in Refine Instant Mask.

    python -m tests.bench.widget [--words N] [--sides PX ...] [--grids CELLS ...] [--moves N]

Prints, in milliseconds, the median and the worst of a threshold move, a word click and a step move
in Chromium, and what the first mask takes: for square pictures of these sides, whose attention has
these cells on a side.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np

from instdiff_core.export import export_record
from instdiff_core.options import PRESETS

from ..browser import chromium, served
from ..records import make_pictures, make_record
from ..web.core import WEB, Core

STEPS = 20
TIME = """async ([kind, moves]) => {
    const { words, steps } = record;
    const choices = {
        threshold: (move) => ({ threshold: 0.01 + (move % 99) / 100, words: [], steps: 0 }),
        word: (move) => ({ threshold: 0, words: words.slice(0, 1 + move % words.length), steps: 0 }),
        step: (move) => ({ threshold: 0, words: [], steps: 1 + move % (steps - 1) }),
        first: () => ({ threshold: 0, words: [], steps: 0 }),
    };
    const times = [];
    for (let move = 0; move < moves; move++) {
        const choice = choices[kind](move);
        await new Promise(requestAnimationFrame);
        const start = performance.now();
        refinery.refine(choice);
        times.push(performance.now() - start);
    }
    return times;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=75, help="of the prompt; default: 75")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="of the picture; default: 512 1024")
    parser.add_argument("--grids", type=int, nargs="+", default=[16, 64], help="of the attention; default: 16 64")
    parser.add_argument("--moves", type=int, default=60, help="of each kind; default: 60")
    options = parser.parse_args()
    texts = tuple(f"word{number}" for number in range(options.words))
    with chromium() as browser, served(WEB) as address:
        page = browser.new_page()
        page.goto(f"{address}/core/")
        for side, grid in product(options.sides, options.grids):
            record = make_record(texts, steps=STEPS, grid=(grid, grid), latent=(side // 8, side // 8))
            for name, settings in PRESETS.items():
                Core(page).open(export_record(record, settings), make_pictures(record, 1))
                figures = []
                for kind, moves in {"first": 1, **dict.fromkeys(("threshold", "word", "step"), options.moves)}.items():
                    times = page.evaluate(TIME, [kind, moves])
                    worst = "" if moves == 1 else f" ({max(times):.1f})"
                    figures.append(f"{kind} {np.median(times):5.1f}{worst}")
                print(f"{side} px, attention {grid} x {grid}, {name:7}: {', '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
