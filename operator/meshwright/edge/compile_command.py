"""``meshwright compile``: what the operator would write for a folder of manifests, without any cluster."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TextIO

import yaml

from meshwright.edge.catalog import Catalog, say_unread, sort_manifests
from meshwright.edge.foreign import find_foreign
from meshwright.edge.manifests import Manifest, Reading, UnreadableError, list_files, read_files
from meshwright.edge.offline import fill_in_addresses, make_slices, read_pod
from meshwright.edge.offline_inbound import find_inbound, find_workload
from meshwright.edge.terminal import Paint, Terminal, open_terminal
from meshwright.edge.units import read_unit
from meshwright.emit.proxy import assemble, flatten
from meshwright.emit.status import merge_status
from meshwright.link.ports import declare_opaque
from meshwright.model.config import Config
from meshwright.model.desired import Desired, Json, RouteStatus, Status
from meshwright.model.inbound import ServerPolicy
from meshwright.model.policy import MeshTlsAuthentication, ServerAuthorization
from meshwright.model.problem import Problem, Reason
from meshwright.model.proxy import DEFAULT_SERVICE_RANGES, OutboundUnit, Proxy, ProxySettings, read_node_id
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Route
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace
from meshwright.model.workload import ExternalWorkload, NamespaceObject, Service
from meshwright.parse.delivered import parse_slice
from meshwright.parse.kinds import KINDS, parse_object
from meshwright.parse.pod import parse_pod
from meshwright.pipeline import compile_all

CLEAN, PROBLEMS, UNREADABLE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="DIR", help="folders and files of YAML or JSON manifests; - is stdin"
    )
    parser.add_argument(
        "--status", action="store_true", help="add every route and rate limit policy with the status it would get"
    )
    parser.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="(default: yaml)")
    parser.add_argument(
        "-n", "--namespace", default="default", help="for objects that name no namespace (default: default)"
    )
    parser.add_argument_group(
        "exit status", "0: all is clean. 1: objects have problems. 2: something could not be read, or bad usage."
    )
    proxy = parser.add_argument_group(
        "one proxy's whole configuration instead",
        "Services without a clusterIP get one of 10.96.0.0/12, drawn from their names: the same ones every time.\n"
        "Endpoints are those of EndpointSlices among the manifests, else of Pods, and of ready ExternalWorkloads.\n"
        "Servers and access policies hold as in a cluster, but nobody has an identity: a file has no certificates.",
    )
    proxy.add_argument(
        "--proxy",
        metavar="NS/POD",
        type=_proxy,
        help="whose: a Pod, an ExternalWorkload, or a pod's name that begins with its Deployment's; any other name "
        "will do for who only calls: the namespace decides which consumer routes it gets; "
        "NS/externalworkload/NAME is a machine even where a pod has its name",
    )
    proxy.add_argument("--out", metavar="FOLDER", type=Path, help="where envoy.yaml is written")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Return 0 when everything is clean, 1 when objects have problems, 2 when something could not be read."""
    if (args.proxy is None) != (args.out is None):
        args.usage_error("--proxy and --out belong together")
    terminal = open_terminal(sys.stderr)
    try:
        reading = read_files(list_files(args.paths), sys.stdin)
    except UnreadableError as error:
        reading = Reading(unreadable=(error,))
    catalog = sort_manifests(reading.manifests, Namespace(args.namespace))
    compilation = compile_catalog(catalog, Config())
    if args.proxy is None:
        _write_objects(_outputs(compilation, with_status=args.status), args.output, sys.stdout)
    else:
        workload = find_workload(args.proxy, catalog, compilation.parsed)
        proxy = args.proxy if workload is None else Proxy.of(workload.ref)
        _write_proxy(proxy, catalog, compilation, args.out, terminal)
        if workload is None:
            what = f"{proxy.node_id} is no workload of these manifests"
            terminal.say(terminal.paint(f"note: {what}: no Server selects it, its namespace's policy holds", Paint.DIM))
    unreadable = (*reading.unreadable, *catalog.unreadable)
    report_unreadable(unreadable, terminal)
    count = report_problems(catalog, compilation.desired.problems, terminal)
    for note in _notes(catalog, compilation, reading):
        terminal.say(terminal.paint(f"note: {note}", Paint.DIM))
    return UNREADABLE if unreadable else PROBLEMS if count else CLEAN


