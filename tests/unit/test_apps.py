import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.apps import Rule, app_name, is_container, process_name
from esimbpf.errors import UsageError
from esimbpf.model import Process
from esimbpf.text import printable

USER = "/user.slice/user-1000.slice/user@1000.service"
ID = "1a2b3c4d5e6f" + "0123456789abcdef" * 3 + "0123"
UUID = "0f3c1a2b-1111-2222-3333-444455556666"


def process(*args: str, exe: str = "", comm: str = "", cgroup: str = "") -> Process:
    return Process(pid=812, start_ns=1, uid=1000, comm=comm, exe=exe, args=args, cgroup=cgroup)


def app_in(cgroup: str) -> str:
    return app_name(process("prog", exe="/usr/bin/prog", comm="prog", cgroup=cgroup))


def app_of(*args: str, exe: str = "") -> str:
    """App of a command line whose first word is the executable, started in a terminal."""
    comm = args[0].rpartition("/")[2].lstrip("-")
    return app_name(process(*args, exe=exe or f"/usr/bin/{comm}", comm=comm, cgroup=f"{USER}/session-3.scope"))


# --- units ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "app"),
    [
        ("app-gnome-org.gnome.Evince-4711.scope", "org.gnome.Evince"),
        ("app-org.gnome.Evince-4711.scope", "org.gnome.Evince"),
        ("app-org.gnome.Evince@12ab34.service", "org.gnome.Evince"),
        ("app-gnome-org.gnome.Evince@12ab34.service", "org.gnome.Evince"),
        ("app-org.kde.amarok.service", "org.kde.amarok"),
        ("app-KDE-org.kde.okular@12345.service", "org.kde.okular"),
        ("app-KDE-org.kde.okular-12345.service", "org.kde.okular"),
        ("app-org.kde.kate-40028973a9844b66a204587b06d23070.scope", "org.kde.kate"),
        (f"app-org.kde.kate-{UUID}.scope", "org.kde.kate"),
        ("app-discord-2909.scope", "discord"),
        ("app-org.example.Foo-bar-12.scope", "org.example.Foo-bar"),
        ("app-KDE-kate-2@ab12.service", "kate-2"),
        ("app-gnome-firefox-4242.scope", "firefox"),
        (r"app-gnome-google\x2dchrome-4821.scope", "google-chrome"),
        (r"app-google\x2dchrome@1234abcd.service", "google-chrome"),
        ("app-gnome-google-chrome-4821.scope", "google-chrome"),
        (r"app-gnome-org.gnome.Evolution\x2dalarm\x2dnotify-2437.scope", "org.gnome.Evolution-alarm-notify"),
        (r"app-gnome\x2dkeyring\x2dpkcs11@autostart.service", "gnome-keyring-pkcs11"),
        ("app-nextcloud-autostart.service", "nextcloud"),
        (r"app-glib-spice\x2dvdagent-1839.scope", "spice-vdagent"),
        ("app-flatpak-org.mozilla.firefox-1234.scope", "org.mozilla.firefox"),
        ("app-flatpak-org.telegram.desktop@12345.service", "org.telegram.desktop"),
        (r"app-gnome-\xc3\xa9diteur-12.scope", "éditeur"),
        ("dbus-:1.2-org.gnome.Calendar@0.service", "org.gnome.Calendar"),
        (r"app-dbus\x2d:1.3\x2dorg.gnome.Nautilus@0.service", "org.gnome.Nautilus"),
        ("app-dbus-:1.3-org.gnome.Nautilus@0.service", "org.gnome.Nautilus"),
        (f"snap.firefox.firefox-{UUID}.scope", "firefox"),
        (f"snap.slack.slack.{UUID}.scope", "slack"),
        (f"snap.chromium.hook.configure-{UUID}.scope", "chromium"),
        ("snap.lxd.daemon.service", "lxd"),
        ("syncthing.service", "syncthing"),
    ],
)
def test_a_unit_of_the_user_names_the_app(unit: str, app: str) -> None:
    assert app_in(f"{USER}/app.slice/{printable(unit)}") == app


