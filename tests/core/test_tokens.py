"""Which words a prompt has, and which columns of the context are theirs."""

import pytest
import torch

from instdiff_core.tokens import PromptWords, Word, prompt_words

START, END, CHUNK = 49406, 49407, 77


@pytest.fixture
def read(tokenizer):
    """A prompt as transformers cuts it, read as one chunk."""
    return lambda text: prompt_words([tokenizer(text, padding="max_length").input_ids], tokenizer)


@pytest.fixture
def host_chunk(tokenizer):
    """A chunk as the host gives it, from segments ``(text or vectors, weight)``; word ids count words."""

    def chunk(*segments):
        entries = [(START, 1.0, 0)]
        number = 0
        for content, weight in segments:
            if isinstance(content, str):
                for word in content.split():
                    number += 1
                    entries += [(token, weight, number) for token in tokenizer(word).input_ids[1:-1]]
            else:
                number += 1
                entries += [(vector, weight, number) for vector in content]
        return entries + [(END, 1.0, 0)] * (CHUNK - len(entries))

    return chunk


def test_every_word_has_its_column_between_start_and_end(read):
    words = read("a photo of a dog")
    assert words.words == tuple(Word(text, (i + 1,)) for i, text in enumerate(["a", "photo", "of", "a", "dog"]))
    assert (words.start, words.end, words.length) == ((0,), (6,), 77)


def test_subwords_are_one_word_over_all_their_columns(read, tokenizer):
    words = read("a zzyzxcat dog")
    pieces = len(tokenizer("zzyzxcat").input_ids) - 2
    assert pieces > 2
    assert words.texts == ("a", "zzyzxcat", "dog")
    assert [word.columns for word in words.words] == [(1,), tuple(range(2, 2 + pieces)), (2 + pieces,)]
    assert words.end == (3 + pieces,)


def test_ids_without_padding_read_like_padded_ones(read, tokenizer):
    short = prompt_words([tokenizer("a red car").input_ids], tokenizer)
    assert short.words == read("a red car").words
    assert short.length == 5


def test_ids_may_come_as_a_tensor_or_as_the_hosts_pairs(read, tokenizer):
    ids = tokenizer("a red car", padding="max_length", return_tensors="pt").input_ids
    assert prompt_words(list(ids), tokenizer) == read("a red car")
    assert prompt_words([[(token, 1.0) for token in ids[0].tolist()]], tokenizer) == read("a red car")


def test_a_weight_changes_neither_words_nor_columns(host_chunk, tokenizer, read):
    weighted = host_chunk(("a", 1.0), ("dog", 1.3), ("on the grass", 1.0))
    assert prompt_words([weighted], tokenizer) == read("a dog on the grass")


def test_the_vectors_of_an_embedding_are_one_word(host_chunk, tokenizer):
    chunk = host_chunk(("a", 1.0), (torch.randn(3, 8), 1.0), ("dog", 1.0))
    words = prompt_words([chunk], tokenizer)
    assert [word.columns for word in words.words] == [(1,), (2, 3, 4), (5,)]
    assert (words.texts[0], words.texts[2]) == ("a", "dog")


def test_two_embeddings_side_by_side_are_two_words(host_chunk, tokenizer):
    chunk = host_chunk((torch.randn(2, 8), 1.0), (torch.randn(3, 8), 1.2))
    assert [word.columns for word in prompt_words([chunk], tokenizer).words] == [(1, 2), (3, 4, 5)]


def test_long_prompts_count_columns_through_all_chunks(host_chunk, tokenizer):
    full = host_chunk(("dog " * 75, 1.0))
    rest = host_chunk(("a cat", 1.0))
    words = prompt_words([full, rest], tokenizer)
    assert len(words.words) == 77
    assert words.words[74].columns == (75,)
    assert words.words[75] == Word("a", (77 + 1,))
    assert words.words[76] == Word("cat", (77 + 2,))
    assert (words.start, words.end, words.length) == ((0, 77), (76, 77 + 3), 154)


def test_punctuation_is_no_word_but_keeps_its_column(read):
    words = read("a dog, ... a cat!")
    assert words.texts == ("a", "dog", "a", "cat")
    assert words.words[0].columns == (1,)
    assert words.words[1].columns == (2,)
    assert words.words[2].columns[0] > 4


def test_the_text_of_a_word_has_no_comma_since_commas_part_words_in_a_list(read):
    assert read("a $, +,+ 🐸,🐸 dog").texts == ("a", "$", "++", "🐸🐸", "dog")


def test_an_empty_prompt_has_no_words(read):
    words = read("")
    assert words.words == ()
    assert (words.start, words.end) == ((0,), (1,))


@pytest.mark.parametrize("text", ["кошка", "猫", "고양이", "قطة", "ü"])
def test_other_scripts_are_words_with_their_own_text(read, text):
    words = read(f"a {text} dog")
    assert words.texts[0] == "a"
    assert "".join(words.texts[1:-1]) == text
    assert words.texts[-1] == "dog"


@pytest.mark.parametrize("text", ["🐶", "👩‍🚀"])
def test_emoji_are_words_and_move_the_next_one(read, text):
    words = read(f"{text} dog")
    assert len(words.words) >= 2
    assert words.texts[-1] == "dog"
    columns = [column for word in words.words for column in word.columns]
    assert columns == sorted(set(columns))
    assert words.words[-1].columns[0] > 1


def test_a_cut_off_prompt_has_no_end_column(tokenizer):
    ids = [START, *tokenizer("a dog").input_ids[1:-1]]
    words = prompt_words([ids], tokenizer)
    assert (words.texts, words.end) == (("a", "dog"), ())
    assert words.matrix(3)[:, 1].sum() == 0


@pytest.mark.parametrize("chunks", [[], [[START, END], [START, END, END]]])
def test_no_chunks_and_uneven_chunks_are_refused(chunks, tokenizer):
    with pytest.raises(ValueError, match="no tokens, or chunks of different lengths"):
        prompt_words(chunks, tokenizer)


def test_the_matrix_takes_the_mean_of_a_words_columns():
    words = PromptWords((Word("dog", (1,)), Word("butterfly", (2, 4))), (0,), (5,), 6)
    probabilities = torch.tensor([[0.5, 0.1, 0.02, 0.3, 0.06, 0.02]])
    torch.testing.assert_close(probabilities @ words.matrix(6), torch.tensor([[0.5, 0.02, 0.1, 0.04]]))


def test_a_repeated_context_is_folded_back_to_the_same_maps():
    words = PromptWords((Word("dog", (1,)), Word("butterfly", (2, 4))), (0,), (5,), 6)
    scores = torch.randn(10, 6)
    once = scores.softmax(-1) @ words.matrix(6)
    thrice = scores.repeat(1, 3).softmax(-1) @ words.matrix(18)
    torch.testing.assert_close(thrice, once)


@pytest.mark.parametrize("length", [76, 78, 100, 153])
def test_a_context_of_another_prompt_is_refused(length):
    words = PromptWords((Word("dog", (1,)),), (0,), (2,), 77)
    with pytest.raises(ValueError, match=f"has {length} columns, but its words were counted for 77"):
        words.matrix(length)


@pytest.mark.parametrize(
    ("words", "start"), [((Word("dog", (77,)),), (0,)), ((Word("dog", ()),), (0,)), ((Word("dog", (1,)),), ())]
)
def test_words_must_lie_inside_their_context(words, start):
    with pytest.raises(ValueError, match="column"):
        PromptWords(words, start, (2,), 77)
