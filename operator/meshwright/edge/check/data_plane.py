"""Whether each proxy is well: ready, connected, certified, trusting, and of the right version."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from meshwright.edge.check.clocks import say_span
from meshwright.edge.check.existence import LABEL_VERSION, container_statuses
from meshwright.edge.check.identity import read_identity
from meshwright.edge.check.inquiry import DEPLOYMENTS, NAMESPACES, PODS, Inquiry
from meshwright.edge.check.installed import deployment_name, read_installed
from meshwright.edge.check.keeper import LATE_RATIO
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.check.samples import Scrape, scrape
from meshwright.edge.check.unmeshed import ENDED
from meshwright.edge.client import Json
from meshwright.emit.inject import ANNOTATION_VERSION, LABEL_CONTROL_PLANE
from meshwright.emit.sds import ANCHORS, IDENTITY
from meshwright.link.trust import choose_anchors
from meshwright.model.pod import PROXY_CONTAINER
from meshwright.model.proxy import ProxySettings
from meshwright.parse.duration import parse_millis

RENEWED_RATIO = 2 / 3
"""When a proxy renews its certificate, as a share of the certificate's life."""

CONNECTED = "envoy_control_plane_connected_state"
ENDS = tuple(f"envoy_{kind}_ssl_certificate_expiration_unix_time_seconds" for kind in ("listener", "cluster"))
_NAMES = (CONNECTED, *ENDS)
WORDS = r"^control_plane\.connected_state|expiration_unix_time_seconds$"
"""Which statistics a proxy is asked for, by Envoy's own names; a large mesh has thousands."""
_CERTIFICATE = "envoy_tls_certificate"
_DATE = "%Y-%m-%dT%H:%M:%SZ"


async def look_at_namespace(inquiry: Inquiry) -> list[Finding]:
    name = inquiry.options.namespace
    if name and await inquiry.read(NAMESPACES, "", name) is None:
        return [Finding(what=f"namespace/{name}", found="there is none")]
    return []


async def look_for_proxies(inquiry: Inquiry) -> list[Finding]:
    if await _list_meshed(inquiry):
        return []
    name = inquiry.options.namespace
    where = f"in namespace {name}" if name else "in any namespace"
    fix = f"kubectl annotate namespace {name or 'NAME'} linkerd.io/inject=enabled, then restart what runs there"
    return [Finding(what="pods", found=f"none {where} has a proxy", fix=fix)]


async def count_proxies(inquiry: Inquiry) -> str:
    return str(len(await _list_meshed(inquiry)))


async def look_at_readiness(inquiry: Inquiry) -> list[Finding]:
    """Find proxies that are not ready, by the kubelet's account."""
    findings = []
    for pod in await _list_meshed(inquiry):
        meta = pod["metadata"]
        status = next((each for each in container_statuses(pod) if each.get("name") == PROXY_CONTAINER), {})
        if status.get("ready") is True:
            continue
        waiting = (status.get("state") or {}).get("waiting") or {}
        ended = (status.get("lastState") or {}).get("terminated") or {}
        found = "its proxy is not ready"
        if waiting.get("reason"):
            found += f": {waiting['reason']} {waiting.get('message') or ''}".rstrip()
        elif ended:
            found += f": it ended before, {ended.get('reason')}, exit code {ended.get('exitCode')}"
        elif not status:
            found += ": the kubelet has not begun with it"
        fix = f"kubectl -n {meta['namespace']} logs {meta['name']} -c {PROXY_CONTAINER}"
        findings.append(Finding(what=_what(pod), found=found, fix=fix))
    return findings


async def look_at_versions(inquiry: Inquiry) -> list[Finding]:
    """Find proxies that another version of the webhook has made, or another control plane."""
    home = inquiry.options.control_plane
    webhook = await inquiry.read(DEPLOYMENTS, home, deployment_name("webhook")) or {}
    wanted = str(((webhook.get("metadata") or {}).get("labels") or {}).get(LABEL_VERSION) or "")
    findings = []
    for pod in await _list_meshed(inquiry):
        meta = pod["metadata"]
        version = str((meta.get("annotations") or {}).get(ANNOTATION_VERSION) or "unknown")
        owner = str((meta.get("labels") or {}).get(LABEL_CONTROL_PLANE) or home)
        if owner != home:
            findings.append(
                Finding(what=_what(pod), found=f"its proxy belongs to the control plane in namespace {owner}")
            )
        elif wanted and version != wanted:
            found = f"its proxy is of version {version}, the control plane of {wanted}"
            findings.append(Finding(what=_what(pod), found=found))
    return findings


async def look_at_answers(inquiry: Inquiry) -> list[Finding]:
    """Find ready proxies that do not answer at their port for metrics."""
    return [
        Finding(
            what=_what(found.pod),
            found=f"it does not say how it is: {found.error}",
            fix=f"let the API server reach port {ProxySettings().admin_port} of pods: look at NetworkPolicies",
        )
        for found in await _scrape(inquiry)
        if found.error
    ]


async def look_at_connections(inquiry: Inquiry) -> list[Finding]:
    """Find proxies whose stream to delivery is down."""
    return [
        Finding(what=_what(found.pod), found="it is not connected to delivery: what it knows gets older")
        for found in await _scrape(inquiry)
        if not found.error and not any(found.values(CONNECTED))
    ]


async def look_at_certificates(inquiry: Inquiry) -> list[Finding]:
    """Find proxies without a certificate, or with one that has ended."""
    now = await inquiry.now()
    findings = []
    for found in await _scrape(inquiry):
        end = _end_of(found, IDENTITY)
        if found.error or (end is not None and end > now):
            continue
        text = "it has no certificate in use" if end is None else f"its certificate ended {say_span(now - end)} ago"
        findings.append(Finding(what=_what(found.pod), found=text, fix=_logs(found)))
    return findings


