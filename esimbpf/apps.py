r"""Names of apps and of processes.

People think in apps. `app_name` names the app that a process belongs to by the first of these that gives one:

1. A rule of the config.
2. The container that holds it: `docker:1a2b3c4d5e6f`, `lxc:web`, `machine:web`. Only the id is in a cgroup's
   path, not the name, except with LXC and systemd's machines. A unit inside a container is the container's.
3. The systemd unit (the deepest in the cgroup's path), the Flatpak, the Snap; on systems without systemd the
   service that OpenRC or procd (OpenWrt) put it in.
       app-gnome-org.gnome.Evince-4711.scope, app-org.gnome.Evince@12ab.service    org.gnome.Evince
       app-flatpak-org.mozilla.firefox-1234.scope                                  org.mozilla.firefox
       snap.firefox.firefox-<uuid>.scope, snap.lxd.daemon.service                  firefox, lxd
       dbus-:1.2-org.gnome.Calendar@0.service                                      org.gnome.Calendar
       ModemManager.service, openvpn-client@home.service                           ModemManager, openvpn-client@home
   Units that host whatever a person or a timetable starts say nothing about the app: login sessions, the user
   manager, terminals and their tabs, multiplexers, getty, ssh, cron, D-Bus, display managers and compositors,
   process supervisors, transient `systemd-run` units, and every scope that is no `app-*` one. A program
   started there goes on to the next rules, so `curl` in a terminal is `curl`.
4. The script that an interpreter runs: `python3 sync.py` is `sync.py`, `python3 -m http.server` is
   `http.server`, `java -jar x.jar` is `x.jar`. With code on the command line or on stdin, with a command line
   that is unknown, cut off or overwritten by the program, nothing is guessed.
5. The executable's name; for busybox and its like, the applet's.
6. The command name; failing that, `unknown`.

Strings of a `Process` are printable text (see `text`), and so are the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag, auto
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType

from esimbpf.errors import UsageError
from esimbpf.model import Process
from esimbpf.text import original, printable

__all__ = [
    "UNKNOWN",
    "Meaning",
    "Rule",
    "Word",
    "app_name",
    "app_of_cgroup",
    "app_of_exe",
    "is_container",
    "own_cgroup",
    "process_name",
    "spellings",
    "words",
]

UNKNOWN = "unknown"
"""Shown where neither executable nor command name is known."""

_COMM_BYTES = 15
"""TASK_COMM_LEN without its NUL (include/linux/sched.h)."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Rule:
    """Names every process that fits all of its patterns.

    Patterns are shell globs over the whole of the printable text, in which `*` also matches `/`;
    `args` is matched against the arguments joined by one space each, the program's own name included.
    A pattern left empty is no condition; text that is unknown fits no pattern.
    Raises UsageError for a rule that names nothing or asks for nothing.
    """

    name: str
    exe: str = ""
    cgroup: str = ""
    comm: str = ""
    args: str = ""

    def __post_init__(self) -> None:
        if not self.name or printable(self.name) != self.name:
            raise UsageError(
                f"an app rule has no usable name: {printable(self.name)!r}",
                "Give the app a name of printable characters.",
            )
        if not (self.exe or self.cgroup or self.comm or self.args):
            raise UsageError(
                f"the app rule for {self.name!r} has no pattern and would name every process",
                "Give at least one of exe, cgroup, comm and args.",
            )

    def matches(self, process: Process) -> bool:
        """Whether `process` fits every pattern of this rule."""
        return (
            _fits(_living(process.exe), self.exe)
            and _fits(process.cgroup, self.cgroup)
            and _fits(process.comm, self.comm)
            and _fits(" ".join(process.args), self.args)
        )


def _fits(text: str, pattern: str) -> bool:
    return not pattern or (bool(text) and fnmatchcase(text, pattern))


def app_name(process: Process, rules: Sequence[Rule] = ()) -> str:
    """Name of the app that `process` belongs to, never empty; the first rule that matches wins.

    It depends on nothing but its arguments: keep the answer as long as the process.
    """
    for rule in rules:
        if rule.matches(process):
            return rule.name
    exe = _living(process.exe)
    return _cgroup_app(process.cgroup) or _snap_of_path(exe) or _program_app(process, exe)


