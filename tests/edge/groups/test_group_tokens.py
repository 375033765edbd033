"""``meshwright group token``: a token and the command for the machine, which there are, and taking one back."""

import base64
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from meshwright.cli import main
from meshwright.edge.check.inquiry import CONFIG_MAPS, SECRETS
from meshwright.edge.client import Json
from meshwright.emit.join_token import emit_join_token
from meshwright.model.group import JoinToken, Redemption
from meshwright.model.units import Namespace
from meshwright.parse.join_token import parse_join_token
from tests.certificates import NOW, anchor, make_bundle
from tests.edge.check.installation import HOME, Installation
from tests.edge.groups.conftest import Run
from tests.edge.groups.machines import POLICIES, SERVICES, put_group, put_registrar

EXPIRES = int((NOW + timedelta(hours=1)).timestamp())
KEPT = JoinToken(
    id="abcd1234", secret_hash="0" * 64, namespace=Namespace("shop"), group="ledger", expires=EXPIRES, uses=2
)
USED = Redemption(key_hash="1" * 64, uid="machine-1", at=EXPIRES - 3000)


def tokens(mesh: Installation) -> list[Json]:
    return [raw for raw in mesh.server.cluster.all(SECRETS) if raw["metadata"]["name"].startswith("mw-join-")]


def put_token(mesh: Installation, token: JoinToken = KEPT) -> None:
    mesh.server.cluster.put(SECRETS, emit_join_token(token, Namespace(HOME)))


def put_policy(
    mesh: Installation, name: str = "ledger", made: str = "2026-01-01T00:00:00Z", **spec: Any
) -> Installation:
    target = {"group": "workload.buoyant.io", "kind": "ExternalGroup", "name": "ledger"}
    mesh.put(POLICIES, name, "shop", metadata={"creationTimestamp": made}, spec={"targetRef": target, **spec})
    return mesh


