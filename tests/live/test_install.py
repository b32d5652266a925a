"""The pack as its users get it: installed, updated and removed by ComfyUI Manager, and packed for the registry.

Manager and comfy-cli come from pip, into a virtual environment in pytest's cache that sees this
Python's packages and changes none of them. Nothing but pip uses the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Graph, Server
from tests.live.frontend import complaints_in

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = "InstDiffEdit"
"""What Manager calls the pack: the end of the repository's address."""

NOWHERE = "http://127.0.0.1:9"
ONLY_PIP = {
    "HTTPS_PROXY": NOWHERE, "https_proxy": NOWHERE, "NO_PROXY": "pypi.org,files.pythonhosted.org",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}  # fmt: skip
"""For Manager, which else reads all of the registry at every command."""

NOT_COPIED = {
    ".git", ".venv", "custom_nodes", "extra_model_paths.yaml", "input", "models", "output", "temp",
    "tests", "tests-unit", "user", "venv",
}  # fmt: skip
"""What a ComfyUI folder has beside the program."""

NOT_LEFT = ("user/__manager/", "temp/")
"""Files that Manager keeps for itself, and those that the host deletes when it starts."""

FOR_DEVELOPERS = (
    ".", "docs/", "tests/", "CONTRIBUTING.md", "Makefile", "tsconfig.json", "instdiff_core/mini/training/",
)  # fmt: skip
"""How the names of the files begin that only work on the pack needs."""


def run(*command: str | Path, **options: Any) -> str:
    """Run a command to its end; what it printed."""
    env = {**os.environ, **options.pop("env", {})}
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", timeout=300, **options,
    )  # fmt: skip
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-3000:]}"
    return done.stdout


@pytest.fixture
def python(host_path: Path, request: pytest.FixtureRequest) -> Path:
    """A Python with the Manager that this ComfyUI asks for, and comfy-cli."""
    wanted = host_path / "manager_requirements.txt"
    if not wanted.is_file():
        pytest.skip(f"{host_path.name} is older than the Manager that pip installs")
    folder = request.config.cache.mkdir("manager")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    made_for = folder / "made-for.txt"
    state = f"{sys.version}\n{sys.prefix}\n{wanted.read_text()}"
    if not made_for.is_file() or made_for.read_text() != state:
        venv.create(folder, clear=True)  # pip too is this Python's
        packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        (Path(packages) / "host.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
        try:
            run(python, "-m", "pip", "install", "--quiet", "--no-compile", "-r", wanted, "comfy-cli")
        except AssertionError as error:
            pytest.skip(f"pip cannot install Manager and comfy-cli: {str(error).splitlines()[-1]}")
        made_for.write_text(state)
    return python


@pytest.fixture
def comfy(host_path: Path, tmp_path: Path) -> Path:
    """A ComfyUI of its own, without packs and pictures."""
    # what another server is about to keep of a module has a name of its own until it is whole
    unfinished = shutil.ignore_patterns("*.pyc.*")

    def left_out(folder: str, names: list[str]) -> set[str]:
        return NOT_COPIED.intersection(names) if Path(folder) == host_path else unfinished(folder, names)

    shutil.copytree(host_path, tmp_path / "ComfyUI", ignore=left_out)
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir()
    # uv would not see that this Python's packages are there, and install them again
    settings = tmp_path / "ComfyUI" / "user" / "__manager" / "config.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nuse_uv = False\nnetwork_mode = offline\n")
    return tmp_path / "ComfyUI"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    if not (ROOT / ".git").exists():
        pytest.skip("this folder is not a git repository")
    return Repository(tmp_path_factory.mktemp("repository") / f"{FOLDER}.git")


