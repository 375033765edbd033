"""Join tokens as their Secrets have them: watched, and written before a machine hears that it may join.

Keeps what `parse_join_token` says, never a raw Secret, and no token: a Secret has the hash of one.
"""

import logging
from collections.abc import Callable

from meshwright.edge.client import ApiError, Client, Json
from meshwright.edge.resources import RESOURCES
from meshwright.edge.watch import Reflector, Timing, is_older
from meshwright.emit.join_token import emit_join_token
from meshwright.model.config import FIELD_MANAGER
from meshwright.model.group import LABEL_TOKEN, TOKEN_PREFIX, JoinToken
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from meshwright.parse.join_token import parse_join_token

log = logging.getLogger(__name__)

SECRETS = RESOURCES[Kind.SECRET]
_WRITTEN = ("redemptions", "locked")


class TokenSecrets:
    """The join tokens of the control plane's ``namespace``. ``may_write``: whether the Lease is ours.

    Run ``reflector`` to follow them.
    """

    def __init__(
        self, *, client: Client, namespace: Namespace, may_write: Callable[[], bool], timing: Timing | None = None
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._may_write = may_write
        self._tokens: dict[str, JoinToken] = {}
        self.reflector = Reflector(
            client=client,
            kind=Kind.SECRET,
            resource=SECRETS,
            put=self._put,
            namespace=namespace,
            labels=f"{LABEL_TOKEN}=true",
            timing=timing,
        )

    def __len__(self) -> int:
        return len(self._tokens)

    def get(self, id_: str) -> JoinToken | None:
        """Return the token ``id_``, ``None`` when there is none, or its Secret cannot be read."""
        return self._tokens.get(id_)

    async def write(self, token: JoinToken) -> bool:
        """Store who has joined with a token, and whether it is locked; only where its Secret is still as it was when
        ``token`` was read. ``False``: it is another by now, or gone; what `get` returns then is as fresh as can be.

        Raises:
            ApiError, Unreachable: it is not known whether it was written.
        """
        if not self._may_write():
            return False
        name = f"{TOKEN_PREFIX}{token.id}"
        data = emit_join_token(token, self._namespace)["data"]
        steps = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": token.resource_version},
            *({"op": "add", "path": f"/data/{key}", "value": data[key]} for key in _WRITTEN),
        ]
        try:
            raw = await self._client.patch_json(SECRETS, self._namespace, name, steps, manager=FIELD_MANAGER)
        except ApiError as error:
            if error.status not in (404, 409, 422):
                raise
            await self._read_afresh(name)
            return False
        self._take(name, raw)
        return True

    async def _read_afresh(self, name: str) -> None:
        try:
            self._take(name, await self._client.read(SECRETS, self._namespace, name))
        except ApiError as error:
            if error.status != 404:
                raise
            self._take(name, None)

    def _put(self, ref: Ref, raw: Json | None) -> None:
        self._take(ref.name, raw)

    def _take(self, name: str, raw: Json | None) -> None:
        id_ = name.removeprefix(TOKEN_PREFIX)
        if raw is None:
            self._tokens.pop(id_, None)
            return
        old, version = self._tokens.get(id_), str(raw["metadata"].get("resourceVersion") or "")
        if old is not None and is_older(version, old.resource_version):
            return
        token = parse_join_token(raw)
        if isinstance(token, Problem):
            self._tokens.pop(id_, None)
            log.warning("Secret %s/%s: %s; nobody joins with it", self._namespace, name, token)
        else:
            self._tokens[id_] = token
