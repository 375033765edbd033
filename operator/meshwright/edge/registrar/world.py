"""What the registrar is told of the cluster: groups, who may join them, Services and namespaces."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from meshwright.link.members import may_have_members
from meshwright.model.group import Group, RegistrationPolicy, Rules
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from meshwright.model.workload import Service

_NO_RULES = Rules()


class World:
    """The objects that say who may join, as they are now. ``forbidden``: CIDRs of pods and Services."""

    def __init__(self, forbidden: Sequence[str] = ()) -> None:
        self.forbidden: tuple[str, ...] = tuple(forbidden)
        self._groups: dict[Ref, Group] = {}
        self._policies: dict[Ref, RegistrationPolicy] = {}
        self._by_group: defaultdict[Ref, set[Ref]] = defaultdict(set)
        self._rules: dict[Ref, Rules] = {}
        self._services: defaultdict[Namespace, dict[Ref, Service]] = defaultdict(dict)
        self._ending: set[str] = set()

    def put_group(self, ref: Ref, group: Group | None) -> bool:
        """Return whether that changed anything. A group that is being deleted is gone."""
        if group is None or group.is_deleting:
            return self._groups.pop(ref, None) is not None
        before, self._groups[ref] = self._groups.get(ref), group
        return before != group

    def put_policy(self, ref: Ref, policy: RegistrationPolicy | None) -> frozenset[Ref]:
        """Return the groups for which other rules may hold now."""
        before = self._policies.pop(ref, None)
        if policy is not None:
            self._policies[ref] = policy
        touched = set()
        for each in (before, policy):
            if each is not None and each.group:
                group = Ref(Kind.EXTERNAL_GROUP, ref.namespace, each.group)
                self._by_group[group].discard(ref)
                touched.add(group)
        if policy is not None and policy.group:
            self._by_group[Ref(Kind.EXTERNAL_GROUP, ref.namespace, policy.group)].add(ref)
        for group in touched:
            self._rules.pop(group, None)
        return frozenset(touched)

    def put_service(self, ref: Ref, service: Service | None) -> bool:
        """Return whether that changed anything."""
        of_namespace = self._services[ref.namespace]
        before = of_namespace.pop(ref, None)
        if service is not None:
            of_namespace[ref] = service
        return before != service

    def put_namespace(self, name: str, *, is_ending: bool) -> None:
        if is_ending:
            self._ending.add(name)
        else:
            self._ending.discard(name)

    def is_ending(self, namespace: str) -> bool:
        return namespace in self._ending

    def group_of(self, ref: Ref) -> Group | None:
        return self._groups.get(ref)

    def groups(self) -> tuple[Ref, ...]:
        return tuple(self._groups)

    def rules_of(self, group: Ref) -> Rules:
        """Return what holds for a group: its policy's rules, of several the oldest's, by name among those as old. A
        void policy lets in nobody, and its times hold; without a policy the defaults do."""
        if (rules := self._rules.get(group)) is not None:
            return rules
        first = self._first_policy(group)
        if first is None:
            rules = _NO_RULES
        else:
            rules = replace(first.rules, modes=frozenset()) if first.is_void else first.rules
        self._rules[group] = rules
        return rules

    def _first_policy(self, group: Ref) -> RegistrationPolicy | None:
        found = [self._policies[ref] for ref in self._by_group.get(group, ())]
        return min(found, key=lambda each: (each.created is None, each.created or 0, each.ref), default=None)

    def is_void(self, group: Ref) -> bool:
        """Return whether a group's policy has errors: what it would say is not known then."""
        first = self._first_policy(group)
        return first is not None and first.is_void

    def services_in(self, namespace: Namespace) -> tuple[Service, ...]:
        """Return the Services whose selectors count."""
        if namespace not in self._services:
            return ()
        return tuple(service for service in self._services[namespace].values() if may_have_members(service))
