"""The evidence of a run: what a step says, what counts of it, and what is kept."""

import numpy as np
import pytest
import torch

from instdiff_core.evidence import CHANGE, ERROR, ERROR_WITHOUT, FIRST_PROPAGATED, FIRST_WORD, Evidence, Predictions
from instdiff_core.noise import NoiseLevel
from instdiff_core.recorder import Recorder
from tests.core.recorded import PARTS, WORDS, level, predictions, recorded, still, word_maps

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


# ---- what a step counts ----


def test_steps_count_by_the_fourth_power_of_their_noise_and_alike_where_there_is_hardly_a_picture():
    sigmas = [14.0, 5.0, 1.0, 0.5]
    recorder = recorded(sigmas, signals=still(), cells=False)
    words = torch.stack([word_maps(seed=number)[:, FIRST_WORD:] for number in range(4)])
    weights = torch.tensor([625, 625, 1, 1 / 16])
    expected = (words * weights.view(4, 1, 1, 1, 1)).sum(0) / weights.sum()
    for found in (recorder.evidence(), recorder.freeze(WORDS, 8).evidence()):
        torch.testing.assert_close(found.propagated[:, FIRST_PROPAGATED:], expected, atol=1e-3, rtol=1e-3)


def test_a_last_step_of_nearly_no_noise_changes_nothing():
    """Its errors in units of that noise are beyond float16, and it hardly counts."""
    made = predictions()
    before = recorded([3.0, 2.0], signals=made).freeze(WORDS, 8).evidence().propagated
    record = recorded([3.0, 2.0, 0.003], signals=made).freeze(WORDS, 8)
    assert record.propagated.isfinite().all()
    torch.testing.assert_close(record.evidence().propagated, before, atol=1e-3, rtol=1e-3)


# ---- a batch ----


def test_shared_evidence_is_the_mean_of_the_batch():
    evidence = recorded([4.0, 1.0], batch=3).evidence()
    shared = evidence.shared()
    for part in PARTS:
        torch.testing.assert_close(getattr(shared, part)[0], getattr(evidence, part).mean(0))
        assert len(getattr(shared, part)) == 1


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
