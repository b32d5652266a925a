"""The evidence of a run: what a step says, what counts of it, and what is kept."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from instdiff_core.attention import word_maps as read_words
from instdiff_core.evidence import (
    CHANGE,
    ERROR,
    ERROR_WITHOUT,
    FIRST_PROPAGATED,
    FIRST_WORD,
    Evidence,
    Predictions,
    Recorder,
)
from instdiff_core.noise import NoiseLevel
from instdiff_core.tokens import PromptWords, Word
from tests.bench.launches import Counting

WORDS = PromptWords((Word("dog", (1,)), Word("grass", (2,))), (0,), (3,), 77)
PARTS = ("first", "maps", "propagated", "image_latent")


def level(sigma):
    """That of a model whose signal is 1."""
    return NoiseLevel(torch.tensor(1.0), torch.tensor(sigma))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predictions(batch=1, size=(8, 12), seed=0):
    guided, with_prompt, without, clean = noise(4, batch, 4, *size, seed=seed)
    return Predictions(guided, with_prompt, without, clean)


def still(batch=1, size=(4, 6)):
    """Predictions without any signal: only the words are in the propagated maps."""
    nothing = torch.zeros(batch, 4, *size)
    return Predictions(nothing, nothing, nothing, nothing)


def word_maps(batch=1, grid=(4, 6), seed=0):
    return torch.rand(batch, 4, *grid, generator=torch.Generator().manual_seed(seed))


def affinities(cells: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    return layer(noise(batch, cells, cells, seed=seed).softmax(-1))


def layer(affinity: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys ``[B, 1, N, N]`` of a self-attention layer whose probabilities are these ``[B, N, N]``."""
    cells = affinity.shape[-1]
    queries = affinity.clamp(min=1e-30).log()[:, None] * cells**0.5
    return queries, torch.eye(cells).expand_as(queries)


def recorded(sigmas, batch=1, signals=None, cells=True):
    """A recorder of a run with random layers, and the word maps and predictions of its steps."""
    recorder = Recorder()
    for number, sigma in enumerate(sigmas):
        recorder.add_words(word_maps(batch, seed=number))
        if cells:
            recorder.add_self_attention(*affinities(24, batch, seed=number), (4, 6))
        assert recorder.close_step(level(sigma), signals or predictions(batch, seed=number))
    return recorder


# ---- what the predictions of a step say ----


