"""A family of models is added by one reader and one registration."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch


class TextFirstReader:
    """Reads a transformer whose sequence is the text and then the picture, at the call that is its first."""

    unit = None

    def __init__(self, network: Any, latent_size: tuple[int, int]) -> None:
        self.latent_size = latent_size
        self.grid = latent_size[0] // 2, latent_size[1] // 2

    def install(self, options: dict[str, Any], run: Any) -> None:
        attention = sys.modules[type(run).__module__.rpartition(".nodes.")[0] + ".instdiff_core.attention"]
        cells = self.grid[0] * self.grid[1]

        def read(attend: Any, q: Any, k: Any, v: Any, heads: int, *args: Any, **kwargs: Any) -> Any:
            for edit, part in run.edit_entries(len(q), self.latent_size, kwargs["transformer_options"]):
                queries, keys = q[part], k[part]
                text = keys.shape[2] - cells
                matrix = edit.token_matrix(text, keys.device)
                maps = attention.word_maps(queries[:, :, text:], keys[:, :, :text], matrix, self.grid)
                edit.session.observe_words(maps)
            return attend(q, k, v, heads, *args, **kwargs)

        options["transformer_options"]["optimized_attention_override"] = read


@pytest.fixture
def flux(host: Any, transformer_model: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The sampling inputs of a small Flux, for whose class the reader is registered in the place of ours."""
    readers = sys.modules[host.hooks.__name__ + ".readers"]
    monkeypatch.setitem(readers.READERS, "Flux", TextFirstReader)
    prompt = host.prompt("a frog")[0][1][host.hooks.PROMPT]
    contexts = torch.randn(3, 1, 77, 8, generator=torch.Generator().manual_seed(0))
    pooled = {"pooled_output": torch.zeros(1, 8), "guidance": 3.5}
    edit = host.hooks.EditPrompt(prompt.words, (contexts[0], pooled))
    positive = [[contexts[1], pooled | {host.hooks.PROMPT: edit}]]
    return {"model": transformer_model, "positive": positive, "negative": [[contexts[2], pooled]], "steps": 3}


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_registered_family_is_sampled_as_by_k_sampler_and_recorded(host, flux, make_latent, cfg):
    latent = make_latent(1, 16, 24, 16)
    plain = host.k_sampler(latent, cfg=cfg, **flux)
    samples, attention = host.capture(latent, cfg=cfg, **flux)
    assert torch.equal(samples, plain)
    assert attention.words.texts == ("a", "frog")
    assert attention.maps.shape == (3, 1, 4, 8, 12)
    assert len(attention.sigmas) == 3
    samples, _, attention = host.edit(latent, cfg=cfg, **flux)
    assert (samples == latent).all(1).any()
    assert attention.propagated.isfinite().all()


def test_the_noise_level_of_a_flow_model_is_its_noise_to_signal(host, flux, make_latent):
    """Its sigma is the part of noise: from 0, no noise, to 1, nothing else."""
    latent = make_latent(1, 16, 16, 16)
    steps: list[float] = []
    model = flux["model"].clone()

    def record_sigma(args):
        steps.append(float(args["sigma"]))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(record_sigma)
    _, attention = host.capture(latent, **flux | {"model": model})
    assert all(0 < sigma < 1 for sigma in steps)
    assert attention.sigmas == pytest.approx([sigma / (1 - sigma) for sigma in steps])


def test_an_unregistered_family_is_refused_by_name(host, transformer_model, make_latent, monkeypatch):
    monkeypatch.delitem(sys.modules[host.hooks.__name__ + ".readers"].READERS, "Flux")
    with pytest.raises(ValueError, match="Flux is a kind of model that InstDiffEdit does not know"):
        host.edit(make_latent(1, 16, 16, 16), model=transformer_model)
