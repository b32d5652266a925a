"""Where a large photo is looked at, and what is taken of what is seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from instdiff_core.search import AT_ONCE, SURE, Sighting, find_in_photo, make_tiles

PIXELS, UNIT = 64**2, 8


class Looker:
    """Sees a bright spot in the crops, and is as sure as it is told of those that show the whole photo."""

    def __init__(self, sure: float) -> None:
        self.sure = sure
        self.calls: list[tuple[int, bool]] = []

    def __call__(self, crops: Tensor, quick: bool) -> Sighting:
        self.calls.append((len(crops), quick))
        bright = crops[..., 0]
        return Sighting(bright > 0.5, torch.full((len(crops),), self.sure), bright, bright)


def photo(top: int, left: int, side: int = 12, size: tuple[int, int] = (400, 600)) -> Tensor:
    picture = torch.zeros(1, *size, 3)
    picture[:, top : top + side, left : left + side] = 1
    return picture


@pytest.mark.parametrize("size", [(400, 600), (193, 700), (192, 192), (100, 4000)])
def test_tiles_cover_the_photo_and_overlap(size: tuple[int, int]) -> None:
    covered = torch.zeros(size, dtype=torch.int)
    tiles = make_tiles(size, PIXELS, UNIT)
    for tile in tiles:
        assert (tile.height, tile.width) == (min(*size, 192),) * 2
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert covered.all()
    assert len({tile.size for tile in tiles}) == 1


def test_a_photo_that_is_far_larger_has_larger_tiles_too_each_all_over_it() -> None:
    size = (700, 1800)
    tiles = make_tiles(size, PIXELS, UNIT)
    for side in (192, 576):
        covered = torch.zeros(size, dtype=torch.bool)
        for tile in tiles:
            if tile.height == tile.width == side:
                covered[tile.top : tile.top + side, tile.left : tile.left + side] = True
        assert covered.all()
    assert {tile.height for tile in tiles} == {192, 576}
    assert len({tile.size for tile in tiles}) == 1


def test_a_sure_mask_of_the_small_copy_is_taken_without_a_search() -> None:
    look = Looker(SURE)
    picture = photo(100, 100, side=120)
    mask = find_in_photo(picture, look, PIXELS, UNIT)
    assert look.calls == [(1, False)]
    truth = picture[..., 0] > 0.5
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


@pytest.mark.parametrize("place", [(3, 2), (200, 300), (385, 585), (10, 580)])
def test_a_small_thing_is_found_in_tiles(place: tuple[int, int]) -> None:
    look = Looker(SURE - 0.1)
    mask = find_in_photo(photo(*place), look, PIXELS, UNIT)
    truth = photo(*place)[..., 0] > 0.5
    first, *tiles, last = look.calls
    assert first == last == (1, False)
    assert all(quick and count <= AT_ONCE for count, quick in tiles)
    assert sum(count for count, _ in tiles) == len(make_tiles((400, 600), PIXELS, UNIT))
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6


@pytest.mark.parametrize("place", [(100, 200), (0, 0), (250, 440)])
def test_a_thing_that_is_larger_than_the_surroundings_of_its_place_is_found_whole(place: tuple[int, int]) -> None:
    picture = photo(*place, side=150)
    truth = picture[..., 0] > 0.5
    hint = torch.zeros_like(truth)
    hint[:, place[0] + 40 : place[0] + 60, place[1] + 40 : place[1] + 60] = True
    for known in (None, hint):
        mask = find_in_photo(picture, Looker(SURE - 0.1), PIXELS, UNIT, known)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_a_photo_that_one_tile_covers_is_not_searched() -> None:
    look = Looker(0.0)
    find_in_photo(photo(100, 100, size=(190, 190)), look, PIXELS, UNIT)
    assert look.calls == [(1, False)]


def test_a_hint_is_looked_at_alone_and_only_what_touches_it_is_taken() -> None:
    look = Looker(SURE - 0.1)
    picture = photo(200, 300) + photo(230, 330)
    hint = torch.zeros(1, 400, 600, dtype=torch.bool)
    hint[:, 196:210, 290:306] = True
    mask = find_in_photo(picture, look, PIXELS, UNIT, hint)
    truth = photo(200, 300)[..., 0] > 0.5
    assert look.calls == [(1, False)]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7
    assert not mask[:, 226:].any()


def test_a_hint_where_nothing_is_found_is_taken_as_it_is() -> None:
    hint = torch.zeros(1, 400, 600, dtype=torch.bool)
    hint[:, 20:40, 20:50] = True
    assert torch.equal(find_in_photo(photo(300, 500), Looker(0.0), PIXELS, UNIT, hint), hint)


def test_an_empty_hint_says_nothing() -> None:
    look = Looker(SURE)
    find_in_photo(photo(100, 100, side=120), look, PIXELS, UNIT, torch.zeros(1, 400, 600, dtype=torch.bool))
    assert look.calls == [(1, False)]


class WordLooker:
    """Explains what is green."""

    def __call__(self, crops: Tensor, quick: bool) -> Sighting:
        assert quick
        green = crops[..., 1]
        return Sighting(green > 0.5, torch.ones(len(crops)), torch.zeros_like(green), green)


def two_things() -> tuple[Tensor, Tensor]:
    """A photo with two things, of which a word explains the one that the prompt contradicts less; and that one."""
    picture = photo(50, 60)
    named = photo(300, 450)
    picture[..., 0] += 0.7 * named[..., 0]
    picture[..., 1] += named[..., 1]
    picture[:, 50:62, 60:72, 1] = 0
    return picture, named[..., 0] > 0.5


def test_a_word_says_which_of_two_things_is_meant() -> None:
    picture, truth = two_things()
    look = Looker(SURE)
    mask = find_in_photo(picture, look, PIXELS, UNIT, look_for=WordLooker())
    *quick, last = look.calls
    assert last == (1, False)
    assert sum(count for count, _ in quick) == 1 + len(make_tiles((400, 600), PIXELS, UNIT))
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6


def test_where_a_word_explains_nothing_the_search_is_as_without_it() -> None:
    picture = photo(200, 300)
    picture[..., 1] = 0
    without, with_word = (
        find_in_photo(picture, Looker(0.0), PIXELS, UNIT, look_for=word) for word in (None, WordLooker())
    )
    assert torch.equal(without, with_word)


def test_a_point_is_looked_at_and_what_it_touches_is_taken() -> None:
    picture, truth = two_things()
    look = Looker(SURE - 0.1)
    mask = find_in_photo(picture, look, PIXELS, UNIT, points=[(456, 306)], look_for=WordLooker())
    assert look.calls == [(1, False)]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6


@pytest.mark.parametrize("point", [(200, 200), (599, 0), (-5, 1000)])
def test_a_point_where_nothing_is_found_stands_for_a_small_square(point: tuple[int, int]) -> None:
    mask = find_in_photo(photo(50, 60), Looker(SURE), PIXELS, UNIT, points=[point])
    assert 0 < mask.sum() < 0.001 * mask.numel()
