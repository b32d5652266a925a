"""What training on the corpus starts from, and that what it writes loads as the embedded model does."""

import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import load_file
from transformers import CLIPTokenizer

from instdiff_core import mini
from instdiff_core.mini import train_corpus
from instdiff_core.mini.train import write_unet
from instdiff_core.mini.train_corpus import Place, starting_model
from instdiff_core.pipeline import load_mini


@pytest.fixture(scope="module")
def model():
    # as in the host's copy of the whole tokenizer
    return starting_model(CLIPTokenizer.from_pretrained(mini.FOLDER / "tokenizer", model_max_length=8192))


def test_start_end_and_pads_are_one_token_and_words_say_the_same_anywhere(model):
    words = model["words"]
    context, other = words(torch.tensor([words.rows(text) for text in ("a cat and a dog", "a dog and a cat")]))
    sinks = torch.cat([context[:1], context[6:]])
    assert torch.equal(sinks, sinks[:1].expand_as(sinks))
    assert torch.equal(context[2], other[5])
    assert not torch.allclose(context[2], context[5])


def test_what_is_written_gives_the_stock_classes_the_same_context_and_prediction(model, tmp_path, monkeypatch):
    write_unet(model, tmp_path)
    for part in ("vae", "tokenizer"):
        (tmp_path / part).symlink_to(mini.FOLDER / part)
    monkeypatch.setattr(mini, "FOLDER", tmp_path)
    loaded = load_mini()
    words = model["words"]
    with torch.no_grad():
        context = words(torch.tensor([words.rows("a red car on the sand")]))
        assert torch.allclose(loaded.context(["a red car on the sand"]), context, atol=1e-2)
        latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
        predicted = loaded.predict(latents, torch.tensor(500), context)
        assert torch.allclose(predicted, model["unet"](latents, 500, context).sample, atol=2e-2)


@pytest.mark.parametrize("stage", ["autoencoder", "unet"])
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(stage, artwork, tmp_path, monkeypatch):
    monkeypatch.setattr(train_corpus, "SHARD", 2)

    def trained(work, *stops):
        (tmp_path / work).mkdir()
        place = Place(tmp_path / work, artwork, torch.device("cpu"), 2, 1e-3, 2, 1)
        for steps in stops:
            if stage == "unet":
                train_corpus.train_unet(place, mini.FOLDER / "tokenizer", steps)
            else:
                train_corpus.train_autoencoder(place, steps)
        folder = "unet" if stage == "unet" else "vae"
        return load_file(tmp_path / work / "model" / folder / "diffusion_pytorch_model.safetensors")

    once, twice = trained("once", 2), trained("twice", 1, 2)
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)
