"""Broken and hostile workflows for a live server, and what it must answer.

Every case is a small workflow that runs, with one to three values of our nodes' inputs made wrong.
The server must refuse it with a message, or run it to its end, or stop it with a message that says
what is wrong. What comes out of the Python interpreter's depths does not say that.
"""

from __future__ import annotations

import copy
import json
import random
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

Graph = dict[str, dict[str, Any]]
OURS = "InstDiff"
PACK_FOLDER = "inst diff-edit.v1"
"""What the path of our own code holds in a traceback of the server: conftest's FOLDER_NAME."""

ESCAPE = "instdiff_fuzz_escape"
"""In the name of every file that a path-like string asks for: none may be written."""

COSTLY = {"steps", "draws"}
"""Inputs whose larger values are right, and take hours."""

SIDE = 64
"""Pixels of the pictures: small, for speed."""

AT_ONCE = 24
"""Workflows queued before the first one's end is waited for."""


PATIENCE = 1200
"""Seconds that they may take, on a machine with much else to do."""


class Answers(Protocol):
    """A live server, as conftest's `Server`."""

    url: str

    def get(self, path: str) -> bytes: ...

    def post(self, path: str, data: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Case:
    """A workflow and what is wrong with it, in words."""

    number: int
    graph: Graph
    wrong: str


@dataclass
class Outcome:
    """What the server did: how often what, and each case that it answered badly."""

    cases: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.cases} cases"]
        lines += [f"{count:6}  {what}" for what, count in self.counts.most_common()]
        return "\n".join([*lines, f"{len(self.failures)} answered badly", *self.failures])


def valid_graphs() -> dict[str, Graph]:
    """A small workflow for each of our nodes, by name; all start with the same loader, picture and prompts."""
    sampling = {
        "model": ["model", 0], "positive": ["prompt", 0], "negative": ["other prompt", 0],
        "seed": 3, "steps": 1, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5,
    }  # fmt: skip
    common = {
        "model": node("InstDiffLoadMiniModel"),
        "scene": node("InstDiffMiniScene", object="cat", background="grass", seed=1),
        "picture": node(
            "ImageScale", image=["scene", 0], upscale_method="area", width=SIDE, height=SIDE, crop="disabled"
        ),
        "latent": node("VAEEncode", pixels=["picture", 0], vae=["model", 2]),
        "prompt": node("InstDiffEncodeEditPrompt", clip=["model", 1], text="a frog"),
        "other prompt": node("CLIPTextEncode", clip=["model", 1], text=""),
        "settings": node(
            "InstDiffMaskSettings", preset="default", threshold=0.5, words="", share=False, positive=0.9,
            negative=0.6, blur=0,
        ),
    }  # fmt: skip
    refine = node("InstDiffRefineMask", attention=["run", 1], steps=0, settings=["settings", 0], image=["picture", 0])
    graphs = {
        "capture": {
            "run": node("InstDiffCaptureAttention", **sampling, latent_image=["latent", 0]),
            "out": refine,
        },
        "sampler": {
            "run": node(
                "InstDiffMaskedSampler", **sampling, latent_image=["latent", 0], settings=["settings", 0]
            ),
            "out": copy.deepcopy(refine) | {"inputs": refine["inputs"] | {"attention": ["run", 2]}},
        },
        "own mask": {
            "run": node("InstDiffMaskedSampler", **sampling, latent_image=["latent", 0], mask=["scene", 1]),
            "out": node("MaskPreview", mask=["run", 1]),
        },
        "guidance": {
            "guide": node(
                "InstDiffMaskGuidance", model=["model", 0], latent=["latent", 0], settings=["settings", 0],
                clip=["model", 1], text=["words", 0],
            ),
            "words": node("PrimitiveString", value="a frog"),
            "run": node("KSampler", **sampling | {"model": ["guide", 0]}, latent_image=["guide", 1]),
            "out": node("InstDiffRefineMask", attention=["guide", 2], steps=0, sampled=["run", 0]),
        },
        "finish": {
            "run": node(
                "InstDiffInpaintFinish", **sampling, vae=["model", 2], image=["picture", 0], mask=["scene", 1],
                grow=8, feather=8, samples=["latent", 0],
            ),
            "out": node("PreviewImage", images=["run", 0]),
        },
        "diffedit": {
            "out": node(
                "InstDiffDiffEditMask", model=["model", 0], source=["other prompt", 0], target=["prompt", 0],
                latent_image=["latent", 0], seed=1, draws=1, denoise=0.5, ratio=3.0, threshold=0.5,
            )
        },
        "heatmaps": {
            "run": node("InstDiffCaptureAttention", **sampling, latent_image=["latent", 0]),
            "heat": node(
                "InstDiffAttentionHeatmaps", attention=["run", 1], colormap="viridis", opacity=0.7, steps=0,
                image=["picture", 0], sampled=["run", 0],
            ),
            "out": node("PreviewImage", images=["heat", 0]),
        },
        "compare": {
            "out": node(
                "InstDiffCompareEdit", before=["picture", 0], after=["picture", 0], mask=["scene", 1],
                other_mask=["scene", 1],
            )
        },
        "large photo": {
            "run": node("InstDiffFindInPhoto", **sampling, vae=["model", 2], image=["picture", 0]),
            "crop": node(
                "InstDiffCropToEdit", image=["picture", 0], mask=["run", 0], context=2.0, megapixels=0.01,
                separate=False, model=["model", 0], multiple_of=8,
            ),
            "back": node(
                "InstDiffPutBack", image=["picture", 0], area=["crop", 2], edited=["crop", 0], mask=["scene", 1],
                grow=4, feather=4,
            ),
            "out": node("PreviewImage", images=["back", 0]),
        },
        "guard": {
            "run": node(
                "InstDiffEditGuard", edited=["picture", 0], original=["picture", 0], mask=["scene", 1], sensitivity=0.5,
                grow=2.0, feather=2.0, match_colour=True, if_refused="aligned edit",
            ),
            "out": node("PreviewImage", images=["run", 0]),
        },
    }  # fmt: skip
    return {name: copy.deepcopy(common | nodes) for name, nodes in graphs.items()}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for number in range(depth):
        value = {"__value__": value} if number % 3 == 0 else {"a": value}
    return value


