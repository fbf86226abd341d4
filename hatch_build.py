"""What the package's build does beyond copying files: it compiles the eBPF programs, and says where they run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OBJECT = "esimbpf/kernel/esimbpf.bpf.o"

# The compiled programs are the same for all machines of one byte order and word size (see scripts/build), which is
# more than a tag of one architecture says and less than `any` does. These are the machines whose numbers the
# loader knows (esimbpf/kernel/libbpf.py); elsewhere a wheel is for the kind of machine that it was built on.
ALIKE = (
    ("aarch64", "loongarch64", "ppc64le", "riscv64", "x86_64"),
    ("s390x",),
)


class Programs(BuildHookInterface[Any]):
    """Compiles the programs into a wheel, and beside the sources for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, ship the object though git ignores it, and name the machines that it is for."""
        done = subprocess.run(["sh", Path(self.root, "scripts", "build")], capture_output=True, text=True, check=False)
        if done.stderr:
            self.app.display_warning(done.stderr.rstrip())
        if done.returncode:
            self.app.abort("the eBPF programs were not compiled; the lines above say why")
        build_data["artifacts"].append(OBJECT)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platforms(os.uname().machine)}"


def platforms(machine: str) -> str:
    """The platform tags for programs compiled on a machine (PEP 425's compressed set)."""
    alike = next((group for group in ALIKE if machine in group), (machine,))
    return ".".join(f"linux_{name}" for name in alike)
