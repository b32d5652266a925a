"""What can be chosen has one default, and a value that makes no sense is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from instdiff_core.options import PRESETS, DiffEditOptions, FinishOptions, MaskSettings, SamplingOptions, read_settings


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (MaskSettings, {"method": "Change"}, "method must be one of attention, change, not 'Change'"),
        (MaskSettings, {"threshold": 1.1}, "threshold must be from 0 to 1, not 1.1"),
        (MaskSettings, {"threshold": float("nan")}, "threshold"),
        (MaskSettings, {"target": "cat"}, "target must be a tuple of words"),
        (MaskSettings, {"target": ("cat", 3)}, "target"),
        (MaskSettings, {"blur": 17}, "blur"),
        (MaskSettings, {"min_area": -0.1}, "min_area"),
        (MaskSettings, {"positive": 0.5, "negative": 0.5}, "negative .* must be below positive"),
        (SamplingOptions, {"steps": 0}, "steps"),
        (SamplingOptions, {"strength": 0}, "strength must be above 0 to 1"),
        (SamplingOptions, {"strength": 1.5}, "strength"),
        (SamplingOptions, {"strength": float("nan")}, "strength"),
        (SamplingOptions, {"cfg": -1}, "cfg"),
        (SamplingOptions, {"noise_samples": 65}, "noise_samples"),
        (FinishOptions, {"steps": 0}, "finish steps"),
        (FinishOptions, {"cfg": 101}, "finish cfg"),
        (FinishOptions, {"strength": -0.1}, "finish strength"),
        (FinishOptions, {"grow": -1}, "grow"),
        (FinishOptions, {"feather": 257}, "feather"),
        (DiffEditOptions, {"noise_samples": 0}, "noise_samples"),
        (DiffEditOptions, {"strength": 0}, "strength"),
        (DiffEditOptions, {"ratio": 0}, "ratio"),
        (DiffEditOptions, {"threshold": 2}, "threshold"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(options: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**values)


def test_the_presets_are_the_published_method_and_ours() -> None:
    assert PRESETS["paper"] == MaskSettings("attention", 0.2, blur=2, min_area=0)
    assert PRESETS["default"].method == "change"


def test_every_mask_setting_can_be_written_down() -> None:
    text = "method=attention, threshold=0.4,target=red car,tree,share=yes,blur=3,positive=0.8,negative=0.1,min_area=.1"
    written = MaskSettings("attention", 0.4, ("red car", "tree"), True, 3, 0.8, 0.1, 0.1, "auto")
    assert read_settings(f"{text},region=auto", PRESETS["default"]) == written
    assert read_settings("threshold=0.4", PRESETS["paper"]) == MaskSettings(threshold=0.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "written name=value"),
        ("threshold", "written name=value"),
        ("limit=3", "with one of the names method, threshold"),
        ("threshold=0.4,0.5", "threshold must be a number, not '0.4,0.5'"),
        ("threshold=", "threshold must be a number, not ''"),
        ("threshold=nan", "threshold must be from 0 to 1"),
        ("blur=2.5", "blur must be a whole number, not '2.5'"),
        ("share=maybe", "share must be yes or no, not 'maybe'"),
        ("method=Change", "method must be one of attention, change, not 'Change'"),
        ("blur=1,blur=2", "blur is there twice"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused_by_its_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(text, PRESETS["default"])
