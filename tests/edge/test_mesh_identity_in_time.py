"""What becomes of the mesh's identity as time passes and Secrets come and go; no cluster is needed for that."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from meshwright.edge.mesh_identity import MeshIdentity, Verdict
from meshwright.model.config import Config
from meshwright.model.problem import Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from tests.certificates import NOW, anchor, issuer, make_issuer_secret, make_secret


class Told:
    """An identity whose clock and knowledge a test holds."""

    def __init__(self, config: Config | None = None, has_cert_manager: bool = True) -> None:
        self.now = NOW
        self.is_known = True
        self.verdicts: list[Verdict] = []
        self.identity = MeshIdentity(
            config or Config(),
            None,
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
