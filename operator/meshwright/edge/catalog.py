"""Manifests by what they are for: objects that are compiled, workloads that have endpoints, and the rest, counted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

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
    Kind.EXTERNAL_GROUP,
    Kind.REGISTRATION_POLICY,
    Kind.SERVER,
    Kind.SERVER_AUTHORIZATION,
    Kind.AUTHORIZATION_POLICY,
    Kind.MESH_TLS_AUTHENTICATION,
    Kind.NETWORK_AUTHENTICATION,
    Kind.POLICY_HTTP_ROUTE,
    Kind.RATE_LIMIT_POLICY,
)
WORKLOADS = ("Deployment.apps", "StatefulSet.apps", "DaemonSet.apps", "ReplicaSet.apps")

Key = tuple[str, Namespace, str]
"""What an object is known by: ``Kind.group`` word, namespace (``""`` where there is none) and name."""

Order = tuple[int, tuple[str, ...]]
"""Where a file stands among the others."""

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
    workloads: Mapping[Key, Manifest] = field(default_factory=dict)
    pods: Mapping[Ref, Manifest] = field(default_factory=dict)
    slices: Mapping[Ref, Manifest] = field(default_factory=dict)
    problems: tuple[tuple[Manifest, Problem], ...] = ()
    unreadable: tuple[UnreadableError, ...] = ()
    unread: Mapping[str, int] = field(default_factory=dict)

    def find(self, key: Key) -> Manifest | None:
        """Return the manifest of an object that is compiled, or has to do with endpoints; ``None`` when none is."""
        word, namespace, name = key
        if word in WORKLOADS:
            return self.workloads.get(key)
        kind = _BY_NAME[word]
        shelf = {"pods": self.pods, "slices": self.slices}.get(_shelf(kind) or "", self.compiled)
        return shelf.get(Ref(kind, namespace, name))

    def alone(self, key: Key) -> "Catalog":
        """Return a catalog of nothing but a workload or a pod; of nothing at all when there is none."""
        manifest = self.find(key)
        if manifest is None:
            return Catalog()
        if find_kind(key) is Kind.POD:
            return Catalog(pods={Ref(Kind.POD, key[1], key[2]): manifest})
        return Catalog(workloads={key: manifest})

    def keys(self) -> set[Key]:
        """Return what `find` finds."""
        refs = (*self.compiled, *self.pods, *self.slices)
        return {*self.workloads, *((ref.kind.value, ref.namespace, ref.name) for ref in refs)}


def sort_manifests(manifests: Iterable[Manifest], namespace: Namespace) -> Catalog:
    """Return the catalog of ``manifests``; objects that name no namespace get ``namespace``. Never raises.

    Of two manifests for one object the first counts, and the second has a problem unless it says the same. A kind
    that is ours but for the case of its letters has one, too: the API server would refuse it.
    """
    library = Library(namespace)
    for number, (file, those) in enumerate(groupby(manifests, key=lambda manifest: manifest.place.file)):
        library.put(f"{number} {file}", (number, ()), those)
    return library.catalog()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A manifest, and what to make of it. ``written``: its content as read; ``manifest`` has the namespace. ``key``
    ``None``: it is not used, and counted as ``unread``, or has a ``problem``, or is ``unreadable``."""

    order: tuple[Order, int, tuple[int, ...]]
    written: Json
    manifest: Manifest
    key: Key | None = None
    unread: str = ""
    problem: Problem | None = None
    unreadable: UnreadableError | None = None