WORDS = [
    "", " ", "\n\t", "default ", "DEFAULT", "frog", "dog, cat", ",,,", "normal", "euler", "no such name", "0", "1e999",
    "NaN", "-1", "true", "null", "((((((((", "(a:1e308)", "(a:nan)", "a:)(:", "[a|b]", "{a|b}", "BREAK", "...", "🐸🐸",
    "\u0000", "a\u0000b", "\ud800", "\u202egorf", "\ufeff", "ffl" * 9, "' OR 1=1 --", "<script>alert(1)</script>",
    "%s%n{0}{x.__class__}", "__class__", "$(touch " + ESCAPE + ")",
]  # fmt: skip
PATHS = [
    f"../../{ESCAPE}", f"../../../../../../../tmp/{ESCAPE}", f"C:\\Windows\\{ESCAPE}", f"\\\\host\\share\\{ESCAPE}",
    f"/{ESCAPE}\u0000.png", f"file:///tmp/{ESCAPE}", f"embedding:../../{ESCAPE}", "../../etc/passwd", "/dev/zero",
    "embedding:/etc/passwd", "embedding:\u0000", "CON", "~/.bashrc", "....//....//etc/passwd",
]  # fmt: skip
NUMBERS = [
    float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 5e-324, 0, -1, -0.0, 0.5, 1.0, 2**31, -(2**31), 2**63,
    2**64 - 1, 2**64, -(2**64), 10**400, 65537, True, False,
]  # fmt: skip
STRUCTURES: list[Any] = [
    None, [], {}, [[]], [None], {"__value__": []}, {"__value__": [1, 2]}, {"__value__": None}, {"__type__": "LATENT"},
    {"samples": 5}, {"samples": None}, {"__value__": {"samples": [[1]]}}, {"__value__": [[1, {}]]},
    {"__value__": [["a", {"pooled_output": None}]]}, [1, 2, 3], ["a"] * 50, {str(n): n for n in range(50)},
]  # fmt: skip


ADDED = ("extra", "steps2", "", "self", "cls", "prompt", "__class__", f"../{ESCAPE}", "noise_mask")
"""Names of inputs that no node has."""


