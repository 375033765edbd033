"""What the chart makes of the values about machines outside the cluster."""

import pytest

from meshwright.edge.registrar.leader_slice import PORT_NAME, SERVICE, emit_leader_slice
from meshwright.model.units import Namespace, Port
from tests.helm.conftest import Helm, Json, of_kind


def operator_args(objects: tuple[Json, ...]) -> list[str]:
    (container,) = of_kind(objects, "Deployment")["meshwright-operator"]["spec"]["template"]["spec"]["containers"]
    args: list[str] = container["args"]
    return args


def test_the_registrar_has_a_service_whose_endpoint_the_leader_writes(default: tuple[Json, ...]) -> None:
    raw = of_kind(default, "Service")[SERVICE]
    assert raw["spec"] == {
        "type": "ClusterIP",
        "ports": [{"name": PORT_NAME, "port": 15013, "targetPort": 15013, "appProtocol": "https"}],
    }
    written = emit_leader_slice(Namespace("mesh"), "10.244.0.7", Port(15013))
    assert written["metadata"]["namespace"] == raw["metadata"]["namespace"]
    assert [(port["name"], port["port"]) for port in written["ports"]] == [
        (port["name"], port["targetPort"]) for port in raw["spec"]["ports"]
    ]


def test_without_it_there_is_no_service_no_port_and_no_argument(helm: Helm) -> None:
    objects = helm.render("registrar.enabled=false", "networkPolicy.enabled=true")
    assert SERVICE not in of_kind(objects, "Service")
    assert not [arg for arg in operator_args(objects) if "registrar" in arg or "pod-ip" in arg]
    policy = of_kind(objects, "NetworkPolicy")["meshwright-operator"]
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == [8080]


def test_what_the_values_say_of_machines_is_said_to_the_operator(helm: Helm) -> None:
    objects = helm.render(
        "registrar.port=16013",
        'registrar.deliveryAddress="192.0.2.1:443"',
        'registrar.podCIDRs=["10.244.0.0/16","fd00:1::/56"]',
        'registrar.serviceCIDRs=["10.96.0.0/12"]',
        "registrar.probePorts=[8080]",
        'registrar.service={"type":"LoadBalancer","annotations":{"internal":"true"}}',
        "networkPolicy.enabled=true",
    )
    args = operator_args(objects)
    assert args[args.index("--registrar") :] == [
        "--registrar",
        "--registrar-port=16013",
        "--pod-ip=$(POD_IP)",
        "--node-name=$(NODE_NAME)",
        "--delivery-address=192.0.2.1:443",
        "--pod-cidr=10.244.0.0/16,fd00:1::/56",
        "--service-cidr=10.96.0.0/12",
    ]
    service = of_kind(objects, "Service")[SERVICE]
    assert (service["metadata"]["annotations"], service["spec"]["type"]) == ({"internal": "true"}, "LoadBalancer")
    policies = of_kind(objects, "NetworkPolicy")
    out = {name: [port["port"] for port in raw["spec"]["egress"][0]["ports"]] for name, raw in policies.items()}
    assert out["meshwright-operator"] == [*out["meshwright-xds"], 8080]


@pytest.mark.parametrize(
    "wrong",
    [
        "registrar.port=443",
        'registrar.deliveryAddress="nowhere"',
        'registrar.podCIDRs=["10.244.0.0"]',
        'registrar.service={"type":"ExternalName"}',
        "registrar.replicas=2",
    ],
)
def test_values_that_mean_nothing_are_refused(helm: Helm, wrong: str) -> None:
    assert "registrar" in helm.refusal(wrong)
