"""Questions to a cluster, each asked once a round: what checks look through."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar

import orjson

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.model.config import FIELD_MANAGER

NAMESPACES = Resource(group="", version="v1", plural="namespaces", kind="Namespace", is_namespaced=False)
PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", is_namespaced=False)
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments", kind="Deployment")
WEBHOOKS = Resource(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="mutatingwebhookconfigurations",
    kind="MutatingWebhookConfiguration",
    is_namespaced=False,
)
ACCESS_REVIEWS = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectaccessreviews",
    kind="SelfSubjectAccessReview",
    is_namespaced=False,
)
CERTIFICATES = Resource(
    group="cert-manager.io", version="v1", plural="certificates", kind="Certificate", is_custom=True
)
ISSUERS = Resource(group="cert-manager.io", version="v1", plural="issuers", kind="Issuer", is_custom=True)
CLUSTER_ISSUERS = Resource(
    group="cert-manager.io",
    version="v1",
    plural="clusterissuers",
    kind="ClusterIssuer",
    is_namespaced=False,
    is_custom=True,
)
CERTIFICATE_REQUESTS = Resource(
    group="cert-manager.io", version="v1", plural="certificaterequests", kind="CertificateRequest", is_custom=True
)


T = TypeVar("T")

POD_SECONDS = 5.0
"""How long a pod may take to answer."""


class NotAllowed(Exception):
    """The API server does not let us look. ``verb``, ``resource`` and ``namespace`` name the permission."""

    def __init__(self, verb: str, resource: str, namespace: str, message: str) -> None:
        where = f" in namespace {namespace}" if namespace else ""
        super().__init__(f"may not {verb} {resource}{where}: {message}")
        self.message = message
        self.verb = verb
        self.resource = resource
        self.namespace = namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``control_plane``: its namespace. ``namespace``: whose pods are looked at, ``""`` for all. ``trust_domain``: the
    one there should be, ``""`` for whichever is installed."""

    control_plane: str = "meshwright"
    namespace: str = ""
    trust_domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One request's time by two clocks. ``skew``: how far the server's is ahead of ours; ``doubt``: by how much that
    may be wrong, for the server tells whole seconds and the request took time."""

    skew: timedelta
    doubt: timedelta


class Inquiry:
    """Asks one cluster, connecting at the first question. What was asked is remembered until `forget`.

    Every question raises `ConnectionError` (nothing says where the cluster is), `Unreachable`, `NotAllowed`, or
    `ApiError` for any other refusal. ``clock`` gives the time of this machine, in UTC.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Client]], options: Options, *, clock: Callable[[], datetime]
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._client: Client | None = None
        self._known: dict[tuple[str, ...], Any] = {}
        self.options = options

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    def forget(self) -> None:
        """Ask everything anew from now on."""
        self._known.clear()

    async def client(self) -> Client:
        """Return the connection, made when it is first asked for."""
        if self._client is None:
            self._client = await self._connect()
        return self._client

    async def read(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """Return an object, ``None`` when there is none, or its kind is not known there."""
        key = ("read", resource.path(namespace, name))
        if key not in self._known:
            try:
                self._known[key] = await (await self.client()).read(resource, namespace, name)
            except ApiError as error:
                if error.status != 404:
                    raise _name_permission(error, "get", resource, namespace) from error
                self._known[key] = None
        found: Json | None = self._known[key]
        return found

    async def list_all(self, resource: Resource, namespace: str = "", labels: str = "", fields: str = "") -> list[Json]:
        """Return all objects of a kind, of all namespaces without ``namespace``; none where the kind is not known.
        ``labels``, ``fields``: selectors."""
        key = ("list", resource.path(namespace), labels, fields)
        if key not in self._known:
            client = await self.client()
            found: list[Json] = []
            token = ""
            try:
                while True:
                    page = await client.list_page(
                        resource, namespace=namespace, labels=labels, fields=fields, token=token
                    )
                    found.extend(page.items)
                    if not (token := page.token):
                        break
            except ApiError as error:
                if error.status != 404:
                    raise _name_permission(error, "list", resource, namespace) from error
            self._known[key] = found
        items: list[Json] = self._known[key]
        return items

    async def once(self, name: str, make: Callable[[], Awaitable[T]]) -> T:
        """Return what ``make`` gives, which is made of answers to other questions and remembered like these."""
        if ("once", name) not in self._known:
            self._known["once", name] = await make()
        made: T = self._known["once", name]
        return made

    async def served_versions(self, plural: str, group: str) -> frozenset[str]:
        """Return the versions a CustomResourceDefinition serves, none when there is none."""
        resource = Resource(group=group, version="v1", plural=plural, kind="")
        definitions = Resource(
            group="apiextensions.k8s.io", version="v1", plural="customresourcedefinitions", kind="", is_namespaced=False
        )
        try:
            return await (await self.client()).served_versions(resource)
        except ApiError as error:
            raise _name_permission(error, "get", definitions, "") from error

    async def may(self, verb: str, group: str, plural: str, namespace: str = "") -> bool:
        """Return whether the API server would let us.

        Source: kubernetes/api ``authorization/v1/types.go`` SelfSubjectAccessReview.
        """
        wanted = {"verb": verb, "group": group, "resource": plural, "namespace": namespace}
        review = {
            "apiVersion": ACCESS_REVIEWS.api_version,
            "kind": ACCESS_REVIEWS.kind,
            "spec": {"resourceAttributes": wanted},
        }
        try:
            answer = await (await self.client()).create(ACCESS_REVIEWS, review, manager=FIELD_MANAGER)
        except ApiError as error:
            raise _name_permission(error, "create", ACCESS_REVIEWS, "") from error
        return (answer.get("status") or {}).get("allowed") is True

    async def try_create(self, resource: Resource, manifest: Json) -> Json:
        """Return what an object would become, without creating it. Raises `ApiError` when admission refuses it."""
        try:
            return await (await self.client()).create(resource, manifest, manager=FIELD_MANAGER, is_dry_run=True)
        except ApiError as error:
            # Admission refuses with the same status as authorization, whose words these are: kubernetes/apiserver
            # ``pkg/endpoints/handlers/responsewriters/errors.go`` forbiddenMessage.
            if error.status == 403 and "cannot create resource" not in str(error):
                raise
            raise _name_permission(error, "create", resource, manifest["metadata"].get("namespace", "")) from error

    async def version(self) -> str:
        """Return the API server's version: ``v1.36.0``."""
        content, _ = await (await self.client()).get_raw("/version")
        try:
            return str(orjson.loads(content)["gitVersion"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise Unreachable("/version: the answer is not what an API server says") from error

    async def pod_text(self, namespace: str, pod: str, port: int, path: str) -> str:
        """Return what a pod answers, asked through the API server. That it does not is remembered, too.

        Source: kubernetes ``pkg/registry/core/pod/rest/subresources.go`` ProxyREST.
        """
        key = ("pod", namespace, pod, str(port), path)
        if key not in self._known:
            try:
                client = await self.client()
                content, _ = await client.get_raw(
                    f"{PODS.path(namespace, pod)}:{port}/proxy{path}", seconds=POD_SECONDS
                )
                self._known[key] = content.decode(errors="replace")
            except ApiError as error:
                self._known[key] = _name_permission(error, "get", PODS, namespace, "/proxy")
            except Unreachable as error:
                self._known[key] = error
        answer: str | Exception = self._known[key]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def moment(self) -> Moment:
        """Return how far the API server's clock is from ours, by the ``Date`` of an answer (RFC 9110 section 6.6.1)."""
        if ("moment",) not in self._known:
            client = await self.client()
            before = self._clock()
            _, headers = await client.get_raw("/version")
            after = self._clock()
            try:
                told = parsedate_to_datetime(headers.get("Date", "")).astimezone(UTC)
            except ValueError as error:
                raise Unreachable("the API server's answer has no Date") from error
            middle = before + (after - before) / 2
            half = timedelta(seconds=0.5)
            self._known["moment",] = Moment(skew=told + half - middle, doubt=half + (after - before) / 2)
        moment: Moment = self._known["moment",]
        return moment

    async def now(self) -> datetime:
        """Return the API server's time."""
        return self._clock() + (await self.moment()).skew


def _name_permission(
    error: ApiError, verb: str, resource: Resource, namespace: str, subresource: str = ""
) -> ApiError | NotAllowed:
    if error.status not in (401, 403):
        return error
    group = f".{resource.group}" if resource.group else ""
    message = str(error.body.get("message") or error.reason)
    return NotAllowed(verb, f"{resource.plural}{group}{subresource}", namespace, message)
