"""The containers and volumes that a pod with a proxy has: `meshwright redirect` first, `meshwright proxy` all along.

Source: kubernetes/website ``docs/concepts/workloads/pods/sidecar-containers`` (an init container that restarts always
is started before those after it, may be waited for by its startup probe, and ends last);
``docs/concepts/security/pod-security-standards`` (restricted).
"""

from collections.abc import Iterator

from meshwright.model.desired import Json
from meshwright.model.injection import Amounts, Injection, InjectionSettings
from meshwright.model.pod import PROXY_CONTAINER, PROXY_UID, REDIRECT_CONTAINER

STATE_VOLUME, SECRETS_VOLUME = "meshwright-state", "meshwright-secrets"
VOLUMES = (STATE_VOLUME, SECRETS_VOLUME)
TRUST_ANCHORS, BUNDLE_KEY = "mw-trust-anchors", "ca-bundle.crt"
AUDIENCE, TOKEN_SECONDS = "meshwright", 3600
STATE_FOLDER, SECRETS_FOLDER = "/var/run/meshwright", "/var/run/secrets/meshwright.dev"
_STATE_SIZE = "4Mi"
_START_SECONDS = 600
_AWAIT_SECONDS = 120
_PLAIN_GRACE_MS = 120_000
"""Source: linkerd2-proxy ``linkerd/app/src/env.rs`` DEFAULT_SHUTDOWN_GRACE_PERIOD."""


def emit_redirect(injection: Injection, settings: InjectionSettings) -> Json:
    """Return the init container that turns the pod's connections to its proxy.

    It is root with two capabilities, which is all that iptables needs; a root that may not gain privileges keeps those
    it was given.

    Source: linkerd2 ``charts/partials/templates/_proxy-init.tpl``.
    """
    skip_inbound = ",".join(filter(None, (str(settings.admin_port), str(injection.skip_inbound))))
    args = [
        f"--inbound-port={settings.inbound_port}",
        f"--outbound-port={settings.outbound_port}",
        f"--proxy-uid={PROXY_UID}",
        f"--skip-inbound-ports={skip_inbound}",
    ]
    if injection.skip_outbound:
        args.append(f"--skip-outbound-ports={injection.skip_outbound}")
    if injection.skip_subnets:
        args.append(f"--skip-subnets={','.join(injection.skip_subnets)}")
    args.append(f"--mode={settings.redirect_mode}")
    return {
        "name": REDIRECT_CONTAINER,
        **_image(injection, settings),
        "command": ["meshwright", "redirect"],
        "args": args,
        **_resources(injection.amounts),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def emit_proxy(injection: Injection, settings: InjectionSettings) -> Json:
    """Return the proxy's container: an init container that stays, or a plain one.

    What comes after it in the pod starts when it is ready: by its startup probe, or, as a plain container, because the
    kubelet starts the next one when ``postStart`` has ended.
    """
    container: Json = {
        "name": PROXY_CONTAINER,
        **_image(injection, settings),
        "command": ["meshwright", "proxy"],
        "args": list(_proxy_args(injection, settings)),
        "env": [_field("POD_NAME", "metadata.name"), _field("POD_NAMESPACE", "metadata.namespace")],
        "ports": [
            {"containerPort": settings.inbound_port, "name": "mw-inbound", "protocol": "TCP"},
            {"containerPort": settings.admin_port, "name": "mw-admin", "protocol": "TCP"},
        ],
        **_resources(injection.amounts),
        **_lifecycle(injection, settings),
        "livenessProbe": _probe(settings, "/live", initialDelaySeconds=10, periodSeconds=10),
    }
    if injection.is_native and injection.waits_for_proxy:
        container["startupProbe"] = _probe(settings, "/ready", periodSeconds=1, failureThreshold=_START_SECONDS)
    else:
        container["readinessProbe"] = _probe(settings, "/ready", periodSeconds=1)
    if injection.is_native:
        container["restartPolicy"] = "Always"
    return container | {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": True,
            "runAsUser": PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"mountPath": STATE_FOLDER, "name": STATE_VOLUME},
            {"mountPath": SECRETS_FOLDER, "name": SECRETS_VOLUME, "readOnly": True},
        ],
    }


