"""Inpaint Finish: paints the grown mask, and nothing else."""

import pytest
import torch
from torch.nn.functional import max_pool2d

GROW = 8
BARELY = {"denoise": 0.01, "cfg": 1.0, "steps": 1, "feather": 0}
"""As near to what it starts from as it can."""


def spot(batch, height, width):
    mask = torch.zeros(batch, height, width)
    mask[:, height // 4 : height // 2, width // 3 : width // 2] = 1
    return mask


def grown(mask):
    return max_pool2d(mask, 2 * GROW + 1, 1, GROW) > 0


@pytest.fixture
def finish(both):
    """``finish(image, mask, **changes)``: the finished picture."""
    return lambda *given, **changes: both(*given, **changes)[0]


@pytest.fixture
def both(host):
    """``both(image, mask, **changes)``: the finished picture and the painted area."""

    def run(image, mask, **changes):
        inputs = host.sampling(None) | {"vae": host.vae, "image": image, "mask": mask, "grow": GROW} | changes
        del inputs["latent_image"]
        return host.run("InstDiffInpaintFinish", **inputs)

    return run


def check(image, mask, result):
    """Bit for bit outside the grown mask; painted in the middle of the mask."""
    area = grown(mask)
    assert result.shape == image.shape
    assert torch.equal(result[~area], image[~area])
    colours = result[..., :3] != image[..., :3]
    assert colours[mask > 0].float().mean() > 0.9


@pytest.mark.parametrize("size", [(96, 64), (70, 93), (128, 72)])
@pytest.mark.parametrize("feather", [pytest.param(0, marks=pytest.mark.one_host), 8])
def test_outside_the_grown_mask_the_picture_is_the_input_bit_for_bit(finish, make_picture, size, feather):
    image, mask = make_picture(1, *size), spot(1, *size)
    check(image, mask, finish(image, mask, feather=feather))


def test_a_batch_is_finished_picture_by_picture(finish, make_picture):
    image, mask = make_picture(2, 64, 96), spot(2, 64, 96)
    mask[1] = mask[1].flip(-1)
    check(image, mask, finish(image, mask))


def test_an_alpha_channel_is_kept(finish, make_picture):
    image, mask = make_picture(1, 64, 64, 4), spot(1, 64, 64)
    result = finish(image, mask)
    check(image, mask, result)
    assert torch.equal(result[..., 3], image[..., 3])


def test_an_empty_mask_returns_the_input(finish, make_picture):
    image = make_picture(1, 70, 93)
    assert torch.equal(finish(image, torch.zeros(1, 70, 93)), image)


def test_a_mask_of_another_size_is_brought_to_the_pictures(finish, make_picture):
    image, mask = make_picture(1, 96, 128), torch.zeros(1, 48, 64)
    mask[:, 12:24, 20:32] = 1
    check(image, mask.repeat_interleave(2, 1).repeat_interleave(2, 2), finish(image, mask))


@pytest.mark.parametrize("size", [pytest.param((64, 64), marks=pytest.mark.one_host), (70, 93)])
def test_it_starts_from_the_edit_when_given_one(host, finish, make_picture, size):
    image, mask = make_picture(1, *size), spot(1, *size)
    edit = {"samples": host.vae.encode(image) * 0.5}
    result = finish(image, mask, samples=edit)
    check(image, mask, result)
    assert not torch.equal(result, finish(image, mask))


def test_the_edit_of_a_picture_that_the_vae_cut_goes_where_it_was_cut_from(host, finish, make_picture):
    """VAE Encode keeps the middle of a picture of 198 x 205 pixels: from row 3 and column 2 on."""
    image, mask = make_picture(1, 198, 205), torch.zeros(1, 198, 205)
    mask[:, 70:130, 70:130] = 1
    edit = {"samples": host.vae.encode(make_picture(1, 192, 200))}
    inside = finish(image, mask, samples=edit, **BARELY)[0, 70:130, 70:130]
    decoded = host.vae.decode(edit["samples"])[0]
    at_its_place, shifted = decoded[67:127, 68:128], decoded[70:130, 70:130]
    assert (inside - at_its_place).abs().mean() < 0.3 * (inside - shifted).abs().mean()


def test_an_inpainting_model_gets_the_mask_and_the_picture_without_the_masked_area(
    host, finish, make_picture, inpainting_model
):
    seen = []

    def look(apply, inputs):
        seen.append(inputs["c"]["c_concat"])
        return apply(inputs["input"], inputs["timestep"], **inputs["c"])

    model = inpainting_model.clone()
    model.set_model_unet_function_wrapper(look)
    image, mask = make_picture(1, 64, 96), spot(1, 64, 96)
    result = finish(image, mask, model=model)
    check(image, mask, result)
    area = grown(mask)
    inside = max_pool2d(area.float(), 8) > 0
    assert seen
    assert seen[0].shape[1:] == (5, 8, 12)
    assert torch.equal(seen[0][0, 0] > 0, inside[0])
    other = image.clone()
    other[mask > 0] = 1 - other[mask > 0]
    seen.clear()
    finish(other, mask, model=model)
    first = seen[0].clone()
    seen.clear()
    finish(image, mask, model=model)
    assert torch.equal(first, seen[0]), "the masked area itself must not show"


def test_a_model_that_passed_through_is_as_it_was(host, finish, latent, make_picture):
    before = host.k_sampler(latent)
    finish(make_picture(1, 64, 64), spot(1, 64, 64))
    assert torch.equal(host.k_sampler(latent), before)


def shape(kind):
    """Masks ``[1, 128, 128]``: a stroke of 8 pixels, a spot of 24, and one of specks and holes."""
    mask = torch.zeros(1, 128, 128)
    if kind == "thin":
        mask[:, 60:68, 20:100] = 1
    elif kind == "small":
        mask[:, 52:76, 52:76] = 1
    else:
        ragged = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(7)) > 0.5
        mask[:, 32:96, 32:96] = ragged.float()
    return mask


