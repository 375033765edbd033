"""Redirects as a client gets them, from a real Envoy."""

import pytest

from meshwright.emit.filters import emit_redirect_route
from meshwright.model.ref import ServiceName
from meshwright.model.route import Filters, FullPath, PrefixPath, Redirect
from meshwright.model.units import Port
from tests.envoy import fetch
from tests.mesh import SHOP, make_mesh, make_service, make_unit

SECURE = Redirect(scheme="https")


@pytest.mark.parametrize(
    ("service_port", "redirect", "headers", "location"),
    [
        (8080, SECURE, {"host": "web:8080"}, "https://web/a/b?c=:443/"),
        (8080, SECURE, {"host": "web"}, "https://web/a/b?c=:443/"),
        (8080, SECURE, {"host": "[fd00::1]:8080"}, "https://[fd00::1]/a/b?c=:443/"),
        (443, SECURE, {"host": "web:443"}, "https://web/a/b?c=:443/"),
        (80, SECURE, {"host": "web"}, "https://web/a/b?c=:443/"),
        (8080, Redirect(scheme="https", port=Port(8443)), {"host": "web:8080"}, "https://web:8443/a/b?c=:443/"),
        (8080, Redirect(port=Port(80)), {"host": "web:8080"}, "http://web/a/b?c=:443/"),
        (8080, Redirect(), {"host": "web:8080"}, "http://web:8080/a/b?c=:443/"),
        (
            8080,
            Redirect(scheme="https", path=PrefixPath(matched="/a", value="/x")),
            {"host": "web:8080"},
            "https://web/x/b?c=:443/",
        ),
        (8080, Redirect(scheme="https", path=FullPath(value="/")), {"host": "web:8080"}, "https://web/?c=:443/"),
    ],
)
async def test_a_well_known_port_is_not_in_location(
    service_port: int, redirect: Redirect, headers: dict[str, str], location: str
) -> None:
    web = ServiceName(SHOP, "web")
    fields = emit_redirect_route(Filters(redirect=redirect), redirect, Port(service_port))
    mesh = make_mesh([make_service("web", "10.96.0.10", port=service_port)])
    mesh.put(make_unit(web, {"match": {"path_separated_prefix": "/a"}, **fields}, port=service_port))
    async with mesh.serve(), mesh.proxy():
        answer = await fetch(mesh.doors[f"10.96.0.10:{service_port}"], "/a/b?c=:443/", headers=headers)
    assert (answer.status, answer.headers["location"]) == (302, location)
