"""Tokenizers in the formats of those that come with a model's file: small ones, trained on a few sentences here."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

SENTENCES = [
    "a green dog on the grass", "the cat and the frog in the snow", "an apple on the sand", "the house by the water",
    "ein grüner Frosch über dem Gras", "the dog, the cat", "a tree at night", "eine Möwe über der Straße",
] * 4  # fmt: skip

LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 and Mistral part a text before they merge its bytes."""

TEKKEN_SPECIAL = [f"<SPECIAL_{number}>" for number in range(20)]
for _number, _token in {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 11: "<pad>"}.items():
    TEKKEN_SPECIAL[_number] = _token
TEKKEN_SPECIAL[17:19] = "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"


def sentence_piece(*, prefix: bool, end: int, begin: int, unknown: int) -> dict[str, Any]:
    """A SentencePiece model as a checkpoint holds it; `prefix`: a blank is put before the first word."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=400, hard_vocab_limit=False,
        model_type="bpe", byte_fallback=True, add_dummy_prefix=prefix, pad_id=0, eos_id=end, bos_id=begin,
        unk_id=unknown, minloglevel=2,
    )  # fmt: skip
    return {"spiece_model": torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)}


def tekken() -> dict[str, Any]:
    """Mistral's tokenizer as a checkpoint holds it: byte strings in the order of their merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    trained = json.loads(_byte_level([]).to_str())["model"]["vocab"]
    letters = _bytes_of(ByteLevel.alphabet())
    pieces = [bytes(letters[each] for each in piece) for piece in sorted(trained, key=trained.__getitem__)]
    pieces = [bytes([each]) for each in range(256)] + [piece for piece in pieces if len(piece) > 1]
    content = {
        "config": {"default_num_special_tokens": 20, "default_vocab_size": 20 + len(pieces)},
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(piece).decode()} for rank, piece in enumerate(pieces)],
        "special_tokens": [{"rank": rank, "token_str": token} for rank, token in enumerate(TEKKEN_SPECIAL)],
    }
    return {"tekken_model": json.dumps(content).encode()}


@contextmanager
def llama(host_path: Path, folder: Path) -> Iterator[None]:
    """While this context is open the host finds Llama's tokenizer: its own, or a small one where that is missing."""
    import comfy.text_encoders.hunyuan_video as module

    if (host_path / "comfy" / "text_encoders" / "llama_tokenizer" / "tokenizer.json").is_file():
        yield
        return
    tokenizer = json.loads(_byte_level(["<|begin_of_text|>"]).to_str())
    # as older files have them, and as the host reads them
    tokenizer["model"]["merges"] = [
        each if isinstance(each, str) else " ".join(each) for each in tokenizer["model"]["merges"]
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    reader = module.LlamaTokenizerFast

    class Elsewhere:
        @staticmethod
        def from_pretrained(path: str, **options: Any) -> Any:
            return reader.from_pretrained(str(folder), **options)

    with patch.object(module, "LlamaTokenizerFast", Elsewhere):
        yield


def _byte_level(special: list[str]) -> Any:
    """A byte-level BPE of the library `tokenizers`; the first special token is put before a text."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(LLAMA_SPLIT), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = BpeTrainer(
        vocab_size=500, initial_alphabet=ByteLevel.alphabet(), special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if special:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], tokenizer.token_to_id(special[0]))]
        )
    return tokenizer


def _bytes_of(alphabet: list[str]) -> dict[str, int]:
    """Which byte each letter of the byte-level alphabet stands for."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in printable}
    letters |= {chr(256 + number): byte for number, byte in enumerate(sorted({*range(256)} - {*printable}))}
    assert set(letters) == set(alphabet)
    return letters
