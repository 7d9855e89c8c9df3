"""Models exported now, by whatever versions are installed: ``pytest -m models``.

Needs torch and iree-turbine; families whose framework is missing are skipped by name. The versions
of the archived models are in ``generate/requirements.txt``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import iree.runtime as rt
import numpy as np
import pytest

from corpus.generate.exported import Generator
from iree_flashattn.compiling import LOCAL, compile_module

FAMILIES = {
    "torch": ("torch", "iree.turbine"),
    "transformers": ("transformers", "iree.turbine"),
    "diffusers": ("diffusers", "iree.turbine"),
    "jax": ("jax", "flax"),
    "onnx": ("onnx",),
    "torch_onnx": ("onnx", "onnxscript", "iree.turbine"),
}


def models() -> list:
    found = []
    for family, needs in FAMILIES.items():
        missing = [name for name in needs if _missing(name)]
        if missing:
            reason = f"{family} models need {', '.join(missing)}"
            found.append(pytest.param(None, id=family, marks=pytest.mark.skip(reason=reason)))
            continue
        generators = import_module(f"corpus.generate.{family}_models").MODELS
        found += [pytest.param(make, id=f"{family}-{name}") for name, make in generators.items()]
    return found


def _missing(name: str) -> bool:
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:
        return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Importing frameworks takes seconds: only where these tests were asked for.
    wanted = "models" in (metafunc.config.getoption("-m") or "")
    skip = pytest.mark.skip(reason="exports models with the installed frameworks: pytest -m models")
    metafunc.parametrize("make", models() if wanted else [pytest.param(None, marks=skip)])


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")
def test_model(make: Generator) -> None:
    model = make()
    input_type = ["--iree-input-type=stablehlo"] if "stablehlo." in model.mlir else []
    done = compile_module(
        model.mlir, flags=[*LOCAL, *input_type], options={"IREE_FLASHATTN_GATE": "off"}
    )
    assert sum(site["matched"] for site in done.sites) == model.sites, done.sites
    if not model.sites:
        return
    config = rt.Config("local-sync")
    context = rt.SystemContext(config=config)
    context.add_vm_module(rt.VmModule.copy_buffer(config.vm_instance, done.vmfb))
    module = next(m for name, m in context.modules.items() if name != "hal")
    outputs = module[model.entry](*model.inputs)
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    for got, wanted in zip(outputs, model.outputs, strict=True):
        error = np.abs(got.to_host() - wanted).max() / max(1.0, np.abs(wanted).max())
        assert error < 1e-4