def cases(seed: int, count: int) -> Iterator[Case]:
    """The same cases for the same seed."""
    dice = random.Random(seed)
    graphs = valid_graphs()
    for number in range(count):
        name = dice.choice(sorted(graphs))
        graph = copy.deepcopy(graphs[name])
        changes = [_spoil(graph, dice) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
        yield Case(number, graph, f"{name}: {'; '.join(changes)}")


def _spoil(graph: Graph, dice: random.Random) -> str:
    """Make one input of one of our nodes wrong; says how."""
    name = dice.choice(sorted(name for name, node in graph.items() if node["class_type"].startswith(OURS)))
    inputs = graph[name]["inputs"]
    if not inputs or dice.random() < 0.05:
        return _add(name, inputs, dice, graph)
    key = dice.choice(sorted(inputs))
    if dice.random() < 0.06:
        del inputs[key]
        return f"{name}.{key} left out"
    value = dice.choice(KINDS)(dice, graph, name)
    inputs[key] = _followable(value, dice) if key in ADDED else value
    if key in COSTLY and not isinstance(inputs[key], list) and _as_count(inputs[key]) > 2:
        inputs[key] = -3
    return f"{name}.{key} = {_short(inputs[key])}"


def _add(name: str, inputs: dict[str, Any], dice: random.Random, graph: Graph) -> str:
    key = dice.choice(ADDED)
    inputs[key] = _followable(dice.choice(KINDS)(dice, graph, name), dice)
    return f"{name} has {key!r} = {_short(inputs[key])}"


def _followable(value: Any, dice: random.Random) -> Any:
    """The value of an input that does not exist.

    The host follows the links of such, unchecked: a node or an output that is missing ends its worker thread.
    """
    return [dice.choice(("model", "scene")), 0] if isinstance(value, list) else value


def _as_count(value: Any) -> float:
    """What the host's ``int(value)`` makes of it; 0 where it makes nothing."""
    while isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 90 else f"{text[:60]}... ({len(text)} letters)"


def _long(dice: random.Random, *_: Any) -> str:
    unit = dice.choice(("a", "a ", "frog, ", "1", "(", "\u0000", "../", "🐸", "9"))
    return unit * (dice.choice((1_000_000, 1_000_000, 9_990, 300)) // len(unit))


def _link(dice: random.Random, graph: Graph, name: str) -> list[Any]:
    """To the node itself, to another (often of the wrong type, or further down: a cycle), or to none at all."""
    target: Any = dice.choice([*sorted(graph), name, "no such node", 5, None, ["a"], {}])
    return [target, dice.choice((0, 0, 0, 1, 2, 3, -1, 99, 10**30, 0.5, "0", None, float("nan")))]


Maker = Callable[[random.Random, Graph, str], Any]
KINDS: list[Maker] = [
    *[lambda dice, *_: dice.choice(WORDS)] * 3,
    *[lambda dice, *_: dice.choice(PATHS)] * 2,
    *[lambda dice, *_: dice.choice(NUMBERS)] * 4,
    *[lambda dice, *_: copy.deepcopy(dice.choice(STRUCTURES))] * 3,
    *[_link] * 3,
    _long,
    lambda dice, *_: nested(dice.choice((3, 20, 80))),
]


def run(server: Answers, broken: Iterable[Case], queue: int = AT_ONCE) -> Outcome:
    """Post every case, and judge the answers."""
    outcome = Outcome()
    waiting: dict[str, Case] = {}
    for case in broken:
        outcome.cases += 1
        prompt_id = _post(server, case, outcome)
        if prompt_id is not None:
            waiting[prompt_id] = case
        if len(waiting) >= queue:
            _collect(server, waiting, outcome)
    _collect(server, waiting, outcome)
    return outcome


def _post(server: Answers, case: Case, outcome: Outcome) -> str | None:
    """The id of an accepted workflow."""

    def bad(why: str) -> None:
        outcome.failures.append(f"case {case.number}: {case.wrong}\n        {why}")

    body = json.dumps({"prompt": case.graph}).encode()
    request = urllib.request.Request(server.url + "/prompt", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["prompt_id"]
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        outcome.counts[f"refused, HTTP {error.code}"] += 1
        if error.code != 400:
            bad(f"HTTP {error.code}: {text[:300]}")
        else:
            for why in _bad_refusals(json.loads(text)):
                bad(why)
    return None


def _bad_refusals(answer: dict[str, Any]) -> Iterator[str]:
    if not answer["error"].get("message"):
        yield f"no message: {_short(answer)}"
    for refused in answer["node_errors"].values():
        for error in refused["errors"]:
            frames = error.get("extra_info", {}).get("traceback", [])
            if frames and PACK_FOLDER in frames[-1]:
                yield f"our validation fails: {_short(error)}"


def _collect(server: Answers, waiting: dict[str, Case], outcome: Outcome) -> None:
    """Wait for what is queued, judge how it ended, and let the server forget it."""
    end = time.monotonic() + PATIENCE
    while waiting and json.loads(server.get("/prompt"))["exec_info"]["queue_remaining"]:
        assert time.monotonic() < end, f"the server hangs in one of {[case.wrong for case in waiting.values()]}"
        time.sleep(0.05)
    for prompt_id, case in waiting.items():
        kind, details = json.loads(server.get(f"/history/{prompt_id}"))[prompt_id]["status"]["messages"][-1]
        if kind == "execution_error" and (why := unclear(details)):
            outcome.failures.append(f"case {case.number}: {case.wrong}\n        {why}")
        name, message = details.get("exception_type", ""), str(details.get("exception_message", "")).strip()
        outcome.counts[f"{kind} {name} {re.sub(r'[0-9]+', '0', message)[:80]}".strip()] += 1
    waiting.clear()
    server.post("/history", {"clear": True})


def unclear(error: dict[str, Any]) -> str | None:
    """Why the user cannot know from this execution_error what to do; none when it is clear, or the host's own."""
    where = (error["traceback"] or [""])[-1]
    message = error["exception_message"].strip()
    if PACK_FOLDER in where and (error["exception_type"] != "ValueError" or len(message.split()) < 4):
        return f"{error['exception_type']}: {message[:300]} at {where.strip()}"
    return None


def our_tracebacks(log: str) -> list[str]:
    """The tracebacks in a server's log that end in our code with anything but a ``ValueError``."""
    found = re.findall(r"Traceback \(most recent call last\):\n((?:[ \t].*\n)+)(\S.*)", log)
    last = [(re.findall(r'File "(.*)", line', frames), end) for frames, end in found]
    return [
        f"{files[-1]}: {end}" for files, end in last if files and PACK_FOLDER in files[-1] and "ValueError" not in end
    ]
