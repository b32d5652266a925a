"""What of a mask shows nothing but its surroundings goes, where that is clear."""

import numpy as np
import pytest
import torch

from instdiff_core.maps import blur_gaussian
from instdiff_core.metrics import iou
from instdiff_core.mini.scenes import compose
from instdiff_core.rim import CUT, find_rim, lower_rims


@pytest.fixture(scope="module", params=["sand", "bricks", "water"])
def scene(request):
    """A picture ``[3, 256, 256]`` in 0..1 with a car, and the car's mask."""
    picture, masks = compose(np.random.default_rng(7), ["car"], request.param, size=256)
    return torch.tensor(picture).movedim(-1, 0) / 255, torch.tensor(masks[0])


def grown(mask, by):
    """A mask with everything that is at most so far from it, across or down."""
    return torch.nn.functional.max_pool2d(mask.float()[None], 2 * by + 1, 1, by)[0] > 0


def test_the_rim_around_a_thing_goes_and_the_thing_stays(scene):
    picture, thing = scene
    mask = grown(thing, 16)
    assert iou(mask, thing) < 0.7
    assert iou(mask & ~find_rim(mask, picture), thing) > 0.93


def test_a_mask_that_is_right_stays_as_it_is(scene):
    picture, thing = scene
    assert not find_rim(thing, picture).any()


def test_a_soft_mask_loses_its_rim_and_a_lower_threshold_takes_it_in_again(scene):
    picture, thing = scene
    mask = grown(thing, 16)
    soft = torch.maximum(0.6 * mask + 0.3 * blur_gaussian(thing.float()[None], 8.0)[0], torch.tensor(0.1))
    lowered = lower_rims(torch.stack([soft, soft]), picture.expand(2, -1, -1, -1), torch.tensor([True, False]))
    assert iou(lowered[0] >= CUT, thing) > 0.93
    rim = mask & (lowered[0] < CUT)
    assert lowered[0][rim].min() > lowered[0][~mask].max()
    assert torch.equal(lowered[1], soft)


def test_where_thing_and_surroundings_look_alike_nothing_goes():
    generator = torch.Generator().manual_seed(2)
    picture = 0.5 + 0.1 * torch.randn(3, 128, 128, generator=generator)
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[30:90, 40:100] = True
    assert not find_rim(mask, picture).any()


def test_a_shadow_of_the_thing_stays(scene):
    picture, thing = scene
    shadow = grown(thing, 16)
    darker = torch.where(shadow & ~thing, 0.5 * picture, picture)
    assert not find_rim(shadow, darker).any()


def test_a_hole_that_shows_the_surroundings_stays_in_the_mask(scene):
    picture, thing = scene
    middle = torch.zeros_like(thing)
    rows, columns = (int(places.median()) for places in torch.nonzero(thing, as_tuple=True))
    middle[rows - 8 : rows + 8, columns - 8 : columns + 8] = True
    mask = grown(thing, 16)
    holed = torch.where(middle, picture.flip(2), picture)
    assert not (find_rim(mask, holed) & middle).any()


@pytest.mark.parametrize("fill", [False, True])
def test_masks_of_nothing_and_of_everything_stay(fill):
    assert not find_rim(torch.full((40, 60), fill), torch.rand(3, 40, 60)).any()


def test_what_has_the_colour_of_the_surroundings_behind_an_outline_stays():
    """A ball with white patches on snow."""
    picture, mask = torch.full((3, 256, 256), 0.95), torch.zeros(256, 256, dtype=torch.bool)
    picture += 0.02 * torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    mask[80:150, 90:160] = True
    picture[:, mask] = 0.2
    for top in (83, 118):
        for left in (93, 128):
            picture[:, top : top + 29, left : left + 29] = 0.95
    assert not find_rim(mask, picture).any()
