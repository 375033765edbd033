"""The Secret that keeps a join token."""

import base64
import json
from datetime import UTC, datetime

from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.desired import Json
from meshwright.model.group import LABEL_TOKEN, TOKEN_PREFIX, TOKEN_TYPE, JoinToken
from meshwright.model.units import Namespace


def emit_join_token(token: JoinToken, control_plane: Namespace) -> Json:
    """Return the Secret of ``token`` in the control plane's namespace; it holds no token, only its hash.

    With ``resource_version``, a write of it is refused when somebody else has written meanwhile.
    """
    redeemed = [{"at": each.at, "keyHash": each.key_hash, "uid": each.uid} for each in token.redemptions]
    texts = {
        "cidr": token.cidr,
        "expires": datetime.fromtimestamp(token.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "group": token.group,
        "locked": "true" if token.is_locked else "false",
        "namespace": str(token.namespace),
        "redemptions": json.dumps(redeemed, separators=(",", ":"), sort_keys=True),
        "secret-hash": token.secret_hash,
        "uses": str(token.uses),
    }
    metadata: Json = {
        "labels": {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_TOKEN: "true"},
        "name": f"{TOKEN_PREFIX}{token.id}",
        "namespace": str(control_plane),
    }
    if token.resource_version:
        metadata["resourceVersion"] = token.resource_version
    return {
        "apiVersion": "v1",
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()},
        "kind": "Secret",
        "metadata": metadata,
        "type": TOKEN_TYPE,
    }
