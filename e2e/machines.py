"""Machines outside the cluster: each a network, process and mount namespace of its own, with a cable to the node.

A machine has an address of each family, routes to pods and Services through the node, and none to anywhere else. Its
disk is a folder: what it writes below /etc and /var/lib is there, over the real machine's. Nothing outlives the tests,
not even when they are killed: with the first process of a machine all its others end, and its cable is gone with them.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from e2e.cluster import network
from e2e.cluster.places import DNS_SERVICE, POD_RANGE, POD_RANGE_6, SERVICE_RANGE, SERVICE_RANGE_6
from e2e.kube import Json, eventually
from e2e.mesh import ROOT

GATEWAY, GATEWAY_6 = "198.51.100.1", "fd6d:7765:3265:51::1"
"""The node, as machines see it: of a range for documentation (RFC 5737), and unique local (RFC 4193)."""
RANGE = "198.51.100.0/24"
ANYBODY = pwd.getpwnam("nobody").pw_uid
"""Who runs the application."""
WRITABLE = ("/etc", "/var/lib")
PYTHON, MESHWRIGHT = "/opt/meshwright/bin/python3", "/opt/meshwright/bin/meshwright"
"""This test's own Python and packages, where a machine has them: what is in a home is nothing for an agent's user."""
SPLIT = "mw-split"
"""The nftables table of a network that is split."""

BOOT = r"""
set -e
for at in "$@"; do
  mount -t overlay overlay -o "lowerdir=$at,upperdir=$DISK/upper$at,workdir=$DISK/work$at" "$at"
done
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /opt
cd /opt
mkdir -p python meshwright .work .upper/bin
mount --bind "$BASE" python
for name in python python3 "$INTERPRETER"; do ln -s "/opt/python/bin/$INTERPRETER" .upper/bin/$name; done
printf 'home = /opt/python/bin\ninclude-system-site-packages = false\n' > .upper/pyvenv.cfg
printf '#!/opt/meshwright/bin/python3\nimport sys\nfrom meshwright.cli import main\nsys.exit(main())\n' \
  > .upper/bin/meshwright
chmod 755 .upper/bin/meshwright
mount -t overlay overlay -o "lowerdir=$VENV,upperdir=/opt/.upper,workdir=/opt/.work" meshwright
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad 2>/dev/null || :
ip link set lo up
echo up
exec >/dev/null
while :; do sleep 3600 & wait; done
"""
"""What the first process of a machine does. The others' children fall to it; it buries them."""

GET = """
import collections, http.client, json, sys, urllib.parse
parts, statuses, names = urllib.parse.urlsplit(sys.argv[1]), collections.Counter(), collections.Counter()
for _ in range(int(sys.argv[2])):
    try:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        status, name, last = str(answer.status), answer.getheader("x-app", ""), answer.read().decode()
        connection.close()
    except OSError as error:
        status, name, last = "error", "", str(error)
    statuses[status] += 1
    names[name] += 1
print(json.dumps({"statuses": statuses, "names": names, "last": last}))
"""
"""The test application's `get`, without what that takes long to import."""


