"""Pictures of any size: a crop at the model's own size goes out, and only the edit comes back."""

import json
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from tests.bench.photos import make_pair


@pytest.fixture
def photo():
    """A picture that is larger than what the mini model works on, with transparency."""
    generator = torch.Generator().manual_seed(2)
    small = torch.rand(1, 4, 60, 90, generator=generator)
    return interpolate(small, (601, 907), mode="bilinear").movedim(1, -1).contiguous()


def mask_of(*boxes, size=(601, 907)):
    mask = torch.zeros(1, *size)
    for top, left, height, width in boxes:
        mask[0, top : top + height, left : left + width] = 1
    return mask


ONE = (200, 300, 80, 60)


def test_the_crop_has_the_size_that_the_model_was_made_for(host, photo):
    crop, mask, _ = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(ONE), model=host.model)
    assert crop.shape == (1, 256, 256, 4)
    assert mask.shape == (1, 256, 256)
    assert mask.mean() == pytest.approx(80 * 60 / 160**2, rel=0.02)
    crop, _, _ = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(ONE), megapixels=0.1, multiple_of=8)
    assert crop.shape == (1, 320, 320, 4)


def test_the_size_is_known_of_every_kind_of_model(host, layout_model, unreadable_model):
    photo, mask = torch.zeros(1, 1200, 1200, 3), torch.zeros(1, 1200, 1200)
    mask[:, 400:800, 400:800] = 1
    sizes = {layout_model("sd1", context=768): 512, layout_model("sdxl", context=1280): 1024, unreadable_model: 1024}
    for model, side in sizes.items():  # SDXL's refiner is the one with prompts of 1280
        assert host.run("InstDiffCropToEdit", image=photo, mask=mask, model=model)[0].shape == (1, side, side, 3)


def test_what_is_put_back_changes_the_painted_area_alone_and_at_full_size(host, photo):
    before = photo.clone()
    crop, _, area = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(ONE), model=host.model)
    result, painted = host.run("InstDiffPutBack", image=photo, area=area, edited=torch.zeros_like(crop[..., :3]))
    assert torch.equal(photo, before)
    assert result.shape == photo.shape
    changed = (result != photo).any(-1)
    assert torch.equal(changed & (painted == 0), torch.zeros_like(changed))
    assert (result[..., :3][mask_of(ONE).bool()] < 0.01).all()
    assert torch.equal(result[..., 3], photo[..., 3])
    assert 80 * 60 < painted.sum() < 110 * 90


def test_a_tint_of_the_whole_crop_is_taken_off_at_the_edge_of_what_is_put_back(host, photo):
    crop, _, area = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(ONE), model=host.model)
    edited = interpolate((crop[..., :3] + 0.2).movedim(-1, 1), (320, 320), mode="bilinear").movedim(1, -1)
    inputs = {"image": photo, "area": area, "edited": edited}
    plain, matched = (host.run("InstDiffPutBack", **inputs, match_colour=match) for match in (False, True))
    errors = [(result - photo).abs()[painted > 0].mean() for result, painted in (plain, matched)]
    assert errors[1] < 0.8 * errors[0]
    assert torch.equal(plain[1], matched[1])
    assert torch.equal(matched[0][matched[1] == 0], photo[matched[1] == 0])


def test_what_is_put_back_gets_the_grain_of_the_photo_at_the_photos_own_size(host, photo):
    photo[..., :3] = 0.5 + 0.03 * torch.randn(601, 907, 1, generator=torch.Generator().manual_seed(4))
    crop, _, area = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(ONE), model=host.model)
    inputs = {"image": photo, "area": area, "edited": torch.full_like(crop[..., :3], 0.5)}
    (plain, painted), (grainy, same) = (host.run("InstDiffPutBack", **inputs, grain=grain) for grain in (False, True))
    inside = mask_of(ONE) > 0
    assert plain[..., :3].mean(-1)[inside].std() < 0.001
    assert grainy[..., :3].mean(-1)[inside].std() == pytest.approx(0.03, rel=0.2)
    assert torch.equal(painted, same)
    assert torch.equal(grainy[painted == 0], photo[painted == 0])
    assert torch.equal(grainy[..., 3], photo[..., 3])


def test_a_mask_found_in_the_crop_says_what_is_put_back(host, photo):
    crop, _, area = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(ONE), model=host.model)
    found = torch.zeros(1, 32, 32)
    found[:, :16] = 1
    result, painted = host.run(
        "InstDiffPutBack", image=photo, area=area, edited=1 - crop, mask=found, grow=0, feather=0
    )
    assert torch.equal((result != photo).any(-1) & (painted == 0), torch.zeros(1, 601, 907, dtype=torch.bool))
    assert painted.sum() == pytest.approx(160 * 80, rel=0.03)
    assert not painted[0, 245:].any()