def test_the_signals_are_the_change_and_the_squared_errors_in_units_of_the_noise():
    made = predictions(2)
    guided, with_prompt, without, clean = (
        part.double().numpy() for part in (made.guided, made.with_prompt, made.without_prompt, made.image_latent)
    )
    expected = np.zeros((2, FIRST_PROPAGATED, 8, 12))
    expected[:, CHANGE] = np.abs((guided - clean) / 3).mean(1)
    expected[:, ERROR] = (((with_prompt - clean) / 3) ** 2).mean(1)
    expected[:, ERROR_WITHOUT] = (((without - clean) / 3) ** 2).mean(1)
    found = made.signals(level(3.0))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_without_a_negative_prompt_the_error_without_prompt_is_nothing():
    made = predictions()
    found = Predictions(made.guided, made.with_prompt, None, made.image_latent).signals(level(2.0))
    assert not found[:, ERROR_WITHOUT].any()
    torch.testing.assert_close(found[:, : ERROR + 1], made.signals(level(2.0))[:, : ERROR + 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_give_float32_signals(dtype):
    made = predictions()
    half = Predictions(
        *(part.to(dtype) for part in (made.guided, made.with_prompt, made.without_prompt, made.image_latent))
    )
    found = half.signals(level(0.05))
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found, made.signals(level(0.05)), rtol=0.1, atol=5)


@pytest.mark.parametrize("negative_prompt", [True, False])
def test_entries_are_the_predictions_of_these_pictures(negative_prompt):
    made = predictions(3)
    if not negative_prompt:
        made = Predictions(made.guided, made.with_prompt, None, made.image_latent)
    torch.testing.assert_close(
        made.entries(slice(1, 3)).signals(level(1.5)), made.signals(level(1.5))[1:3], rtol=0, atol=0
    )


# ---- a step ----


def test_word_maps_are_the_mean_over_layers_and_then_over_steps():
    first, second, third = noise(3, 1, 4, 2, 2)
    recorder = Recorder()
    recorder.add_words(first)
    recorder.add_words(second)
    assert recorder.close_step(level(9.0), still(size=(2, 2)))
    torch.testing.assert_close(recorder.evidence().maps, (first + second) / 2)
    recorder.add_words(third)
    assert recorder.close_step(level(0.1), still(size=(2, 2)))
    found = recorder.evidence()
    torch.testing.assert_close(found.maps, ((first + second) / 2 + third) / 2)
    torch.testing.assert_close(found.first, (first + second) / 2)


def test_maps_are_propagated_along_the_affinity_by_hand():
    # The first cell looks at the second alone, the second at both alike: the mean affinity of the two layers.
    recorder = Recorder()
    recorder.add_words(torch.tensor([0.5, 0.5, 0.2, 0.6, 0.1, 0.3, 0.9, 0.8]).view(1, 4, 1, 2))
    recorder.add_self_attention(*layer(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])), (1, 2))
    recorder.add_self_attention(*layer(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])), (1, 2))
    clean = torch.zeros(1, 1, 1, 2)
    made = Predictions(clean + torch.tensor([4.0, 8.0]), clean + torch.tensor([2.0, 6.0]), clean - 4, clean)
    recorder.close_step(level(2.0), made)
    found = recorder.evidence()
    expected = torch.tensor([[4, 3], [9, 5], [4, 4], [0.3, 0.2], [0.8, 0.85]])
    torch.testing.assert_close(found.propagated, expected.view(1, 5, 1, 2))
    assert torch.equal(found.maps[0, FIRST_WORD:, 0], torch.tensor([[0.1, 0.3], [0.9, 0.8]]))


def test_without_self_attention_the_propagated_maps_are_the_signals_and_the_words_as_they_are():
    maps, made = word_maps(2), predictions(2, size=(8, 12))
    recorder = Recorder()
    recorder.add_words(maps)
    recorder.close_step(level(3.0), made)
    propagated = recorder.evidence().propagated
    pooled = made.signals(level(3.0)).unflatten(-1, (6, 2)).unflatten(-3, (4, 2)).mean((-1, -3))
    torch.testing.assert_close(propagated, torch.cat([pooled, maps[:, FIRST_WORD:]], 1))


def test_steps_count_by_the_fourth_power_of_their_noise_and_alike_where_there_is_hardly_a_picture():
    sigmas = [14.0, 5.0, 1.0, 0.5]
    recorder = recorded(sigmas, signals=still(), cells=False)
    words = torch.stack([word_maps(seed=number)[:, FIRST_WORD:] for number in range(4)])
    weights = torch.tensor([625, 625, 1, 1 / 16])
    expected = (words * weights.view(4, 1, 1, 1, 1)).sum(0) / weights.sum()
    for found in (recorder.evidence(), recorder.freeze(WORDS, 8).evidence()):
        torch.testing.assert_close(found.propagated[:, FIRST_PROPAGATED:], expected, atol=1e-3, rtol=1e-3)


def test_the_guide_is_the_latent_of_the_picture():
    recorder = Recorder()
    recorder.add_words(word_maps())
    made = predictions()
    recorder.close_step(level(1.0), made)
    assert torch.equal(recorder.evidence().image_latent, made.image_latent)


def test_a_step_that_no_layer_saw_is_not_counted():
    recorder = recorded([9.0])
    before = recorder.evidence()
    recorder.add_self_attention(*affinities(24, seed=8), (4, 6))
    assert not recorder.close_step(level(4.0), predictions(seed=9))
    assert recorder.freeze(WORDS, 8).sigmas == (9.0,)
    assert all(torch.equal(getattr(recorder.evidence(), part), getattr(before, part)) for part in PARTS)


