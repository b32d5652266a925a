"""What a user can choose, each with the one default that nodes, command line and Python share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from .passes import MOST_PASSES
from .tokens import split_names

Method = Literal["attention", "change"]
RegionSampling = Literal["off", "auto"]

SETTING = re.compile(r",(?=[^,=]*=)")
"""Where a setting begins in a text of several: behind a comma that is not inside a value."""

YES_NO = {"yes": True, "no": False}

CENTRED_THRESHOLD = 0.5
"""The threshold of the method "change": `maps.centre_threshold` puts Otsu's threshold there."""


def check_range(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    """Raises ``ValueError`` unless `value` is from `low`, or above it where the range is open there, to `high`."""
    if not low <= value <= high or (open_low and value == low):
        raise ValueError(f"{name} must be {'above' if open_low else 'from'} {low} to {high}, not {value}")


@dataclass(frozen=True)
class MaskSettings:
    """How evidence becomes a mask.

    `method`: "attention" (the published one) or "change" (`refine` describes both). `threshold` (0 to
    1): a higher one makes the mask smaller. For "attention" it is the paper's phi; for "change" 0.5 is
    where the map itself is parted best in two. `target`: words whose place makes the mask; empty lets
    the method choose. `share`: one mask for the whole batch, from its mean: for several noise samples
    of one picture, as in the paper. `blur` (0 to 16): how often the map is smoothed with a 5x5
    Gaussian. `positive` and `negative` (-1 to 1, `negative` below `positive`): words whose maps are at
    least, and at most, this similar to the index word's count for it and against it. "attention" adds
    the former to the mask and takes the latter away; "change" only reports them. `min_area` (0 to 1):
    pieces of the mask at image size that are smaller than this part of its largest piece are removed,
    and holes as small are filled. `region`: "auto" computes only the surroundings of the mask from when it
    has settled (`settling`), in ComfyUI and with U-Nets; "off" always the whole picture.

    Raises ``ValueError`` for a value of another type or out of range.
    """

    method: Method = "attention"
    threshold: float = 0.2
    target: tuple[str, ...] = ()
    share: bool = False
    blur: int = 2
    positive: float = 0.9
    negative: float = 0.6
    min_area: float = 0.0
    region: RegionSampling = "off"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, not {self.method!r}")
        if self.region not in get_args(RegionSampling):
            raise ValueError(f"region must be one of {', '.join(get_args(RegionSampling))}, not {self.region!r}")
        if not isinstance(self.target, tuple) or not all(isinstance(word, str) for word in self.target):
            raise ValueError(f"target must be a tuple of words, not {self.target!r}")
        check_range("threshold", self.threshold, 0, 1)
        check_range("blur", self.blur, 0, 16)
        check_range("min_area", self.min_area, 0, 1)
        if not -1 <= self.negative < self.positive <= 1:
            raise ValueError(
                f"negative ({self.negative}) must be below positive ({self.positive}), and both between -1 and 1"
            )


def read_settings(text: str, base: MaskSettings) -> MaskSettings:
    """`base` with what a text says: ``name=value`` with commas between, as in ``threshold=0.4,target=red car``.

    The words of `target` have commas between them too; `share` is ``yes`` or ``no``. Raises ``ValueError`` for what
    says nothing, an unknown name, and a value of another kind or out of range.
    """
    values: dict[str, Any] = {}
    for part in SETTING.split(text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in vars(base):
            names = ", ".join(vars(base))
            raise ValueError(f"a mask setting is written name=value, with one of the names {names}, not {part!r}")
        if name in values:
            raise ValueError(f"{name} is there twice")
        values[name] = _read_value(name, value, getattr(base, name))
    return replace(base, **values)


def _read_value(name: str, text: str, like: Any) -> Any:
    """The value of a setting out of a text, of the type that `like` has."""
    if isinstance(like, tuple):
        return split_names(text)
    if isinstance(like, str):
        return text
    kind = type(like)
    try:
        return YES_NO[text.casefold()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        kinds = {bool: "yes or no", int: "a whole number", float: "a number"}
        raise ValueError(f"{name} must be {kinds[kind]}, not {text!r}") from None


PRESETS: Mapping[str, MaskSettings] = MappingProxyType(
    {"default": MaskSettings("change", threshold=CENTRED_THRESHOLD, blur=0, min_area=0.02), "paper": MaskSettings()}
)
"""`paper` is the published method, `default` the most accurate on our benchmark."""


@dataclass(frozen=True)
class MaskShape:
    """What becomes of a finished mask's shape (`shape`).

    `fill_holes`: what is enclosed by the mask becomes part of it, whatever its size. `smooth` (0 to
    64): each pixel becomes what most of those up to so far around it are. `grow` (-256 to 256): by how many
    pixels the mask is made larger, or smaller; diagonals count as one, and where the mask reaches the
    border of the picture it stays there.

    Raises ``ValueError`` for a value out of range.
    """

    fill_holes: bool = False
    smooth: int = 0
    grow: int = 0

    def __post_init__(self) -> None:
        check_range("smooth", self.smooth, 0, 64)
        check_range("grow", self.grow, -256, 256)


@dataclass(frozen=True)
class SamplingOptions:
    """How an edit is sampled.

    `strength` (above 0, to 1) is how much noise the picture gets, KSampler's denoise. `steps` (1 to
    10000) is the number of sampling steps that are taken from there, whatever the strength, as in
    KSampler. `cfg` (0 to 100) is the scale of classifier-free guidance. `noise_samples` (1 to 64) is
    the number of noise samples of a picture that share one mask; the first becomes the result.

    Raises ``ValueError`` for a value out of range.
    """

    steps: int = 20
    cfg: float = 7.5
    strength: float = 0.5
    noise_samples: int = 1

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1, 10000)
        check_range("cfg", self.cfg, 0, 100)
        check_range("strength", self.strength, 0, 1, open_low=True)
        check_range("noise_samples", self.noise_samples, 1, 64)


@dataclass(frozen=True)
class FinishOptions:
    """How the inpainting pass finishes an edit.

    `steps` and `cfg` are those of `SamplingOptions`. `strength` (0 to 1) is how much noise the edit
    gets again: 0 leaves it as it is, 1 starts from nothing. The mask is grown by `grow` pixels (0 to
    256) first, and gets a soft edge `feather` pixels wide (0 to 256) in what was added. Both are one
    latent pixel, the unit in which the model can place an edge, whatever the size of the picture. `match_colour`
    takes the step in colour from the edge of what was painted (`blend.match_colours`), `grain` gives it the grain of
    its surroundings (`grain.add_grain`). The steps are taken in `passes` (1 to 16), each from less noise than the one
    before (`passes`). With `enlarge` what is small is painted in a crop, at the size that the model was made for
    (`region.find_enlargement`).

    Raises ``ValueError`` for a value out of range.
    """

    steps: int = 20
    cfg: float = 7.5
    strength: float = 0.9
    grow: int = 8
    feather: int = 8
    match_colour: bool = False
    grain: bool = False
    passes: int = 4
    enlarge: bool = True

    def __post_init__(self) -> None:
        check_range("finish steps", self.steps, 1, 10000)
        check_range("finish cfg", self.cfg, 0, 100)
        check_range("finish strength", self.strength, 0, 1)
        check_range("grow", self.grow, 0, 256)
        check_range("feather", self.feather, 0, 256)
        check_range("passes", self.passes, 1, MOST_PASSES)


@dataclass(frozen=True)
class DiffEditOptions:
    """DiffEdit's mask (Couairon et al., ICLR 2023), with the defaults of diffusers' ``generate_mask``.

    `noise_samples` (1 to 64) are averaged, at the noise level of `strength` (above 0, to 1). A
    difference of `ratio` (0.1 to 100) times the mean of the map counts as a full one, and the map is
    thresholded at `threshold` (0 to 1).

    Raises ``ValueError`` for a value out of range.
    """

    noise_samples: int = 10
    strength: float = 0.5
    ratio: float = 3.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_range("noise_samples", self.noise_samples, 1, 64)
        check_range("strength", self.strength, 0, 1, open_low=True)
        check_range("ratio", self.ratio, 0.1, 100)
        check_range("threshold", self.threshold, 0, 1)


Refused = Literal["aligned edit", "edit", "original"]


@dataclass(frozen=True)
class GuardOptions:
    """How only the edit of another editor's picture is put back (`guard`).

    `sensitivity` (0 to 1): a higher one takes smaller differences for an edit. The area is made larger
    by `grow` and gets a soft edge of `feather` in what was added, both in percent (0 to 10) of the
    picture's longer side. `match_colour` takes the editor's colours back to the original's. `refused` is
    what comes out where the edit cannot be told from the rest: "aligned edit" (all of it, over the
    original as well as could be), "edit" (scaled alone) or "original".

    Raises ``ValueError`` for a value out of range.
    """

    sensitivity: float = 0.5
    grow: float = 0.4
    feather: float = 0.4
    match_colour: bool = True
    refused: Refused = "aligned edit"

    def __post_init__(self) -> None:
        check_range("sensitivity", self.sensitivity, 0, 1)
        check_range("grow", self.grow, 0, 10)
        check_range("feather", self.feather, 0, 10)
        if self.refused not in get_args(Refused):
            raise ValueError(f"refused must be one of {', '.join(get_args(Refused))}, not {self.refused!r}")


SAMPLING, FINISH, DIFFEDIT, GUARD = SamplingOptions(), FinishOptions(), DiffEditOptions(), GuardOptions()
"""The defaults."""

INPAINTING_FINISH = FinishOptions(strength=1.0, passes=2)
"""The default of a model that sees the area and its surroundings at any noise level, as inpainting models do."""