def test_an_edit_of_a_large_photo_keeps_the_photo_outside_the_edit(host, photo):
    scene, truth = host.run("InstDiffMiniScene", object="cat", background="grass", seed=5)
    photo[:, 200:456, 300:556, :3] = scene
    mask = torch.zeros(1, 601, 907)
    mask[:, 200:456, 300:556] = truth
    crop, _, area = host.run("InstDiffCropToEdit", image=photo, mask=mask, model=host.model, context=1.2)
    latent = host.vae.encode(crop[..., :3])
    samples, found, _ = host.edit(latent, steps=2)
    edited = host.vae.decode(samples)
    result, painted = host.run("InstDiffPutBack", image=photo, area=area, edited=edited, mask=found)
    changed = (result != photo).any(-1)
    assert changed.any()
    assert not (changed & (painted == 0)).any()


def test_separate_parts_are_a_batch_and_all_come_back(host, photo):
    boxes = (40, 40, 60, 50), (400, 700, 80, 90)
    crops, masks, area = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(*boxes), separate=True)
    assert len(crops) == len(masks) == 2
    result, _ = host.run("InstDiffPutBack", image=photo, area=area, edited=torch.zeros_like(crops))
    assert len(result) == 1
    assert (result[..., :3][mask_of(*boxes).bool()] < 0.01).all()


def test_a_batch_of_pictures_and_of_edits_comes_back_as_one(host, photo):
    photos = torch.cat([photo, 1 - photo])
    masks = torch.cat([mask_of(ONE), mask_of((10, 10, 90, 90))])
    crops, _, area = host.run("InstDiffCropToEdit", image=photos, mask=masks)
    edits = torch.cat([torch.zeros_like(crops), torch.ones_like(crops)])
    result, painted = host.run("InstDiffPutBack", image=photos, area=area, edited=edits)
    assert len(result) == len(painted) == 4
    for number, value in enumerate((0, 0, 1, 1)):
        assert ((result[number][..., :3][masks[number % 2].bool()] - value).abs() < 0.01).all()


def test_one_picture_with_several_masks_gives_a_picture_for_each(host, photo):
    masks = torch.cat([mask_of(ONE), mask_of((10, 10, 90, 90))])
    crops, _, area = host.run("InstDiffCropToEdit", image=photo, mask=masks)
    result, _ = host.run("InstDiffPutBack", image=photo, area=area, edited=torch.zeros_like(crops))
    assert len(result) == 2


def test_an_empty_mask_gives_the_picture_back(host, photo):
    crop, _, area = host.run("InstDiffCropToEdit", image=photo, mask=mask_of())
    result, painted = host.run("InstDiffPutBack", image=photo, area=area, edited=1 - crop)
    assert torch.equal(result, photo)
    assert not painted.any()


def test_the_same_crop_comes_out_of_another_picture(host, photo):
    _, _, area = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(ONE))
    hint = torch.zeros(1, 601, 907, 3)
    hint[mask_of(ONE).bool()] = 1
    crop, mask, again = host.run("InstDiffCropToEdit", image=hint, area=area)
    assert again is area
    assert (crop[..., 0] - mask).abs().mean() < 0.02


@pytest.mark.parametrize("node", ["InstDiffCropToEdit", "InstDiffPutBack"])
def test_a_picture_of_another_size_is_refused_with_both_sizes(host, photo, node):
    crop, _, area = host.run("InstDiffCropToEdit", image=photo, mask=mask_of(ONE))
    inputs = {"area": area} | ({"edited": crop} if node == "InstDiffPutBack" else {})
    with pytest.raises(ValueError, match="the image is 900 x 601, and the area is of one of 907 x 601"):
        host.run(node, image=photo[:, :, :900], **inputs)


def test_crops_of_another_area_and_no_mask_are_refused(host, photo):
    with pytest.raises(ValueError, match="nothing says what to cut: connect mask"):
        host.run("InstDiffCropToEdit", image=photo)
    masks = torch.cat([mask_of(ONE), mask_of((10, 10, 90, 90))])
    crops, _, area = host.run("InstDiffCropToEdit", image=photo, mask=masks)
    with pytest.raises(ValueError, match="there are 2 crops and 1 edited ones"):
        host.run("InstDiffPutBack", image=photo, area=area, edited=crops[:1])


def test_a_thing_is_found_in_a_photo_and_its_mask_has_the_photos_size(host, photo):
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(1, 3, 8, 12, generator=generator) * 0.1
    flat = interpolate(noise + 0.4, (601, 907), mode="bilinear").movedim(1, -1)
    scene, truth = host.run("InstDiffMiniScene", object="cat", background="grass", seed=5)
    where = torch.zeros(1, 601, 907)
    where[:, 200:456, 300:556] = truth
    large = flat.clone()
    large[where > 0] = scene[truth > 0]
    prompts = {"positive": host.prompt("a frog"), "negative": host.other_prompt()}
    shared = host.settings(share=True)
    find = {"model": host.model, "vae": host.vae, "image": large, "steps": 4, "settings": shared}
    (mask,) = host.run("InstDiffFindInPhoto", **find, **prompts)
    assert mask.shape == (601, 907)
    assert host.iou(mask[None], where > 0.5) > 0.5


