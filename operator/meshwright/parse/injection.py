"""The table of annotations that say whether and how a pod gets its proxy: on the pod, and on its namespace.

Source: linkerd2 ``pkg/k8s/labels.go`` (the keys), ``pkg/inject/inject.go`` ApplyAnnotationOverrides (the values) and
``pkg/inject/report.go`` disabledByAnnotation (who is asked first); prefixes of our own go before Linkerd's.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_network
from math import ceil
from types import MappingProxyType
from typing import Any

from meshwright.model.injection import Amounts, Injection, Mode
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Port
from meshwright.parse.access import WORDS, parse_access_policy
from meshwright.parse.known import UNSUPPORTED
from meshwright.parse.ports import find_port_faults, parse_port_list
from meshwright.parse.quantity import parse_bool, parse_grace, parse_quantity
from meshwright.parse.shape import quote, shorten

INJECT = ("meshwright.dev/inject", "linkerd.io/inject")
"""The keys that ask for a proxy; the first one counts where both stand."""

OWN, LINKERD = "config.meshwright.dev/", "config.linkerd.io/"
ALPHA, BETA = "config.alpha.linkerd.io/", "config.beta.linkerd.io/"
PREFIXES = (OWN, LINKERD, ALPHA, BETA)

_FIELD = "metadata.annotations"
_LONGEST_KEY = 100
_LINKERD_IMAGE = re.compile(r"(?:^|/)linkerd/proxy(?:$|[:@])")
_LEVELS = {"warn": "warning"} | {level: level for level in ("trace", "debug", "info", "warning", "error", "off")}

Names = Mapping[str, Port]
Faults = list[str]
Annotations = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row. ``read`` gives the value of a text, given the pod's port names; it puts what it leaves out into the
    list, and raises ValueError with what to write when it leaves out all. ``prefixes``: Linkerd's, the first one
    counts. ``is_carried``: who reads a pod later must find it there. ``is_told``: an installation's default need not
    be, as a container of the pod has it for an argument. ``is_followed``: where the installation has it so, the
    namespace's word counts as it is now, and then it is not carried. ``is_exact``: blanks around it make it wrong."""

    name: str
    read: Callable[[str, Names, Faults], Any]
    prefixes: tuple[str, ...] = (LINKERD,)
    is_carried: bool = False
    is_told: bool = False
    is_followed: bool = False
    is_exact: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Return every key it is written as, the one that wins first."""
        return (OWN + self.name, *(prefix + self.name for prefix in self.prefixes))


def _read_ports(text: str, names: Names, faults: Faults) -> Any:
    wrong = find_port_faults(text, names)
    faults += [f"{quote(each)} is no port, no range of ports and no port's name" for each in wrong]
    return parse_port_list(text, names)


def _read_subnets(text: str, _: Names, faults: Faults) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for element in filter(None, map(str.strip, text.split(","))):
        try:
            found[str(ip_network(element, strict=False))] = None
        except ValueError:
            faults.append(f"{quote(element)} is no subnet such as 10.1.0.0/16")
    return tuple(found)


def _read_amount(text: str, _: Names, __: Faults) -> str:
    parse_quantity(text)
    return text


def _read_level(text: str, _: Names, __: Faults) -> str:
    """Return Envoy's level. Linkerd's form ``warn,linkerd=info`` has a level for all and others for parts of its
    proxy: what it says of the part that is Linkerd's own counts, else the one for all."""
    found = {part.rpartition("=")[0].strip(): part.rpartition("=")[2].strip().lower() for part in text.split(",")}
    chosen = found.get("linkerd", found.get("linkerd_proxy", found.get("")))
    if chosen not in _LEVELS:
        raise ValueError(f"one of {', '.join(_LEVELS)}")
    return _LEVELS[chosen]


def _read_image(text: str, _: Names, __: Faults) -> str:
    if not text or text != "".join(text.split()):
        raise ValueError("an image's name such as registry.example/meshwright")
    if _LINKERD_IMAGE.search(text):
        raise ValueError("an image of meshwright: this is Linkerd's proxy")
    return text