@pytest.mark.parametrize(
    ("cgroup", "app"),
    [
        ("/system.slice/ModemManager.service", "ModemManager"),
        ("/system.slice/systemd-timesyncd.service", "systemd-timesyncd"),
        ("/system.slice/system-openvpn.slice/openvpn-client@home.service", "openvpn-client@home"),
        ("/system.slice/system-postgresql.slice/postgresql@15-main.service", "postgresql@15-main"),
        ("/system.slice/mosquitto.service/workers/1", "mosquitto"),
        (r"/system.slice/system-wg\x2dquick.slice/wg-quick@wg\x2d0.service", "wg-quick@wg-0"),
        ("/system.slice/rsync@4-10.0.0.1:873-10.0.0.2:55012.service", "rsync"),
        ("/system.slice/rsync@4-2001:db8::1:873-2001:db8::2:55012.service", "rsync"),
        ("/system.slice/varlink@7-1234-1000.service", "varlink"),
        (f"/system.slice/web.service/libpod-payload-{ID}", "web"),
        ("/rc/networkmanager", "networkmanager"),
        ("/openrc.modemmanager", "modemmanager"),
        ("/services/dnsmasq/cfg01411c", "dnsmasq"),
    ],
)
def test_a_service_names_the_app(cgroup: str, app: str) -> None:
    assert app_in(cgroup) == app


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "/",
        "/init.scope",
        "/system.slice",
        "/user.slice/user-1000.slice/session-3.scope",
        "/user.slice/user-1000.slice/session-c1.scope",
        USER,
        f"{USER}/init.scope",
        f"{USER}/app.slice",
        f"{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-{UUID}.scope",
        f"{USER}/app.slice/app-org.gnome.Terminal.slice/gnome-terminal-server.service",
        f"{USER}/app.slice/ptyxis-spawn-{UUID}.scope",
        f"{USER}/app.slice/tmux-spawn-{UUID}.scope",
        f"{USER}/app.slice/app-org.kde.konsole-4514.scope",
        f"{USER}/app.slice/app-org.kde.konsole-4514.scope/tab(4529).scope",
        f"{USER}/app.slice/app-org.kde.konsole@4514.service",
        f"{USER}/app.slice/app-gnome-kitty-12.scope",
        f"{USER}/app.slice/app-gnome-Alacritty-12.scope",
        f"{USER}/app.slice/app-com.mitchellh.ghostty.service",
        f"{USER}/app.slice/app-ghostty-surface-transient-1.scope",
        f"{USER}/app.slice/app-flatpak-app.devsuite.Ptyxis-828795.scope",
        USER + r"/app.slice/app-gnome-xdg\x2dterminal\x2dexec-12.scope",
        f"{USER}/app.slice/foot-server.service",
        f"{USER}/app.slice/dbus-:1.2-org.gnome.Console@0.service",
        f"{USER}/app.slice/snap.ghostty.ghostty-{UUID}.scope",
        f"{USER}/app.slice/run-u12.service",
        f"{USER}/app.slice/run-r{ID[:32]}.scope",
        "/system.slice/run-p1234-i5678.service",
        "/system.slice/run-4711.service",
        "/system.slice/system-getty.slice/getty@tty1.service",
        "/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyS0.service",
        "/system.slice/ssh.service",
        "/system.slice/sshd.service",
        "/system.slice/system-sshd.slice/sshd@0-10.0.0.1:22-10.0.0.2:50000.service",
        "/system.slice/dropbear.service",
        "/system.slice/cron.service",
        "/system.slice/crond.service",
        "/system.slice/atd.service",
        "/system.slice/dbus.service",
        "/system.slice/dbus-broker.service",
        "/system.slice/gdm.service",
        "/system.slice/rc-local.service",
        "/system.slice/supervisor.service",
        "/system.slice/pm2-root.service",
        "/rc/sshd",
        "/openrc.greetd",
        "/services/dropbear/instance1",
        "/lxc.monitor.web",
        f"/machine.slice/libpod-conmon-{ID}.scope",
    ],
)
def test_where_anything_may_run_a_program_is_named_by_itself(cgroup: str) -> None:
    assert app_in(cgroup) == "prog"


