"""Another version of esimbpf, with other structures: this checkout's copy, patched, compiled, and run for real."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.live.attached import ENVIRONMENT

CHECKOUT = Path(__file__).parents[2]
PATCHES = {
    "bpf/abi.h": [
        ("#define ESIMBPF_ABI_VERSION 1", "#define ESIMBPF_ABI_VERSION 7"),
        ("FIRST_PROCESS_SLOT = 16", "FIRST_PROCESS_SLOT = 24"),
        ("struct usage {\n", "struct usage {\n\t__u64 spare;\n"),
        ("sizeof(struct usage) == 32", "sizeof(struct usage) == 40"),
        ("#define USAGES_PER_BLOCK 64", "#define USAGES_PER_BLOCK 32"),
        ("sizeof(struct usage_block) == 2048", "sizeof(struct usage_block) == 1280"),
        ("\t__u32 tgid;\n\t__u32 uid;", "\t__u32 uid;\n\t__u32 tgid;"),
    ],
    "esimbpf/kernel/abi.py": [
        ("VERSION: Final = 1", "VERSION: Final = 7"),
        ('USAGE: Final = struct.Struct("=4Q")', 'USAGE: Final = struct.Struct("=8x4Q")'),
        ("USAGES_PER_BLOCK: Final = 64", "USAGES_PER_BLOCK: Final = 32"),
        ('struct.Struct(f"={4 * USAGES_PER_BLOCK}Q")', 'struct.Struct(f"={5 * USAGES_PER_BLOCK}Q")'),
        ('"exe_device", "tgid", "uid"', '"exe_device", "uid", "tgid"'),
    ],
    "esimbpf/snapshot.py": [("FIRST_PROCESS_SLOT: Final = 16", "FIRST_PROCESS_SLOT: Final = 24")],
}


def make(copy: Path) -> Path:
    """Make a checkout of another version in an empty folder, and compile it."""
    for folder in ("bpf", "esimbpf", "scripts"):
        shutil.copytree(CHECKOUT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
    for name, patches in PATCHES.items():
        text = (copy / name).read_text()
        for old, new in patches:
            assert text.count(old) == 1, f"{name}: {old}"
            text = text.replace(old, new)
        (copy / name).write_text(text)
    subprocess.run([copy / "scripts" / "build"], check=True)
    return copy


def theirs(other: Path) -> dict[str, str]:
    return {**ENVIRONMENT, "PYTHONPATH": str(other), "PYTHONDONTWRITEBYTECODE": "1"}
