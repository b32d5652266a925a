"""Which words a prompt has, and where their tokens stand in the context."""

import pytest
import torch

from instdiff_core.tokens import (
    PromptWords,
    Word,
    find_framed_words,
    find_nearest_word,
    find_spelling,
    find_words,
    join_words,
    prompt_words,
    split_names,
)

START, END, CHUNK = 49406, 49407, 77


@pytest.fixture
def read(tokenizer):
    """A prompt as transformers cuts it, read as one chunk."""
    return lambda text: prompt_words([tokenizer(text, padding="max_length").input_ids], tokenizer, text)


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


def test_every_word_has_its_position_between_start_and_end(read):
    words = read("a photo of a dog")
    assert words.words == tuple(Word(text, (i + 1,)) for i, text in enumerate(["a", "photo", "of", "a", "dog"]))
    assert (words.start, words.end, words.length) == ((0,), (6,), 77)


def test_subwords_are_one_word_over_all_their_tokens(read, tokenizer):
    words = read("a zzyzxcat dog")
    pieces = len(tokenizer("zzyzxcat").input_ids) - 2
    assert pieces > 2
    assert words.texts == ("a", "zzyzxcat", "dog")
    assert [word.positions for word in words.words] == [(1,), tuple(range(2, 2 + pieces)), (2 + pieces,)]
    assert words.end == (3 + pieces,)


def test_ids_without_padding_read_like_padded_ones(read, tokenizer):
    short = prompt_words([tokenizer("a red car").input_ids], tokenizer, "a red car")
    assert short.words == read("a red car").words
    assert short.length == 5


def test_ids_may_come_as_a_tensor_or_as_the_hosts_pairs(read, tokenizer):
    ids = tokenizer("a red car", padding="max_length", return_tensors="pt").input_ids
    assert prompt_words(list(ids), tokenizer, "a red car") == read("a red car")
    assert prompt_words([[(token, 1.0) for token in ids[0].tolist()]], tokenizer, "a red car") == read("a red car")


def test_a_weight_changes_neither_words_nor_positions(host_chunk, tokenizer, read):
    weighted = host_chunk(("a", 1.0), ("dog", 1.3), ("on the grass", 1.0))
    assert prompt_words([weighted], tokenizer, "a dog on the grass") == read("a dog on the grass")


def test_the_vectors_of_an_embedding_are_one_word(host_chunk, tokenizer):
    chunk = host_chunk(("a", 1.0), (torch.randn(3, 8), 1.0), ("dog", 1.0))
    words = prompt_words([chunk], tokenizer, "a embedding:bad-dog_v1.5, dog")
    assert found(words) == [("a", (1,)), ("embedding:bad-dog_v1.5", (2, 3, 4)), ("dog", (5,))]


def test_an_embedding_that_is_not_there_leaves_the_other_words_their_tokens(host_chunk, tokenizer):
    words = prompt_words([host_chunk(("a dog", 1.0))], tokenizer, "embedding:missing_thing a dog")
    assert found(words) == [("a", (1,)), ("dog", (2,))]


def test_two_embeddings_side_by_side_are_two_words(host_chunk, tokenizer):
    chunk = host_chunk((torch.randn(2, 8), 1.0), (torch.randn(3, 8), 1.2))
    words = prompt_words([chunk], tokenizer, "embedding:one embedding:two")
    assert found(words) == [("embedding:one", (1, 2)), ("embedding:two", (3, 4, 5))]


def test_long_prompts_count_positions_through_all_chunks(host_chunk, tokenizer):
    full = host_chunk(("dog " * 75, 1.0))
    rest = host_chunk(("a cat", 1.0))
    words = prompt_words([full, rest], tokenizer, "dog " * 75 + "a cat")
    assert len(words.words) == 77
    assert words.words[74].positions == (75,)
    assert words.words[75] == Word("a", (77 + 1,))
    assert words.words[76] == Word("cat", (77 + 2,))
    assert (words.start, words.end, words.length) == ((0, 77), (76, 77 + 3), 154)


def test_punctuation_is_no_word_but_keeps_its_position(read):
    words = read("a dog, ... a cat!")
    assert words.texts == ("a", "dog", "a", "cat")
    assert words.words[0].positions == (1,)
    assert words.words[1].positions == (2,)
    assert words.words[2].positions[0] > 4


