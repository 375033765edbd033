"""References to other objects of policy: by group, kind, name and sometimes namespace.

Source: linkerd2 ``policy-controller/k8s/api/src/policy/target_ref.rs`` LocalTargetRef, NamespacedTargetRef.
"""

from collections.abc import Iterable

from pydantic.dataclasses import dataclass

from meshwright.model.identity import ServiceAccount
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind
from meshwright.model.units import Namespace
from meshwright.parse.leaf import GroupText, KindText, NamespaceText, NameText
from meshwright.parse.shape import SHAPE, make_reader, quote

SERVICE_ACCOUNT = "ServiceAccount"
_INVALID = Reason.INVALID_OBJECT


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class Reference:
    """A reference as written. ``namespace``: ``None`` when it names none."""

    group: GroupText = ""
    kind: KindText = ""
    name: NameText = ""
    namespace: NamespaceText | None = None

    @property
    def words(self) -> str:
        """Return kind and group as kubectl writes them: ``HTTPRoute.policy.linkerd.io``, ``Namespace``."""
        group = self.group.lower()
        return self.kind if group in ("", "core") else f"{self.kind}.{group}"

    def find(self, kinds: Iterable[Kind]) -> Kind | None:
        """Return which of ``kinds`` is meant, ``None`` for another one. Letters count in either case, and the group
        ``core`` is ``""``."""
        words = self.words.lower()
        return next((kind for kind in kinds if kind.value.lower() == words), None)

    def find_group_fault(self, kinds: Iterable[Kind], field: str) -> Problem | None:
        """Return that the group alone is not that of one of ``kinds``, which people leave out above all; ``None`` when
        the kind is another one, too. ``field``: of the reference."""
        alike = [kind for kind in kinds if kind.group and kind.word.lower() == self.kind.lower()]
        if not alike or self.find(alike) is not None:
            return None
        found = f"found {quote(self.group)}" if self.group else "it is missing"
        legal = " or ".join(dict.fromkeys(kind.group for kind in alike))
        return Problem(f"{field}.group", Reason.INVALID_KIND, f"{found}; write {legal}, the group of {alike[0].word}")

    @property
    def is_account(self) -> bool:
        return self.words.lower() == SERVICE_ACCOUNT.lower()


_read = make_reader(Reference, _INVALID, required=("kind", "name"))


def read_reference(raw: object, field: str, faults: list[Problem]) -> Reference | None:
    """Return the reference ``raw``; ``None``, with something in ``faults``, when a part of it cannot be read."""
    before = len(faults)
    reference = _read(raw, field, faults)
    return reference if len(faults) == before else None


def read_account(raw: object, field: str, own: Namespace, faults: list[Problem]) -> ServiceAccount | None:
    """Return the ServiceAccount that the reference ``raw`` means, in the namespace ``own`` when it names none;
    ``None``, with something in ``faults``, for anything else."""
    reference = read_reference(raw, field, faults)
    if reference is None:
        return None
    if not reference.is_account:
        message = f"found {quote(reference.words)}, which is not known by itself; write a {SERVICE_ACCOUNT}"
        faults.append(Problem(f"{field}.kind", Reason.INVALID_KIND, message))
        return None
    return make_account(reference, own)


def make_account(reference: Reference, own: Namespace) -> ServiceAccount:
    """Return the ServiceAccount of the name, in the namespace ``own`` when the reference names none."""
    return ServiceAccount(own if reference.namespace is None else Namespace(reference.namespace), reference.name)
