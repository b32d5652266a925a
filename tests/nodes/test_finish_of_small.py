"""Inpaint Finish in passes, and of what is small, which it paints in a crop."""

from __future__ import annotations

import pytest
import torch

SIZE = 144
GROW = 8
BARELY = {"denoise": 0.01, "cfg": 1.0, "steps": 1}
"""As near to what it starts from as it can."""


@pytest.fixture
def finish(host):
    """``finish(image, mask, **changes)``: the finished picture and the painted area, bool."""

    def run(image, mask, **changes):
        inputs = host.sampling(None) | {"vae": host.vae, "image": image, "mask": mask, "grow": GROW, "steps": 2}
        del inputs["latent_image"]
        result, area = host.run("InstDiffInpaintFinish", **inputs | changes)
        return result, area > 0

    return run


@pytest.fixture
def in_crops(host):
    """``in_crops(model=...)``: a clone, and a list in which it notes the size of every latent that it is given."""

    def build(model=None):
        sizes = []

        def note(apply, inputs):
            sizes.append(tuple(inputs["input"].shape[-2:]))
            return apply(inputs["input"], inputs["timestep"], **inputs["c"])

        clone = (model or host.model).clone()
        clone.set_model_unet_function_wrapper(note)
        return clone, sizes

    return build


def small(height=SIZE, width=SIZE):
    mask = torch.zeros(1, height, width)
    mask[:, 30:50, 60:84] = 1
    return mask


def large():
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 16:128, 16:128] = 1
    return mask


def check(image, mask, result, area):
    """Bit for bit outside the painted area; painted inside the mask, and in nothing but its colours."""
    assert result.shape == image.shape
    assert torch.equal(result[~area], image[~area])
    assert torch.equal(result[..., 3:], image[..., 3:])
    assert (result[..., :3] != image[..., :3]).any(-1)[mask > 0].float().mean() > 0.9


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [
        (SIZE, SIZE, 3),
        *(pytest.param(*shape, marks=pytest.mark.one_host) for shape in [(SIZE, SIZE, 4), (134, 157, 3)]),
    ],
)
def test_what_is_small_is_painted_at_the_models_size_and_nothing_else(
    finish, in_crops, make_picture, height, width, channels
):
    image, mask = make_picture(1, height, width, channels), small(height, width)
    model, sizes = in_crops()
    check(image, mask, *finish(image, mask, model=model))
    assert sizes == [(32, 32)] * 2


