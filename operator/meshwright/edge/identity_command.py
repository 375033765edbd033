"""``meshwright identity``: make a trust anchor and an issuer without cert-manager, and show those of a cluster."""

import argparse
import asyncio
import base64
import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from meshwright.edge.authorities import Authority, make_anchor, make_issuer
from meshwright.edge.terminal import Paint, Terminal, open_terminal
from meshwright.emit.issuer import ANCHORS_NAME, MESH_KEY, MESH_NAME, WITHOUT_ANCHORS
from meshwright.model.config import LABEL_UNIT
from meshwright.model.identity import TrustDomain
from meshwright.model.units import Namespace
from meshwright.parse.certificate import BUNDLE_KEY, parse_bundle
from meshwright.parse.duration import parse_gateway_duration

ANCHOR_SECRET, ISSUER_SECRET, BUNDLE = (
    "meshwright-trust-anchor",
    "meshwright-identity-issuer",
    "meshwright-trust-bundle",
)
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)

_TEACH = """\
An anchor vouches for an issuer, the issuer for every pod. Proxies get the anchors (public), delivery the issuer with
its key; the anchor's key is needed only to make issuers, and is safest on no cluster at all.

with files, and Secrets made from them:
  meshwright identity create-anchor --out mesh-ca
  meshwright identity create-issuer --anchor mesh-ca --out mesh-issuer

with sealed secrets, in Git:
  meshwright identity create-anchor --out mesh-ca
  meshwright identity create-issuer --anchor mesh-ca -o yaml | kubeseal -o yaml > issuer.yaml

  The Secret holds the issuer, its key and the anchor: all that the mesh needs with identity.issuer.external=true.
  An issuer made so is not renewed by itself. `meshwright identity show` says when it ends; to renew it, make
  another under the same anchor and replace the Secret: no pod restarts.

to bring in a new anchor: put both into a ConfigMap (`create-anchor -o yaml` prints one), let identity.trustBundle name
it, and only then replace the issuer by one under the new anchor.

look at a cluster:
  meshwright identity show
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three verbs and their flags."""
    parser.epilog = f"{parser.epilog or ''}\n\n{_TEACH}"
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    anchor = verbs.add_parser("create-anchor", help="make a trust anchor", description="Make a trust anchor.")
    issuer = verbs.add_parser(
        "create-issuer",
        help="make an issuer of identities under an anchor",
        description="Make an issuer of identities.",
    )
    issuer.add_argument("--anchor", required=True, metavar="DIR", help="folder with the anchor's tls.crt and tls.key")
    for verb, duration in ((anchor, "87600h"), (issuer, "8760h")):
        verb.add_argument(
            "--trust-domain", default="cluster.local", help="the root of all names (default: cluster.local)"
        )
        verb.add_argument("--namespace", default="meshwright", help="the control plane's (default: meshwright)")
        verb.add_argument("--duration", default=duration, help=f"how long it is valid (default: {duration})")
        verb.add_argument("--out", metavar="DIR", help="folder to write tls.crt, tls.key and ca.crt to")
        verb.add_argument(
            "-o", dest="form", choices=("yaml",), help="print Kubernetes manifests, for kubeseal or kubectl"
        )
    show = verbs.add_parser(
        "show", help="who issues in a cluster, until when, and what is wrong", description="Show a cluster's identity."
    )
    show.add_argument("--kubeconfig", default=os.environ.get("KUBECONFIG", ""), help="as kubectl's (default: the same)")
    show.add_argument("--namespace", default="meshwright", help="the control plane's (default: meshwright)")


def run(args: argparse.Namespace) -> int:
    """Do it; return 0, 1 when it cannot be done or no identity can be issued, 2 for wrong usage."""
    try:
        if args.verb == "show":
            return asyncio.run(_show(args.kubeconfig or None, args.namespace))
        if not args.out and not args.form:
            return _fail("write --out DIR for files, or -o yaml for manifests", 2)
        trust = TrustDomain(name=_read_domain(args.trust_domain), control_plane=Namespace(args.namespace))
        lifetime = _read_lifetime(args.duration)
        now = datetime.now(UTC)
        if args.verb == "create-anchor":
            made = make_anchor(trust, lifetime, now)
            root = made
        else:
            root = _read_authority(Path(args.anchor))
            made = make_issuer(root, trust, lifetime, now)
        if args.out:
            _write_files(Path(args.out), made, root)
        if args.form:
            manifests = _manifests(args.verb, args.namespace, made, root)
            sys.stdout.write(yaml.safe_dump_all(manifests, sort_keys=False, width=1_000_000))
    except (ValueError, OSError) as error:
        return _fail(str(error), 1)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"meshwright identity: {message}", file=sys.stderr)
    return status


def _read_domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise ValueError(f"--trust-domain {text}: write a domain name in lower case, such as cluster.local")
    return text


def _read_lifetime(text: str) -> timedelta:
    try:
        lifetime = timedelta(milliseconds=parse_gateway_duration(text))
    except ValueError as error:
        raise ValueError(f"--duration {text}: write {error}") from None
    if lifetime < timedelta(minutes=5):
        raise ValueError(f"--duration {text}: write at least 5m")
    return lifetime


def _read_authority(folder: Path) -> Authority:
    return Authority(certificate=(folder / "tls.crt").read_text(), key=(folder / "tls.key").read_text())


