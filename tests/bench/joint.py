"""What reading costs a transformer of Flux's size: one block of its width with random weights, at 1024 px, in bfloat16.

    python -m tests.bench.joint [--rounds N]

Times model calls with the reader's hooks and without, in alternating pairs, and the end of a step; and
compares the peak memory of a process each. From the block it reckons what a step of the whole model
takes, of whose 57 blocks some are read. Needs ComfyUI; runs on the GPU where there is one.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .common import interval
from .host import load_pack
from .speed import ratio, seconds_of_pairs

BLOCK: dict[str, Any] = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 1, "depth_single_blocks": 0,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
    "txt_ids_dims": [],
}  # fmt: skip
FLUX_BLOCKS = 57
LATENT, TEXT, WORDS = 128, 512, 6


class OneEntry:
    """What the reader needs of a run and its edit: all of the batch is the prompt, `WORDS` words of a token each."""

    name = "positive"

    def __init__(self, pack: Callable[[str], Any], grid: tuple[int, int]) -> None:
        tokens = pack("instdiff_core.tokens")
        words = tuple(tokens.Word(f"word{number}", (number,)) for number in range(WORDS))
        self.words = tokens.PromptWords(words, (), (WORDS,), TEXT)
        self.session = pack("instdiff_core.session").MaskSession(self.words, None, grid)

    def edit_entries(self, count: int, *_: Any) -> Iterator[tuple[OneEntry, slice]]:
        yield self, slice(0, count)

    def token_matrix(self, length: int, device: torch.device) -> Tensor:
        return self.words.matrix(length, device)


class Calls:
    """A model call, read and not read, and the end of a step."""

    def __init__(self) -> None:
        import comfy.model_management
        import comfy.supported_models

        torch.manual_seed(0)
        self._device = comfy.model_management.get_torch_device()
        config = comfy.supported_models.Flux(dict(BLOCK))
        config.set_inference_dtype(torch.bfloat16, None)
        self._model = config.get_model({}).to(self._device)
        for weight in self._model.diffusion_model.parameters():  # the host leaves them as the memory was
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1)
        self._latents = torch.randn(5, 1, 16, LATENT, LATENT, device=self._device)
        self._context = torch.randn(1, TEXT, 4096, device=self._device)
        self._pooled = torch.randn(1, 768, device=self._device)
        self._reader = _pack("nodes.host.readers.joint").JointReader(self._model.diffusion_model, (LATENT, LATENT))
        self._run = OneEntry(_pack, self._reader.grid)
        self._options: dict[str, Any] = {"transformer_options": {}}
        self._reader.install(self._options, self._run)

    def plain(self) -> None:
        self._call({})

    def read(self) -> None:
        self._run.session.drop_step()
        self._call(self._options["transformer_options"])

    def close(self) -> None:
        """End a step that was read: the maps are propagated."""
        noise, evidence = (_pack(f"instdiff_core.{name}") for name in ("noise", "evidence"))
        level = noise.NoiseLevel(*torch.tensor([0.4, 0.6], device=self._device))
        self._run.session.step(level, evidence.Predictions(*self._latents[:4]))

    def attend(self) -> None:
        """The block's own attention alone."""
        q = torch.empty(3, 1, 24, TEXT + LATENT**2 // 4, 128, dtype=torch.bfloat16, device=self._device).normal_()
        start = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(*q)
        _wait()
        print(f"its attention alone {time.perf_counter() - start:.3f} s")

    def _call(self, options: dict[str, Any]) -> None:
        self._model.apply_model(
            self._latents[4], torch.tensor([0.6], device=self._device), c_crossattn=self._context, y=self._pooled,
            guidance=torch.tensor([3.5], device=self._device), transformer_options=dict(options),
        )  # fmt: skip
        _wait()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _pack(module: str) -> Any:
    return importlib.import_module(f"{load_pack().__name__}.{module}")


def measure_peak(kind: str) -> int:
    """The peak in bytes of this process after two steps, read or plain."""
    calls = Calls()
    for _ in range(2):
        getattr(calls, kind)()
        if kind == "read":
            calls.close()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of calls; default: 7")
    parser.add_argument("--peak", choices=("plain", "read"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    load_pack()
    if options.peak:
        print(measure_peak(options.peak))
        return
    calls = Calls()
    seconds = seconds_of_pairs(calls.read, calls.plain, options.rounds)
    low, high = interval(seconds, ratio)
    read, plain = np.median(seconds, 0)
    print(f"a block of Flux's width, 1024 px, bfloat16, {options.rounds} pairs: read {read:.3f} s, plain {plain:.3f} s")
    print(f"ratio of the medians {ratio(seconds):.4f}, 95 % interval {low:.4f} to {high:.4f}")
    calls.attend()
    closes = []
    for _ in range(3):
        calls.read()
        start = time.perf_counter()
        calls.close()
        _wait()
        closes.append(time.perf_counter() - start)
    blocks = _pack("nodes.host.readers.joint").BLOCKS
    extra = blocks * (read - plain) + np.median(closes)
    print(f"the end of a step {np.median(closes):.3f} s")
    print(f"of a step of {FLUX_BLOCKS} blocks, {blocks} of them read: {100 * extra / (FLUX_BLOCKS * plain):.2f} % more")
    command = [sys.executable, "-m", "tests.bench.joint", "--peak"]
    peaks = [
        int(subprocess.run([*command, kind], check=True, capture_output=True, text=True).stdout.split()[-1])
        for kind in ("read", "plain")
    ]
    print(f"peak memory: read {peaks[0] / 2**20:.0f} MiB, plain {peaks[1] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
