"""What may be called, by the names people have for it."""

import pytest

from meshwright.edge.access.targets import AskedError, find_target
from meshwright.edge.access.world import World, make_world
from meshwright.model.config import Config
from meshwright.model.desired import Json
from meshwright.model.units import Namespace


def make_service(name: str, app: str, port: int, target: int | str) -> Json:
    ports = [{"name": "front", "port": port, "targetPort": target}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": app}, "ports": ports},
    }


def make_deployment(name: str, app: str) -> Json:
    ports = [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9000}]
    template = {"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "app", "ports": ports}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"template": template},
    }


WORLD: World = make_world(
    [
        make_deployment("web", "web"),
        make_deployment("cart-v1", "cart"),
        make_deployment("cart-v2", "cart"),
        make_service("web", "web", 80, "http"),
        make_service("front", "web", 80, 8080),
        make_service("cart", "cart", 80, "http"),
        make_service("gone", "gone", 80, "http"),
    ],
    Config(),
    Namespace("default"),
)


@pytest.mark.parametrize(
    ("text", "found", "notes"),
    [
        ("shop/web:8080", ("web", 8080), ()),
        ("shop/web:admin", ("web", 9000), ()),
        (
            "shop/web:80",
            ("web", 80),
            (
                "Deployment shop/web declares no port 80, but 8080 (http), 9000 (admin); "
                "port 80 of Service shop/web goes to http: did you mean that one?",
            ),
        ),
        (
            "shop/web:81",
            ("web", 81),
            ("Deployment shop/web declares no port 81, but 8080 (http), 9000 (admin)",),
        ),
        ("shop/front:80", ("web", 8080), ("Service shop/front, port 80, goes to port 8080 of Deployment shop/web",)),
        (
            "shop/cart:front",
            ("cart-v1", 8080),
            (
                "Service shop/cart, port 80, goes to port 8080 of Deployment shop/cart-v1",
                "Service shop/cart sends to Deployment shop/cart-v2, too, where something else may hold: ask for each",
            ),
        ),
    ],
)
def test_a_target_is_found_by_workload_or_by_service(text: str, found: tuple[str, int], notes: tuple[str, ...]) -> None:
    target = find_target(text, WORLD)
    assert (target.place.workload.ref.name, target.port) == found
    assert target.notes == notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop/web", "found 'shop/web'; write NAMESPACE/NAME:PORT, such as shop/web:8080"),
        ("web:80", "found 'web'; write NAMESPACE/NAME of a pod, what makes pods, or an ExternalWorkload"),
        ("shop/web:65536", "found port 65536; write one from 1 to 65535"),
        (
            "shop/web:grpc",
            "Deployment shop/web declares no TCP port named 'grpc'; it declares 8080 (http), 9000 (admin); "
            "write one of these, or a number",
        ),
        ("shop/front:81", "Service shop/front has no TCP port 81; it has 80 (front)"),
        (
            "shop/gone:80",
            "Service shop/gone is no workload, and none that is known is behind it; name the workload itself",
        ),
        (
            "shop/wev:80",
            "there is no Pod, Deployment or the like, or ExternalWorkload shop/wev; did you mean shop/web?",
        ),
        (
            "deploy/web:80",
            "there is no Pod, Deployment or the like, or ExternalWorkload deploy/web; "
            "write NAMESPACE/NAME, without its kind: shop/web?",
        ),
        (
            "shop/billing:80",
            "there is no Pod, Deployment or the like, or ExternalWorkload shop/billing; "
            "in that namespace there is shop/cart-v1, shop/cart-v2, shop/web",
        ),
        (
            "elsewhere/billing:80",
            "there is no Pod, Deployment or the like, or ExternalWorkload elsewhere/billing; "
            "there is no workload in that namespace",
        ),
    ],
)
def test_what_is_not_there_is_said_and_what_may_be_meant(text: str, message: str) -> None:
    with pytest.raises(AskedError) as caught:
        find_target(text, WORLD)
    assert str(caught.value) == message