class Library:
    """The catalog of files, kept as files change: a change costs what the file costs, whatever else there is.

    What it says depends on the files it holds, not on the order they came in.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._files: dict[str, list[_Entry]] = {}
        self._claims: dict[Key, list[_Entry]] = {}
        self._odd: dict[int, _Entry] = {}
        self._disputed: dict[Key, list[tuple[_Entry, Problem]]] = {}
        self._unread: Counter[str] = Counter()
        self._used: dict[str, dict[Ref, Manifest]] = {"compiled": {}, "pods": {}, "slices": {}}
        self._workloads: dict[Key, Manifest] = {}
        self._changed: set[Key] = set()

    def put(self, file: str, order: Order, manifests: Iterable[Manifest]) -> None:
        """Take what ``file`` holds now, nothing when it is gone. Never raises."""
        old = self._files.pop(file, [])
        known = {id(entry.written): entry for entry in old}
        new = [self._enter(manifest, order, known.get(id(manifest.raw))) for manifest in manifests]
        if new:
            self._files[file] = new
        kept = {id(entry) for entry in old} & {id(entry) for entry in new}
        touched: set[Key] = set()
        for is_there, entries in ((False, old), (True, new)):
            for entry in entries:
                if id(entry) in kept:
                    continue
                if entry.key is None:
                    self._set_aside(entry, is_there=is_there)
                    continue
                touched.add(entry.key)
                claims = self._claims.setdefault(entry.key, [])
                if is_there:
                    claims.append(entry)
                else:
                    claims[:] = (claim for claim in claims if claim is not entry)
        for key in touched:
            self._settle(key)
        self._changed |= touched

    def take(self) -> frozenset[Key]:
        """Return the objects that may be others than at the last call, and forget them."""
        changed, self._changed = frozenset(self._changed), set()
        return changed

    def catalog(self) -> Catalog:
        """Return all that the files hold now."""
        odd = sorted(self._odd.values(), key=lambda entry: entry.order)
        problems = [(entry, entry.problem) for entry in odd if entry.problem is not None]
        problems += (found for those in self._disputed.values() for found in those)
        problems.sort(key=lambda found: found[0].order)
        return Catalog(
            compiled=dict(self._used["compiled"]),
            pods=dict(self._used["pods"]),
            slices=dict(self._used["slices"]),
            workloads=dict(self._workloads),
            problems=tuple((entry.manifest, problem) for entry, problem in problems),
            unreadable=tuple(entry.unreadable for entry in odd if entry.unreadable is not None),
            unread=dict(sorted(self._unread.items())),
        )

    def _enter(self, manifest: Manifest, order: Order, known: _Entry | None) -> _Entry:
        """Return the entry of ``manifest``; ``known``: one of the same content."""
        place = (order, manifest.place.line, manifest.path)
        if known is not None and known.manifest.place == manifest.place and known.order == place:
            return known
        if known is not None and known.key is not None:
            return replace(known, order=place, manifest=replace(manifest, raw=known.manifest.raw))
        plain = _Entry(order=place, written=manifest.raw, manifest=manifest)
        word = _kind_word(manifest.raw)
        kind = _BY_NAME.get(word)
        if _shelf(kind) is None and word not in WORKLOADS:
            if meant := _BY_FOLDED.get(word.casefold()):
                return replace(plain, problem=_misspelt(manifest.raw["kind"], meant))
            return replace(plain, unread=word)
        try:
            named = _named(manifest, Namespace("") if kind is Kind.NAMESPACE else self._namespace)
        except UnreadableError as error:
            return replace(plain, unreadable=error)
        metadata = named.raw["metadata"]
        return replace(plain, manifest=named, key=(word, Namespace(metadata.get("namespace", "")), metadata["name"]))

    def _set_aside(self, entry: _Entry, *, is_there: bool) -> None:
        if entry.unread:
            self._unread[entry.unread] += 1 if is_there else -1
            if not self._unread[entry.unread]:
                del self._unread[entry.unread]
        elif is_there:
            self._odd[id(entry)] = entry
        else:
            del self._odd[id(entry)]

    def _settle(self, key: Key) -> None:
        """Find out whose an object is, of those who claim it."""
        word, namespace, name = key
        kind = _BY_NAME.get(word)
        shelf, ref = (_shelf(kind), Ref(kind, namespace, name)) if kind is not None else (None, None)
        self._disputed.pop(key, None)
        if shelf is not None and ref is not None:
            self._used[shelf].pop(ref, None)
        else:
            self._workloads.pop(key, None)
        if not (claims := self._claims[key]):
            del self._claims[key]
            return
        claims.sort(key=lambda claim: claim.order)
        first = claims[0]
        problems = [
            (claim, _twice(first.manifest.place)) for claim in claims[1:] if claim.manifest.raw != first.manifest.raw
        ]
        if shelf == "slices" and (unusable := find_slice_problem(first.manifest.raw)):
            problems.append((first, unusable))
        elif shelf is not None and ref is not None:
            self._used[shelf][ref] = first.manifest
        else:
            self._workloads[key] = first.manifest
        if problems:
            self._disputed[key] = problems


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


def find_kind(key: Key) -> Kind | None:
    """Return the kind of an object, ``None`` for a workload."""
    return _BY_NAME.get(key[0])


def compiled_ref(key: Key) -> Ref | None:
    """Return the ref of an object that is compiled, ``None`` for any other."""
    kind = find_kind(key)
    return Ref(kind, key[1], key[2]) if kind is not None and kind in COMPILED else None


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
