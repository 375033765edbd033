"""Which inbound policy each proxy gets, kept as Servers, workloads, namespaces and the installation's defaults change.

Says whose policy a change makes another one, so that only those hear of it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from meshwright.link.govern import filter_policies, govern, name_by_tls
from meshwright.model.inbound import Inbound, PolicyDefaults, ServerPolicy
from meshwright.model.pod import Pod, PortRanges
from meshwright.model.policy import AccessPolicy
from meshwright.model.ref import Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Workload

NOBODY = Inbound(access=AccessPolicy.DENY)
"""What holds for a proxy of whose workload nothing is known, and for all while the defaults are not: nobody is let
in."""

_FEW = 16
_MOST_STRANGERS = 1000
_STRANGER = ""
_Shape = tuple[object, ...]


class Policies:
    """What was said about inbound policy, and what it comes to for each workload that was asked about.

    ``workloads``: pods and machines as they are now, a view. ``opaque``: says which ports of a namespace's workloads
    are opaque where they do not say themselves. ``usual``: ports that are opaque where nobody says. ``defaults``:
    ``None`` while they are not known. ``admits_strangers``: a proxy whose workload is not known gets the defaults;
    where proxies prove who they are, it is let in by nobody's policy.

    What an answer depends on may change only by the methods here: each returns the workloads that were asked about and
    have another answer now. A workload's answer is a short text, a *variant*; `find` gives what it stands for, which
    never changes. Workloads that are alike share one.
    """

    def __init__(
        self,
        workloads: Mapping[Ref, Workload],
        opaque: Callable[[Namespace], PortRanges | None],
        *,
        usual: tuple[Port, ...],
        defaults: PolicyDefaults | None,
        admits_strangers: bool,
    ) -> None:
        self.defaults = defaults
        self.retired = 0
        """How many variants nobody has any more, since somebody last set this to zero."""
        self._workloads = workloads
        self._opaque = opaque
        self._usual = usual
        self._admits_strangers = admits_strangers
        self._servers: defaultdict[Namespace, dict[Ref, ServerPolicy]] = defaultdict(dict)
        self._access: dict[Namespace, AccessPolicy] = {}
        self._unread: defaultdict[Namespace, set[Ref]] = defaultdict(set)
        self._said: defaultdict[Namespace, dict[Ref, str]] = defaultdict(dict)
        self._strangers: dict[Ref, None] = {}
        """Who was asked about and is not known; should there be very many, the latest."""
        self._alike: defaultdict[Namespace, dict[_Shape, Inbound]] = defaultdict(dict)
        """What was found for workloads of a shape, since anything else that decides it last changed."""
        self._variants: dict[Inbound, str] = {}
        self._inbounds: dict[str, Inbound] = {}
        self._by_id: dict[int, str] = {}
        """The variants again, by the identity of what they stand for: to compare whole policies takes long."""
        self._users: Counter[str] = Counter()
        self._serial = 0

    def __len__(self) -> int:
        """Return how many Servers' policies there are."""
        return sum(map(len, self._servers.values()))

    @property
    def variant_count(self) -> int:
        """Return how many different policies proxies have."""
        return len(self._inbounds)

    def policy(self, server: Ref) -> ServerPolicy | None:
        """Return the policy of a Server, ``None`` when there is none."""
        return self._servers[server.namespace].get(server) if server.namespace in self._servers else None

    def variant(self, workload: Ref) -> str:
        """Return which policy a workload's proxy gets."""
        if workload not in self._workloads and not self._admits_strangers:
            self._strangers[workload] = None
            if len(self._strangers) > _MOST_STRANGERS:
                del self._strangers[next(iter(self._strangers))]
            return _STRANGER
        said = self._said[workload.namespace]
        if (found := said.get(workload)) is None:
            found = said[workload] = self._take(self._govern(workload))
        return found

    def find(self, variant: str) -> Inbound:
        """Return what a variant stands for; for one that nobody has any more, that nobody is let in."""
        return self._inbounds.get(variant, NOBODY)

    def put_policy(self, server: Ref, policy: ServerPolicy | None) -> tuple[Ref, ...]:
        """Take the policy of a Server, ``None`` when it is gone."""
        servers = self._servers[server.namespace]
        old = servers.pop(server, None)
        if policy is not None:
            servers[server] = policy
        elif not servers:
            del self._servers[server.namespace]
        if old == policy:
            return ()
        both = [each for each in (old, policy) if each is not None]
        concerned = [ref for ref in self._said.get(server.namespace, ()) if self._is_selected(ref, both)]
        self._alike.pop(server.namespace, None)
        return self._look_again(concerned)

    def put_unread(self, unit: Ref, *, is_unread: bool) -> tuple[Ref, ...]:
        """Take that there is a unit, or is none any more, about a Server of which nothing was ever known: its ports
        could be any of the namespace's workloads', and so nobody is let in where no other Server lets him in."""
        if is_unread is (unit in self._unread.get(unit.namespace, ())):
            return ()
        units = self._unread[unit.namespace]
        units.symmetric_difference_update((unit,))
        if not units:
            del self._unread[unit.namespace]
        return self.look_again(unit.namespace)

    def put_defaults(self, defaults: PolicyDefaults) -> tuple[Ref, ...]:
        """Take what the installation says."""
        if defaults == self.defaults:
            return ()
        self.defaults = defaults
        self._alike.clear()
        return self._look_again([ref for said in self._said.values() for ref in said])

    def put_access(self, namespace: Namespace, access: AccessPolicy | None) -> tuple[Ref, ...]:
        """Take what a namespace asks for, ``None`` for nothing."""
        if access == self._access.get(namespace):
            return ()
        self._access.pop(namespace, None)
        if access is not None:
            self._access[namespace] = access
        return self.look_again(namespace)

    def look_again(self, namespace: Namespace) -> tuple[Ref, ...]:
        """Take that a namespace may say something else of opaque ports."""
        self._alike.pop(namespace, None)
        return self._look_again(list(self._said.get(namespace, ())))

    def put_workload(self, workload: Ref) -> tuple[Ref, ...]:
        """Take that a workload is another one now, or gone. The proxy of one that is gone is about to end: nothing more
        is said to it."""
        said = self._said.get(workload.namespace, {})
        if workload in self._workloads and workload in self._strangers:
            del self._strangers[workload]
            return (workload,)
        if workload not in said:
            return ()
        if workload in self._workloads or self._admits_strangers:
            return self._look_again([workload])
        self._drop(said.pop(workload))
        if not said:
            del self._said[workload.namespace]
            self._alike.pop(workload.namespace, None)
        return ()

    def _is_selected(self, ref: Ref, policies: Iterable[ServerPolicy]) -> bool:
        workload = self._workloads.get(ref)
        return workload is not None and any(True for _ in filter_policies(policies, workload))

    def _look_again(self, workloads: Iterable[Ref]) -> tuple[Ref, ...]:
        changed = []
        for ref in workloads:
            said = self._said[ref.namespace]
            old, inbound = said[ref], self._govern(ref)
            if inbound != self._inbounds[old]:
                said[ref] = self._take(inbound)
                self._drop(old)
                changed.append(ref)
        return tuple(changed)

    def _govern(self, ref: Ref) -> Inbound:
        workload = self._workloads.get(ref)
        if self.defaults is None:
            return NOBODY
        if workload is None:
            return Inbound(access=self.defaults.access, opaque=self._opaque(ref.namespace), defaults=self.defaults)
        if ref.namespace in self._unread:
            workload = replace(workload, access=AccessPolicy.DENY)
        shape = _find_shape(workload)
        alike = self._alike[ref.namespace]
        if len(alike) > 2 * len(self._said[ref.namespace]) + _FEW:
            alike.clear()  # of workloads that are gone: pods of Jobs come and go, and each has labels of its own
        if (found := alike.get(shape)) is None:
            found = alike[shape] = govern(
                workload,
                self._servers[ref.namespace].values() if ref.namespace in self._servers else (),
                self.defaults,
                self._access.get(ref.namespace),
                self._opaque(ref.namespace),
                usual=self._usual,
            )
        return found

    def _take(self, inbound: Inbound) -> str:
        if (variant := self._by_id.get(id(inbound)) or self._variants.get(inbound)) is None:
            self._serial += 1
            variant = self._variants[inbound] = self._by_id[id(inbound)] = str(self._serial)
            self._inbounds[variant] = inbound
        self._users[variant] += 1
        return variant

    def _drop(self, variant: str) -> None:
        self._users[variant] -= 1
        if not self._users[variant]:
            inbound = self._inbounds.pop(variant)
            del self._users[variant], self._variants[inbound], self._by_id[id(inbound)]
            self.retired += 1


def _find_shape(workload: Workload) -> _Shape:
    """Return all of a workload that decides its policy. No pod's is a machine's."""
    shared = (workload.labels, workload.ports, workload.access, workload.asks_identity, workload.opaque)
    if isinstance(workload, Pod):
        return *shared, workload.probes, workload.access_log
    return *shared, name_by_tls(workload)
