"""The training of the models: what is drawn and kept, what a stop leaves, and that what is written loads."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import load_file

from instdiff_core import mini
from instdiff_core.mini.training import autoencoder, shards
from instdiff_core.mini.training.__main__ import build
from instdiff_core.mini.training.areas import draw_area
from instdiff_core.mini.training.inpainting import Inpainting
from instdiff_core.mini.training.run import Course, Run
from instdiff_core.mini.training.shards import LONGEST, Latents
from instdiff_core.mini.training.unets import OTHER_TEXT
from instdiff_core.mini.training.words import END, START, UNKNOWN, token_ids
from instdiff_core.pipeline import load_mini
from tests.bench.unets import load_unet

CPU = torch.device("cpu")
STEPS = 4


@pytest.fixture(scope="module")
def shipped():
    from transformers import CLIPTokenizer

    return build("shipped", CLIPTokenizer.from_pretrained(mini.FOLDER / "tokenizer"), CPU)


@pytest.fixture(scope="module")
def work(artwork, tmp_path_factory):
    """A folder with two shards of eight pictures, as latents."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "pictures").mkdir()
    for number in range(2):
        shards.write_shard(folder / "pictures" / f"{number:06}.npz", artwork, mini.FOLDER / "tokenizer", number, 8)
    shards.encode(folder, shards.shipped_autoencoder(), CPU, time.time())
    return folder


def test_start_end_and_pads_are_one_token_and_words_say_the_same_anywhere(shipped, tokenizer):
    context, other = shipped.context(token_ids(tokenizer, ["a cat and a dog", "a dog and a cat"]))
    sinks = torch.cat([context[:1], context[6:]])
    assert torch.equal(sinks, sinks[:1].expand_as(sinks))
    assert torch.equal(context[2], other[5])
    assert not torch.allclose(context[2], context[5])


def test_the_same_shard_is_drawn_whenever_it_is_asked_for_and_another_one_differs(artwork, tmp_path):
    paths = [tmp_path / f"{name}.npz" for name in ("first", "again", "other")]
    for path, number in zip(paths, (3, 3, 4), strict=True):
        shards.write_shard(path, artwork, mini.FOLDER / "tokenizer", number, 2)
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again != other


def test_pictures_that_are_encoded_are_deleted_and_their_captions_stay(work, tokenizer):
    assert not list((work / "pictures").iterdir())
    latents = Latents(work, CPU, 100)
    latents.wait(16)
    batch = latents.draw(64, LONGEST, empty=0.5)
    assert batch.latents.shape == (64, 4, 32, 32)
    assert 0.7 < batch.latents.std() < 1.4
    assert batch.tokens[:, 0].eq(START).all()
    words = batch.tokens[:, 1:].ne(END).any(1)
    assert 0 < words.sum() < 64
    assert "a" in tokenizer.decode(batch.tokens[words][0].tolist())


def test_an_inpainting_model_sees_nothing_of_the_area_that_it_is_to_paint(work):
    stored = torch.load(work / "latents" / "000000.pt", weights_only=True)
    areas, without, latents = stored["masked"][:, :1] > 0, stored["masked"][:, 1:], stored["latents"]
    everything = areas.flatten(1).all(1)
    assert torch.equal(areas.half(), stored["masked"][:, :1])
    assert not everything.all()
    assert (without - latents).abs().mul(areas).sum() > 5 * (without - latents).abs().mul(~areas).sum()


def test_most_areas_hold_one_of_the_objects_as_a_whole_and_have_many_shapes():
    rng = np.random.default_rng(1)
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 20:40, 10:25] = masks[1, 5:10, 40:60] = True
    areas = [draw_area(rng, masks, list(masks)) for _ in range(60)]
    holds = [[bool(area[mask].all()) for mask in masks] for area in areas]
    assert sum(first != second for first, second in holds) > 30
    assert any(area.all() for area in areas)
    assert any(area.any() and not area[masks.any(0)].any() for area in areas)
    assert len({area.tobytes() for area in areas}) > 20


def test_a_picture_without_objects_is_painted_anywhere_or_everywhere():
    rng, nothing = np.random.default_rng(1), np.zeros((0, 64, 64), bool)
    assert all(draw_area(rng, nothing, []).any() for _ in range(20))


