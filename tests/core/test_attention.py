"""Word maps against a softmax by hand, and the record of a run."""

import numpy as np
import pytest
import torch

from instdiff_core.attention import Recorder, downscale_to_read, word_maps
from instdiff_core.tokens import PromptWords, Word

WORDS = PromptWords((Word("dog", (1,)), Word("butterfly", (2, 3))), (0,), (4,), 7)


def by_hand(q, k, heads, grid):
    """Loops over rows, heads and pixels; float64 numpy."""
    q, k = q.double().numpy(), k.double().numpy()
    width = q.shape[-1] // heads
    maps = np.zeros((len(q), 4, *grid))
    for row in range(len(q)):
        for pixel in range(q.shape[1]):
            mean = np.zeros(k.shape[1])
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = np.exp(k[row, :, part] @ q[row, pixel, part] / np.sqrt(width))
                mean += scores / scores.sum() / heads
            at = divmod(pixel, grid[1])
            maps[(row, 0, *at)], maps[(row, 1, *at)], maps[(row, 2, *at)] = mean[0], mean[4], mean[1]
            maps[(row, 3, *at)] = (mean[2] + mean[3]) / 2
    return maps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "grid"), [(1, (4, 4)), (3, (2, 5)), (8, (6, 3))])
def test_maps_are_the_mean_softmax_of_the_heads(heads, grid, dtype):
    generator = torch.Generator().manual_seed(heads)
    q = torch.randn(2, grid[0] * grid[1], 24, generator=generator).to(dtype) * 3
    k = torch.randn(2, 7, 24, generator=generator).to(dtype)
    maps = word_maps(q, k, heads, WORDS.matrix(7), grid)
    assert maps.dtype == torch.float32
    np.testing.assert_allclose(maps.numpy(), by_hand(q, k, heads, grid), rtol=1e-4, atol=1e-6)


def test_a_repeated_context_gives_the_same_maps():
    q, k = torch.randn(1, 12, 8), torch.randn(1, 7, 8)
    once = word_maps(q, k, 2, WORDS.matrix(7), (3, 4))
    twice = word_maps(q, k.repeat(1, 2, 1), 2, WORDS.matrix(14), (3, 4))
    torch.testing.assert_close(twice, once)


def test_the_mean_runs_over_layers_and_then_over_steps():
    first, second, third = torch.rand(3, 1, 4, 2, 2)
    recorder = Recorder()
    recorder.add(first)
    recorder.add(second)
    assert recorder.close_step(torch.tensor(9.0))
    torch.testing.assert_close(recorder.mean(), (first + second) / 2)
    recorder.add(third)
    assert recorder.close_step(torch.tensor(4.0))
    torch.testing.assert_close(recorder.mean(), ((first + second) / 2 + third) / 2)


def test_only_the_first_step_is_the_first():
    recorder = Recorder()
    seen = [recorder.first_step]
    for _ in range(3):
        recorder.add(torch.ones(1, 4, 2, 2))
        recorder.close_step(torch.tensor(1.0))
        seen.append(recorder.first_step)
    assert seen == [False, True, False, False]


def test_a_step_that_no_layer_saw_is_not_counted():
    recorder = Recorder()
    recorder.add(torch.ones(1, 4, 2, 2))
    recorder.close_step(torch.tensor(9.0))
    assert not recorder.close_step(torch.tensor(4.0))
    assert recorder.freeze(WORDS, (8, 8), 8).sigmas == (9.0,)


def test_a_dropped_step_leaves_no_trace():
    recorder = Recorder()
    recorder.add(torch.full((1, 4, 2, 2), 5.0))
    recorder.drop_step()
    recorder.add(torch.ones(1, 4, 2, 2))
    recorder.close_step(torch.tensor(2.0))
    assert torch.equal(recorder.mean(), torch.ones(1, 4, 2, 2))


def test_the_record_holds_every_step_small_and_on_the_cpu():
    recorder = Recorder()
    steps = torch.rand(3, 2, 4, 2, 3)
    for number, maps in enumerate(steps):
        recorder.add(maps)
        recorder.close_step(torch.tensor(3.0 - number))
    record = recorder.freeze(WORDS, (8, 12), 8)
    assert record.maps.dtype == torch.float16
    assert record.maps.device.type == "cpu"
    torch.testing.assert_close(record.maps.float(), steps, atol=1e-3, rtol=1e-3)
    assert record.sigmas == (3.0, 2.0, 1.0)
    assert record.words is WORDS
    assert record.image_size == (64, 96)


def test_a_record_is_not_changed_by_what_follows():
    recorder = Recorder()
    recorder.add(torch.ones(1, 4, 2, 2))
    recorder.close_step(torch.tensor(1.0))
    record = recorder.freeze(WORDS, (8, 8), 8)
    recorder.add(torch.zeros(1, 4, 2, 2))
    recorder.close_step(torch.tensor(0.5))
    assert record.maps.shape[0] == 1
    assert bool((record.maps == 1).all())


def test_an_empty_record_says_that_the_prompt_was_never_seen():
    with pytest.raises(ValueError, match="never attended to the edit prompt"):
        Recorder().freeze(WORDS, (8, 8), 8)
    with pytest.raises(ValueError, match="no step has been recorded"):
        Recorder().mean()


@pytest.mark.parametrize(
    ("latent", "downscales", "read"),
    [
        ((64, 64), (1, 2, 4), 4),  # SD 1.5 at 512 px, as in the paper
        ((96, 64), (1, 2, 4), 4),
        ((32, 32), (2, 4), 2),  # 256 px
        ((128, 128), (2, 4), 4),  # SDXL at 1024 px
    ],
)
def test_the_grid_nearest_to_16x16_is_read(latent, downscales, read):
    assert downscale_to_read(latent, downscales) == read


def test_a_unet_without_layers_to_read_is_named():
    with pytest.raises(ValueError, match="use another model"):
        downscale_to_read((64, 64), ())