def test_self_attention_of_a_step_without_the_prompt_does_not_reach_the_next():
    recorder = Recorder()
    recorder.add_self_attention(*affinities(24, seed=8), (4, 6))
    recorder.close_step(level(4.0), predictions(seed=9))
    recorder.add_words(word_maps())
    recorder.close_step(level(2.0), still())
    assert torch.equal(recorder.evidence().propagated[:, FIRST_PROPAGATED:], word_maps()[:, FIRST_WORD:])


def test_a_dropped_step_leaves_no_trace():
    recorder = Recorder()
    recorder.add_words(word_maps(seed=5))
    recorder.add_self_attention(*affinities(24, seed=5), (4, 6))
    recorder.drop_step()
    recorder.add_words(word_maps())
    recorder.close_step(level(2.0), still())
    assert torch.equal(recorder.evidence().maps, word_maps())
    assert torch.equal(recorder.evidence().propagated[:, FIRST_PROPAGATED:], word_maps()[:, FIRST_WORD:])


@pytest.mark.parametrize("value", [1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("cells", [True, False])
def test_predictions_that_went_astray_leave_the_evidence_finite(value, cells):
    made = predictions()
    astray = Predictions(made.guided + value, made.with_prompt * value, made.without_prompt, made.image_latent)
    recorder = recorded([3.0, 2.0], signals=astray, cells=cells)
    for found in (recorder.evidence(), recorder.freeze(WORDS, 8).evidence()):
        assert found.propagated.isfinite().all()
        torch.testing.assert_close(
            found.propagated[:, ERROR_WITHOUT:],
            recorded([3.0, 2.0], signals=made, cells=cells).evidence().propagated[:, ERROR_WITHOUT:],
            atol=1e-2,
            rtol=1e-2,
        )


@pytest.mark.parametrize("cells", [True, False])
def test_an_error_too_large_for_a_number_is_the_largest_not_none(cells):
    made = predictions()
    astray = Predictions(made.guided, made.with_prompt * 1e30, made.without_prompt, made.image_latent)
    assert (recorded([3.0], signals=astray, cells=cells).freeze(WORDS, 8).propagated[:, :, ERROR] > 1e4).all()


def test_a_last_step_of_nearly_no_noise_changes_nothing():
    """Its errors in units of that noise are beyond float16, and it hardly counts."""
    made = predictions()
    before = recorded([3.0, 2.0], signals=made).freeze(WORDS, 8).evidence().propagated
    record = recorded([3.0, 2.0, 0.003], signals=made).freeze(WORDS, 8)
    assert record.propagated.isfinite().all()
    torch.testing.assert_close(record.evidence().propagated, before, atol=1e-3, rtol=1e-3)


def test_the_device_is_never_waited_for():
    """A tensor on the meta device has no values: to ask for one raises."""
    recorder = Recorder()
    latents = torch.empty(4, 2, 4, 32, 32, device="meta")
    cells = torch.empty(2, 4, 64, 8, device="meta")
    for _ in range(2):
        recorder.add_words(torch.empty(2, 4, 8, 8, device="meta"))
        recorder.add_self_attention(cells, cells, (8, 8))
        assert recorder.close_step(NoiseLevel(*torch.empty(2, device="meta")), Predictions(*latents))
    found = recorder.evidence()
    assert [getattr(found, part).device.type for part in PARTS] == ["meta"] * 4
    assert found.propagated.shape == (2, 5, 8, 8)


def test_a_step_that_another_gpu_has_computed_counts_as_any():
    recorder = Recorder()
    with FakeTensorMode():  # as strict about devices as GPUs are
        latents = torch.empty(4, 2, 4, 32, 32, device="cuda:0")
        cells = torch.empty(2, 4, 64, 8, device="cuda:1")
        for _ in range(2):
            recorder.add_words(torch.empty(2, 4, 8, 8, device="cuda:1"))
            recorder.add_self_attention(cells, cells, (8, 8))
            assert recorder.close_step(NoiseLevel(*torch.empty(2, device="cuda:0")), Predictions(*latents))
        found = recorder.evidence()
    assert [str(getattr(found, part).device) for part in PARTS] == ["cuda:0"] * 4


# ---- a batch ----


def test_the_evidence_of_a_batch_is_that_of_its_pictures():
    together, alone = Recorder(), [Recorder() for _ in range(3)]
    for number, sigma in enumerate((4.0, 1.0)):
        maps, (queries, keys), made = word_maps(3, seed=number), affinities(24, 3, number), predictions(3, seed=number)
        for picture, recorder in enumerate([*alone, together]):
            part = slice(picture, picture + 1) if recorder is not together else slice(None)
            recorder.add_words(maps[part])
            recorder.add_self_attention(queries[part], keys[part], (4, 6))
            recorder.close_step(level(sigma), made.entries(part))
    for name in PARTS:
        expected = torch.cat([getattr(recorder.evidence(), name) for recorder in alone])
        torch.testing.assert_close(getattr(together.evidence(), name), expected)


def test_shared_evidence_is_the_mean_of_the_batch():
    evidence = recorded([4.0, 1.0], batch=3).evidence()
    shared = evidence.shared()
    for part in PARTS:
        torch.testing.assert_close(getattr(shared, part)[0], getattr(evidence, part).mean(0))
        assert len(getattr(shared, part)) == 1


# ---- layers of another size ----


def test_a_coarser_layer_is_brought_to_the_grid_of_the_evidence():
    fine, coarse = word_maps(grid=(4, 6)), torch.full((1, 4, 2, 3), 0.5)
    recorder = Recorder((4, 6))
    recorder.add_words(coarse)
    recorder.close_step(level(2.0), still())
    recorder.add_words(fine)
    recorder.add_words(coarse)
    recorder.close_step(level(1.0), still())
    record = recorder.freeze(WORDS, 8)
    assert torch.equal(record.maps[0], torch.full((1, 4, 4, 6), 0.5))
    assert torch.equal(record.maps[1], (fine + 0.5) / 2)


def test_what_a_coarser_self_attention_carries_goes_where_it_says():
    """Two cells of which each attends to the other only: left and right are exchanged."""
    recorder = Recorder((2, 4))
    maps = torch.zeros(1, 4, 2, 4)
    maps[..., :2] = 1
    recorder.add_words(maps)
    recorder.add_self_attention(*layer(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])), (1, 2))
    recorder.close_step(level(2.0), still(size=(2, 4)))
    words = recorder.evidence().propagated[:, FIRST_PROPAGATED:]
    assert (words[..., 0] < 0.1).all()
    assert (words[..., 3] > 0.9).all()


