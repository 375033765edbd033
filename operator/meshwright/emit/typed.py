"""How Envoy's configuration writes extensions and the sources of resources."""

from typing import Any

from meshwright.model.desired import Json

ADS: Json = {"ads": {}, "resource_api_version": "V3"}
"""Ask the stream all resources come from."""

ADS_AND_WAIT: Json = ADS | {"initial_fetch_timeout": "0s"}
"""The same, and nothing goes on before the first answer: an empty configuration is worse than a late one."""


def typed(message: str, /, **fields: Any) -> Json:
    """Return the protobuf message called ``message`` in its JSON form inside an ``Any``."""
    return {"@type": f"type.googleapis.com/{message}", **fields}


def skip_filter() -> Json:
    """Return what a route or a virtual host says of an HTTP filter that its requests pass by.

    Source: Envoy ``api/envoy/config/route/v3/route_components.proto`` ``FilterConfig.disabled``.
    """
    return typed("envoy.config.route.v3.FilterConfig", disabled=True)


def extension(name: str, message: str, /, **fields: Any) -> Json:
    """Return an extension's entry: its ``name`` and its configuration."""
    return {"name": name, "typed_config": typed(message, **fields)}


def seconds(millis: int) -> str:
    """Return milliseconds as protobuf's JSON writes a duration: ``"0s"``, ``"0.250s"``, ``"5s"``."""
    whole, rest = divmod(millis, 1000)
    return f"{whole}.{rest:03d}s" if rest else f"{whole}s"


def socket_address(ip: str, port: int) -> Json:
    """Return a TCP address; ``::`` accepts IPv4 as well."""
    both = {"ipv4_compat": True} if ip == "::" else {}
    return {"socket_address": {"address": ip, "port_value": port, **both}}