class Machine:
    """One machine. It is off until it is booted. ``number``, from 10 to 99, decides its addresses."""

    def __init__(self, name: str, number: int, disk: Path) -> None:
        self.name = name
        self.disk = disk
        self.link = f"mw-vm-{number}"
        self.mac = f"02:00:00:00:00:{number}"
        self.ip = f"198.51.100.{number}"
        self.ip6 = f"fd6d:7765:3265:51::{number}"
        self.init: subprocess.Popen[str] | None = None
        self.programs: dict[str, subprocess.Popen[bytes]] = {}

    # ---- power ------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch it on, with what is on its disk."""
        assert self.init is None, f"{self.name} runs"
        self.write("/etc/resolv.conf", f"nameserver {DNS_SERVICE}\n")
        self.write("/etc/hostname", self.name + "\n")
        if not (self.disk / "upper/etc/machine-id").exists():
            self.write("/etc/machine-id", os.urandom(16).hex() + "\n")
        layers = (*WRITABLE, *closed_folders())
        for at in layers:
            for part in ("upper", "work"):
                (self.disk / f"{part}{at}").mkdir(parents=True, exist_ok=True)
        words = ["setpriv", "--pdeathsig", "KILL"]
        words += ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        words += ["sh", "-c", BOOT, "sh", *layers]
        environ = {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "DISK": str(self.disk),
            "BASE": sys.base_prefix,
            "VENV": sys.prefix,
            "INTERPRETER": Path(sys.executable).resolve().name,
        }
        self.init = subprocess.Popen(
            words, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.init.stdout is not None
        assert self.init.stdout.readline() == "up\n", f"{self.name} does not boot"
        self.plug_in(self.init.pid)

    def plug_in(self, pid: int) -> None:
        """Lay the cable, and the routes at both ends."""
        node = (
            f"ip route del blackhole {self.ip} 2>/dev/null; ip -6 route del blackhole {self.ip6} 2>/dev/null; set -e; "
            f"ip link add {self.link} type veth peer name eth0 address {self.mac} netns {pid}; "
            f"ip link set {self.link} up; ip addr add {GATEWAY}/32 dev {self.link}; "
            f"ip route add {self.ip} dev {self.link}; "
        )
        inside = (
            f"set -e; ip addr add {self.ip}/32 dev eth0; ip link set eth0 up; ip route add {GATEWAY} dev eth0; "
            + "".join(f"ip route add {to} via {GATEWAY} src {self.ip}; " for to in (RANGE, POD_RANGE, SERVICE_RANGE))
        )
        if not network.find_ipv6_obstacle():
            node += f"ip addr add {GATEWAY_6}/128 dev {self.link} nodad; ip -6 route add {self.ip6} dev {self.link}; "
            inside += f"ip addr add {self.ip6}/128 dev eth0 nodad; ip -6 route add {GATEWAY_6} dev eth0; " + "".join(
                f"ip -6 route add {to} via {GATEWAY_6}; " for to in (POD_RANGE_6, SERVICE_RANGE_6)
            )
        at_node("sh", "-c", node)
        self.run("sh", "-c", inside)

    def lose_power(self) -> None:
        """End all at once. Who sends it a packet hears nothing at all."""
        assert self.init is not None, f"{self.name} is off"
        os.kill(self.init.pid, signal.SIGKILL)
        self.init.wait()
        assert self.init.stdout is not None
        self.init.stdout.close()
        for program in self.programs.values():
            program.wait()
        self.init = None
        self.programs.clear()
        at_node(
            "sh",
            "-c",
            # The kernel takes the cable away a moment later, and its route with it.
            f"ip link del {self.link} 2>/dev/null; ip route replace blackhole {self.ip}; "
            f"ip -6 route replace blackhole {self.ip6} 2>/dev/null; :",
        )

    def remove(self) -> None:
        if self.init is not None:
            self.lose_power()
        at_node("sh", "-c", f"ip route del blackhole {self.ip}; ip -6 route del blackhole {self.ip6}; :")
        shutil.rmtree(self.disk)

    def clone_disk(self, of: "Machine") -> None:
        """Have what the other has on its disk, its identity too."""
        shutil.copytree(of.disk / "upper", self.disk / "upper", symlinks=True, dirs_exist_ok=True)
        for path in (of.disk / "upper").rglob("*"):
            there = path.lstat()
            os.chown(self.disk / path.relative_to(of.disk), there.st_uid, there.st_gid, follow_symlinks=False)

    # ---- files and programs -----------------------------------------------------------------------------------------

    def path(self, path: str) -> Path:
        """Return where a file below /etc or /var/lib that the machine has written is for us."""
        return self.disk / f"upper{path}"

    def write(self, path: str, text: str, *, mode: int = 0o644, uid: int = 0) -> None:
        """Write a file below /etc or /var/lib."""
        at = self.path(path)
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)
        at.chmod(mode)
        os.chown(at, uid, uid)

    def words(self, *argv: str, uid: int = 0) -> list[str]:
        assert self.init is not None, f"{self.name} is off"
        home = f"/proc/{self.init.pid}/ns"
        enter = ["nsenter", f"--net={home}/net", f"--mount={home}/mnt", f"--pid={home}/pid_for_children"]
        who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        environ = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
        return [*enter, "--", *who, *environ, *argv]

    def run(self, *argv: str, uid: int = 0, stdin: str = "", seconds: float = 60) -> str:
        """Return what a command prints. Raises AssertionError, with what it said, when it fails."""
        words = self.words(*argv, uid=uid)
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=seconds, check=False, cwd="/")
        assert done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}"
        return done.stdout

    def ask(self, *argv: str, uid: int = 0) -> str:
        """Return what a command prints, ``""`` when it fails."""
        try:
            return self.run(*argv, uid=uid) or " "
        except AssertionError:
            return ""

    def start(self, name: str, *argv: str, uid: int = 0, environ: Mapping[str, str] = {}) -> None:
        """Start a program in the background; what it says is in `log`."""
        assert name not in self.programs, f"{name} runs"
        script = f'echo $$ > /run/{name}.pid; exec "$@"'
        sets = [f"{key}={value}" for key, value in environ.items()]
        who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        words = self.words("sh", "-c", script, "sh", *who, "env", *sets, *argv)
        with self.log_of(name).open("ab") as out:
            self.programs[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd="/", start_new_session=True
            )

    def end(self, name: str, signal_name: str = "TERM", *, seconds: float = 30) -> int:
        """Send one process a signal and return its exit status once it has ended; -9 when it was killed."""
        program = self.programs.pop(name)
        pid = eventually(lambda: self.run("cat", f"/run/{name}.pid").strip(), seconds=5)
        self.run("kill", f"-{signal_name}", pid)
        status = program.wait(timeout=seconds)
        return -9 if status in (-9, 137) else status

    def wait_end(self, name: str, *, seconds: float = 60) -> int:
        """Return the exit status of a program that ends by itself."""
        return self.programs.pop(name).wait(timeout=seconds)

    def log_of(self, name: str) -> Path:
        return self.disk / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_of(name).read_text(errors="replace")

    # ---- the application --------------------------------------------------------------------------------------------

    def start_app(self, *flags: str) -> None:
        """Serve HTTP at 8080, gRPC at 9090 and bytes at 7000, under the machine's name."""
        self.log_of("app").unlink(missing_ok=True)
        self.start("app", PYTHON, f"{ROOT}/e2e/app/app.py", "serve", "--name", self.name, *flags, uid=ANYBODY)
        eventually(lambda: "serves" in self.log("app"), every=0.05)

    def app(self, *args: str) -> Json:
        """Run the test application as a client and return the JSON that it prints."""
        return self._ask(f"{ROOT}/e2e/app/app.py", *args)

    def get(self, url: str, count: int = 1) -> Json:
        """Return what comes of so many requests, each on a connection of its own: ``statuses``, ``names``, ``last``."""
        return self._ask("-c", GET, url, str(count))

    def _ask(self, *words: str) -> Json:
        found = json.loads(self.run(PYTHON, *words, uid=ANYBODY))
        assert isinstance(found, dict)
        return found


