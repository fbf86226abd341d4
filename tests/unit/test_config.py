"""What is made of a configuration file, a wrong or an untrusted one included."""

from __future__ import annotations

from pathlib import Path

import pytest

from esimbpf import config
from esimbpf.apps import Rule
from esimbpf.config import Config
from esimbpf.errors import CannotError, UsageError
from esimbpf.hooks import Hook
from esimbpf.quota import Action, App, Quota, QuotaPer, Then

TWO_RULES = """
[[app]]
name = "Backup"
exe = "/usr/bin/restic"
args = "*--repo sftp:*"

[[app]]
name = "Telemetry"
cgroup = "*/telemetry.service"
"""

QUOTA = "[[quota]]\napp = 'backup'\nlimit = '1GB'\nper = 'day'\ndo = 'block'\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    path = tmp_path / "config.toml"
    path.write_text(TWO_RULES)
    path.chmod(0o644)
    return path


def test_rules_are_read_in_their_order(file: Path) -> None:
    assert config.read(file) == Config(
        apps=(
            Rule("Backup", exe="/usr/bin/restic", args="*--repo sftp:*"),
            Rule("Telemetry", cgroup="*/telemetry.service"),
        )
    )


def test_the_default_file_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none.toml")
    assert config.read() == Config()


def test_the_default_file_is_read_if_it_is_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", file)
    assert [rule.name for rule in config.read().apps] == ["Backup", "Telemetry"]


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CannotError, match="there is no configuration file"):
        config.read(tmp_path / "none.toml")


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    for odd in (tmp_path, loop):
        with pytest.raises(CannotError, match="cannot read the configuration file"):
            config.read(odd)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(CannotError, match="is not trusted") as refused:
        config.read(file)
    assert refused.value.hint == f"chown root {file}; chmod go-w {file}"


def test_a_file_in_a_folder_that_others_can_write_is_refused(file: Path) -> None:
    file.parent.chmod(0o777)
    with pytest.raises(CannotError, match="is not trusted") as refused:
        config.read(file)
    assert str(file.parent) in refused.value.hint
    file.parent.chmod(0o1777)
    assert config.read(file).apps


def test_the_file_behind_a_link_is_the_one_that_counts(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    real = file.rename(folder / "config.toml")
    file.symlink_to(real)
    with pytest.raises(CannotError, match="is not trusted"):
        config.read(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[app]\n", "not TOML"),
        ("[[ap]]\nname = 'x'\n", "the file has an unknown key: ap"),
        ("app = 3\n", "`app` must be a list of tables"),
        ("app = ['x']\n", "`app` must be a list of tables"),
        ("[[app]]\nname = 'x'\nexe = '/x'\n[[app]]\nname = 'y'\nexec = 'z'\n", "number 2 has an unknown key: exec"),
        ("[[app]]\nname = 'x'\nexe = 7\n", "exe of .* number 1 is 7, and no text"),
        ("[[app]]\nname = 'x'\n", "number 1: the app rule for 'x' has no pattern"),
        ("[[app]]\nexe = '/x'\n", "number 1: an app rule has no usable name"),
        ('[[app]]\nname = "\\u001b[2J"\nexe = "/x"\n', "number 1: an app rule has no usable name"),
        ("quota = 3\n", "`quota` must be a list of tables"),
        ("[[quota]]\nname = 'x'\nlimt = '1GB'\n", "quota.* number 1 has an unknown key: limt"),
        (f"{QUOTA}name = 'x'\n{QUOTA}name = 'y'\nuser = 'root'\n", "number 2: whom it is for is said 2 times"),
        (f"{QUOTA}name = 'x'\n{QUOTA}name = 'x'\n", "number 2: name 'x' is taken by .* number 1"),
        (f"{QUOTA}name = 'x'\nwarn = ['a']\n", r"number 1: warn \['a'\] is no list of percentages"),
        ("".join(f"{QUOTA}name = '{n}'\n" for n in range(9)), "too many quotas are for the same"),
        (f"{QUOTA}name = 7\n", "number 1: name 7 is no text"),
        (f"{QUOTA}name = 'x'\nall = 1\n", "number 1: all 1 is neither true nor false"),
        ('["\\u001b[2J"]\n', r"unknown key: \\x1b\[2J"),
    ],
)
def test_what_nobody_understands_is_an_error_that_says_where(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        config.read(file)
    assert refused.value.message.startswith(str(file))
    assert refused.value.hint


def test_what_is_no_text_is_an_error(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        config.read(file)
    file.write_bytes(b"#" * (1 << 21))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        config.read(file)


def test_an_empty_file_says_nothing() -> None:
    assert config.parse("") == Config()


def test_the_example_in_the_docstring_is_one() -> None:
    example = (config.__doc__ or "").split("\n\n", 1)[1]
    assert config.parse(example) == Config(
        apps=(Rule("Backup", exe="/usr/bin/restic"),),
        quotas=(
            Quota(*("backup", App("Backup"), "1GB", QuotaPer.DAY, Action(Then.BLOCK)), place="[[quota]] number 1"),
        ),
        hooks=(Hook("tell-me", ("/usr/local/bin/tell-me", "--quietly"), events=("quota.*", "plan.exhausted")),),
    )