def test_a_word_over_the_end_of_a_chunk_has_tokens_in_both(host_chunk, tokenizer):
    full = host_chunk(("dog " * 74 + "cat", 1.0))
    rest = host_chunk(("dog", 1.0))
    words = prompt_words([full, rest], tokenizer, "dog " * 74 + "catdog")
    assert (len(words.words), words.words[-1].text) == (75, "catdog")
    assert words.words[-1].positions == (75, 78)


def test_the_text_of_a_word_has_no_comma_since_commas_part_words_in_a_list(read):
    assert read("a $, +,+ 🐸,🐸 dog").texts == ("a", "$", "+", "+", "🐸", "🐸", "dog")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a T-Shirt", ("a", "T-Shirt")),
        ("long_hair, frog's", ("long_hair", "frog's")),
        ("don’t", ("don’t",)),
        ("in 2024.", ("in", "2024")),
        ("v1.5 of R&B", ("v1.5", "of", "R&B")),
        ("A Frog. On GRASS.", ("A", "Frog", "On", "GRASS")),
        ("a frog，a cat、a dog。", ("a", "frog", "a", "cat", "a", "dog")),
        ("frog/toad (or) [newt]", ("frog", "toad", "or", "newt")),
        ("well--known - 'quoted' -x-", ("well", "known", "quoted", "x")),
        ("2024年", ("2024", "年")),
    ],
)
def test_words_are_as_the_person_wrote_them(read, text, words):
    assert read(text).texts == words


def test_all_tokens_of_a_written_word_are_its_own(read):
    words = read("a t-shirt on grass")
    positions = [position for word in words.words for position in word.positions]
    assert positions == list(range(1, words.end[0]))
    assert len(words.words[1].positions) >= 3


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("blue car", ("blue", "car")),
        ("BLUE  CAR", ("blue", "car")),
        ("t-shirt", ("t-shirt",)),
        ("t shirt", ("t-shirt",)),
        ("shirt", ("t-shirt",)),
        ("long hair", ("long_hair",)),
        ("frog's", ("frog’s",)),
        ("frog", ("frog’s",)),
        ("2024", ("2024",)),
        ("(car:1.3)", ("car", "car")),
        ("((blue car))", ("blue", "car")),
        ("car.", ("car", "car")),
        ("青蛙", ("青", "蛙")),
        ("car and", ("car", "and")),
        ("red", ()),
        ("cars", ()),
        ("blue shirt", ()),
        ("...", ()),
        ("", ()),
    ],
)
def test_names_cover_words_as_people_write_them(read, name, covered):
    words = read("a blue car and a car, t-shirt, long_hair, frog’s 2024 一只青蛙.")
    assert tuple(words.texts[number] for number in find_words(words, name)) == covered


def test_a_name_covers_the_tokens_that_it_has_letters_in():
    words = PromptWords(tuple(Word(text, (n,)) for n, text in enumerate(["一只", "青蛙", "在", "草地"])), (), (), 4)
    assert [find_words(words, name) for name in ("青蛙", "蛙", "一只青", "草地", "蛙草")] == [[1], [1], [0, 1], [3], []]


def test_the_nearest_word_is_found_also_with_a_weight(read):
    words = read("a blue frog, t-shirts")
    assert [find_nearest_word(words, name) for name in ("frogs", "(frogs:1.3)", "T-Shirt", "xyz")] == [
        "frog", "frog", "t-shirts", None,
    ]  # fmt: skip


def test_lists_of_names_may_have_any_comma():
    assert split_names("blue car, frog，青蛙、 t-shirt,,") == ("blue car", "frog", "青蛙", "t-shirt")


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
    positions = [position for word in words.words for position in word.positions]
    assert positions == sorted(set(positions))
    assert words.words[-1].positions[0] > 1


def test_a_cut_off_prompt_has_no_end_token(tokenizer):
    ids = [START, *tokenizer("a dog").input_ids[1:-1]]
    words = prompt_words([ids], tokenizer, "a dog")
    assert (words.texts, words.end) == (("a", "dog"), ())
    assert words.matrix(3)[:, 1].sum() == 0