def closed_folders() -> list[str]:
    """Return the folders above our programs that only root may enter. A machine lets everybody in, as /usr/bin does."""
    real = (Path(sys.executable).resolve(), ROOT.resolve())
    above = {folder for path in real for folder in path.parents if not folder.stat().st_mode & 0o001}
    # What lies below one of them is below what hides it.
    return [str(folder) for folder in above if not above & set(folder.parents)]


def at_node(*argv: str, stdin: str = "") -> str:
    """Return what a command prints in the node's network namespace. Raises AssertionError when it fails."""
    network.require_cable()
    done = subprocess.run([*network.ENTER, *argv], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def split_network(*machines: Machine) -> Iterator[None]:
    """Have no packet pass between these machines and the node for the time of the block; nobody is told."""
    rules = [f"table inet {SPLIT} {{"]
    for hook, way in (("prerouting", "iifname"), ("postrouting", "oifname")):
        links = ", ".join(f'"{machine.link}"' for machine in machines)
        rules.append(f"chain {hook} {{ type filter hook {hook} priority -300; {way} {{ {links} }} drop; }}")
    mend_network()
    at_node("nft", "-f", "-", stdin="\n".join([*rules, "}"]))
    try:
        yield
    finally:
        mend_network()


def mend_network() -> None:
    at_node("sh", "-c", f"nft delete table inet {SPLIT} 2>/dev/null || :")
