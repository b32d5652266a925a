"""The mask is right under every guider of the host, with and without a prediction for no prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

GUIDERS: dict[str, dict[str, Any]] = {
    "CFGGuider": {"cfg": 5.0},
    "CFGGuider at cfg 1": {"cfg": 1.0},
    "BasicGuider": {},
    "DualCFGGuider": {"cfg_conds": 5.0, "cfg_cond2_negative": 5.0, "style": "regular"},
    "DualCFGGuider nested": {"cfg_conds": 5.0, "cfg_cond2_negative": 5.0, "style": "nested"},
    "DualCFGGuider at cfg 1": {"cfg_conds": 1.0, "cfg_cond2_negative": 1.0, "style": "regular"},
    "PerpNegGuider": {"cfg": 5.0, "neg_scale": 1.0},
    "PerpNegGuider without negative": {"cfg": 5.0, "neg_scale": 0.0},
    "PerpNegGuider at cfg 1": {"cfg": 1.0, "neg_scale": 0.0},
    "DualModelGuider": {"cfg": 4.0},
    "DualModelGuider at cfg 1": {"cfg": 1.0},
    "LTXVDualCFGGuider": {"video_cfg": 5.0, "audio_cfg": 5.0},
}
"""Of every guider of the host: tests/live/test_server.py finds those that are missing."""


def guider(host: Any, title: str, model: Any, prompt: str, second: str = "grass") -> Any:
    name = title.split()[0]
    positive, negative = host.prompt(prompt), host.other_prompt()
    prompts = {
        "BasicGuider": {"conditioning": positive},
        "DualCFGGuider": {"cond1": positive, "cond2": host.other_prompt(second), "negative": negative},
        "PerpNegGuider": {
            "positive": positive, "negative": host.other_prompt("blurry"), "empty_conditioning": negative,
        },
        "DualModelGuider": {"positive": positive, "negative": negative, "model_negative": host.model},
    }  # fmt: skip
    given = prompts.get(name, {"positive": positive, "negative": negative})
    return host.extra(name, model=model, **given, **GUIDERS[title])


def sampled(host: Any, guider: Any, model: Any, latent: Any, seed: int = 3) -> Any:
    """SamplerCustomAdvanced's LATENT."""
    samples, _ = host.extra(
        "SamplerCustomAdvanced",
        noise=host.extra("RandomNoise", noise_seed=seed),
        guider=guider,
        sampler=host.extra("KSamplerSelect", sampler_name="euler"),
        sigmas=host.extra("BasicScheduler", model=model, scheduler="normal", steps=6, denoise=0.5),
        latent_image=latent,
    )
    return samples


@pytest.fixture(params=GUIDERS)
def title(request: pytest.FixtureRequest, host: Any) -> str:
    if not host.has(request.param.split()[0]):
        pytest.skip(f"this ComfyUI has no {request.param.split()[0]}")
    return request.param


def test_the_mask_is_the_object_under_every_guider(host, title):
    latent, truth = host.scene("cat")
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    samples = sampled(host, guider(host, title, model, "a frog"), host.model, passed)
    mask, _, report, _ = host.run("InstDiffRefineMask", attention=attention, sampled=samples)
    assert host.iou(mask, truth) > 0.75
    assert "fits" not in report


@pytest.mark.one_host
@pytest.mark.parametrize(
    "title", [each for each in GUIDERS if " " not in each or each.startswith("CFGGuider")], indirect=True
)
def test_a_background_that_is_to_change_is_the_mask_under_every_guider(host, title):
    latent, truth = host.scene("car")
    model, passed, attention = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    samples = sampled(host, guider(host, title, model, "a car on the snow", second="snow"), host.model, passed)
    mask, *_ = host.run("InstDiffRefineMask", attention=attention, sampled=samples)
    assert host.iou(mask, ~truth) > 0.75


def test_what_is_asked_besides_leaves_the_samples_as_they_are(host, title, latent):
    """Under a mask of ones, with what the guide asks the model for itself, sampling is as without us."""
    model, passed, _ = host.run(
        "InstDiffMaskGuidance", model=host.model, latent={"samples": latent}, mask=torch.ones(1, 8, 8)
    )
    guiders = [guider(host, title, each, "a frog") for each in (host.model, model)]
    plain, ours = (sampled(host, each, host.model, passed)["samples"] for each in guiders)
    assert torch.equal(ours, plain)


def test_a_zeroed_negative_at_cfg_1_is_not_taken_for_the_empty_prompt(host):
    latent, truth = host.scene("cat")
    (zeroed,) = host.nodes.ConditioningZeroOut().zero_out(host.other_prompt())
    inputs = {"positive": host.prompt("a cat on the snow"), "negative": zeroed, "cfg": 1.0, "denoise": 0.5, "steps": 6}
    _, mask, _ = host.edit(latent, **inputs)
    assert host.iou(mask, ~truth) > 0.75


def test_a_guided_model_as_the_second_of_two_is_refused_with_the_remedy(host):
    if not host.has("DualModelGuider"):
        pytest.skip("this ComfyUI has no DualModelGuider")
    latent, _ = host.scene("cat")
    model, passed, _ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent})
    prompts = {"positive": host.prompt("a frog"), "negative": host.other_prompt()}
    wrong = host.extra("DualModelGuider", model=host.model, model_negative=model, cfg=4.0, **prompts)
    with pytest.raises(ValueError, match="connect it to the guider's first input 'model'"):
        sampled(host, wrong, host.model, passed)
    plain = host.extra("DualModelGuider", model=host.model, model_negative=host.model, cfg=4.0, **prompts)
    both = host.extra("DualModelGuider", model=model, model_negative=model, cfg=4.0, **prompts)
    kept = (sampled(host, both, host.model, passed)["samples"] == latent).all(1)
    assert 0 < kept.float().mean() < 1
    assert not (sampled(host, plain, host.model, passed)["samples"] == latent).all(1).any()


def test_a_second_prompt_in_a_part_of_a_large_picture_stays_there(host):
    latent = {"samples": host.scene("cat")[0].repeat_interleave(2, 2)}
    left = torch.zeros(1, 512, 256)
    left[..., :128] = 1
    second = host.extra("ConditioningSetMask", host.other_prompt("grass"), left, "default", 1.0)
    model, passed, _ = host.run("InstDiffMaskGuidance", model=host.model, latent=latent)
    prompts = {"cond1": host.prompt("a frog"), "cond2": second, "negative": host.other_prompt()}
    dual = host.extra("DualCFGGuider", model=model, **prompts, **GUIDERS["DualCFGGuider"])
    assert sampled(host, dual, host.model, passed)["samples"].isfinite().all()
