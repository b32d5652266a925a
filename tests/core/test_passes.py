"""How the steps of a finish are divided into passes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from instdiff_core.passes import MOST_PASSES, SHORTEST, Pass, next_seed, plan_passes


@pytest.mark.parametrize("passes", [1, 2, 4, MOST_PASSES])
@pytest.mark.parametrize("steps", [1, 3, 4, 10, 20, 25, 1000])
def test_the_steps_of_all_passes_are_those_that_were_asked_for(passes: int, steps: int) -> None:
    plan = plan_passes(passes, steps, 0.9)
    assert sum(part.steps for part in plan) == steps
    assert len(plan) <= passes


@pytest.mark.parametrize("strength", [0.05, 0.5, 0.9, 1.0])
def test_the_first_pass_begins_at_the_strength_and_each_later_one_from_less_noise(strength: float) -> None:
    strengths = [part.strength for part in plan_passes(4, 25, strength)]
    assert strengths[0] == strength
    assert all(later < earlier for earlier, later in pairwise(strengths))
    assert strengths[-1] > strength / 2


def test_passes_are_as_long_as_each_other() -> None:
    assert [part.steps for part in plan_passes(4, 20, 0.9)] == [5, 5, 5, 5]
    assert [part.steps for part in plan_passes(4, 23, 0.9)] == [5, 5, 5, 8]


@pytest.mark.parametrize("steps", [1, 4, 7, 10, 16])
def test_few_steps_are_taken_in_fewer_passes_rather_than_in_shorter_ones(steps: int) -> None:
    plan = plan_passes(4, steps, 0.9)
    assert len(plan) == max(1, steps // SHORTEST)
    assert all(part.steps >= min(steps, SHORTEST) for part in plan)


def test_one_pass_is_one_sampling() -> None:
    assert plan_passes(1, 25, 0.9) == [Pass(25, 0.9)]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_each_pass_has_noise_of_its_own_by_a_seed_that_the_sampler_takes(seed: int) -> None:
    seeds = [next_seed(seed, number) for number in range(MOST_PASSES)]
    assert seeds[0] == seed
    assert len(set(seeds)) == MOST_PASSES
    assert all(0 <= each < 2**64 for each in seeds)