@pytest.mark.parametrize("chunks", [[], [[START, END], [START, END, END]]])
def test_no_chunks_and_uneven_chunks_are_refused(chunks, tokenizer):
    with pytest.raises(ValueError, match="no tokens, or chunks of different lengths"):
        prompt_words(chunks, tokenizer, "")


def test_the_matrix_takes_the_mean_of_a_words_tokens():
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
    with pytest.raises(ValueError, match=f"has {length} token positions, but its words were counted for 77"):
        words.matrix(length)


@pytest.mark.parametrize("positions", [(77,), ()])
def test_words_must_lie_inside_their_context(positions):
    with pytest.raises(ValueError, match="token position"):
        PromptWords((Word("dog", positions),), (0,), (2,), 77)


# ---- encoders without a start token, and templates ----


class Vocabulary:
    """Pieces and their ids: those that the tests' prompts are made of, and the one that tells the family."""

    def __init__(self, *pieces):
        self.pieces = dict(enumerate(["<pad>", "</s>", *pieces]))
        self.ids = {piece: number for number, piece in self.pieces.items()}
        spelling = find_spelling(self.ids)
        assert spelling is not None
        self.spelling = spelling

    def read(self, tokens, empty, text, length=None):
        ids, none = ([(self.ids[piece], 1.0) if isinstance(piece, str) else piece for piece in part]
                     for part in (tokens, empty))  # fmt: skip
        return find_framed_words(ids, none, self.pieces, self.spelling, 0, length or len(ids), text)


def found(words):
    return [(word.text, word.positions) for word in words.words]


SENTENCE_PIECE = ("▁the", "▁", "▁a", "a", "▁dog", "▁cat", "▁butter", "fly", "'", "s", ",", ".", "(", ")", "<0xE7>",
                  "<0x8C>", "<0xAB>")  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (["▁the", "▁dog", "</s>"], "the dog", [("the", (0,)), ("dog", (1,))]),
        (["▁the", "▁butter", "fly", ".", "</s>"], "the butterfly.", [("the", (0,)), ("butterfly", (1, 2))]),
        (["▁", "a", "▁dog", "'", "s", "</s>"], "a dog's", [("a", (1,)), ("dog's", (2, 3, 4))]),
        (
            ["▁dog", ",", "▁", "(", "a", ")", ",", "▁cat", "</s>"],
            "dog, (a), cat",
            [("dog", (0,)), ("a", (4,)), ("cat", (7,))],
        ),
        (["▁", "<0xE7>", "<0x8C>", "<0xAB>", "▁dog", "</s>"], "猫 dog", [("猫", (1, 2, 3)), ("dog", (4,))]),
        (["▁dog", "</s>", "<pad>", "<pad>"], "dog", [("dog", (0,))]),
    ],
    ids=lambda value: "".join(value) if isinstance(value[0], str) else "",
)
def test_words_of_t5_have_the_tokens_that_spell_them(tokens, text, expected):
    words = Vocabulary(*SENTENCE_PIECE).read(tokens, ["</s>", "<pad>"], text)
    assert found(words) == expected
    assert (words.start, words.end, words.length) == ((), (tokens.index("</s>"),), len(tokens))


TEMPLATE = ["<|im_start|>", "user", "Ċ"]
BEHIND = ["<|im_end|>", "Ċ", "<|im_start|>", "assistant", "Ċ"]
BYTE_LEVEL = ("Ġthe", "Ġa", "a", "Ġdog", "dog", "Ġm", "Ã¤", "use", ",", "ä¸Ģ", "åıª", "çĮ«", "ç", "Į«", "user", "Ċ",
              "assistant", "<|im_start|>", "<|im_end|>", '"a', '"')  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        (["a", "Ġdog"], "a dog", [("a", (3,)), ("dog", (4,))]),
        (["Ġm", "Ã¤", "use", ",", "dog"], " mäuse,dog", [("mäuse", (3, 4, 5)), ("dog", (7,))]),
        (["ä¸Ģ", "åıª", "ç", "Į«", "Ġdog"], "一只猫 dog", [("一", (3,)), ("只", (4,)), ("猫", (5, 6)), ("dog", (7,))]),
        (['"a', "Ġdog", '"'], '"a dog"', [("a", (3,)), ("dog", (4,))]),
        (["assistant"], "assistant", [("assistant", (3,))]),
        (["user", "Ċ", "user"], "user\nuser", [("user", (3,)), ("user", (5,))]),
        ([], "", []),
    ],
    ids=lambda value: "".join(each for each in value if isinstance(each, str)),
)
def test_a_template_is_what_the_empty_prompt_has_too(prompt, text, expected):
    words = Vocabulary(*BYTE_LEVEL).read(TEMPLATE + prompt + BEHIND, TEMPLATE + BEHIND, text)
    assert found(words) == expected
    if prompt:
        assert words.end == (3 + len(prompt),)


