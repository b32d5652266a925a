"""A record that was written is read as it was; what is none is refused with a sentence, whatever it holds."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from instdiff_core.export import VERSION, export_record, import_record
from instdiff_core.options import PRESETS, MaskSettings
from instdiff_core.refine import refine_record
from tests.records import make_pictures, make_record

RECORD = make_record(("a", "frog"), batch=2)
SETTINGS = replace(PRESETS["default"], target=("frog",), share=True)
FILE = export_record(RECORD, [SETTINGS])
START = 8 + struct.unpack("<Q", FILE[:8])[0]


def header() -> dict[str, Any]:
    return json.loads(FILE[8:START])


def with_header(changed: Any) -> bytes:
    text = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
    return struct.pack("<Q", len(text)) + text + FILE[START:]


def with_entry(name: str, **changes: Any) -> bytes:
    entries = header()
    return with_header(entries | {name: entries[name] | changes})


def with_metadata(**changes: Any) -> bytes:
    return with_entry("__metadata__", **{name: json.dumps(value) for name, value in changes.items()})


def edit() -> dict[str, Any]:
    return json.loads(header()["__metadata__"]["edits"])[0]


def with_edit(**changes: Any) -> bytes:
    return with_metadata(edits=[edit() | changes])


def with_settings(**changes: Any) -> bytes:
    return with_edit(settings=edit()["settings"] | changes)


def with_tensors(**changes: torch.Tensor) -> bytes:
    """With other tensors, by their names without the number of the edit."""
    tensors = {
        "maps": RECORD.maps,
        "propagated_maps": RECORD.propagated,
        "image_latent": RECORD.image_latent,
        "sigmas": torch.tensor(RECORD.sigmas),
    } | changes
    common = ("image_latent", "pictures")
    named = {name if name in common else f"{name}.0": tensor for name, tensor in tensors.items()}
    return save(named, header()["__metadata__"])


def of_version_1(record: Any, settings: MaskSettings) -> bytes:
    """A file as it was when it held one edit."""
    tensors = {
        "maps": record.maps,
        "propagated_maps": record.propagated,
        "image_latent": record.image_latent,
        "sigmas": torch.tensor(record.sigmas, dtype=torch.float64),
        "noise_mask": record.noise_mask,
    }
    metadata = {
        "version": 1, "words": record.words.texts, "start": bool(record.words.start), "scale": record.scale,
        "settings": asdict(settings),
    }  # fmt: skip
    return save(tensors, {name: json.dumps(value) for name, value in metadata.items()})


def unversioned(record: Any, settings: MaskSettings, without: tuple[str, ...] = ()) -> bytes:
    """A file as it was before there were versions."""
    tensors = {
        "maps": record.maps,
        "extents": record.propagated,
        "guide": record.image_latent,
        "weights": record.weights,
    }
    if record.noise_mask is not None:
        tensors["noise_mask"] = record.noise_mask
    known = {name: value for name, value in asdict(settings).items() if name not in without}
    metadata = {"words": record.words.texts, "scale": record.scale, "settings": known}
    return save(tensors, {name: json.dumps(value) for name, value in metadata.items()})


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_what_was_written_is_read(count, masked):
    noise_mask = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    record = replace(RECORD, noise_mask=noise_mask if masked else None)
    pictures = make_pictures(record, count) if count else None
    floats = None if pictures is None else torch.from_numpy(np.float32(pictures) / np.float32(255)).movedim(-1, 1)
    read, settings, bytes_of_pictures = import_record(export_record(record, [SETTINGS], floats))
    assert settings == (SETTINGS,)
    assert (read.words.texts, read.sigmas, read.scale) == (record.words.texts, record.sigmas, record.scale)
    for name in ("maps", "propagated", "image_latent", "noise_mask"):
        written = getattr(record, name)
        assert getattr(read, name) is written is None or torch.equal(getattr(read, name), written)
    if pictures is None:
        assert bytes_of_pictures is None
    else:
        assert bytes_of_pictures is not None
        assert np.array_equal(bytes_of_pictures.numpy(), pictures)
    mask, wanted = (refine_record(source, SETTINGS, picture=floats) for source in (read, record))
    assert torch.equal(mask.soft, wanted.soft)
    assert torch.equal(mask.binary, wanted.binary)


def test_a_prompt_without_a_start_token_stays_one():
    words = replace(RECORD.words, start=())
    read = [
        import_record(export_record(replace(RECORD, words=prompt), [SETTINGS]))[0] for prompt in (RECORD.words, words)
    ]
    assert [bool(record.words.start) for record in read] == [True, False]


def test_a_sampling_that_began_with_noise_alone_is_read():
    """As those of flow models do at strength 1: their noise is infinitely more than the picture."""
    record = replace(RECORD, sigmas=(math.inf, *RECORD.sigmas[1:]))
    assert import_record(export_record(record, [SETTINGS]))[0].sigmas == record.sigmas


def test_several_edits_are_read_as_they_were_written_each_with_its_own():
    noise_mask = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    made = (make_record(("red", "car", "b"), batch=2, steps=2, seed=number) for number in range(11))
    many = tuple(replace(record, noise_mask=noise_mask, image_latent=RECORD.image_latent) for record in made)
    settings = [SETTINGS, *(replace(PRESETS["paper"], blur=number) for number in range(11))]
    read, read_settings, _ = import_record(export_record(replace(RECORD, further=many), settings))
    assert read_settings == tuple(settings)
    assert [edit.words.texts for edit in read.edits] == [("a", "frog"), *[("red", "car", "b")] * 11]
    for edit, written in zip(read.edits, (RECORD, *many), strict=True):
        assert torch.equal(edit.maps, written.maps)
        assert edit.sigmas == written.sigmas
        assert (edit.noise_mask is None) == (written.noise_mask is None)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_file_of_version_1_gives_the_same_mask(preset):
    noise_mask = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    record, settings = replace(RECORD, noise_mask=noise_mask), PRESETS[preset]
    read, read_settings, _ = import_record(of_version_1(record, settings))
    assert read_settings == (settings,)
    assert read.edits == (read,)
    mask, wanted = (refine_record(source, settings, 2) for source in (read, record))
    assert torch.equal(mask.soft, wanted.soft)
    assert torch.equal(mask.binary, wanted.binary)


@pytest.mark.parametrize("without", [(), ("min_area",)])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_file_from_before_there_were_versions_gives_the_same_mask(preset, without):
    noise_mask = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    record, settings = replace(RECORD, noise_mask=noise_mask), replace(PRESETS[preset], min_area=0.0)
    read, read_settings, pictures = import_record(unversioned(record, settings, without))
    assert read_settings == (settings,)
    assert pictures is None
    mask, wanted = (refine_record(source, settings, 2) for source in (read, record))
    torch.testing.assert_close(mask.soft, wanted.soft, atol=1e-4, rtol=0)
    assert (mask.binary != wanted.binary).float().mean() <= 1e-4


def test_steps_that_did_not_count_do_not_in_a_file_from_before_there_were_versions():
    propagated = RECORD.propagated.clone()
    propagated[1, :, 2] = 0
    record = replace(RECORD, propagated=propagated)
    torch.testing.assert_close(import_record(unversioned(record, SETTINGS))[0].weights, record.weights)


def test_a_file_of_a_newer_version_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=f"of format {VERSION + 1}, which a newer InstDiffEdit wrote.*update"):
        import_record(with_metadata(version=VERSION + 1))


def test_text_in_a_prompt_is_only_text():
    words = ("<img src=x onerror=alert(1)>", "__proto__", "constructor", "🐸", "日本")
    assert import_record(export_record(make_record(words), [SETTINGS]))[0].words.texts == words


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (b"", "cannot be read"),
        (b"<html>404", "cannot be read"),
        (FILE[: START - 1], "cannot be read"),
        (struct.pack("<Q", 2**64 - 1) + FILE[8:], "cannot be read"),
        (FILE[:-2], "cannot be read"),
        (FILE[:START], "cannot be read"),
        (with_header(b"{"), "cannot be read"),
        (with_header(b"\xff{}"), "cannot be read"),
        (with_header([]), "cannot be read"),
        (with_header({"maps": None}), "cannot be read"),
        (with_entry("maps.0", dtype="__proto__"), "cannot be read"),
        (with_entry("maps.0", shape=[2**40, 2**40]), "cannot be read"),
        (with_entry("maps.0", data_offsets=[-2, 5]), "cannot be read"),
        (with_entry("__metadata__", edits=5), "cannot be read"),
        (save({}, {}), "cannot be read"),
        (with_metadata(version=-1), "no version"),
        (with_metadata(version="1"), "no version"),
        (with_metadata(edits=[]), "which edits"),
        (with_metadata(edits={}), "which edits"),
        (with_metadata(edits=[5]), "which edits"),
        (with_metadata(edits=[edit()] * 2), "no maps"),
        (with_metadata(edits=[edit()] * 65), "which edits"),
        (with_entry("__metadata__", edits="["), "which edits"),
        (with_entry("__metadata__", edits="[" * 10**6), "which edits"),
        (with_edit(words=[]), "no words"),
        (with_edit(words="frog"), "no words"),
        (with_edit(words=["frog", 5]), "no words"),
        (with_edit(words=["frog"]), "do not fit"),
        (with_edit(start=1), "start token"),
        (with_metadata(scale=0), "how large"),
        (with_metadata(scale=1.5), "how large"),
        (with_metadata(scale=True), "how large"),
        (with_metadata(scale=10**6), "larger than"),
        (with_edit(settings=None), "settings are wrong"),
        (with_edit(settings=[]), "settings are wrong"),
        (with_settings(method="other"), "settings are wrong"),
        (with_settings(other=1), "settings are wrong"),
        (with_settings(threshold=2), "settings are wrong"),
        (with_settings(threshold=float("nan")), "settings are wrong"),
        (with_settings(threshold="0.5"), "settings are wrong"),
        (with_settings(target=[1]), "settings are wrong"),
        (with_settings(share=1), "settings are wrong"),
        (with_settings(blur=10**9), "settings are wrong"),
        (with_settings(blur=1.5), "settings are wrong"),
        (with_settings(positive=None), "settings are wrong"),
        (with_settings(min_area=2), "settings are wrong"),
        (with_tensors(maps=torch.zeros(0, 2, 4, 16, 16).half()), "do not fit"),
        (with_tensors(maps=RECORD.maps.int()), "do not fit"),
        (with_tensors(maps=RECORD.maps[0]), "no maps"),
        (with_tensors(propagated_maps=RECORD.propagated[1:]), "do not fit"),
        (with_tensors(propagated_maps=RECORD.propagated[..., 1:].contiguous()), "do not fit"),
        (with_tensors(image_latent=RECORD.image_latent[:1]), "do not fit"),
        (with_tensors(image_latent=RECORD.image_latent[:, 0].contiguous()), "no image_latent"),
        (with_tensors(image_latent=RECORD.image_latent[:, :0].contiguous()), "do not fit"),
        (with_tensors(noise_mask=torch.ones(2, 32, 31, dtype=torch.bool)), "do not fit"),
        (with_tensors(noise_mask=torch.ones(2, 32, 32)), "do not fit"),
        (with_tensors(pictures=torch.zeros(3, 256, 256, 3, dtype=torch.uint8)), "do not fit"),
        (with_tensors(pictures=torch.zeros(1, 248, 256, 3, dtype=torch.uint8)), "do not fit"),
        (with_tensors(pictures=torch.zeros(1, 256, 256, 3)), "do not fit"),
        (with_tensors(sigmas=torch.ones(2)), "do not fit"),
        (with_tensors(sigmas=torch.tensor([1.0, -1.0, 1.0])), "no noise levels"),
        (with_tensors(sigmas=torch.tensor([1.0, float("nan"), 1.0])), "no noise levels"),
    ],
)
def test_what_is_no_record_is_refused_with_a_sentence(file, sentence):
    with pytest.raises(ValueError, match=sentence):
        import_record(file)


def test_a_file_cut_anywhere_is_refused_with_a_sentence():
    for length in np.linspace(0, len(FILE) - 1, 40).astype(int):
        with pytest.raises(ValueError, match="cannot be read"):
            import_record(FILE[:length])


def test_bytes_changed_anywhere_are_refused_with_a_sentence_or_read():
    generator = np.random.default_rng(0)
    for place in generator.integers(0, START, 300):
        broken = bytearray(FILE)
        broken[place] = generator.integers(0, 256)
        try:
            import_record(bytes(broken))
        except ValueError as error:
            assert "the record" in str(error), place  # noqa: PT017
