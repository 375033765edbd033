"""``python -m e2e.cluster``: starts, stops, shows and feeds the test cluster."""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from e2e.cluster import debian, find_users_kubeconfig, images, network, teardown, up, wheels
from e2e.cluster.places import IMAGE, NETNS, Places, find_places
from e2e.cluster.record import is_alive, read_record
from e2e.cluster.say import ClusterError, note

ABOUT = """\
A real one-node Kubernetes on this machine, in a network namespace of its own: etcd, kube-apiserver,
kube-controller-manager, kube-scheduler, kubelet, kube-proxy, CoreDNS and cert-manager, built from pinned Go modules,
on Debian's containerd. Node, pods and Services have IPv4 addresses, and where the machine has IPv6 such ones too, known
in the namespace alone. The first start builds for some minutes, later ones take seconds.

Needs Linux, root, and once the Go module proxy, PyPI and Debian's packages. Built programs and images are kept in
$MESHWRIGHT_CACHE (else meshwright/ in the user's cache folder); nothing of them is in the repository.

  python -m e2e.cluster up                          start it, or say that it runs; prints the kubeconfig's path
  python -m e2e.cluster exec -- kubectl get pods -A run something with its kubectl, helm and network
  eval "$(python -m e2e.cluster kubeconfig --export)"; kubectl get nodes
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.cluster", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    starting = commands.add_parser(
        "up",
        help="start the cluster, or reuse the one that runs",
        description="Start the cluster and print the path of its kubeconfig. If it runs, only a changed image is "
        "loaded; what is left of a broken one is cleaned away first. With KUBECONFIG set nothing is started.",
    )
    starting.add_argument(
        "--if-possible",
        action="store_true",
        help="where none can be started (no root, not Linux) say why and end well; not with MESHWRIGHT_E2E=required",
    )
    commands.add_parser(
        "down",
        help="stop it and leave nothing but the cache and the last logs",
        description="Kill every process, remove mounts, interface, routes, namespace, control groups and state. "
        "Works on whatever is left of a cluster; doing it twice does no harm.",
    )
    commands.add_parser(
        "status",
        help="what runs, since when, which versions, where the logs are",
        description="Show the cluster; the exit code is 0 when it is whole, 1 when not.",
    )
    config = commands.add_parser(
        "kubeconfig", help="print the kubeconfig's path", description="Print the path of the cluster's kubeconfig."
    )
    config.add_argument("--export", action="store_true", help="print shell lines that set KUBECONFIG and PATH instead")
    commands.add_parser(
        "image",
        help=f"build {IMAGE} as an OCI archive and print its path",
        description="Build meshwright's image from the sources, without a container engine: Debian, the locked "
        "dependencies with Envoy, the package. Layers that did not change come from the cache. "
        "podman load, docker load and ctr images import take the archive.",
    )
    commands.add_parser(
        "load",
        help="build the image and load it into the running cluster",
        description="Build the image and import it into the cluster's containerd, if it changed. Pods that run keep "
        "the old one: kubectl rollout restart gives them the new.",
    )
    inside = commands.add_parser(
        "exec",
        help="run a command in the cluster's network, with KUBECONFIG and PATH set",
        description="Run a command inside the node's network namespace: pod and Service addresses answer, kubectl and "
        "helm are found. Nothing else is reachable from there.",
    )
    inside.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")
    return parser


def run_up(places: Places, *, if_possible: bool) -> int:
    if named := find_users_kubeconfig(places):
        note(f"KUBECONFIG is set: using {named}, starting nothing")
        print(named)
        return 0
    reason = debian.find_obstacle()
    if reason and if_possible and os.environ.get("MESHWRIGHT_E2E") != "required":
        note(f"no cluster: {reason}")
        return 0
    up.start_cluster(places)
    print(places.kubeconfig)
    return 0


def run_down(places: Places) -> int:
    there = up.stop_cluster(places)
    note(f"removed: {', '.join(there)}" if there else "nothing was there")
    if left := teardown.find_leftovers(places):
        raise ClusterError(f"still there: {', '.join(left)}")
    return 0


def run_status(places: Places) -> int:
    running, fault = up.find_running(places)
    try:
        record = read_record(places.record)
    except ValueError:
        record = None
    if record is None:
        print(f"no cluster{f', but left over: {fault}' if fault else ''}. Start one: python -m e2e.cluster up")
        return 1
    print(f"{'running' if running else f'broken ({fault})'} since {show_time(record.began)}")
    for name, program in record.programs.items():
        state = f"pid {program.pid} since {show_time(program.began)}" if is_alive(program) else "NOT RUNNING"
        print(f"  {name:<24} {state}")
    for name, version in record.versions.items():
        print(f"  {name:<24} {version}")
    families = "IPv4 and IPv6" if record.has_ipv6 else f"IPv4 only: {network.find_ipv6_obstacle()}"
    print(f"kubeconfig  {places.kubeconfig}\nlogs        {places.logs}\nnetwork     namespace {NETNS}, {families}")
    return 0 if running else 1


def show_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def run_kubeconfig(places: Places, *, export: bool) -> int:
    if not places.kubeconfig.exists():
        raise ClusterError("no cluster. Start one: python -m e2e.cluster up")
    if export:
        print(f'export KUBECONFIG={places.kubeconfig}\nexport PATH="{wheels.install_clients(places)}:$PATH"')
    else:
        print(places.kubeconfig)
    return 0


def run_image(places: Places) -> int:
    debian.prepare_machine()
    with up.hold_lock(places):
        archive, digest, new = images.build_image(places)
    note(f"{IMAGE} {digest[:19]} {'built' if new else 'is unchanged'}, {archive.stat().st_size >> 20} MiB")
    print(archive)
    return 0


def run_load(places: Places) -> int:
    with up.hold_lock(places):
        record, fault = up.find_running(places)
        if record is None:
            raise ClusterError(f"no cluster runs{f' ({fault})' if fault else ''}. Start one: python -m e2e.cluster up")
        up.load(places, record)
    return 0


def run_exec(places: Places, argv: list[str]) -> int:
    """Become the command; returns only when there is none."""
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if not argv:
        raise ClusterError("exec needs a command. For example: python -m e2e.cluster exec -- kubectl get pods -A")
    if not network.has_cable() or not places.kubeconfig.exists():
        raise ClusterError("no cluster. Start one: python -m e2e.cluster up")
    environ = dict(os.environ, KUBECONFIG=str(places.kubeconfig))
    environ["PATH"] = f"{wheels.install_clients(places)}:{environ.get('PATH', '/usr/bin:/bin')}"
    command = [*network.ENTER, *argv]
    os.execvpe(shutil.which(command[0]) or "/usr/bin/nsenter", command, environ)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 well, 1 no cluster or a failure, whose reason is on stderr."""
    given = make_parser().parse_args(arguments)
    places = find_places()
    try:
        match given.command:
            case "up":
                return run_up(places, if_possible=given.if_possible)
            case "down":
                return run_down(places)
            case "status":
                return run_status(places)
            case "kubeconfig":
                return run_kubeconfig(places, export=given.export)
            case "image":
                return run_image(places)
            case "load":
                return run_load(places)
            case _:
                return run_exec(places, given.argv)
    except ClusterError as error:
        print(f"{Path(sys.argv[0]).parent.name or 'cluster'}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, like head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next `up` cleans away what was started", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
