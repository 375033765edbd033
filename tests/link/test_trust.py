"""Every way an issuer of identities can be wrong, and what is said about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshwright.link.trust import chain_to_anchor, choose_anchors, find_end, judge_issuer, may_sign
from meshwright.model.identity import Certificate, IssuerSecret, TrustDomain
from meshwright.model.problem import Reason
from meshwright.parse.certificate import parse_certificates, parse_issuer_secret
from tests.certificates import (
    ANCHOR,
    ISSUER,
    LEAF,
    NOW,
    Made,
    Wish,
    anchor,
    issuer,
    make,
    make_issuer_secret,
    make_secret,
)

TRUST = TrustDomain()
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MIDDLE = Wish(name="middle", number=7, until=timedelta(days=300), since=-DAY)


def read(made: Sequence[Made]) -> tuple[Certificate, ...]:
    return tuple(certificate for one in made for certificate in parse_certificates(one.pem, "f")[0])


def read_issuer(made: Made, between: Sequence[Made] = ()) -> IssuerSecret:
    return parse_issuer_secret(make_issuer_secret(made, (), between))


@dataclass(frozen=True, kw_only=True)
class Case:
    """An issuer and anchors, and what must be said: a fatal reason, or else a doubtful one; a part of the message."""

    name: str
    made: Callable[[], Made] = issuer
    roots: Callable[[], Sequence[Made]] = lambda: [anchor()]
    between: Callable[[], Sequence[Made]] = list
    fatal: Reason | None = None
    doubtful: Reason | None = None
    field: str = "data[tls.crt]"
    says: str = ""


def issued(by: Callable[[], Made] = anchor, **changes: object) -> Callable[[], Made]:
    return lambda: make(replace(ISSUER, **changes), by=by())  # type: ignore[arg-type]


def rooted(**changes: object) -> Made:
    return make(replace(ANCHOR, number=5, **changes))  # type: ignore[arg-type]


def case_of_anchor(name: str, **more: object) -> Case:
    """Return a case whose issuer is sound and hangs from an anchor with these changes."""
    wish = {key: more.pop(key) for key in tuple(more) if key not in ("fatal", "doubtful", "field", "says")}
    root = rooted(**wish)
    return Case(name=name, made=lambda: make(ISSUER, by=root), roots=lambda: [root], **more)  # type: ignore[arg-type]


def case_of_middle(name: str, **more: object) -> Case:
    """Return a case whose issuer is sound and hangs from an intermediate with these changes."""
    wish = {key: more.pop(key) for key in tuple(more) if key not in ("fatal", "doubtful", "field", "says")}
    middle = make(replace(MIDDLE, **wish), by=anchor())  # type: ignore[arg-type]
    return Case(name=name, made=lambda: make(ISSUER, by=middle), between=lambda: [middle], **more)  # type: ignore[arg-type]


OCSP = (ExtendedKeyUsageOID.OCSP_SIGNING,)
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
A, D, F = "anchors", "data[tls.crt]", Reason

CASES = (
    Case(name="sound"),
    Case(name="sound, with both extended usages", made=issued(extended=(*SERVER, *CLIENT))),
    Case(name="sound, with any extended usage", made=issued(extended=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,))),
    Case(name="sound, without key usages", made=issued(usages=None)),
    Case(name="sound, path length 0", made=issued(path_length=0)),
    Case(name="sound, one anchor of two", roots=lambda: [anchor(2), anchor()]),
    Case(name="its own anchor", made=lambda: make(ISSUER), roots=lambda: [make_own()], fatal=F.UNTRUSTED),
    case_of_middle("sound, with an intermediate"),
    case_of_anchor("sound, RSA anchor", key="RSA 2048"),
    Case(name="not a CA", made=issued(is_ca=False), fatal=F.NOT_A_CA, says="isCA"),
    Case(
        name="no cert sign", made=issued(usages=("cRLSign",)), fatal=F.WRONG_USAGE, says="cRLSign; ask for `cert sign`"
    ),
    Case(name="no usages at all", made=issued(usages=()), fatal=F.WRONG_USAGE, says="(none)"),
    Case(name="no server auth", made=issued(extended=CLIENT), fatal=F.WRONG_USAGE, says="used for serverAuth;"),
    Case(name="no client auth", made=issued(extended=SERVER), fatal=F.WRONG_USAGE, says="used for clientAuth;"),
    Case(name="neither", made=issued(extended=OCSP), fatal=F.WRONG_USAGE, says="used for serverAuth, clientAuth;"),
    Case(name="P-384", made=issued(key="P-384"), fatal=F.UNSUPPORTED_KEY, says="found a key ECDSA P-384; write one"),
    Case(name="RSA", made=issued(key="RSA 2048"), fatal=F.UNSUPPORTED_KEY, says="found a key RSA 2048; write one"),
    Case(
        name="expired",
        made=issued(since=-49 * HOUR, until=-2 * HOUR - timedelta(minutes=1)),
        fatal=F.EXPIRED,
        says="ended 2026-09-01T09:59:00Z, less than 6 h ago",
    ),
    Case(
        name="clock an hour behind",
        made=issued(since=timedelta(minutes=59)),
        fatal=F.NOT_YET_VALID,
        says="valid from 2026-09-01T12:59:00Z on, less than 1 h from now; set the clocks",
    ),
    Case(name="no anchors", roots=list, fatal=F.UNTRUSTED, field=A, says="found no trust anchor"),
    Case(name="another's anchor", roots=lambda: [anchor(2)], fatal=F.UNTRUSTED, says="has CN=root-2.cluster.local"),
    Case(
        name="anchor made anew under its name",
        roots=lambda: [rooted()],
        fatal=F.UNTRUSTED,
        says="but not with the key of the anchor of that name",
    ),
    Case(name="self-signed, no anchor", made=lambda: make(ISSUER), fatal=F.UNTRUSTED, says="signed by CN=identity."),
    Case(
        name="wrong authority key id",
        made=issued(issuer_key_id=b"\1" * 20),
        fatal=F.KEY_ID_MISMATCH,
        says="says that the key 0101010101010101 signed it",
    ),
    case_of_anchor("anchor expired", since=-9 * DAY, until=-DAY, fatal=F.EXPIRED, field=A, says="less than 2 days ago"),
    case_of_anchor("anchor of tomorrow", since=DAY, fatal=F.NOT_YET_VALID, field=A, says="less than 2 days from now"),
    case_of_anchor("anchor no CA", is_ca=False, fatal=F.NOT_A_CA, field=A, says="signed CN=identity."),
    case_of_anchor("anchor without cert sign", usages=(), fatal=F.WRONG_USAGE, field=A, says="needs `cert sign`"),
    case_of_anchor(
        "anchor path length 0", path_length=0, fatal=F.PATH_TOO_LONG, field=A, says="path length 0, and 1 CAs"
    ),
    case_of_anchor("anchor P-384", key="P-384", fatal=F.UNSUPPORTED_KEY, field=A, says="has a key ECDSA P-384"),
    case_of_anchor("anchor RSA 3072", key="RSA 3072", fatal=F.UNSUPPORTED_KEY, field=A, says="has a key RSA 3072"),
    case_of_anchor("anchor SHA-512", digest=hashes.SHA512, doubtful=F.UNSUPPORTED_KEY, field=A, says="with SHA-256"),
    case_of_anchor("issuer outlives anchor", until=HOUR * 40, doubtful=F.OUTLIVES_ANCHOR, says="ends 2026-09-03T04:00"),
    case_of_anchor("anchor ends soon", since=-300 * DAY, until=99 * DAY, doubtful=F.EXPIRES_SOON, field=A, says="399d"),
    case_of_middle("intermediate expired", until=-HOUR, fatal=F.EXPIRED, says="CN=middle ended"),
    case_of_middle("intermediate no CA", is_ca=False, fatal=F.NOT_A_CA, says="CN=middle signed"),
    case_of_middle("intermediate path length 0", path_length=0, fatal=F.PATH_TOO_LONG, says="CN=middle has the path"),
    case_of_middle("intermediate for clients", extended=CLIENT, fatal=F.WRONG_USAGE, says="without serverAuth"),
    Case(
        name="intermediate missing",
        made=lambda: make(ISSUER, by=make(MIDDLE, by=anchor())),
        fatal=F.UNTRUSTED,
        says="signed by CN=middle, and the trust bundle has CN=root.cluster.local",
    ),
    Case(
        name="another name",
        made=issued(name="identity.linkerd.cluster.local"),
        doubtful=F.WRONG_NAME,
        says="found the common name identity.linkerd.cluster.local; ask for identity.meshwright.cluster.local",
    ),
    Case(name="no name", made=issued(name=""), doubtful=F.WRONG_NAME, says="found no common name"),
    Case(
        name="late", made=issued(since=-33 * HOUR, until=15 * HOUR), doubtful=F.EXPIRES_SOON, says="third of its 2d is"
    ),
    Case(
        name="expired anchor beside",
        roots=lambda: [anchor(), rooted(name="old", until=-HOUR)],
        doubtful=F.EXPIRED,
        field=A,
        says="CN=old ended",
    ),
    Case(name="anchor twice", roots=lambda: [anchor(), anchor()], doubtful=F.DUPLICATE, field=A, says="more than once"),
    Case(
        name="anchor beside with a key we do not take",
        roots=lambda: [anchor(), rooted(name="odd", key="P-384")],
        doubtful=F.UNSUPPORTED_KEY,
        field=A,
        says="CN=odd has a key",
    ),
)


def make_own() -> Made:
    return make(replace(ISSUER, number=9))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_has_its_own_reason_and_a_fix(case: Case) -> None:
    secret, roots = read_issuer(case.made(), case.between()), read(case.roots())
    fatal = may_sign(secret, roots, TRUST, NOW)
    found = judge_issuer(secret, roots, TRUST, NOW)
    doubtful = found[len(fatal) :]
    assert found[: len(fatal)] == fatal
    assert [(problem.field, problem.reason) for problem in fatal] == ([(case.field, case.fatal)] if case.fatal else [])
    if case.fatal is None:
        expected = [(case.field, case.doubtful)] if case.doubtful else []
        assert [(problem.field, problem.reason) for problem in doubtful] == expected
    for problem in (*fatal, *doubtful)[:1]:
        assert case.says in problem.message
        assert ";" in problem.message


def test_an_issuer_that_is_an_anchor_itself_may_sign() -> None:
    made = make(ISSUER)
    assert judge_issuer(read_issuer(made), read([made]), TRUST, NOW) == ()


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        ({}, [Reason.MISSING, Reason.MISSING]),
        ({"tls.key": issuer().key_pem}, [Reason.MISSING]),
        ({"tls.crt": issuer().pem}, [Reason.MISSING]),
        ({"tls.crt": issuer().pem, "tls.key": anchor().key_pem}, [Reason.KEY_MISMATCH]),
        ({"tls.crt": issuer().pem, "tls.key": "x"}, [Reason.INVALID_CERTIFICATE]),
        ({"tls.crt": "x", "tls.key": issuer().key_pem}, [Reason.INVALID_CERTIFICATE]),
    ],
)
def test_what_cannot_be_read_may_not_sign(data: dict[str, str], reasons: list[Reason]) -> None:
    fatal = may_sign(parse_issuer_secret(make_secret(data)), read([anchor()]), TRUST, NOW)
    assert [problem.reason for problem in fatal] == reasons


@pytest.mark.parametrize("chain", [(), tuple(read([issuer()]))])
def test_an_issuer_without_a_word_of_why_may_not_sign_either(chain: tuple[Certificate, ...]) -> None:
    nothing = IssuerSecret(chain=chain, anchors=(), has_fitting_key=False)
    assert [problem.reason for problem in may_sign(nothing, read([anchor()]), TRUST, NOW)] == [Reason.MISSING]


def test_a_broken_block_after_the_issuer_is_only_doubtful() -> None:
    secret = parse_issuer_secret(
        make_secret({"tls.crt": issuer().pem + "-----BEGIN X-----", "tls.key": issuer().key_pem})
    )
    assert may_sign(secret, read([anchor()]), TRUST, NOW) == ()
    assert judge_issuer(secret, read([anchor()]), TRUST, NOW) == secret.problems != ()


def test_messages_stay_the_same_while_the_case_does() -> None:
    secret, roots = read_issuer(issued(until=-HOUR)()), read([anchor()])
    first = judge_issuer(secret, roots, TRUST, NOW)
    assert judge_issuer(secret, roots, TRUST, NOW + timedelta(minutes=30)) == first


LEAF_MADE = make(LEAF, by=issuer())
LONG = [make(replace(MIDDLE, name=f"m{number}", number=number), by=None) for number in range(20, 40)]


@pytest.mark.parametrize(
    ("chain", "roots", "later", "expected"),
    [
        ([LEAF_MADE, issuer()], [anchor(2), anchor()], timedelta(), anchor()),
        ([LEAF_MADE, LEAF_MADE, anchor(2), issuer()], [anchor()], timedelta(), anchor()),
        ([LEAF_MADE], [anchor()], timedelta(), None),
        ([LEAF_MADE, issuer()], [anchor(2)], timedelta(), None),
        ([LEAF_MADE, issuer()], [], timedelta(), None),
        ([], [anchor()], timedelta(), None),
        ([LEAF_MADE, issuer()], [anchor()], 24 * HOUR, None),
        ([LEAF_MADE, issuer()], [anchor()], -2 * HOUR, None),
        ([LEAF_MADE, issuer()], [issuer()], timedelta(), issuer()),
        ([LEAF_MADE, *LONG, issuer()], [anchor()], timedelta(), None),
    ],
)
def test_a_chain_leads_to_an_anchor_or_to_none(
    chain: list[Made], roots: list[Made], later: timedelta, expected: Made | None
) -> None:
    found = chain_to_anchor(read(chain), read(roots), NOW + later)
    assert found == (read([expected])[0] if expected else None)


def test_a_leaf_signs_no_leaf() -> None:
    forged = make(replace(LEAF, number=8), by=make(replace(LEAF, name="leaf"), by=issuer()))
    between = make(replace(LEAF, name="leaf"), by=issuer())
    assert chain_to_anchor(read([forged, between, issuer()]), read([anchor()]), NOW) is None


def test_of_anchors_with_one_name_and_key_those_that_are_valid_are_given_to_peers() -> None:
    ended, future, good = (
        make(replace(ANCHOR, since=timedelta(hours=since), until=timedelta(hours=until)))
        for since, until in ((-9, -1), (1, 9), (-1, 9))
    )
    other = make(replace(ANCHOR, number=8, since=timedelta(hours=-9), until=timedelta(hours=-1)))
    anchors = read((ended, other, future, good))
    assert choose_anchors(anchors, NOW) == read((other, good))
    assert choose_anchors(anchors[:3], NOW) == anchors[:3], "none is valid, and our clock may be the one that is wrong"
    assert choose_anchors((), NOW) == ()


def test_an_issuer_is_believed_as_long_as_all_above_it_and_by_the_best_of_its_anchors() -> None:
    old, new = (make(replace(ANCHOR, until=timedelta(hours=hours))) for hours in (1, 100))
    between = make(replace(ISSUER, name="between", number=4, until=timedelta(hours=3)), by=old)
    chain = read((make(ISSUER, by=between), between))
    assert find_end(chain, read([old]), NOW) == NOW + timedelta(hours=1)
    assert find_end(chain, read((old, new)), NOW) == NOW + timedelta(hours=3)
    assert find_end(chain, read([make(replace(ANCHOR, number=8))]), NOW) is None
    assert find_end(chain, read([new]), NOW + timedelta(days=9)) is None
    assert find_end((), read([new]), NOW) is None
