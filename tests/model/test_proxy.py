"""What proxies introduce themselves with."""

import pytest

from meshwright.model.proxy import Proxy, read_node_id
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

SHOP = Namespace("shop")


@pytest.mark.parametrize(
    ("text", "proxy", "kind"),
    [
        ("shop/web-1", Proxy(SHOP, "web-1"), Kind.POD),
        ("shop/externalworkload", Proxy(SHOP, "externalworkload"), Kind.POD),
        ("shop/externalworkload/vm", Proxy(SHOP, "vm", Kind.EXTERNAL_WORKLOAD), Kind.EXTERNAL_WORKLOAD),
    ],
)
def test_a_node_id_reads_back_as_its_proxy(text: str, proxy: Proxy, kind: Kind) -> None:
    assert read_node_id(text) == proxy
    assert proxy.node_id == text
    assert proxy.ref == Ref(kind, SHOP, proxy.name)
    assert Proxy.of(proxy.ref) == proxy


@pytest.mark.parametrize(
    "text",
    ["", "/", "shop", "shop/", "/web", "shop/pod/web", "shop/externalworkload/", "/externalworkload/vm", "a/b/c/d"],
)
def test_what_names_no_proxy_is_none(text: str) -> None:
    assert read_node_id(text) is None
