"""How the evidence of a run is collected, step by step and layer by layer."""

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from instdiff_core.attention import word_maps as read_words
from instdiff_core.evidence import ERROR, ERROR_WITHOUT, FIRST_PROPAGATED, FIRST_WORD, Predictions
from instdiff_core.noise import NoiseLevel
from instdiff_core.recorder import Recorder
from tests.bench.launches import Counting
from tests.core.recorded import PARTS, WORDS, affinities, layer, level, noise, predictions, recorded, still, word_maps

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


def recorded_on(latents: str, layers: str) -> Recorder:
    """A recorder of two steps whose predictions are on one device and whose layers are on another."""
    recorder = Recorder()
    predicted = torch.empty(4, 2, 4, 32, 32, device=latents)
    cells = torch.empty(2, 4, 64, 8, device=layers)
    for _ in range(2):
        recorder.add_words(torch.empty(2, 4, 8, 8, device=layers))
        recorder.add_self_attention(cells, cells, (8, 8))
        assert recorder.close_step(NoiseLevel(*torch.empty(2, device=latents)), Predictions(*predicted))
    return recorder


def test_the_device_is_never_waited_for():
    """A tensor on the meta device has no values: to ask for one raises."""
    found = recorded_on("meta", "meta").evidence()
    assert [getattr(found, part).device.type for part in PARTS] == ["meta"] * 4
    assert found.propagated.shape == (2, 5, 8, 8)


def test_a_step_that_another_gpu_has_computed_counts_as_any():
    with FakeTensorMode():  # as strict about devices as GPUs are
        found = recorded_on("cuda:0", "cuda:1").evidence()
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


# ---- nothing seen ----


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