def test_a_word_that_no_caption_may_hold_is_unknown(tokenizer):
    assert token_ids(tokenizer, ["a ? cat"])[0, 2] == UNKNOWN


@pytest.mark.parametrize("name", ["shipped", "v_prediction", "flow", "inpainting"])
def test_a_few_steps_lower_the_loss_and_a_run_that_was_stopped_goes_on(name, work, tokenizer, tmp_path):
    torch.manual_seed(1)
    subject = build(name, tokenizer, CPU)
    latents = Latents(work, CPU, 100)
    latents.wait(16)
    losses = []

    def loss():
        torch.manual_seed(2)
        losses.append(subject.loss(latents.draw(4, subject.lengths[0], 0)))
        if len(losses) == STEPS:
            run.course = replace(run.course, minutes=1e-9)
        return losses[-1]

    run = Run(name, tmp_path, subject, Course(10, 4, 1e-2))
    run.train(loss)
    assert run.step == STEPS
    assert losses[-1] < losses[0]
    again = Run(name, tmp_path, build(name, tokenizer, CPU), Course(10, 4, 1e-2))
    assert again.step == STEPS
    for kept, loaded in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(kept, loaded)


def test_what_is_written_gives_the_stock_classes_the_same_context_and_prediction(
    shipped, tokenizer, tmp_path, monkeypatch
):
    shipped.write(tmp_path)
    for part in ("vae", "tokenizer", "inpainting"):
        (tmp_path / part).symlink_to(mini.FOLDER / part)
    monkeypatch.setattr(mini, "FOLDER", tmp_path)
    _compare(shipped, load_mini(), tokenizer)


def test_a_model_of_the_benchmarks_is_loaded_as_it_was_written(tokenizer, tmp_path):
    torch.manual_seed(3)
    subject = build("v_prediction", tokenizer, CPU)
    subject.write(tmp_path)
    loaded = load_unet(tmp_path)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert loaded.text_encoder.config.num_hidden_layers == OTHER_TEXT["num_hidden_layers"]
    _compare(subject, loaded, tokenizer, atol=5e-2)


@torch.no_grad()
def test_the_inpainting_model_is_loaded_as_it_was_written(tmp_path, monkeypatch):
    torch.manual_seed(4)
    subject = Inpainting(CPU)
    for parameter in subject.parameters():
        if parameter.requires_grad:
            parameter.add_(0.02 * torch.randn_like(parameter))
    subject.write(tmp_path)
    for part in ("vae", "unet", "tokenizer", "text_encoder", "scheduler"):
        (tmp_path / part).symlink_to(mini.FOLDER / part)
    monkeypatch.setattr(mini, "FOLDER", tmp_path)
    seen, context = torch.randn(1, 9, 32, 32), torch.randn(1, 77, 192)
    loaded = load_mini()
    expected = subject.unet(seen, 500, context).sample
    assert torch.allclose(loaded.predict(seen[:, :4], torch.tensor(500), context, seen[:, 4:]), expected, atol=3e-2)
    assert not torch.allclose(loaded.unet(seen[:, :4], 500, context).sample, expected, atol=0.1)


@torch.no_grad()
def _compare(subject, loaded, tokenizer, atol=2e-2):
    text = "a red car on the sand"
    context = subject.context(token_ids(tokenizer, [text]))
    assert torch.allclose(loaded.context([text]).float(), context, atol=atol)
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    predicted = loaded.predict(latents, torch.tensor(500), context.to(loaded.unet.dtype))
    assert torch.allclose(predicted, subject.unet(latents, 500, context).sample, atol=atol)


def test_the_autoencoder_learns_cuts_of_pictures(artwork, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        shards.write_shard(tmp_path / "pictures" / f"{number:06}.npz", artwork, mini.FOLDER / "tokenizer", number, 4)
    autoencoder.train(tmp_path, CPU, Course(0.001, 1, 1e-4), first=8)
    written = load_file(tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors")
    before = load_file(shards.shipped_autoencoder() / "diffusion_pytorch_model.safetensors")
    assert written.keys() == before.keys()
    assert any(not torch.equal(written[name], before[name]) for name in before)
