"""Files that are no record are refused with a sentence, whatever they hold."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from instdiff_core.export import export_record
from instdiff_core.options import PRESETS
from tests.records import make_pictures, make_record

RECORD = make_record(("a", "frog"), batch=2)
SETTINGS = replace(PRESETS["default"], target=("frog",), share=True)
FILE = export_record(RECORD, SETTINGS)
START = 8 + struct.unpack("<Q", FILE[:8])[0]


def header() -> dict[str, Any]:
    return json.loads(FILE[8:START])


def with_header(changed: Any) -> bytes:
    text = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
    return struct.pack("<Q", len(text)) + text + FILE[START:]


def with_entry(name: str, **changes: Any) -> bytes:
    found = header()
    return with_header(found | {name: found[name] | changes})


def with_metadata(**changes: Any) -> bytes:
    return with_entry("__metadata__", **{name: json.dumps(value) for name, value in changes.items()})


def with_settings(**changes: Any) -> bytes:
    return with_metadata(settings=json.loads(header()["__metadata__"]["settings"]) | changes)


def with_tensors(**changes: torch.Tensor) -> bytes:
    tensors = {"maps": RECORD.maps, "extents": RECORD.propagated, "guide": RECORD.image_latent}
    tensors["weights"] = RECORD.weights
    return save(tensors | changes, header()["__metadata__"])


def test_a_record_tells_what_it_holds(core):
    told = core.open(FILE)
    assert (told["words"], told["steps"], told["batch"]) == (["a", "frog"], 3, 2)
    assert told["imageSize"] == [256, 256]
    assert told["settings"]["target"] == ["frog"]
    assert told["settings"]["share"] is True


def test_text_in_a_prompt_is_only_text(core):
    words = ("<img src=x onerror=alert(1)>", "__proto__", "constructor", "🐸", "日本")
    told = core.open(export_record(make_record(words), PRESETS["default"]))
    assert told["words"] == list(words)
    assert core.refine(words=("__proto__",)).index == 1


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (b"", "too short"),
        (b"<html>404", "within its header"),
        (FILE[:START - 1], "within its header"),
        (struct.pack("<Q", 2**64 - 1) + FILE[8:], "within its header"),
        (FILE[:-2], "does not fill its place"),
        (FILE[:START], "does not fill its place"),
        (with_header(b"{"), "not JSON"),
        (with_header(b"\xff{}"), "not JSON"),
        (with_header([]), "not a table"),
        (with_header(None), "not a table"),
        (with_header({}), "no words"),
        (with_header({"maps": None}), "neither F16, F32 nor BOOL"),
        (with_entry("maps", dtype="I64"), "neither F16, F32 nor BOOL"),
        (with_entry("maps", dtype="__proto__"), "neither F16, F32 nor BOOL"),
        (with_entry("maps", shape=None), "has no shape"),
        (with_entry("maps", shape=[3, 2, 4, 16, -16]), "has no shape"),
        (with_entry("maps", shape=[3, 2, 4, 16, 16.5]), "has no shape"),
        (with_entry("maps", shape=[2**40, 2**40]), "does not fill its place"),
        (with_entry("maps", shape=[3, 2, 4, 16, 17]), "does not fill its place"),
        (with_entry("maps", data_offsets=[0]), "has no place"),
        (with_entry("maps", data_offsets=[-2, 5]), "has no place"),
        (with_entry("maps", data_offsets=[12288, 0]), "does not fill its place"),
        (with_entry("maps", data_offsets=[10**9, 10**9 + 12288]), "does not fill its place"),
        (with_entry("__metadata__", words=5), "metadata is not text"),
        (with_metadata(words=[]), "no words"),
        (with_metadata(words="frog"), "no words"),
        (with_metadata(words=["frog", 5]), "no words"),
        (with_entry("__metadata__", words="["), "no words"),
        (with_metadata(words=["frog"]), "do not fit together"),
        (with_metadata(scale=0), "no scale"),
        (with_metadata(scale=1.5), "no scale"),
        (with_metadata(scale=10**6), "too large"),
        (with_metadata(settings=None), "settings are wrong"),
        (with_settings(method="other"), "settings are wrong"),
        (with_settings(threshold=2), "settings are wrong"),
        (with_settings(threshold="0.5"), "settings are wrong"),
        (with_settings(target=[1]), "settings are wrong"),
        (with_settings(share=1), "settings are wrong"),
        (with_settings(blur=10**9), "settings are wrong"),
        (with_settings(blur=1.5), "settings are wrong"),
        (with_settings(positive=None), "settings are wrong"),
        (with_settings(min_area=2), "settings are wrong"),
        (with_settings(min_area="0"), "settings are wrong"),
        (with_tensors(maps=torch.zeros(0, 2, 4, 16, 16).half()), "do not fit together"),
        (with_tensors(extents=RECORD.propagated[1:]), "do not fit together"),
        (with_tensors(extents=RECORD.propagated[..., 1:].contiguous()), "do not fit together"),
        (with_tensors(guide=RECORD.image_latent[:1]), "do not fit together"),
        (with_tensors(guide=RECORD.image_latent[:, 0].contiguous()), "do not fit together"),
        (with_tensors(guide=RECORD.image_latent[:, :0].contiguous()), "do not fit together"),
        (with_tensors(noise_mask=torch.ones(2, 32, 31, dtype=torch.bool)), "do not fit together"),
        (with_tensors(noise_mask=torch.ones(1, 32, 32, dtype=torch.bool)), "do not fit together"),
        (with_tensors(weights=torch.ones(2)), "do not fit together"),
        (with_tensors(weights=torch.tensor([1.0, -1.0, 1.0])), "weights are wrong"),
        (with_tensors(weights=torch.tensor([1.0, float("nan"), 1.0])), "weights are wrong"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused_with_a_sentence(core, file, sentence):
    with pytest.raises(Exception, match=sentence) as error:
        core.open(file)
    assert "Error: The " in str(error.value)


def test_a_file_cut_anywhere_is_refused_with_a_sentence(core):
    for length in np.linspace(0, len(FILE) - 1, 40).astype(int):
        with pytest.raises(Exception, match="Error: The file"):
            core.open(FILE[:length])


def test_bytes_changed_anywhere_are_refused_with_a_sentence_or_read(core):
    generator = np.random.default_rng(0)
    for place in generator.integers(0, START, 100):
        broken = bytearray(FILE)
        broken[place] = generator.integers(0, 256)
        try:
            core.open(bytes(broken))
        except Exception as error:
            assert "Error: The " in str(error), place  # noqa: PT017


@pytest.mark.parametrize(("count", "cut", "sentence"), [(3, 0, "another number of pictures"), (1, 8, "another size")])
def test_pictures_of_another_run_are_refused_with_a_sentence(core, count, cut, sentence):
    with pytest.raises(Exception, match=sentence):
        core.open(FILE, np.ascontiguousarray(make_pictures(RECORD, count)[:, cut:]))


def test_every_float16_number_is_read_as_it_is(core):
    bits = np.arange(2**16, dtype=np.uint16)
    file = save({"all": torch.from_numpy(bits.view(np.float16))}, {})
    read = """async (numbers) => {
        const { readSafetensors } = await import("/core/safetensors.js");
        const values = readSafetensors(Uint8Array.from(numbers).buffer).tensors.get("all").data;
        return [...new Uint32Array(values.buffer)];
    }"""
    values = np.array(core.page.evaluate(read, list(file)), np.uint32).view(np.float32)
    assert np.array_equal(values, bits.view(np.float16).astype(np.float32), equal_nan=True)
