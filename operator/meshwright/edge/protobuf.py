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
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message_factory import GetMessageClass

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


class _Files:
    """The generated modules' files, for a pool that asks for them by path or by what they define, as they are needed.

    Envoy 1.40 knows a field that xds-protos lack, and a pool cannot be changed: so there is one of our own.

    Source: Envoy ``api/envoy/config/core/v3/config_source.proto`` ``PathConfigSource.poll_interval``.
    """

    def FindFileByName(self, name: str) -> FileDescriptorProto:
        """Raises KeyError: there is none."""
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
    if file.name == "envoy/config/core/v3/config_source.proto":
        [source] = (message for message in found.message_type if message.name == "PathConfigSource")
        if all(field.name != "poll_interval" for field in source.field):
            source.field.add(
                name="poll_interval",
                json_name="pollInterval",
                number=3,
                label=FieldDescriptorProto.LABEL_OPTIONAL,
                type=FieldDescriptorProto.TYPE_MESSAGE,
                type_name=f".{Duration.DESCRIPTOR.full_name}",
            )
    return found


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
