"""``meshwright identity``: certificates without cert-manager, and what a cluster's are."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.edge.authorities import Authority, make_anchor, make_issuer
from meshwright.edge.client import Json
from meshwright.edge.resources import RESOURCES
from meshwright.link.trust import judge_issuer
from meshwright.model.identity import TrustDomain
from meshwright.model.ref import Kind
from meshwright.model.units import Namespace
from meshwright.parse.certificate import parse_bundle, parse_certificates, parse_issuer_secret
from tests.certificates import NOW, anchor
from tests.documents import read_documents
from tests.edge.apiserver import ApiServer
from tests.edge.shop import operating
from tests.edge.test_mesh_identity import open_mesh, put_issuer, report, rest

TRUST = TrustDomain()
DAY = timedelta(days=1)


def test_files_make_a_mesh_that_openssl_believes_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, issuer = tmp_path / "ca", tmp_path / "issuer"
    assert main(["identity", "create-anchor", "--out", str(root)]) == 0
    assert main(["identity", "create-issuer", "--anchor", str(root), "--out", str(issuer)]) == 0
    for folder in (root, issuer):
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert modes == {"tls.key": 0o600, "tls.crt": 0o644, "ca.crt": 0o644}
    assert (issuer / "ca.crt").read_text() == (root / "tls.crt").read_text()
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(root / "tls.crt"), str(issuer / "tls.crt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.stdout.strip().endswith(": OK"), done.stderr
    said = capsys.readouterr()
    assert said.out == ""
    assert "PRIVATE" not in said.err


def test_manifests_are_an_issuer_that_may_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identity", "create-anchor", "-o", "yaml", "--out", str(tmp_path / "ca"), "--namespace", "mesh"]) == 0
    anchor_secret, config_map = read_documents(capsys.readouterr().out)
    words = ["identity", "create-issuer", "--anchor", str(tmp_path / "ca"), "-o", "yaml", "--namespace", "mesh"]
    assert main(words) == 0
    (issuer_secret,) = read_documents(capsys.readouterr().out)
    places = [
        (raw["kind"], raw["metadata"]["namespace"], raw["metadata"]["name"])
        for raw in (anchor_secret, config_map, issuer_secret)
    ]
    assert places == [
        ("Secret", "mesh", "meshwright-trust-anchor"),
        ("ConfigMap", "mesh", "meshwright-trust-bundle"),
        ("Secret", "mesh", "meshwright-identity-issuer"),
    ]
    trust = TrustDomain(control_plane=Namespace("mesh"))
    bundle, issuer = parse_bundle(config_map), parse_issuer_secret(issuer_secret)
    assert (bundle.problems, issuer.anchors) == ((), bundle.anchors)
    assert parse_issuer_secret(anchor_secret).has_fitting_key
    assert judge_issuer(issuer, bundle.anchors, trust, datetime.now(UTC)) == ()


def test_the_issuers_life_is_as_asked() -> None:
    made = make_issuer(make_anchor(TRUST, 3650 * DAY, NOW), TRUST, 30 * DAY, NOW)
    ((found,), _) = parse_certificates(made.certificate, "")
    assert (found.not_before, found.not_after) == (NOW - timedelta(minutes=5), NOW + 30 * DAY)
    assert (found.subject, found.path_length, found.key) == ("CN=identity.meshwright.cluster.local", 0, "ECDSA P-256")
    assert made.key not in repr(made)


def authority(certificate: str, key: str) -> Callable[[], Authority]:
    return lambda: Authority(certificate=certificate, key=key)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (lambda: make_anchor(TRUST, 3 * DAY, NOW), "the anchor ends 2026-09-04 12:00 UTC, before this issuer would"),
        (lambda: make_issuer(make_anchor(TRUST, 300 * DAY, NOW), TRUST, 100 * DAY, NOW), "path length 0"),
        (authority(anchor().pem, anchor(2).key_pem), "not the one of its certificate"),
        (authority(anchor().pem, "x"), "the anchor's key cannot be read"),
        (authority("x", anchor().key_pem), "found text without a PEM block"),
    ],
)
def test_an_anchor_that_will_not_do_is_refused(root: Callable[[], Authority], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_issuer(root(), TRUST, 30 * DAY, NOW)


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        ([], 2, "VERB"),
        (["create-anchor"], 2, "write --out DIR for files, or -o yaml"),
        (["create-anchor", "--out", "x", "--duration", "10y"], 1, "--duration 10y: write one to four whole numbers"),
        (["create-anchor", "--out", "x", "--duration", "1s"], 1, "write at least 5m"),
        (["create-anchor", "--out", "x", "--trust-domain", "A b"], 1, "write a domain name"),
        (["create-anchor", "--out", "x", "--trust-domain", "a" * 60], 1, "64 are allowed"),
        (["create-issuer", "--out", "x"], 2, "--anchor"),
        (["create-issuer", "--out", "x", "--anchor", "nowhere"], 1, "nowhere/tls.crt"),
    ],
)
def test_bad_usage_says_what_is_right(
    words: list[str],
    status: int,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["identity", *words]) == status
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_key_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["identity", "create-anchor", "--out", str(tmp_path)]) == 0
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    assert main(["identity", "create-anchor", "--out", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


async def run_beside(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    import asyncio

    status = await asyncio.to_thread(main, words)
    said = capsys.readouterr()
    return status, said.out, said.err


async def test_show_tells_of_a_cluster(server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_mesh(server)
    words = ["identity", "show", "--kubeconfig", server.kubeconfig(tmp_path)]
    status, _, err = await run_beside(words, capsys)
    assert (status, "mw-mesh is not there" in err) == (1, True)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: report(server) != {})
        status, out, _ = await run_beside(words, capsys)
        assert status == 1
        assert "Missing: Secret meshwright-identity-issuer is not there" in out
        assert "No new pod can get an identity." in out
        put_issuer(server)
        await server.eventually(lambda: bool(report(server)["can_issue"]))
        await rest(server, running)
        status, out, _ = await run_beside(words, capsys)
    assert status == 0
    assert "CN=identity.meshwright.cluster.local" in out
    assert "CN=root-1" in out
    assert "2 of 2 namespaces have these anchors" in out
    assert "No problems." in out
    server.cluster.edit(
        RESOURCES[Kind.CONFIG_MAP], "shop", "mw-trust-anchors", lambda raw: raw["data"].update({"ca-bundle.crt": ""})
    )
    status, out, _ = await run_beside(words, capsys)
    assert "1 of 2 namespaces have these anchors; not shop" in out


@pytest.mark.parametrize("data", [{}, {"identity.json": "{"}, {"identity.json": "[]"}, {"identity.json": "{}"}])
async def test_a_report_of_another_form_is_named(
    data: Json, server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = {"namespace": "meshwright", "name": "mw-mesh"}
    server.cluster.put(RESOURCES[Kind.CONFIG_MAP], {"metadata": metadata, "data": data})
    status, _, err = await run_beside(["identity", "show", "--kubeconfig", server.kubeconfig(tmp_path)], capsys)
    assert (status, "cannot be read" in err) == (1, True)