@pytest.mark.parametrize(
    ("cgroup", "app"),
    [
        (f"/system.slice/docker-{ID}.scope", "docker:1a2b3c4d5e6f"),
        (f"/docker/{ID}", "docker:1a2b3c4d5e6f"),
        (f"/system.slice/docker-{ID}.scope/system.slice/nginx.service", "docker:1a2b3c4d5e6f"),
        (f"{USER}/user.slice/libpod-{ID}.scope/container", "podman:1a2b3c4d5e6f"),
        (f"/machine.slice/libpod-{ID}.scope", "podman:1a2b3c4d5e6f"),
        (f"/libpod_parent/libpod-{ID}", "podman:1a2b3c4d5e6f"),
        (f"/user.slice/user-1000.slice/session-3.scope/libpod-payload-{ID}", "podman:1a2b3c4d5e6f"),
        (f"/kubepods.slice/kubepods-pod12.slice/crio-{ID}.scope", "crio:1a2b3c4d5e6f"),
        (f"/kubepods.slice/kubepods-pod12.slice/cri-containerd-{ID}.scope", "containerd:1a2b3c4d5e6f"),
        (f"/system.slice/kubepods-pod12.slice:cri-containerd:{ID}", "containerd:1a2b3c4d5e6f"),
        (f"/kubepods/besteffort/pod74c13223-5a00-11e9-b385-42010a80018d/{ID}", "kubernetes:1a2b3c4d5e6f"),
        (f"/default/{ID}", "container:1a2b3c4d5e6f"),
        ("/lxc.payload.web/system.slice/nginx.service", "lxc:web"),
        ("/lxc/101/ns/init.scope", "lxc:101"),
        ("/machine.slice/machine-web.scope/payload/system.slice/nginx.service", "machine:web"),
        (r"/machine.slice/machine-web\x2d1.scope", "machine:web-1"),
        ("/machine.slice/systemd-nspawn@web.service/payload/init.scope", "machine:web"),
        (r"/machine.slice/machine-qemu\x2d6\x2dvm\x2d1.scope/libvirt/emulator", "qemu:vm-1"),
    ],
)
def test_a_container_is_one_app(cgroup: str, app: str) -> None:
    assert app_in(printable(cgroup)) == app
    assert is_container(app)


@pytest.mark.parametrize("app", ["docker", "docker:", "firefox", "org.gnome.Maps", "a:b", ""])
def test_other_apps_are_no_containers(app: str) -> None:
    assert not is_container(app)


@pytest.mark.parametrize(
    ("exe", "app"),
    [
        ("/snap/certbot/4182/bin/python3.12", "certbot"),
        ("/var/lib/snapd/snap/hello/42/bin/hello-world", "hello"),
        ("/snap/core22/1122/usr/bin/curl", "curl"),
        ("/snap/snapd/2/usr/lib/snapd/snapd", "snapd"),
    ],
)
def test_an_executable_out_of_a_snap_is_the_snap(exe: str, app: str) -> None:
    assert app_name(process("x", exe=exe, comm="x")) == app


def test_a_systemd_service_comes_before_the_snap_of_its_executable() -> None:
    assert app_name(process("x", exe="/snap/nginx/1/bin/nginx", cgroup="/system.slice/web.service")) == "web"


