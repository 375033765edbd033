"""The registrar's calls over real TLS: who may make which, and what each gets told."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from meshwright.model.enrollment import STATUS_OF, Turned
from meshwright.model.group import JoinMode, Rules
from meshwright.model.ref import Kind, Ref
from tests.edge.registrar.place import (
    LEDGER,
    OTHER_ROOT,
    ROOT,
    SHOP,
    TRUST,
    UID,
    Answered,
    Machine,
    Place,
    eventually,
    make_beat,
    make_group,
    make_policy,
    make_registration,
    running,
)

OTHER = Ref(Kind.EXTERNAL_GROUP, SHOP, "other")
POLICY = Ref(Kind.REGISTRATION_POLICY, SHOP, "ledger")
SVID = "spiffe://cluster.local/vm/ledger-1"


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with running() as place:
        yield place


@pytest.fixture
async def machine(place: Place) -> Machine:
    """Return a machine that has registered."""
    machine = place.certify()
    assert (await place.call(machine, "PUT", "", make_registration())).status == 201
    return machine


def let_in_svids(place: Place, *identities: str, group: Ref = LEDGER) -> None:
    policy = make_policy(Rules(modes=frozenset((JoinMode.SPIFFE,)), identities=identities), group)
    place.registry.put_policy(policy.ref, policy)


async def test_a_machine_registers_beats_reads_its_config_drains_and_leaves(place: Place) -> None:
    machine = place.certify()
    registered = await place.call(machine, "PUT", "", make_registration())
    want = registered.body["want"]
    assert (registered.status, registered.body) == (
        201,
        {
            "workload": "ledger-oiqqcmisq2b57l",
            "ready": False,
            "beatMs": 10_000,
            "leaseMs": 35_000,
            "serverEpoch": 1,
            "want": want,
            "droppedLabels": [],
            "warnings": [],
        },
    )
    beaten = await place.call(machine, "POST", "beat", make_beat())
    assert (beaten.status, beaten.body) == (200, {"ready": True, "nextMs": 10_000, "mustRegister": False, "want": want})
    config = await place.call(machine, "GET", "config?have=,")
    assert (config.status, config.body["hash"], config.body["bundleHash"]) == (200, want["config"], want["bundle"])
    again = await place.call(machine, "PUT", "", make_registration(loaded=want))
    assert (again.status, again.body["workload"]) == (200, "ledger-oiqqcmisq2b57l")
    drained = await place.call(machine, "POST", "drain", {"epoch": 1, "drainMs": 1000})
    assert (drained.status, drained.body) == (202, {})
    left = await place.call(machine, "DELETE", "?epoch=1")
    assert (left.status, left.body) == (204, None)
    assert (await place.call(machine, "POST", "beat", make_beat(2))).told == (410, "NotRegistered")


async def test_what_a_machine_should_have_in_force_is_known_to_the_registry(place: Place, machine: Machine) -> None:
    assert place.registry.outdated == 1
    want = (await place.call(machine, "POST", "beat", make_beat())).body["want"]
    await place.call(machine, "POST", "beat", make_beat(2, loaded=want))
    assert place.registry.outdated == 0


@pytest.mark.parametrize(
    ("method", "word"), [("PUT", ""), ("DELETE", "?epoch=1"), ("POST", "beat"), ("POST", "drain"), ("GET", "config")]
)
async def test_without_a_certificate_there_is_no_call_about_a_machine(method: str, word: str, place: Place) -> None:
    answer = await place.call(Machine(), method, word, make_beat())
    assert answer.told == (401, "NoCertificate")
    assert (await place.ask("POST", "/v1/renew", {"csr": Machine().csr})).told == (401, "NoCertificate")


async def test_case_28_another_machines_certificate_is_refused_and_its_group_shows_it(place: Place) -> None:
    place.registry.put_group(OTHER, make_group(OTHER))
    thief = place.certify(Machine(uid="another-machine"))
    for victim in (Machine(key=thief.key), Machine(key=thief.key, group=OTHER)):
        asked = replace(victim, chain=thief.chain)
        assert (await place.call(asked, "PUT", "", make_registration())).told == (403, "NotAllowed")
    for group in (LEDGER, OTHER):
        view = place.registry.group_view(group)
        assert view is not None
        assert [(each.reason, each.identity, each.address, each.count) for each in view.rejections] == [
            (Turned.NOT_ALLOWED, TRUST.machine_uri(SHOP, "ledger", "another-machine"), "127.0.0.1", 1)
        ]
    assert place.registry.live == 0


async def test_another_machines_certificate_neither_beats_nor_drains_nor_reads_nor_removes(
    place: Place, machine: Machine
) -> None:
    thief = replace(place.certify(Machine(uid="another-machine")), uid=machine.uid)
    for method, word, body in (
        ("POST", "beat", make_beat()),
        ("POST", "drain", {"epoch": 1, "drainMs": 0}),
        ("DELETE", "?epoch=1", None),
        ("GET", "config?have=,&wait=0", None),
    ):
        answer = await place.call(thief, method, word, body)
        assert 400 <= answer.status < 500, (method, word, answer)
    assert (await place.call(machine, "POST", "beat", make_beat())).body["ready"]


async def test_an_identity_of_another_kind_comes_in_where_a_policy_says_so(place: Place) -> None:
    pod = "spiffe://cluster.local/ns/shop/sa/web"
    for uri in (pod, SVID):
        assert (await place.call(place.show(uri), "PUT", "", make_registration())).told == (403, "NotAllowed")
    let_in_svids(place, "spiffe://cluster.local/vm/*")
    assert (await place.call(place.show(SVID), "PUT", "", make_registration())).status == 201
    assert (await place.call(place.show(pod), "PUT", "", make_registration())).told == (403, "NotAllowed")
    config = await place.call(place.show(SVID), "GET", "config?have=,")
    assert config.body["identity"] == SVID


async def test_case_28_an_identity_that_is_allowed_for_one_group_asks_for_another(place: Place) -> None:
    place.registry.put_group(OTHER, make_group(OTHER))
    let_in_svids(place, SVID)
    let_in_svids(place, "spiffe://cluster.local/vm/other-1", group=OTHER)
    asked = replace(place.show(SVID), group=OTHER)
    assert (await place.call(asked, "PUT", "", make_registration())).told == (403, "NotAllowed")
    view = place.registry.group_view(OTHER)
    assert view is not None
    assert [(each.reason, each.identity) for each in view.rejections] == [(Turned.NOT_ALLOWED, SVID)]


@pytest.mark.parametrize(
    "uris",
    [
        (),
        (SVID, "spiffe://cluster.local/vm/ledger-2"),
        (f"spiffe://cluster.local/{'x' * 254}",),
        ("https://example.test/vm",),
    ],
    ids=["none", "two", "longer than 253", "no SPIFFE ID"],
)
async def test_case_32_an_identity_that_fits_no_workload_is_refused_at_once(
    uris: tuple[str, ...], place: Place
) -> None:
    let_in_svids(place, "*")
    shown = place.show(*uris, dns=("vm-1.example.test",))
    answer = await place.call(shown, "PUT", "", make_registration())
    assert answer.told == (422, "BadIdentity")
    assert place.registry.live == 0


async def test_a_claim_to_be_somebody_else_is_refused_and_not_ignored(place: Place) -> None:
    body = make_registration(identity="spiffe://cluster.local/ns/shop/sa/admin")
    assert (await place.call(place.certify(), "PUT", "", body)).told == (422, "BadIdentity")


async def test_case_20_a_certificate_that_ends_while_its_connection_lasts_is_told_with_both_clocks(
    place: Place, machine: Machine
) -> None:
    connector = aiohttp.TCPConnector(ssl=machine.make_context(ROOT.anchor.pem))
    url = f"https://127.0.0.1:{place.port}{machine.path}/beat"
    async with aiohttp.ClientSession(connector=connector) as session:

        async def beat(seq: int) -> tuple[int, Any, Any]:
            name = TRUST.dns(TRUST.registrar)
            async with session.post(url, json=make_beat(seq), server_hostname=name) as answer:
                return answer.status, await answer.json(), answer.headers

        status, _, headers = await beat(1)
        assert status == 200
        assert abs(parsedate_to_datetime(headers["Date"]).timestamp() - time.time()) < 60
        place.clock.offset = timedelta(hours=25)
        status, body, headers = await beat(2)
    assert (status, body["reason"], headers["Connection"]) == (401, "NoCertificate", "close")
    assert "the certificate ended at 20" in body["message"]
    assert f"this server's clock says {place.clock():%Y-%m-%dT%H:}" in body["message"]


async def test_case_20_a_handshake_with_an_ended_certificate_leaves_the_servers_clock_in_the_log(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    late = place.show(SVID, until=timedelta(seconds=-1))
    early = place.show(SVID, since=timedelta(hours=1))
    with caplog.at_level(logging.INFO):
        for shown in (late, early):
            with pytest.raises(aiohttp.ClientError):
                await place.call(shown, "POST", "beat", make_beat())
        await eventually(lambda: place.count("turned_away_total", reason="Handshake") == 2)
    assert "certificate has expired by this server's clock, which says 20" in caplog.text
    assert "certificate is not yet valid by this server's clock, which says 20" in caplog.text


async def test_a_certificate_of_another_mesh_does_not_come_in(place: Place) -> None:
    with pytest.raises(aiohttp.ClientError):
        await place.call(place.certify(root=OTHER_ROOT), "PUT", "", make_registration())
    assert place.registry.live == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/", 404, "NotFound"),
        ("GET", "/metrics", 404, "NotFound"),
        ("GET", "/v1/join", 405, "MethodNotAllowed"),
        ("POST", "/v1/ns/shop/groups/ledger/instances", 404, "NotFound"),
        ("POST", "/v1/ns/shop/groups/ledger/instances/12345678/other", 404, "NotFound"),
        ("PATCH", "/v1/ns/shop/groups/ledger/instances/12345678", 405, "MethodNotAllowed"),
        ("PUT", "/v1/ns/Shop/groups/ledger/instances/12345678", 400, "BadRequest"),
        ("PUT", "/v1/ns/shop/groups/led%20ger/instances/12345678", 400, "BadRequest"),
        ("PUT", "/v1/ns/shop/groups/ledger/instances/1", 400, "BadRequest"),
        ("PUT", "/v1/ns/shop/groups/ledger/instances/1234567%0a", 400, "BadRequest"),
        ("GET", "/v1/ns/shop/groups/ledger/instances/12345678/config?have=%00", 400, "BadRequest"),
        ("GET", "/v1/ns/shop/groups/ledger/instances/12345678/config?have=,&wait=-1", 400, "BadRequest"),
        ("DELETE", "/v1/ns/shop/groups/ledger/instances/12345678", 400, "BadRequest"),
    ],
)
async def test_a_request_for_nothing_is_told_so(method: str, path: str, status: int, reason: str, place: Place) -> None:
    answer = await place.ask(method, path, machine=place.certify())
    assert answer.told == (status, reason)
    assert answer.body["message"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", (400, "BadRequest")),
        (b"{", (400, "BadRequest")),
        (b"[]", (400, "BadRequest")),
        (b"[" * 10_000, (400, "BadRequest")),
        (b"\xff\xfe", (400, "BadRequest")),
        (b'{"epoch": 1' + b" " * 20_000 + b"}", (413, "TooLarge")),
        (make_registration(epoch=0), (400, "BadRequest")),
        (make_registration(addresses=[]), (400, "BadRequest")),
        (make_registration(addresses=[{"ip": "127.0.0.1"}]), (422, "BadAddress")),
        (make_registration(addresses=[{"ip": "::ffff:127.0.0.1"}]), (422, "BadAddress")),
        (make_registration(addresses=[{"ip": "::ffff:10.0.0.7"}]), (422, "BadAddress")),
        (make_registration(addresses=[{"ip": "10.0.0.7"}]), (422, "BadAddress")),
        (make_registration(labels={"a" * 400: "1"}), (422, "BadLabel")),
    ],
)
async def test_a_bad_body_has_its_own_status_and_changes_nothing(
    body: object, told: tuple[int, str], place: Place
) -> None:
    place.registry.set_forbidden(("10.0.0.0/8",))
    assert (await place.call(place.certify(), "PUT", "", body)).told == told
    assert place.registry.live == 0
    assert (await place.call(place.certify(), "PUT", "", make_registration())).status == 201


async def test_a_body_in_pieces_is_read_and_one_without_end_is_not(place: Place) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"csr": "'
        await asyncio.sleep(0.01)
        yield b'nonsense"}'

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    machine = place.certify()
    connector = aiohttp.TCPConnector(ssl=machine.make_context(ROOT.anchor.pem))
    url = f"https://127.0.0.1:{place.port}/v1/renew"
    statuses = []
    async with aiohttp.ClientSession(connector=connector) as session:
        for data in (pieces(), endless()):
            async with session.post(url, data=data, server_hostname=TRUST.dns(TRUST.registrar)) as answer:
                statuses.append(answer.status)
    assert statuses == [400, 413]


async def test_an_encoded_body_and_a_forwarded_certificate_are_refused(place: Place) -> None:
    for header in ({"Content-Encoding": "gzip"}, {"X-Forwarded-Client-Cert": f"URI={SVID}"}):
        answer = await place.call(place.certify(), "PUT", "", make_registration(), headers=header)
        assert answer.told == (400, "BadRequest")


async def test_a_requests_id_comes_back_as_far_as_it_is_one(place: Place) -> None:
    for asked, told in (("a-1.b_2", "a-1.b_2"), ("<b>\u00e4%0d", "b0d"), ("x" * 300, "x" * 64)):
        answer = await place.ask("GET", "/v1/bundle", headers={"X-Request-Id": asked})
        assert answer.headers["X-Request-Id"] == told
    assert "X-Request-Id" not in (await place.ask("GET", "/v1/bundle")).headers


ALL_CALLS = [
    ("GET", "/v1/bundle"),
    ("POST", "/v1/join"),
    ("POST", "/v1/renew"),
    *((method, f"{Machine().path}{word}") for method, word in (("PUT", ""), ("DELETE", "?epoch=1"))),
    *(("POST", f"{Machine().path}/{word}") for word in ("beat", "drain")),
    ("GET", f"{Machine().path}/config?have=,&wait=0"),
]


async def test_a_standby_answers_nobody(place: Place) -> None:
    place.state.is_leading = False
    for method, path in ALL_CALLS:
        answer = await place.ask(method, path, make_beat(), machine=place.certify())
        assert answer.told == (503, "NotLeader")
        assert answer.headers["Connection"] == "close"
        assert int(answer.headers["Retry-After"]) >= 1


async def test_case_17_while_the_api_server_is_away_those_that_are_known_beat(place: Place, machine: Machine) -> None:
    place.state.is_leading, place.state.is_holding = False, True
    found = {}
    for method, path in ALL_CALLS:
        answer = await place.ask(method, path, make_beat(), machine=machine)
        found[method, path.replace(machine.path, "")] = answer.told
    assert found == {
        ("GET", "/v1/bundle"): (200, ""),
        ("POST", "/v1/join"): (503, "Holding"),
        ("POST", "/v1/renew"): (503, "Holding"),
        ("PUT", ""): (503, "Holding"),
        ("DELETE", "?epoch=1"): (503, "Holding"),
        ("POST", "/beat"): (200, ""),
        ("POST", "/drain"): (503, "Holding"),
        ("GET", "/config?have=,&wait=0"): (200, ""),
    }


async def test_who_has_the_newest_config_waits_and_is_woken_by_news(place: Place, machine: Machine) -> None:
    config = (await place.call(machine, "GET", "config?have=,")).body
    have = f"config?have={config['hash']},{config['bundleHash']}"
    assert (await place.call(machine, "GET", f"{have}&wait=0")).status == 304
    waiting = asyncio.create_task(place.call(machine, "GET", f"{have}&wait=60"))
    await eventually(lambda: place.count("waiting") == 1)
    place.server.news(OTHER)
    place.server.news(LEDGER)  # nothing has changed
    await eventually(lambda: place.count("waiting") == 1)
    annotations = (("config.linkerd.io/skip-inbound-ports", "22"),)
    place.registry.put_group(LEDGER, make_group(annotations=annotations, generation=2))
    place.server.news(LEDGER)
    answer = await asyncio.wait_for(waiting, 60)
    assert (answer.status, answer.body["skipInboundPorts"]) == (200, "22")
    assert answer.body["hash"] != config["hash"]
    assert answer.body["bundleHash"] == config["bundleHash"]
    await eventually(lambda: place.count("waiting") == 0)


async def test_other_anchors_other_rules_and_another_probe_are_news(place: Place, machine: Machine) -> None:
    def other_anchors() -> None:
        place.signer.put_issuer(ROOT.secret(OTHER_ROOT))

    def other_rules() -> None:
        place.registry.put_policy(POLICY, make_policy(Rules(address_from=("192.0.2.0/24",))))
        place.server.news(LEDGER)

    def other_probe() -> None:
        place.registry.put_group(LEDGER, make_group(probe=None))
        place.server.news()

    for change in (other_anchors, other_rules, other_probe):
        config = (await place.call(machine, "GET", "config?have=,")).body
        path = f"config?have={config['hash']},{config['bundleHash']}&wait=60"
        waiting = asyncio.create_task(place.call(machine, "GET", path))
        await eventually(lambda: place.count("waiting") == 1)
        change()
        answer = await asyncio.wait_for(waiting, 60)
        assert answer.status == 200, change
        assert answer.body != config


async def test_who_waits_is_sent_away_when_another_replica_leads(place: Place, machine: Machine) -> None:
    config = (await place.call(machine, "GET", "config?have=,")).body
    path = f"config?have={config['hash']},{config['bundleHash']}&wait=60"
    waiting = asyncio.create_task(place.call(machine, "GET", path))
    await eventually(lambda: place.count("waiting") == 1)
    place.state.is_leading = False
    place.server.news()
    assert (await asyncio.wait_for(waiting, 60)).told == (503, "NotLeader")


async def test_who_gives_up_waiting_is_forgotten(place: Place, machine: Machine) -> None:
    config = (await place.call(machine, "GET", "config?have=,")).body
    path = f"config?have={config['hash']},{config['bundleHash']}&wait=60"
    waiting = asyncio.create_task(place.call(machine, "GET", path))
    await eventually(lambda: place.count("waiting") == 1)
    waiting.cancel()
    await eventually(lambda: place.count("waiting") == 0)
    assert place.server._calls.bells._bells == {}


async def test_a_group_that_is_gone_or_broken_leaves_its_machines_what_they_have(
    place: Place, machine: Machine
) -> None:
    loaded = (await place.call(machine, "POST", "beat", make_beat())).body["want"]
    place.registry.put_group(LEDGER, make_group(probe=None, is_usable=False))
    beaten = await place.call(machine, "POST", "beat", make_beat(2, loaded=loaded))
    assert (beaten.status, beaten.body["want"]) == (200, loaded)
    assert (await place.call(machine, "GET", "config?have=,&wait=0")).told == (409, "GroupUnusable")
    place.registry.put_group(LEDGER, None)
    beaten = await place.call(machine, "POST", "beat", make_beat(3, loaded=loaded))
    assert (beaten.status, beaten.body["want"]) == (200, loaded)
    assert (await place.call(machine, "GET", "config?have=,&wait=0")).told == (404, "GroupMissing")


async def test_who_has_not_registered_reads_no_config(place: Place) -> None:
    assert (await place.call(place.certify(), "GET", "config?have=,&wait=0")).told == (410, "NotRegistered")


async def register(place: Place, *machines: Machine, sources: str = "127.0.1.{}", epoch: int = 1) -> list[Answered]:
    """Return what machines are told that register at once."""
    bodies = [make_registration(epoch=epoch, addresses=[{"ip": f"192.0.2.{1 + n}"}]) for n in range(len(machines))]
    return await asyncio.gather(
        *(
            place.call(machine, "PUT", "", body, source=sources.format(1 + index))
            for index, (machine, body) in enumerate(zip(machines, bodies, strict=True))
        )
    )


async def test_five_registrations_a_second_come_from_one_source() -> None:
    async with running(monotonic=lambda: 1000.0) as place:
        machines = [place.certify(Machine(uid=f"machine-{number}")) for number in range(12)]
        answers = await register(place, *machines, sources="127.0.0.1")
        refused = [answer for answer in answers if answer.status != 201]
        assert [answer.told for answer in refused] == [(429, "TooManyRequests")] * 7
        assert {int(answer.headers["Retry-After"]) for answer in refused} <= set(range(1, 61))
        assert place.count("refusals_total", call="register", reason="TooManyRequests") == 7


async def test_case_26_when_all_come_back_at_once_those_that_are_known_come_first() -> None:
    now = 1000.0
    async with running(monotonic=lambda: now) as place:
        known, *strangers = (place.certify(Machine(uid=f"machine-{number}")) for number in range(26))
        assert [answer.status for answer in await register(place, known)] == [201]
        now += 10
        answers = await register(place, *strangers, sources="127.0.2.{}")
        refused = [answer for answer in answers if answer.status != 201]
        assert {answer.told for answer in refused} == {(429, "TooManyRequests")}
        assert 5 <= len(refused) <= 20
        waits = [int(answer.headers["Retry-After"]) for answer in refused]
        assert all(1 <= wait <= 60 for wait in waits)
        assert len(set(waits)) > len(waits) // 2, "not all come again at once"
        again = await place.call(known, "PUT", "", make_registration(epoch=2))
        assert again.status == 200


async def test_every_reason_has_a_status() -> None:
    assert set(STATUS_OF) == set(Turned)


async def test_refusals_do_not_flood_the_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(30):
        await place.call(Machine(), "POST", "beat", make_beat())
    assert len([line for line in caplog.messages if line.startswith("no beat for a machine at")]) < 10
    assert place.count("refusals_total", call="beat", reason="NoCertificate") == 30
    assert place.count("calls_total", call="beat") == 30
    assert UID not in caplog.text
