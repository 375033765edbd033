"""The operator's flags about machines: what they mean, and what is wrong with them."""

import argparse

import pytest

from meshwright.edge.registrar.flags import RegistrarOptions, add_registrar_arguments, read_registrar_arguments
from meshwright.model.units import Port


def read(*flags: str) -> RegistrarOptions | None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace", default="mesh")
    add_registrar_arguments(parser)
    return read_registrar_arguments(parser.parse_args(flags))


def test_without_a_word_no_machine_may_join() -> None:
    assert read() is None


def test_what_is_not_said_is_as_usual() -> None:
    assert read("--registrar") == RegistrarOptions(delivery="meshwright-xds.mesh.svc:15010", port=Port(15013))


def test_everything_can_be_said() -> None:
    flags = "--registrar-port=16013 --pod-ip=FD00::9 --delivery-address=[2001:db8::1]:443 --service-cidr=10.96.0.0/12"
    assert read("--registrar", *flags.split(), "--pod-cidr=10.244.0.0/16, fd00:1::/56") == RegistrarOptions(
        delivery="[2001:db8::1]:443",
        is_delivery_fixed=True,
        port=Port(16013),
        pod_ip="fd00::9",
        ranges=("10.244.0.0/16", "fd00:1::/56", "10.96.0.0/12"),
    )


@pytest.mark.parametrize(
    "flag",
    [
        "--registrar-port=65536",
        "--pod-ip=localhost",
        "--delivery-address=nowhere",
        "--delivery-address=xds:0",
        "--pod-cidr=10.244.0.1/16",
        "--service-cidr=everywhere",
    ],
)
def test_a_flag_that_is_wrong_is_named(flag: str) -> None:
    name, _, value = flag.partition("=")
    with pytest.raises(ValueError, match=f"{name} {value}: ") as caught:
        read("--registrar", flag)
    assert "write" in str(caught.value)