@pytest.mark.one_host
@pytest.mark.parametrize("hint", ["mask", "box", "boxes", "mask of another size"])
def test_a_small_thing_is_found_where_a_hint_says_that_it_is(host, hint):
    photo = host.run("InstDiffMiniScene", object="cat", background="grass", seed=5)[0]
    photo = interpolate(photo.movedim(-1, 1), (900, 900), mode="bicubic").clamp(0, 1).movedim(1, -1).contiguous()
    cat, truth = host.run("InstDiffMiniScene", object="ball", background="grass", seed=7)
    small, place = (interpolate(each, (80, 80), mode="area")[0] for each in (cat.movedim(-1, 1), truth[:, None]))
    inside = place[0] > 0.5
    photo[0, 40:120, 30:110][inside] = small.movedim(0, -1)[inside]
    mask = torch.zeros(1, 900, 900, dtype=torch.bool)
    mask[0, 40:120, 30:110] = inside
    box = {"x": 35, "y": 44, "width": 70, "height": 70, "metadata": {"text": "a ball"}}
    hints: dict[str, Any] = {
        "mask": {"hint": mask.float()},
        "mask of another size": {"hint": interpolate(mask[:, None].float(), (450, 300))[:, 0]},
        "box": {"box": box},
        "boxes": {"box": [[box]]},
    }
    inputs = host.sampling(torch.zeros(0), positive=host.prompt("a flower on the grass"), steps=6, denoise=0.5)
    del inputs["latent_image"]
    found = host.run("InstDiffFindInPhoto", **inputs, vae=host.vae, image=photo, **hints[hint])
    assert found.shape == (1, 900, 900)
    assert not found[:, 200:].any()
    assert host.iou(found, mask) > 0.4


BOX = {"x": 1, "y": 2, "width": 3}


@pytest.mark.parametrize(
    "box", ["here", {"x": 1}, [], *({**BOX, "height": height} for height in (float("nan"), 1e300, 10**400))]
)
def test_a_box_that_is_none_is_refused(host, photo, box):
    inputs = host.sampling(torch.zeros(0))
    del inputs["latent_image"]
    with pytest.raises(ValueError, match="box holds no box with x, y, width and height"):
        host.run("InstDiffFindInPhoto", **inputs, vae=host.vae, image=photo[..., :3], box=box)


@pytest.fixture(scope="module")
def two_things():
    """A photo with a bird and a tree, and the masks of both."""
    picture, truths = make_pair()
    masks = {word: torch.from_numpy(truth)[None] for word, truth in truths.items()}
    return torch.from_numpy(picture)[None].float() / 255, masks


@pytest.mark.one_host
@pytest.mark.parametrize(("name", "way"), [("tree", "there"), ("tree", "points"), ("bird", "points")])
def test_a_word_or_a_point_says_which_of_two_things_is_meant(host, two_things, name, way):
    photo, masks = two_things
    rows, columns = masks[name][0].nonzero(as_tuple=True)
    point = {"x": float(columns.float().mean()), "y": float(rows.float().mean())}
    says = {"there": {"there": host.prompt(f"a {name}")}, "points": {"points": json.dumps([point])}}
    inputs = host.sampling(torch.zeros(0), positive=host.prompt("a dog"), steps=3, denoise=0.5)
    del inputs["latent_image"]
    found = host.run("InstDiffFindInPhoto", **inputs, vae=host.vae, image=photo, **says[way])
    assert host.iou(found, masks[name]) > 0.4


@pytest.mark.parametrize(
    "points",
    [
        "here", "3", '{"x": 1, "y": 2}', '[{"x": 1}]', "[[1, 2]]",
        *(f'[{{"x": 1, "y": {y}}}]' for y in ("NaN", "1e300", 10**400)),
    ],
)  # fmt: skip
def test_points_that_are_none_are_refused_with_an_example(host, photo, points):
    inputs = host.sampling(torch.zeros(0))
    del inputs["latent_image"]
    with pytest.raises(ValueError, match="points must be JSON such as"):
        host.run("InstDiffFindInPhoto", **inputs, vae=host.vae, image=photo[..., :3], points=points)


def test_what_is_there_without_its_words_is_refused_with_the_node_that_has_them(host, photo):
    inputs = host.sampling(torch.zeros(0))
    del inputs["latent_image"]
    with pytest.raises(ValueError, match="connect a single Encode Edit Prompt"):
        host.run("InstDiffFindInPhoto", **inputs, vae=host.vae, image=photo[..., :3], there=host.other_prompt())
