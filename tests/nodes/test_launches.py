"""How many torch operations a mask adds to a step: a fast GPU waits for the processor to launch them."""

import pytest
import torch

from tests.bench.launches import HOST, count_per_step

MOST = 190
"""Operations more in a step of the embedded model, where there are about 155 of them."""

MOST_HOST = 10
"""Of these the host's own: where the pack calls it, it computes the noise level and the picture's noise."""


@pytest.mark.one_host
def test_a_step_launches_a_bounded_number_of_operations_more_than_k_sampler(host):
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    counts = count_per_step(
        lambda steps: host.edit(latent, steps=steps), lambda steps: host.k_sampler(latent, steps=steps)
    )
    assert 0 < sum(counts.values()) <= MOST, counts
    assert counts[HOST] <= MOST_HOST
    assert counts["reading the layers"] == 0
