"""Make the artwork and the tokenizer of the model from their public sources.

    python -m instdiff_core.mini.training.sources --font NotoColorEmoji.ttf --clip CLIP_TOKENIZER_FOLDER

writes ``emoji/*.png`` (Debian's package fonts-noto-color-emoji) and ``tokenizer/`` (the part of
CLIP's byte-pair vocabulary that the captions need). Both are in the repository; run this only
after a change to ``vocabulary.json``.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..scenes import FOLDER, vocabulary
from .corpus import caption_words as corpus_words


def write_emoji(font: Path) -> None:
    """Render every emoji of the vocabulary at the font's own bitmap size, cropped."""
    face = ImageFont.truetype(font, 109)
    (FOLDER / "emoji").mkdir(exist_ok=True)
    for entry in vocabulary()["objects"]:
        for code_point in entry["emoji"].values():
            image = Image.new("RGBA", (160, 160))
            ImageDraw.Draw(image).text((10, 10), chr(int(code_point, 16)), font=face, embedded_color=True)
            image.crop(image.getchannel("A").getbbox()).save(FOLDER / "emoji" / f"{code_point}.png", optimize=True)


def caption_words() -> list[str]:
    """Every word that a caption of the vocabulary can hold."""
    known = vocabulary()
    text = ["a", "an"]
    for forms in known["captions"].values():
        text += [word for form in forms for word in form.split() if not word.startswith("{") and "}" not in word]
    for entry in known["objects"]:
        text += [entry["word"], *(adjective for adjective in entry["emoji"] if adjective)]
    for entry in known["backgrounds"]:
        text += [entry["word"], *entry["phrase"].split()]
    return sorted(set(text))


def write_tokenizer(clip: Path) -> None:
    """Cut CLIP's vocabulary to the bytes, the caption words and the merges between them.

    Ids stay CLIP's own, so that the host's tokenizer and this one agree on every known word;
    an unknown word falls apart into smaller known pieces instead of failing.
    """
    vocab = json.loads((clip / "vocab.json").read_text(encoding="utf-8"))
    lines = (clip / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    ranked = [tuple(line.split()) for line in lines if line]
    rank = {pair: index for index, pair in enumerate(ranked)}
    used: set[tuple[str, ...]] = set()
    for word in {*caption_words(), *corpus_words()}:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while pairs := [pair for pair in pairwise(pieces) if pair in rank]:
            best = min(pairs, key=rank.__getitem__)
            used.add(best)
            at = list(pairwise(pieces)).index(best)
            pieces[at : at + 2] = ["".join(best)]
    kept = {token: index for token, index in vocab.items() if index < 512 or index >= 49406}
    kept |= {"".join(pair): vocab["".join(pair)] for pair in used}

    folder = FOLDER / "tokenizer"
    folder.mkdir(exist_ok=True)
    by_id = dict(sorted(kept.items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(by_id, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    merges = "".join(f"{' '.join(pair)}\n" for pair in sorted(used, key=rank.__getitem__))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **ends, "bos_token": "<|startoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", type=Path, required=True)
    parser.add_argument("--clip", type=Path, required=True)
    arguments = parser.parse_args()
    write_emoji(arguments.font)
    write_tokenizer(arguments.clip)