# ---- steps without a prediction without prompt ----


def test_steps_without_it_do_not_count_after_steps_with_it():
    """At cfg 1 it is asked for in the first steps only."""
    made = predictions()
    recorder = Recorder()
    for sigma, without in ((4.0, made.without_prompt), (2.0, None), (1.0, None)):
        recorder.add_words(word_maps(seed=round(sigma)))
        step = Predictions(made.guided * sigma, made.with_prompt, without, made.image_latent)
        recorder.close_step(level(sigma), step)
    record, first = recorder.freeze(WORDS, 8), recorded([4.0], signals=made, cells=False)
    assert torch.equal(recorder.evidence().propagated[:, :FIRST_PROPAGATED], record.propagated[0, :, :FIRST_PROPAGATED])
    assert torch.equal(record.evidence().propagated, recorder.evidence().propagated)
    assert not torch.equal(recorder.evidence().maps, first.evidence().maps)
    assert record.weights.tolist()[1:] == [0, 0]


def test_where_there_never_is_one_all_steps_count():
    made = predictions()
    recorder = Recorder()
    for sigma in (3.0, 1.0):
        recorder.add_words(word_maps())
        recorder.close_step(level(sigma), Predictions(made.guided, made.with_prompt, None, made.image_latent))
    assert (recorder.freeze(WORDS, 8).weights > 0).all()


# ---- going on ----