# --- interpreters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "app"),
    [
        ("python3 sync.py", "sync.py"),
        ("/opt/venv/bin/python3.11 /srv/app/sync.py --once", "sync.py"),
        ("python -u -W ignore -X dev sync.py -c x", "sync.py"),
        ("python -Wignore -Xdev -uB sync.py", "sync.py"),
        ("python -Wignore sync.py", "sync.py"),
        ("python -m http.server 8000", "http.server"),
        ("python -um http.server", "http.server"),
        ("python -mpip install x", "pip"),
        ("python3 -W error -m celery worker", "celery"),
        ("python3 --check-hash-based-pycs always sync.py", "sync.py"),
        ("python3 -- -odd.py", "-odd.py"),
        ("python3 /srv/app/", "app"),
        ("python3 /usr/bin/yt-dlp URL", "yt-dlp"),
        ("pypy3.9 sync.py", "sync.py"),
        ("env python3 sync.py", "sync.py"),
        ("/usr/bin/env -i -u HOME A=b python3 -u sync.py", "sync.py"),
        ("sh script.sh", "script.sh"),
        ("bash -eu -o pipefail ./deploy.sh prod", "deploy.sh"),
        ("bash -euo pipefail deploy.sh", "deploy.sh"),
        ("bash +x --rcfile /dev/null deploy.sh", "deploy.sh"),
        ("-bash deploy.sh", "deploy.sh"),
        ("fish -C setup deploy.fish", "deploy.fish"),
        ("perl -w -I lib -MData::Dumper sync.pl", "sync.pl"),
        ("perl -T /usr/bin/ddclient -daemon 300", "ddclient"),
        ("ruby -r json -Ilib -W0 bin/rails server", "rails"),
        ("ruby3.1 --encoding utf-8 sync.rb", "sync.rb"),
        ("php -d memory_limit=1G artisan queue:work", "artisan"),
        ("php8.2 -f sync.php", "sync.php"),
        ("php --file=sync.php x", "sync.php"),
        ("lua5.4 -l socket sync.lua", "sync.lua"),
        ("lua -e x=1 sync.lua", "sync.lua"),
        ("luajit -O3 -j off sync.lua", "sync.lua"),
        ("node server.js", "server.js"),
        ("node --max-old-space-size=512 -r dotenv/config --env-file .env server.js", "server.js"),
        ("node --no-warnings --loader ts-node/esm server.ts", "server.ts"),
        ("node /usr/bin/npm install", "npm"),
        ("deno run --allow-net -c deno.json main.ts", "main.ts"),
        ("deno run -A https://deno.land/std/http/file_server.ts", "file_server.ts"),
        ("deno run -R=/etc main.ts", "main.ts"),
        ("deno main.ts", "main.ts"),
        ("bun run --preload ./x.ts server.ts", "server.ts"),
        ("java -Xmx1g -jar /opt/x.jar --port 1", "x.jar"),
        ("java -cp a.jar:b.jar -Dx=y org.example.Main", "org.example.Main"),
        ("java --class-path=a.jar org.example.Main", "org.example.Main"),
        ("java -p mods -m org.example/org.example.Main", "org.example.Main"),
        ("java --module=org.example", "org.example"),
        ("dotnet /srv/app/Gateway.dll --urls x", "Gateway.dll"),
        ("dotnet exec --runtimeconfig a.json Gateway.dll", "Gateway.dll"),
        ("mono --debug Radarr.exe -nobrowser", "Radarr.exe"),
        ("tclsh8.6 -encoding utf-8 sync.tcl", "sync.tcl"),
        ("expect -f dial.exp", "dial.exp"),
        ("gjs -m /usr/bin/org.gnome.Weather", "org.gnome.Weather"),
        ("busybox sh /etc/init.d/modem start", "modem"),
    ],
)
def test_an_interpreter_is_named_by_its_script(args: str, app: str) -> None:
    assert app_of(*args.split()) == app


@pytest.mark.parametrize(
    ("args", "app"),
    [
        ("python3 -c print(1) sync.py", "python3"),
        ("python3 -uc print(1)", "python3"),
        ("python3 -", "python3"),
        ("python3 -i", "python3"),
        ("python3", "python3"),
        ("python3 -W", "python3"),
        ("python3 -m", "python3"),
        ("python3 .", "python3"),
        ("sh -c curl example.org", "sh"),
        ("bash -lc curl", "bash"),
        ("bash -ec curl", "bash"),
        ("bash -s arg", "bash"),
        ("bash /dev/fd/63", "bash"),
        ("-bash", "bash"),
        ("perl -e code", "perl"),
        ("perl -Mutf8 -lane code", "perl"),
        ("perl -CSDE code x", "perl"),
        ("ruby -e code x", "ruby"),
        ("php -r code x", "php"),
        ("node -e code x", "node"),
        ("node --eval code x", "node"),
        ("node -pe code", "node"),
        ("node --run start", "node"),
        ("lua -e code", "lua"),
        ("deno task start", "deno"),
        ("deno eval code", "deno"),
        ("bun install left-pad", "bun"),
        ("java -version", "java"),
        ("java @options Main", "java"),
        ("dotnet run --project x", "dotnet"),
        ("expect -c code", "expect"),
    ],
)
def test_an_interpreter_without_a_script_is_named_by_itself(args: str, app: str) -> None:
    assert app_of(*args.split()) == app


def test_nothing_is_guessed_when_the_command_line_is_unknown() -> None:
    assert app_name(process(exe="/usr/bin/python3.11", comm="python3")) == "python3.11"


def test_nothing_is_guessed_when_the_program_overwrote_its_command_line() -> None:
    assert app_of("gunicorn: master", "[shop.wsgi]", exe="/usr/bin/python3.11") == "python3.11"
    assert app_of("npm run start", exe="/usr/bin/node") == "node"


