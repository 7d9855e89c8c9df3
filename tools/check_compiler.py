"""Checks an IREE compiler against all that the compiler plugin takes for granted about it.

    python tools/check_compiler.py            the iree.compiler of this interpreter
    python tools/check_compiler.py --json

Prints one line a fact and, where one fails, what a port to that compiler has to change. Needs a C++
compiler ($CXX, else c++). Exit status 1 if a fact fails. CONTRIBUTING.md, "A new IREE version".
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "plugin" / "compiler"
EMPTY_MODULE = "func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> { return %x : tensor<4xf32> }\n"

# What the probe says in a compiler whose classes have the shape of plugin_abi.h, in the native tool
# and for a program without custom input types.
EXPECTED_CALLS = [
    "registrar buckets=(nil) count=0 items=0 item_size=16",
    "globalInitialize",
    "registerPasses",
    "registerGlobalDialects",
    "initializeCLI",
    "createUninitializedSession",
    "getActivationPolicy",
    "registerDialects",
    "onActivate with a context",
    "populateHALTargetDevices",
    "populateHALTargetBackends",
    "extendInputConversionPreprocessingPassPipeline",
    "extendPreprocessingPassPipeline",
    "registerDialects",
    "populateDetectedCustomInputConversionTypes",
]


@dataclass
class Fact:
    name: str
    holds: bool
    found: str
    remedy: str


def compiler_folder() -> Path:
    import iree.compiler._mlir_libs as libs

    return Path(libs.__path__[0])


def declared_symbols() -> list[str]:
    """The C functions that mlir_c.h declares, and so the plugin may call."""
    text = (PLUGIN / "mlir_c.h").read_text()
    return sorted(set(re.findall(r"\b((?:mlir[A-Z]|ireeCompiler[A-Z])\w*)\(", text)))


def expected_hash() -> str:
    match = re.search(r"kAbiHash = 0x([0-9a-f]+)", (PLUGIN / "plugin_abi.h").read_text())
    assert match
    return match[1].zfill(16)


def build_probe(folder: Path, *defines: str) -> Path:
    library = folder / f"probe{len(defines)}.so"
    subprocess.run(
        [
            *(os.environ.get("CXX", "c++"), "-std=c++17", "-shared", "-fPIC", "-fno-exceptions"),
            *("-fno-rtti", "-fvisibility=hidden", f"-I{PLUGIN}", *defines),
            *(str(ROOT / "tools" / "plugin_probe.cc"), "-o", str(library)),
        ],
        check=True,
    )
    return library


def run_probe(tool: Path, library: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / "empty.mlir"
    source.write_text(EMPTY_MODULE)
    environment = {k: v for k, v in os.environ.items() if k != "IREE_LOAD_PLUGINS"}
    return subprocess.run(
        [
            *(str(tool), f"--iree-load-plugin={library}", "--iree-plugin=flashattn_probe"),
            *("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=vmvx"),
            *(str(source), "-o", str(folder / "empty.vmfb")),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )


def check(libraries: Path) -> list[Fact]:
    sys.path.insert(0, str(ROOT / "python"))
    from iree_flashattn import compilers

    facts = []
    compiler = compilers.find_compiler([str(libraries.parents[1])])
    assert compiler is not None
    facts.append(
        Fact(
            "revision",
            compiler.supported,
            f"{compiler.version} at {compiler.revision or 'an unknown revision'}",
            "when all other facts hold: change SUPPORTED in compilers.py and the versions in"
            " pyproject.toml",
        )
    )

    library = ctypes.CDLL(str(libraries / "libIREECompiler.so"))
    missing = [name for name in declared_symbols() if not hasattr(library, name)]
    facts.append(
        Fact(
            "C API",
            not missing,
            f"missing: {', '.join(missing)}" if missing else f"{len(declared_symbols())} functions",
            "find what replaced them in the headers of mlir-c and change mlir_c.h",
        )
    )

    tool = libraries / "iree-compile"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        refused = run_probe(tool, build_probe(folder, "-DPROBE_ABI_HASH=0"), folder)
        match = re.search(r"this compiler has ([0-9a-f]{16})", refused.stderr)
        found = match[1] if match else "not told: " + refused.stderr.strip()[-300:]
        facts.append(
            Fact(
                "ABI hash",
                found == expected_hash(),
                found,
                "compare the compiler's plugin headers (PluginAPI) with plugin_abi.h, change what"
                " changed, then kAbiHash",
            )
        )
        accepted = run_probe(tool, build_probe(folder), folder)
        calls = re.findall(r"^\[probe\] (.*)$", accepted.stderr, re.MULTILINE)
        facts.append(
            Fact(
                "classes",
                accepted.returncode == 0 and calls == EXPECTED_CALLS,
                "; ".join(calls) or accepted.stderr.strip()[-300:],
                "the calls differ from EXPECTED_CALLS: compare the order of the virtual functions,"
                " and the members of llvm::StringMap, with plugin_abi.h",
            )
        )
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    options = parser.parse_args()
    facts = check(compiler_folder())
    if options.json:
        print(json.dumps([asdict(fact) for fact in facts], indent=2))
    else:
        for fact in facts:
            print(f"{'ok  ' if fact.holds else 'FAIL'} {fact.name}: {fact.found}")
            if not fact.holds:
                print(f"     -> {fact.remedy}")
    return 0 if all(fact.holds for fact in facts) else 1


if __name__ == "__main__":
    sys.exit(main())
