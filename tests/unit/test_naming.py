"""The kernel side's names of apps, compiled as an ordinary program, held against apps.py."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from esimbpf.apps import app_name
from esimbpf.kernel import abi
from esimbpf.kernel.naming import WORDS, app_hashes, cgroup_hash, exe_hash, name_hash, packed_words
from esimbpf.model import Process
from esimbpf.text import original, printable
from tests.unit import test_apps
from tests.unit.test_apps import PROCESSES, USER, process

HERE = Path(__file__).parent
BPF = HERE.parents[1] / "bpf"
NOT_KNOWN = 0


class Kernel:
    """The program, which names one process after the other."""

    def __init__(self, program: Path, words: Path) -> None:
        self._program = subprocess.Popen([program, words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, of: Process) -> tuple[int, int, int]:
        """The hashes of the app's name, of the executable's path and of the cgroup's."""
        assert self._program.stdin
        assert self._program.stdout
        self._program.stdin.write(record(of))
        self._program.stdin.flush()
        app, exe, cgroup = map(int, self._program.stdout.readline().split())
        return app, exe, cgroup

    def close(self) -> None:
        """End it."""
        self._program.communicate()


def record(of: Process) -> bytes:
    """The struct process that the kernel side would have written of a process."""
    exe, cgroup = (leaf_first(path) for path in (of.exe, of.cgroup))
    args = b"".join(original(arg) + b"\0" for arg in of.args)
    return abi.PROCESS.pack(
        *(of.start_ns, 0, 0, 0, 0, 0, 0, of.pid, of.uid),
        *(len(exe), len(cgroup), min(len(args), abi.ARGS_BYTES)),
        *(original(of.comm), exe[: abi.PATH_BYTES], cgroup[: abi.PATH_BYTES], args[: abi.ARGS_BYTES]),
    )


def leaf_first(path: str) -> bytes:
    return b"".join(name + b"\0" for name in reversed(original(path).split(b"/")) if name)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("naming")
    (folder / "words").write_bytes(b"".join(key + word for key, word in packed_words()))
    program = folder / "naming"
    subprocess.run(
        [
            "gcc",
            "-O1",
            "-g",
            "-fsanitize=undefined",
            "-fno-sanitize-recover=all",
            f"-I{BPF}",
            "-o",
            program,
            HERE / "naming.c",
        ],
        check=True,
    )
    running = Kernel(program, folder / "words")
    yield running
    running.close()


def test_there_is_room_for_all_words() -> None:
    assert len(list(packed_words())) <= WORDS


def cases(test: Any) -> list[Any]:
    """What a test of apps.py is parametrized with."""
    [mark] = (mark for mark in test.pytestmark if mark.name == "parametrize")
    return list(mark.args[1])


def in_cgroup(cgroup: str) -> Process:
    return process("prog", exe="/usr/bin/prog", comm="prog", cgroup=printable(cgroup))


def with_args(args: str) -> Process:
    words = args.split()
    comm = words[0].rpartition("/")[2].lstrip("-")
    return process(*words, exe=f"/usr/bin/{comm}", comm=comm, cgroup="/user.slice/session-3.scope")


UNITS = [f"{USER}/app.slice/{unit}" for unit, _ in cases(test_apps.test_a_unit_of_the_user_names_the_app)]
SERVICES = [cgroup for cgroup, _ in cases(test_apps.test_a_service_names_the_app)]
HOSTS = cases(test_apps.test_where_anything_may_run_a_program_is_named_by_itself)
CONTAINERS = [cgroup for cgroup, _ in cases(test_apps.test_a_container_is_one_app)]
SCRIPTS = [args for args, _ in cases(test_apps.test_an_interpreter_is_named_by_its_script)]
NO_SCRIPTS = [args for args, _ in cases(test_apps.test_an_interpreter_without_a_script_is_named_by_itself)]
PROGRAMS = [subject for subject, _ in cases(test_apps.test_what_has_no_other_name_is_named_by_its_executable)]

CUT_IDS = ("libpod-payload", "libpod-conmon")
NOT_FOLLOWED = re.compile(r"^(env|/usr/bin/env|deno|bun|java|dotnet|mono|tclsh8.6) | --(?!once)[a-z]+")