def _read_version(text: str, _: Names, __: Faults) -> str:
    if not text or len(text) > 128 or not text.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise ValueError("an image's tag such as v1.2.3")
    if text.startswith(("edge-", "stable-")):
        raise ValueError("a version of meshwright: this is one of Linkerd")
    return text


def _read_access(text: str, _: Names, __: Faults) -> Any:
    if (access := parse_access_policy(text)) is None:
        raise ValueError(f"one of {WORDS}")
    return access


def _read_seconds(text: str, _: Names, __: Faults) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise ValueError("a whole number of seconds, at most 99999")
    return int(text)


def _one_of(**words: Any) -> Callable[[str, Names, Faults], Any]:
    def read(text: str, _: Names, __: Faults) -> Any:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return words[text]

    return read


def _plain(parse: Callable[[str], Any]) -> Callable[[str, Names, Faults], Any]:
    return lambda text, _, __: parse(text)


_SWITCH = _one_of(enabled=True, disabled=False)
_AMOUNTS = tuple(
    (f"proxy-{resource}-{word}", resource, word)
    for resource in ("cpu", "memory", "ephemeral-storage")
    for word in ("request", "limit")
)

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        row.name: row
        for row in (
            Setting(name="skip-inbound-ports", read=_read_ports, is_carried=True, is_told=True),
            Setting(name="skip-outbound-ports", read=_read_ports),
            Setting(name="skip-subnets", read=_read_subnets),
            Setting(name="opaque-ports", read=_read_ports, is_carried=True),
            Setting(name="default-inbound-policy", read=_read_access, is_carried=True, is_followed=True, is_exact=True),
            Setting(name="proxy-require-identity-inbound-ports", read=_read_ports, is_carried=True),
            *(Setting(name=name, read=_read_amount) for name, _, _ in _AMOUNTS),
            Setting(name="proxy-log-level", read=_read_level),
            Setting(name="proxy-log-format", read=_one_of(plain=True)),  # Envoy's own, which is text
            Setting(name="proxy-image", read=_read_image),
            Setting(name="proxy-version", read=_read_version),
            Setting(
                name="image-pull-policy",
                read=_one_of(Always="Always", IfNotPresent="IfNotPresent", Never="Never"),
            ),
            Setting(name="shutdown-grace-period", read=_plain(parse_grace)),
            Setting(name="proxy-enable-native-sidecar", read=_plain(parse_bool), prefixes=(LINKERD, BETA, ALPHA)),
            Setting(name="access-log", read=_one_of(apache="apache", json="json", none=""), is_carried=True),
            Setting(name="proxy-await", read=_SWITCH),
            Setting(name="proxy-wait-before-exit-seconds", read=_read_seconds, prefixes=(ALPHA,)),
            Setting(name="proxy-admin-shutdown", read=_one_of(enabled=True)),  # it is always there
        )
    }
)
"""Every setting that is read, by its name."""

_BY_KEY = {key: row for row in SETTINGS.values() for key in row.keys}
_NEAR = tuple(dict.fromkeys((*_BY_KEY, *(LINKERD + name for name in UNSUPPORTED))))