async def look_at_renewals(inquiry: Inquiry) -> list[Finding]:
    """Find proxies that should have renewed their certificate by now."""
    now = await inquiry.now()
    lifetime = await _leaf_lifetime(inquiry)
    findings = []
    for found in await _scrape(inquiry):
        end = _end_of(found, IDENTITY)
        if end is None or not timedelta(0) < end - now < lifetime * (1 - RENEWED_RATIO - LATE_RATIO):
            continue
        text = f"its certificate ends in {say_span(end - now)}, of the {say_span(lifetime)} that it lives"
        findings.append(Finding(what=_what(found.pod), found=text, fix=_logs(found)))
    return findings


async def look_at_anchors(inquiry: Inquiry) -> list[Finding]:
    """Find proxies that have loaded other trust anchors than those that are written.

    Of a bundle Envoy tells only when the certificate ends that ends first. So an anchor that was dropped, or a bundle
    of another mesh, is seen; that an anchor which ends later was added is not.

    Source: Envoy's statistic ``ssl.certificate.<name>.expiration_unix_time_seconds``, as version 1.40 has it.
    """
    identity = await read_identity(inquiry)
    if not identity.bundle.anchors:
        return []
    published = choose_anchors(identity.bundle.anchors, await inquiry.now())
    wanted = min(anchor.not_after for anchor in published)
    findings = []
    for found in await _scrape(inquiry):
        end = _end_of(found, ANCHORS)
        if end is not None and abs(end - wanted) >= timedelta(seconds=1):
            text = f"the first of its anchors ends {end:{_DATE}}, and of those that are written {wanted:{_DATE}}"
            findings.append(Finding(what=_what(found.pod), found=text))
    return findings


async def _list_meshed(inquiry: Inquiry) -> list[Json]:
    """Return the pods that have a proxy and should be running."""
    return [
        pod
        for pod in await inquiry.list_all(PODS, inquiry.options.namespace)
        if (pod.get("status") or {}).get("phase") not in ENDED
        and not pod["metadata"].get("deletionTimestamp")
        and any(
            each.get("name") == PROXY_CONTAINER
            for part in ("initContainers", "containers")
            for each in (pod.get("spec") or {}).get(part) or ()
        )
    ]


async def _scrape(inquiry: Inquiry) -> list[Scrape]:
    """Return what each ready proxy says. One that is not ready is told of by another check."""
    ready = [
        pod
        for pod in await _list_meshed(inquiry)
        if any(each.get("name") == PROXY_CONTAINER and each.get("ready") is True for each in container_statuses(pod))
    ]
    return await scrape(inquiry, ready, ProxySettings().admin_port, _NAMES, words=WORDS)


def _end_of(found: Scrape, certificate: str) -> datetime | None:
    """Return when the first of a proxy's copies of a certificate ends, ``None`` when it has none."""
    ends = [value for name in ENDS for value in found.values(name, **{_CERTIFICATE: certificate})]
    return datetime.fromtimestamp(min(ends), UTC) if ends else None


async def _leaf_lifetime(inquiry: Inquiry) -> timedelta:
    text = (await read_installed(inquiry)).leaf_lifetime
    try:
        return timedelta(milliseconds=parse_millis(text))
    except ValueError:
        return timedelta(hours=24)


def _what(pod: Json) -> str:
    return f"pod/{pod['metadata']['name']} in {pod['metadata']['namespace']}"


def _logs(found: Scrape) -> str:
    return f"kubectl -n {found.namespace} logs {found.name} -c {PROXY_CONTAINER}"


def _check(
    description: str,
    level: Level,
    hint: str,
    look: Callable[[Inquiry], Awaitable[list[Finding]]],
    *,
    is_retried: bool = True,
    note: Callable[[Inquiry], Awaitable[str]] | None = None,
) -> Check:
    group = Group.DATA_PLANE
    return Check(
        group=group, description=description, level=level, hint=hint, look=look, is_retried=is_retried, note=note
    )


CHECKS = (
    _check("the namespace is there", Level.FATAL, "name another by --namespace", look_at_namespace, is_retried=False),
    _check(
        "there are pods with a proxy",
        Level.WARNING,
        "pods get it when they are made, where the namespace or they themselves are annotated",
        look_for_proxies,
        is_retried=False,
        note=count_proxies,
    ),
    _check(
        "the proxies are ready",
        Level.ERROR,
        "a proxy is ready once it has a certificate and delivery has answered it once",
        look_at_readiness,
    ),
    _check(
        "the proxies are of the control plane's version",
        Level.WARNING,
        "restart what they belong to: a pod gets the proxy of the day it is made",
        look_at_versions,
        is_retried=False,
    ),
    _check(
        "the proxies say how they are",
        Level.WARNING,
        "of a proxy that cannot be asked, nothing below is known",
        look_at_answers,
    ),
    _check(
        "the proxies are connected to delivery",
        Level.ERROR,
        "a proxy goes on with what it knows; look whether it reaches meshwright-xds:15010, and at delivery's log",
        look_at_connections,
    ),
    _check(
        "the proxies' certificates are valid",
        Level.ERROR,
        "a proxy without one speaks to no other; its log says why it got none",
        look_at_certificates,
    ),
    _check(
        "the proxies renew their certificates in time",
        Level.WARNING,
        "they do after two thirds of its life, and try until it is done; look whether they reach meshwright-xds:15012",
        look_at_renewals,
    ),
    _check(
        "the proxies trust the anchors that are written",
        Level.ERROR,
        "the kubelet brings a changed bundle into pods within two minutes, and the proxy takes it within seconds",
        look_at_anchors,
    ),
)
