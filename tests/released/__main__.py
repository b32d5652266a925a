"""Record what this version comes with, so that later versions keep loading what was saved with it.

    python -m tests.released COMFYUI

with the folder of the oldest ComfyUI that is supported. Part of every release; an old record is never changed.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.live.conftest import ROOT, Server

OF_THE_HOST = ("sampler_name", "scheduler")
"""Inputs whose choices ComfyUI gives, and may take away."""


def record(server: Server, kind: str) -> dict[str, Any]:
    """The inputs of a node with their types or choices, its widgets in order, and its outputs."""
    node = server.nodes[kind]
    inputs = {}
    for group in ("required", "optional"):
        for name, each in node["input"].get(group, {}).items():
            type_, options = [*each, {}][:2]
            choices = None if name in OF_THE_HOST else options.get("options")
            inputs[name] = choices or type_
    outputs = [list(each) for each in zip(node["output_name"], node["output"], strict=True)]
    return {"inputs": inputs, "widgets": server.widgets(kind), "outputs": outputs}


def as_json(nodes: dict[str, dict[str, Any]]) -> str:
    """One line for the inputs, the widgets and the outputs of each node."""
    entries = [
        f"  {json.dumps(kind)}: {{\n" + ",\n".join(f'    "{key}": {json.dumps(node[key])}' for key in node) + "\n  }"
        for kind, node in nodes.items()
    ]
    return "{\n" + ",\n".join(entries) + "\n}\n"


def main(comfy: Path) -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    folder = Path(__file__).parent / version[1]
    folder.mkdir()
    with tempfile.TemporaryDirectory() as base:
        server = Server.with_link(comfy, Path(base))
        try:
            server.wait_until_up()
        finally:
            server.stop()
    nodes = {kind: record(server, kind) for kind in sorted(server.nodes) if kind.startswith("InstDiff")}
    (folder / "nodes.json").write_text(as_json(nodes), encoding="utf-8")
    (folder / "workflows").mkdir()
    for file in (ROOT / "example_workflows").glob("*.json"):
        shutil.copy(file, folder / "workflows")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
