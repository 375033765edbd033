"""What a cluster holds of all that decides who may call whom, listed once."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from meshwright.edge.client import ApiError, Client, Json
from meshwright.edge.resources import RESOURCES, VERSIONS
from meshwright.emit.inbound_unit import DEFAULTS_NAME
from meshwright.model.config import Config
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind
from meshwright.parse.inbound_unit import parse_defaults_unit

_NOT_FOUND = 404
_ASKED = (
    Kind.NAMESPACE,
    Kind.EXTERNAL_WORKLOAD,
    Kind.SERVER,
    Kind.SERVER_AUTHORIZATION,
    Kind.AUTHORIZATION_POLICY,
    Kind.MESH_TLS_AUTHENTICATION,
    Kind.NETWORK_AUTHENTICATION,
    Kind.POLICY_HTTP_ROUTE,
    Kind.HTTP_ROUTE,
    Kind.GRPC_ROUTE,
)


async def list_all(client: Client, namespaces: Iterable[str]) -> list[Json]:
    """Return all objects that decide, of all namespaces, and the pods and Services of ``namespaces``. A kind that
    the cluster does not have has none.

    Raises:
        ApiError, Unreachable: the cluster does not say.
    """
    lists = [list_kind(client, kind) for kind in _ASKED]
    lists += [
        list_kind(client, kind, namespace) for kind in (Kind.POD, Kind.SERVICE) for namespace in sorted(set(namespaces))
    ]
    return [raw for found in await asyncio.gather(*lists) for raw in found]


async def read_defaults(client: Client, config: Config) -> Config | None:
    """Return ``config`` with the inbound policy that the installation has; ``None`` when it does not say.

    Raises:
        ApiError, Unreachable: the cluster does not say.
    """
    try:
        raw = await client.read(RESOURCES[Kind.CONFIG_MAP], config.namespace, DEFAULTS_NAME)
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return None
        raise
    found = parse_defaults_unit(raw)
    return None if isinstance(found, Problem) else replace(config, policy=found)


async def list_kind(client: Client, kind: Kind, namespace: str = "") -> list[Json]:
    """Return all objects of a kind, in the first of its versions that is served; none when there is no such kind.

    Raises:
        ApiError, Unreachable: the cluster does not say.
    """
    for resource in VERSIONS[kind]:
        items: list[Json] = []
        token = ""
        try:
            while True:
                page = await client.list_page(resource, namespace=namespace, token=token)
                items += page.items
                token = page.token
                if not token:
                    return items
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
    return []
