"""A recorder, and what it hears of the steps of a run."""

import torch
from torch import Tensor

from instdiff_core.evidence import Predictions
from instdiff_core.noise import NoiseLevel
from instdiff_core.recorder import Recorder
from instdiff_core.tokens import PromptWords, Word

WORDS = PromptWords((Word("dog", (1,)), Word("grass", (2,))), (0,), (3,), 77)
PARTS = ("first", "maps", "propagated", "image_latent")


def level(sigma):
    """That of a model whose signal is 1."""
    return NoiseLevel(torch.tensor(1.0), torch.tensor(sigma))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predictions(batch=1, size=(8, 12), seed=0):
    guided, with_prompt, without, clean = noise(4, batch, 4, *size, seed=seed)
    return Predictions(guided, with_prompt, without, clean)


def still(batch=1, size=(4, 6)):
    """Predictions without any signal: only the words are in the propagated maps."""
    nothing = torch.zeros(batch, 4, *size)
    return Predictions(nothing, nothing, nothing, nothing)


def word_maps(batch=1, grid=(4, 6), seed=0):
    return torch.rand(batch, 4, *grid, generator=torch.Generator().manual_seed(seed))


def affinities(cells: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    return layer(noise(batch, cells, cells, seed=seed).softmax(-1))


def layer(affinity: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys ``[B, 1, N, N]`` of a self-attention layer whose probabilities are these ``[B, N, N]``."""
    cells = affinity.shape[-1]
    queries = affinity.clamp(min=1e-30).log()[:, None] * cells**0.5
    return queries, torch.eye(cells).expand_as(queries)


def recorded(sigmas, batch=1, signals=None, cells=True):
    """A recorder of a run with random layers, and the word maps and predictions of its steps."""
    recorder = Recorder()
    for number, sigma in enumerate(sigmas):
        recorder.add_words(word_maps(batch, seed=number))
        if cells:
            recorder.add_self_attention(*affinities(24, batch, seed=number), (4, 6))
        assert recorder.close_step(level(sigma), signals or predictions(batch, seed=number))
    return recorder
