"""What people ask: who calls, what, and how, in the words they use for it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from meshwright.edge.access.targets import AskedError, find_place, find_target
from meshwright.edge.access.world import Place, World
from meshwright.link.enroll import read_machine
from meshwright.link.paths import normalize_path
from meshwright.model.identity import ServiceAccount
from meshwright.model.pod import Pod
from meshwright.model.request import Caller, Request
from meshwright.model.units import Namespace, Port

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
GRPC_TYPE = ("content-type", "application/grpc")
_USER = "system:serviceaccount:"
"""What the API server calls ServiceAccounts before NAMESPACE:NAME."""

_FEW = 3
_CALL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*/[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who calls. ``text``: in words. ``notes``: what was assumed."""

    caller: Caller
    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An attempt. ``request`` ``None``: a connection that is not HTTP. ``notes``: what was assumed of the target."""

    asker: Asker
    place: Place
    port: Port
    request: Request | None
    notes: tuple[str, ...] = ()


def find_asker(text: str, world: World) -> Asker:
    """Return who ``text`` is, in the form ``WHO@ADDRESS``, either part alone, or a workload's ``NS/NAME``.

    Who: a workload; ``sa/NS/NAME``, a ServiceAccount; the DNS or SPIFFE form of an identity. Without an address it is
    the workload's, or if that has none yet one of the cluster. An address that is a workload's does not make it it:
    nothing but a certificate does.

    Raises:
        AskedError: it is nobody.
    """
    who, at, address = text.partition("@")
    if not at and _is_address(who):
        who, address = "", who
    if address and not _is_address(address):
        raise AskedError(f"found {address!r} behind @; write an IP address, such as 10.0.0.1 or fd00::1")
    dns = uri = own = ""
    notes: list[str] = []
    shown = who
    if who.startswith("spiffe://"):
        dns, uri = _complete(world, uri=who)
    elif who.startswith("sa/"):
        account = _read_account(who)
        dns, uri = world.config.trust.dns(account), world.config.trust.uri(account)
        shown = f"ServiceAccount {account}"
        if (runs := _list_accounts(account.namespace, world)) and account.name not in runs:
            notes.append(f"no workload that is known runs as {shown}, but as {', '.join(sorted(runs)[:_FEW])}")
    elif who.startswith(_USER):
        account = _read_account(f"sa/{who.removeprefix(_USER).replace(':', '/')}")
        raise AskedError(f"found {who!r}; write that ServiceAccount as sa/{account}")
    elif "/" in who:
        place = find_place(who, world)
        dns, uri, own = _describe(place, world, notes)
        shown = str(place)
    elif "." in who:
        dns, uri = _complete(world, dns=who)
    elif who:
        raise AskedError(
            f"found {who!r}; write a workload (NS/NAME), a ServiceAccount (sa/NS/NAME), an identity, or an IP address"
        )
    if not (address or own):
        own = str(next(ip_network(world.config.policy.cluster_networks[0]).hosts()))
        notes.append(f"the caller's address is taken to be {own}, as of the cluster; say another one with @ADDRESS")
    caller = Caller(address=address or own, dns=dns, uri=uri, has_tls=bool(dns or uri))
    return Asker(caller=caller, text=shown or "somebody without an identity", notes=tuple(notes))


def make_request(
    *,
    method: str | None = None,
    path: str | None = None,
    host: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    grpc: str | None = None,
    tcp: bool = False,
) -> Request | None:
    """Return the request, ``None`` for a connection that is not HTTP; ``path`` may have a query.

    Raises:
        AskedError: there cannot be such a one.
    """
    named = tuple((name.lower(), value) for name, value in headers)
    if tcp:
        if method or path or host or grpc or named:
            raise AskedError("bytes that are not HTTP have no method, path, host, header or call; leave out either")
        return None
    for name, _ in named:
        if not _HEADER.fullmatch(name):
            raise AskedError(f"found {name!r} for a header's name; write it as HTTP has it, such as x-tier")
    host = next((value for name, value in named if name == "host"), "") if host is None else host
    named = tuple((name, value) for name, value in named if name != "host")
    if grpc is not None:
        if method or path:
            raise AskedError("a gRPC call has no method or path of its own; leave out either")
        if not _CALL.fullmatch(grpc):
            raise AskedError(f"found {grpc!r}; write a gRPC call as SERVICE/METHOD, such as shop.Cart/Get")
        return Request(method="POST", path=f"/{grpc}", host=host, headers=(GRPC_TYPE, *named))
    verb = method or "GET"
    if verb not in METHODS:
        raise AskedError(f"found method {verb!r}; write one of {', '.join(METHODS)}")
    place, _, query = (path or "/").partition("?")
    if normalize_path(place) is None:
        raise AskedError(f"found path {place!r}, which no proxy takes; begin it with /, and percent-encode")
    pairs = [part.partition("=") for part in query.split("&") if part]
    return Request(
        method=verb, path=place, host=host, headers=named, query=tuple((name, value) for name, _, value in pairs)
    )


def read_header(text: str) -> tuple[str, str]:
    """Return the header ``NAME: VALUE``.

    Raises:
        ValueError: it is none.
    """
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"found {text!r}; write NAME: VALUE")
    return name.strip(), value.strip()


def say_request(request: Request | None) -> str:
    """Return a request in few words."""
    if request is None:
        return "bytes that are not HTTP"
    if request.is_grpc:
        return f"gRPC {request.path.removeprefix('/')}"
    return f"{request.method} {request.path}{' of ' + request.host if request.host else ''}"


def _describe(place: Place, world: World, notes: list[str]) -> tuple[str, str, str]:
    """Return the DNS name, URI and address that a workload calls with."""
    workload = place.workload
    if not isinstance(workload, Pod):
        address = workload.ips[0] if workload.ips else ""
        is_uri = workload.identity.startswith("spiffe://")
        if read_machine(world.config.trust, workload.identity) is not None:  # its certificate bears both names
            return workload.server_name, workload.identity, address
        dns, uri = _complete(world, uri=workload.identity) if is_uri else _complete(world, dns=workload.identity)
        return dns, uri, address
    address = workload.addresses[0] if workload.addresses else ""
    if not (workload.is_meshed or place.is_expected):
        notes.append(f"{place} has no proxy, and so no identity")
        return "", "", address
    trust = world.config.trust
    return trust.dns(workload.account), trust.uri(workload.account), address


def _complete(world: World, *, dns: str = "", uri: str = "") -> tuple[str, str]:
    """Return both forms of an identity; only a workload's of this mesh has both."""
    trust = world.config.trust
    account = trust.read_dns(dns) if dns else trust.read_uri(uri)
    return (dns, uri) if account is None else (trust.dns(account), trust.uri(account))


