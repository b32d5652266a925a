"""Several edits in one sampling: each with its own mask and its own prompt."""

from __future__ import annotations

import torch

SIZE = 512


def combined(host, *texts, **own):
    """Encode Edit Prompt for each text, joined by Conditioning (Combine); `own` are inputs of the last one."""
    prompts = [host.prompt(text) for text in texts[:-1]]
    prompts.append(host.run("InstDiffEncodeEditPrompt", clip=host.clip, text=texts[-1], **own))
    whole = prompts[0]
    for each in prompts[1:]:
        whole = host.nodes.ConditioningCombine().combine(whole, each)[0]
    return whole


def test_two_edits(host, latent):
    _, mask, attention, of_edits = host.run(
        "InstDiffMaskedSampler", **host.sampling(latent, positive=combined(host, "a frog", "a red car"))
    )
    print(mask.mean(), of_edits.mean((1, 2)), attention.words.texts, attention.further[0].words.texts)
    assert torch.equal(of_edits.amax(0), mask[0])
    assert of_edits.sum(0).max() == 1
