"""What a group's machines are called in TLS, and reading it back."""

import pytest

from meshwright.model.identity import TrustDomain
from meshwright.model.units import Namespace

TRUST = TrustDomain(name="example.test", control_plane=Namespace("mesh"))
SHOP = Namespace("shop")


@pytest.mark.parametrize("group", ["ledger", "ledger.eu", "a"])
def test_a_groups_name_reads_back_and_its_machines_names_end_in_it(group: str) -> None:
    name = TRUST.group_dns(SHOP, group)
    assert name == f"{group}.shop.external.identity.mesh.example.test"
    assert TRUST.read_group_dns(name) == (SHOP, group)
    assert TRUST.machine_dns(SHOP, group, "vm-1") == f"vm-1.{name}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".external.identity.mesh.example.test",
        "shop.external.identity.mesh.example.test",
        ".shop.external.identity.mesh.example.test",
        "ledger.shop.external.identity.mesh.example.testx",
        "ledger.shop.external.identity.other.example.test",
        "ledger.shop.serviceaccount.identity.mesh.example.test",
    ],
)
def test_what_names_no_group_reads_as_none(text: str) -> None:
    assert TRUST.read_group_dns(text) is None
