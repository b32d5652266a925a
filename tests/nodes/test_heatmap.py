"""Attention Heatmaps: where each word acted, on the picture."""

import pytest
import torch

SIDE = 128


@pytest.fixture(scope="module")
def scene(host):
    """A picture of a cat, and where the cat is."""
    with torch.inference_mode():
        return host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)


@pytest.fixture(scope="module")
def attention(host, scene):
    """Of turning the cat into a frog."""
    with torch.inference_mode():
        return host.capture(host.vae.encode(scene[0]), steps=6, positive=host.prompt("a frog on grass"))[1]


@pytest.fixture
def heatmaps(host):
    """``heatmaps(attention, ...)``: the pictures without their captions, and the captions."""

    def run(attention, **inputs):
        pictures = host.run("InstDiffAttentionHeatmaps", attention=attention, **inputs)
        height = getattr(attention, "record", attention).image_size[0]
        return pictures[:, :height], pictures[:, height:]

    return run


def hottest(picture):
    """The place that is brightest in colours of growing brightness."""
    return divmod(int(picture.sum(-1).argmax()), picture.shape[1])


def marked(captions):
    """The numbers of the words that are said to be the index word."""
    return [number for number, each in enumerate(captions) if each[0, 0, 0] > 0.5]


def test_there_is_a_picture_of_the_sampled_size_for_each_word(heatmaps, attention):
    pictures, captions = heatmaps(attention)
    assert attention.words.texts == ("a", "frog", "on", "grass")
    assert pictures.shape == (4, 256, 256, 3)
    assert captions.shape[1] > 20


def test_the_hottest_place_of_the_new_object_lies_on_the_old_one(heatmaps, attention, scene):
    pictures, captions = heatmaps(attention, colormap="inferno")
    cat = scene[1][0] > 0.5
    assert cat[hottest(pictures[1])]
    assert not cat[hottest(pictures[3])]
    assert marked(captions) == [1]


def test_the_heat_is_what_naming_the_word_makes_a_mask_of(host, heatmaps, attention):
    """Half of the heat and the mask of the named word agree."""
    pictures, _ = heatmaps(attention, colormap="inferno")
    for number, word in ((1, "frog"), (3, "grass")):
        mask, *_ = host.run("InstDiffRefineMask", attention=attention, settings=host.settings(words=word))
        inside, outside = (pictures[number].sum(-1)[part].mean() for part in (mask[0] > 0, mask[0] == 0))
        assert inside > 1.5 * outside


def test_the_index_word_is_that_of_the_report(host, heatmaps, attention):
    report = host.run("InstDiffRefineMask", attention=attention)[2]
    _, captions = heatmaps(attention)
    (number,) = marked(captions)
    assert f"index word '{attention.words.texts[number]}'" in report


def test_the_picture_shows_through(heatmaps, attention, scene):
    picture = scene[0]
    alone, _ = heatmaps(attention, image=picture, opacity=0.0)
    assert all(torch.equal(each, picture[0]) for each in alone)
    over, _ = heatmaps(attention, image=picture)
    colours, _ = heatmaps(attention)
    assert not torch.equal(over, colours)
    assert torch.equal(heatmaps(attention, image=picture, opacity=1.0)[0], colours)


def test_fewer_steps_show_what_was_known_then(heatmaps, attention):
    everything, _ = heatmaps(attention)
    first, _ = heatmaps(attention, steps=1)
    assert not torch.equal(first, everything)
    assert torch.equal(heatmaps(attention, steps=6)[0], everything)
    assert torch.equal(heatmaps(attention, steps=10000)[0], everything)


def test_every_colour_map_gives_other_colours(host, heatmaps, attention):
    options = next(
        each.options for each in host.classes["InstDiffAttentionHeatmaps"].define_schema().inputs
        if each.id == "colormap"
    )  # fmt: skip
    shown = [heatmaps(attention, colormap=name)[0] for name in options]
    assert len({each.numpy().tobytes() for each in shown}) == len(options) > 1


def test_a_batch_comes_picture_by_picture(host, heatmaps, make_latent, make_picture):
    _, attention = host.capture(make_latent(3, 16, 16))
    pictures = make_picture(3, SIDE, SIDE)
    shown, captions = heatmaps(attention, image=pictures, opacity=0.0)
    assert torch.equal(shown, pictures.repeat_interleave(2, 0))
    assert len(marked(captions)) == 3
    assert [number // 2 for number in marked(captions)] == [0, 1, 2]


def test_one_picture_lies_under_all_of_a_batch(host, heatmaps, make_latent, make_picture):
    _, attention = host.capture(make_latent(2, 16, 16))
    shown, _ = heatmaps(attention, image=make_picture(1, SIDE, SIDE), opacity=0.0)
    assert len(shown) == 4
    assert all(torch.equal(each, shown[0]) for each in shown)


def test_it_takes_the_attention_of_instant_mask_guidance_after_sampling(host, heatmaps, latent):
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    with pytest.raises(ValueError, match="connect the sampler's LATENT to this node's input 'sampled'"):
        host.run("InstDiffAttentionHeatmaps", attention=attention)
    samples = host.k_sampler(passed["samples"], model=model, positive=host.prompt("a frog"))
    shown, _ = heatmaps(attention, sampled={"samples": samples})
    assert len(shown) == 2


@pytest.mark.parametrize("text", ["蛙 🐸", "naïve frog", "(frog:1.2)", "x" * 300, "<img src=x onerror=alert(1)>"])
def test_any_prompt_gets_its_pictures(host, heatmaps, latent, text):
    _, attention = host.capture(latent, positive=host.prompt(text), steps=1)
    shown, captions = heatmaps(attention)
    assert len(shown) == len(attention.words.words)
    assert len(marked(captions)) == 1


@pytest.mark.parametrize("size", [(8, 8), (24, 16), (5, 40)])
def test_every_size_keeps_its_width(host, heatmaps, make_latent, size):
    _, attention = host.capture(make_latent(1, *size), steps=1)
    shown, _ = heatmaps(attention)
    assert shown.shape[1:3] == (8 * size[0], 8 * size[1])


def test_a_picture_a_little_larger_than_what_was_sampled_is_cut_as_by_vae_encode(host, heatmaps, latent, make_picture):
    _, attention = host.capture(latent)
    shown, _ = heatmaps(attention, image=make_picture(1, SIDE + 5, SIDE + 3, 4), opacity=0.0)
    assert shown.shape[1:3] == (SIDE, SIDE)


def test_a_picture_of_another_size_is_refused(host, heatmaps, latent, make_picture):
    _, attention = host.capture(latent)
    with pytest.raises(ValueError, match=r"64 x 64, the sampled picture 128 x 128: connect the picture"):
        heatmaps(attention, image=make_picture(1, 64, 64))


def test_a_prompt_of_punctuation_has_no_words_to_show(host, latent):
    with pytest.raises(ValueError, match="holds no words"):
        host.capture(latent, positive=host.prompt(", , ."))


@pytest.mark.parametrize(("name", "value"), [("opacity", float("nan")), ("colormap", "jet"), ("steps", -1)])
def test_a_value_that_no_widget_gives_is_named(host, attention, name, value):
    with pytest.raises(ValueError, match=name):
        host.run("InstDiffAttentionHeatmaps", attention=attention, **{name: value})


def test_what_is_no_attention_is_named(host):
    with pytest.raises(ValueError, match="attention must be connected"):
        host.run("InstDiffAttentionHeatmaps", attention=None)
