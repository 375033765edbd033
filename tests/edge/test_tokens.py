"""Whose token it is, by a TokenReview."""

import logging
from datetime import timedelta
from typing import Any

import pytest

from meshwright.edge.client import Client
from meshwright.edge.tokens import Bearer, ReviewFailed, TokenFault, TokenRefused, review_token
from meshwright.model.identity import ServiceAccount
from tests.edge.apiserver import ApiServer
from tests.edge.authority import SHOP, Clock, Tokens, make_pod

POD = make_pod("web-1")
NOW = Clock()


@pytest.fixture
def tokens(server: ApiServer) -> Tokens:
    tokens = Tokens()
    server.reviews["tokenreviews"] = tokens.review
    return tokens


async def test_a_good_token_names_its_pod_and_account(tokens: Tokens, client: Client) -> None:
    found = await review_token(client, tokens.make(POD), NOW())
    assert found == Bearer(pod=POD.ref, uid=POD.uid, account=ServiceAccount(SHOP, "web"))


def _cases(tokens: Tokens) -> dict[str, tuple[str, TokenFault]]:
    tokens.revoked.add("uid-of-gone")
    good = tokens.make(POD)
    return {
        "expired": (tokens.make(POD, lifetime=timedelta(seconds=-1)), TokenFault.EXPIRED),
        "for another": (tokens.make(POD, audience="https://kubernetes.default.svc"), TokenFault.WRONG_AUDIENCE),
        "not bound": (tokens.make(POD, is_bound=False), TokenFault.NOT_BOUND),
        "of a pod that is gone": (tokens.make(make_pod("gone")), TokenFault.UNKNOWN),
        "forged": (good.rsplit(".", 1)[0] + ".forged", TokenFault.UNKNOWN),
        "nonsense": ("nonsense", TokenFault.UNKNOWN),
        "three parts of nonsense": ("a.b.c", TokenFault.UNKNOWN),
        "claims that are none": ("a.W10.c", TokenFault.UNKNOWN),
    }


@pytest.mark.parametrize("name", _cases(Tokens()))
async def test_a_token_that_proves_nothing_is_refused_with_its_reason(
    name: str, tokens: Tokens, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    token, fault = _cases(tokens)[name]
    with caplog.at_level(logging.DEBUG), pytest.raises(TokenRefused) as refused:
        await review_token(client, token, NOW())
    assert refused.value.fault is fault
    assert token not in f"{caplog.text}{refused.value}{refused.value!r}" or name == "nonsense"


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        ({}, TokenFault.UNKNOWN),
        ({"authenticated": "true", "audiences": ["meshwright"]}, TokenFault.UNKNOWN),
        ({"authenticated": True}, TokenFault.WRONG_AUDIENCE),
        ({"authenticated": True, "audiences": ["other"]}, TokenFault.WRONG_AUDIENCE),
        ({"authenticated": True, "audiences": ["meshwright"]}, TokenFault.NOT_BOUND),
        ({"authenticated": True, "audiences": ["meshwright"], "user": {"username": "admin"}}, TokenFault.NOT_BOUND),
        (
            {
                "authenticated": True,
                "audiences": ["meshwright"],
                "user": {
                    "username": "system:node:a",
                    "extra": {
                        "authentication.kubernetes.io/pod-name": ["web-1"],
                        "authentication.kubernetes.io/pod-uid": ["uid"],
                    },
                },
            },
            TokenFault.NOT_BOUND,
        ),
    ],
)
async def test_only_a_whole_answer_counts(
    status: dict[str, Any], fault: TokenFault, server: ApiServer, client: Client
) -> None:
    server.reviews["tokenreviews"] = lambda manifest: {**manifest, "status": status}
    with pytest.raises(TokenRefused) as refused:
        await review_token(client, "x", NOW())
    assert refused.value.fault is fault


@pytest.mark.parametrize("status", [0, 401, 403, 429, 500, 503])
async def test_an_api_server_that_does_not_answer_proves_nothing_either_way(
    status: int, tokens: Tokens, server: ApiServer, client: Client
) -> None:
    server.fail("tokenreviews", status, method="POST")
    token = tokens.make(POD)
    with pytest.raises(ReviewFailed) as failed:
        await review_token(client, token, NOW())
    assert token not in repr(failed.value)
