"""Machines that join without a token: by what SPIRE says they are, and by a certificate of their own."""

import json
from collections.abc import Iterator

import pytest
from cryptography import x509

from e2e.agents import SHOP, Agent, apply_group, remove_group
from e2e.certificates import TRUST, identity, make_authority
from e2e.fleet import Fleet
from e2e.kube import eventually
from e2e.machines import Machine
from e2e.spire import SOCKET, Spire
from e2e.test_external import headers
from meshwright.model.pod import PROXY_UID
from meshwright.model.units import Namespace

SVID = f"spiffe://{TRUST.name}/vm/archive-1"
HOST = "archive.machines.example"
CLIENT = TRUST.dns(identity(SHOP, "client"))
FOLDER = "/etc/machine-certificate"


@pytest.fixture(scope="module")
def spire(machines: Fleet) -> Iterator[Spire]:
    """A SPIRE server, on a machine of its own."""
    machine = Machine("spire", 31, machines.folder / "spire")
    try:
        machine.boot()
        yield Spire(machines.kube, machine)
    finally:
        machine.remove()


def prepare(fleet: Fleet, group: str, mode: str, name: str, more: str = "") -> list[str]:
    """Apply a group that takes who is ``name`` by ``mode``; return the command that its machines are installed with."""
    apply_group(fleet.kube, group, more=f'modes: [JoinToken, {mode}]\n  identities: ["{name}"]\n  {more}')
    words = [group if word == fleet.agents[0].group else word for word in fleet.token["command"]]
    return [*words[: words.index("--token-file")], "--mode", mode]


def is_called_and_calls(fleet: Fleet, agent: Agent, caller: str) -> None:
    """Check mTLS both ways; ``caller``: who the machine is for a pod."""
    kube = fleet.kube
    answer = eventually(
        lambda: kube.app(SHOP, "client", "get", f"http://{agent.group}/"),
        until=lambda seen: seen["statuses"] == {"200": 1},
    )
    assert headers(answer)["l5d-client-id"] == CLIENT
    seen = headers(agent.machine.get(f"http://web-v1.{SHOP}.svc.cluster.local/"))
    assert f"URI={caller}" in seen["x-forwarded-client-cert"]


def test_a_machine_is_who_spire_says_it_is(fleet: Fleet, spire: Spire) -> None:
    group = "archive"
    words = prepare(fleet, group, "SPIFFE", f"spiffe://{TRUST.name}/vm/*")
    try:
        with fleet.another("archive-1", 32, group) as agent:
            agent.install(words, "", "--spiffe-socket", SOCKET)
            agent.start()  # before the SPIRE agent: there is no order of starting
            spire.attend(agent.machine, SVID)
            agent.wait_ready()
            found = agent.workload()
            assert found["spec"]["meshTLS"]["identity"] == SVID
            name = found["metadata"]["name"]
            assert found["spec"]["meshTLS"]["serverName"] == TRUST.machine_dns(Namespace(SHOP), group, name)
            is_called_and_calls(fleet, agent, SVID)
    finally:
        remove_group(fleet.kube, group)


def test_a_machine_whose_svid_no_policy_names_does_not_join(fleet: Fleet, spire: Spire) -> None:
    group = "closed"
    words = prepare(fleet, group, "SPIFFE", f"spiffe://{TRUST.name}/other/*")
    try:
        with fleet.another("archive-2", 33, group) as agent:
            spire.attend(agent.machine, SVID)
            agent.install(words, "", "--spiffe-socket", SOCKET)
            agent.start()
            rejections = eventually(
                lambda: fleet.kube.get("externalgroup", group, "-n", SHOP)["status"]["lastRejections"]
            )
            assert [(each["reason"], each["identity"]) for each in rejections] == [("NotAllowed", SVID)]
            with pytest.raises(KeyError):
                agent.workload()
    finally:
        remove_group(fleet.kube, group)


def test_a_machine_shows_a_certificate_that_it_has_anyway(fleet: Fleet) -> None:
    group = "vault"
    authority = make_authority("machines.example")
    bundle = json.dumps(authority.pem)
    words = prepare(fleet, group, "ClientCertificate", HOST, f"clientCertificate: {{caBundle: {bundle}}}")
    try:
        with fleet.another("vault-1", 34, group) as agent:
            chain, key = authority.sign_names(x509.DNSName(HOST))
            agent.machine.write(f"{FOLDER}/tls.crt", chain)
            agent.machine.write(f"{FOLDER}/tls.key", key, mode=0o600, uid=PROXY_UID)
            files = ("--certificate-file", f"{FOLDER}/tls.crt", "--key-file", f"{FOLDER}/tls.key")
            agent.install(words, "", *files)
            agent.start()
            agent.wait_ready()
            uri = TRUST.machine_uri(Namespace(SHOP), group, agent.state()["uid"])
            assert agent.workload()["spec"]["meshTLS"]["identity"] == uri
            is_called_and_calls(fleet, agent, uri)
    finally:
        remove_group(fleet.kube, group)
