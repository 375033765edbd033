"""``meshwright inject``: manifests with proxies in their pods, as the webhook would make them, without a cluster."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from meshwright.edge.injection import inject_object
from meshwright.edge.injection_flags import SettingsError, add_injection_flags, read_injection_settings
from meshwright.edge.manifests import Manifest, Reading, UnreadableError, list_files, read_files
from meshwright.edge.terminal import Paint, Terminal, open_terminal
from meshwright.model.desired import Json
from meshwright.model.injection import InjectionSettings, Mode, Skip, find_template, read_path
from meshwright.model.units import Namespace
from meshwright.parse.injection import parse_injection

DONE, REFUSED, UNREADABLE = 0, 1, 2
_QUIET = (Skip.DISABLED, Skip.ALREADY_INJECTED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright inject``."""
    add_file_arguments(parser)
    parser.add_argument("--ingress", action="store_true", help="as ingress controllers need it, where nothing is said")
    parser.add_argument("--manual", action="store_true", help="what this always does; Linkerd's flag, tolerated")
    add_injection_flags(parser)
    parser.add_argument_group(
        "as the webhook of an installation does it",
        "Give it the webhook's --image, --defaults and --excluded-namespaces: kubectl -n meshwright get deployment\n"
        "meshwright-webhook -o yaml. The chart keeps the defaults in ConfigMap meshwright-proxy-defaults.",
    )
    parser.add_argument_group(
        "exit status",
        "0: done. 1: a pod with the annotation cannot have a proxy, or an annotation is wrong.\n"
        "2: something could not be read and nothing was written, or bad usage.",
    )


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `inject` and `uninject` share."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="FILE", help="files and folders of YAML or JSON; - is stdin"
    )
    parser.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="(default: yaml)")
    parser.add_argument(
        "-n", "--default-namespace", default="default", help="of objects that name none (default: default)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the objects to stdout and what was done with each to stderr; return 0, 1 or 2."""
    terminal = open_terminal(sys.stderr)
    try:
        settings = read_injection_settings(args)
    except SettingsError as error:
        terminal.say(f"{terminal.paint('error:', Paint.RED)} {error}")
        return UNREADABLE
    manifests = read_manifests(args.paths, terminal)
    if manifests is None:
        return UNREADABLE
    asked = Mode.INGRESS if args.ingress else Mode.ENABLED
    outcomes = inject_all(manifests, settings, Namespace(args.default_namespace), asked)
    write_objects((outcome.manifest for outcome in outcomes), args.output, sys.stdout)
    _report(outcomes, terminal)
    return REFUSED if any(outcome.is_refused for outcome in outcomes) else DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one object. ``word``: ``injected``, ``skipped``, or ``""`` for one that makes no pods.

    ``is_refused``: its author asked for something that it did not get.
    """

    name: str
    manifest: Json
    word: str
    message: str = ""
    warnings: tuple[str, ...] = ()
    is_refused: bool = False


def inject_all(
    manifests: Iterable[Manifest], settings: InjectionSettings, default: Namespace, asked: Mode | None
) -> list[Outcome]:
    """Return what became of each object, in order. Namespaces among them count as those of their objects."""
    objects = [manifest.raw for manifest in manifests]
    above = {
        str(read_path(raw, ("metadata", "name"))): read_path(raw, ("metadata", "annotations")) or {}
        for raw in objects
        if raw["kind"] == "Namespace" and raw["apiVersion"] == "v1"
    }
    return [_inject_one(raw, above, settings, default, asked) for raw in objects]


def _inject_one(
    raw: Json, above: Mapping[str, Any], settings: InjectionSettings, default: Namespace, asked: Mode | None
) -> Outcome:
    path = find_template(raw)
    if path is None:
        return Outcome(name=name_object(raw), manifest=raw, word="")
    namespace = Namespace(str(read_path(raw, ("metadata", "namespace")) or default))
    annotations = above.get(namespace, {})
    result = inject_object(raw, annotations, settings, namespace=namespace, asked=asked)
    has_asked = parse_injection(read_path(raw, path), annotations, {}).mode is not None
    is_refused = bool(result.warnings) or (has_asked and result.skip not in (None, *_QUIET))
    return Outcome(
        name=name_object(raw),
        manifest=result.manifest,
        word="injected" if result.skip is None else "skipped",
        message=result.message,
        warnings=result.warnings,
        is_refused=is_refused or result.skip is Skip.UNREADABLE,
    )


def name_object(raw: Json) -> str:
    """Return what people call an object: ``deployment/web``."""
    name = read_path(raw, ("metadata", "name")) or read_path(raw, ("metadata", "generateName")) or "?"
    return f"{str(raw['kind']).lower()}/{name}"


def _report(outcomes: Iterable[Outcome], terminal: Terminal) -> None:
    untouched: Counter[str] = Counter()
    for outcome in outcomes:
        if not outcome.word:
            untouched[outcome.name.partition("/")[0]] += 1
            continue
        paint = Paint.GREEN if outcome.word == "injected" else Paint.YELLOW
        reason = f": {outcome.message}" if outcome.message else ""
        terminal.say(f"{outcome.name} {terminal.paint(outcome.word, paint)}{reason}")
        for warning in outcome.warnings:
            terminal.say(f"{outcome.name} {terminal.paint('warning:', Paint.YELLOW)} {warning}")
    report_untouched(untouched, terminal)


def report_untouched(untouched: Mapping[str, int], terminal: Terminal) -> None:
    """Say in one line which objects passed as they are."""
    if untouched:
        words = ", ".join(f"{count} {kind}" for kind, count in sorted(untouched.items()))
        terminal.say(terminal.paint(f"as they were: {words}", Paint.DIM))


def read_manifests(paths: Iterable[Path], terminal: Terminal) -> tuple[Manifest, ...] | None:
    """Return all objects in order; ``None``, and a line for each fault, when any of it cannot be read.

    Half of a stream must not go on to kubectl.
    """
    try:
        reading = read_files(list_files(paths), sys.stdin)
    except UnreadableError as error:
        reading = Reading(unreadable=(error,))
    for fault in reading.unreadable:
        place = str(fault.place) if fault.place.line else fault.place.file
        terminal.say(f"{terminal.paint(f'{place}:', Paint.RED)} {fault.message}")
    for place_ in reading.skipped:
        terminal.say(f"{terminal.paint(f'{place_}:', Paint.RED)} this document is no Kubernetes object")
    return None if reading.unreadable or reading.skipped else reading.manifests


# ---- writing


class _Dumper(yaml.CSafeDumper if hasattr(yaml, "CSafeDumper") else yaml.SafeDumper):  # type: ignore[misc]
    """Quotes every text that some reader of YAML takes for something else: Go's takes ``1e3`` for a number."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_DOUBTFUL = re.compile(
    r"(?:[-+]?\.?[0-9][-+.:_0-9a-fxot]*|[-+]?\.(?:inf|nan)|[~=]|<<|y|n|yes|no|on|off|true|false|null)", re.IGNORECASE
)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else "'" if _DOUBTFUL.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write_objects(objects: Iterable[Json], output: str, out: TextIO) -> None:
    """Write objects as YAML documents, or as JSON: one as it is, several as a List."""
    items = list(objects)
    if output == "yaml":
        yaml.dump_all(
            items, out, Dumper=_Dumper, explicit_start=True, sort_keys=False, width=2**31 - 1, allow_unicode=True
        )
    else:
        whole = items[0] if len(items) == 1 else {"apiVersion": "v1", "kind": "List", "items": items}
        json.dump(whole, out, indent=2, ensure_ascii=False)
        out.write("\n")
    out.flush()
