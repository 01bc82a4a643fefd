"""Builds the compiled loops (src/polyseme/kernels/c/*.c) into one library, where there is a C compiler.

Without one the package is installed all the same and goes by torch's own operations, to the same result but slower.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script, to build in place
    BuildHookInterface = object

PACKAGE = Path("src/polyseme")
FOLDER = PACKAGE / "kernels"
SOURCES = tuple(f"kernels/c/{name}.c" for name in ("kernels", "int8", "attention", "denormals"))
# What may change the last bits of a sum, but none of the rules for NaN and infinity.
FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
FLAGS += ("-fassociative-math", "-ffp-contract=fast")
X86 = {"x86-64-v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"), "x86-64-v3": ("-march=x86-64-v3",)}


def build(root: Path) -> list[str]:
    """Compile every level that the compiler knows; the paths of what was made, relative to `root`."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform == "win32":
        print("polyseme: no C compiler found; torch's own operations will be used", file=sys.stderr)
        return []
    levels: dict[str, tuple[str, ...]] = {"base": ()}
    if platform.machine().lower() in {"x86_64", "amd64"}:
        levels |= X86
    made: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for level, options in levels.items():
            new, target = Path(folder) / level, FOLDER / f"_kernels_{level}.so"
            sources = [str(root / PACKAGE / name) for name in SOURCES]
            command = [compiler, *FLAGS, *options, f"-I{root / FOLDER / 'c'}", "-o", str(new), *sources, "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"polyseme: {' '.join(command)} failed:\n{done.stderr}", file=sys.stderr)
                continue
            # Never written over: a process that has loaded the old one keeps it.
            (root / target).unlink(missing_ok=True)
            shutil.move(new, root / target)
            made.append(str(target))
    return made


class CustomBuildHook(BuildHookInterface):
    """Makes wheels of the platform they were built on; an editable install finds the libraries beside the source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        made = build(Path(self.root))
        if made and version != "editable":
            build_data["artifacts"] += made
            build_data["pure_python"] = False
            # Of a platform, but of no Python: the libraries know nothing of it.
            build_data["tag"] = "py3-none-" + re.sub(r"[-.]", "_", sysconfig.get_platform())


if __name__ == "__main__":
    print("\n".join(build(Path(__file__).parent)))
