"""What becomes of the mesh's identity as time passes and Secrets come and go; no cluster is needed for that."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from meshwright.edge.mesh_identity import MeshIdentity, Verdict
from meshwright.model.config import Config
from meshwright.model.problem import Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from meshwright.parse.bundle_source import BundleSource
from tests.certificates import ANCHOR, ISSUER, NOW, anchor, issuer, make, make_issuer_secret, make_secret


class Told:
    """An identity whose clock and knowledge a test holds."""

    def __init__(
        self, config: Config | None = None, has_cert_manager: bool = True, bundle: BundleSource | None = None
    ) -> None:
        self.now = NOW
        self.is_known = True
        self.verdicts: list[Verdict] = []
        self.identity = MeshIdentity(
            config or Config(),
            bundle,
            may_judge=lambda: self.is_known,
            has_cert_manager=lambda: has_cert_manager,
            unread=list,
            publish=self.verdicts.append,
            now=lambda: self.now,
        )
        self.identity.put_namespace(Ref(Kind.NAMESPACE, Namespace(""), "shop"), {"metadata": {}})


def told_reasons(told: Told) -> list[Reason]:
    told.identity.look()
    return [problem.reason for problem in told.verdicts[-1].problems]


def test_a_certificate_ends_without_an_event_and_the_report_changes_only_then() -> None:
    told = Told()
    told.identity.put_issuer(make_issuer_secret(issuer(), [anchor()]))
    assert told_reasons(told) == []
    told.now += timedelta(hours=10)
    assert told_reasons(told) == []
    assert told.verdicts[0].outputs == told.verdicts[1].outputs
    told.now += timedelta(hours=22)
    assert told_reasons(told) == [Reason.EXPIRES_SOON]
    told.now += timedelta(hours=15, minutes=1)
    assert told_reasons(told) == [Reason.EXPIRED]
    # Anchors do not go because the issuer did.
    assert Ref(Kind.CONFIG_MAP, Namespace("shop"), "mw-trust-anchors") in told.verdicts[-1].outputs


def test_an_anchor_that_was_renewed_with_its_key_goes_when_it_has_ended() -> None:
    """Beside its heir it would be taken for it, and end every handshake."""
    told = Told()
    old, new = (make(replace(ANCHOR, until=timedelta(hours=hours))) for hours in (5, 5000))
    signed = make(ISSUER, by=old)
    both = "".join(each.pem for each in sorted((old, new), key=lambda made: made.fingerprint))
    told.identity.put_issuer(make_issuer_secret(signed, [old, new]))
    place = Ref(Kind.CONFIG_MAP, Namespace("shop"), "mw-trust-anchors")
    published = []
    for hours in (0, 4, 6):
        told.now = NOW + timedelta(hours=hours)
        told.identity.look()
        published.append(told.verdicts[-1].outputs[place]["data"]["ca-bundle.crt"])
    assert published == [both, both, new.pem]
    assert told_reasons(told) == [Reason.EXPIRED], "it is still in its source, and that is told"


def test_each_problem_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told = Told()
    for _ in range(3):
        told.identity.look()
    told.identity.put_issuer(make_issuer_secret(issuer(), [anchor()]))
    told.identity.look()
    missing = told.verdicts[0].problems[0]
    assert caplog.messages == [f"identity: {missing}", f"identity: no longer so: {missing}"]


def test_nothing_is_judged_before_everything_was_read() -> None:
    told = Told()
    told.is_known = False
    told.identity.look()
    assert (told.verdicts, told.identity.is_judged) == ([], False)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.identity.put_issuer(None),
        lambda told: told.identity.put_issuer(make_secret({"tls.crt": issuer().pem})),
        lambda told: told.identity.put_issuer({"kind": "Secret", "metadata": {}}),
    ],
    ids=["deleted", "half", "empty"],
)
def test_a_lost_issuer_is_fatal_and_what_was_published_stays(change: Callable[[Told], None]) -> None:
    told = Told()
    told.identity.put_issuer(make_issuer_secret(issuer(), [anchor()]))
    told.identity.look()
    change(told)
    told.identity.look()
    place = Ref(Kind.CONFIG_MAP, Namespace("shop"), "mw-trust-anchors")
    assert told.verdicts[-1].fatal != ()
    assert place not in told.verdicts[-1].outputs
    assert place in told.verdicts[-1].kept


@pytest.mark.parametrize("is_own", [True, False], ids=["in the issuer's Secret", "of its own"])
def test_anchors_of_which_one_cannot_be_read_are_not_published(is_own: bool) -> None:
    """It may be the one in use; and delivery does not take such a bundle either."""
    told = Told(bundle=None if is_own else BundleSource(kind=Kind.CONFIG_MAP, name="roots"))

    def put(pem: str) -> None:
        texts = {"tls.crt": issuer().pem, "tls.key": issuer().key_pem, "ca.crt": pem}
        told.identity.put_issuer(make_secret(texts))
        if not is_own:
            told.identity.put_bundle({"kind": "ConfigMap", "data": {"ca-bundle.crt": pem}})
        told.identity.look()

    place = Ref(Kind.CONFIG_MAP, Namespace("shop"), "mw-trust-anchors")
    put(anchor().pem)
    assert place in told.verdicts[-1].outputs
    put(anchor(2).pem + anchor().pem[:200])
    assert place not in told.verdicts[-1].outputs
    assert place in told.verdicts[-1].kept
    assert Reason.INVALID_CERTIFICATE in {problem.reason for problem in told.verdicts[-1].problems}
    put(anchor(2).pem + anchor().pem)
    assert place in told.verdicts[-1].outputs