@pytest.mark.parametrize("cgroup", [*UNITS, *SERVICES, *HOSTS])
def test_a_cgroup_names_the_same_app(kernel: Kernel, cgroup: str) -> None:
    subject = in_cgroup(cgroup)
    if any(name in cgroup for name in CUT_IDS):
        assert kernel(subject)[0] == NOT_KNOWN
    else:
        assert kernel(subject)[0] in app_hashes(app_name(subject))


@pytest.mark.parametrize("cgroup", CONTAINERS)
def test_what_is_in_a_container_is_not_taken_for_another_app(kernel: Kernel, cgroup: str) -> None:
    assert kernel(in_cgroup(cgroup))[0] == NOT_KNOWN


@pytest.mark.parametrize("args", [*SCRIPTS, *NO_SCRIPTS])
def test_a_command_line_names_the_same_app_or_none(kernel: Kernel, args: str) -> None:
    subject = with_args(args)
    if NOT_FOLLOWED.search(args):
        assert kernel(subject)[0] == NOT_KNOWN
    else:
        assert kernel(subject)[0] in app_hashes(app_name(subject))


@pytest.mark.parametrize("subject", PROGRAMS)
def test_an_executable_names_the_same_app_or_none(kernel: Kernel, subject: Process) -> None:
    subject = replace(subject, exe=subject.exe.removesuffix(" (deleted)"))  # so /proc calls it, and the record does not
    unclear = not subject.exe or subject.comm == "env" or ("busybox" in subject.exe and not subject.args)
    assert kernel(subject)[0] in ({NOT_KNOWN} if unclear else app_hashes(app_name(subject)))


def test_what_a_command_line_had_no_room_for_is_not_guessed(kernel: Kernel) -> None:
    long = "x" * abi.ARGS_BYTES
    for args in (f"python3 {long}", f"python3 -W {long} sync.py", f"python3 /{long[:240]}/sync.py"):
        assert kernel(with_args(args))[0] == NOT_KNOWN
    assert kernel(with_args(f"python3 sync.py {long}"))[0] in app_hashes("sync.py")


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65, 255])
def test_names_of_any_length_have_the_same_hash(kernel: Kernel, length: int) -> None:
    name = "é" * (length // 2) + "x" * (length % 2)
    app, _, cgroup = kernel(process("x", exe=f"/{name}", cgroup=f"/{name}"))
    assert cgroup == (cgroup_hash(f"/{name}") if length < abi.PATH_BYTES - 1 else cgroup)
    assert app == name_hash(name.encode())


@pytest.mark.parametrize("depth", [1, 2, 15, 16])
def test_paths_have_the_same_hash(kernel: Kernel, depth: int) -> None:
    path = "".join(f"/folder {n}" for n in range(depth))
    _, exe, cgroup = kernel(process("x", exe=f"{path}/x", cgroup=path))
    assert (exe, cgroup) == (exe_hash(f"{path}/x"), cgroup_hash(path))


def test_a_path_that_is_not_whole_is_no_other(kernel: Kernel) -> None:
    path = "".join(f"/a name of some length, number {n}" for n in range(9))
    _, exe, cgroup = kernel(process("x", exe=path, cgroup=path))
    assert exe == 0
    assert cgroup not in [cgroup_hash(path[at:]) for at in range(len(path)) if path[at] == "/"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(PROCESSES)
def test_no_process_is_taken_for_another_app(kernel: Kernel, subject: Process) -> None:
    # No name has a NUL in it, and no machine is elsewhere than in machine.slice. All of `run-` is taken for transient,
    # and a unit's escapes that systemd would not write so for another app's.
    # What /proc calls deleted, the record does not.
    assume(not subject.exe.endswith(" (deleted)"))
    assume(b"\0" not in b"".join(map(original, (subject.exe, subject.cgroup, *subject.args))))
    assume(b"\\x" not in original(subject.cgroup) and not app_name(subject).startswith(("machine:", "run-")))
    assert kernel(subject)[0] in {NOT_KNOWN} | app_hashes(app_name(subject))
