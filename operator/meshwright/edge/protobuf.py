"""JSON to protobuf and to the bytes of a delta response. Knows message types, not what they are for.

A resource is turned into bytes once; a response to one proxy is those bytes side by side, because the encoding of a
repeated field is its elements one after the other (protobuf.dev ``programming-guides/encoding``).
"""

import hashlib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, Resource
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.wrappers_pb2 import UInt32Value

PREFIX = "type.googleapis.com/"


class TypeUrl(StrEnum):
    """A kind of resource, by type URL, in the order in which changes must reach a proxy: what is named before what
    names it.

    Source: Envoy ``docs/root/api-docs/xds_protocol.rst``, "Eventual consistency considerations".
    """

    CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
    ENDPOINTS = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
    TOKEN_BUCKET = PREFIX + "envoy.type.v3.TokenBucket"
    ROUTES = PREFIX + "envoy.config.route.v3.RouteConfiguration"
    LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
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
    try:
        message = GetMessageClass(_POOL.FindMessageTypeByName(kind.value.removeprefix(PREFIX)))()
        ParseDict(dict(resource), message, descriptor_pool=_POOL)
    except (ParseError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise EncodeError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    packed = AnyMessage(type_url=kind.value, value=message.SerializeToString())
    element = Resource(name=name, version=version, resource=packed)
    return bytes(DeltaDiscoveryResponse(resources=[element]).SerializeToString())


def join_response(kind: TypeUrl, nonce: str, resources: Iterable[bytes], removed: Iterable[str]) -> bytes:
    """Return a whole serialized DeltaDiscoveryResponse."""
    rest = DeltaDiscoveryResponse(type_url=kind.value, nonce=nonce, removed_resources=removed)
    return b"".join((*resources, rest.SerializeToString()))


_PACKAGES = ("envoy.", "xds.", "udpa.")
_loaded: set[str] = set()


_STATS_FILE = "envoy/extensions/access_loggers/stats/v3/stats.proto"
_STATE_FILE = "envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.proto"
_SCOPE_FILE = "envoy/type/v3/scope.proto"


@dataclass(frozen=True, slots=True)
class _Field:
    """A field that Envoy 1.40 knows and xds-protos lack. ``kind``: a message type, or ``""`` for a string."""

    message: str
    name: str
    number: int
    kind: str = ""
    is_repeated: bool = False


_NEWER: Mapping[str, tuple[_Field, ...]] = {
    "envoy/config/core/v3/config_source.proto": (
        _Field("PathConfigSource", "poll_interval", 3, Duration.DESCRIPTOR.full_name),
    ),
    _STATS_FILE: (_Field("Config", "stats_scope", 6, "envoy.type.v3.Scope"),),
    _STATE_FILE: (
        _Field(
            "Config",
            "on_downstream_tls_handshake",
            2,
            "envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue",
            is_repeated=True,
        ),
    ),
    _SCOPE_FILE: (
        _Field("Scope", "max_counters", 1, UInt32Value.DESCRIPTOR.full_name),
        _Field("Scope", "prefix", 5),
    ),
}
"""By file. As far as what we write needs it.

Source: Envoy ``api/envoy/config/core/v3/config_source.proto`` and the files named.
"""


class _Files:
    """The generated modules' files, for a pool that asks for them by path or by what they define, as they are needed.

    Envoy knows fields that xds-protos lack, and a pool cannot be changed: so there is one of our own.
    """

    def FindFileByName(self, name: str) -> FileDescriptorProto:
        """Raises KeyError: there is none."""
        if name == _SCOPE_FILE:
            return _make_scope_file()
        if name.startswith(tuple(package.replace(".", "/") for package in _PACKAGES)):
            _load(name.rpartition("/")[0].replace("/", "."))
        return _read(Default().FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptorProto:
        """Raises KeyError: there is none."""
        _load(symbol.rpartition(".")[0])
        return _read(Default().FindFileContainingSymbol(symbol))


def _read(file: FileDescriptor) -> FileDescriptorProto:
    found = FileDescriptorProto()
    file.CopyToProto(found)
    _add_fields(found)
    return found


def _make_scope_file() -> FileDescriptorProto:
    made = FileDescriptorProto(name=_SCOPE_FILE, package="envoy.type.v3", syntax="proto3")
    made.dependency.append(UInt32Value.DESCRIPTOR.file.name)
    made.message_type.add(name="Scope")
    _add_fields(made)
    return made


def _add_fields(file: FileDescriptorProto) -> None:
    messages = {message.name: message for message in file.message_type}
    for field in _NEWER.get(file.name, ()):
        message = messages[field.message]
        if any(known.name == field.name for known in message.field):
            continue
        made = message.field.add(name=field.name, json_name=_as_json_name(field.name), number=field.number)
        made.label = made.LABEL_REPEATED if field.is_repeated else made.LABEL_OPTIONAL
        if field.kind:
            made.type, made.type_name = made.TYPE_MESSAGE, f".{field.kind}"
        else:
            made.type = made.TYPE_STRING
        if field.kind == "envoy.type.v3.Scope":
            file.dependency.append(_SCOPE_FILE)


def _as_json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _load(package: str) -> None:
    """Import all generated modules of a protobuf package; one that does not exist is protobuf's to complain about."""
    if package in _loaded or not package.startswith(_PACKAGES):
        return
    try:
        found = importlib.import_module(package)
    except ImportError:
        return
    for module in pkgutil.iter_modules(found.__path__, f"{package}."):
        if module.name.endswith("_pb2"):
            importlib.import_module(module.name)
    _loaded.add(package)


_POOL = DescriptorPool(_Files())

for _kind in TypeUrl:
    # Now rather than when the first proxy waits for it.
    _POOL.FindMessageTypeByName(_kind.value.removeprefix(PREFIX))