def _notes(catalog: Catalog, compilation: "Compilation", reading: Reading) -> Iterator[str]:
    routes = [value for value in compilation.parsed.values() if isinstance(value, Route)]
    strangers = [
        route for route in routes if not any(parent.is_service or parent.is_server for parent in route.parents)
    ]
    if strangers:
        names = ", ".join(str(route.ref) for route in strangers[:3]) + (", …" if len(strangers) > 3 else "")
        count = f"{len(strangers)} of {len(routes)} routes"
        yield f"{count} have no Service or Server as a parent, others look after them ({names})"
    missing = {
        Reason.NO_MATCHING_PARENT,
        Reason.BACKEND_NOT_FOUND,
        Reason.NO_MATCHING_TARGET,
        Reason.AUTHENTICATION_NOT_FOUND,
    }
    if any(problem.reason in missing for problems in compilation.desired.problems.values() for problem in problems):
        yield "only what is in these files exists here; name the folders with the Services, too"
    trust = Config().trust
    if foreign := find_foreign(_list_identities(compilation.parsed.values()), trust):
        yield (
            f"identities that end in {', '.join(foreign)} are those of another mesh; here they end in {trust.suffix} "
            "(the control plane's namespace, the trust domain). ServiceAccounts and identityRefs need no such end"
        )
    if unread := say_unread(catalog.unread, reading.skipped):
        yield unread


def _list_identities(values: Iterable[Parsed]) -> Iterator[str]:
    for value in values:
        if isinstance(value, MeshTlsAuthentication | ServerAuthorization):
            yield from value.identities


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """What a catalog comes to: ``parsed`` is what went in, with addresses where Services had none."""

    parsed: Mapping[Ref, Parsed]
    services: Mapping[Ref, Json]
    desired: Desired


def compile_catalog(catalog: Catalog, config: Config) -> Compilation:
    """Return what the objects of ``catalog`` come to. Never raises."""
    raws = {ref: manifest.raw for ref, manifest in catalog.compiled.items()}
    services = {ref: raw for ref, raw in raws.items() if ref.kind is Kind.SERVICE}
    filled = fill_in_addresses(services, DEFAULT_SERVICE_RANGES)
    parsed = {ref: value for ref, raw in (raws | filled).items() if (value := parse_object(raw)) is not None}
    return Compilation(parsed=parsed, services=filled, desired=compile_all(parsed, config))


def report_unreadable(errors: Iterable[UnreadableError], terminal: Terminal) -> None:
    for error in errors:
        place = str(error.place) if error.place.line else error.place.file
        terminal.say(f"{terminal.paint(f'{place}:', Paint.RED)} {error.message}")


def report_problems(
    catalog: Catalog,
    problems: Mapping[Ref, tuple[Problem, ...]],
    terminal: Terminal,
    others: Iterable[tuple[Manifest, Problem]] = (),
) -> int:
    """Write a line for every problem, in the order of files and lines; return how many there are."""
    found: list[tuple[Manifest, Problem]] = [
        *catalog.problems,
        *others,
        *(
            (catalog.compiled[ref], problem)
            for ref, those in problems.items()
            if ref in catalog.compiled
            for problem in those
        ),
    ]
    lines = sorted((manifest.locate(problem.field), _name(manifest), problem) for manifest, problem in found)
    for place, name, problem in lines:
        terminal.say(f"{terminal.paint(f'{place}:', Paint.YELLOW)} {name}: {problem} [{problem.reason}]")
    return len(lines)


def _name(manifest: Manifest) -> str:
    metadata = manifest.raw["metadata"]
    namespace = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{manifest.raw['kind']} {namespace}{metadata['name']}"


def _outputs(compilation: Compilation, *, with_status: bool) -> Iterator[Json]:
    desired = compilation.desired
    for _, unit in sorted(desired.units.items()):
        if unit is not None:
            yield _without_unknown_owner(unit)
    for _, slices in sorted(desired.slices.items()):
        for _, piece in sorted(slices.items()):
            yield _without_unknown_owner(piece)
    if with_status:
        for ref, status in sorted(desired.statuses.items()):
            if status is not None:
                yield object_with_status(ref, status)


def object_with_status(ref: Ref, status: Status) -> Json:
    """Return an object as kubectl would show it, its spec and the times of its conditions left out."""
    shown = merge_status({}, status, "") or ({"parents": []} if isinstance(status, RouteStatus) else {})
    for part in (shown, *shown.get("parents", ())):
        for condition in part.get("conditions", ()):
            del condition["lastTransitionTime"]
    return {
        "apiVersion": KINDS[ref.kind].api_versions[0],
        "kind": ref.kind.word,
        "metadata": {"name": ref.name, "namespace": str(ref.namespace)},
        "status": shown,
    }


