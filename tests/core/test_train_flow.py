"""Training of the small flow model."""

import pytest
import torch

pytest.importorskip("diffusers")

from instdiff_core.mini import train_flow
from instdiff_core.mini.train_flow import Course, newest


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(train_flow, "SHARD", 10)
    monkeypatch.setattr(train_flow, "FIRST_SHARDS", 1)

    def trained(work, *stops):
        (tmp_path / work).mkdir()
        for steps in stops:
            train_flow.train(tmp_path / work, None, Course(steps, small_steps=1, windows=0.5, batch=2))
        model, step = newest(tmp_path / work)
        assert step == stops[-1]
        return model.state_dict()

    once, twice = trained("once", 3), trained("twice", 1, 3)
    assert all(torch.equal(once[name], twice[name]) for name in once)
