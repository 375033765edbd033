"""Where callers are and who: the part of the reference that looks at addresses and names.

Source: https://linkerd.io/2-edge/reference/authorization-policy/
"""

import ipaddress
from typing import Any

Raw = dict[str, Any]

IDENTITY = "serviceaccount.identity.meshwright.cluster.local"
LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"


def within(address: Any, networks: list[Any]) -> bool:
    def holds(text: str) -> bool:
        network = ipaddress.ip_network(text, strict=False)
        return network.version == address.version and address in network

    return any(
        holds(each) if isinstance(each, str) else holds(each["cidr"]) and not any(map(holds, each.get("except", [])))
        for each in networks
    )


def are_sound(networks: list[Raw]) -> bool:
    try:
        for each in networks:
            whole = ipaddress.ip_network(each["cidr"], strict=False)
            for network in (whole, *(ipaddress.ip_network(text, strict=False) for text in each.get("except", []))):
                if network.version == 6 and network.subnet_of(ipaddress.IPv6Network("::ffff:0:0/96")):
                    return False
                if network.version != whole.version or not network.subnet_of(whole):  # type: ignore[arg-type]
                    return False
                if network is not whole and network == whole:
                    return False
    except ValueError:
        return False
    return True


def is_one_of(caller: Raw, wanted: list[str]) -> bool:
    dns, uri = caller.get("dns", ""), caller.get("uri", "")
    for each in wanted:
        if each == "*":
            good = bool(dns)
        elif each.startswith("*."):
            good = dns.endswith(each[1:]) and dns != each[1:]
        else:
            good = each == (uri if each.startswith("spiffe://") else dns)
        if good:
            return True
    return False


def account(name: str, namespace: str) -> str:
    return f"{name}.{namespace}.{IDENTITY}"