def parse_injection(
    template: object, namespace: object, defaults: Mapping[str, str], *, follows_namespace: bool = False
) -> Injection:
    """Return what a pod, or a pod's template, and its namespace's annotations ask for. Never raises.

    The pod's annotations go before the namespace's, and those before ``defaults``, which are texts by a setting's name.
    A value that is wrong gives a Problem and counts as not set. ``follows_namespace``: the inbound policy of pods that
    do not say is their namespace's as it is now.
    """
    metadata, spec = _part(template, "metadata"), _part(template, "spec")
    problems: list[Problem] = []
    above: list[Problem] = []
    own = _read_annotations(metadata.get("annotations"), problems)
    inherited = _read_annotations(namespace, above)
    names = read_port_names(spec)
    values: dict[str, Any] = {}
    carried: dict[str, str] = {}
    for row in SETTINGS.values():
        for key, text, found in _candidates(row, own, inherited, defaults, problems, above):
            value = _read(row, key, text, names, found)
            if value is not None and row.name not in values:
                values[row.name] = value
                is_default = found is not problems and found is not above
                is_live = row.is_followed and follows_namespace and found is not problems
                if row.is_carried and not is_live and not (row.is_told and is_default):
                    carried |= _carry(row, text, own, is_own=found is problems)
    mode, key = _read_mode(own, problems), ""
    if mode is None and (mode := _read_mode(inherited, above)) is not None:
        key = INJECT[-1]
    if key and mode is not None and mode is not Mode.DISABLED:
        carried[key] = mode.value
    problems += _find_strangers(own)
    above += _find_strangers(inherited)
    amounts = _make_amounts(values, problems)
    return Injection(
        mode=mode,
        amounts=amounts,
        cores=_count_cores(amounts),
        carried=tuple(sorted(carried.items())),
        problems=tuple(problems),
        namespace_problems=tuple(above),
        **{field: values[name] for name, field in _FIELDS.items() if name in values},
    )


_FIELDS = {
    "skip-inbound-ports": "skip_inbound",
    "skip-outbound-ports": "skip_outbound",
    "skip-subnets": "skip_subnets",
    "proxy-log-level": "log_level",
    "proxy-image": "image",
    "proxy-version": "version",
    "image-pull-policy": "pull_policy",
    "shutdown-grace-period": "grace_ms",
    "proxy-enable-native-sidecar": "is_native",
    "access-log": "access_log",
    "proxy-await": "waits_for_proxy",
    "proxy-wait-before-exit-seconds": "exit_delay_seconds",
}


def check_defaults(defaults: object) -> tuple[Mapping[str, str], tuple[Problem, ...]]:
    """Return an installation's defaults and what is wrong with them; what is wrong is left out. Never raises."""
    if not isinstance(defaults, dict):
        return {}, (Problem("", Reason.INVALID_OBJECT, f"found {quote(defaults)}; write a map of texts"),)
    problems: list[Problem] = []
    good: dict[str, str] = {}
    for name, text in defaults.items():
        row = SETTINGS.get(name)
        if row is None:
            near = get_close_matches(str(name)[:_LONGEST_KEY], SETTINGS, n=1)
            meant = near[0] if near else f"one of {', '.join(sorted(SETTINGS))}"
            problems.append(Problem(shorten(str(name)), Reason.INVALID_OBJECT, f"no such setting; write {meant}"))
            continue
        before = len(problems)
        value = _read(row, row.name, text, {}, problems, is_annotation=False)
        if value is not None and len(problems) == before:
            good[row.name] = text
    return good, tuple(problems)


def read_port_names(spec: Mapping[str, Any]) -> Names:
    """Return the numbers of a pod's named ports; of two with one name the first counts. Never raises."""
    found: dict[str, Port] = {}
    for part in ("initContainers", "containers"):
        containers = spec.get(part)
        for container in containers if isinstance(containers, list) else ():
            ports = _part({"part": container}, "part").get("ports")
            for port in ports if isinstance(ports, list) else ():
                match port:
                    case {"name": str(name), "containerPort": int(number)} if name and 1 <= number <= 65535:
                        found.setdefault(name, Port(number))
    return found


def _candidates(
    row: Setting,
    own: Annotations,
    inherited: Annotations,
    defaults: Mapping[str, str],
    problems: list[Problem],
    above: list[Problem],
) -> Iterator[tuple[str, Any, list[Problem]]]:
    for annotations, found in ((own, problems), (inherited, above)):
        for key in row.keys:
            if key in annotations:
                yield key, annotations[key], found
    if row.name in defaults:
        yield row.name, defaults[row.name], []