class Repository:
    """A repository as at the user's git host: this one, with what is not committed yet as the newest commit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"file://localhost{folder.as_posix()}"
        # what is fetched from it is not made smaller first: that takes longest
        stored = ("--config", "pack.window=0", "--config", "pack.compression=0")
        run("git", "clone", "--quiet", "--bare", *stored, ROOT, folder)
        self._git = ("git", "--git-dir", folder, "--work-tree", ROOT, "-c", "user.name=test", "-c", "user.email=test@")
        past = run(*self._git, "rev-list", "--first-parent", "--max-count=30", "HEAD").split()
        run(*self._git, "symbolic-ref", "HEAD", "refs/heads/main")
        run(*self._git, "update-ref", "refs/heads/main", past[0])
        run(*self._git, "add", "--all", cwd=ROOT)
        run(*self._git, "commit", "--quiet", "--allow-empty", "-m", "now")
        self.older, self.newest = past[-1], run(*self._git, "rev-parse", "HEAD").strip()

    def publish(self, commit: str) -> None:
        """Make a commit the one that users get."""
        run(*self._git, "update-ref", "refs/heads/main", commit)

    def files(self, commit: str) -> set[str]:
        return set(run(*self._git, "ls-tree", "-r", "--name-only", "-z", commit).split("\0")) - {""}


@pytest.fixture
def checkout(repository: Repository, tmp_path: Path) -> Path:
    """What the pack's publisher has."""
    repository.publish(repository.newest)
    run("git", "clone", "--quiet", repository.folder, tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.fixture
def comfy_cli(python: Path, checkout: Path, tmp_path: Path) -> Callable[..., str]:
    """``comfy_cli("node", "validate")``, run in the checkout."""
    quiet = {"DO_NOT_TRACK": "1", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "COLUMNS": "200"}
    return lambda *words: run(python, "-m", "comfy_cli", "--skip-prompt", *words, env=quiet, cwd=checkout)


@pytest.fixture
def manager(python: Path, comfy: Path) -> Callable[..., str]:
    """``manager("update", FOLDER)``: Manager's own command line, on `comfy`."""

    def command(*words: str) -> str:
        env = {"COMFYUI_PATH": str(comfy), "COLUMNS": "500", **ONLY_PIP}
        return run(python, "-m", "cm_cli", *words, "--mode", "local", env=env)

    return command


@pytest.fixture
def start(python: Path, comfy: Path) -> Callable[[], AbstractContextManager[Server]]:
    """``with start() as server``: a server in `comfy`."""

    @contextmanager
    def started() -> Iterator[Server]:
        server = Server(comfy, comfy, python=python)
        try:
            server.wait_until_up()
            yield server
        finally:
            server.stop()

    return started


def ours(server: Server) -> set[str]:
    return {name for name in server.nodes if name.startswith("InstDiff")}


def files_in(folder: Path) -> set[str]:
    """Without those of git, and what Python keeps of the modules that it read."""
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {name for name in names if not name.startswith(".git/") and "__pycache__/" not in name}


def assert_works(installed: Server, server: Server, graph: Graph) -> None:
    """A server with the installed pack has the nodes that `server` has, edits a picture, and has no complaints."""
    assert ours(installed) == ours(server)
    saved = next(node for node in graph if graph[node]["class_type"] == "SaveImage")
    assert installed.run(graph).picture(saved).any()
    assert not complaints_in(installed.log)


def test_manager_installs_updates_and_removes_the_pack(comfy, repository, manager, start, server, workflow):
    before = files_in(comfy)
    pack = comfy / "custom_nodes" / FOLDER

    repository.publish(repository.older)
    manager("install", repository.url, "--exit-on-fail")
    assert files_in(pack) == repository.files(repository.older)

    repository.publish(repository.newest)
    log = manager("update", FOLDER)
    assert files_in(pack) == repository.files(repository.newest)
    wanted = (line.strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert all(f"'install', '{package}'" in log for package in wanted if package and not package.startswith("#")), log
    with start() as installed:
        assert_works(installed, server, workflow("edit_with_text", steps=4))

    manager("uninstall", FOLDER)
    assert not pack.exists()
    left = {file for file in files_in(comfy) - before if not file.startswith(NOT_LEFT)}
    assert left == {"server.log", "output/InstDiffEdit_00001_.png"}


def test_comfy_cli_finds_nothing_wrong(comfy_cli):
    words = comfy_cli("node", "validate").lower()
    assert "passed successfully" in words
    assert "warning" not in words
    assert "error" not in words


def test_the_packed_pack_works_and_has_nothing_for_developers(
    comfy_cli, checkout, comfy, repository, start, server, workflow
):
    comfy_cli("node", "pack")
    with zipfile.ZipFile(checkout / "node.zip") as packed:
        packed.extractall(comfy / "custom_nodes" / FOLDER)
    kept = {name for name in repository.files(repository.newest) if not name.startswith(FOR_DEVELOPERS)}
    assert files_in(comfy / "custom_nodes" / FOLDER) == kept
    with start() as installed:
        assert_works(installed, server, workflow("edit_with_text", steps=4))
