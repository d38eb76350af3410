"""The programs that are measured: each runs the same plugin for the same hosts, once for each host.

Each has `run`, which measures that. The other monitors also have `idle`, which measures a start and an end
with nothing to do.
"""

from __future__ import annotations

import contextlib
import grp
import importlib.util
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

from frame import ENVIRONMENT, PYTHON, Bench, Failed, Usage, descendants, run
from local_nodes import CHECKOUT, LocalNode, Place, run_as
from peers import Unpacked, loader

ADDRESSES = [f"127.0.0.{number}" for number in (71, 72, 73)]
PORT = 29290
_POLL = 0.02  # seconds


class Plugin:
    """The plugin: two lines of sh. When counted, it also writes down which host it ran for."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "check_ok"
        self._ran = directory / "ran"
        self._ran.touch()
        self._ran.chmod(0o666)
        self.count(False)

    def count(self, wanted: bool) -> None:
        """From now on write down, or do not, the host of each run."""
        self._ran.write_text("")
        self.path.write_text(
            "#!/bin/sh\n" + (f'echo "$1" >>{self._ran}\n' if wanted else "") + "echo OK fine\n"
        )
        self.path.chmod(0o755)

    def ran(self) -> list[str]:
        return self._ran.read_text().split()


def hosts(tests: int) -> list[str]:
    return [f"h{number:05}.example.com" for number in range(tests)]


class Floor:
    """A C program that runs the plugins one after the other, and does nothing else."""

    name = "floor in C"

    def __init__(self, bench: Bench, plugin: Plugin, tests: int) -> None:
        self.version = run(["cc", "--version"]).splitlines()[0]
        self._command = [str(bench.directory / "floor"), str(tests), str(plugin.path)]
        self._measure = bench.measure

    def run(self, cgroup: Path | None = None) -> Usage:
        return self._measure(self._command, cgroup=cgroup)


class Copy(Place):
    """The programs of this checkout, with their modules compiled, as the package installs them."""

    def __init__(self, bench: Bench, name: str) -> None:
        directory = bench.directory / name
        directory.mkdir()
        super().__init__(directory)
        # With -I in their first line they look for modules in the system's directories only.
        where = f"import sys\nsys.path[:0] = {[str(directory), *_elsewhere()]!r}\n"
        for program in (directory / "bin").iterdir():
            first, _, rest = program.read_text().partition("\n")
            program.write_text(f"{first}\n{where}{rest}")
        run([PYTHON, "-m", "compileall", "-q", str(directory / "dmonitor")])


def _elsewhere() -> list[str]:
    """Return the directory of lockfile and daemon if the system has none, but tests/run has installed them."""
    if importlib.util.find_spec("lockfile") and importlib.util.find_spec("daemon"):
        return []
    found = [
        str(path.parent)
        for path in (CHECKOUT / ".venv").glob("lib/python3*/site-packages/lockfile")
    ]
    if not found:
        raise Failed(
            "this needs python3-lockfile and python3-daemon: as root install them, else first run: sh tests/run"
        )
    return found


class Dmonitor:
    """dmonitor-check, as cron runs it: a round, with the state of the round before. Its daemon is not counted.

    With `peers`, nodes.txt has two more nodes, which finish a round before each of ours. All daemons must run
    then; they and the peers are not counted either. Ours is the last node by name, because the first one would
    stay half a minute to greet again.
    """

    def __init__(
        self,
        bench: Bench,
        plugin: Plugin,
        tests: int,
        *,
        peers: bool = False,
        name: str = "dmonitor-check",
    ) -> None:
        self.name, self._bench = name, bench
        place = Copy(bench, f"{name.replace(' ', '-').replace(',', '')}-{tests}")
        program = place.directory / "bin" / "dmonitor-check"
        self.version = run([str(program), "--version"]).split()[-1]
        nodes = ADDRESSES if peers else ADDRESSES[:1]
        self.nodes = [LocalNode(place, address, nodes, port=PORT) for address in nodes]
        self._programs: dict[LocalNode, str] = {}
        for node in self.nodes:
            # cron starts it without an option. So the program itself says where its directories are.
            where = (
                f"cli.Options.config, cli.Options.state = {str(node.config)!r}, {str(node.state)!r}"
            )
            own = place.program(f"check-{node.address}", program.read_text())
            own.write_text(
                own.read_text().replace(
                    "\nmain()", f"\nfrom dmonitor.base import cli\n{where}\nmain()"
                )
            )
            self._programs[node] = str(own)
            node.mail()
            for host in hosts(tests):
                node.test(f"{host}/ok")
            (node.config / "plugins" / "check_ok").hardlink_to(plugin.path)
            self._round(node, "--once")  # the first round makes the state

    def run(self, cgroup: Path | None = None) -> Usage:
        for peer in self.nodes[:-1]:
            self._round(peer, "--once")
        return self._round(self.nodes[-1], cgroup=cgroup)

    def compiled(self) -> list[str]:
        """Run a round; return the modules that it had to compile. The program itself does not count."""
        self._round(self.nodes[-1], python=(PYTHON, "-I", "-v"))
        output = self._bench.output()
        if "code object from" not in output:
            raise Failed("python3 -v does not say what it compiled")
        return re.findall(r"^# code object from '?([^'\n]+\.py)'?$", output, re.MULTILINE)

    def _round(
        self,
        node: LocalNode,
        *options: str,
        python: tuple[str, ...] = (),
        cgroup: Path | None = None,
    ) -> Usage:
        return self._bench.measure([*python, self._programs[node], *options], cgroup=cgroup)


class Nagios:
    """Nagios Core, in the foreground: all checks are due at its start; it is ended after the last result.

    No host is checked; nothing is notified, retained, logged for each check, or written to a status file.
    """

    name = "Nagios Core"

    def __init__(self, bench: Bench, plugin: Plugin, tests: int) -> None:
        package = Unpacked("nagios4-core", bench.directory)
        self.version = package.version
        self._program = package.file("usr/sbin/nagios4")
        self._plugin, self._tests = plugin, tests
        self._measure = bench.measure
        self._directory = bench.directory / "nagios"

    def run(self, cgroup: Path | None = None) -> Usage:
        return self._start(self._tests, checks=True, cgroup=cgroup)

    def idle(self, *, loaded: bool) -> Usage:
        """Start and end it: with the configuration of `run`, but checks switched off, or with one service."""
        return self._start(self._tests if loaded else 1, checks=False)

    def _start(self, tests: int, *, checks: bool, cgroup: Path | None = None) -> Usage:
        _anew(self._directory)
        main = self._directory / "nagios.cfg"
        main.write_text(
            _NAGIOS.format(
                directory=self._directory, user=run_as().pw_name, group=_group(), checks=int(checks)
            )
        )
        services = "".join(_NAGIOS_SERVICE.format(host=host) for host in hosts(tests))
        (self._directory / "objects.cfg").write_text(
            _NAGIOS_OBJECTS.format(plugin=self._plugin.path) + services
        )
        expected = tests if checks else 0
        return self._measure(
            [str(self._program), str(main)],
            meanwhile=lambda pid: self._end(pid, expected),
            cgroup=cgroup,
        )

    def _end(self, pid: int, expected: int) -> float | None:
        """End it as soon as it has the results of `expected` checks; return how long that took, in seconds."""
        began = time.monotonic()
        while Path(f"/proc/{pid}/exe").exists():
            running, started = self._jobs()
            if (running, started) == (0, expected):
                wall = time.monotonic() - began
                _terminate(pid)
                return wall
            if started > expected:
                raise Failed(f"Nagios started {started} checks, not {expected}")
            time.sleep(_POLL)
        return None

    def _jobs(self) -> tuple[int, int]:
        """Return how many jobs run and how many were started; (0, -1) before it answers."""
        said = b""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(5)
            asking.connect(str(self._directory / "nagios.qh"))
            asking.sendall(b"#wproc wpstats\0")
            while data := asking.recv(65536):
                said += data
        found = re.findall(rb"jobs_running=(\d+);jobs_started=(\d+)", said)
        return (
            (sum(int(one) for one, _ in found), sum(int(two) for _, two in found))
            if found
            else (0, -1)
        )


_NAGIOS = """\
log_file={directory}/nagios.log
cfg_file={directory}/objects.cfg
object_cache_file=/dev/null
precached_object_file=/dev/null
status_file={directory}/status.dat
status_update_interval=3600
nagios_user={user}
nagios_group={group}
query_socket={directory}/nagios.qh
lock_file={directory}/nagios.pid
temp_file={directory}/nagios.tmp
temp_path={directory}
check_result_path={directory}
illegal_macro_output_chars=`~$
execute_service_checks={checks}
execute_host_checks=0
check_external_commands=0
retain_state_information=0
use_syslog=0
enable_notifications=0
enable_event_handlers=0
enable_flap_detection=0
process_performance_data=0
enable_environment_macros=0
use_large_installation_tweaks=1
check_for_updates=0
check_for_orphaned_services=0
check_for_orphaned_hosts=0
check_service_freshness=0
check_host_freshness=0
service_inter_check_delay_method=n
service_interleave_factor=1
max_concurrent_checks=0
"""
_NAGIOS_OBJECTS = """\
define timeperiod {{
    timeperiod_name always
    alias always
    sunday 00:00-24:00
    monday 00:00-24:00
    tuesday 00:00-24:00
    wednesday 00:00-24:00
    thursday 00:00-24:00
    friday 00:00-24:00
    saturday 00:00-24:00
}}
define command {{
    command_name ok
    command_line {plugin} $HOSTNAME$
}}
define contact {{
    contact_name nobody
    host_notifications_enabled 0
    service_notifications_enabled 0
    host_notification_period always
    service_notification_period always
    host_notification_options n
    service_notification_options n
    host_notification_commands ok
    service_notification_commands ok
}}
"""
_NAGIOS_SERVICE = """\
define host {{
    host_name {host}
    address {host}
    max_check_attempts 1
    active_checks_enabled 0
    notifications_enabled 0
    check_period always
    contacts nobody
    notification_period always
    notification_interval 0
}}
define service {{
    host_name {host}
    service_description ok
    check_command ok
    check_interval 100000
    retry_interval 100000
    max_check_attempts 1
    check_period always
    notifications_enabled 0
    contacts nobody
    notification_period always
    notification_interval 0
}}
"""


class Icinga:
    """Icinga 2, in the foreground, with its checker only: all checks are due at its start (at_once.c).

    It is ended when it has started no process for a while. Its state then shows that each service was checked.
    """

    name = "Icinga 2"
    _STILL = 1.0  # seconds without a new process, or one that has gone

    def __init__(self, bench: Bench, plugin: Plugin, tests: int) -> None:
        package = Unpacked("icinga2-bin", bench.directory)
        self.version = package.version
        program = package.file("usr/lib/*/icinga2/sbin/icinga2")
        at_once = bench.compile("at_once", "at_once.so", "-shared", "-fPIC")
        self._bench, self._plugin, self._tests = bench, plugin, tests
        self._directory = bench.directory / "icinga"
        # Libraries are options of the loader, because each plugin would inherit an environment and pay for it.
        loading = [
            loader(program),
            "--library-path",
            package.libraries(),
            "--preload",
            str(at_once),
            "--argv0",
            "icinga2",
        ]
        options = [
            *(
                "--no-stack-rlimit",
                "daemon",
                "-c",
                str(self._directory / "icinga2.conf"),
                "-x",
                "warning",
            ),
            *(
                f"-D{name}={self._directory}/{name}"
                for name in ("DataDir", "LogDir", "CacheDir", "SpoolDir", "InitRunDir")
            ),
        ]
        self._command = [*loading, str(program), *options]
        self._environment = {
            **ENVIRONMENT,
            "ICINGA2_USER": run_as().pw_name,
            "ICINGA2_GROUP": _group(),
        }

    def run(self, cgroup: Path | None = None) -> Usage:
        return self._start(self._tests, checks=True, cgroup=cgroup)

    def idle(self, *, loaded: bool) -> Usage:
        """Start and end it: with the configuration of `run`, but checks switched off, or with nothing."""
        return self._start(self._tests if loaded else 0, checks=False)

    def _start(self, tests: int, *, checks: bool, cgroup: Path | None = None) -> Usage:
        _anew(self._directory, "DataDir", "LogDir", "CacheDir", "SpoolDir", "InitRunDir")
        objects = _ICINGA.format(plugin=self._plugin.path)
        enabled = str(checks).lower()
        objects += "".join(
            _ICINGA_SERVICE.format(host=host, enabled=enabled) for host in hosts(tests)
        )
        (self._directory / "icinga2.conf").write_text(objects)
        usage = self._bench.measure(
            self._command, meanwhile=self._end, environment=self._environment, cgroup=cgroup
        )
        results = (
            (self._directory / "DataDir" / "icinga2.state")
            .read_text()
            .count('"last_check_result":{')
        )
        if results != (tests if checks else 0):
            raise Failed(
                f"Icinga has results of {results} services, not of {tests if checks else 0}"
            )
        return usage

    def _end(self, pid: int) -> float | None:
        """End it when it has been still for a while; return how long it worked before, in seconds."""
        began = changed = time.monotonic()
        before: set[int] = set()
        while Path(f"/proc/{pid}/exe").exists():
            there = descendants(pid)
            # Two processes stay: one that works, and one that starts plugins for it.
            if there != before or len(there) < 2:
                before, changed = there, time.monotonic()
            elif time.monotonic() - changed > self._STILL:
                _terminate(pid)
                return changed - began
            time.sleep(_POLL)
        return None


_ICINGA = """\
const NodeName = "benchmark"
object CheckerComponent "checker" {{ }}
object CheckCommand "ok" {{ command = [ "{plugin}", "$host.name$" ] }}
"""
_ICINGA_SERVICE = """\
object Host "{host}" {{
    check_command = "ok"
    enable_active_checks = false
    enable_notifications = false
    enable_event_handler = false
    enable_perfdata = false
}}
object Service "ok" {{
    host_name = "{host}"
    check_command = "ok"
    check_interval = 365d
    retry_interval = 365d
    enable_active_checks = {enabled}
    enable_notifications = false
    enable_event_handler = false
    enable_perfdata = false
}}
"""


def _group() -> str:
    return grp.getgrgid(run_as().pw_gid).gr_name


def _anew(directory: Path, *below: str) -> None:
    """Make `directory` anew, with those `below` it, writable for the user that the monitors become."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
    for path in (directory, *(directory / name for name in below)):
        path.mkdir()
        shutil.chown(path, run_as().pw_uid, run_as().pw_gid)


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