def _without_unknown_owner(manifest: Json) -> Json:
    """Return the manifest without owners that have no UID, which the API server refuses: a folder knows no UIDs."""
    metadata = manifest["metadata"]
    owners = [owner for owner in metadata.get("ownerReferences", ()) if owner.get("uid")]
    kept = {key: value for key, value in metadata.items() if key != "ownerReferences"}
    return manifest | {"metadata": kept | ({"ownerReferences": owners} if owners else {})}


def _write_objects(objects: Iterable[Json], output: str, out: TextIO) -> None:
    items = list(objects)
    if output == "json":
        json.dump({"apiVersion": "v1", "kind": "List", "items": items}, out, indent=2, sort_keys=True)
        out.write("\n")
    else:
        dump_yaml(items, out)
    out.flush()


def dump_yaml(documents: Iterable[Json], out: TextIO) -> None:
    """Write YAML documents; parts that objects share are written out every time."""
    dumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    plain = json.loads(json.dumps(list(documents)))
    yaml.dump_all(plain, out, Dumper=dumper, explicit_start=True, width=2**31 - 1, allow_unicode=True)


# ---- one proxy


def _proxy(text: str) -> Proxy:
    if (proxy := read_node_id(text)) is None:
        wanted = "shop/web-7d9f, shop/any or shop/externalworkload/vm-1"
        raise argparse.ArgumentTypeError(f"'{text}' is not NAMESPACE/NAME; write {wanted}")
    return proxy


def _write_proxy(proxy: Proxy, catalog: Catalog, compilation: Compilation, folder: Path, terminal: Terminal) -> None:
    config = make_proxy_config(proxy, catalog, compilation)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "envoy.yaml"
    with file.open("w", encoding="utf-8") as out:
        dump_yaml([config], out)
    terminal.say(f"wrote {file}; check it with: envoy --mode validate -c {file}")


def make_proxy_config(proxy: Proxy, catalog: Catalog, compilation: Compilation) -> Json:
    """Return one static Envoy configuration for ``proxy``, with who may call its own workload.

    Endpoints are those of the EndpointSlices in the manifests and of ready ExternalWorkloads; for a Service without
    an EndpointSlice of its own there, also those of the Pods it selects.
    """
    parsed = [value for value in compilation.parsed.values() if isinstance(value, Service)]
    config = Config()
    units = [
        read_unit(Ref(Kind.CONFIG_MAP, name.namespace, name.name), unit, config.namespace)
        for name, unit in compilation.desired.units.items()
        if unit is not None
    ]
    policies = [unit for unit in units if isinstance(unit, ServerPolicy)]
    written = [manifest.raw for manifest in catalog.slices.values()]
    pods = [pod for manifest in catalog.pods.values() if (pod := read_pod(manifest.raw))]
    with_slices = {piece.service for raw in written if (piece := parse_slice(raw))}
    derived = [
        piece
        for service in parsed
        if service.name not in with_slices
        for piece in make_slices(compilation.services[service.ref], pods)
    ]
    external = [piece for slices in compilation.desired.slices.values() for piece in slices.values()]
    settings = ProxySettings(service_ranges=_ranges(parsed))
    inherited = {
        Namespace(value.ref.name): value.opaque
        for value in compilation.parsed.values()
        if isinstance(value, NamespaceObject)
    }
    resources = assemble(
        proxy,
        [unit for unit in units if isinstance(unit, OutboundUnit)],
        [declare_opaque(each, inherited.get(each.ref.namespace), settings.opaque_ports) for each in parsed],
        [piece for raw in (*written, *derived, *external) if (piece := parse_slice(raw))],
        settings,
        [
            *(replace(parse_pod(manifest.raw), ref=ref) for ref, manifest in catalog.pods.items()),
            *(value for value in compilation.parsed.values() if isinstance(value, ExternalWorkload)),
        ],
        find_inbound(proxy, catalog, compilation.parsed, policies, config.policy),
    )
    return flatten(proxy, resources, settings)


def _ranges(services: Iterable[Service]) -> tuple[str, ...]:
    """Return the usual Service ranges, and every ClusterIP in the manifests that is outside them."""
    usual = [ip_network(text) for text in DEFAULT_SERVICE_RANGES]
    strangers = {
        str(ip_network(address))
        for service in services
        for address in service.addresses
        if not any(ip_address(address) in network for network in usual)
    }
    return (*DEFAULT_SERVICE_RANGES, *sorted(strangers))
