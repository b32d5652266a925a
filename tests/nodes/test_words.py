"""The words of a prompt as the host's own tokenizer cuts it."""

import pytest
import torch
from safetensors.torch import save_file

PROMPT = "instdiff_prompt"


@pytest.fixture
def words(host):
    """The words and their token positions: ``words(prompt)`` gives ``[(text, positions), ...]``."""
    return lambda text: pairs(host.prompt(text))


def pairs(conditioning):
    return [(word.text, word.positions) for word in conditioning[0][1][PROMPT].words.words]


def test_words_have_the_positions_of_their_tokens(words):
    assert words("a dog, on the grass") == [("a", (1,)), ("dog", (2,)), ("on", (4,)), ("the", (5,)), ("grass", (6,))]


def test_weights_do_not_move_words(words):
    assert words("a (dog:1.3) on ((the)) grass") == words("a dog on the grass")


def test_words_are_as_they_were_written_without_their_weights(words):
    found = words("A ((T-Shirt)), (long_hair:1.2) frog's\\(2024\\)，cat.")
    assert [text for text, _ in found] == ["A", "T-Shirt", "long_hair", "frog's", "2024", "cat"]
    assert found[-1][1][-1] > found[-2][1][-1]


def test_sub_words_make_one_word(words):
    (a, rare, dog) = words("a hippogriffalumpus dog")
    assert rare[0] == "hippogriffalumpus"
    assert len(rare[1]) > 1
    assert [*a[1], *rare[1], *dog[1]] == list(range(1, len(rare[1]) + 3))


def test_a_long_prompt_continues_in_the_next_chunk(host):
    conditioning = host.prompt(" ".join(["dog"] * 100))
    found = conditioning[0][1][PROMPT].words
    assert [word.positions[0] for word in found.words] == [*range(1, 76), *range(78, 103)]
    assert found.start == (0, 77)
    assert found.length == conditioning[0][0].shape[1] == 154


def test_an_embedding_is_one_word_and_moves_what_follows(host, tmp_path):
    save_file({"emb_params": torch.zeros(3, 192)}, tmp_path / "thing.safetensors")
    clip = host.clip.clone()
    clip.tokenizer = type(host.clip.tokenizer)(embedding_directory=[str(tmp_path)])
    conditioning = host.run("InstDiffEncodeEditPrompt", clip=clip, text="a embedding:thing dog")
    assert pairs(conditioning) == [("a", (1,)), ("embedding:thing", (2, 3, 4)), ("dog", (5,))]


def test_the_conditioning_is_the_hosts_own(host):
    (ours, with_words), (theirs, options) = host.prompt("a (frog:1.2)")[0], host.other_prompt("a (frog:1.2)")[0]
    assert torch.equal(ours, theirs)
    assert with_words.keys() - options.keys() == {PROMPT}


def test_a_longer_negative_prompt_does_not_change_what_is_recorded(host, latent):
    once = host.capture(latent)[1]
    folded = host.capture(latent, negative=host.other_prompt(" ".join(["tree"] * 100)))[1]
    assert len(folded.maps) == len(once.maps)
    torch.testing.assert_close(folded.maps[0], once.maps[0], atol=1e-3, rtol=1e-2)
