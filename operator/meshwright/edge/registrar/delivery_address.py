"""Where machines' proxies find delivery."""

from meshwright.edge.host_port import write_address
from meshwright.edge.registrar.flags import DELIVERY_SERVICE, RegistrarOptions
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace
from meshwright.model.workload import Service


class DeliveryAddress:
    """``text`` is what machines are told, host:port: as the flags say, or else the address of delivery's Service in
    ``namespace``, as soon as that is known: few machines resolve the cluster's names."""

    def __init__(self, options: RegistrarOptions, namespace: Namespace) -> None:
        self.text = options.delivery
        self._port = int(options.delivery.rpartition(":")[2])
        self._ref = None if options.is_delivery_fixed else Ref(Kind.SERVICE, namespace, DELIVERY_SERVICE)

    def put_service(self, ref: Ref, service: Parsed | None) -> bool:
        """Take a Service as it is parsed; return whether it says where delivery is."""
        if ref != self._ref or not isinstance(service, Service) or not service.has_frontend:
            return False
        self.text = write_address(service.addresses[0], self._port)
        return True
