"""Manifests by what they are for: objects that are compiled, workloads that have endpoints, and the rest, counted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from meshwright.edge.manifests import Manifest, Place, UnreadableError
from meshwright.edge.offline import find_slice_problem
from meshwright.model.desired import Json
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

COMPILED = (
    Kind.NAMESPACE,
    Kind.SERVICE,
    Kind.HTTP_ROUTE,
    Kind.GRPC_ROUTE,
    Kind.REFERENCE_GRANT,
    Kind.EXTERNAL_WORKLOAD,
)
WORKLOADS = ("Deployment.apps", "StatefulSet.apps", "DaemonSet.apps", "ReplicaSet.apps")

_BY_NAME = {kind.value: kind for kind in Kind}
_BY_FOLDED = {kind.value.casefold(): kind for kind in COMPILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What a set of manifests holds.

    ``compiled``: the objects that parse reads. ``workloads``: Deployments and their like, by ``Kind.group`` word,
    namespace and name. ``pods`` and ``slices``: by ref. ``problems``: what is wrong beyond one object's content.
    ``unread``: how many objects there are of each kind that nothing here reads, ``Kind.group`` words.
    """

    compiled: Mapping[Ref, Manifest] = field(default_factory=dict)
    workloads: Mapping[tuple[str, Namespace, str], Manifest] = field(default_factory=dict)
    pods: Mapping[Ref, Manifest] = field(default_factory=dict)
    slices: Mapping[Ref, Manifest] = field(default_factory=dict)
    problems: tuple[tuple[Manifest, Problem], ...] = ()
    unreadable: tuple[UnreadableError, ...] = ()
    unread: Mapping[str, int] = field(default_factory=dict)


def sort_manifests(manifests: Iterable[Manifest], namespace: Namespace) -> Catalog:
    """Return the catalog of ``manifests``; objects that name no namespace get ``namespace``. Never raises.

    Of two manifests for one object the first counts, and the second has a problem unless it says the same. A kind
    that is ours but for the case of its letters has one, too: the API server would refuse it.
    """
    first: dict[tuple[str, Namespace, str], Manifest] = {}
    sorted_out: dict[str, dict[Ref, Manifest]] = {"compiled": {}, "pods": {}, "slices": {}}
    workloads: dict[tuple[str, Namespace, str], Manifest] = {}
    problems: list[tuple[Manifest, Problem]] = []
    unreadable: list[UnreadableError] = []
    unread: Counter[str] = Counter()
    for manifest in manifests:
        word = _kind_word(manifest.raw)
        kind = _BY_NAME.get(word)
        shelf = _shelf(kind)
        if shelf is None and word not in WORKLOADS:
            if meant := _BY_FOLDED.get(word.casefold()):
                problems.append((manifest, _misspelt(manifest.raw["kind"], meant)))
            else:
                unread[word] += 1
            continue
        try:
            manifest = _named(manifest, Namespace("") if kind is Kind.NAMESPACE else namespace)
        except UnreadableError as error:
            unreadable.append(error)
            continue
        metadata = manifest.raw["metadata"]
        key = (word, Namespace(metadata.get("namespace", "")), metadata["name"])
        if earlier := first.get(key):
            if earlier.raw != manifest.raw:
                problems.append((manifest, _twice(earlier.place)))
            continue
        first[key] = manifest
        if shelf == "slices" and (unusable := find_slice_problem(manifest.raw)):
            problems.append((manifest, unusable))
        elif kind is None or shelf is None:
            workloads[key] = manifest
        else:
            sorted_out[shelf][Ref(kind, key[1], key[2])] = manifest
    return Catalog(
        **sorted_out,
        workloads=workloads,
        problems=tuple(problems),
        unreadable=tuple(unreadable),
        unread=dict(sorted(unread.items())),
    )


def say_unread(unread: Mapping[str, int], skipped: Iterable[Place]) -> str:
    """Return one sentence about what was not read, ``""`` when everything was."""
    kinds = Counter(word.partition(".")[0] for word in unread)
    parts = [
        f"{count} {word if kinds[kind := word.partition('.')[0]] > 1 else kind}"
        for word, count in sorted(unread.items())
    ]
    if places := [str(place) for place in skipped]:
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        parts.append(f"{len(places)} that are no Kubernetes object ({', '.join(places[:3])}{more})")
    return f"not compiled, meshwright has no use for them: {', '.join(parts)}" if parts else ""


def _shelf(kind: Kind | None) -> str | None:
    match kind:
        case Kind.POD:
            return "pods"
        case Kind.ENDPOINT_SLICE:
            return "slices"
        case _ if kind in COMPILED:
            return "compiled"
        case _:
            return None


def _kind_word(raw: Json) -> str:
    group, slash, _ = raw["apiVersion"].partition("/")
    return f"{raw['kind']}.{group}" if slash else str(raw["kind"])


def _named(manifest: Manifest, namespace: Namespace) -> Manifest:
    """Return the manifest with its namespace written out (left out where ``namespace`` is ``""``).

    Raises:
        UnreadableError: it has no usable name, so nobody could speak of it.
    """
    kind, metadata = manifest.raw["kind"], manifest.raw.get("metadata")
    if not isinstance(metadata, dict):
        raise UnreadableError(manifest.place, f"this {kind} has no metadata; give it a metadata.name")
    for key in ("name", "namespace"):
        value = metadata.get(key)
        if (key == "name" or value is not None) and not (isinstance(value, str) and value):
            raise UnreadableError(
                manifest.locate(f"metadata.{key}"), f"this {kind} has no metadata.{key} that is a text"
            )
    metadata = {key: value for key, value in metadata.items() if key != "namespace"} | (
        {"namespace": metadata.get("namespace") or namespace} if namespace else {}
    )
    return replace(manifest, raw=manifest.raw | {"metadata": metadata})


def _twice(earlier: Place) -> Problem:
    return Problem(
        field="",
        reason=Reason.INVALID_OBJECT,
        message=f"this object stands at {earlier}, too, and that one is used; delete or rename one of them",
    )


def _misspelt(found: str, meant: Kind) -> Problem:
    return Problem(field="kind", reason=Reason.INVALID_KIND, message=f"{found} is not a kind; write {meant.word}")
