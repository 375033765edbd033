"""Joining and renewing over real TLS: an answer that is lost is given again, to the same key only."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from meshwright.edge.answers import Unreachable
from meshwright.link.enroll import make_workload_name
from meshwright.model.group import JoinMode, Rules
from meshwright.model.ref import Kind, Ref
from tests.certificates import ANCHOR, make
from tests.edge.authority import make_csr
from tests.edge.registrar.place import (
    LEDGER,
    OTHER_ROOT,
    ROOT,
    SECRET,
    SHOP,
    TRUST,
    UID,
    Machine,
    Place,
    make_beat,
    make_group,
    make_policy,
    make_registration,
    running,
)

ELSEWHERE = "127.0.0.2"
FIRST, SECOND = Machine(), Machine()
MACHINES_OWN = make(replace(ANCHOR, name="machines.example.test", number=60), now=ROOT.now)
GROUP_NAME = TRUST.group_dns(SHOP, LEDGER.name)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with running() as place:
        yield place


async def join(place: Place, token: str = "", machine: Machine = FIRST, **more: Any) -> Any:
    body = {"uid": machine.uid, "csr": machine.csr, **({"token": token} if token else {}), **more.pop("body", {})}
    return await place.ask("POST", "/v1/join", body, **more)


async def test_a_machine_with_a_token_gets_a_leaf_of_its_own(place: Place) -> None:
    answer = await join(place, place.tokens.make())
    assert answer.status == 200
    leaf = x509.load_pem_x509_certificate(answer.body["chain"].encode())
    leaf.verify_directly_issued_by(ROOT.issuer.certificate)
    workload = make_workload_name(SHOP, "ledger", UID)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://cluster.local/ns/shop/external/ledger/{UID}"
    ]
    assert names.get_values_for_type(x509.DNSName) == [TRUST.machine_dns(SHOP, "ledger", workload)]
    assert [each.value for each in leaf.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)] == [UID]
    assert {**answer.body, "chain": "", "notAfter": ""} == {
        "namespace": "shop",
        "group": "ledger",
        "uid": UID,
        "identity": f"spiffe://cluster.local/ns/shop/external/ledger/{UID}",
        "workload": workload,
        "bundle": ROOT.anchor.pem,
        "chain": "",
        "notAfter": "",
    }
    assert datetime.fromisoformat(answer.body["notAfter"]) == leaf.not_valid_after_utc
    assert leaf.not_valid_after_utc - datetime.now(UTC) <= timedelta(hours=24)
    assert place.count("leaves_total") == 1


async def test_the_names_in_a_request_count_for_nothing(place: Place) -> None:
    csr = make_csr(FIRST.key, name="admin.kube-system")
    answer = await join(place, place.tokens.make(), body={"csr": csr})
    leaf = x509.load_pem_x509_certificate(answer.body["chain"].encode())
    assert b"admin" not in leaf.tbs_certificate_bytes


async def test_case_1_the_same_token_and_key_get_the_same_again(place: Place) -> None:
    token = place.tokens.make()
    answers = [await join(place, token) for _ in range(2)]
    place.tokens.kept["abcd2345"] = replace(place.tokens.kept["abcd2345"], expires=int(time.time()) - 1)
    answers.append(await join(place, token))
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert len({(answer.body["identity"], answer.body["workload"]) for answer in answers}) == 1
    assert len(place.tokens.written) == 1


async def test_a_join_whose_answer_is_lost_at_any_moment_can_be_repeated(place: Place) -> None:
    """The process dies before the write, after the write and before the answer, after the answer."""
    token = place.tokens.make()
    place.tokens.fault = Unreachable("killed")
    assert (await join(place, token)).told == (503, "ApiServerAway")
    assert place.tokens.written == []
    place.tokens.is_late = True
    assert (await join(place, token)).told == (503, "ApiServerAway")
    assert len(place.tokens.kept["abcd2345"].redemptions) == 1
    place.tokens.fault = None
    assert (await join(place, token)).status == 200
    assert (await join(place, token)).status == 200
    assert len(place.tokens.kept["abcd2345"].redemptions) == 1


async def test_case_2_a_stolen_token_is_worth_nothing_to_another_key(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    token = place.tokens.make()
    first = await place.join(token, FIRST)
    assert (await join(place, token, SECOND, source=ELSEWHERE)).told == (409, "TokenUsed")
    assert place.tokens.locked == [("abcd2345", UID, ELSEWHERE)]
    assert (await join(place, token, SECOND)).told == (409, "TokenLocked")
    assert place.tokens.locked == [("abcd2345", UID, ELSEWHERE)]
    assert (await place.call(first, "PUT", "", make_registration())).status == 201
    assert (await place.call(first, "POST", "beat", make_beat())).status == 200
    assert (await join(place, token, FIRST)).status == 200, "the first holder may repeat it even so"
    view = place.registry.group_view(LEDGER)
    assert view is not None
    assert {(each.reason.value, each.address) for each in view.rejections} == {
        ("TokenUsed", ELSEWHERE),
        ("TokenLocked", "127.0.0.1"),
    }
    assert SECRET not in caplog.text


async def test_case_2_a_thief_locks_the_token_though_the_machine_lives(place: Place) -> None:
    token = place.tokens.make()
    first = await place.join(token, FIRST)
    await place.call(first, "PUT", "", make_registration())
    await place.call(first, "POST", "beat", make_beat())
    assert (await join(place, token, SECOND, source=ELSEWHERE)).told == (409, "TokenUsed")
    assert place.tokens.kept["abcd2345"].is_locked


async def test_case_3_a_group_that_is_not_there_yet_costs_no_token(place: Place) -> None:
    token = place.tokens.make()
    place.registry.put_group(LEDGER, None)
    answer = await join(place, token)
    assert answer.told == (404, "GroupMissing")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert place.tokens.written == []
    place.registry.put_group(LEDGER, make_group())
    assert (await join(place, token)).status == 200


async def test_case_21_who_slept_until_its_certificate_ended_joins_anew_as_the_same(place: Place) -> None:
    slept = place.show(TRUST.machine_uri(SHOP, "ledger", UID), until=timedelta(seconds=-1))
    with pytest.raises(aiohttp.ClientError):
        await place.ask("POST", "/v1/renew", {"csr": slept.csr}, machine=slept)
    again = await place.join(place.tokens.make(), replace(slept, chain=""))
    assert _names(again.chain).get_values_for_type(x509.UniformResourceIdentifier) == [
        TRUST.machine_uri(SHOP, "ledger", UID)
    ]


async def test_of_many_that_come_at_once_with_one_token_each_joins_once(place: Place) -> None:
    token = place.tokens.make(uses=4)
    machines = [Machine(uid=f"machine-{number}") for number in range(4)]
    answers = await asyncio.gather(
        *(join(place, token, machine, source=f"127.0.1.{index}") for index, machine in enumerate(machines * 2))
    )
    assert [answer.status for answer in answers] == [200] * 8
    stored = place.tokens.kept["abcd2345"].redemptions
    assert sorted(each.uid for each in stored) == [machine.uid for machine in machines]


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ("", (401, "NoCertificate")),
        ("nonsense", (401, "BadToken")),
        ("abcd2345", (401, "BadToken")),
        (f"abcd2345.{'B' * 43}", (401, "BadToken")),
        (f"zzzz9999.{SECRET}", (401, "BadToken")),
    ],
)
async def test_a_forged_token_gets_nothing(
    token: str, told: tuple[int, str], place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.tokens.make()
    body = {} if token else {"namespace": "shop", "group": "ledger"}
    answer = await join(place, token, body=body)
    assert answer.told == told
    assert "chain" not in answer.body
    assert not token or token not in f"{caplog.text}{answer.body}"
    assert place.tokens.written == []
    view = place.registry.group_view(LEDGER)
    assert view is not None
    is_meant = token.startswith("abcd2345.")
    assert [each.reason.value for each in view.rejections] == (["BadToken"] if is_meant else []), (
        "its owner hears of it"
    )


async def test_five_wrong_secrets_block_their_source_and_no_other_and_not_the_token(place: Place) -> None:
    token = place.tokens.make()
    for _ in range(5):
        assert (await join(place, f"abcd2345.{'B' * 43}", source=ELSEWHERE)).told == (401, "BadToken")
    place.server._registrations._due_of.clear()
    answer = await join(place, token, source=ELSEWHERE)
    assert answer.told == (429, "Blocked")
    assert 590 < int(answer.headers["Retry-After"]) <= 600
    assert (await join(place, token)).status == 200


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"expires": int(time.time()) - 1}, (401, "TokenExpired")),
        ({"cidr": "192.0.2.0/24"}, (403, "WrongSource")),
        ({"is_locked": True}, (409, "TokenLocked")),
    ],
)
async def test_a_token_that_may_not_be_used_says_why_and_the_group_shows_it(
    more: dict[str, Any], told: tuple[int, str], place: Place
) -> None:
    answer = await join(place, place.tokens.make(**more))
    assert answer.told == told
    view = place.registry.group_view(LEDGER)
    assert view is not None
    assert [(each.reason.value, each.address) for each in view.rejections] == [(told[1], "127.0.0.1")]


async def test_a_token_is_for_its_own_group_only(place: Place) -> None:
    other = Ref(Kind.EXTERNAL_GROUP, SHOP, "other")
    place.registry.put_group(other, make_group(other))
    answer = await join(place, place.tokens.make(), body={"namespace": "shop", "group": "other"})
    assert answer.told == (403, "NotAllowed")
    view = place.registry.group_view(other)
    assert view is not None
    assert [each.reason.value for each in view.rejections] == ["NotAllowed"]


@pytest.mark.parametrize(
    "csr",
    ["nonsense", make_csr(is_broken=True), make_csr(rsa.generate_private_key(65537, 2048))],
    ids=["no csr", "signed by another", "RSA"],
)
async def test_a_csr_that_cannot_be_granted_uses_no_token_up(csr: str, place: Place) -> None:
    token = place.tokens.make()
    assert (await join(place, token, body={"csr": csr})).told == (400, "BadRequest")
    assert place.tokens.written == []
    assert (await join(place, token)).status == 200


async def test_without_an_issuer_a_token_is_kept_for_later(place: Place) -> None:
    token = place.tokens.make()
    place.clock.offset = timedelta(hours=50)
    place.signer.look()
    place.tokens.kept["abcd2345"] = replace(place.tokens.kept["abcd2345"], expires=int(time.time()) + 72 * 3600)
    answer = await join(place, token)
    assert answer.told == (503, "NoIssuer")
    assert place.tokens.written == []


async def test_a_group_whose_name_is_too_long_for_a_certificate_is_told_so(place: Place) -> None:
    group = Ref(Kind.EXTERNAL_GROUP, SHOP, ".".join(["g" * 60] * 4))
    place.registry.put_group(group, make_group(group))
    answer = await join(place, place.tokens.make(group=group.name))
    assert answer.told == (422, "BadIdentity")
    assert place.tokens.written == []


async def test_a_conflict_is_read_again_and_not_lost(place: Place) -> None:
    token = place.tokens.make()
    place.tokens.stale = 2
    assert (await join(place, token)).status == 200
    place.tokens.make("efgh2345")
    place.tokens.stale = 100
    assert (await join(place, f"efgh2345.{SECRET}")).told == (503, "ApiServerAway")


async def test_a_machines_own_certificate_joins_and_does_nothing_else(place: Place) -> None:
    rules = Rules(
        modes=frozenset((JoinMode.CERTIFICATE,)), identities=("*.machines.example.test",), ca_bundle=MACHINES_OWN.pem
    )
    place.registry.put_policy(Ref(Kind.REGISTRATION_POLICY, SHOP, "ledger"), make_policy(rules))
    own = place.show(dns=("vm-1.machines.example.test",), by=MACHINES_OWN)
    where = {"namespace": "shop", "group": "ledger"}
    answer = await join(place, machine=own, body={**where, "csr": FIRST.csr}, name=GROUP_NAME)
    assert answer.told == (401, "NoCertificate"), "it was not shown"
    answer = await _join_with(place, own, where)
    assert answer.status == 200
    joined = replace(FIRST, chain=answer.body["chain"])
    assert (await place.call(joined, "PUT", "", make_registration())).status == 201
    for method, word, body in (("PUT", "", make_registration(epoch=2)), ("POST", "beat", make_beat())):
        asked = await place.call(own, method, word, body, name=GROUP_NAME)
        assert asked.told == (403, "NotAllowed")
    machines_name = place.show(TRUST.machine_uri(SHOP, "ledger", UID), by=MACHINES_OWN)
    renewed = await place.ask("POST", "/v1/renew", {"csr": own.csr}, machine=machines_name, name=GROUP_NAME)
    assert renewed.told == (403, "NotAllowed"), "a name that an own authority has signed is nobody's in the mesh"


async def _join_with(place: Place, own: Machine, where: dict[str, str]) -> Any:
    body = {"uid": UID, "csr": FIRST.csr, **where}
    return await place.ask("POST", "/v1/join", body, machine=own, name=GROUP_NAME)


async def test_a_certificate_joins_only_the_group_whose_authorities_signed_it(place: Place) -> None:
    rules = Rules(
        modes=frozenset((JoinMode.CERTIFICATE,)), identities=("vm-1.example.test",), ca_bundle=MACHINES_OWN.pem
    )
    other = Ref(Kind.EXTERNAL_GROUP, SHOP, "other")
    place.registry.put_group(other, make_group(other))
    for group in (LEDGER, other):
        policy = make_policy(rules, group)
        place.registry.put_policy(policy.ref, policy)
    own = place.show(dns=("vm-1.example.test",), by=MACHINES_OWN)
    assert (await _join_with(place, own, {"namespace": "shop", "group": "other"})).told == (403, "NotAllowed")
    view = place.registry.group_view(other)
    assert view is not None
    assert [(each.reason.value, each.identity) for each in view.rejections] == [("NotAllowed", "vm-1.example.test")]
    unnamed = place.show(dns=("vm-2.example.test",), by=MACHINES_OWN)
    assert (await _join_with(place, unnamed, {"namespace": "shop", "group": "ledger"})).told == (403, "NotAllowed")


async def test_a_connection_that_stays_is_of_no_use_once_its_authority_is_not_named_any_more(place: Place) -> None:
    rules = Rules(
        modes=frozenset((JoinMode.CERTIFICATE,)), identities=("vm-1.example.test",), ca_bundle=MACHINES_OWN.pem
    )
    before, after = make_policy(rules), make_policy(replace(rules, ca_bundle=OTHER_ROOT.anchor.pem))
    place.registry.put_policy(before.ref, before)
    context = place.show(dns=("vm-1.example.test",), by=MACHINES_OWN).make_context(ROOT.anchor.pem)
    body = {"uid": UID, "csr": FIRST.csr, "namespace": "shop", "group": "ledger"}
    url = f"https://127.0.0.1:{place.port}/v1/join"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=1)) as session:
        for policy, told in ((before, (200, "")), (after, (401, "NoCertificate"))):
            place.registry.put_policy(policy.ref, policy)
            async with session.post(url, json=body, server_hostname=GROUP_NAME) as answer:
                assert (answer.status, (await answer.json()).get("reason", "")) == told


async def test_an_own_certificate_means_nothing_where_no_policy_names_its_authority(place: Place) -> None:
    own = place.show(dns=("vm-1.example.test",), by=MACHINES_OWN)
    for name in (GROUP_NAME, TRUST.dns(TRUST.registrar), TRUST.group_dns(SHOP, "nothing")):
        with pytest.raises(aiohttp.ClientError):
            await place.call(own, "PUT", "", make_registration(), name=name)


async def test_a_certificate_of_the_mesh_does_not_join(place: Place) -> None:
    body = {"uid": UID, "csr": FIRST.csr, "namespace": "shop", "group": "ledger"}
    pod = place.show("spiffe://cluster.local/ns/shop/sa/web")
    assert (await place.ask("POST", "/v1/join", body, machine=pod)).told == (403, "NotAllowed")


async def test_a_renewed_leaf_has_the_same_names_and_may_have_another_key(place: Place) -> None:
    machine = await place.join(place.tokens.make())
    await place.call(machine, "PUT", "", make_registration())
    answer = await place.ask("POST", "/v1/renew", {"csr": SECOND.csr}, machine=machine)
    assert (answer.status, sorted(answer.body)) == (200, ["bundle", "chain", "notAfter"])
    renewed = replace(SECOND, chain=answer.body["chain"])
    assert (await place.call(renewed, "POST", "beat", make_beat())).status == 200
    assert _names(renewed.chain) == _names(machine.chain)


def _names(chain: str) -> x509.SubjectAlternativeName:
    leaf = x509.load_pem_x509_certificate(chain.encode())
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


async def test_who_was_removed_or_whose_group_is_gone_gets_no_other_leaf(place: Place) -> None:
    machine = await place.join(place.tokens.make())
    await place.call(machine, "PUT", "", make_registration())
    assert (await place.call(machine, "DELETE", "?epoch=1")).status == 204
    renewal = {"csr": machine.csr}
    assert (await place.ask("POST", "/v1/renew", renewal, machine=machine)).told == (403, "Removed")
    place.registry.put_group(LEDGER, None)
    assert (await place.ask("POST", "/v1/renew", renewal, machine=place.certify())).status in (403, 404)


@pytest.mark.parametrize("uri", ["spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/vm/ledger-1"])
async def test_nobody_elses_certificate_is_renewed_here(uri: str, place: Place) -> None:
    answer = await place.ask("POST", "/v1/renew", {"csr": FIRST.csr}, machine=place.show(uri))
    assert answer.told == (403, "NotAllowed")


async def test_case_22_a_leaf_under_the_previous_anchor_is_renewed_under_the_new_one(place: Place) -> None:
    sleeper = await place.join(place.tokens.make())
    await place.call(sleeper, "PUT", "", make_registration())
    place.signer.put_issuer(OTHER_ROOT.secret(ROOT))
    both = {OTHER_ROOT.anchor.pem, ROOT.anchor.pem}
    bundle = (await place.ask("GET", "/v1/bundle", root=OTHER_ROOT)).body["bundle"]
    assert all(pem in bundle for pem in both)
    answer = await place.ask("POST", "/v1/renew", {"csr": sleeper.csr}, machine=sleeper, root=OTHER_ROOT)
    assert answer.status == 200
    leaf = x509.load_pem_x509_certificate(answer.body["chain"].encode())
    leaf.verify_directly_issued_by(OTHER_ROOT.issuer.certificate)
    assert all(pem in answer.body["bundle"] for pem in both)
    place.signer.put_issuer(OTHER_ROOT.secret())
    with pytest.raises(aiohttp.ClientError):
        await place.ask("POST", "/v1/renew", {"csr": sleeper.csr}, machine=sleeper, root=OTHER_ROOT)


async def test_nothing_that_is_secret_is_in_a_log_whatever_goes_wrong(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    token = place.tokens.make()
    with caplog.at_level(logging.DEBUG):
        await place.join(token, FIRST)
        await join(place, token, SECOND)
        await join(place, token, body={"csr": token})
        await join(place, token, body={"uid": token})
        await place.ask("POST", "/v1/join", token.encode())
        await place.ask("GET", f"/v1/{token}")
        await place.ask("POST", "/v1/join", {"token": [token]}, headers={"X-Request-Id": token, "Authorization": token})
    assert SECRET not in caplog.text
