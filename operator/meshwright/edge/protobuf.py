"""JSON to protobuf and to the bytes of a delta response. Knows message types, not what they are for.

A resource is turned into bytes once; a response to one proxy is those bytes side by side, because the encoding of a
repeated field is its elements one after the other (protobuf.dev ``programming-guides/encoding``).
"""

import hashlib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import orjson
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, Resource
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict, ParseError

PREFIX = "type.googleapis.com/"


class TypeUrl(StrEnum):
    """A kind of resource, by type URL, in the order in which changes must reach a proxy: what is named before what
    names it.

    Source: Envoy ``docs/root/api-docs/xds_protocol.rst``, "Eventual consistency considerations".
    """

    CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
    ENDPOINTS = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
    ROUTES = PREFIX + "envoy.config.route.v3.RouteConfiguration"
    SCOPE = PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"

    @property
    def word(self) -> str:
        """Return the message's bare name: ``Cluster``."""
        return self.value.rpartition(".")[2]


class EncodeError(Exception):
    """The JSON is not that message. The text says where, as far as protobuf does."""


def make_version(resource: Mapping[str, Any]) -> str:
    """Return a short name for the content: equal for equal JSON, whoever computes it, whatever the order of keys."""
    return hashlib.blake2b(orjson.dumps(resource, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def encode_resource(kind: TypeUrl, name: str, version: str, resource: Mapping[str, Any]) -> bytes:
    """Return ``resource`` as one element of a delta response's ``resources``, ready to stand beside others.

    Raises:
        EncodeError: it is not a message of that kind.
    """
    packed = AnyMessage()
    try:
        _load_types(resource)
        ParseDict({"@type": kind.value, **resource}, packed)
    except (ParseError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise EncodeError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    element = Resource(name=name, version=version, resource=packed)
    return bytes(DeltaDiscoveryResponse(resources=[element]).SerializeToString())


def join_response(kind: TypeUrl, nonce: str, resources: Iterable[bytes], removed: Iterable[str]) -> bytes:
    """Return a whole serialized DeltaDiscoveryResponse."""
    rest = DeltaDiscoveryResponse(type_url=kind.value, nonce=nonce, removed_resources=removed)
    return b"".join((*resources, rest.SerializeToString()))


_loaded: set[str] = set()


def _load_types(value: object) -> None:
    """Import the generated modules of every ``@type`` within ``value``, so that protobuf can look them up."""
    match value:
        case Mapping():
            if isinstance(name := value.get("@type"), str):
                _load(name.removeprefix(PREFIX).rpartition(".")[0])
            for item in value.values():
                _load_types(item)
        case list() | tuple():
            for item in value:
                _load_types(item)


def _load(package: str) -> None:
    """Import all generated modules of a protobuf package; one that does not exist is protobuf's to complain about."""
    if package in _loaded or not package.startswith(("envoy.", "xds.", "udpa.")):
        return
    try:
        found = importlib.import_module(package)
    except ImportError:
        return
    for module in pkgutil.iter_modules(found.__path__, f"{package}."):
        if module.name.endswith("_pb2"):
            importlib.import_module(module.name)
    _loaded.add(package)


for _kind in TypeUrl:
    _load(_kind.value.removeprefix(PREFIX).rpartition(".")[0])
