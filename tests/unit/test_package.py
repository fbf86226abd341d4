"""What the package promises of itself: its dependencies, its borders, its version, its licenses, what it ships."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.resources
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import esimbpf
import hatch_build
from esimbpf import errors, model

TOP = Path(__file__).parents[2]
SOURCES = sorted(Path(TOP, "esimbpf").rglob("*.py"))


def project() -> dict[str, Any]:
    return tomllib.loads(Path(TOP, "pyproject.toml").read_text())


def distributions(requirements: list[str]) -> set[str]:
    """The names in a list of requirements, as PEP 503 writes them."""
    return {normalized(re.split(r"[^\w.-]", one)[0]) for one in requirements}


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def imports(source: Path) -> Iterator[str]:
    """The modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source}: imports are absolute"
            assert node.module
            yield node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (str(one.value) for one in node.args[:1] if isinstance(one, ast.Constant))


def loaded_libraries(source: Path) -> Iterator[str]:
    """The shared objects that a file names in a call: ctypes.CDLL("libbpf.so.1")."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call):
            for one in node.args:
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and ".so" in one.value:
                    yield one.value


def test_the_lattice_library_of_pypi_that_is_named_bcc_is_never_required() -> None:
    declared = project()
    everything = [declared["project"]["dependencies"], declared["build-system"]["requires"]]
    everything += declared["dependency-groups"].values()
    everything += declared["project"].get("optional-dependencies", {}).values()
    for requirements in everything:
        assert requirements
        assert not distributions(requirements) & {"bcc", "pybcc", "bpfcc"}
    installed = importlib.metadata.requires("esimbpf")
    assert installed
    assert "bcc" not in distributions(installed)


def test_each_dependency_is_imported_and_each_import_is_a_dependency() -> None:
    imported = {module.partition(".")[0] for source in SOURCES for module in imports(source)}
    foreign = imported - set(sys.stdlib_module_names) - {"esimbpf", "bcc"}
    providers = importlib.metadata.packages_distributions()
    assert {normalized(one) for module in foreign for one in providers[module]} == distributions(
        project()["project"]["dependencies"]
    )


def test_only_the_kernel_package_asks_the_kernel() -> None:
    outside = [source for source in SOURCES if "kernel" not in source.relative_to(TOP).parts]
    assert len(outside) > 10
    for source in outside:
        asked = {module.partition(".")[0] for module in imports(source)} & {"bcc", "pyroute2"}
        assert (source.name, asked) == (source.name, set())
        assert not [library for library in loaded_libraries(source) if "bpf" in library or "bcc" in library], source


def test_libbpf_is_loaded_in_one_place() -> None:
    users = [source.name for source in SOURCES if any("libbpf" in one for one in loaded_libraries(source))]
    assert users == ["libbpf.py"]


def test_what_the_errors_export_is_their_whole_tree() -> None:
    tree = {name for name, one in vars(errors).items() if inspect.isclass(one) and issubclass(one, BaseException)}
    assert sorted(errors.__all__) == errors.__all__
    assert set(errors.__all__) == tree
    drawn = set(re.findall(r"^[ │├└─]*(\w+) ", (errors.__doc__ or "").split("\n\n")[1], re.MULTILINE))
    assert drawn == tree


def test_every_error_has_one_of_the_promised_exit_statuses() -> None:
    promised = {"EsimbpfError": 1, "UsageError": 2}
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.EsimbpfError)
        assert error.exit_status == promised.get(name, 3)


def test_the_model_exports_all_that_it_defines() -> None:
    defined = {
        name for name, one in vars(model).items() if getattr(one, "__module__", "") == model.__name__ and name[0] != "_"
    }
    assert set(model.__all__) == defined


def test_what_a_module_exports_it_has() -> None:
    exporting = [source for source in SOURCES if "\n__all__ = " in source.read_text()]
    assert len(exporting) > 10
    for source in exporting:
        parts = source.relative_to(TOP).with_suffix("").parts
        module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], source
        assert len(set(module.__all__)) == len(module.__all__), source


def test_importing_the_package_loads_no_library_and_opens_no_socket() -> None:
    program = (
        "import sys; before = set(sys.modules); import esimbpf, esimbpf.model, esimbpf.errors, esimbpf.cli;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "esimbpf" in loaded
    assert set(loaded) - set(sys.stdlib_module_names) == {"esimbpf"}


def test_the_version_is_the_changelogs_newest_and_the_installed_ones() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", Path(TOP, "CHANGELOG.md").read_text(), re.MULTILINE)
    newest = next(version for version in versions if version != "Unreleased")
    assert newest == esimbpf.__version__
    assert importlib.metadata.version("esimbpf") == esimbpf.__version__


def test_the_command_is_the_clis_entry() -> None:
    [script] = importlib.metadata.entry_points(group="console_scripts", name="esimbpf")
    assert script.value == "esimbpf.cli:main"
    assert callable(script.load())


def test_the_package_ships_its_compiled_programs_its_unit_and_each_schema() -> None:
    package = importlib.resources.files("esimbpf")
    elf = package.joinpath("kernel", "esimbpf.bpf.o").read_bytes()
    assert elf.startswith(b"\x7fELF")
    assert int.from_bytes(elf[18:20], sys.byteorder) == 247  # EM_BPF (linux/elf-em.h), in this machine's byte order
    assert package.joinpath("sinks", "jsonlines.schema.json").is_file()
    assert package.joinpath("service", "esimbpf.service").is_file()


def test_the_compiled_programs_keep_their_types_and_tell_nothing_of_their_builder() -> None:
    elf = importlib.resources.files("esimbpf").joinpath("kernel", "esimbpf.bpf.o").read_bytes()
    assert b".BTF\0" in elf
    assert b".BTF.ext\0" in elf
    assert b".debug_info" not in elf
    assert str(TOP).encode() not in elf


@pytest.mark.parametrize("source", sorted(Path(TOP, "bpf").glob("*.[ch]")), ids=lambda source: source.name)
def test_each_file_of_the_kernel_side_names_its_license(source: Path) -> None:
    assert "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause" in source.read_text().partition("\n")[0]


def test_every_license_that_is_named_is_there_to_read() -> None:
    assert project()["project"]["license"] == "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"
    for file, line in (
        ("LICENSE", "Apache License"),
        ("LICENSES/GPL-2.0-only.txt", "GNU GENERAL PUBLIC LICENSE"),
        ("LICENSES/BSD-2-Clause.txt", "Redistribution and use in source and binary forms"),
    ):
        assert line in Path(TOP, file).read_text()


@pytest.mark.parametrize(
    ("machine", "tags"),
    [
        ("x86_64", "linux_aarch64.linux_loongarch64.linux_ppc64le.linux_riscv64.linux_x86_64"),
        ("aarch64", "linux_aarch64.linux_loongarch64.linux_ppc64le.linux_riscv64.linux_x86_64"),
        ("s390x", "linux_s390x"),
        ("armv7l", "linux_armv7l"),
        ("mips64", "linux_mips64"),
    ],
)
def test_a_wheel_is_for_the_machines_that_its_programs_run_on(machine: str, tags: str) -> None:
    assert hatch_build.platforms(machine) == tags
