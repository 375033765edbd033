"""Whether machines can be reached from the cluster, and are who they say: mutual TLS to a declared port of each.

What answers is the machine's proxy; that it proves the machine's identity shows that the address, the firewall and the
proxy are as they should be. Nothing is sent beside the handshake.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cryptography import x509

from meshwright.edge.host_port import write_address
from meshwright.edge.issuer import Signer
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.model.enrollment import InstanceKey
from meshwright.model.instance import Enrolled
from meshwright.model.units import Port
from meshwright.parse.shape import quote

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 3.0
MAX_AT_ONCE = 32
_MAX_NAME = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A machine, where it should be found and as whom."""

    key: InstanceKey
    ip: str
    port: Port
    identity: str
    server_name: str


class Reach:
    """Tries all ``targets()`` at each `look`. ``tell`` gets each answer: the machine, whether it was reached, and if
    not why, in words. ``leaf``: the registrar's own identity."""

    def __init__(
        self,
        *,
        signer: Signer,
        leaf: ServingLeaf,
        targets: Callable[[], Iterable[Target]],
        tell: Callable[[InstanceKey, bool, str], None],
    ) -> None:
        self._signer = signer
        self._leaf = leaf
        self._targets = targets
        self._tell = tell
        self._context: ssl.SSLContext | None = None
        self._made_of = b"", b""

    async def look(self) -> None:
        """Try each target once, so many at a time; without a certificate none can be tried."""
        targets = tuple(self._targets())
        if not targets or (context := self._make_context()) is None:
            return
        free = asyncio.Semaphore(MAX_AT_ONCE)

        async def attempt(target: Target) -> None:
            async with free:
                fault = await find_fault(target, context)
            self._tell(target.key, not fault, fault)

        await asyncio.gather(*map(attempt, targets))

    def _make_context(self) -> ssl.SSLContext | None:
        """Return what to connect with: the registrar's own identity, and the anchors as they are now."""
        if not self._leaf.is_there:
            return None
        made_of = self._leaf.chain, self._signer.anchors_pem
        if self._context is None or made_of != self._made_of:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.check_hostname = False  # who it is stands in a URI name, which is looked at below
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=made_of[1].decode())
            self._leaf.load_into(context)
            self._context, self._made_of = context, made_of
        return self._context


def find_targets(machines: Iterable[Enrolled]) -> Iterator[Target]:
    """Return where each machine is tried: at its first TCP port; one that has none is not."""
    for machine in machines:
        port = next((port.port for port in machine.template.ports if port.transport == "TCP"), None)
        if port is not None:
            who, name = machine.identity, machine.server_name
            yield Target(key=machine.key, ip=machine.ips[0], port=port, identity=who, server_name=name)


async def find_fault(target: Target, context: ssl.SSLContext) -> str:
    """Return why ``target`` could not be reached or is somebody else, ``""`` when all is well. Never raises."""
    where = write_address(target.ip, target.port)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(
                target.ip, target.port, ssl=context, server_hostname=target.server_name
            )
    except ssl.SSLError as error:
        return f"{where}: TLS: {error.reason or error}; is the proxy running there, and the port not skipped?"
    except TimeoutError:
        return f"{where}: no answer in {TIMEOUT_SECONDS:.0f} s; is there a firewall?"
    except OSError as error:
        return f"{where}: {error.strerror or error}"
    except ValueError:  # no host name that TLS could ask for
        return f"{where}: {quote(target.server_name)} is no server name"
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    names = read_names(shown)
    if target.identity not in names:
        found = ", ".join(map(_show, names)) or "no name"
        return f"{where}: found {found} there, and this machine is {target.identity}"
    return ""


def _show(name: str) -> str:
    """Return a name that hangs from an anchor of ours, whole where it is fit to be shown."""
    return name if name.isascii() and name.isprintable() and len(name) <= _MAX_NAME else quote(name)


def read_names(der: bytes) -> tuple[str, ...]:
    """Return the URI names of a certificate, ``()`` when there are none or it cannot be read."""
    try:
        found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        return ()
    return tuple(found.value.get_values_for_type(x509.UniformResourceIdentifier))