def app_of_exe(path: str, rules: Sequence[Rule]) -> str:
    """App that a rule makes of every process of an executable, whatever else they are; empty if none does."""
    named = (rule for rule in rules if rule.exe and not (rule.cgroup or rule.comm or rule.args))
    return next((rule.name for rule in named if _fits(_living(path), rule.exe)), "")


def app_of_cgroup(path: str, rules: Sequence[Rule] = ()) -> str:
    """App that a rule, or else the path itself, makes of every process in a cgroup; empty if none does."""
    named = (rule for rule in rules if rule.cgroup and not (rule.exe or rule.comm or rule.args))
    return next((rule.name for rule in named if _fits(path, rule.cgroup)), "") or _cgroup_app(path)


def own_cgroup(path: str) -> str:
    """Of a cgroup's path, the part whose every process is of the app that it names; empty if it names none."""
    app = _cgroup_app(path)
    parts = path.split("/")
    parents = ("/".join(parts[:end]) for end in range(2, len(parts) + 1))
    return next((parent for parent in parents if _cgroup_app(parent) == app), "") if app else ""


def process_name(process: Process) -> str:
    """Name of the process's own row, never empty.

    The command name, as ps and top show it: programs set it to tell their processes apart. Where it is the
    executable's or argument zero's name cut to 15 bytes, that name in full.
    """
    exe = _basename(_living(process.exe))
    comm = original(process.comm)
    if len(comm) == _COMM_BYTES:
        for name in (exe, _argument_zero(process.args) if process.args else ""):
            if original(name).startswith(comm):
                return name
    return process.comm or exe or UNKNOWN


# --- what the cgroup says -------------------------------------------------------------------------------

_CONTAINER = re.compile(
    r"""(?: ^ | : )  # cri-containerd below a systemd slice without systemd's driver: SLICE:cri-containerd:ID
    (?: (?P<runtime> docker | libpod | crio | cri-containerd | containerd | nerdctl ) [-:] )?
    (?P<id> [0-9a-f]{12,64} ) (?: \.scope )? $""",
    re.VERBOSE,
)
_RUNTIME_NAMES = MappingProxyType({"libpod": "podman", "cri-containerd": "containerd"})
_FULL_ID = 64
_SHORT_ID = 12
"""Digits of an id that `docker ps` and `podman ps` show."""

_MACHINE = re.compile(r"(?:machine-(.+)\.scope|systemd-nspawn@(.+)\.service)$")
_LIBVIRT_MACHINE = re.compile(r"(qemu|lxc|xen|ch)-\d+-(.+)$")