def _read_account(text: str) -> ServiceAccount:
    match text.split("/"):
        case ["sa", namespace, name] if namespace and name:
            return ServiceAccount(Namespace(namespace), name)
        case _:
            raise AskedError(f"found {text!r}; write a ServiceAccount as sa/NAMESPACE/NAME")


def _list_accounts(namespace: Namespace, world: World) -> set[str]:
    return {
        place.workload.account.name
        for place in world.places.values()
        if isinstance(place.workload, Pod) and place.workload.account.namespace == namespace
    }


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def read_question(raw: Mapping[str, object], world: World) -> Question:
    """Return the question that ``raw`` puts: ``from``, ``to``, and what `make_request` takes, of the right types.

    Raises:
        AskedError: it cannot be answered.
    """
    target = find_target(str(raw["to"]), world)
    headers = raw.get("headers")
    pairs = [(str(name), str(value)) for name, value in headers.items()] if isinstance(headers, dict) else headers or ()

    def said(key: str) -> str | None:
        return None if raw.get(key) is None else str(raw[key])

    request = make_request(
        method=said("method"),
        path=said("path"),
        host=said("host"),
        headers=pairs,  # type: ignore[arg-type]
        grpc=said("grpc"),
        tcp=bool(raw.get("tcp")),
    )
    asker = find_asker(str(raw["from"]), world)
    return Question(asker=asker, place=target.place, port=target.port, request=request, notes=target.notes)
