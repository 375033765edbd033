"""Files of expected cases: who is to be let in, who is not, and whether it is so."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshwright.edge.access.answer import LET_IN, Answer, answer, say_source
from meshwright.edge.access.asked import METHODS, read_question
from meshwright.edge.access.targets import AskedError
from meshwright.edge.access.world import World
from meshwright.edge.documents import Piece, Place, UnreadableError, read_pieces, word_of
from meshwright.edge.manifests import Manifest
from meshwright.model.request import Outcome

EXPECTED = {
    "allowed": (Outcome.ALLOWED,),
    "audited": (Outcome.AUDITED,),
    "denied": (Outcome.DENIED, Outcome.REFUSED),
    "not found": (Outcome.NOT_FOUND,),
}
"""What may be expected, and what meets it: who is refused because of what it speaks is not let in either."""

_TEXTS = ("name", "from", "to", "method", "path", "host", "grpc", "expect")
_FIELDS = (*_TEXTS, "headers", "tcp")
_NEEDED = ("from", "to", "expect")
_FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case, as written. ``place``: where it stands."""

    place: Place
    raw: Mapping[str, Any]

    @property
    def expected(self) -> str:
        return str(self.raw["expect"])

    @property
    def name(self) -> str:
        """Return what it is called: its name, or in few words what it is about."""
        if name := self.raw.get("name"):
            return str(name)
        asked = self.raw.get("grpc") or f"{self.raw.get('method', 'GET')} {self.raw.get('path', '/')}"
        return f"{self.raw['from']} to {self.raw['to']}: {'bytes' if self.raw.get('tcp') else asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A file of cases. ``paths``: the manifests they are about, as seen from where the file is."""

    file: str
    paths: tuple[Path, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outturn:
    """What became of a case. ``fault``: why it cannot be answered, ``""`` when it can."""

    case: Case
    answer: Answer | None = None
    fault: str = ""

    @property
    def is_met(self) -> bool:
        return self.answer is not None and self.answer.decision.outcome in EXPECTED[self.case.expected]


def read_suite(text: str, file: str) -> tuple[Suite, tuple[UnreadableError, ...]]:
    """Return the cases of a file, and all that is wrong with it, in the order of lines; cases that are wrong are left
    out.

    Raises:
        UnreadableError: it is no YAML, or not one mapping.
    """
    pieces = list(read_pieces(text, file, {}))
    documents = [
        (piece, begin, number, raw)
        for piece, begin in pieces
        for number, (raw, _) in enumerate(piece.documents)
        if raw is not None
    ]
    if len(documents) != 1 or not isinstance(documents[0][3], dict):
        found = word_of(documents[0][3]) if len(documents) == 1 else f"{len(documents)} documents"
        raise UnreadableError(Place(file, 1), f"a file of cases is one mapping with manifests and cases, found {found}")
    piece, begin, number, raw = documents[0]
    source = _Source(piece=piece, begin=begin, number=number, file=file)
    faults = list(_find_faults(raw, source))
    bad = {fault.case for fault in faults}
    listed = raw.get("cases")
    manifests = raw.get("manifests")
    return (
        Suite(
            file=file,
            paths=tuple(
                Path(file).parent / each
                for each in (manifests if isinstance(manifests, list) else ())
                if isinstance(each, str)
            ),
            cases=tuple(
                Case(place=source.locate(f"cases[{index}]"), raw=each)
                for index, each in enumerate(listed if isinstance(listed, list) else ())
                if index not in bad
            ),
        ),
        tuple(sorted((fault.error for fault in faults), key=lambda error: error.place)),
    )


def run_suite(suite: Suite, world: World) -> Iterator[Outturn]:
    """Yield what becomes of each case, in order. Never raises."""
    for case in suite.cases:
        try:
            yield Outturn(case=case, answer=answer(read_question(case.raw, world), world))
        except AskedError as error:
            yield Outturn(case=case, fault=str(error))


def explain_miss(outturn: Outturn) -> Iterator[str]:
    """Yield why a case did not come out as expected, a line each; nothing when it did."""
    found = outturn.answer
    if outturn.is_met or found is None:
        return
    decision = found.decision
    if decision.by is not None:
        yield f"{say_source(decision.by)} lets it in"
    for missed in (*decision.missed, *found.void):
        yield f"{say_source(missed.source)}: {missed.why}"
    if decision.outcome not in LET_IN and not (decision.missed or found.void):
        whose = str(decision.server) if decision.server is not None else f"the default {decision.default}"
        yield f"{whose} has no authorization that was asked"
        for missed in found.bystanders[:_FEW]:
            yield f"{say_source(missed.source)}: {missed.why}"
    yield from found.notes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where a file's one document stands."""

    piece: Piece
    begin: int
    number: int
    file: str

    def locate(self, field: str) -> Place:
        start = self.piece.documents[self.number][1]
        place = Place(self.file, self.begin + start)
        return Manifest(raw={}, place=place, piece=self.piece, begin=self.begin, path=(self.number,)).locate(field)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """Something wrong. ``case``: in which one, ``None`` for the file as a whole."""

    error: UnreadableError
    case: int | None = None


def _find_faults(raw: Mapping[str, Any], source: _Source) -> Iterator[_Fault]:
    def fault(field: str, message: str, case: int | None = None) -> _Fault:
        return _Fault(error=UnreadableError(source.locate(field), message), case=case)

    for key in raw:
        if key not in ("manifests", "cases"):
            yield fault(key, f'there is no field "{key}"; a file of cases has manifests and cases')
    manifests, cases = raw.get("manifests"), raw.get("cases")
    if not (isinstance(manifests, list) and manifests and all(isinstance(each, str) for each in manifests)):
        yield fault("manifests", f"manifests is a list of paths, beside this file, found {word_of(manifests)}")
    if not (isinstance(cases, list) and cases):
        yield fault("cases", f"cases is a list with at least one case, found {word_of(cases)}")
        return
    for index, case in enumerate(cases):
        field = f"cases[{index}]"
        if not isinstance(case, dict):
            yield fault(field, f"a case is a mapping with from, to and expect, found {word_of(case)}", index)
            continue
        for part, message in _find_case_faults(case):
            yield fault(f"{field}.{part}" if part else field, message, index)


def _find_case_faults(case: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in case:
        if key not in _FIELDS:
            yield key, f'there is no field "{key}"; a case has {", ".join(_FIELDS)}'
    for key in _NEEDED:
        if key not in case:
            yield "", f"this case lacks {key}; write from, to and expect"
    for key in _TEXTS:
        if key in case and not (isinstance(case[key], str) and case[key]):
            yield key, f"{key} is a text, found {word_of(case[key])}"
    if isinstance(case.get("expect"), str) and case["expect"] not in EXPECTED:
        yield "expect", f'found "{case["expect"]}"; write one of {", ".join(EXPECTED)}'
    if isinstance(case.get("method"), str) and case["method"] not in METHODS:
        yield "method", f'found "{case["method"]}"; write one of {", ".join(METHODS)}'
    if not isinstance(case.get("tcp", False), bool):
        yield "tcp", f"tcp is true or false, found {word_of(case['tcp'])}"
    headers = case.get("headers", {})
    if not (isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())):
        yield "headers", f"headers is a mapping of texts (numbers in quotes), found {word_of(headers)}"
