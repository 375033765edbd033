"""The table of cases: who calls what, and what must become of it.

Each file of ``cases/`` is a document about cases, then the manifests they are about. In the first:

``installed``: what the installation says (``access``, ``probes``); ``to``, ``server``: for cases that do not say.
``cases``: ``to`` (``NS/WORKLOAD:PORT``, or ``:PORT``), ``from`` (see `read_caller`), a request (``method``, ``path``,
``host``, ``headers``, ``grpc``) or ``tcp``, and what is expected: ``expect``, ``server`` or ``default``, ``route``,
``by``. ``about`` is for people.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.documents import read_documents

Raw = dict[str, Any]

FOLDER = Path(__file__).parent / "cases"
FILES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
TRUST = "serviceaccount.identity.meshwright.cluster.local"
HOST = "web.shop"


@dataclass(frozen=True, kw_only=True)
class Expected:
    outcome: str
    server: str = ""
    default: str = ""
    route: str = ""
    by: str = ""

    @property
    def log(self) -> str:
        """Return what the log says: ``denied``, ``audit``, or nothing."""
        return {"denied": "denied", "audited": "audit"}.get(self.outcome, "")


@dataclass(frozen=True, kw_only=True)
class Row:
    """``caller``: address, dns, uri. ``request``: method, path with query, host, headers; ``None`` for bytes."""

    number: int
    namespace: str
    name: str
    port: int
    caller: Raw
    request: Raw | None
    expected: Expected
    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """One file. ``workloads``: kind by namespace and name."""

    file: str
    installed: Raw
    objects: tuple[Raw, ...]
    rows: tuple[Row, ...]
    workloads: Mapping[tuple[str, str], str]


@cache
def load(file: str) -> Table:
    head, *documents = read_documents((FOLDER / f"{file}.yaml").read_text())
    objects = tuple(each for raw in documents for each in raw.get("items", [raw]))
    kinds = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): str(each["kind"])
        for each in objects
        if each["kind"] in ("Pod", "Deployment", "ExternalWorkload")
    }
    rows = tuple(read_row(number, raw, head) for number, raw in enumerate(head["cases"], 1))
    return Table(file=file, installed=head.get("installed", {}), objects=objects, rows=rows, workloads=kinds)


def read_row(number: int, raw: Raw, head: Raw) -> Row:
    workload, _, port = raw.get("to", "").rpartition(":")
    usual, _, usual_port = head.get("to", "").partition(":")
    namespace, _, name = (workload or usual).partition("/")
    expected = Expected(
        outcome=raw["expect"],
        server="" if "default" in raw else str(raw.get("server", head.get("server", ""))),
        default=raw.get("default", raw.get("by", "").removeprefix("default/") if _is_default(raw, head) else ""),
        route=raw.get("route", ""),
        by=raw.get("by", ""),
    )
    return Row(
        number=number,
        namespace=namespace,
        name=name,
        port=int(port or usual_port),
        caller=read_caller(raw["from"]),
        request=None if raw.get("tcp") else read_request(raw),
        expected=expected,
        text=raw.get("about", ""),
    )


def _is_default(raw: Raw, head: Raw) -> bool:
    return "server" not in raw and "server" not in head


def read_caller(text: str) -> Raw:
    """``shop/client @10.1.0.1``: an account (it has both forms of identity), a SPIFFE URI or nobody, and from where."""
    who, _, address = text.partition("@")
    who = who.strip()
    caller = {"address": address or "10.1.0.1", "dns": "", "uri": ""}
    if who.startswith("spiffe://"):
        return caller | {"uri": who}
    if who:
        namespace, _, name = who.partition("/")
        return caller | {
            "dns": f"{name}.{namespace}.{TRUST}",
            "uri": f"spiffe://cluster.local/ns/{namespace}/sa/{name}",
        }
    return caller


def read_request(raw: Raw) -> Raw:
    headers = [[name.lower(), value] for name, value in raw.get("headers", {}).items()]
    if grpc := raw.get("grpc"):
        headers = [["content-type", "application/grpc"], *headers]
        return {"method": "POST", "path": f"/{grpc}", "host": raw.get("host", HOST), "headers": headers}
    path = raw.get("path", "/")
    return {"method": raw.get("method", "GET"), "path": path, "host": raw.get("host", HOST), "headers": headers}


def pod_of(table: Table, row: Row) -> tuple[list[Raw], str]:
    """Return the objects with a Pod in the place of the row's Deployment, and the kind of its workload."""
    kind = table.workloads[row.namespace, row.name]
    if kind != "Deployment":
        return list(table.objects), kind
    return [_as_pod(each) if each["kind"] == "Deployment" else each for each in table.objects], "Pod"


def _as_pod(deployment: Raw) -> Raw:
    template, metadata = deployment["spec"]["template"], deployment["metadata"]
    named = {"name": metadata["name"], "namespace": metadata["namespace"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template.get("metadata", {}) | named,
        "spec": template["spec"],
    }
