"""Waiting until a proxy has taken what it was sent."""

from meshwright.edge.delivered import Delivery
from meshwright.edge.protobuf import TypeUrl
from meshwright.model.proxy import ProxySettings


async def test_versions_are_taken_once_all_of_them_are_and_nothing_else_counts() -> None:
    hub = Delivery(ProxySettings()).hub
    hub.accept(TypeUrl.ROUTES, {"a": "1"})
    async with hub.expect(TypeUrl.ROUTES, {"a": "1", "b": "1"}) as taken:
        said = [taken.is_set()]
        for kind, versions in (
            (TypeUrl.ROUTES, {"a": "1", "b": "0"}),
            (TypeUrl.CLUSTER, {"b": "1"}),
            (TypeUrl.ROUTES, {"b": "1", "c": "1"}),
        ):
            hub.accept(kind, versions)
            said.append(taken.is_set())
    async with hub.expect(TypeUrl.ROUTES, {}) as nothing:
        said.append(nothing.is_set())

    assert said == [False, False, False, True, True]
