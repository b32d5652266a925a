"""How long the mask editor of Refine Instant Mask takes for a new mask when something moves.

    python -m tests.bench.widget [--words N] [--sides PX ...] [--grids CELLS ...] [--moves N] [--latency MS] [--busy]

Starts a ComfyUI server, and prints, in milliseconds, the median and the worst of a threshold move,
of a word click and of a step move in Chromium, and what the first mask takes: for square pictures
of these sides, whose attention has these cells on a side. A threshold is cut in the browser; for
the others the time is from the question to the mask that came of the server's answer. Beside each
is the processor time that the server and the browser took for it, which says what an idle machine
would need where this one is not idle. Last, the bytes of an answer. With a latency every answer
comes so much later; with --busy the server samples all the time, and its processor time says nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import torch

from instdiff_core.evidence import AttentionRecord
from instdiff_core.export import export_record
from instdiff_core.options import PRESETS, MaskSettings
from tests.conftest import host_path
from tests.live.conftest import Server

from ..browser import chromium
from ..records import make_pictures, make_record

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = "InstDiffEdit"
STEPS = 20
BUSY_STEPS = 10_000
TIME = """async ([folder, record, kind, moves]) => {
    const { readAnswer } = await import(`${folder}/answer.js`);
    const { cut } = await import(`${folder}/widget/mask.js`);
    let size = 0;
    const ask = async (question) => {
        const body = JSON.stringify({ record, words: [], steps: 0, picture: 0, ...question });
        const headers = { "Content-Type": "application/json" };
        const response = await fetch("/api/instdiff/mask", { method: "POST", headers, body });
        const buffer = await response.arrayBuffer();
        size = buffer.byteLength;
        return readAnswer(buffer);
    };
    const first = kind === "first" ? null : await ask({});
    const makers = {
        first: async () => cut(await ask({}), 0.5),
        threshold: async (move) => cut(first, 0.01 + (move % 99) / 100),
        word: async (move) => cut(await ask({ words: first.words.slice(0, 1 + move % first.words.length) }), 0.5),
        step: async (move) => cut(await ask({ steps: 1 + move % (first.steps - 1) }), 0.5),
    };
    const times = [];
    for (let move = 0; move < moves; move++) {
        await new Promise(requestAnimationFrame);
        const start = performance.now();
        await makers[kind](move);
        times.push(performance.now() - start);
    }
    return { times, size };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=75, help="of the prompt; default: 75")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="of the picture; default: 512 1024")
    parser.add_argument("--grids", type=int, nargs="+", default=[16, 64], help="of the attention; default: 16 64")
    parser.add_argument("--moves", type=int, default=60, help="of each kind; default: 60")
    parser.add_argument("--latency", type=int, default=0, help="milliseconds by which every answer is late; default: 0")
    parser.add_argument("--busy", action="store_true", help="the server samples beside")
    options = parser.parse_args()
    texts = tuple(f"word{number}" for number in range(options.words))
    with _started() as server, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{server.url}/extensions/{FOLDER}/answer.js")
        network = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1, "latency": options.latency}
        page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", network)
        if options.busy:
            server.queue(_long_sampling())
            server.wait_for_step(BUSY_STEPS)
        for side, grid in product(options.sides, options.grids):
            record = make_record(texts, steps=STEPS, grid=(grid, grid), latent=(side // 8, side // 8))
            for name, settings in PRESETS.items():
                figures = _measure(page, server, _leave(server, record, settings), options.moves)
                print(f"{side} px, attention {grid} x {grid}, {name:7}: {figures}", flush=True)


def _measure(page: Page, server: Server, record: str, moves: int) -> str:
    figures, size = [], 0
    own = psutil.Process(server.process.pid)
    processes = [own], [child for child in psutil.Process().children(recursive=True) if child != own]
    for kind, count in {"first": 1, **dict.fromkeys(("threshold", "word", "step"), moves)}.items():
        before = [_processor_time(group) for group in processes]
        measured: dict[str, Any] = page.evaluate(TIME, [f"/extensions/{FOLDER}", record, kind, count])
        times, size = measured["times"], measured["size"]
        if count == 1:
            figures.append(f"{kind} {times[0]:.1f}")
            continue
        taken = [(_processor_time(group) - start) / count for group, start in zip(processes, before, strict=True)]
        processor = " + ".join(f"{1000 * seconds:.0f}" for seconds in taken)
        figures.append(f"{kind} {np.median(times):.1f} ({max(times):.1f}; processor {processor})")
    return f"{', '.join(figures)}; {size / 2**20:.2f} MiB"


def _processor_time(processes: list[Any]) -> float:
    """In seconds, of those that are still there."""
    times = [process.cpu_times() for process in processes if process.is_running()]
    return sum(time.user + time.system for time in times)


@contextmanager
def _started() -> Iterator[Server]:
    """A server of its own. Exits with one line where there is no host."""
    try:
        place = host_path()
    except pytest.skip.Exception as why:
        raise SystemExit(str(why)) from None
    with tempfile.TemporaryDirectory() as base:
        server = Server.with_link(place, Path(base), FOLDER)
        try:
            server.wait_until_up()
            yield server
        finally:
            server.stop()


_numbers = iter(range(10**6))


def _leave(server: Server, record: AttentionRecord, settings: MaskSettings) -> str:
    """Put a record, with a picture, where a node would leave it; its name."""
    pictures = torch.from_numpy(make_pictures(record, 1)).movedim(-1, 1) / 255
    name = f"instdiff_{next(_numbers):032x}.safetensors"
    (server.log_file.parent / "temp" / name).write_bytes(export_record(record, [settings], pictures))
    return name


def _long_sampling() -> dict[str, Any]:
    """A workflow that samples for longer than any measurement takes."""
    inputs = {"seed": 1, "steps": BUSY_STEPS, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal"}
    links = {"model": ["model", 0], "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0]}
    return {
        "model": {"class_type": "InstDiffLoadMiniModel", "inputs": {}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": "a frog"}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "run": {"class_type": "KSampler", "inputs": {**inputs, **links, "denoise": 1.0}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["run", 0], "vae": ["model", 2]}},
        "out": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }


if __name__ == "__main__":
    main()
