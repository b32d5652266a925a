"""The pictures of where words act: their colours, their captions, their order."""

import sys

import pytest
import torch

from instdiff_core.evidence import FIRST_PROPAGATED, Evidence
from instdiff_core.heatmap import COLORMAPS, DARK, LIGHT, draw_heatmaps, load_colormap
from instdiff_core.tokens import PromptWords, Word

SIZE = (128, 192)
TEXTS = ("a", "green", "frog")


def words_of(*texts):
    return PromptWords(tuple(Word(text, (number + 1,)) for number, text in enumerate(texts)), (0,), (76,), 77)


def evidence(batch=1, words=3):
    """Each word acts most in a cell of its own, ``[picture, word]``; what changes is where the last one acts."""
    propagated = torch.full((batch, FIRST_PROPAGATED + words, 4, 6), 0.1)
    for picture in range(batch):
        for word in range(words):
            propagated[picture, FIRST_PROPAGATED + word].view(-1)[hot_cell(picture, word)] = 0.6
    propagated[:, :FIRST_PROPAGATED] = propagated[:, -1:] * torch.tensor([1.0, 2.0, 1.0])[:, None, None]
    maps = torch.rand(batch, 2 + words, 4, 6, generator=torch.Generator().manual_seed(0))
    return Evidence(maps, maps, propagated, torch.zeros(batch, 4, 16, 24))


def hot_cell(picture, word):
    return (picture * 7 + word * 5) % 24


def shown(batch=1, texts=TEXTS, size=SIZE, colormap="viridis", picture=None, opacity=1.0):
    """The pictures, and the strips with their captions."""
    pictures = draw_heatmaps(evidence(batch, len(texts)), words_of(*texts), size, colormap, picture, opacity)
    return pictures[:, : size[0]], pictures[:, size[0] :]


def luminance(colours):
    return colours @ torch.tensor([0.2126, 0.7152, 0.0722])


def hottest(picture):
    """The cell of the brightest place."""
    y, x = divmod(int(luminance(picture).argmax()), SIZE[1])
    return y // 32 * 6 + x // 32


def is_marked(strip):
    return strip[0, 0, 0].item() > 0.5


def test_there_is_a_picture_for_each_word_with_a_caption_below():
    pictures, strips = shown(batch=2)
    assert pictures.shape == (6, *SIZE, 3)
    assert pictures.dtype == torch.float32
    assert 20 < strips.shape[1] < SIZE[0] / 2
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_they_come_picture_by_picture_in_prompt_order():
    pictures, _ = shown(batch=2)
    expected = [hot_cell(picture, word) for picture in range(2) for word in range(3)]
    assert [hottest(each) for each in pictures] == expected


def test_the_colours_are_those_of_the_map_from_the_least_to_the_most():
    pictures, _ = shown()
    table = load_colormap("viridis")
    assert torch.equal(pictures[0, 0, 0], table[-1])
    assert torch.equal(pictures[0, -1, -1], table[0])


@pytest.mark.parametrize("name", COLORMAPS)
def test_every_colour_map_grows_brighter_all_the_way(name):
    """So it can be read without telling any hue from another."""
    light = luminance(load_colormap(name))
    assert (light.diff() > -1e-3).all()
    assert light[-1] - light[0] > 0.5


def test_a_word_that_acts_nowhere_in_particular_is_cold_everywhere():
    flat = evidence()
    flat.propagated[:, FIRST_PROPAGATED] = 0.3
    picture = draw_heatmaps(flat, words_of(*TEXTS), SIZE, "magma")[0, : SIZE[0]]
    assert (picture == load_colormap("magma")[0]).all()


def test_the_picture_shows_through_by_the_opacity():
    picture = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    plain = picture[0].movedim(0, -1)
    alone, _ = shown(picture=picture, opacity=0.0)
    assert all(torch.equal(each, plain) for each in alone)
    covered, _ = shown(picture=picture, opacity=1.0)
    assert torch.equal(covered, shown()[0])
    half, _ = shown(picture=picture, opacity=0.5)
    torch.testing.assert_close(half, (alone + covered) / 2)


def test_each_picture_of_a_batch_lies_under_its_own_words():
    picture = torch.stack([torch.zeros(3, *SIZE), torch.ones(3, *SIZE)])
    pictures, _ = shown(batch=2, picture=picture, opacity=0.0)
    assert not pictures[:3].any()
    assert pictures[3:].all()


