"""The embedded model, its tokenizer (CLIP's, cut to the words of its captions), scenes, artwork for the corpus."""

import itertools

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from instdiff_core.mini import FOLDER
from instdiff_core.mini.scenes import compose
from instdiff_core.mini.training.corpus import known
from instdiff_core.pipeline import EditModel, load_mini


@pytest.fixture(scope="session")
def tokenizer():
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture(scope="session")
def model() -> EditModel:
    return load_mini()


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """A cat on grass."""
    return compose(np.random.default_rng(5), ["cat"], "grass", size=128)[0]


@pytest.fixture(scope="session")
def latent(model: EditModel) -> torch.Tensor:
    """A latent of that picture's size."""
    height, width = (side // model.scale for side in model.working_size(128, 128))
    return torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """A dog on water, and the dog's mask."""
    picture, masks = compose(np.random.default_rng(4), ["dog"], "water", size=128)
    return picture, masks[0]


@pytest.fixture(scope="session")
def artwork(tmp_path_factory):
    """The pack's own artwork under the names of the corpus, for drawing that needs packages that tests do not have."""
    folder = tmp_path_factory.mktemp("artwork")
    drawn = itertools.cycle(sorted((FOLDER / "emoji").glob("*.png")))
    for style in known()["styles"]:
        (folder / style).mkdir()
        for name in (name for entry in known()["objects"] for names in entry["icons"].values() for name in names):
            (folder / style / f"{name}.png").symlink_to(next(drawn))
    for entry in known()["backgrounds"]:
        if "photo" in entry:
            (folder / entry["photo"]).symlink_to(FOLDER / "emoji" / "1f431.png")
    return folder
