"""The Services as they are now: who has which address, which names requests may bear, and what is not HTTP."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from types import MappingProxyType

from meshwright.emit.clusters import find_port
from meshwright.emit.listeners import Opaque, find_opaque
from meshwright.emit.names import DIRECT, Address, ServicePortName, parse_name, write_authorities
from meshwright.emit.proxy import addresses_of, tcp_ports
from meshwright.link.ports import declare_opaque
from meshwright.model.pod import PortRanges
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import ServiceName
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Service, ServicePort


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a change of a Service concerns: its ``ports``, its ``addresses``, and whether listeners may be others."""

    ports: frozenset[ServicePortName] = frozenset()
    addresses: frozenset[str] = frozenset()
    is_opaque_other: bool = False


class Directory:
    """Services, and what namespaces say of their opaque ports. ``usual``: ports that are opaque unless said otherwise.

    ``services``: every port says whether it is opaque. ``owners``: the Services' ports at an address, of which the
    first has it.
    """

    def __init__(self, usual: tuple[Port, ...]) -> None:
        self._services: dict[ServiceName, Service] = {}
        self._owners: dict[str, list[ServicePortName]] = {}
        self._usual = usual
        self._inherited: dict[Namespace, PortRanges] = {}
        self._numbers: Counter[tuple[Port, bool]] = Counter()
        self._opaque: Opaque | None = None
        self.services: Mapping[ServiceName, Service] = MappingProxyType(self._services)
        self.owners: Mapping[str, list[ServicePortName]] = MappingProxyType(self._owners)

    def put(self, name: ServiceName, service: Service | None) -> Moved | None:
        """Take a Service, ``None`` when it is gone. Returns ``None`` when nothing is different."""
        old = self._services.get(name)
        if service is not None:
            service = declare_opaque(service, self._inherited.get(name.namespace), self._usual)
        if service == old:
            return None
        addresses: set[str] = set()
        ports: set[ServicePortName] = set()
        is_other = False
        for each in (old, service):
            if each is not None:
                ports |= {ServicePortName(name, port.port) for port in tcp_ports(each)}
                addresses |= self._index_addresses(each, is_there=each is service)
                is_other |= self._index_opaque(each, is_there=each is service)
        if service is None:
            del self._services[name]
        else:
            self._services[name] = service
        return Moved(ports=frozenset(ports), addresses=frozenset(addresses), is_opaque_other=is_other)

    def inherit(self, namespace: Namespace, opaque: PortRanges | None) -> Iterable[Service] | None:
        """Take what a namespace says of opaque ports, ``None`` for nothing. Returns the Services to be put again,
        ``None`` when nothing is different."""
        if opaque == self._inherited.get(namespace):
            return None
        self._inherited.pop(namespace, None)
        if opaque is not None:
            self._inherited[namespace] = opaque
        return [each for each in self._services.values() if each.ref.namespace == namespace]

    def inherited(self, namespace: Namespace) -> PortRanges | None:
        """Return what a namespace says of opaque ports, ``None`` when it says nothing."""
        return self._inherited.get(namespace)

    def owner(self, address: str) -> ServicePortName | None:
        """Return whose address it is: should several claim it, the first by namespace and name."""
        owners = self._owners.get(address)
        return owners[0] if owners else None

    def find_port(self, name: ServicePortName) -> ServicePort | None:
        """Return a Service's port, ``None`` when there is no such Service or port."""
        service = self._services.get(name.service)
        return find_port(service.ports, name.port) if service is not None else None

    def authorities(self) -> set[str]:
        """Return all that a request in an ingress controller's proxy may be routed by, beside addresses."""
        ports = (ServicePortName(each.name, port.port) for each in self._services.values() for port in tcp_ports(each))
        return {DIRECT, *(text for port in ports for text in write_authorities(port))}

    def names_of(self, name: ServiceName, *, has_addresses: bool) -> set[str]:
        """Return what a Service's endpoints are called; with ``has_addresses``, what its clusters are."""
        if (service := self._services.get(name)) is None:
            return set()
        ports = {str(ServicePortName(name, port.port)) for port in tcp_ports(service)}
        return ports | {str(address) for address, _ in addresses_of(service)} if has_addresses else ports

    def opaque(self) -> Opaque:
        """Return what of the Services is not HTTP."""
        if self._opaque is None:
            self._opaque = find_opaque(
                (each for service in self._services.values() for each in addresses_of(service)),
                (port for service in self._services.values() for port in tcp_ports(service)),
                self._usual,
            )
        return self._opaque

    def find_strays(self, service_ranges: Iterable[str]) -> Iterator[Problem]:
        """Yield a problem for each address outside the Service ranges: routes are not looked for there."""
        ranges = [ip_network(text) for text in service_ranges]
        for text, owners in self._owners.items():
            address = parse_name(text)
            if isinstance(address, Address) and not any(ip_address(address.ip) in each for each in ranges):
                yield Problem(
                    field=f"Service {owners[0].service}",
                    reason=Reason.UNSUPPORTED_VALUE,
                    message=f"its address {text} is in none of {', '.join(map(str, ranges))}, so its routes do not "
                    "apply; name all ranges of ClusterIPs with --service-cidr",
                )

    def _index_addresses(self, service: Service, *, is_there: bool) -> set[str]:
        """Return the service's addresses, after adding them to the index or taking them out."""
        found = set()
        for address, port in addresses_of(service):
            found.add(str(address))
            owners = self._owners.setdefault(str(address), [])
            name = ServicePortName(service.name, port.port)
            if is_there:
                owners.append(name)
                owners.sort()
            else:
                owners.remove(name)
                if not owners:
                    del self._owners[str(address)]
        return found

    def _index_opaque(self, service: Service, *, is_there: bool) -> bool:
        """Return whether what is opaque may be different now, after counting the service's ports in or out."""
        is_other = False
        for port in tcp_ports(service):
            key = (port.port, port.is_routable)
            self._numbers[key] += 1 if is_there else -1
            is_first_or_last = self._numbers[key] == (1 if is_there else 0)
            if not self._numbers[key]:
                del self._numbers[key]
            is_asked = port.port in self._usual or (port.port, False) in self._numbers
            is_other |= not port.is_routable or (is_first_or_last and is_asked)
        if is_other:
            self._opaque = None
        return is_other