def test_a_recorder_that_goes_on_with_a_record_says_what_one_that_saw_all_says():
    sigmas = [5.0, 1.5, 0.7]
    whole, half = recorded(sigmas), recorded(sigmas[:2])
    later = Recorder()
    later.resume(half.freeze(WORDS, 8), torch.device("cpu"))
    assert all(torch.equal(getattr(later.evidence(), part), getattr(half.evidence(), part)) for part in PARTS)
    later.add_words(word_maps(seed=2))
    later.add_self_attention(*affinities(24, seed=2), (4, 6))
    later.close_step(level(sigmas[2]), predictions(seed=2))
    assert all(torch.equal(getattr(later.evidence(), part), getattr(whole.evidence(), part)) for part in PARTS)
    assert later.freeze(WORDS, 8).sigmas == whole.freeze(WORDS, 8).sigmas


# ---- several edits ----


def test_where_another_edit_has_the_latent_the_signals_stay_those_of_the_picture():
    foreign = torch.zeros(1, 8, 12, dtype=torch.bool)
    foreign[:, :, :6] = True
    first, later = predictions(seed=1), predictions(seed=2)
    recorder = Recorder()
    for sigma, made, where in ((3.0, first, None), (2.0, later, foreign), (1.0, first, foreign)):
        recorder.add_words(word_maps())
        recorder.close_step(level(sigma), made, where)
    steps = recorder.freeze(WORDS, 8).propagated[:, 0, :FIRST_PROPAGATED]
    wanted = [functional.adaptive_avg_pool2d(made.signals(level(sigma)), (4, 6))[0] for sigma, made in (
        (3.0, first), (2.0, later), (1.0, first)
    )]  # fmt: skip
    for step, signals in zip(steps, wanted, strict=True):
        torch.testing.assert_close(step[..., :3], wanted[0][..., :3])
        torch.testing.assert_close(step[..., 3:], signals[..., 3:])


# ---- the latent's own noise mask ----


def test_the_noise_mask_goes_with_the_evidence_and_into_the_record_for_the_first_steps_too():
    noise_mask = torch.rand(2, 8, 12, generator=torch.Generator().manual_seed(0)) > 0.5
    recorder = Recorder(noise_mask=noise_mask)
    for number in range(2):
        recorder.add_words(word_maps(2, seed=number))
        recorder.close_step(level(2.0 - number), predictions(2, seed=number))
    record = recorder.freeze(WORDS, 8)
    for kept in (recorder.evidence(), record, record.evidence(), record.evidence(1)):
        assert kept.noise_mask is not None
        assert torch.equal(kept.noise_mask, noise_mask)


# ---- the record ----


def test_the_record_holds_every_step_on_the_cpu():
    recorder = recorded([3.0, 2.0, 1.0], batch=2)
    record = recorder.freeze(WORDS, 8)
    maps = torch.stack([word_maps(2, seed=number) for number in range(3)])
    assert torch.equal(record.maps, maps)
    assert record.propagated.shape == (3, 2, 5, 4, 6)
    for part in (record.maps, record.propagated, record.image_latent):
        assert (part.dtype, part.device.type) == (torch.float32, "cpu")
    assert record.sigmas == (3.0, 2.0, 1.0)
    assert record.words is WORDS
    assert record.latent_size == (8, 12)
    assert record.image_size == (64, 96)


@pytest.mark.parametrize("cells", [True, False])
def test_a_record_says_what_its_recorder_said(cells):
    recorder = recorded([14.0, 3.0, 1.0, 0.2], batch=2, cells=cells)
    live, kept = recorder.evidence(), recorder.freeze(WORDS, 8).evidence()
    for part in PARTS:
        found = getattr(kept, part)
        assert torch.equal(found, getattr(live, part))


def test_a_step_from_noise_alone_counts_in_a_record_as_in_its_recorder():
    """Where flow models begin at full strength: in units of that noise no prediction errs."""
    recorder = Recorder()
    for number, step in enumerate([NoiseLevel(torch.tensor(0.0), torch.tensor(1.0)), level(2.0)]):
        recorder.add_words(word_maps(seed=number))
        recorder.close_step(step, predictions(seed=number))
        live, kept = recorder.evidence(), recorder.freeze(WORDS, 8).evidence()
        assert live.propagated.isfinite().all()
        assert all(torch.equal(getattr(kept, part), getattr(live, part)) for part in PARTS)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_first_steps_of_a_record_say_what_a_run_that_ended_there_says(steps):
    sigmas, made = [5.0, 1.5, 0.7, 0.2], predictions()
    part_of = recorded(sigmas, signals=made).freeze(WORDS, 8).evidence(steps)
    ended = recorded(sigmas[:steps], signals=made).freeze(WORDS, 8).evidence()
    whole = recorded(sigmas, signals=made).freeze(WORDS, 8).evidence()
    assert all(torch.equal(getattr(part_of, part), getattr(ended, part)) for part in PARTS)
    assert not torch.equal(part_of.maps, whole.maps)
    assert not torch.equal(part_of.propagated, whole.propagated)