async def test_a_token_is_shown_once_in_the_command_for_the_machine_and_only_its_hash_is_kept(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put_group(mesh)
    put_registrar(mesh)
    assert await run("token", "create", "ledger", "-n", "shop", "--uses", "3", "--cidr", "192.0.2.0/24") == 0
    (raw,) = tokens(mesh)
    kept = parse_join_token(raw)
    assert isinstance(kept, JoinToken)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    id_, _, secret = lines[-2].partition(".")
    assert lines == [
        "meshwright agent install \\",
        "  --registrar 203.0.113.5:15013 \\",
        f"  --ca-hash sha256:{anchor().fingerprint} \\",
        "  --namespace shop --group ledger \\",
        "  --trust-domain cluster.local --control-plane-namespace meshwright \\",
        "  --token-file - <<'TOKEN'",
        f"{id_}.{secret}",
        "TOKEN",
    ]
    assert kept == JoinToken(
        id=id_,
        secret_hash=hashlib.sha256(secret.encode()).hexdigest(),
        namespace=Namespace("shop"),
        group="ledger",
        expires=EXPIRES,
        uses=3,
        cidr="192.0.2.0/24",
        resource_version=raw["metadata"]["resourceVersion"],
    )
    assert len(base64.urlsafe_b64decode(f"{secret}=")) == 32
    assert said.err.splitlines() == [
        f"Token {id_}: 3 machines may join shop/ledger with it until 2026-09-01T13:00:00Z.",
        "It is shown this once. Run this on the machine, as root:",
        "",
    ]
    assert secret not in json.dumps(raw) + said.err


async def test_the_token_alone_goes_through_a_pipe_and_programs_get_json(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put_group(mesh)
    put_registrar(mesh)
    assert await run("token", "create", "ledger", "-n", "shop", "-o", "token") == 0
    said = capsys.readouterr()
    (token,) = said.out.splitlines()
    assert "meshwright agent install" in said.err
    assert token.partition(".")[2] not in said.err
    assert await run("token", "create", "ledger", "-n", "shop", "--json", "--registrar", "vip.example.com:443") == 0
    report = json.loads(capsys.readouterr().out)
    assert report.pop("token").startswith(f"{report['id']}.")
    assert report.pop("command")[:5] == ["meshwright", "agent", "install", "--registrar", "vip.example.com:443"]
    assert report == {
        "id": report["id"],
        "namespace": "shop",
        "group": "ledger",
        "expires": "2026-09-01T13:00:00Z",
        "uses": 1,
        "cidr": None,
        "registrar": "vip.example.com:443",
        "caHashes": [f"sha256:{anchor().fingerprint}"],
        "trustDomain": "cluster.local",
        "controlPlaneNamespace": "meshwright",
        "remarks": [],
    }
    assert len(tokens(mesh)) == 2


async def test_the_agent_understands_the_command(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_group(mesh)
    put_registrar(mesh)
    assert await run("token", "create", "ledger", "-n", "shop", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("sys.stdin", io.StringIO(report["token"] + "\n"))
    assert main([*report["command"][1:], "--dry-run", "--settings", str(tmp_path / "agent.json")]) == 0
    shown = capsys.readouterr().out
    settings = json.loads(shown[shown.index("{\n") : shown.index("\n}") + 2])
    assert {key: settings[key] for key in ("registrar", "caHashes", "namespace", "group")} == {
        "registrar": "203.0.113.5:15013",
        "caHashes": [f"sha256:{anchor().fingerprint}"],
        "namespace": "shop",
        "group": "ledger",
    }
    assert report["token"] not in shown


async def test_every_trust_anchor_may_be_the_registrars(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put_group(mesh)
    put_registrar(mesh)
    bundle = make_bundle([anchor(), anchor(9)], name="mw-trust-anchors", namespace=HOME)
    mesh.server.cluster.put(CONFIG_MAPS, bundle)
    mesh.edit(
        CONFIG_MAPS, "mw-mesh", lambda raw: raw["data"].update({"identity.json": '{"trust_domain": "example.org"}'})
    )
    assert await run("token", "create", "ledger", "-n", "shop", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["caHashes"] == sorted(f"sha256:{each.fingerprint}" for each in (anchor(), anchor(9)))
    assert report["trustDomain"] == "example.org"


@pytest.mark.parametrize(
    ("breaks", "remark"),
    [
        (lambda mesh: None, "there is no ExternalGroup ledger in namespace shop yet: machines wait for it"),
        (
            lambda mesh: put_group(mesh, spec={"template": {"ports": []}}),
            "ExternalGroup ledger in namespace shop takes no machines as it is: spec.template",
        ),
        (
            lambda mesh: (put_group(mesh), put_registrar(mesh, type="ClusterIP")),
            "Service meshwright-registrar has an address inside the cluster only: machines must be able to reach "
            "10.96.0.15:15013, or be given another way by --registrar",
        ),
        (
            lambda mesh: (put_group(mesh), put_registrar(mesh, type="LoadBalancer", clusterIP="fd00::15")),
            "Service meshwright-registrar has no address of a load balancer yet: machines must be able to reach "
            "[fd00::15]:15013",
        ),
        (
            lambda mesh: (put_group(mesh), put_registrar(mesh, clusterIP="None", type="ClusterIP")),
            "Service meshwright-registrar has an address inside the cluster only: machines must be able to reach "
            "meshwright-registrar.meshwright.svc:15013",
        ),
    ],
)
async def test_what_machines_will_wait_for_is_said_and_the_token_made(
    breaks: Callable[[Installation], object],
    remark: str,
    mesh: Installation,
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_registrar(mesh)
    breaks(mesh)
    assert await run("token", "create", "ledger", "-n", "shop", "--json") == 0
    (said,) = json.loads(capsys.readouterr().out)["remarks"]
    assert said[: len(remark)] == remark


def no_anchors(mesh: Installation) -> None:
    mesh.remove(CONFIG_MAPS, "mw-trust-anchors")


@pytest.mark.parametrize(
    ("breaks", "status", "complaint"),
    [
        (
            lambda mesh: put_policy(mesh, modes=["SPIFFE"], identities=["spiffe://example.org/vm/*"]),
            1,
            "RegistrationPolicy ledger in namespace shop lets in SPIFFE alone; add JoinToken to spec.modes",
        ),
        (
            lambda mesh: (put_policy(mesh, "b"), put_policy(mesh, "a", "2025-01-01T00:00:00Z", modes=["Tokens"])),
            1,
            "RegistrationPolicy a in namespace shop is faulty, and so lets in nobody: spec.modes[0]: ",
        ),
        (no_anchors, 1, "ConfigMap meshwright/mw-trust-anchors has no trust anchors"),
        (
            lambda mesh: mesh.remove(SERVICES, "meshwright-registrar"),
            1,
            "there is no Service meshwright-registrar in namespace meshwright, so no machine can join",
        ),
        (
            lambda mesh: mesh.server.fail("secrets", 403, method="POST"),
            1,
            "you may not create Secrets in namespace meshwright, where tokens are kept",
        ),
        (
            lambda mesh: mesh.server.fail("externalgroups", 403),
            2,
            "you may not get externalgroups.workload.buoyant.io in namespace shop",
        ),
        (lambda mesh: mesh.server.fail("*", 500), 2, "the cluster cannot be asked: 500"),
    ],
)
async def test_a_token_that_nobody_could_join_with_is_not_made(
    breaks: Callable[[Installation], object],
    status: int,
    complaint: str,
    mesh: Installation,
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_group(mesh)
    put_registrar(mesh)
    breaks(mesh)
    assert await run("token", "create", "ledger", "-n", "shop") == status
    said = capsys.readouterr()
    assert (said.out, said.err[: len("meshwright group: ") + len(complaint)]) == ("", f"meshwright group: {complaint}")
    assert tokens(mesh) == []


async def test_of_several_policies_the_oldest_counts(mesh: Installation, run: Run) -> None:
    put_group(mesh)
    put_registrar(mesh)
    put_policy(mesh, "b", "2025-01-01T00:00:00Z", modes=["JoinToken"])
    put_policy(mesh, "a", modes=["SPIFFE"], identities=["spiffe://example.org/vm/*"])
    assert await run("token", "create", "ledger", "-n", "shop") == 0


async def test_an_id_that_is_taken_is_not_used(mesh: Installation, run: Run) -> None:
    put_group(mesh)
    put_registrar(mesh)
    mesh.server.fail("secrets", 409, method="POST", times=2)
    assert await run("token", "create", "ledger", "-n", "shop") == 0
    assert len(tokens(mesh)) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["create", "Ledger"], "'Ledger' is no name"),
        (["create", "ledger", "-n", "a.b"], "'a.b' is no namespace's name"),
        (["create", "ledger", "--expires", "25h"], "write 1m to 24h"),
        (["create", "ledger", "--expires", "soon"], "write one whole number and one unit"),
        (["create", "ledger", "--uses", "0"], "write 1 to 10000"),
        (["create", "ledger", "--uses", "10001"], "write 1 to 10000"),
        (["create", "ledger", "--cidr", "192.0.2.1/24"], "is no network"),
        (["create"], "GROUP"),
        ([], "create|list|revoke"),
        (["revoke", "abcd1234.c2VjcmV0"], "write the 8 characters that the token has before its dot"),
    ],
)
def test_bad_usage_is_2_and_says_what_is_right(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["group", "token", *words]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert "c2VjcmV0" not in said


async def test_the_list_says_how_each_token_is_and_nothing_of_its_secret(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put_token(mesh)
    put_token(mesh, replace(KEPT, id="bbbb1111", uses=1, redemptions=(USED,), cidr="192.0.2.0/24"))
    put_token(mesh, replace(KEPT, id="cccc1111", expires=EXPIRES - 2 * 3600))
    put_token(mesh, replace(KEPT, id="dddd1111", redemptions=(USED,), is_locked=True))
    put_token(mesh, replace(KEPT, id="eeee1111", group="other"))
    broken = emit_join_token(replace(KEPT, id="ffff1111"), Namespace(HOME))
    broken["data"]["uses"] = ""
    mesh.server.cluster.put(SECRETS, broken)
    assert await run("token", "list", "ledger", "-n", "shop") == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "id        namespace  group   state    expires  uses    from          machines",
        "abcd1234  shop       ledger  usable   in 1h    0 of 2  anywhere      -",
        "bbbb1111  shop       ledger  used up  in 1h    1 of 1  192.0.2.0/24  machine-1",
        "cccc1111  shop       ledger  expired  1h ago   0 of 2  anywhere      -",
        "dddd1111  shop       ledger  locked   in 1h    1 of 2  anywhere      machine-1",
    ]
    assert said.err == (
        "‼ nobody can join with Secret mw-join-ffff1111: data[uses]: it is missing or cannot be read; write a whole "
        "number from 1 to 10000\n"
    )
    assert await run("token", "list", "-n", "shop", "--json") == 0
    found = json.loads(capsys.readouterr().out)["tokens"]
    assert found[1] == {
        "id": "bbbb1111",
        "namespace": "shop",
        "group": "ledger",
        "state": "used up",
        "expires": "2026-09-01T13:00:00Z",
        "uses": 1,
        "cidr": "192.0.2.0/24",
        "redemptions": [{"uid": "machine-1", "at": "2026-09-01T12:10:00Z"}],
    }
    assert [each["id"] for each in found] == ["abcd1234", "bbbb1111", "cccc1111", "dddd1111", "eeee1111"]
    assert await run("token", "list", "-n", "elsewhere") == 0
    assert capsys.readouterr() == ("", said.err.replace("‼", "there is no token\n‼"))


async def test_a_token_is_revoked_by_its_id_and_such_as_ended_all_at_once(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put_token(mesh)
    put_token(mesh, replace(KEPT, id="bbbb1111", uses=1, redemptions=(USED,)))
    put_token(mesh, replace(KEPT, id="cccc1111", expires=EXPIRES - 2 * 3600))
    put_token(mesh, replace(KEPT, id="dddd1111", is_locked=True))
    put_token(mesh, replace(KEPT, id="eeee1111"))
    assert await run("token", "revoke", "abcd1234", "--ended") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"token {id_} is revoked" for id_ in ("abcd1234", "bbbb1111", "cccc1111", "dddd1111")
    ]
    assert [raw["metadata"]["name"] for raw in tokens(mesh)] == ["mw-join-eeee1111"]
    assert await run("token", "revoke", "abcd1234", "eeee1111") == 1
    assert capsys.readouterr() == ("token eeee1111 is revoked\n", "meshwright group: there is no token abcd1234\n")


async def test_a_secret_that_keeps_no_token_is_not_revoked(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.put(SECRETS, "mw-join-abcd1234", type="Opaque", data={})
    assert await run("token", "revoke", "abcd1234") == 1
    assert mesh.server.cluster.get(SECRETS, HOME, "mw-join-abcd1234") is not None


async def test_revoking_nothing_is_bad_usage(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("token", "revoke") == 2
    assert capsys.readouterr().err == "meshwright group: write which tokens, by their id, or --ended\n"
