"""Whether a machine is the last ready endpoint of a Service, as far as machines are endpoints."""

from collections import Counter

from meshwright.edge.registrar.book import Book
from meshwright.edge.registrar.instances import Instance
from meshwright.model.ref import Ref
from meshwright.model.units import Namespace


class Endpoints:
    """The ready machines of each Service at one moment: make one, ask, tell what was taken, drop it.

    Pods are not known here: of a Service with pods, too, the last machine counts as the last.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._ready: dict[Namespace, Counter[Ref]] = {}

    def is_last(self, instance: Instance) -> bool:
        """Return whether any Service would be left without a ready machine."""
        if not instance.is_ready:
            return False
        ready = self._count(instance.key.namespace)
        return any(ready[service] <= 1 for service in self._services(instance.key.namespace, instance.label_set))

    def take(self, instance: Instance) -> None:
        """Count a machine, which was ready, no more."""
        ready = self._count(instance.key.namespace)
        for service in self._services(instance.key.namespace, instance.label_set):
            ready[service] -= 1

    def _count(self, namespace: Namespace) -> Counter[Ref]:
        if namespace not in self._ready:
            ready: Counter[Ref] = Counter()
            for instance in self._book.instances.of_namespace(namespace):
                if instance.is_ready:
                    ready.update(self._services(namespace, instance.label_set))
            for seen in self._book.seen.values():
                if seen.ref.namespace == namespace and seen.is_ready and not self._book.is_ours(seen):
                    ready.update(self._services(namespace, frozenset(seen.labels)))
            self._ready[namespace] = ready
        return self._ready[namespace]

    def _services(self, namespace: Namespace, labels: frozenset[tuple[str, str]]) -> list[Ref]:
        services = self._book.world.services_in(namespace)
        return [service.ref for service in services if labels.issuperset(service.selector or ())]