def test_a_script_that_ended_before_its_command_line_was_read_is_known_by_its_command_name() -> None:
    assert app_name(process(exe="/usr/bin/python3.11", comm="sync.py")) == "sync.py"


def test_a_command_name_that_may_be_cut_off_is_no_script_name() -> None:
    assert app_name(process(exe="/usr/bin/python3.11", comm="sync-photos2.py")) == "python3.11"


def test_the_script_of_an_interpreter_whose_executable_is_unknown_is_still_known() -> None:
    assert app_name(process("python3", "sync.py", comm="python3")) == "sync.py"


def test_a_script_in_a_service_is_named_by_the_service() -> None:
    assert app_name(process("python3", "x.py", exe="/usr/bin/python3", cgroup="/system.slice/hass.service")) == "hass"


# --- executables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "app"),
    [
        (process("curl", "-O", "x", exe="/usr/bin/curl", comm="curl"), "curl"),
        (process(exe="/usr/bin/curl (deleted)", comm="curl"), "curl"),
        (process("/proc/self/exe", exe="/usr/lib/chromium/chromium", comm="ThreadPoolForeg"), "chromium"),
        (process(exe="/usr/libexec/gnome-software-service", comm="gnome-software-"), "gnome-software-service"),
        (process("wget", "-q", "x", exe="/bin/busybox", comm="wget"), "wget"),
        (process("/bin/busybox", "wget", "x", exe="/bin/busybox", comm="busybox"), "wget"),
        (process(exe="/bin/busybox", comm="wget"), "wget"),
        (process("busybox", exe="/bin/busybox", comm="busybox"), "busybox"),
        (process("-sh", exe="/bin/busybox", comm="sh"), "sh"),
        (process("env", "curl", "x", exe="/usr/bin/env", comm="env"), "curl"),
        (process("env", "", exe="", comm="env"), "env"),
        (process(comm="mystery"), "mystery"),
        (process(), "unknown"),
    ],
)
def test_what_has_no_other_name_is_named_by_its_executable(subject: Process, app: str) -> None:
    assert app_name(subject) == app


# --- rules ----------------------------------------------------------------------------------------------

PLEX = process(
    "/usr/lib/plex/Plex Media Server",
    "--port",
    "32400",
    exe="/usr/lib/plex/Plex Media Server (deleted)",
    comm="Plex Media Serv",
    cgroup="/system.slice/plex.service",
)


@pytest.mark.parametrize(
    "rule",
    [
        Rule("Plex", exe="/usr/lib/plex/*"),
        Rule("Plex", exe="/usr/lib/plex/Plex Media Server"),
        Rule("Plex", cgroup="*/plex.service"),
        Rule("Plex", comm="Plex Media Serv"),
        Rule("Plex", args="*--port 32400"),
        Rule("Plex", exe="*plex*", cgroup="/system.slice/*", comm="Plex*", args="*"),
    ],
)
def test_a_rule_that_fits_comes_before_all_else(rule: Rule) -> None:
    assert app_name(PLEX, [Rule("Other", comm="other"), rule, Rule("Late", exe="*")]) == "Plex"


@pytest.mark.parametrize(
    "rule",
    [
        Rule("Plex", exe="/usr/lib/plex"),
        Rule("Plex", comm="plex media serv"),
        Rule("Plex", exe="/usr/lib/plex/*", comm="nginx"),
        Rule("Plex", args="--port 32400"),
    ],
)
def test_a_rule_names_nothing_that_misses_one_of_its_patterns(rule: Rule) -> None:
    assert app_name(PLEX, [rule]) == "plex"


def test_what_is_unknown_fits_no_pattern() -> None:
    assert app_name(process(comm="x"), [Rule("A", exe="*"), Rule("B", args="*"), Rule("C", cgroup="*")]) == "x"