def _read(
    row: Setting, key: str, text: object, names: Names, problems: list[Problem], *, is_annotation: bool = True
) -> Any:
    field = f"{_FIELD}[{key}]" if is_annotation else key
    reason = Reason.INVALID_ANNOTATION if is_annotation else Reason.INVALID_OBJECT
    faults: Faults = []
    try:
        if not isinstance(text, str):
            raise ValueError("a text, in quotes")
        value = row.read(text if row.is_exact else text.strip(), names, faults)
    except ValueError as error:
        problems.append(Problem(field, reason, f"found {quote(text)}; write {error}; it counts as not set"))
        return None
    problems += [Problem(field, reason, f"{fault}; it is left out") for fault in faults]
    return value


def _read_mode(annotations: Annotations, problems: list[Problem]) -> Mode | None:
    found = None
    for key in INJECT:
        text = annotations.get(key)
        if text is None or text == "":
            continue
        if text in tuple(Mode):
            found = found or Mode(text)
            continue
        message = f"found {quote(text)}; write {', '.join(Mode)}; it counts as not set"
        problems.append(Problem(f"{_FIELD}[{key}]", Reason.INVALID_ANNOTATION, message))
    return found


def _carry(row: Setting, text: str, own: Annotations, *, is_own: bool) -> Mapping[str, str]:
    """Return what the pod shall bear, so that ``text`` counts: under Linkerd's key, unless something wrong is there."""
    ours, linkerds, *_ = row.keys
    if linkerds not in own:
        return {linkerds: text} if text else {}
    return {} if is_own or ours in own else {ours: text}


def _find_strangers(annotations: Annotations) -> Iterator[Problem]:
    for key in sorted(annotations):
        prefix, slash, name = key.partition("/")
        message = ""
        if prefix + slash in PREFIXES and key not in _BY_KEY:
            if (instead := UNSUPPORTED.get(name)) is not None:
                message = f"meshwright has no such setting; {instead}"
            else:
                # Comparing long texts is slow, and nobody misspells by a hundred letters.
                near = get_close_matches(key[:_LONGEST_KEY], _NEAR, n=1, cutoff=0.8)
                message = f"nobody reads it; write {near[0]}" if near else "nobody reads it"
        elif prefix in ("linkerd.io", "meshwright.dev") and name not in ("inject", "injected"):
            is_near = get_close_matches(name[:_LONGEST_KEY], ("inject",), n=1, cutoff=0.75)
            message = f"nobody reads it; write {prefix}/inject" if is_near else ""
        if message:
            yield Problem(f"{_FIELD}[{shorten(key)}]", Reason.INVALID_ANNOTATION, message)


def _make_amounts(values: Mapping[str, Any], problems: list[Problem]) -> Amounts:
    """Return what the proxy may use. A request above its limit, which the API server would refuse, is lowered to it."""
    found: dict[str, dict[str, str]] = {"request": {}, "limit": {}}
    for name, resource, word in _AMOUNTS:
        if name in values:
            found[word][resource] = values[name]
    for resource, limit in found["limit"].items():
        request = found["request"].get(resource)
        if request is not None and parse_quantity(request) > parse_quantity(limit):
            found["request"][resource] = limit
            message = f"the request {request} is more than the limit {limit}, which is taken for both"
            problems.append(Problem(f"{_FIELD}[{LINKERD}proxy-{resource}-request]", Reason.INVALID_ANNOTATION, message))
    return Amounts(requests=tuple(sorted(found["request"].items())), limits=tuple(sorted(found["limit"].items())))


def _count_cores(amounts: Amounts) -> int | None:
    """Return the threads for a limit, rounded up; else for a request.

    Source: linkerd2 ``pkg/inject/inject.go`` ToWholeCPUCores.
    """
    for pairs in (amounts.limits, amounts.requests):
        for resource, amount in pairs:
            if resource == "cpu":
                return min(max(1, ceil(parse_quantity(amount))), 1024)
    return None


def _read_annotations(raw: object, problems: list[Problem]) -> Annotations:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.append(Problem(_FIELD, Reason.INVALID_ANNOTATION, f"found {quote(raw)}; write a map of texts"))
        return {}
    return {key: text for key, text in raw.items() if isinstance(key, str)}


def _part(value: object, name: str) -> Mapping[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}
