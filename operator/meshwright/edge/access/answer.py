"""An answer to who may call whom: all that has to do with it, as text and as JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshwright.edge.access.asked import Question, say_request
from meshwright.edge.access.world import World
from meshwright.edge.check.show import DOUBTED, FAILED, PASSED
from meshwright.edge.foreign import find_foreign
from meshwright.edge.terminal import Paint, Terminal
from meshwright.link.bystanders import find_bystanders, find_equals, find_void, why_not_governing
from meshwright.link.decide import decide, find_governed, is_http
from meshwright.link.govern import filter_policies, find_ports
from meshwright.model.inbound import GovernedPort, Source
from meshwright.model.pod import Pod
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.request import Decision, Missed, Outcome
from meshwright.model.snapshot import Broken
from meshwright.model.units import Namespace

_MOST_BYSTANDERS = 10

LET_IN = (Outcome.ALLOWED, Outcome.AUDITED)

_KINDS = {kind.word.lower(): kind.word for kind in (Kind.AUTHORIZATION_POLICY, Kind.SERVER_AUTHORIZATION)}
_PAINTS = {Outcome.ALLOWED: Paint.GREEN, Outcome.AUDITED: Paint.YELLOW}
_MARKS = {Outcome.ALLOWED: PASSED, Outcome.AUDITED: DOUBTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What becomes of a question's attempt. ``equals``: sources that let the caller in as well; ``void``: of
    authorizations that concern it and let nobody in; ``bystanders``: of those for something else. ``rivals``: Servers
    that have lost the port, with why. ``notes``: what else to know."""

    question: Question
    decision: Decision
    governed: GovernedPort
    equals: tuple[Source, ...]
    void: tuple[Missed, ...]
    bystanders: tuple[Missed, ...]
    rivals: tuple[tuple[Ref, str], ...]
    notes: tuple[str, ...]


def answer(question: Question, world: World) -> Answer:
    """Return the answer. Never raises."""
    inbound = world.govern(question.place)
    governed = find_governed(inbound, question.port)
    decision = decide(inbound, question.asker.caller, question.port, question.request)
    workload = question.place.workload
    linked = world.servers.get(decision.server) if decision.server is not None else None
    candidates = filter_policies((each.policy for each in world.servers.values()), workload)
    rivals = [
        (policy.server, why_not_governing(policy, workload, governed))
        for policy in candidates
        if policy.server != decision.server and question.port in find_ports(policy.port, workload)
    ]
    return Answer(
        question=question,
        decision=decision,
        governed=governed,
        equals=find_equals(decision, governed),
        void=find_void(decision, linked),
        bystanders=find_bystanders(decision, workload, governed, world.servers, world.objects),
        rivals=tuple(sorted(rivals)),
        notes=(*question.asker.notes, *question.notes, *_find_notes(question, governed, decision, world)),
    )


def _find_notes(question: Question, governed: GovernedPort, decision: Decision, world: World) -> Iterator[str]:
    place, workload = question.place, question.place.workload
    if question.port in workload.skipped_inbound:
        yield f"{place} skips port {question.port}: its proxy never sees it, and anybody may call it"
    elif isinstance(workload, Pod) and not (workload.is_meshed or place.is_expected):
        yield f"{place} has no proxy, and nobody else enforces this: anybody may call it"
    if question.request is not None and not is_http(governed):
        yield f"port {question.port} is opaque: a request is bytes there, and decided once for its connection"
    if decision.outcome is Outcome.REFUSED and governed.policy is not None:
        protocol = governed.policy.protocol.value
        yield f"Server {governed.policy.server.name} takes {protocol} only, and closes what is not"
    if decision.by is None and (foreign := _find_foreign(question, governed, decision, world)):
        yield (
            f"names that end in {', '.join(foreign)} are those of another mesh: here they end in "
            f"{world.config.trust.suffix} (the control plane's namespace, the trust domain); ServiceAccounts and "
            "identityRefs need no such end"
        )
    for ref, value in sorted(world.objects.items()):
        if isinstance(value, Broken) and ref.kind is Kind.SERVER and ref.namespace == workload.ref.namespace:
            yield f"{ref} cannot be read, and holds no port{_write_first(value.problems)}"
    if decision.outcome is Outcome.NOT_FOUND and governed.policy is not None:
        routes = sorted({rule.route for rule in governed.policy.rules})
        names = ", ".join(f"{route.kind.word} {route.name}" for route in routes)
        yield f"only attached routes serve: {names or 'none of them has a rule that can be used'}"


