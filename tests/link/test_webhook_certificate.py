"""When a webhook's certificate is made anew, and how its configuration is told whom to believe."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonpatch
import pytest

from meshwright.edge.webhook_certificate import LIFETIME, make_secret
from meshwright.link.webhook_certificate import judge_serving, plan_bundle, read_bundles
from meshwright.model.identity import IssuerSecret
from meshwright.model.problem import Reason
from meshwright.parse.certificate import parse_issuer_secret

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = "meshwright-webhook.meshwright.svc"
SECRET = parse_issuer_secret(make_secret("meshwright", NAME, (), NOW))
OTHER = parse_issuer_secret(make_secret("meshwright", NAME, (), NOW))
BROKEN = parse_issuer_secret({"data": {"tls.crt": "AAAA", "tls.key": "AAAA"}})
SERVICE = "meshwright/meshwright-webhook"


def test_a_fresh_one_will_do_for_two_thirds_of_its_life() -> None:
    assert judge_serving(SECRET, NAME, NOW) is None
    assert judge_serving(SECRET, NAME, NOW + LIFETIME * 0.66) is None
    late = judge_serving(SECRET, NAME, NOW + LIFETIME * 0.67)
    assert late is not None
    assert late.reason is Reason.EXPIRES_SOON


@pytest.mark.parametrize(
    ("secret", "name", "now", "reason"),
    [
        (BROKEN, NAME, NOW, Reason.INVALID_CERTIFICATE),
        (parse_issuer_secret({}), NAME, NOW, Reason.MISSING),
        (replace(SECRET, has_fitting_key=False), NAME, NOW, Reason.KEY_MISMATCH),
        (SECRET, "meshwright-webhook.other.svc", NOW, Reason.WRONG_NAME),
        (replace(SECRET, anchors=OTHER.anchors), NAME, NOW, Reason.UNTRUSTED),
        (replace(SECRET, anchors=()), NAME, NOW, Reason.UNTRUSTED),
        (SECRET, NAME, NOW - timedelta(days=1), Reason.NOT_YET_VALID),
        (SECRET, NAME, NOW + LIFETIME * 2, Reason.UNTRUSTED),
        (
            replace(SECRET, chain=(replace(SECRET.chain[0], extended_usages=("clientAuth",)),)),
            NAME,
            NOW,
            Reason.WRONG_USAGE,
        ),
    ],
)
def test_one_that_will_not_do_is_named(secret: IssuerSecret, name: str, now: datetime, reason: Reason) -> None:
    problem = judge_serving(secret, name, now)
    assert problem is not None
    assert problem.reason is reason


def make_configuration(*bundles: str | None, name: str = "meshwright-webhook") -> dict[str, Any]:
    service = {"namespace": "meshwright", "name": name, "path": "/inject"}
    return {
        "webhooks": [
            {"name": f"w{i}", "clientConfig": {"service": service} | ({} if each is None else {"caBundle": each})}
            for i, each in enumerate(bundles)
        ]
    }


def test_what_differs_is_replaced_and_only_that() -> None:
    good = base64.b64encode(b"ca").decode()
    configuration = make_configuration(None, good, "b2xk")
    configuration["webhooks"] += make_configuration("eA==", name="another")["webhooks"]
    steps = plan_bundle(configuration, SERVICE, b"ca")
    changed = jsonpatch.apply_patch(configuration, steps)
    assert [each["clientConfig"]["caBundle"] for each in changed["webhooks"]] == [good, good, good, "eA=="]
    assert read_bundles(configuration, SERVICE) == (b"", b"ca", b"old")
    assert plan_bundle(changed, SERVICE, b"ca") == []


@pytest.mark.parametrize("edit", [list.reverse, list.clear, lambda each: each[0].update(name="x")])
def test_nothing_is_written_over_what_was_not_seen(edit: Callable[[list[Any]], None]) -> None:
    configuration = make_configuration(None, "b2xk")
    steps = plan_bundle(configuration, SERVICE, b"ca")
    edit(configuration["webhooks"])
    with pytest.raises((jsonpatch.JsonPatchTestFailed, jsonpatch.JsonPointerException, jsonpatch.JsonPatchConflict)):
        jsonpatch.apply_patch(configuration, steps)


@pytest.mark.parametrize(
    "configuration", [{}, {"webhooks": None}, {"webhooks": [1, {}, {"clientConfig": {"url": "x"}}]}]
)
def test_configurations_of_others_are_left_alone(configuration: dict[str, Any]) -> None:
    assert plan_bundle(configuration, SERVICE, b"ca") == []
    assert read_bundles(configuration, SERVICE) == ()