def test_a_record_is_not_changed_by_what_follows():
    recorder = recorded([3.0])
    record = recorder.freeze(WORDS, 8)
    before = record.evidence()
    recorder.add_words(word_maps(seed=5))
    recorder.close_step(level(2.0), predictions(seed=5))
    assert record.sigmas == (3.0,)
    assert all(torch.equal(getattr(record.evidence(), part), getattr(before, part)) for part in PARTS)


def test_evidence_is_not_changed_by_what_follows():
    recorder = recorded([3.0])
    evidence = recorder.evidence()
    kept = Evidence(*(getattr(evidence, part).clone() for part in PARTS))
    recorder.add_words(word_maps(seed=5))
    recorder.close_step(level(2.0), predictions(seed=5))
    assert all(torch.equal(getattr(evidence, part), getattr(kept, part)) for part in PARTS)


def test_an_empty_record_says_that_the_prompt_was_never_seen():
    recorder = Recorder()
    recorder.close_step(level(2.0), predictions())
    with pytest.raises(ValueError, match="never attended to the edit prompt"):
        recorder.freeze(WORDS, 8)
    with pytest.raises(ValueError, match="no step has been recorded"):
        recorder.evidence()


# ---- many layers ----


def count_operations(layers):
    """What a step takes that reads so many cross-attention layers, views and all."""
    recorder, matrix = Recorder(), WORDS.matrix(77)
    with Counting(lambda call: "") as counting:
        for q, k in (noise(2, 1, 2, 77, 8, seed=number).half() for number in range(layers)):
            recorder.add_cross_attention(q[:, :, :24], k, matrix, (4, 6))
        recorder.close_step(level(2.0), still())
    return counting.counts[""]


def test_ten_layers_of_cross_attention_take_about_the_operations_of_one():
    """A fast GPU waits for the processor to launch operations; three are these tests' own in each layer."""
    ten, thirty = count_operations(10), count_operations(30)
    assert (thirty - ten) / 20 <= 5


@pytest.mark.parametrize("count", [1, 3, 10, 25])
def test_layers_that_are_read_together_give_the_mean_of_their_maps(count):
    layers = [(noise(2, 3, 24, 8, seed=number), noise(2, 3, 77, 8, seed=100 + number)) for number in range(count)]
    matrix, together, alone = WORDS.matrix(77), Recorder(), Recorder()
    for q, k in layers:
        together.add_cross_attention(q, k, matrix, (4, 6))
        alone.add_words(read_words(q, k, matrix, (4, 6)))
    for recorder in (together, alone):
        recorder.close_step(level(2.0), still(2))
    torch.testing.assert_close(together.evidence().maps, alone.evidence().maps, rtol=1e-5, atol=1e-6)


def test_layers_of_several_kinds_count_alike():
    """Of three layers two are on the grid, and one is coarser."""
    matrix, recorder, expected = WORDS.matrix(77), Recorder((4, 6)), Recorder((4, 6))
    for number, grid in enumerate([(4, 6), (2, 3), (4, 6)]):
        q, k = noise(1, 3, grid[0] * grid[1], 8, seed=number), noise(1, 3, 77, 8, seed=9 + number)
        recorder.add_cross_attention(q, k, matrix, grid)
        expected.add_words(read_words(q, k, matrix, grid))
    for either in (recorder, expected):
        either.close_step(level(2.0), still())
    torch.testing.assert_close(recorder.evidence().maps, expected.evidence().maps, rtol=1e-5, atol=1e-6)