def _find_foreign(question: Question, governed: GovernedPort, decision: Decision, world: World) -> list[str]:
    """Return what names end in that look like those of a workload, and are none of this mesh, where the caller's is."""
    trust, policy = world.config.trust, governed.policy
    if policy is None or trust.read_dns(question.asker.caller.dns) is None:
        return []
    rules = [rule.authorizations for rule in policy.rules if rule.route == decision.route]
    asked = [each for some in (policy.authorizations, *rules) for each in some]
    return find_foreign([name for each in asked for name in (*each.exact, *each.suffixes)], trust)


def say_answer(found: Answer, terminal: Terminal) -> None:
    """Write the answer for people."""
    question, decision = found.question, found.decision
    mark, paint = _MARKS.get(decision.outcome, FAILED), _PAINTS.get(decision.outcome, Paint.RED)
    what = f"{question.asker.text} ({question.asker.caller.address}) to {question.place}, port {question.port}"
    head = terminal.paint(f"{mark} {decision.outcome.value}", paint, Paint.BOLD)
    terminal.say(f"{head}: {what}: {say_request(question.request)}")
    for name, text in _say_governing(found):
        terminal.say(f"    {name:<9}{text}")
    misses = (*decision.missed, *found.void)
    if misses:
        _say_section(terminal, "did not let it in" if decision.by else "do not let it in", misses, FAILED)
    if found.bystanders:
        title = f"for something else in namespace {question.place.workload.ref.namespace}"
        _say_section(terminal, title, found.bystanders[:_MOST_BYSTANDERS], "·")
        if (more := len(found.bystanders) - _MOST_BYSTANDERS) > 0:
            terminal.say(f"  · … and {more} more: -o json has them all")
    for note in found.notes:
        terminal.say(terminal.paint(f"note: {note}", Paint.DIM))


def _say_governing(found: Answer) -> Iterator[tuple[str, str]]:
    decision, policy = found.decision, found.governed.policy
    if policy is not None:
        yield (
            "server",
            f"{policy.server} (port {policy.port}, {policy.protocol.value}, accessPolicy {policy.access.value})",
        )
    else:
        yield "default", f"{decision.default}, as no Server has this port"
    for server, why in found.rivals:
        yield "", f"not {server}, {why}"
    if decision.route is not None:
        yield "route", str(decision.route)
    if decision.by is not None:
        yield "by", say_source(decision.by)
    if found.equals:
        yield "also by", ", ".join(map(say_source, found.equals))
    if decision.outcome is Outcome.DENIED and not (decision.missed or found.void):
        yield "by", "nobody: no authorization is for this"
    if decision.outcome is Outcome.AUDITED:
        yield "by", "nobody: the policy is audit, which lets in and writes down"


def _say_section(terminal: Terminal, title: str, misses: tuple[Missed, ...], mark: str) -> None:
    terminal.say(f"  {title}:")
    for missed in misses:
        terminal.say(f"  {mark} {say_source(missed.source)}: {missed.why}")


def say_source(source: Source) -> str:
    """Return what an authorization is called, as people write it."""
    kind = _KINDS.get(source.kind)
    if kind is None:
        return f"the default {source.name}" if source.name not in ("localhost", "probe") else source.name
    return f"{kind} {source.namespace}/{source.name}"


def make_report(found: Answer) -> dict[str, Any]:
    """Return the answer as JSON."""
    question, decision = found.question, found.decision
    caller, request = question.asker.caller, question.request
    server = decision.server
    return {
        "outcome": decision.outcome.value,
        "from": {"address": caller.address, "identity": caller.dns or caller.uri, "tls": caller.has_tls},
        "to": {
            "kind": question.place.word,
            "namespace": question.place.workload.ref.namespace,
            "name": question.place.workload.ref.name,
            "port": question.port,
        },
        "request": None
        if request is None
        else {"method": request.method, "path": request.path, "host": request.host, "grpc": request.is_grpc},
        "server": None if server is None else _report_ref(server),
        "default": decision.default or None,
        "route": None if decision.route is None else _report_ref(decision.route),
        "by": None if decision.by is None else _report_source(decision.by),
        "alsoBy": [_report_source(source) for source in found.equals],
        "missed": [_report_missed(missed) for missed in (*decision.missed, *found.void)],
        "others": [_report_missed(missed) for missed in found.bystanders],
        "notes": [*(f"not {server}, {why}" for server, why in found.rivals), *found.notes],
    }


def _report_ref(ref: Ref) -> dict[str, str]:
    return {"group": ref.kind.group, "kind": ref.kind.word, "namespace": Namespace(ref.namespace), "name": ref.name}


def _report_source(source: Source) -> dict[str, str]:
    return {"kind": source.kind, "namespace": source.namespace, "name": source.name}


def _report_missed(missed: Missed) -> dict[str, Any]:
    return {"authorization": _report_source(missed.source), "why": missed.why}


def _write_first(problems: tuple[Problem, ...]) -> str:
    return f": {problems[0]}" if problems else ""
