"""The API server as a few verbs over raw JSON. The only module that knows which client package stands behind them.

Nothing here retries, caches or logs: each call is one request with a deadline of its own, and a fault is an exception.

kubernetes-asyncio gives configuration, TLS and authentication. Bodies go past its models: they cost some twenty times
the JSON itself, and fields they do not know vanish on the way.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
import yaml
from kubernetes_asyncio import config as kube_config
from kubernetes_asyncio.client import ApiClient, Configuration

from meshwright import __version__
from meshwright.edge.answers import ApiError, Json, Unreachable, error_of, read_events, read_object
from meshwright.edge.api_resource import CUSTOM_RESOURCE_DEFINITIONS, Resource

__all__ = [
    "ApiError",
    "Client",
    "Json",
    "Login",
    "Page",
    "Unreachable",
    "connect",
    "error_of",
]

PAGE_SIZE = 500
CONNECT_SECONDS, LIST_SECONDS, CALL_SECONDS = 5.0, 60.0, 15.0
SILENCE_SECONDS = 90.0
"""The API server sends a bookmark about every minute; a stream that says nothing for longer is dead."""
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
PLAIN_JSON = "application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Source: kubernetes.io ``docs/reference/using-api/api-concepts``, metadata-only fetches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a list. ``token`` asks for the next one, ``""`` on the last. Items carry apiVersion and kind."""

    items: list[Json]
    resource_version: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How another client reaches the same API server as the same user. Paths are files in PEM."""

    server: str
    token: str | None
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    skips_verification: bool


def _proxy_of(server: str) -> str | None:
    url = urlsplit(server)
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


def _query(**parameters: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None and value != ""}


class Client:
    """One API server. Belongs to the event loop it was made in; close it there, or use it as a context.

    Every verb raises `ApiError` when the server refuses and `Unreachable` when no whole answer comes.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._api = ApiClient(configuration)
        # Its session looks for a proxy anew, in another thread, at each request. Ours has its connections, no more.
        connector = self._api.rest_client.pool_manager.connector
        self._session = aiohttp.ClientSession(connector=connector, connector_owner=False, read_bufsize=2**21)
        self._fixed: dict[str, Any] = {}
        if proxy := configuration.proxy or _proxy_of(configuration.host):
            self._fixed["proxy"] = proxy
        if configuration.proxy_headers:
            self._fixed["proxy_headers"] = configuration.proxy_headers
        if configuration.tls_server_name:
            self._fixed["server_hostname"] = configuration.tls_server_name
        self._reachable = asyncio.Event()
        self._reachable.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Streams still read from end with `Unreachable`."""
        await self._session.close()
        await self._api.close()

    @property
    def is_reachable(self) -> bool:
        """Whether the last call was answered at all, whatever the answer. Before the first call it is."""
        return self._reachable.is_set()

    async def wait_reachable(self) -> None:
        """Return once a call, anybody's, is answered; at once where the last one was."""
        await self._reachable.wait()

    async def login(self) -> Login:
        """Return how this client reaches the server, with a fresh token."""
        settings = await self._configuration.auth_settings()
        written = str(settings.get("BearerToken", {}).get("value") or "")
        return Login(
            server=self._configuration.host,
            token=written.removeprefix("Bearer ").strip() or None,
            ca_path=self._configuration.ssl_ca_cert,
            certificate_path=self._configuration.cert_file,
            key_path=self._configuration.key_file,
            skips_verification=not self._configuration.verify_ssl,
        )

    async def list_page(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        limit: int = PAGE_SIZE,
        token: str = "",
    ) -> Page:
        """Return one page of a list, as fresh as the server has it. ``labels``, ``fields``: selectors, or ``""``."""
        query = _query(labelSelector=labels, fieldSelector=fields, limit=limit, **{"continue": token})
        accept = PARTIAL_LIST if resource.is_partial else PLAIN_JSON
        body = await self._call("GET", resource.path(namespace), query=query, accept=accept, seconds=LIST_SECONDS)
        meta = body.get("metadata") or {}
        items: list[Json] = body.get("items") or []
        for item in items:  # items of built-in kinds come without these two
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return Page(items=items, resource_version=meta.get("resourceVersion") or "", token=meta.get("continue") or "")

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        seconds: int = 270,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """Open a stream of events from a version on, and close it at the end of the context.

        Events are raw (``{"type": ..., "object": ...}``), bookmarks and ERROR events too. The stream ends when the
        server ends it, after some ``seconds``. Opening raises `ApiError` when the server refuses; reading raises
        `Unreachable` when the stream is cut, or says nothing for ``silence_seconds``.
        """
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            labelSelector=labels,
            fieldSelector=fields,
            timeoutSeconds=seconds,
        )
        total = seconds + silence_seconds
        timeout = aiohttp.ClientTimeout(total=total, sock_connect=CONNECT_SECONDS, sock_read=silence_seconds)
        accept = PARTIAL if resource.is_partial else PLAIN_JSON
        request = self._request("GET", resource.path(namespace), query=query, accept=accept, timeout=timeout)
        async with request as answer:
            yield read_events(answer)

    async def read(self, resource: Resource, namespace: str, name: str, *, seconds: float = CALL_SECONDS) -> Json:
        """Return one object."""
        return await self._call("GET", resource.path(namespace, name), seconds=seconds)

    async def get_raw(self, path: str, *, seconds: float = CALL_SECONDS) -> tuple[bytes, Mapping[str, str]]:
        """Return what the server answers at ``path``, which may have a query, and the answer's headers."""
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        async with self._request("GET", path, timeout=timeout) as answer:
            return await answer.read(), answer.headers

    async def create(
        self,
        resource: Resource,
        manifest: Mapping[str, Any],
        *,
        manager: str,
        seconds: float = CALL_SECONDS,
        is_dry_run: bool = False,
    ) -> Json:
        """Create an object (or ask a review) and return the server's answer. ``is_dry_run``: nothing is stored."""
        path = resource.path((manifest.get("metadata") or {}).get("namespace") or "")
        query = _query(fieldManager=manager, dryRun="All" if is_dry_run else "")
        return await self._call("POST", path, query=query, body=manifest, seconds=seconds)

    async def replace(
        self, resource: Resource, manifest: Mapping[str, Any], *, manager: str, seconds: float = CALL_SECONDS
    ) -> Json:
        """Replace an object: only if it is unchanged since, when the manifest has a resourceVersion (else 409)."""
        meta = manifest["metadata"]
        path = resource.path(meta.get("namespace") or "", meta["name"])
        return await self._call("PUT", path, query=_query(fieldManager=manager), body=manifest, seconds=seconds)

    async def apply(
        self, resource: Resource, manifest: Mapping[str, Any], *, manager: str, is_forced: bool = False
    ) -> Json:
        """Apply a whole intent on the server's side and return the object. Creates it when it is not there.

        Raises `ApiError` 409 when another manager owns a field and ``is_forced`` is not set.
        """
        meta = manifest["metadata"]
        path = resource.path(meta.get("namespace") or "", meta["name"])
        query = _query(fieldManager=manager, force="true" if is_forced else "false")
        return await self._call("PATCH", path, query=query, body=manifest, content_type=APPLY_PATCH)

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        status: Mapping[str, Any],
        resource_version: str,
        manager: str,
    ) -> Json:
        """Set the members of ``status`` given, whole lists at a time, and return the object.

        Raises `ApiError` 409 when the object is no longer at ``resource_version``.
        """
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        path = resource.path(namespace, name, "status")
        return await self._call("PATCH", path, query=_query(fieldManager=manager), body=body, content_type=MERGE_PATCH)

    async def patch_json(
        self, resource: Resource, namespace: str, name: str, steps: Sequence[Mapping[str, Any]], *, manager: str
    ) -> Json:
        """Change an object by RFC 6902's steps, all or none, and return it. Raises `ApiError` 422 when a test fails."""
        path = resource.path(namespace, name)
        return await self._call("PATCH", path, query=_query(fieldManager=manager), body=steps, content_type=JSON_PATCH)

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str = "", resource_version: str = ""
    ) -> None:
        """Delete an object: only the one with this ``uid``, and as it was at ``resource_version``, when given (else
        `ApiError` 409)."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if found := _query(uid=uid, resourceVersion=resource_version):
            body["preconditions"] = found
        await self._call("DELETE", resource.path(namespace, name), body=body)

    async def served_versions(self, resource: Resource) -> frozenset[str]:
        """Return the versions that a kind's CustomResourceDefinition serves; none when there is none.

        A 404 on a list is not enough to know that: a server that has just started gives one for what it will serve.
        """
        try:
            crd = await self.read(CUSTOM_RESOURCE_DEFINITIONS, "", f"{resource.plural}.{resource.group}")
        except ApiError as error:
            if error.status == 404:
                return frozenset()
            raise
        if (crd.get("metadata") or {}).get("deletionTimestamp"):
            return frozenset()
        versions = (crd.get("spec") or {}).get("versions") or ()
        return frozenset(str(version.get("name")) for version in versions if version.get("served"))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        content_type: str = PLAIN_JSON,
        accept: str = PLAIN_JSON,
        seconds: float = CALL_SECONDS,
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        request = self._request(
            method, path, query=query, body=body, content_type=content_type, accept=accept, timeout=timeout
        )
        async with request as answer:
            content = await answer.read()
        return read_object(content, f"{method} {path}")

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        content_type: str = PLAIN_JSON,
        accept: str = PLAIN_JSON,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": accept, "User-Agent": f"meshwright/{__version__}"}
        if body is not None:
            headers["Content-Type"] = content_type
        await self._api.update_params_for_auth(headers, [], ["BearerToken"])
        data = orjson.dumps(body) if body is not None else None
        is_answered = False
        try:
            async with self._session.request(
                method,
                self._configuration.host + path,
                params=query,
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                **self._fixed,
            ) as answer:
                is_answered = True
                self._reachable.set()
                if answer.status >= 300:
                    content = await answer.read()
                    raise error_of(answer.status, answer.reason or "", content, answer.headers.get("Retry-After"))
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not is_answered:
                self._reachable.clear()
            raise Unreachable(f"{method} {path}: {str(error) or type(error).__name__}") from error


async def connect(kubeconfig: str | None = None, context: str | None = None) -> Client:
    """Return a client: for ``kubeconfig`` (a path) when given, else in the cluster, else as kubectl would.

    Raises:
        ConnectionError: nothing says where the API server is, or the file cannot be used. No request is made.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None and context is None:
            try:
                kube_config.load_incluster_config(client_configuration=configuration)
            except kube_config.ConfigException:
                await kube_config.load_kube_config(client_configuration=configuration)
        else:
            await kube_config.load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=configuration
            )
    except (kube_config.ConfigException, OSError) as error:
        raise ConnectionError(f"no way to an API server: {error}") from error
    except (TypeError, AttributeError, yaml.YAMLError) as error:
        # A file that is empty, or is something else, fails in its reader.
        raise ConnectionError(f"no way to an API server: {kubeconfig or 'the kubeconfig'} is no kubeconfig") from error
    configuration.host = configuration.host.rstrip("/")
    return Client(configuration)