def test_the_index_word_alone_is_marked():
    _, strips = shown(batch=2)
    assert [is_marked(strip) for strip in strips] == [False, False, True] * 2


def test_a_mark_is_more_than_its_colours():
    """Its letters too: the text goes on where that of the same word unmarked ends."""
    _, strips = shown(texts=("frog", "frog"))
    marked = next(strip for strip in strips if is_marked(strip))
    other = next(strip for strip in strips if not is_marked(strip))
    line = strips.shape[1] // 2
    assert _end_of_text(marked[:line]) > _end_of_text(other[:line]) + 40


def _end_of_text(line):
    """The last column that is not the paper's, of the first."""
    return int((line - line[0, 0]).abs().amax((0, 2)).nonzero().max())


def test_the_legend_shows_the_colours_from_dark_to_bright():
    _, strips = shown()
    row = strips[0, strips.shape[1] * 3 // 4]
    bar = (row - torch.tensor(DARK) / 255).abs().amax(1) > 0.05
    first, last = int(bar.nonzero().min()), int(bar.nonzero().max())
    assert last - first > SIZE[1] // 2
    centre = luminance(row[SIZE[1] // 4 : -SIZE[1] // 4])
    assert (centre.diff() > -0.01).all()
    assert centre[-1] > centre[0]


def test_words_that_are_equal_are_told_apart_by_their_numbers():
    _, strips = shown(texts=("frog", "frog", "frog"))
    assert not torch.equal(strips[0], strips[1])


@pytest.mark.parametrize(
    "word",
    ["蛙", "🐸", "naïve", "лягушка", "ضفدع", "\n", "a\tb", "\x00", "\u202egorf", "\ud800", "x" * 9999]
    + ["<img onerror=x>", "", " ", "%s{0}", "\\"],
    ids=ascii,
)
def test_any_text_gets_a_caption_that_can_be_seen_and_fits(word):
    _, (strip, *_) = shown(texts=(word, "frog"))
    line = strip[: strip.shape[0] // 2]
    assert _end_of_text(line) < SIZE[1] - 4
    blank, *_ = shown(texts=("", "frog"))[1]
    assert word.strip() == "" or not torch.equal(strip, blank)


def test_letters_that_the_font_lacks_are_told_apart():
    first, second = (shown(texts=(word, "frog"))[1][0] for word in ("蛙", "猫"))
    assert not torch.equal(first, second)


def test_a_long_index_word_is_cut_before_its_mark():
    _, (_, strip) = shown(texts=("a", "x" * 500))
    _, (_, short) = shown(texts=("a", "frog"))
    line = strip.shape[0] // 2
    mark = short[:line, : _end_of_text(short[:line]) + 1][:, -60:]
    end = _end_of_text(strip[:line]) + 1
    assert is_marked(strip)
    assert any(torch.equal(strip[:line, end - 60 + move : end + move], mark) for move in (-1, 0, 1))


@pytest.mark.parametrize("size", [(40, 40), (40, 400), (400, 40), (512, 768)])
def test_every_size_has_room_for_its_caption(size):
    pictures, strips = shown(size=size)
    assert pictures.shape[1:3] == size
    line = strips.shape[1] // 2
    contrast = luminance(strips[0, :line].reshape(-1, 3))
    assert contrast.max() - contrast.min() > 0.6


def test_a_prompt_without_words_is_refused():
    with pytest.raises(ValueError, match="holds no words"):
        draw_heatmaps(evidence(words=0), words_of(), SIZE, "viridis")


def test_a_hundred_words_come_in_order():
    texts = tuple(f"word{number}" for number in range(100))
    words = PromptWords(tuple(Word(text, (1 + number % 70,)) for number, text in enumerate(texts)), (0,), (76,), 77)
    pictures = draw_heatmaps(evidence(words=100), words, (64, 96), "inferno")
    assert len(pictures) == 100
    assert sum(is_marked(each[64:]) for each in pictures) == 1


def test_dark_and_light_are_legible_on_each_other():
    """WCAG's contrast ratio, which asks for 4.5."""
    low, high = (luminance((torch.tensor(each) / 255) ** 2.2) for each in (DARK, LIGHT))
    assert (high + 0.05) / (low + 0.05) > 7


def test_a_missing_colour_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmap", None)
    with pytest.raises(ValueError, match=r"cmap.*requirements\.txt"):
        load_colormap("viridis")