def emit_volumes() -> list[Json]:
    """Return the pod's volumes for the proxy: memory for its key and certificate, and a token of its own.

    The token is projected whatever ``automountServiceAccountToken`` says, and is good for nothing but a certificate.
    """
    token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
    anchors = {"items": [{"key": BUNDLE_KEY, "path": BUNDLE_KEY}], "name": TRUST_ANCHORS}
    return [
        {"emptyDir": {"medium": "Memory", "sizeLimit": _STATE_SIZE}, "name": STATE_VOLUME},
        {
            "name": SECRETS_VOLUME,
            "projected": {"sources": [{"serviceAccountToken": token}, {"configMap": anchors}]},
        },
    ]


def make_image(injection: Injection, settings: InjectionSettings) -> str:
    """Return the image with its tag or digest: the installation's, or parts of it as annotations say."""
    image = injection.image or settings.image
    name, tag = _split_image(image)
    if injection.version:
        return f"{name}:{injection.version}"
    if tag:
        return image
    _, usual = _split_image(settings.image)
    return f"{name}{usual}" if usual.startswith(":") else f"{name}:{settings.version}"


def _split_image(image: str) -> tuple[str, str]:
    """Return the name and the rest with its first letter: ``:v1``, ``@sha256:…``, or nothing."""
    name, at, digest = image.partition("@")
    host, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    return host + slash + last, colon + tag + at + digest


def _proxy_args(injection: Injection, settings: InjectionSettings) -> Iterator[str]:
    yield f"--xds={settings.xds}"
    yield f"--signing={settings.signing}"
    yield f"--trust-domain={settings.trust.name}"
    yield f"--control-plane-namespace={settings.trust.control_plane}"
    yield f"--log-level={injection.log_level}"
    yield f"--concurrency={injection.cores or settings.concurrency}"
    # A native sidecar is asked to end when everybody else in the pod has, a plain container together with the others.
    usual = 0 if injection.is_native else _PLAIN_GRACE_MS
    if grace_ms := usual if injection.grace_ms is None else injection.grace_ms:
        yield f"--shutdown-grace-period={_write_duration(grace_ms)}"


def _write_duration(millis: int) -> str:
    seconds, rest = divmod(millis, 1000)
    return f"{millis}ms" if rest else f"{seconds}s"


def _lifecycle(injection: Injection, settings: InjectionSettings) -> Json:
    hooks: Json = {}
    if injection.waits_for_proxy and not injection.is_native:
        hooks["postStart"] = {"exec": {"command": ["/bin/bash", "-c", make_await(settings.admin_port)]}}
    if injection.exit_delay_seconds:
        hooks["preStop"] = {"exec": {"command": ["/bin/sleep", str(injection.exit_delay_seconds)]}}
    return {"lifecycle": hooks} if hooks else {}


def make_await(port: int) -> str:
    """Return the bash script that ends when the proxy says it is ready, or fails after two minutes."""
    ask = f"exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET /ready HTTP/1.0\\r\\n\\r\\n' >&3"
    answered = "read -r -t 2 _ code _ <&3"
    ready = f'({ask} && {answered} && [ "$code" = 200 ]) 2>/dev/null && exit 0'
    return f"for _ in {{1..{_AWAIT_SECONDS * 10}}}; do {ready}; sleep 0.1; done; exit 1"


def _image(injection: Injection, settings: InjectionSettings) -> Json:
    return {"image": make_image(injection, settings), "imagePullPolicy": injection.pull_policy}


def _resources(amounts: Amounts) -> Json:
    found = {"limits": dict(amounts.limits), "requests": dict(amounts.requests)}
    kept = {word: pairs for word, pairs in found.items() if pairs}
    return {"resources": kept} if kept else {}


def _probe(settings: InjectionSettings, path: str, **timing: int) -> Json:
    return {"httpGet": {"path": path, "port": settings.admin_port}, "timeoutSeconds": 1, **timing}


def _field(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
