"""While sampling, what is shown has the mask's outline, and nothing that is kept has it."""

import copy

import numpy as np
import pytest
import torch


@pytest.fixture
def mask():
    """The user's own mask, of some of the picture's 16 x 16 latent pixels."""
    area = torch.zeros(1, 128, 128)
    area[:, 32:96, 24:80] = 1
    return area


@pytest.fixture
def outline():
    """The mask's outermost latent pixels."""
    line = torch.zeros(1, 16, 16, dtype=torch.bool)
    line[:, 4:12, 3:10] = True
    line[:, 5:11, 4:9] = False
    return line


def guided(host, latent, **inputs):
    model, _, _ = host.run("InstDiffMaskGuidance", model=host.model, latent={"samples": latent}, **inputs)
    return model


def unshown(model):
    """The same model with latents that the host cannot show."""

    latent_format = copy.copy(model.get_model_object("latent_format"))
    latent_format.latent_rgb_factors = None
    model = model.clone()
    model.add_object_patch("latent_format", latent_format)
    return model


class Progress:
    """A callback as nodes have it: what it was shown, and what it kept."""

    def __init__(self):
        self.shown, self.kept = [], []

    def __call__(self, step, denoised, x, total):
        self.shown.append(denoised.clone())
        self.kept.append(denoised)


def sample(host, model, latent, callback, sampler_name="euler"):
    import comfy.sample

    noise = comfy.sample.prepare_noise(latent, 3)
    return comfy.sample.sample(
        model, noise, 4, 5.0, sampler_name, "normal", host.prompt("a frog"), host.other_prompt(), latent,
        denoise=0.6, seed=3, callback=callback,
    )  # fmt: skip


def custom(host, model, latent):
    """SamplerCustomAdvanced: the samples and what it last kept of the progress."""
    from comfy_extras import nodes_custom_sampler as nodes

    def result(node, *arguments, **inputs):
        if hasattr(node, "execute"):
            return node.execute(*arguments, **inputs).result
        return getattr(node(), node.FUNCTION)(*arguments, **inputs)

    (guider,) = result(
        nodes.CFGGuider, model=model, positive=host.prompt("a frog"), negative=host.other_prompt(), cfg=5.0
    )
    (sampler,) = result(nodes.KSamplerSelect, sampler_name="euler")
    (sigmas,) = result(nodes.BasicScheduler, model=host.model, scheduler="normal", steps=4, denoise=0.6)
    (noise,) = result(nodes.RandomNoise, noise_seed=3)
    return [
        output["samples"]
        for output in result(
            nodes.SamplerCustomAdvanced, noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
            latent_image={"samples": latent},
        )
    ]  # fmt: skip


def test_every_step_shows_the_outline_of_the_mask_and_leaves_the_rest(host, latent, mask, outline):
    progress = Progress()
    sample(host, guided(host, latent, mask=mask), latent, progress)
    assert len(progress.shown) == 4
    for shown, kept in zip(progress.shown, progress.kept, strict=True):
        assert torch.equal((shown != kept).any(1), outline)


def test_the_outline_is_white_and_black_in_the_host_s_preview(host, latent, mask, outline):
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args

    before, args.preview_method = args.preview_method, LatentPreviewMethod.Latent2RGB
    try:
        previewer = latent_preview.get_previewer(host.model.load_device, host.model.model.latent_format)
    finally:
        args.preview_method = before
    progress = Progress()
    sample(host, guided(host, latent, mask=mask), latent, progress)
    picture = torch.tensor(np.asarray(previewer.decode_latent_to_preview(progress.shown[-1])))
    line = picture[outline[0]]
    is_white, is_black = (line >= 253).all(1), (line <= 2).all(1)
    assert (is_white | is_black).all()
    assert 0.3 < is_white.float().mean() < 0.7


def test_the_outline_follows_the_mask_that_is_found(host, latent):
    progress = Progress()
    # named, so that no mask is found after the sampling
    samples = sample(host, guided(host, latent, settings=host.settings(words="frog")), latent, progress)
    drawn = (progress.shown[-1] != progress.kept[-1]).any(1)
    found = (samples != latent).any(1)
    assert drawn.any()
    assert not (drawn & ~found).any()
    assert len({shown.numpy().tobytes() for shown in progress.shown}) == 4


def test_each_picture_of_a_batch_has_its_own_outline(host, make_latent):
    latent, progress = make_latent(2, 16, 16), Progress()
    sample(host, guided(host, latent), latent, progress)
    first, second = (progress.shown[-1] != progress.kept[-1]).any(1)
    assert first.any()
    assert second.any()
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "sampler_name",
    ["euler", *(pytest.param(name, marks=pytest.mark.one_host) for name in ("heun", "dpmpp_sde", "uni_pc"))],
)
def test_samples_are_the_same_with_and_without_previews(host, latent, sampler_name):
    model = guided(host, latent)
    results = []
    for callback in (None, Progress(), lambda *_: None):
        torch.manual_seed(0)
        results.append(sample(host, model, latent, callback, sampler_name))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_what_other_nodes_keep_of_the_progress_is_what_was_denoised(host, latent):
    model = guided(host, latent)
    samples, denoised = custom(host, model, latent)
    same, expected = custom(host, unshown(model), latent)
    assert torch.equal(samples, same)
    assert torch.equal(denoised, expected)
    progress = Progress()
    sample(host, model, latent, progress)
    plain = Progress()
    sample(host, unshown(model), latent, plain)
    assert all(torch.equal(kept, true) for kept, true in zip(progress.kept, plain.kept, strict=True))


def test_without_a_mask_the_preview_is_the_host_s(host, latent):
    attention = host.hooks.InstantMaskWrapper(None)
    progress, plain = Progress(), Progress()
    sample(host, host.hooks.wrap_model(host.model, attention), latent, progress)
    sample(host, host.model, latent, plain)
    assert all(torch.equal(shown, other) for shown, other in zip(progress.shown, plain.shown, strict=True))


def test_latents_that_the_host_cannot_show_are_left_alone(host, latent, mask):
    progress = Progress()
    sample(host, unshown(guided(host, latent, mask=mask)), latent, progress)
    assert all(torch.equal(shown, kept) for shown, kept in zip(progress.shown, progress.kept, strict=True))


def test_a_callback_that_stops_the_run_stops_it(host, latent):
    from comfy.model_management import InterruptProcessingException

    def stop(*_):
        raise InterruptProcessingException

    model = guided(host, latent)
    with pytest.raises(InterruptProcessingException):
        sample(host, model, latent, stop)
    assert sample(host, model, latent, None).isfinite().all()