@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 4)])
def test_a_template_may_be_filled_up_at_either_end(left, right):
    empty = ["<pad>"] * (left + 1) + TEMPLATE + BEHIND + ["<pad>"] * (right + 2)
    tokens = ["<pad>"] * left + [*TEMPLATE, "a", "Ġdog", *BEHIND] + ["<pad>"] * right
    words = Vocabulary(*BYTE_LEVEL).read(tokens, empty, "a dog")
    assert found(words) == [("a", (left + 3,)), ("dog", (left + 4,))]


def test_the_beginning_of_a_template_may_be_cut_off():
    tokens = [*TEMPLATE, "a", "Ġdog", *BEHIND]
    words = Vocabulary(*BYTE_LEVEL).read(tokens, TEMPLATE + BEHIND, "a dog", length=len(tokens) - 3)
    assert found(words) == [("a", (0,)), ("dog", (1,))]
    assert (words.end, words.length) == ((2,), 7)


def test_an_embedding_in_a_frame_is_one_word():
    vectors = [(torch.randn(4), 1.0, 2), (torch.randn(4), 1.0, 2)]
    words = Vocabulary(*SENTENCE_PIECE).read(["▁the", *vectors, "▁dog", "</s>"], ["</s>"], "the embedding:thing dog")
    assert found(words) == [("the", (0,)), ("embedding:thing", (1, 2)), ("dog", (3,))]


@pytest.mark.parametrize("added", [3, 5])
def test_what_was_added_behind_a_prompt_without_start_token_counts_for_nothing(added):
    """Also where the context is then twice as long, as one of CLIP's that was repeated."""
    words = PromptWords((Word("dog", (1, 2)),), (), (3,), 5)
    assert words.fits(5 + added)
    expected = torch.zeros(5 + added, 3)
    expected[[1, 2], 2], expected[3, 1] = 0.5, 1
    assert torch.equal(words.matrix(5 + added), expected)
    with pytest.raises(ValueError, match="4 token positions"):
        words.matrix(4)


def test_templates_are_counted_from_the_end_of_a_longer_context():
    tokens = [*TEMPLATE, "a", "Ġdog", *BEHIND]
    words = Vocabulary(*BYTE_LEVEL).read(tokens, TEMPLATE + BEHIND, "a dog")
    assert torch.equal(words.matrix(25)[15:], words.matrix(10))
    assert not words.matrix(25)[:15].any()
    with pytest.raises(ValueError, match="has 9 token positions"):
        words.matrix(9)


def test_without_a_start_token_its_map_is_zero():
    words = Vocabulary(*SENTENCE_PIECE).read(["▁the", "▁dog", "</s>"], ["</s>"], "the dog")
    assert not words.matrix(3)[:, 0].any()


def test_a_word_of_two_encoders_has_tokens_in_both_parts():
    clip = PromptWords((Word("a", (1,)), Word("butterfly", (2, 3)), Word("!!", (4,))), (0,), (5,), 8)
    t5 = PromptWords((Word("A", (0,)), Word("big", (1,)), Word("Butterfly", (2, 3))), (), (4,), 6)
    words = join_words([clip, t5])
    assert found(words) == [("a", (1, 8)), ("big", (9,)), ("butterfly", (2, 3, 10, 11)), ("!!", (4,))]
    assert (words.start, words.end, words.length) == ((0,), (5, 12), 14)
    assert join_words([clip]) == clip


def test_a_vocabulary_of_no_known_family_is_told():
    assert find_spelling({"[CLS]", "the", "##s"}) is None