@pytest.mark.one_host
@pytest.mark.parametrize("kind", ["thin", "small", "ragged"])
@pytest.mark.parametrize("grow", [0, 8])
def test_the_edit_is_opaque_inside_the_mask_whatever_the_feather(finish, make_picture, kind, grow):
    image, mask = make_picture(1, 128, 128), shape(kind)
    inside = mask > 0
    hard, *soft = (finish(image, mask, grow=grow, feather=feather) for feather in (0, 8, 64))
    assert (hard != image).any(-1)[inside].float().mean() > 0.9
    for each in soft:
        assert torch.equal(each[inside], hard[inside])


@pytest.mark.one_host
def test_the_painted_area_is_the_grown_mask_and_nothing_else_changes(both, make_picture):
    image, mask = make_picture(1, 96, 64), spot(1, 96, 64)
    result, area = both(image, mask)
    assert torch.equal(area, grown(mask).float())
    changed = (result != image).any(-1)
    assert not changed[area == 0].any()
    assert changed[area == 1].float().mean() > 0.9
    assert (changed & (mask == 0)).any()
    assert not both(image, torch.zeros_like(mask))[1].any()


@pytest.mark.one_host
@pytest.mark.parametrize(("images", "masks", "samples"), [(1, 3, 3), (3, 1, 1), (1, 1, 3), (2, 3, 1), (1, 3, None)])
def test_as_many_pictures_come_out_as_the_most_that_went_in(host, both, make_picture, images, masks, samples):
    image, mask = make_picture(images, 64, 96), torch.zeros(masks, 64, 96)
    for number in range(masks):
        mask[number, 16:32, 8 + 24 * number : 24 + 24 * number] = 1
    edit = None if samples is None else {"samples": torch.randn(samples, 4, 8, 12) * 4}
    result, area = both(image, mask, samples=edit)
    assert len(result) == len(area) == 3
    image, mask = (each[[number % len(each) for number in range(3)]] for each in (image, mask))
    check(image, mask, result)
    assert torch.equal(area, grown(mask).float())


@pytest.mark.one_host
def test_every_variant_is_finished_from_its_own_edit(host, finish, make_picture):
    image, mask = make_picture(1, 64, 96), spot(1, 64, 96)
    edits = torch.randn(3, 4, 8, 12) * 4
    variants = finish(image, mask, samples={"samples": edits}, **BARELY)
    alone = [finish(image, mask, samples={"samples": each[None]}, **BARELY) for each in edits]
    for variant, own, other in zip(variants, alone, [*alone[1:], alone[0]], strict=True):
        assert (variant - own[0]).abs().mean() < 0.2 * (variant - other[0]).abs().mean()


def test_an_empty_mask_gives_every_variant_the_picture(finish, make_picture):
    image = make_picture(1, 64, 96)
    result = finish(image, torch.zeros(1, 64, 96), samples={"samples": torch.zeros(3, 4, 8, 12)})
    assert torch.equal(result, image.expand(3, -1, -1, -1))


@pytest.mark.one_host
def test_a_soft_mask_is_cut_at_one_half(both, make_picture):
    image, mask = make_picture(1, 64, 96), torch.zeros(1, 64, 96)
    mask[:, 8:24, 8:24], mask[:, 40:56, 40:56] = 0.5, 0.51
    result, area = both(image, mask, feather=8)
    assert torch.equal(area > 0, grown((mask > 0.5).float()))
    check(image, (mask > 0.5).float(), result)


@pytest.mark.one_host
def test_matched_colours_bring_the_edge_nearer_to_the_picture_and_change_nothing_outside(finish, make_picture):
    image, mask = make_picture(1, 128, 128) * 0.3, torch.zeros(1, 128, 128)
    mask[:, 48:80, 48:80] = 1
    plain, matched = (finish(image, mask, match_colour=match, **BARELY) for match in (False, True))
    rim = grown(mask) & ~(mask > 0)
    errors = [(result - image).abs()[rim].mean() for result in (plain, matched)]
    assert errors[1] < errors[0]
    check(image, mask, matched)


@pytest.mark.one_host
def test_grain_makes_a_finish_that_is_smoother_than_its_photo_as_grainy(finish):
    image, mask = torch.full((1, 128, 128, 3), 0.5), torch.zeros(1, 128, 128)
    image += 0.03 * torch.randn(1, 128, 128, 1, generator=torch.Generator().manual_seed(3))
    mask[:, 40:88, 40:88] = 1
    plain, grainy = (finish(image, mask, grain=grain, **BARELY) for grain in (False, True))
    # from pixel to pixel, so that the edit's own colours do not count
    before, without, after = (
        picture.mean(-1).diff(dim=2)[mask[:, :, 1:] > 0].std() for picture in (image, plain, grainy)
    )
    assert without < 0.7 * before
    assert after == pytest.approx(float(before), rel=0.2)
    check(image, mask, grainy)
