"""Operations on maps, against plain numpy."""

import numpy as np
import pytest
import torch

from instdiff_core.maps import (
    blur,
    centre_threshold,
    find_otsu_threshold,
    follow_edges,
    measure_separation,
    rescale_to_unit,
    resize,
)


def random_maps(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def two_hills(seed, size=(24, 30)):
    """A map whose values gather at two places in 0..1, of random height, width and share."""
    source = np.random.default_rng(seed)
    low, high = source.uniform(0.05, 0.4), source.uniform(0.6, 0.95)
    upper = source.random(size) < source.uniform(0.1, 0.9)
    values = np.where(upper, high, low) + source.normal(0, source.uniform(0.02, 0.15), size)
    return torch.from_numpy(values).float().clamp(0, 1)


def parted(values, inside):
    """The between-class variance of the values `inside` and the others."""
    if inside.all() or not inside.any():
        return 0.0
    share = inside.mean()
    return share * (1 - share) * (values[inside].mean() - values[~inside].mean()) ** 2


# ---- stretching and smoothing ----


def test_stretching_reaches_both_ends_and_a_flat_map_is_zero():
    stretched_map, flat = rescale_to_unit(torch.stack([random_maps(5, 5) * 3 - 7, torch.full((5, 5), 0.7)]))
    assert (stretched_map.min(), stretched_map.max()) == (0, 1)
    assert not flat.any()


@pytest.mark.parametrize("value", [0.3, 1e4, -0.7, float("nan"), float("inf")])
def test_a_flat_map_stays_flat_after_it_was_resized(value):
    """Resizing a constant leaves rounding, which must not be stretched to a picture of noise."""
    assert not rescale_to_unit(resize(torch.full((1, 7, 9), value), (37, 51), "bicubic")).any()


def test_maps_are_stretched_each_by_itself():
    maps = random_maps(2, 3, 5, 6)
    maps[1, 2] = maps[1, 2] * 50 + 9
    one_by_one = [[(each - each.min()) / (each.max() - each.min()) for each in part] for part in maps.numpy()]
    np.testing.assert_allclose(rescale_to_unit(maps).numpy(), one_by_one, atol=1e-5)


def test_the_blur_is_opencvs_gaussian_with_repeated_borders():
    maps = random_maps(2, 6, 9)
    taps = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.1**2))
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    expected = maps.double().numpy()
    for _ in range(3):
        padded = np.pad(expected, ((0, 0), (2, 2), (2, 2)), mode="edge")
        expected = sum(kernel[i, j] * padded[:, i : i + 6, j : j + 9] for i in range(5) for j in range(5))
    np.testing.assert_allclose(blur(maps, 3).numpy(), expected, atol=1e-5)
    assert torch.equal(blur(maps, 0), maps)


# ---- the cut ----


@pytest.mark.parametrize("seed", range(12))
def test_no_threshold_parts_a_map_better_than_the_best_cut(seed):
    levels = (two_hills(seed) * 255).round() / 255
    values = levels.double().numpy()
    most = max(parted(values, values > level) for level in np.unique(values))
    cut = find_otsu_threshold(levels[None]).item()
    assert parted(values, values >= cut) == pytest.approx(most, rel=1e-5)
    assert most > 0.02


def test_between_the_grey_levels_the_best_cut_loses_nothing_that_counts():
    values = two_hills(3)
    exact = values.double().numpy()
    most = max(parted(exact, exact > level) for level in np.unique(exact))
    assert parted(exact, exact >= find_otsu_threshold(values[None]).item()) > 0.999 * most


def test_two_flat_halves_are_parted_between_them():
    cut = find_otsu_threshold(torch.tensor([[[0.2, 0.2, 0.2, 0.7]], [[0.9, 0.9, 0.1, 0.9]], [[0.0, 1.0, 1.0, 1.0]]]))
    assert 0.2 < cut[0] < 0.7
    assert 0.1 < cut[1] < 0.9
    assert 0 < cut[2] < 1


@pytest.mark.parametrize("seed", range(4))
def test_centring_puts_the_best_cut_at_one_half(seed):
    maps = torch.stack([two_hills(seed), two_hills(seed + 50)])
    assert torch.equal(centre_threshold(maps) >= 0.5, maps >= find_otsu_threshold(maps)[:, None, None])
    assert (find_otsu_threshold(maps) - 0.5).abs().max() > 0.005