def _write_files(folder: Path, made: Authority, root: Authority) -> None:
    """Write the three files; none when one of them is there already.

    Raises:
        OSError: they cannot be written, or one is there: a key that is lost is lost for good.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    contents = {"tls.key": made.key, "tls.crt": made.certificate, "ca.crt": root.certificate}
    for name in contents:
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} is there already; choose another folder")
    for name, content in contents.items():
        mode = 0o600 if name.endswith(".key") else 0o644
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(content)
        print(f"wrote {folder / name}", file=sys.stderr)


def _manifests(verb: str, namespace: str, made: Authority, root: Authority) -> list[dict[str, Any]]:
    is_anchor = verb == "create-anchor"
    data = {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": root.certificate}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": ANCHOR_SECRET if is_anchor else ISSUER_SECRET, "namespace": namespace},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()},
    }
    bundle = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": BUNDLE, "namespace": namespace},
        "data": {BUNDLE_KEY: root.certificate},
    }
    return [secret, bundle] if is_anchor else [secret]


async def _show(kubeconfig: str | None, namespace: str) -> int:
    # Only here: to make certificates takes no client.
    from meshwright.edge.client import ApiError, Unreachable, connect
    from meshwright.edge.resources import RESOURCES
    from meshwright.model.ref import Kind

    maps, namespaces = RESOURCES[Kind.CONFIG_MAP], RESOURCES[Kind.NAMESPACE]
    try:
        async with await connect(kubeconfig) as client:
            try:
                raw = await client.read(maps, namespace, MESH_NAME)
            except ApiError as error:
                if error.status != 404:
                    raise
                return _fail(
                    f"ConfigMap {namespace}/{MESH_NAME} is not there: is meshwright installed in namespace {namespace} "
                    "(--namespace), and its operator running? `meshwright check` says more",
                    1,
                )
            copies, token = [], ""
            while True:
                page = await client.list_page(maps, labels=f"{LABEL_UNIT}=anchors", token=token)
                copies += [item for item in page.items if item["metadata"]["name"] == ANCHORS_NAME]
                token = page.token
                if not token:
                    break
            places = [item["metadata"]["name"] for item in (await client.list_page(namespaces, limit=0)).items]
    except (ApiError, Unreachable, ConnectionError) as error:
        return _fail(f"the cluster cannot be asked: {error}", 1)
    try:
        report = json.loads(raw["data"][MESH_KEY])
        return show_report(open_terminal(), report, _count_copies(report, copies, places), datetime.now(UTC))
    except (KeyError, TypeError, ValueError):
        return _fail(
            f"{MESH_KEY} of ConfigMap {namespace}/{MESH_NAME} cannot be read; is the operator of this version?", 1
        )


def _count_copies(report: Mapping[str, Any], copies: list[dict[str, Any]], places: list[str]) -> str:
    """Return how many namespaces have exactly the anchors of the report."""
    wanted = {anchor["fingerprint"] for anchor in report["anchors"]}
    good = {
        copy["metadata"]["namespace"]
        for copy in copies
        if {anchor.fingerprint for anchor in parse_bundle(copy).anchors} == wanted
    }
    expected = sorted(place for place in places if place not in WITHOUT_ANCHORS)
    lacking = [place for place in expected if place not in good]
    text = f"{len(expected) - len(lacking)} of {len(expected)} namespaces have these anchors"
    return f"{text}; not {', '.join(lacking[:5])}{' …' if len(lacking) > 5 else ''}" if lacking else text


def show_report(terminal: Terminal, report: Mapping[str, Any], copies: str, now: datetime) -> int:
    """Write what the operator tells of identity; return 0, or 1 when nothing can be issued.

    Raises:
        KeyError, TypeError, ValueError: the report is of another form.
    """
    issuer, by = report["issuer"], report["issued_by"]
    terminal.say(terminal.paint(f"Trust domain {report['trust_domain']}", Paint.BOLD))
    source = "from outside" if by["kind"] == "none" else f"by cert-manager, {by['kind']} {by['name']}"
    terminal.say(f"Issuer in Secret {report['secret']}, {source}")
    rows: list[tuple[str, ...]] = [("", "NAME", "KEY", "VALID UNTIL", "", "FINGERPRINT")]
    if issuer is not None:
        rows.append(_row("issuer", issuer, now))
    rows += [_row("anchor", anchor, now) for anchor in report["anchors"]]
    terminal.table(rows)
    if report["next_renewal"]:
        terminal.say(f"Next renewal {report['next_renewal']} ({_in(report['next_renewal'], now)})")
    for request in report["cert_manager"]:
        state = (
            "Ready" if request["ready"] == "True" else f"not Ready: {request['reason']} {request['message']}".strip()
        )
        terminal.say(f"Certificate {request['certificate']}: {state}")
    terminal.say(copies)
    problems = report["problems"]
    if not problems:
        terminal.say(terminal.paint("No problems.", Paint.GREEN))
    for problem in problems:
        colour = Paint.RED if problem["is_fatal"] else Paint.YELLOW
        field = f"{problem['field']}: " if problem["field"] else ""
        terminal.say(f"{terminal.paint(problem['reason'], colour)}: {field}{problem['message']}")
    if not report["can_issue"]:
        terminal.say(terminal.paint("No new pod can get an identity.", Paint.RED))
    return 0 if report["can_issue"] else 1


def _row(what: str, certificate: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    end = str(certificate["not_after"])
    return (what, certificate["subject"], certificate["key"], end, _in(end, now), certificate["fingerprint"][:16])


def _in(when: str, now: datetime) -> str:
    """Return how far off a moment is: ``in 46 h``, ``3 days ago``."""
    seconds = (datetime.fromisoformat(when) - now).total_seconds()
    units = (("days", 172_800, 86_400), ("h", 7_200, 3_600), ("min", 0, 60))
    unit, size = next((unit, size) for unit, least, size in units if abs(seconds) >= least)
    count = int(abs(seconds) // size)
    return f"in {count} {unit}" if seconds >= 0 else f"{count} {unit} ago"
