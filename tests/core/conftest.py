"""The tokenizer of the embedded model: CLIP's own, cut to the words of its captions."""

import pytest
from transformers import CLIPTokenizer

from instdiff_core.mini import FOLDER


@pytest.fixture(scope="session")
def tokenizer():
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
