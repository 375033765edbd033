"""`meshwright policy test`: files of cases, right and wrong ones."""

from pathlib import Path

import pytest
import yaml

from meshwright.cli import main
from tests.edge.access.test_explain_command import OBJECTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "all.yaml").write_text(yaml.safe_dump_all(OBJECTS))
    return tmp_path


def test_all_as_expected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "test.yaml").write_text(
        """\
manifests: [policy]
cases:
  - {name: our clients, from: shop/client, to: "shop/web:8080", path: /a, headers: {x: "1"}, expect: allowed}
  - {from: 192.0.2.7, to: "shop/web:8080", tcp: true, expect: denied}
  - {from: 192.0.2.7, to: "shop/web:8080", grpc: a.B/C, expect: denied}
"""
    )
    assert main(["policy", "test", str(folder / "test.yaml")]) == 0
    assert capsys.readouterr().out == (
        "√ our clients: allowed\n"
        "√ 192.0.2.7 to shop/web:8080: bytes: denied\n"
        "√ 192.0.2.7 to shop/web:8080: a.B/C: denied\n"
        "√ 3 of 3 cases as expected\n"
    )


def test_what_is_otherwise_is_said_with_its_line_and_the_reasons(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "test.yaml").write_text(
        """\
manifests: [policy/all.yaml]
cases:
  - {from: shop/client, to: "shop/web:8080", expect: denied}
  - name: the office
    from: 192.0.2.7
    to: shop/web:8080
    expect: allowed
  - {from: shop/nobody, to: "shop/web:8080", expect: denied}
"""
    )
    file = folder / "test.yaml"
    assert main(["policy", "test", "--quiet", str(file)]) == 1
    assert capsys.readouterr().out == (
        "× shop/client to shop/web:8080: GET /\n"
        f"    {file}:3: expected denied, found allowed\n"
        "    AuthorizationPolicy shop/clients lets it in\n"
        "    AuthorizationPolicy shop/missing: NetworkAuthentication shop/office does not exist\n"
        "    the caller's address is taken to be 10.0.0.1, as of the cluster; say another one with @ADDRESS\n"
        "× the office\n"
        f"    {file}:4: expected allowed, found denied\n"
        "    AuthorizationPolicy shop/clients: the connection is not TLS of the mesh, so the caller has no identity\n"
        "    AuthorizationPolicy shop/missing: NetworkAuthentication shop/office does not exist\n"
        "× shop/nobody to shop/web:8080: GET /\n"
        f"    {file}:8: expected denied, but there is no Pod, Deployment or the like, or ExternalWorkload shop/nobody; "
        "in that namespace there is shop/client, shop/web\n"
        "× 0 of 3 cases as expected\n"
    )


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [", 2, "this is not YAML"),
        ("- a", 1, "one mapping with manifests and cases, found a list"),
        ("manifests: x\ncases: [{from: a, to: b, expect: denied}]", 1, 'found the text "x"'),
        ("manifests: [policy]\ncases: []", 2, "at least one case"),
        ("manifests: [policy]\ncase: []", 2, 'there is no field "case"'),
        ("manifests: [policy]\ncases:\n  - x", 3, 'found the text "x"'),
        ("manifests: [policy]\ncases:\n  - from: a\n    to: b", 3, "lacks expect"),
        ("manifests: [policy]\ncases:\n  - {from: a, to: b,\n     expect: allow}", 4, 'found "allow"; write one of'),
        ("manifests: [policy]\ncases:\n  - {from: a, to: b, expect: denied, pth: /}", 3, 'there is no field "pth"'),
        ("manifests: [policy]\ncases:\n  - {from: a, to: 8080, expect: denied}", 3, "to is a text, found 8080"),
        ("manifests: [policy]\ncases:\n  - {from: a, to: b, expect: denied, tcp: 1}", 3, "tcp is true or false"),
        ("manifests: [policy]\ncases:\n  - {from: a, to: b, expect: denied, method: Get}", 3, 'found "Get"'),
        ("manifests: [policy]\ncases:\n  - {from: a, to: b, expect: denied, headers: {x: 1}}", 3, "a mapping of texts"),
        ("manifests: [gone]\ncases:\n  - {from: a, to: b, expect: denied}", 0, "there is no such file or folder"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, line: int, message: str
) -> None:
    (folder / "test.yaml").write_text(text)
    assert main(["policy", "test", str(folder / "test.yaml")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert f"test.yaml:{line}:" in said if line else "gone:" in said


def test_the_help_shows_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "test", "--help"]) == 0
    assert "expect: allowed" in capsys.readouterr().out