@pytest.mark.parametrize("seed", range(4))
def test_centring_keeps_the_order_and_both_ends(seed):
    values = two_hills(seed).flatten().sort().values
    values[0], values[-1] = 0, 1
    bent = centre_threshold(values.view(1, 1, -1)).flatten()
    assert (bent.diff() >= 0).all()
    assert (bent.diff()[values.diff() > 1e-4] > 0).all()
    assert bent[[0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_centring_a_flat_map_leaves_it_flat_and_in_range(value):
    bent = centre_threshold(torch.full((2, 4, 5), value))
    assert torch.equal(bent, bent[0, 0, 0].expand(2, 4, 5))
    assert 0 <= bent[0, 0, 0] <= 1
    assert value > 0 or not bent.any()


# ---- how cleanly a mask parts a map ----


def test_the_separation_of_three_pixels_by_hand():
    # .5 is the mean; 2/3 of the pixels at a mean of .75, 1/3 at 0; the whole variance is 1/6.
    soft = torch.tensor([[[1.0, 0.5, 0.0]]])
    found = measure_separation(soft, soft >= 0.4)
    torch.testing.assert_close(found, torch.tensor([(2 / 3 * 0.25**2 + 1 / 3 * 0.5**2) * 6]))


def test_a_mask_that_is_the_map_parts_it_wholly_and_a_random_one_hardly():
    truth = random_maps(1, 40, 40) > 0.6
    torch.testing.assert_close(measure_separation(truth.float(), truth), torch.ones(1))
    assert measure_separation(truth.float(), random_maps(1, 40, 40, seed=1) > 0.6) < 0.05


def test_an_empty_and_a_full_mask_part_nothing():
    soft = random_maps(2, 5, 5)
    assert measure_separation(soft, torch.stack([torch.zeros(5, 5), torch.ones(5, 5)]).bool()).tolist() == [0, 0]


# ---- following the edges of a guide ----


def guided_by_hand(values, guide, radius, epsilon=0.01):
    """He et al. 2010, section on colour, with loops over windows that are cut at the border; float64."""
    channels, height, width = guide.shape
    guide = (guide - guide.mean()) / guide.std(ddof=1)
    slopes, offsets = np.zeros((channels, height, width)), np.zeros((height, width))

    def window(y, x):
        return slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)

    for y in range(height):
        for x in range(width):
            pixels = guide[(slice(None), *window(y, x))].reshape(channels, -1)
            mean = pixels.mean(1)
            part = values[window(y, x)].ravel()
            variance = pixels @ pixels.T / len(part) - np.outer(mean, mean) + epsilon * np.eye(channels)
            slopes[:, y, x] = np.linalg.solve(variance, pixels @ part / len(part) - mean * part.mean())
            offsets[y, x] = part.mean() - slopes[:, y, x] @ mean
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            slope = slopes[(slice(None), *window(y, x))].reshape(channels, -1).mean(1)
            result[y, x] = slope @ guide[:, y, x] + offsets[window(y, x)].mean()
    return result.clip(0, 1)


@pytest.mark.parametrize(("channels", "radius"), [(1, 2), (3, 1), (4, 3), (4, 12)])
def test_edges_are_followed_as_in_a_guided_filter_by_hand(channels, radius):
    maps = random_maps(2, 9, 11, seed=channels)
    guide = random_maps(2, channels, 9, 11, seed=radius) * 5 - 1
    expected = [
        guided_by_hand(values, picture, radius)
        for values, picture in zip(maps.double().numpy(), guide.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(follow_edges(maps, guide, radius).numpy(), expected, atol=2e-4)


def test_a_blurry_mask_gets_the_sharp_edge_of_the_picture_under_it():
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 18:] = torch.tensor([1.0, 0.3, -0.5]).view(3, 1, 1)
    # a ramp of 12 pixels whose middle is two pixels beside the edge
    blurry = ((torch.arange(32.0) - 10) / 12).clamp(0, 1).expand(1, 32, 32)
    sharp = follow_edges(blurry, edge, 6)
    assert (sharp[..., 18] - sharp[..., 17]).min() > 0.4
    assert (blurry[..., 18] - blurry[..., 17]).max() < 0.1
    assert torch.equal(sharp >= 0.5, edge[:, 0] > 0)


def test_without_edges_in_the_guide_the_map_is_only_smoothed():
    maps = random_maps(1, 12, 14)
    smooth = follow_edges(maps, torch.full((1, 4, 12, 14), 0.3), 2)
    expected = maps[0].double().numpy()
    for _ in range(2):
        expected = np.array(
            [[expected[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].mean() for x in range(14)] for y in range(12)]
        )
    np.testing.assert_allclose(smooth[0].numpy(), expected, atol=1e-4)


def test_a_mask_that_follows_edges_stays_in_0_to_1():
    maps = (random_maps(3, 20, 20) > 0.5).float()
    found = follow_edges(maps, torch.randn(3, 4, 20, 20, generator=torch.Generator().manual_seed(2)) * 30, 3)
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.std() > 0.1


def test_brightness_and_contrast_of_the_guide_do_not_matter():
    maps, guide = random_maps(1, 20, 20), random_maps(1, 4, 20, 20, seed=5)
    torch.testing.assert_close(follow_edges(maps, guide * 300 - 40, 3), follow_edges(maps, guide, 3), atol=1e-4, rtol=0)


def test_maps_of_a_batch_are_cut_and_follow_edges_each_by_itself():
    maps = torch.stack([two_hills(1), two_hills(2) ** 3])
    guide = random_maps(2, 4, 24, 30)
    guide[1] *= 20
    for operation in (find_otsu_threshold, centre_threshold, lambda part: measure_separation(part, part > 0.5)):
        torch.testing.assert_close(operation(maps), torch.cat([operation(maps[:1]), operation(maps[1:])]))
    together = follow_edges(maps, guide, 3)
    alone = torch.cat([follow_edges(maps[:1], guide[:1], 3), follow_edges(maps[1:], guide[1:], 3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