@pytest.mark.parametrize(("name", "pattern"), [("", "x"), ("Plex", ""), ("\x1b[31m", "x"), ("a\nb", "x")])
def test_a_rule_that_cannot_work_is_refused_with_a_hint(name: str, pattern: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Rule(name, exe=pattern)
    assert refusal.value.hint
    assert str(refusal.value).isprintable()


# --- names of processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (process("curl", exe="/usr/bin/curl", comm="curl"), "curl"),
        (process(exe="/usr/bin/python3.11", comm="python3"), "python3"),
        (process(exe="/usr/lib/firefox/firefox", comm="Isolated Web Co"), "Isolated Web Co"),
        (
            process(exe="/usr/libexec/gnome-software-service (deleted)", comm="gnome-software-"),
            "gnome-software-service",
        ),
        (process("/usr/bin/a-very-long-applet", exe="/bin/busybox", comm="a-very-long-app"), "a-very-long-applet"),
        (
            process(exe="/usr/bin/ein-längerer-name", comm=printable("ein-längerer-name".encode()[:15])),
            "ein-längerer-name",
        ),
        (process(exe="/usr/bin/日本語テスト", comm=printable("日本語テスト".encode()[:15])), "日本語テスト"),
        (process(exe="/usr/bin/curl"), "curl"),
        (process(comm="mystery"), "mystery"),
        (process(), "unknown"),
    ],
)
def test_a_process_is_named_by_its_command_name_in_full(subject: Process, name: str) -> None:
    assert process_name(subject) == name


# --- the kernel's own account ---------------------------------------------------------------------------


def running(*command: str, cwd: Path) -> Process:
    """What /proc says of a command that has started and printed a line."""
    with subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        proc = Path("/proc") / str(child.pid)
        args = proc.joinpath("cmdline").read_bytes().split(b"\0")[:-1]
        return process(
            *map(printable, args),
            exe=printable(os.readlink(proc / "exe")),
            comm=printable(proc.joinpath("comm").read_bytes().removesuffix(b"\n")),
        )


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    python = tmp_path / "sync.py"
    python.write_text(f"#!{sys.executable}\nprint('ready', flush=True)\ninput()\n")
    python.chmod(0o755)
    shell = tmp_path / "sync.sh"
    shell.write_text("#!/bin/sh\necho ready\nread _\n")
    shell.chmod(0o755)
    return tmp_path


def test_a_running_python_script_is_the_app(scripts: Path) -> None:
    assert app_name(running(sys.executable, "-u", "sync.py", "x", cwd=scripts)) == "sync.py"


def test_a_running_module_is_the_app(scripts: Path) -> None:
    assert app_name(running(sys.executable, "-m", "sync", cwd=scripts)) == "sync"


def test_a_running_shell_script_is_the_app(scripts: Path) -> None:
    assert app_name(running("sh", "sync.sh", cwd=scripts)) == "sync.sh"


@pytest.mark.parametrize("script", ["sync.py", "sync.sh"])
def test_a_script_that_is_executed_itself_is_the_app_and_lends_the_process_its_name(scripts: Path, script: str) -> None:
    found = running(f"./{script}", cwd=scripts)
    assert app_name(found) == script
    assert process_name(found) == script
    assert found.comm == script


def test_a_running_program_with_a_hostile_name_has_a_harmless_one(tmp_path: Path) -> None:
    hostile = tmp_path / os.fsdecode(b"\x1b[31m\xff\n[bold red]x")
    shell = shutil.which("sh")
    assert shell
    shutil.copy(shell, hostile)
    found = running(str(hostile), "-c", "echo ready; read _", cwd=tmp_path)
    assert app_name(found) == process_name(found) == r"\x1b[31m\xff\x0a[bold red]x"


# --- any process ----------------------------------------------------------------------------------------

RAW = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"python3", b"sh", b"java", b"env", b"busybox", b"-c", b"-m", b"--", b"-", b"node", b"deno", b"run", b"x.py"]
    ),
)
CGROUP_PARTS = st.one_of(
    RAW,
    st.sampled_from(
        [b"app-", b".scope", b".service", b"snap.", b"machine-", b"docker-", b"lxc", b"app-\\x1b\\xff-1.scope", b"rc"]
    ),
)
PROCESSES = st.builds(
    lambda comm, exe, args, parts: process(
        *map(printable, args),
        comm=printable(comm[:15]),
        exe=printable(b"/".join(exe)),
        cgroup="/" + "/".join(map(printable, parts)),
    ),
    st.binary(max_size=15),
    st.lists(RAW, max_size=3),
    st.lists(RAW, max_size=5),
    st.lists(st.lists(CGROUP_PARTS, max_size=3).map(b"".join), max_size=4),
)


@given(PROCESSES)
def test_any_process_has_harmless_names(subject: Process) -> None:
    for name in (app_name(subject), process_name(subject)):
        assert name
        assert name.isprintable()
        assert unicodedata.category(name[0]) not in ("Mn", "Me")
