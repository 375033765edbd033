"""Names of workloads of another mesh."""

import pytest

from meshwright.edge.foreign import find_foreign
from meshwright.model.identity import TrustDomain


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("web.shop.serviceaccount.identity.linkerd.cluster.local", ["serviceaccount.identity.linkerd.cluster.local"]),
        ("*.shop.serviceaccount.identity.linkerd.cluster.local", ["serviceaccount.identity.linkerd.cluster.local"]),
        (".serviceaccount.identity.meshwright.east.example", ["serviceaccount.identity.meshwright.east.example"]),
        ("web.shop.serviceaccount.identity.meshwright.cluster.local", []),
        ("vm.example.org", []),
        ("spiffe://elsewhere/vm", []),
        ("*", []),
    ],
)
def test_a_workloads_name_of_another_mesh_is_told_by_its_end(name: str, ends: list[str]) -> None:
    assert find_foreign([name, name], TrustDomain()) == ends
