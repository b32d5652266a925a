"""What an edit of a diffusers model promises, on the embedded model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from instdiff_core.options import FINISH, PRESETS, FinishOptions, MaskSettings, SamplingOptions
from instdiff_core.pipeline import EditModel, edit, finish, load_model
from instdiff_core.refine import refine_record
from tests.core.edited import FEW, grown


def small_unet(**changes: Any) -> UNet2DConditionModel:
    config = {
        "block_out_channels": (32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 192,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**{**config, **changes})


@pytest.mark.parametrize("size", [(128, 128), (75, 101), (130, 67)])
def test_outside_the_grown_mask_the_picture_stays_bit_for_bit(model: EditModel, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    result = edit(model, noise, "a dog", settings=MaskSettings(threshold=0.7), **FEW)
    mask = result.mask.binary[0].numpy()
    untouched = ~grown(mask, FINISH.grow)
    assert result.picture.shape == noise.shape
    assert result.picture.dtype == np.uint8
    assert mask.any()
    assert untouched.any()
    assert np.array_equal(result.picture[untouched], noise[untouched])
    assert not np.array_equal(result.picture[mask], noise[mask])


def test_grow_and_feather_bound_what_the_finish_changes(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    mask = np.zeros((128, 128), bool)
    mask[50:70, 60:90] = True
    after = finish(model, picture, mask, latent, "a dog", options=FinishOptions(1, strength=0.5, grow=7, feather=3))
    changed = (after != picture).any(-1)
    assert changed[mask].mean() > 0.9
    assert not changed[~grown(mask, 7)].any()
    assert changed[~grown(mask, 4)].any()


def test_matched_colours_bring_the_edge_of_the_finish_nearer_to_the_picture(
    model: EditModel, picture: np.ndarray
) -> None:
    mask = np.zeros(picture.shape[:2], bool)
    mask[40:88, 40:88] = True
    latent = model.encode([(picture * 0.7).astype(np.uint8)])
    options = FinishOptions(strength=0)
    plain, matched = (
        finish(model, picture, mask, latent, "a dog", options=replace(options, match_colour=match)).astype(int)
        for match in (False, True)
    )
    rim = np.zeros_like(mask)
    rim[32:96, 32:96] = ~mask[32:96, 32:96]
    assert np.abs(matched - picture)[rim].mean() < np.abs(plain - picture)[rim].mean()
    assert np.array_equal(matched[:32], picture[:32])


def test_the_finish_gets_the_grain_of_the_picture(model: EditModel) -> None:
    noise = np.random.default_rng(2).normal(0, 6, (128, 128, 1))
    grainy = np.broadcast_to(128 + noise.round(), (128, 128, 3)).astype(np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[40:88, 40:88] = True
    latent = model.encode([np.full_like(grainy, 128)])
    options = FinishOptions(strength=0)
    plain, after = (
        finish(model, grainy, mask, latent, "a dog", options=replace(options, grain=grain)) for grain in (False, True)
    )
    spreads = [np.diff(picture.mean(-1), axis=1)[mask[:, 1:]].std() for picture in (grainy, plain, after)]
    assert spreads[1] < 0.5 * spreads[0]
    assert spreads[2] == pytest.approx(spreads[0], rel=0.2)
    assert np.array_equal(after[~grown(mask, 8)], grainy[~grown(mask, 8)])


@pytest.mark.parametrize("size", [(9, 200), (33, 47), (1, 1)])
def test_any_picture_size_is_kept(model: EditModel, size: tuple[int, int]) -> None:
    result = edit(model, np.full((*size, 3), 90, np.uint8), "a dog", **FEW)
    assert result.picture.shape == (*size, 3)
    assert result.mask.soft.shape == result.mask.binary.shape == (1, *size)


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(model: EditModel, picture: np.ndarray) -> None:
    first, again, other = (edit(model, picture, "a dog", seed=seed, **FEW).picture for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_attention_processors_are_back_after_an_edit(model: EditModel, picture: np.ndarray) -> None:
    before = model.unet.attn_processors
    edit(model, picture, "a dog", **FEW)
    after = model.unet.attn_processors
    assert all(after[name] is processor for name, processor in before.items())


def test_attention_processors_are_back_after_an_exception(model: EditModel, picture: np.ndarray) -> None:
    before = model.unet.attn_processors
    during: dict[str, Any] = {}

    def stop(done: int, total: int) -> None:
        during.update(model.unet.attn_processors)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit(model, picture, "a dog", progress=stop, **FEW)
    after = model.unet.attn_processors
    assert any(during[name] is not processor for name, processor in before.items())
    assert all(after[name] is processor for name, processor in before.items())


def test_reading_the_attention_changes_no_prediction(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    torch.manual_seed(0)
    inputs = torch.cat([latent, latent]), torch.tensor(500), torch.randn(2, 77, 192)
    predictions: list[torch.Tensor] = []

    def predict(*_: int) -> None:
        with torch.no_grad():
            predictions.append(model.unet(*inputs).sample)

    predict()
    edit(model, picture, "a dog", progress=predict, **FEW)
    assert torch.equal(predictions[0], predictions[1])


def test_draws_share_one_mask(model: EditModel, picture: np.ndarray) -> None:
    result = edit(model, picture, "a dog on the grass", **FEW | {"sampling": SamplingOptions(2, noise_samples=3)})
    pixels = torch.tensor(picture).permute(2, 0, 1)[None] / 255
    shared = refine_record(result.record, replace(PRESETS["default"], share=True), picture=pixels)
    assert result.record.maps.shape[:3] == (2, 3, 2 + 5)
    assert result.mask.soft.shape == (1, 128, 128)
    assert (shared.soft == shared.soft[:1]).all()
    assert torch.allclose(result.mask.soft[0], shared.soft[0], atol=0.05)
    assert len(result.latent) == 1


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_both_kinds_of_prediction_lead_to_what_the_model_predicts(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor, kind: str
) -> None:
    scheduler = DDIMScheduler.from_config(model.scheduler.config, prediction_type=kind)
    goal = latent

    class Oracle:
        """Predicts `goal`, whatever it is given."""

        config, down_blocks = model.unet.config, model.unet.down_blocks
        device, dtype = model.unet.device, model.unet.dtype

        def __call__(self, noisy: torch.Tensor, step: torch.Tensor, **_: Any) -> SimpleNamespace:
            kept = scheduler.alphas_cumprod[step]
            noise = (noisy - kept**0.5 * goal) / (1 - kept) ** 0.5
            velocity = kept**0.5 * noise - (1 - kept) ** 0.5 * goal
            return SimpleNamespace(sample=noise if kind == "epsilon" else velocity)

    oracle = replace(model, unet=Oracle(), scheduler=scheduler, inpainting=None)
    everywhere = np.ones((128, 128), bool)
    expected = finish(oracle, picture, everywhere, goal, "a dog", options=FinishOptions(strength=0))
    found = finish(oracle, picture, everywhere, torch.zeros_like(goal), "a dog", options=FinishOptions(5, strength=1))
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_an_edit_runs_with_both_kinds_of_prediction(model: EditModel, picture: np.ndarray, kind: str) -> None:
    scheduler = DDIMScheduler.from_config(model.scheduler.config, prediction_type=kind)
    assert edit(replace(model, scheduler=scheduler), picture, "a dog", **FEW).latent.isfinite().all()


def test_the_report_says_what_the_mask_rests_on_and_is_json(model: EditModel, picture: np.ndarray) -> None:
    result = edit(model, picture, "a zebra on the grass", **FEW)
    report = json.loads(json.dumps(result.facts))
    words = ["a", "zebra", "on", "the", "grass"]
    assert [entry["word"] for entry in report["words"]] == words
    assert all(entry["weight"] in (-1, 0, 1) for entry in report["words"])
    assert report["index_word"] in words
    assert 0 <= report["mask_area"] <= 1
    assert 0 <= report["confidence"] <= 1
    assert set(report["timings"]) == {"encode", "sample", "finish"}


def test_progress_counts_every_step_of_sampling_and_finish(model: EditModel, picture: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    edit(
        model, picture, "a dog", sampling=SamplingOptions(2), finishing=FinishOptions(3, strength=0.75),
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert seen == [(done, 5) for done in range(1, 6)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "no words"),
        ({"prompt": "..."}, "no words"),
        ({"prompt": "dog " * 76}, "76 tokens, and the model reads 75"),
        ({"settings": MaskSettings(target=("cat",))}, "'cat' is not in the edit prompt"),
        ({"sampling": SamplingOptions(1000)}, "take fewer steps"),
        ({"picture": np.zeros((64, 64), np.uint8)}, "uint8"),
        ({"picture": np.zeros((64, 64, 3), np.float32)}, "uint8"),
        ({"picture": np.zeros((0, 64, 3), np.uint8)}, "uint8"),
    ],
)
def test_what_cannot_be_edited_is_refused_before_any_sampling(
    model: EditModel, picture: np.ndarray, changes: dict[str, Any], message: str
) -> None:
    def fail(*_: int) -> None:
        pytest.fail("a step was sampled")

    arguments = {"picture": picture, "prompt": "a dog", "progress": fail, **changes}
    with pytest.raises(ValueError, match=message):
        edit(model, **arguments)


def test_a_mask_or_latent_of_another_size_is_refused(
    model: EditModel, picture: np.ndarray, latent: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match=r"the mask is \(64, 128\)"):
        finish(model, picture, np.ones((64, 128), bool), latent, "a dog")
    with pytest.raises(ValueError, match="not of a picture"):
        finish(model, picture, np.ones((128, 128), bool), latent[..., 1:], "a dog")


def test_a_unet_without_cross_attention_is_refused(model: EditModel, picture: np.ndarray) -> None:
    plain = small_unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    with pytest.raises(ValueError, match="no cross-attention outside its middle"):
        edit(replace(model, unet=plain), picture, "a dog")


@pytest.mark.parametrize(
    ("changes", "message"), [({"in_channels": 9}, "inpainting"), ({"cross_attention_dim": 64}, "fit")]
)
def test_a_model_of_another_kind_is_refused(model: EditModel, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(model, unet=small_unet(**changes))


def test_an_inpainting_model_that_does_not_fit_is_refused(model: EditModel) -> None:
    with pytest.raises(ValueError, match="takes 4 channels, not 9: it is not of an inpainting model"):
        replace(model, inpainting=model.unet)
    with pytest.raises(ValueError, match="fit"):
        replace(model, inpainting=small_unet(in_channels=9, cross_attention_dim=64))


def test_the_inpainting_model_sees_nothing_of_what_it_paints_over(model: EditModel, picture: np.ndarray) -> None:
    area = torch.zeros(1, 128, 128, dtype=torch.bool)
    area[:, 32:64, 32:96] = True
    other = picture.copy()
    other[area[0].numpy()] = 255
    without = model.encode_without([picture], area)
    assert torch.equal(without, model.encode_without([other], area))
    assert without.shape == (1, 5, 16, 16)
    assert torch.equal(without[0, 0].bool(), area[0, ::8, ::8])


def test_the_inpainting_model_finishes_and_the_other_edits(
    model: EditModel, picture: np.ndarray, tmp_path: Path
) -> None:
    parts = model.vae, model.text_encoder, model.tokenizer
    for name, unet in (("edits", model.unet), ("finishes", model.inpainting)):
        StableDiffusionPipeline(*parts, unet, model.scheduler, None, None).save_pretrained(tmp_path / name)
    alone = load_model(tmp_path / "edits")
    both = load_model(tmp_path / "edits", inpainting=tmp_path / "finishes")
    results = [edit(each, picture, "a dog", **FEW) for each in (alone, both, model)]
    assert torch.equal(results[0].mask.binary, results[1].mask.binary)
    assert not np.array_equal(results[0].picture, results[1].picture)
    assert np.array_equal(results[1].picture, results[2].picture)


def test_an_inpainting_model_with_another_kind_of_prediction_is_refused(model: EditModel, tmp_path: Path) -> None:
    velocity = DDIMScheduler.from_config(model.scheduler.config, prediction_type="v_prediction")
    parts = model.vae, model.text_encoder, model.tokenizer
    for name, unet, scheduler in (("edits", model.unet, model.scheduler), ("finishes", model.inpainting, velocity)):
        StableDiffusionPipeline(*parts, unet, scheduler, None, None).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"predicts epsilon and .* v_prediction"):
        load_model(tmp_path / "edits", inpainting=tmp_path / "finishes")


def test_a_diffusers_folder_edits_like_the_model_it_was_saved_from(
    model: EditModel, picture: np.ndarray, tmp_path: Path
) -> None:
    StableDiffusionPipeline(
        model.vae, model.text_encoder, model.tokenizer, model.unet, model.scheduler, None, None
    ).save_pretrained(tmp_path)
    loaded, alone = load_model(tmp_path), replace(model, inpainting=None)
    assert np.array_equal(edit(loaded, picture, "a dog", **FEW).picture, edit(alone, picture, "a dog", **FEW).picture)


def empty_folder(path: Path) -> None:
    path.mkdir()


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage")


def other_weights(path: Path) -> None:
    save_file({"layer.weight": torch.zeros(2, 2)}, path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("nowhere", lambda path: None),
        ("empty", empty_folder),
        ("pickle.ckpt", garbage),
        ("garbage.safetensors", garbage),
        ("lora.safetensors", other_weights),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    with pytest.raises(ValueError, match=name) as refusal:
        load_model(tmp_path / name)
    assert "\n" not in str(refusal.value)
