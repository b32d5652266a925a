"""The embedded model's tokenizer, CLIP's own, cut to the words of its captions; a scene; artwork for the corpus."""

import itertools

import numpy as np
import pytest
from transformers import CLIPTokenizer

from instdiff_core.mini import FOLDER
from instdiff_core.mini.scenes import compose
from instdiff_core.mini.training.corpus import known


@pytest.fixture(scope="session")
def tokenizer():
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


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
