"""What a machine asks once it has a certificate, in the words of the HTTP API; and what it is told of its group."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from meshwright.edge.issuer import Signer
from meshwright.edge.registrar.registry import Registry
from meshwright.edge.registrar.waiting import Bells
from meshwright.emit.machine_config import emit_machine_config, hash_text, make_machine_config
from meshwright.link.enroll import make_workload_name
from meshwright.model.enrollment import (
    Beat,
    Done,
    Drain,
    InstanceKey,
    Leave,
    Loaded,
    MachineConfig,
    Peer,
    Refusal,
    Register,
    Turned,
)
from meshwright.model.group import Group, Rules
from meshwright.model.ref import Ref

MAX_WAIT_SECONDS = 60.0

_MAX_HASHES = 20_000
_ANSWERS_AT_ONCE = 32
_RETRY_SECONDS = 15.0

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was asked for. ``body`` ``None``: nothing to say."""

    status: int = 200
    body: Json | None = None


@dataclass(slots=True, kw_only=True)
class _Hashes:
    """The hashes of what a group's machines are told, as long as these are the group and its rules."""

    group: Group
    rules: Rules
    by_machine: dict[tuple[str, str], str] = field(default_factory=dict)


class MachineCalls:
    """Answers calls on one machine. Whether the caller is that machine is the registry's to say.

    ``delivery``: host:port of ``meshwright xds``. ``is_open``: whether there is an answer at all now.
    """

    def __init__(
        self, registry: Registry, signer: Signer, *, delivery: Callable[[], str], is_open: Callable[[], bool]
    ) -> None:
        self.bells = Bells()
        self._registry = registry
        self._signer = signer
        self._delivery = delivery
        self._is_open = is_open
        self._hashes: dict[Ref, _Hashes] = {}
        self._bundle: tuple[bytes, str, str] = (b"", "", hash_text(""))
        self._turns = asyncio.Semaphore(_ANSWERS_AT_ONCE)

    @property
    def bundle(self) -> str:
        """The trust anchors, as PEM: all that are in the trust bundle, so those before the newest, too, as long as
        they are kept there for machines that slept."""
        return self._read_bundle()[0]

    def bundle_changed(self) -> None:
        """Tell everybody that there are other anchors."""
        self._registry.put_bundle(self._read_bundle()[1])
        self.bells.ring()

    def delivery_changed(self) -> None:
        """Tell everybody that delivery is elsewhere."""
        self._hashes.clear()
        self.bells.ring()

    def register(self, request: Register, peer: Peer, now: float, wall: int) -> Answer | Refusal:
        done = self._registry.register(request, peer, now, wall)
        if isinstance(done, Refusal):
            return done
        body: Json = {
            "workload": done.workload,
            "ready": done.ready,
            "beatMs": done.beat_ms,
            "leaseMs": done.lease_ms,
            "serverEpoch": done.epoch,
            "want": self._emit_want(request.key, peer.identity, request.loaded),
            "droppedLabels": list(done.dropped_labels),
            "warnings": list(done.warnings),
        }
        return Answer(status=201 if done.is_new else 200, body=body)

    def beat(self, request: Beat, peer: Peer, now: float, wall: int) -> Answer | Refusal:
        done = self._registry.beat(request, peer, now, wall)
        if isinstance(done, Refusal):
            return done
        body: Json = {
            "ready": done.ready,
            "nextMs": done.next_ms,
            "mustRegister": done.must_register,
            "want": self._emit_want(request.key, peer.identity, request.loaded),
        }
        return Answer(body=body)

    def drain(self, request: Drain, peer: Peer, now: float) -> Answer | Refusal:
        return _say_done(self._registry.drain(request, peer, now), Answer(status=202, body={}))

    def leave(self, request: Leave, peer: Peer, now: float, wall: int) -> Answer | Refusal:
        return _say_done(self._registry.leave(request, peer, now, wall), Answer(status=204))

    async def wait_for_config(self, key: InstanceKey, peer: Peer, have: Loaded, seconds: float) -> Answer | Refusal:
        """Return what the machine is told as soon as it differs from ``have``; 304 when it does not for so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(seconds, MAX_WAIT_SECONDS)
        while True:
            async with self._turns:  # when all are woken at once, others have their turn between them
                found = self._find_config(key, peer.identity)
            if isinstance(found, Refusal):
                return found
            if (found.hash, found.bundle_hash) != (have.config, have.bundle):
                return Answer(body=emit_machine_config(found))
            left = until - loop.time()
            if left <= 0:
                return Answer(status=304)
            await self.bells.wait(key.group_ref, left)
            if not self._is_open():
                return Refusal(reason=Turned.NOT_LEADER, message="another replica answers from now on", retry_after=1)

    def want(self, key: InstanceKey, identity: str, loaded: Loaded) -> Loaded:
        """Return what a machine should have in force; of a group that is gone or cannot be used, what it has."""
        bundle_hash = self._read_bundle()[1]
        group = self._registry.group_of(key.group_ref)
        if group is None or not group.is_usable:
            return Loaded(config=loaded.config, bundle=bundle_hash)
        rules = self._registry.rules_of(key.group_ref)
        hashes = self._hashes.get(key.group_ref)
        if hashes is None or hashes.group is not group or (hashes.rules is not rules and hashes.rules != rules):
            if len(self._hashes) >= _MAX_HASHES:
                self._hashes.clear()
            hashes = self._hashes[key.group_ref] = _Hashes(group=group, rules=rules)
        machine = key.uid, identity
        found = hashes.by_machine.get(machine)
        if found is None:
            if len(hashes.by_machine) >= _MAX_HASHES:
                hashes.by_machine.clear()
            found = hashes.by_machine[machine] = self._make_config(group, rules, key, identity).hash
        return Loaded(config=found, bundle=bundle_hash)

    def _emit_want(self, key: InstanceKey, identity: str, loaded: Loaded) -> Json:
        want = self.want(key, identity, loaded)
        self._registry.put_want(key, want.config, want.bundle)
        return {"config": want.config, "bundle": want.bundle}

    def _find_config(self, key: InstanceKey, identity: str) -> MachineConfig | Refusal:
        known = self._registry.instance_of(key)
        if known is None or known.identity != identity:
            return Refusal(reason=Turned.NOT_REGISTERED, message="register first")
        group = self._registry.group_of(key.group_ref)
        if group is None:
            message = f"there is no {key.group_ref}; create it, or wait"
            return Refusal(reason=Turned.GROUP_MISSING, message=message, retry_after=_RETRY_SECONDS)
        if not group.is_usable:
            message = f"{key.group_ref} cannot be used; its status says why"
            return Refusal(reason=Turned.GROUP_UNUSABLE, message=message, retry_after=_RETRY_SECONDS)
        return self._make_config(group, self._registry.rules_of(key.group_ref), key, identity)

    def _make_config(self, group: Group, rules: Rules, key: InstanceKey, identity: str) -> MachineConfig:
        return make_machine_config(
            group,
            rules,
            workload=make_workload_name(key.namespace, key.group, key.uid),
            identity=identity,
            delivery=self._delivery(),
            trust=self._signer.trust,
            bundle=self.bundle,
        )

    def _read_bundle(self) -> tuple[str, str]:
        """Return the bundle and its hash; the hash is made once for each."""
        pem = self._signer.anchors_pem
        if pem != self._bundle[0]:
            text = pem.decode()
            self._bundle = pem, text, hash_text(text)
        return self._bundle[1:]


def _say_done(done: Done | Refusal, answer: Answer) -> Answer | Refusal:
    return done if isinstance(done, Refusal) else answer
