"""No broken workflow brings the server down, leaves a trace in it, or gets an answer that says nothing."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
SEED = int(os.environ.get("INSTDIFF_FUZZ_SEED", "0"))
CASES = int(os.environ.get("INSTDIFF_FUZZ_CASES", "40"))


def load(name):
    """A module beside this one: tests are no packages, and their folder is not on the path."""
    spec = importlib.util.spec_from_file_location(f"live_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load("fuzz")


@pytest.fixture
def plain(server):
    """``plain()``: the pixels of a KSampler run without any node of ours in the model's way."""

    def run():
        graph = fuzz.valid_graphs()["capture"]
        inputs = dict(graph["run"]["inputs"])
        del graph["out"], graph["settings"]
        graph["again"] = fuzz.node("LatentFromBatch", samples=["latent", 0], batch_index=0, length=server.again())
        graph["run"] = fuzz.node("KSampler", **inputs | {"latent_image": ["again", 0], "steps": 3})
        graph["decode"] = fuzz.node("VAEDecode", samples=["run", 0], vae=["model", 2])
        graph["out"] = fuzz.node("PreviewImage", images=["decode", 0])
        return server.run(graph).picture("out")

    return run


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_every_node_is_in_one_of_the_workflows_that_are_broken(server):
    kinds = {node["class_type"] for graph in fuzz.valid_graphs().values() for node in graph.values()}
    assert {name for name in server.nodes if name.startswith(fuzz.OURS)} <= kinds


def test_the_workflows_that_are_broken_run_as_long_as_they_are_whole(server, subtests):
    for name, graph in fuzz.valid_graphs().items():
        with subtests.test(workflow=name):
            assert server.run(graph).outputs["out"]


def test_broken_workflows_get_a_message_and_leave_nothing_behind(server, plain, request):
    before, base, started = plain(), server.log_file.parent, len(server.log)
    present = files(base)
    outcome = fuzz.run(server, fuzz.cases(SEED, CASES))
    print(outcome)
    assert outcome.cases == CASES
    assert not outcome.failures, f"seed {SEED}: {outcome}"
    assert not fuzz.our_tracebacks(server.log[started:])
    assert (plain() == before).all()
    written = {path for path in files(base) - present if path.parts[0] not in ("output", "temp")}
    assert not written
    for folder in (base, base.parent, request.getfixturevalue("host_path"), Path("/tmp"), Path("/")):
        assert not list(folder.glob(f"*{fuzz.ESCAPE}*"))
