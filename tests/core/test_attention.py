"""Maps out of attention layers, against a softmax by hand."""

import numpy as np
import pytest
import torch

from instdiff_core.attention import attend, downscale_to_read, split_heads, word_maps
from instdiff_core.tokens import PromptWords, Word

WORDS = PromptWords((Word("dog", (1,)), Word("butterfly", (2, 3))), (0,), (4,), 7)


def attended(q, k, heads):
    """``[B, queries, keys]``, the mean over the heads; loops over rows, heads and queries in float64 numpy."""
    q, k = q.double().numpy(), k.double().numpy()
    width = q.shape[-1] // heads
    mean = np.zeros((len(q), q.shape[1], k.shape[1]))
    for row in range(len(q)):
        for query in range(q.shape[1]):
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = k[row, :, part] @ q[row, query, part] / np.sqrt(width)
                scores = np.exp(scores - scores.max())
                mean[row, query] += scores / scores.sum() / heads
    return mean


def random_layer(queries, keys, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, queries, 24, generator=generator).to(dtype) * 3
    return q, torch.randn(2, keys, 24, generator=generator).to(dtype)


# ---- words ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "grid"), [(1, (4, 4)), (3, (2, 5)), (8, (6, 3))])
def test_word_maps_are_the_mean_softmax_of_the_heads(heads, grid, dtype):
    """In float32, in which U-Nets are read whatever their type is."""
    q, k = random_layer(grid[0] * grid[1], 7, dtype, heads)
    maps = word_maps(split_heads(q, heads).float(), split_heads(k, heads).float(), WORDS.matrix(7), grid)
    mean = attended(q, k, heads)
    expected = np.stack([mean[..., 0], mean[..., 4], mean[..., 1], mean[..., 2:4].mean(-1)], 1)
    assert maps.dtype == torch.float32
    np.testing.assert_allclose(maps.numpy(), expected.reshape(2, 4, *grid), rtol=1e-4, atol=1e-6)


def test_a_repeated_context_gives_the_same_maps():
    q, k = torch.randn(1, 2, 12, 4), torch.randn(1, 2, 7, 4)
    once = word_maps(q, k, WORDS.matrix(7), (3, 4))
    twice = word_maps(q, k.repeat(1, 1, 2, 1), WORDS.matrix(14), (3, 4))
    torch.testing.assert_close(twice, once)


# ---- any values ----


@pytest.mark.parametrize("count", [1, 7, 8, 9, 30])
def test_there_may_be_more_values_than_a_head_is_wide(count):
    q, k = random_layer(10, 12)
    values = torch.randn(12, count)
    np.testing.assert_allclose(
        attend(split_heads(q, 3), split_heads(k, 3), values), attended(q, k, 3) @ values.double().numpy(), atol=1e-5
    )


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_each_entry_of_a_batch_may_have_its_own_values(heads):
    q, k = random_layer(10, 10, seed=heads)
    values = torch.randn(2, 10, 5)
    np.testing.assert_allclose(
        attend(split_heads(q, heads), split_heads(k, heads), values),
        attended(q, k, heads) @ values.double().numpy(), atol=1e-5,
    )  # fmt: skip


def test_keys_that_a_layer_masks_are_masked():
    q, k = random_layer(10, 12)
    values, keep = torch.randn(12, 4), torch.arange(12) < 9
    alone = attend(split_heads(q, 3), split_heads(k[:, :9], 3), values[:9])
    masked = attend(split_heads(q, 3), split_heads(k, 3), values, keep.expand(10, 12))
    torch.testing.assert_close(masked, alone)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float16, 5e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_layers_are_attended_in_their_own_type_and_averaged_in_float32(dtype, near):
    q, k = random_layer(10, 10, dtype)
    values = torch.rand(10, 5)
    result = attend(split_heads(q, 3), split_heads(k, 3), values)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, attended(q, k, 3) @ values.double().numpy(), atol=near)


# ---- which layers are read ----


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
