"""A pod's certificate: asked of a real HTTPS server, looked at, and put in place."""

import json
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.cli import main
from meshwright.edge.certify import NotCertified, certify, find_valid_leaf
from meshwright.edge.host_port import split_address
from meshwright.edge.leaf_files import LeafFolder
from meshwright.emit.sds import emit_anchors, emit_identity
from meshwright.model.identity import Certificate, ServiceAccount, TrustDomain
from meshwright.model.proxy import ProxySettings
from meshwright.model.units import Namespace
from tests.edge.signer import OTHER_ROOT, ROOT, TRUST, UID, WEB, Leaf, Signer, make_pod_folders, make_token, run_signer

OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def get(settings: ProxySettings, signer: Signer, trust: TrustDomain = TRUST) -> Certificate:
    return certify(LeafFolder(settings), ("127.0.0.1", signer.port), trust)


def names(settings: ProxySettings) -> list[str]:
    return sorted(path.name for path in Path(settings.identity_folder).iterdir())


def read(settings: ProxySettings, name: str) -> object:
    return json.loads((Path(settings.identity_folder) / name).read_text())


def test_a_certificate_is_asked_for_with_a_key_made_here_and_then_counts(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    folder = Path(settings.identity_folder)
    with run_signer(tmp_path) as signer:
        leaf = get(settings, signer)
    assert (leaf.uris, leaf.dns_names) == ((TRUST.uri(WEB),), (TRUST.dns(WEB),))
    [(path, authorization, request)] = signer.requests
    assert (path, authorization) == ("/v1/certificates", f"Bearer {make_token()}")
    assert isinstance(key := request.public_key(), ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert not list(request.subject)
    assert names(settings) == [".lock", "anchors.json", "identity.json", "tls-1.crt", "tls-1.key"]
    assert read(settings, "identity.json") == emit_identity(f"{folder}/tls-1.crt", f"{folder}/tls-1.key")
    assert read(settings, "anchors.json") == emit_anchors(settings)
    assert stat.S_IMODE((folder / "tls-1.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert find_valid_leaf(LeafFolder(settings), TRUST, datetime.now(UTC)) == leaf


def test_a_new_pair_has_new_files_and_only_the_one_before_stays(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        serials = {get(settings, signer).serial for _ in range(4)}
    assert len(serials) == 4
    assert [name for name in names(settings) if name.startswith("tls")] == [
        "tls-3.crt",
        "tls-3.key",
        "tls-4.crt",
        "tls-4.key",
    ]
    keys = {(Path(settings.identity_folder) / f"tls-{number}.key").read_bytes() for number in (3, 4)}
    assert len(keys) == 2


def test_what_a_killed_run_left_is_overwritten_or_removed(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    folder = Path(settings.identity_folder)
    with run_signer(tmp_path) as signer:
        get(settings, signer)
        for name in ("tls-2.key", "tls-7.crt", ".identity.json.new"):
            (folder / name).write_text("half")
        get(settings, signer)
        get(settings, signer)
    assert names(settings) == [
        ".lock",
        "anchors.json",
        "identity.json",
        "tls-8.crt",
        "tls-8.key",
        "tls-9.crt",
        "tls-9.key",
    ]


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (Leaf(account=ServiceAccount(Namespace("shop"), "cart")), "somebody else's: it names spiffe://cluster.local/ns/shop/sa/cart"),
        (Leaf(account=ServiceAccount(Namespace("prod"), "web")), "somebody else's"),
        (Leaf(trust=TrustDomain(name="other.mesh")), "--trust-domain"),
        (Leaf(uid="another-pod"), "another-pod"),
        (Leaf(for_key=OTHER_KEY.public_key()), "cannot be used: key values mismatch"),
        (Leaf(root=OTHER_ROOT), "does not hang from the trust anchors"),
        (Leaf(since=timedelta(minutes=59, seconds=40)), "before it begins: the clock seems to be behind"),
        (Leaf(since=timedelta(hours=-3), until=timedelta(hours=-1)), "1 h 0 min after it ended"),
    ],
    ids=["account", "namespace", "trust domain", "pod", "key", "anchor", "clock behind", "clock ahead"],
)  # fmt: skip
def test_a_wrong_certificate_never_counts(leaf: Leaf, words: str, tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        signer.leaf = leaf
        with pytest.raises(NotCertified, match=words):
            get(settings, signer)
        assert names(settings) == [".lock"]
        signer.leaf = Leaf()
        good = get(settings, signer)
        signer.leaf = leaf
        with pytest.raises(NotCertified, match=words):
            get(settings, signer)
    assert names(settings) == [".lock", "anchors.json", "identity.json", "tls-1.crt", "tls-1.key"]
    assert find_valid_leaf(LeafFolder(settings), TRUST, datetime.now(UTC)) == good


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b'{"reason": "TokenExpired", "message": "read it anew"}', "refused .401 TokenExpired: read it anew."),
        (403, b'{"reason": "WrongPod", "message": "no"}', "refused .403 WrongPod: no."),
        (503, b"<html>", "refused .503 no reason: it says no more."),
        (503, b"[]", "refused .503 no reason"),
        (200, b"{}", "answered without a certificate"),
        (200, b"nonsense", "answered without a certificate"),
        (200, b'{"certificate": 7}', "answered without a certificate"),
        (200, b'{"certificate": "\\u00e9"}', "answered without a certificate"),
        (200, b'{"certificate": ""}', "no chain that can be read: found nothing"),
        (200, b'{"certificate": "-----BEGIN CERTIFICATE-----\\nAAAA"}', "no chain that can be read"),
    ],
)
def test_a_refusal_and_a_senseless_answer_are_told(status: int, body: bytes, words: str, tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        signer.refusal = (status, body)
        with pytest.raises(NotCertified, match=words):
            get(settings, signer)
    assert names(settings) == [".lock"]


def test_the_token_is_sent_to_delivery_and_to_nobody_else(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path, host_name="thief.shop.serviceaccount.identity.meshwright.cluster.local") as thief:
        with pytest.raises(NotCertified, match="not to be trusted"):
            get(settings, thief)
        assert thief.requests == []
    with run_signer(tmp_path, root=OTHER_ROOT) as stranger:
        with pytest.raises(NotCertified, match="not to be trusted"):
            get(settings, stranger)
        assert stranger.requests == []
    with pytest.raises(NotCertified, match="cannot be reached: Connection refused"):
        get(settings, stranger)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("token", None, "no token in .*: No such file"),
        ("token", "  \n", "holds no token"),
        ("token", "a b", "holds no token"),
        ("token", "not-a-token", "not one that is bound to a pod"),
        ("token", make_token().replace(".", "x"), "not one that is bound to a pod"),
        ("ca-bundle.crt", None, "no trust anchors in .*mw-trust-anchors"),
        ("ca-bundle.crt", "", "no trust anchors in .*mw-trust-anchors"),
        ("ca-bundle.crt", "nonsense", "no trust anchors in .*mw-trust-anchors"),
    ],
)
def test_what_the_kubelet_has_not_brought_is_named(name: str, content: str | None, words: str, tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    path = Path(settings.secrets_folder) / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with run_signer(tmp_path) as signer, pytest.raises(NotCertified, match=words):
        get(settings, signer)


def test_anchors_that_grow_and_an_issuer_that_moves_are_followed(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path, ROOT, OTHER_ROOT)
    with run_signer(tmp_path) as signer:
        for root in (ROOT, OTHER_ROOT):
            signer.leaf = Leaf(root=root)
            get(settings, signer)
    assert find_valid_leaf(LeafFolder(settings), TRUST, datetime.now(UTC))
    (Path(settings.secrets_folder) / "ca-bundle.crt").write_text(ROOT.anchor.pem)
    assert find_valid_leaf(LeafFolder(settings), TRUST, datetime.now(UTC)) is None


def test_no_certificate_is_valid_that_cannot_be_used(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    folder, now = LeafFolder(settings), datetime.now(UTC)
    assert find_valid_leaf(folder, TRUST, now) is None
    with run_signer(tmp_path) as signer:
        get(settings, signer)
    assert find_valid_leaf(folder, TRUST, now + timedelta(hours=25)) is None
    assert find_valid_leaf(folder, TRUST, now - timedelta(hours=1)) is None
    assert find_valid_leaf(folder, replace(TRUST, name="other.mesh"), now) is None
    (Path(settings.secrets_folder) / "token").write_text(make_token(uid="another-pod"))
    assert find_valid_leaf(folder, TRUST, now) is None
    (Path(settings.secrets_folder) / "token").write_text(make_token())
    (Path(settings.identity_folder) / "identity.json").write_text("{}")
    assert find_valid_leaf(folder, TRUST, now) is None


def flags(settings: ProxySettings, signing: str) -> list[str]:
    return [
        f"--signing={signing}",
        f"--identity-folder={settings.identity_folder}/",
        f"--secrets-folder={settings.secrets_folder}",
    ]


def test_the_command_prints_when_to_come_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        assert main(["certify", *flags(settings, signer.address)]) == 0
        output = capsys.readouterr()
        day = 24 * 3600
        assert day * (2 / 3 - 0.05) - 30 <= float(output.out) <= day * (2 / 3 + 0.05)
        assert output.err == ""
        signer.refusal = (403, json.dumps({"reason": "WrongPod", "message": "go away"}).encode())
        assert main(["certify", *flags(settings, signer.address), "--attempt", "12"]) == 1
        output = capsys.readouterr()
        assert 0 < float(output.out) <= 300
        assert output.err.startswith(
            f"meshwright certify: the signer at {signer.address} refused (403 WrongPod: go away); "
            "the certificate in place is good for 23 h 59 min, next attempt in "
        )
        assert output.err.count("\n") == 1
        assert make_token() not in output.err


def test_a_signer_may_ask_for_patience(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        signer.refusal, signer.headers["Retry-After"] = (503, b"{}"), "17"
        assert main(["certify", *flags(settings, signer.address)]) == 1
    output = capsys.readouterr()
    assert output.out == "17.0\n"
    assert "there is no valid certificate in place, next attempt in 17 s" in output.err


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:0", "host:65536", "fd00::1:15012", "host:x"])
def test_an_address_is_host_and_port(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", f"--signing={text}"]) == 2
    assert "write meshwright-xds.meshwright:15012" in capsys.readouterr().err


def test_an_address_may_be_ipv6() -> None:
    assert split_address("[fd00::1]:15012") == ("fd00::1", 15012)


def test_a_renewal_imports_nothing_that_is_large() -> None:
    """Every pod pays for it, in time at its start and in memory at each renewal."""
    program = (
        "import sys; import meshwright.edge.certify_command, meshwright.edge.proxy_command; "
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"aiohttp", "asyncio", "grpc", "kopf", "kubernetes_asyncio", "logging", "orjson", "pydantic", "yaml"}
    assert heavy & set(done.stdout.split()) == set()


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        leaf = get(settings, signer)
    key = (Path(settings.identity_folder) / "tls-1.key").read_text().splitlines()[1]
    folder = LeafFolder(settings)
    shown = f"{leaf!r} {folder!r} {folder.read_current()!r} {read(settings, 'identity.json')}"
    assert key not in shown
    assert make_token() not in shown
    assert UID in leaf.subject