def test_what_is_large_is_painted_in_the_whole_picture(finish, in_crops, make_picture):
    image, mask = make_picture(1, SIZE, SIZE), large()
    model, sizes = in_crops()
    check(image, mask, *finish(image, mask, model=model))
    assert sizes == [(SIZE // 8, SIZE // 8)] * 2


def test_in_one_pass_and_in_the_whole_picture_it_is_what_k_sampler_paints(host, finish, make_picture):
    image, mask = make_picture(1, SIZE, SIZE), small()
    edit = {"samples": host.vae.encode(make_picture(1, SIZE, SIZE).flip(1))}
    result, area = finish(image, mask, samples=edit, feather=0, passes=1, enlarge=False)
    latent = host.nodes.SetLatentNoiseMask().set_mask(edit, area.float())[0]
    sampled = host.nodes.KSampler().sample(**host.sampling(None) | {"latent_image": latent, "steps": 2})[0]
    decoded = host.nodes.VAEDecode().decode(host.vae, sampled)[0]
    torch.testing.assert_close(result[area], decoded[area], atol=1e-5, rtol=0)


@pytest.mark.one_host
@pytest.mark.parametrize(("steps", "one_pass"), [(1, True), (4, True), (9, False)])
def test_all_passes_together_take_the_steps_that_were_asked_for(finish, in_crops, make_picture, steps, one_pass):
    image, mask = make_picture(1, SIZE, SIZE), large()
    results = []
    for passes in (1, 4):
        model, sizes = in_crops()
        results.append(finish(image, mask, model=model, steps=steps, passes=passes)[0])
        assert len(sizes) == steps
    assert torch.equal(*results) == one_pass


def test_a_guided_model_paints_in_the_whole_picture(host, finish, in_crops, make_picture):
    image, mask = make_picture(1, SIZE, SIZE), small()
    latent = {"samples": host.vae.encode(image)}
    guided, *_ = host.run("InstDiffMaskGuidance", model=host.model, latent=latent)
    model, sizes = in_crops(guided)
    result, area = finish(image, mask, model=model)
    assert torch.equal(result[~area], image[~area])
    assert set(sizes) == {(SIZE // 8, SIZE // 8)}


def test_passes_and_crops_share_one_progress_bar(finish, progress, make_picture):
    image = make_picture(1, SIZE, SIZE).expand(2, -1, -1, -1)
    shown = []
    progress(lambda value, total, *_, **__: shown.append((value, total)))
    finish(image, torch.cat([small(), large()]), steps=8, passes=2)
    # the host may leave out some that come too soon one after the other
    assert shown == sorted(set(shown))
    assert {total for _, total in shown} == {16}
    assert shown[0] == (1, 16)
    assert shown[-1] == (16, 16)


@pytest.mark.one_host
def test_the_last_seed_is_as_good_as_any(finish, make_picture):
    image, mask = make_picture(1, SIZE, SIZE), large()
    first, again = (finish(image, mask, seed=2**64 - 1, steps=8) for _ in range(2))
    check(image, mask, *first)
    assert torch.equal(first[0], again[0])


@pytest.mark.one_host
def test_of_a_batch_the_small_is_painted_as_alone_and_the_large_as_in_whole_pictures(host, finish, make_picture):
    image, mask = make_picture(2, SIZE, SIZE), torch.cat([small(), large()])
    edit = {"samples": host.vae.encode(image.flip(1))}
    result, area = finish(image, mask, samples=edit)
    check(image, mask, result, area)
    alone, _ = finish(image[:1], mask[:1], samples={"samples": edit["samples"][:1]})
    whole, _ = finish(image, mask, samples=edit, enlarge=False)
    # to what rounding does in batches of another size
    torch.testing.assert_close(result[0], alone[0], atol=0.01, rtol=0)
    torch.testing.assert_close(result[1], whole[1], atol=0.01, rtol=0)
    assert (result[0] - whole[0]).abs().max() > 0.1


@pytest.mark.one_host
def test_a_picture_of_a_batch_whose_mask_is_empty_stays_as_it_is(finish, make_picture):
    image, mask = make_picture(2, SIZE, SIZE), torch.cat([small(), torch.zeros(1, SIZE, SIZE)])
    result, area = finish(image, mask)
    assert not area[1].any()
    check(image, mask, result, area)


def test_it_goes_on_from_what_masked_sampler_made(host, finish):
    image, _ = host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)
    samples = host.run("InstDiffMaskedSampler", **host.sampling(host.vae.encode(image), steps=2))[0]
    mask = torch.zeros(1, 256, 256)
    mask[:, 100:150, 90:130] = 1
    result, area = finish(image, mask, samples=samples)
    check(image, mask, result, area)
    assert not torch.equal(result, finish(image, mask)[0])


@pytest.mark.one_host
@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (198, 205)])
def test_the_edit_is_in_the_crop_where_it_is_in_the_picture(host, finish, height, width):
    """VAE Encode keeps the middle of a picture of 198 x 205 pixels: from row 3 and column 2 on."""
    image, _ = host.run("InstDiffMiniScene", object="cat", background="grass", seed=1)
    image = image[:, :height, :width]
    mask = torch.zeros(1, height, width)
    mask[:, 60:100, 60:100] = 1
    edit = {"samples": host.vae.encode(image)}
    inside = finish(image, mask, samples=edit, **BARELY)[0][0, 60:100, 60:100]
    at_its_place, shifted = image[0, 60:100, 60:100], image[0, 63:103, 62:102]
    assert (inside - at_its_place).abs().mean() < 0.7 * (inside - shifted).abs().mean()


def test_an_inpainting_model_gets_mask_and_picture_of_the_crop_in_every_pass(finish, make_picture, inpainting_model):
    seen = []

    def look(apply, inputs):
        seen.append(inputs["c"]["c_concat"])
        return apply(inputs["input"], inputs["timestep"], **inputs["c"])

    model = inpainting_model.clone()
    model.set_model_unet_function_wrapper(look)
    image, mask = make_picture(1, SIZE, SIZE), small()
    check(image, mask, *finish(image, mask, model=model, steps=8))
    assert [extra.shape[1:] for extra in seen] == [(5, 32, 32)] * 8
    assert torch.equal(seen[0], seen[-1])
    assert 0 < seen[0][0, 0].mean() < 1


@pytest.mark.parametrize("name", ["a ControlNet", "a mask", "an area"])
def test_a_prompt_that_holds_places_of_the_picture_is_painted_in_the_whole_picture(
    host, finish, in_crops, make_picture, control_net, name
):
    image, mask = make_picture(1, SIZE, SIZE), small()
    prompt, negative = host.prompt("a frog"), host.other_prompt()
    if name == "a ControlNet":
        apply = host.nodes.ControlNetApplyAdvanced().apply_controlnet
        prompt, negative = apply(prompt, negative, control_net, image, 0.8, 0.0, 1.0)[:2]
    elif name == "a mask":
        prompt = host.extra("ConditioningSetMask", prompt, large(), "default", 1.0)
    else:
        prompt = host.extra("ConditioningSetArea", prompt, 128, 128, 0, 0, 1.0)
    model, sizes = in_crops()
    result, area = finish(image, mask, model=model, positive=prompt, negative=negative)
    check(image, mask, result, area)
    assert (32, 32) not in sizes
    assert torch.equal(result, finish(image, mask, positive=prompt, negative=negative, enlarge=False)[0])


@pytest.mark.one_host
def test_several_small_edits_are_painted_with_their_prompts_and_nothing_else(host, finish, make_picture):
    image, masks = make_picture(1, SIZE, SIZE), torch.zeros(2, SIZE, SIZE)
    masks[0, 30:50, 30:50] = masks[1, 30:50, 62:82] = 1
    prompts = host.extra("ConditioningCombine", host.prompt("a frog"), host.prompt("a red car"))
    result, area = finish(image, masks, positive=prompts)
    check(image, masks.amax(0, keepdim=True), result, area)
    alone, _ = finish(image, masks[:1], positive=host.prompt("a frog"))
    assert torch.equal(result[:, 30:50, 30:50], alone[:, 30:50, 30:50])


def test_the_noise_mask_of_the_samples_bounds_what_is_painted_in_a_crop(host, finish, make_picture):
    image, mask = make_picture(1, SIZE, SIZE), small()
    left = torch.zeros(1, SIZE, SIZE)
    left[..., :72] = 1
    edit = host.nodes.SetLatentNoiseMask().set_mask({"samples": host.vae.encode(image)}, left)[0]
    result, area = finish(image, mask, samples=edit)
    assert not area[..., 72:].any()
    check(image, mask * left, result, area)
