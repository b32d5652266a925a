"""How the steps of a finish are divided into passes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from instdiff_core.passes import MOST_PASSES, Pass, next_seed, plan_passes


@pytest.mark.parametrize("passes", [1, 2, 4, MOST_PASSES])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 25, 1000])
def test_the_steps_of_all_passes_are_those_that_were_asked_for(passes: int, steps: int) -> None:
    plan = plan_passes(passes, steps, 0.9)
    assert sum(part.steps for part in plan) == steps
    assert all(part.steps >= 1 for part in plan)
    assert len(plan) == min(passes, steps)


@pytest.mark.parametrize("strength", [0.05, 0.5, 0.9, 1.0])
def test_the_first_pass_begins_at_the_strength_and_each_later_one_from_less_noise(strength: float) -> None:
    strengths = [part.strength for part in plan_passes(4, 25, strength)]
    assert strengths[0] == strength
    assert all(later < earlier for earlier, later in pairwise(strengths))
    assert strengths[-1] > strength / 2


def test_the_last_pass_takes_the_most_steps() -> None:
    steps = [part.steps for part in plan_passes(4, 25, 0.9)]
    assert steps[:-1] == [steps[0]] * 3
    assert steps[-1] >= 2 * steps[0]


@pytest.mark.parametrize(("passes", "steps"), [(1, 25), (4, 1)])
def test_one_pass_and_one_step_are_one_sampling(passes: int, steps: int) -> None:
    assert plan_passes(passes, steps, 0.9) == [Pass(steps, 0.9)]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_each_pass_has_noise_of_its_own_by_a_seed_that_the_sampler_takes(seed: int) -> None:
    seeds = [next_seed(seed, number) for number in range(MOST_PASSES)]
    assert seeds[0] == seed
    assert len(set(seeds)) == MOST_PASSES
    assert all(0 <= each < 2**64 for each in seeds)
