"""ComfyUI and the pack in this process, loaded as the host does it."""

from __future__ import annotations

import functools
import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from tests.conftest import ROOT, host_path  # takes the repository off sys.path: its `nodes` would hide the host's

PACK = "instdiffedit"


@functools.cache
def load_pack() -> ModuleType:
    """The pack, in a host that runs on the GPU where there is one. Exits with one line where there is no host."""
    try:
        sys.path.insert(0, str(host_path()))
    except pytest.skip.Exception as why:
        raise SystemExit(str(why)) from None
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
    return pack