_UUID = re.compile(r"[-.][0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_DBUS_ACTIVATED = re.compile(r"(?:dbus-)?:[\d.]+-(.+)$")
_TRANSIENT = re.compile(r"run-(?:u?\d+|r[0-9a-f]{32}|p\d+-i\d+)$")
"""Names that systemd-run makes up when it is given none."""

_CONNECTION = re.compile(r"\d+-(?:.*:\d+-.*:\d+|\d+-\d+)(?:_\d+)?$")
"""Instance of a service that its socket (`Accept=yes`) starts for each connection."""

_RANDOM = re.compile(r"\d+$|[0-9a-f]{8,}$")

_TERMINALS = _words(
    """
    alacritty blackbox contour console cool-retro-term cosmicterm debian-uxterm debian-xterm deepin-terminal foot
    foot-server footclient ghostty gnome-console gnome-terminal gnome-terminal-server guake hyper kgx kingscross
    kitty konsole lxterminal mate-terminal mlterm ptyxis qterminal rio roxterm rxvt sakura st terminal terminator
    terminology termite tilda tilix urxvt urxvtd uxterm warp wezterm wezterm-gui xdg-terminal-exec xfce4-terminal
    xterm yakuake
    """
)
"""Terminal emulators, by application id, its last part, or unit name, in lower case."""

_HOSTS = _words(
    """
    anacron at atd autovt busybox-crond console-getty container-getty cron crond cronie dcron fcron
    dbus dbus-broker dbus-daemon
    emergency rescue debug-shell getty serial-getty mingetty rc-local local
    dropbear ssh sshd sshd-session sshd-vsock telnet telnetd inetd inetutils-inetd openbsd-inetd xinetd
    mosh-server ttyd screen tmux zellij code-server
    user greetd gdm gdm3 lightdm lxdm ly nodm sddm slim tinydm xdm display-manager phosh
    cage hyprland labwc niri river sway wayfire weston wayland-wm
    vncserver tigervncserver xrdp xrdp-sesman chrome-remote-desktop
    runsvdir s6-svscan supervisor supervisord
    """
)
"""Services, without instance and in lower case, that run what others tell them to."""
_HOST_PREFIXES = ("pm2-",)


@lru_cache(maxsize=4096)
def _cgroup_app(cgroup: str) -> str:
    """App that a cgroup's path names; empty if none. Many processes share a path, so answers are kept."""
    parts = [part for part in cgroup.split("/") if part]
    return _container(parts) or _service_manager_app(parts) or _unit_app(parts) or _podman_payload(parts)


def _container(parts: Sequence[str]) -> str:
    """Name of the outermost container in a cgroup's path."""
    for above, part in zip(["", *parts], parts, strict=False):
        if match := _MACHINE.match(part):
            machine = _systemd_unescaped(match[1] or match[2])
            virtual = _LIBVIRT_MACHINE.match(machine)
            return f"{virtual[1]}:{virtual[2]}" if virtual else f"machine:{machine}"
        if part.startswith("lxc.payload."):
            return "lxc:" + part.removeprefix("lxc.payload.")
        if above in ("lxc", "lxc.payload"):
            return f"lxc:{part}"
        match = _CONTAINER.search(part)
        if match and (match["runtime"] or above == "docker" or len(match["id"]) == _FULL_ID):
            runtime = match["runtime"] or _runtime_of_bare_id(parts)
            return f"{_RUNTIME_NAMES.get(runtime, runtime)}:{match['id'][:_SHORT_ID]}"
    return ""


_CONTAINERS = _words("docker podman crio containerd nerdctl kubernetes container lxc machine qemu xen ch")


def is_container(app: str) -> bool:
    """Whether a container or a virtual machine has a name like this."""
    runtime, colon, name = app.partition(":")
    return runtime in _CONTAINERS and bool(colon and name)


def _runtime_of_bare_id(parts: Sequence[str]) -> str:
    for part in parts:
        if part == "docker":
            return "docker"
        if part.startswith("kubepods"):
            return "kubernetes"
    return "container"


def _podman_payload(parts: Sequence[str]) -> str:
    """`podman run --cgroups=split` below a unit that names no app; below a service, the service is the name."""
    for part in parts:
        if part.startswith("libpod-payload-"):
            return "podman:" + part.removeprefix("libpod-payload-")[:_SHORT_ID]
    return ""


def _service_manager_app(parts: Sequence[str]) -> str:
    """Service of OpenRC (`/rc/NAME`, older: `/openrc.NAME`) or of OpenWrt's procd (`/services/NAME/INSTANCE`)."""
    name = ""
    if parts and parts[0].startswith("openrc."):
        name = parts[0].removeprefix("openrc.")
    elif len(parts) > 1 and parts[0] in ("rc", "services"):
        name = parts[1]
    return "" if _is_host(name) else name


def _unit_app(parts: Sequence[str]) -> str:
    """App named by the deepest unit; slices and what units make below themselves are passed over."""
    for part in reversed(parts):
        stem, dot, suffix = part.rpartition(".")
        if not dot or suffix not in ("scope", "service"):
            continue
        if stem.startswith("app-"):
            return _desktop_app(stem.removeprefix("app-"), is_scope=suffix == "scope")
        if stem.startswith("snap."):
            snap = _systemd_unescaped(stem.split(".")[1])
            return "" if _is_terminal(snap) else snap
        return _service_app(stem) if suffix == "service" else ""
    return ""


def _desktop_app(name: str, *, is_scope: bool) -> str:
    """Application id in a desktop unit's name, here without `app-` and suffix.

    `app[-<launcher>]-<ApplicationID>-<RANDOM>.scope` and `app[-<launcher>]-<ApplicationID>[@<RANDOM>].service`
    (https://systemd.io/DESKTOP_ENVIRONMENTS/). Dashes in the id should be escaped as `\\x2d`; not all launchers do
    that, so only the first and the last part are taken for launcher and random part. Services of before
    systemd 248 have the random part after a dash.
    """
    name, at, _ = name.partition("@")
    stem = _UUID.sub("", name)
    parts = stem.split("-")
    random_is_last = stem == name and not at and len(parts) > 1
    if random_is_last and (is_scope or parts[-1] == "autostart" or _RANDOM.match(parts[-1])):
        parts.pop()
    if len(parts) > 1 and parts[0].isalnum():
        launcher, *parts = parts
        if _is_terminal(launcher):
            return ""  # kitty, Ghostty: `app-ghostty-surface-transient-123.scope` is a tab
    app = _systemd_unescaped("-".join(parts))
    if match := _DBUS_ACTIVATED.match(app):
        app = match[1]
    return "" if _is_terminal(app) else app


def _service_app(stem: str) -> str:
    name = _systemd_unescaped(stem)
    if match := _DBUS_ACTIVATED.match(name):
        name = match[1].partition("@")[0]
        return "" if _is_terminal(name) else name
    template, _, instance = name.partition("@")
    if _is_host(template) or _TRANSIENT.match(template):
        return ""
    return template if not instance or _CONNECTION.match(instance) else name


def _is_terminal(name: str) -> bool:
    folded = name.casefold()
    return folded in _TERMINALS or folded.rpartition(".")[2] in _TERMINALS


def _is_host(name: str) -> bool:
    folded = name.casefold()
    return folded in _HOSTS or folded.startswith(_HOST_PREFIXES) or _is_terminal(name)


def _systemd_unescaped(name: str) -> str:
    r"""Undo systemd's escaping of unit names: `\x2d` for a dash, and so on for any byte (systemd-escape(1))."""
    if "\\x" not in name:
        return name
    return printable(re.sub(rb"\\x([0-9a-fA-F]{2})", lambda match: bytes([int(match[1], 16)]), original(name)))


# --- what the executable says ---------------------------------------------------------------------------

_DELETED = " (deleted)"
"""What the kernel adds to the path of a file that was unlinked (fs/d_path.c), as upgrades do."""

_SNAP_PATH = re.compile(r"(?:/var/lib/snapd)?/snap/([^/]+)/[^/]+/")
_SNAP_BASES = re.compile(r"(?:core\d*|bare|snapd)$")
"""Snaps that hold the system which other snaps run on."""

_MULTI_CALL = frozenset(("busybox", "toybox", "coreutils"))


def _living(exe: str) -> str:
    return exe.removesuffix(_DELETED)


def _basename(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _snap_of_path(exe: str) -> str:
    match = _SNAP_PATH.match(exe)
    return match[1] if match and not _SNAP_BASES.match(match[1]) else ""


def _invocation(process: Process, exe: str) -> tuple[str, tuple[str, ...]]:
    """The program's own name and its command line: of the executable, or of the applet that it plays."""
    name, args = _basename(exe) or process.comm or UNKNOWN, process.args
    if name in _MULTI_CALL:
        if args and _basename(args[0]) == name and len(args) > 1 and not args[1].startswith("-"):
            args = args[1:]
        name = (_argument_zero(args) if args else process.comm) or name
    return name, args


def _argument_zero(args: Sequence[str]) -> str:
    return _basename(args[0]).lstrip("-")  # login(1) puts a dash before a shell's name


# --- what the interpreter's command line says -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _CommandLine:
    """Where an interpreter's command line has its script: what the options before it mean.

    Letters are short options and may stand together in one word; words are options that stand alone.
    An option not listed is taken for one without a value.
    """

    value: str = ""
    """Letters with a value: the rest of the word, or the next word."""
    attached: str = ""
    """Letters whose value is the rest of the word and never the next word."""
    code: str = ""
    """Letters that bring the program's text, or say that it comes on stdin: there is no script."""
    script: str = ""
    """Letters whose value is the script, or the module that is run as one."""
    value_words: frozenset[str] = frozenset()
    code_words: frozenset[str] = frozenset()
    script_words: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    """Subcommands that are followed by the script."""
    own: frozenset[str] = frozenset()
    """Subcommands in which the interpreter acts for itself."""
    suffixes: tuple[str, ...] = ()
    """What a script's name must end with, where another word could stand in its place."""
    prefixes: tuple[str, ...] = ("-",)
    clusters: bool = True
    """False where `-classpath` is one option and not nine letters."""


_PYTHON = _CommandLine(value="WXQ", code="c", script="m", value_words=_words("--check-hash-based-pycs --jit"))
_SHELL = _CommandLine(
    value="oO", code="cs", prefixes=("-", "+"), value_words=_words("--rcfile --init-file --emulate")
)  # bash(1), dash(1), zsh(1), ksh(1)
_FISH = _CommandLine(
    value="Cdfop",
    code="c",
    value_words=_words("--init-command --debug --debug-output --features --profile --profile-startup"),
    code_words=_words("--command"),
)
_PERL = _CommandLine(value="I", attached="MmFdxi", code="eE")  # perlrun(1)
_RUBY = _CommandLine(
    value="rICEX",
    attached="FKTWix",
    code="e",
    value_words=_words(
        "--encoding --external-encoding --internal-encoding --enable --disable --backtrace-limit --dump --parser"
    ),
)
_PHP = _CommandLine(
    value="cdztS",
    code="rRBE",
    script="fF",
    value_words=_words("--php-ini --define --zend-extension --docroot --server"),
    code_words=_words("--run --process-begin --process-code --process-end"),
    script_words=_words("--file --process-file"),
)
_LUA = _CommandLine(value="elj", attached="O", code="b")  # after -e the script still runs; -j, -O, -b are LuaJIT's
_NODE = _CommandLine(
    value="rC",
    code="ep",
    value_words=_words(
        """--require --import --loader --experimental-loader --conditions --env-file --env-file-if-exists --title
        --input-type --icu-data-dir --openssl-config --redirect-warnings --diagnostic-dir --disable-warning
        --disable-proto --dns-result-order --unhandled-rejections --max-http-header-size --inspect-port --debug-port
        --inspect-publish-uid --trace-event-categories --trace-event-file-pattern --trace-require-module
        --tls-cipher-list --tls-keylog --report-dir --report-directory --report-filename --report-signal
        --secure-heap --secure-heap-min --snapshot-blob --build-snapshot-config --cpu-prof-dir --cpu-prof-interval
        --cpu-prof-name --heap-prof-dir --heap-prof-interval --heap-prof-name --heapsnapshot-near-heap-limit
        --heapsnapshot-signal --test-concurrency --test-name-pattern --test-skip-pattern --test-reporter
        --test-reporter-destination --test-shard --test-timeout --use-largepages --v8-pool-size --watch-path
        --allow-fs-read --allow-fs-write --experimental-default-type --experimental-policy --policy-integrity
        --experimental-sea-config --experimental-config-file --localstorage-file
        --network-family-autoselection-attempt-timeout"""
    ),
    code_words=_words("--eval --print --run"),
    skipped=_words("inspect"),
)
_DENO = _CommandLine(
    value="cL",
    attached="NRWESIPr",
    value_words=_words(
        """--config --import-map --cert --location --seed --ext --preload --log-level --port --host --conditions"""
    ),
    skipped=_words("run serve test bench"),
    own=_words(
        """add approve-scripts audit bundle cache check clean compile completions coverage deploy doc eval fmt help
        info init install jupyter lint lsp outdated publish remove repl task types uninstall update upgrade vendor x"""
    ),
)
_BUN = _CommandLine(
    value="rFdl",
    attached="c",
    code="ep",
    value_words=_words(
        """--preload --require --import --cwd --env-file --port --define --loader --conditions --filter
        --tsconfig-override"""
    ),
    code_words=_words("--eval --print"),
    skipped=_words("run"),
    suffixes=(".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx"),
)
_JAVA = _CommandLine(
    clusters=False,
    value_words=_words(
        """-cp -classpath --class-path -p --module-path --upgrade-module-path --add-modules --add-exports --add-opens
        --add-reads --patch-module --limit-modules --enable-native-access --source -d --describe-module"""
    ),
    script_words=_words("-jar -m --module"),
)  # java(1)
_DOTNET = _CommandLine(
    value_words=_words(
        "--runtimeconfig --depsfile --additionalprobingpath --additional-deps --fx-version --roll-forward"
    ),
    skipped=_words("exec"),
    suffixes=(".dll", ".exe"),
)
_MONO = _CommandLine(value_words=_words("--config"), suffixes=(".exe", ".dll"))
_TCL = _CommandLine(clusters=False, value_words=_words("-encoding"))
_EXPECT = _CommandLine(value="D", code="c", script="f")
_GJS = _CommandLine(
    value="IC",
    code="c",
    value_words=_words("--include-path --coverage-prefix --coverage-output"),
    code_words=_words("--command"),
)

_INTERPRETERS: Mapping[str, _CommandLine] = MappingProxyType(
    {
        **dict.fromkeys(("python", "pypy", "micropython"), _PYTHON),
        **dict.fromkeys(("sh", "ash", "bash", "dash", "ksh", "mksh", "yash", "zsh"), _SHELL),
        "fish": _FISH,
        "perl": _PERL,
        **dict.fromkeys(("ruby", "truffleruby"), _RUBY),
        "php": _PHP,
        **dict.fromkeys(("lua", "luajit"), _LUA),
        **dict.fromkeys(("node", "nodejs"), _NODE),
        "deno": _DENO,
        "bun": _BUN,
        "java": _JAVA,
        "dotnet": _DOTNET,
        **dict.fromkeys(("mono", "mono-sgen"), _MONO),
        **dict.fromkeys(("tclsh", "wish"), _TCL),
        "expect": _EXPECT,
        **dict.fromkeys(("gjs", "gjs-console"), _GJS),
    }
)
_VERSION = re.compile(r"-?\d[\d.]*(?:t|-dbg|-beta\d+)?$")
_SCRIPT_SUFFIXES = (".py", ".sh", ".pl", ".rb", ".js", ".mjs", ".cjs", ".ts", ".php", ".lua", ".tcl")


def _interpreter(program: str) -> _CommandLine | None:
    return _INTERPRETERS.get(program) or _INTERPRETERS.get(_VERSION.sub("", program))


def _program_app(process: Process, exe: str) -> str:
    """Name of the script that the process runs, or of the program itself if it runs none or none is known."""
    program, args = _invocation(process, exe)
    if args and _basename(args[0]) == "env":
        args = tuple(_without_env(args))
        if program == "env" and args:
            program = _argument_zero(args) or program
    interpreter = _interpreter(program)
    if interpreter is None:
        return program
    return (_script_name(args, interpreter) if args else _script_of_comm(process.comm)) or program


def _script_name(args: Sequence[str], interpreter: _CommandLine) -> str:
    if _interpreter(_argument_zero(args)) is not interpreter:
        return ""  # the program wrote a title over its arguments
    script = _script(args[1:], interpreter)
    if script.startswith(("/dev/", "/proc/")):
        return ""  # a pipe: `bash <(curl …)` runs /dev/fd/63
    name = _basename(script)
    return "" if name in (".", "..") else name


def _script_of_comm(comm: str) -> str:
    """The script's file name, which the kernel makes the command name of a script that is executed itself.

    (fs/exec.c, begin_new_exec.) It is believed only if it is whole and looks like a script's.
    """
    return comm if comm.endswith(_SCRIPT_SUFFIXES) and len(original(comm)) < _COMM_BYTES else ""


def _without_env(args: Sequence[str]) -> Iterator[str]:
    """The command that env(1) runs."""
    words = iter(args[1:])
    for word in words:
        if word in ("-u", "-C", "--unset", "--chdir"):
            next(words, None)
        elif word.startswith(("-S", "--split-string")):
            text = word.partition("=")[2] if word.startswith("--") else word.removeprefix("-S")
            yield from (text or next(words, "")).split()
            break
        elif not word.startswith("-") and "=" not in word:
            yield word
            break
    yield from words


def _script(args: Sequence[str], options: _CommandLine) -> str:
    """The first word that is neither an option nor an option's value; empty if there is no script."""
    words = iter(args)
    for word in words:
        if word in ("", "-"):
            return ""
        if word == "--":
            return next(words, "")
        if word.startswith(options.prefixes):
            found = (_after_word if word.startswith("--") or not options.clusters else _after_letters)(
                word, words, options
            )
            if found is not None:
                return found
        elif word in options.own or (word.startswith("@") and options is _JAVA):
            return ""  # java: a file with further arguments, the main class perhaps among them
        elif word not in options.skipped:
            return word if not options.suffixes or word.endswith(options.suffixes) else ""
    return ""


def _after_word(word: str, words: Iterator[str], options: _CommandLine) -> str | None:
    name, equals, value = word.partition("=")
    if name in options.code_words:
        return ""
    if name in options.script_words:
        return value if equals else next(words, "")
    if name in options.value_words and not equals:
        next(words, None)
    return None


def _after_letters(word: str, words: Iterator[str], options: _CommandLine) -> str | None:
    for index, letter in enumerate(word[1:], start=1):
        rest = word[index + 1 :]
        if letter in options.code:
            return ""
        if letter in options.script:
            return rest or next(words, "")
        if letter in options.value:
            if not rest:
                next(words, None)
            return None
        if letter in options.attached:
            return None
    return None


# --- for those who name apps elsewhere ----------------------------------------------------------------------


class Meaning(IntFlag):
    """What a word says of a name that it is, or that it is a part of: enum word_meaning of bpf/abi.h."""

    SCOPE = auto()
    SERVICE = auto()
    DESKTOP = auto()
    SNAP = auto()
    TRANSIENT = auto()
    HOST_PREFIX = auto()
    RANDOM = auto()
    HOST = auto()
    TERMINAL = auto()
    CONTAINERS = auto()
    MANAGER = auto()
    MANAGER_PREFIX = auto()
    PIPES = auto()
    RUNNER = auto()
    MULTI_CALL = auto()
    INTERPRETER = auto()
    PLUS = auto()
    LONG = auto()
    NOT_FOLLOWED = auto()


@dataclass(frozen=True, slots=True)
class Word:
    """A word by which the kernel side (bpf/naming.h) finds an app's name as `app_name` does."""

    text: str
    meaning: Meaning
    options: int = 0
    """Of an interpreter, the same for those whose command lines are read alike; letters as `_CommandLine` has them."""
    value: str = ""
    attached: str = ""
    code: str = ""
    script: str = ""


_PARTS: Mapping[str, Meaning] = MappingProxyType(
    {
        "scope": Meaning.SCOPE,
        "service": Meaning.SERVICE,
        "app-": Meaning.DESKTOP,
        "snap": Meaning.SNAP,
        "run-": Meaning.TRANSIENT,
        **dict.fromkeys(_HOST_PREFIXES, Meaning.HOST_PREFIX),
        "autostart": Meaning.RANDOM,
        **dict.fromkeys(("machine.slice", "lxc", "lxc.payload", "lxc.payload."), Meaning.CONTAINERS),
        **dict.fromkeys(("rc", "services"), Meaning.MANAGER),
        "openrc.": Meaning.MANAGER_PREFIX,
        **dict.fromkeys(("/dev/", "/proc/"), Meaning.PIPES),
        **dict.fromkeys(_MULTI_CALL, Meaning.RUNNER | Meaning.MULTI_CALL),
        "env": Meaning.RUNNER | Meaning.NOT_FOLLOWED,
    }
)


def words() -> Iterator[Word]:
    """All words; those of HOST and TERMINAL are in lower case, and meant in any."""
    yield from (Word(text, meaning) for text, meaning in _PARTS.items())
    yield from (
        Word(text, Meaning((text in _HOSTS) * Meaning.HOST | (text in _TERMINALS) * Meaning.TERMINAL))
        for text in sorted(_HOSTS | _TERMINALS)
    )
    kinds = list(dict.fromkeys(map(id, _INTERPRETERS.values())))
    for text, options in _INTERPRETERS.items():
        followed = options.clusters and not options.suffixes and not options.own
        yield Word(
            text,
            Meaning.RUNNER
            | Meaning.INTERPRETER
            | Meaning.PLUS * ("+" in options.prefixes)
            | Meaning.LONG * bool(options.code_words or options.script_words)
            | Meaning.NOT_FOLLOWED * (not followed),
            kinds.index(id(options)) + 1,
            options.value,
            options.attached,
            options.code,
            options.script,
        )


def spellings(app: str) -> frozenset[bytes]:
    """An app's name as it may stand in a unit's name, and elsewhere: as it is, or as systemd escapes it."""
    name = original(app)
    template, at, instance = name.partition(b"@")
    return frozenset((name, _systemd_escaped(name), template + at + _systemd_escaped(instance)))


def _systemd_escaped(name: bytes) -> bytes:
    """What `_systemd_unescaped` undoes, but for slashes, which no app's name has (unit_name_escape() in systemd)."""
    return re.sub(rb"[^0-9A-Za-z:_.]|^\.", lambda match: b"\\x%02x" % match[0][0], name)
