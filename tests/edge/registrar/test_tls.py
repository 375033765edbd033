"""TLS of the registrar: its own certificate, and who may shake hands with it, as that changes while it runs."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import aiohttp
import pytest
from cryptography import x509

from meshwright.model.group import JoinMode, Rules
from meshwright.model.ref import Kind, Ref
from tests.certificates import ANCHOR, make
from tests.edge.registrar.place import (
    LEDGER,
    OTHER_ROOT,
    ROOT,
    SHOP,
    TRUST,
    Machine,
    Place,
    make_beat,
    make_policy,
    make_registration,
    running,
)

MACHINES_OWN = make(replace(ANCHOR, name="machines.example.test", number=60), now=ROOT.now)
IMITATED = make(replace(ANCHOR, name="root-1", number=61), now=ROOT.now)
"""Has the name of the mesh's anchor, and another key."""
GROUP_NAME = TRUST.group_dns(SHOP, LEDGER.name)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with running() as place:
        yield place


async def shake(place: Place, machine: Machine, name: str = "localhost") -> ssl.SSLObject:
    """Return a connection's TLS after the server has said that it takes the certificate: TLS 1.3 tells it late."""
    context = machine.make_context(ROOT.anchor.pem, OTHER_ROOT.anchor.pem)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=context, server_hostname=name)
    writer.write(b"GET /v1/bundle HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    try:
        if b"200" not in await asyncio.wait_for(reader.readline(), 60):
            raise ConnectionError("it was closed")
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return found
    finally:
        writer.close()


def trust_own(place: Place, bundle: str, group: Ref = LEDGER) -> None:
    rules = Rules(modes=frozenset((JoinMode.CERTIFICATE,)), identities=("*",), ca_bundle=bundle)
    policy = make_policy(rules, group)
    place.registry.put_policy(policy.ref, policy)


async def test_it_shows_the_registrars_certificate_and_speaks_tls_1_3(place: Place) -> None:
    found = await shake(place, Machine())
    der = found.getpeercert(binary_form=True)
    assert der is not None
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [TRUST.uri(TRUST.registrar)]
    assert names.get_values_for_type(x509.DNSName) == [TRUST.dns(TRUST.registrar)]
    assert found.version() == "TLSv1.3"


async def test_no_session_is_ever_resumed(place: Place) -> None:
    """Else a certificate that has ended, or that is trusted no longer, would count on."""
    found = await shake(place, place.certify())
    assert found.session is None or not found.session.has_ticket
    assert not found.session_reused


async def test_its_own_certificate_is_renewed_without_a_restart(place: Place) -> None:
    before = (await shake(place, Machine())).getpeercert(binary_form=True)
    place.leaf.renew()
    assert (await shake(place, Machine())).getpeercert(binary_form=True) != before


async def test_anchors_that_come_and_go_count_for_the_next_handshake(place: Place) -> None:
    stranger = place.certify(root=OTHER_ROOT)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shake(place, stranger)
    place.signer.put_issuer(ROOT.secret(OTHER_ROOT))
    await shake(place, stranger)
    place.signer.put_issuer(ROOT.secret())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shake(place, stranger)


async def test_connections_under_an_anchor_that_is_gone_are_cut(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.edge.registrar.server.CUT_SECONDS", 0.1)
    place.signer.put_issuer(ROOT.secret(OTHER_ROOT))
    stranger = place.certify(root=OTHER_ROOT)
    context = stranger.make_context(ROOT.anchor.pem)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=context, server_hostname="x")
    writer.write(b"GET /v1/bundle HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" in await reader.readline()
    place.signer.put_issuer(ROOT.secret())
    await asyncio.wait_for(reader.read(), 60)
    writer.close()


async def test_an_own_authority_counts_for_its_group_only_and_as_long_as_the_policy_names_it(place: Place) -> None:
    own = place.show(dns=("vm-1.example.test",), by=MACHINES_OWN)
    trust_own(place, MACHINES_OWN.pem)
    await shake(place, own, GROUP_NAME)
    await shake(place, own, GROUP_NAME.upper())
    for name in ("localhost", TRUST.group_dns(SHOP, "other"), f"x.{GROUP_NAME}x"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shake(place, own, name)
    trust_own(place, IMITATED.pem)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shake(place, own, GROUP_NAME)


async def test_a_connection_from_before_a_policy_was_changed_joins_no_more(place: Place) -> None:
    own = place.show(dns=("vm-1.example.test",), by=MACHINES_OWN)
    trust_own(place, MACHINES_OWN.pem)
    context = own.make_context(ROOT.anchor.pem)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=context, server_hostname=GROUP_NAME)
    writer.write(b"GET /v1/bundle HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b'"}')
    trust_own(place, IMITATED.pem)
    writer.write(b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    writer.close()


async def test_an_authority_that_imitates_the_meshs_anchor_gets_in_nobodys_way(place: Place) -> None:
    trust_own(place, IMITATED.pem, Ref(Kind.EXTERNAL_GROUP, SHOP, "other"))
    machine = place.certify()
    assert (await place.call(machine, "PUT", "", make_registration())).status == 201
    forged = place.show(TRUST.machine_uri(SHOP, "ledger", machine.uid), by=IMITATED)
    with pytest.raises(aiohttp.ClientError):
        await place.call(forged, "POST", "beat", make_beat())
    answer = await place.call(forged, "POST", "beat", make_beat(), name=TRUST.group_dns(SHOP, "other"))
    assert answer.told == (403, "NotAllowed")


async def test_a_policy_whose_authorities_cannot_be_read_changes_nothing(place: Place) -> None:
    trust_own(place, "nonsense")
    await shake(place, Machine(), GROUP_NAME)


async def test_names_that_are_none_are_no_groups(place: Place) -> None:
    for name in ("x.external.identity.meshwright.cluster.local", "external.identity.meshwright.cluster.local", "a"):
        await shake(place, Machine(), name)


async def test_contexts_of_groups_are_few_however_many_are_asked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshwright.edge.registrar.tls._MAX_GROUPS", 3)
    for number in range(6):
        trust_own(place, MACHINES_OWN.pem, Ref(Kind.EXTERNAL_GROUP, SHOP, f"group-{number}"))
        assert place.server.contexts._find(Ref(Kind.EXTERNAL_GROUP, SHOP, f"group-{number}")) is not None
    assert len(place.server.contexts._by_group) == 3


async def test_a_leaf_that_may_not_be_a_clients_is_refused(place: Place) -> None:
    shown = place.show(
        TRUST.machine_uri(SHOP, "ledger", "12345678"), extended=(x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1"),)
    )
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shake(place, shown)


async def test_a_certificate_is_valid_for_a_day_at_most(place: Place) -> None:
    machine = await place.join(place.tokens.make())
    leaf = x509.load_pem_x509_certificate(machine.chain.encode())
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(hours=24, seconds=20)
