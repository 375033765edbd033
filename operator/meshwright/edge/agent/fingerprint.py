"""Which machine this is, by what a copy of its disk does not take along.

Source: ``machine-id(5)``; Linux ``drivers/firmware/dmi-id.c`` (product_uuid, for root only); ``netdevice(7)``.
"""

import fcntl
import hashlib
import json
import socket
import struct
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")
PRODUCT_UUID = Path("/sys/class/dmi/id/product_uuid")
Parts = tuple[tuple[str, str], ...]

_SIOCGIFHWADDR = 0x8927
_ETHERNET = 1
"""Linux ``include/uapi/linux/if_arp.h`` ARPHRD_ETHER."""


def take_fingerprint(redirected: Path, *, machine_id: Path = MACHINE_ID, product_uuid: Path = PRODUCT_UUID) -> Parts:
    """Return the machine's parts by name, each as a hash; one that cannot be read is left out. Never raises.

    ``redirected``: where root has written the hash of the product's UUID, should we not be allowed to read it.
    """
    found = {
        "machineId": _hash_file(machine_id),
        "productUuid": _hash_file(product_uuid) or read_noted(redirected),
        "mac": _hash(read_first_mac()),
    }
    return tuple((name, value) for name, value in found.items() if value)


def find_difference(before: Parts, now: Parts) -> tuple[str, ...]:
    """Return the names of the parts that are known of both machines, and differ."""
    then = dict(before)
    return tuple(name for name, value in now if then.get(name, value) != value)


def hash_product_uuid(path: Path = PRODUCT_UUID) -> str:
    """Return the hash of the product's UUID, ``""`` when it cannot be read. Never raises."""
    return _hash_file(path)


def read_noted(redirected: Path) -> str:
    """Return the hash of the product's UUID that root has noted, ``""`` without one. Never raises."""
    try:
        noted = json.loads(redirected.read_bytes())["productUuid"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return noted if isinstance(noted, str) else ""


def read_first_mac() -> str:
    """Return the hardware address of the first Ethernet interface, by the kernel's numbering; ``""`` without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in sorted(socket.if_nameindex()):
            try:
                answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            (family,) = struct.unpack_from("H", answer, 16)
            if family == _ETHERNET and any(answer[18:24]):
                return answer[18:24].hex(":")
    return ""


def _hash_file(path: Path) -> str:
    try:
        return _hash(path.read_text(encoding="ascii", errors="replace").strip().lower())
    except OSError:
        return ""


def _hash(text: str) -> str:
    return hashlib.sha256(f"meshwright\0{text}".encode()).hexdigest()[:32] if text else ""
