"""Names in certificates: which are pods', which are machines', and that none is both."""

import pytest

from meshwright.model.identity import MachineIdentity, ServiceAccount, TrustDomain
from meshwright.model.units import Namespace

TRUST, SHOP = TrustDomain(), Namespace("shop")
POD = ServiceAccount(SHOP, "web")
VM = TRUST.machine_uri(SHOP, "ledger", "3f2a")


def test_a_pods_identity_reads_back_and_a_machines_is_no_pods() -> None:
    assert TRUST.read_uri(TRUST.uri(POD)) == POD
    assert TRUST.read_dns(TRUST.dns(POD)) == POD
    assert TRUST.read_uri(VM) is None
    assert TRUST.read_dns(TRUST.machine_dns(SHOP, "ledger", "ledger-k3v9q2m7xa")) is None


@pytest.mark.parametrize(("name", "is_uri"), [("spiffe://mesh/vm", True), ("vm.mesh", False), ("plaintext", False)])
def test_a_machines_name_is_a_uri_or_a_dns_name(name: str, is_uri: bool) -> None:
    assert MachineIdentity(name, "vm.mesh").is_uri is is_uri
