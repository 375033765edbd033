"""``meshwright group token``: make a token to join with, list those there are, take one back.

A token is a secret of 256 bits. What is stored of it is its SHA-256: whoever reads the Secret cannot join with it.
"""

import argparse
import hashlib
import json
import re
import secrets
import shlex
import string
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network

from meshwright.edge.check.clocks import say_span
from meshwright.edge.check.inquiry import SECRETS, Inquiry
from meshwright.edge.client import ApiError, Json
from meshwright.edge.groups.joining import Hindrance, Way, find_way
from meshwright.edge.terminal import open_terminal
from meshwright.emit.join_token import emit_join_token
from meshwright.model.config import FIELD_MANAGER
from meshwright.model.group import LABEL_TOKEN, TOKEN_PREFIX, JoinToken
from meshwright.model.problem import Problem
from meshwright.model.units import Namespace
from meshwright.parse.duration import parse_millis
from meshwright.parse.join_token import MAX_USES, parse_join_token
from meshwright.parse.names import LABEL, SUBDOMAIN

DONE, NOT_DONE, USAGE = 0, 1, 2
MAX_SECONDS = 24 * 3600
SECRET_BYTES = 32
_ID_LENGTH, _ID_LETTERS = 8, string.ascii_lowercase + string.digits
_ID = re.compile(rf"[a-z0-9]{{{_ID_LENGTH}}}", re.ASCII)
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A new token, and what is kept of it. ``text`` is the secret that a machine shows."""

    text: str = field(repr=False)
    kept: JoinToken


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright group token create``."""
    parser.add_argument("group", type=_name, metavar="GROUP", help="the ExternalGroup that machines join with it")
    parser.add_argument(
        "-n", "--namespace", type=_namespace, default="default", metavar="NS", help="the group's (default: %(default)s)"
    )
    parser.add_argument(
        "--expires",
        type=_seconds,
        default="1h",
        metavar="TIME",
        help="how long it is good to join with, at most 24h (default: %(default)s)",
    )
    parser.add_argument(
        "--uses", type=_uses, default=1, metavar="N", help="how many machines may join with it (default: %(default)s)"
    )
    parser.add_argument("--cidr", type=_cidr, metavar="CIDR", help="where it may be used from, such as 192.0.2.0/24")
    parser.add_argument(
        "--registrar",
        default="",
        metavar="HOST:PORT",
        help="where machines find the registrar (default: what the cluster says of its Service)",
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("text", "token", "json"),
        default="text",
        help="text: the command to run on the machine, with the token. token: the token alone, and the command on "
        "stderr. json: everything, for programs (default: text)",
    )
    parser.add_argument("--json", dest="output", action="store_const", const="json", help="the same as -o json")


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright group token list``."""
    parser.add_argument("group", nargs="?", default="", metavar="GROUP", help="those of one group (default: all)")
    parser.add_argument("-n", "--namespace", default="", metavar="NS", help="of groups there (default: everywhere)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="(default: table)")
    parser.add_argument("--json", dest="output", action="store_const", const="json", help="the same as -o json")


def add_revoke_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright group token revoke``."""
    parser.add_argument("id", nargs="*", type=_token_id, metavar="ID", help="what a token has before its dot")
    parser.add_argument("--ended", action="store_true", help="all that nobody can join with any more")


def make_token(namespace: str, group: str, *, expires: int, uses: int, cidr: str) -> Made:
    """Return a new token; ``expires`` is in seconds since 1970."""
    id_ = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
    secret = secrets.token_urlsafe(SECRET_BYTES)
    kept = JoinToken(
        id=id_,
        secret_hash=hashlib.sha256(secret.encode()).hexdigest(),
        namespace=Namespace(namespace),
        group=group,
        expires=expires,
        uses=uses,
        cidr=cidr,
    )
    return Made(text=f"{id_}.{secret}", kept=kept)


async def create(args: argparse.Namespace, inquiry: Inquiry) -> int:
    """Make a token and write how a machine joins with it; return 0, or 1 when nobody could join with it.

    Raises:
        ConnectionError, Unreachable, NotAllowed, ApiError: the cluster does not say, or stores nothing for us.
    """
    try:
        way = await find_way(inquiry, args.namespace, args.group, registrar=args.registrar)
    except Hindrance as hindrance:
        print(f"meshwright group: {hindrance}", file=sys.stderr)
        return NOT_DONE
    home = inquiry.options.control_plane
    expires = int((await inquiry.now()).timestamp()) + args.expires
    client = await inquiry.client()
    for attempt in range(_ATTEMPTS):
        made = make_token(args.namespace, args.group, expires=expires, uses=args.uses, cidr=args.cidr or "")
        try:
            await client.create(SECRETS, emit_join_token(made.kept, Namespace(home)), manager=FIELD_MANAGER)
            break
        except ApiError as error:
            # Somebody has this id already: one in a million tokens meets one of three million.
            if error.status == 409 and attempt < _ATTEMPTS - 1:
                continue
            if error.status != 403:
                raise
            print(
                f"meshwright group: you may not create Secrets in namespace {home}, where tokens are kept: {error}; "
                f"ask: kubectl auth can-i create secrets -n {home}",
                file=sys.stderr,
            )
            return NOT_DONE
    _write(args.output, made, way, home)
    return DONE


def make_command(kept: JoinToken, way: Way, home: str) -> list[list[str]]:
    """Return the command that a machine joins by, with the token on its standard input: words, by lines."""
    return [
        ["meshwright", "agent", "install"],
        ["--registrar", way.registrar],
        *(["--ca-hash", found] for found in way.hashes),
        ["--namespace", kept.namespace, "--group", kept.group],
        ["--trust-domain", way.trust_domain, "--control-plane-namespace", home],
        ["--token-file", "-"],
    ]


def _write(output: str, made: Made, way: Way, home: str) -> None:
    kept = made.kept
    until = _date(kept.expires)
    lines = make_command(kept, way, home)
    if output == "json":
        report = {
            "token": made.text,
            "id": kept.id,
            "namespace": kept.namespace,
            "group": kept.group,
            "expires": until,
            "uses": kept.uses,
            "cidr": kept.cidr or None,
            "registrar": way.registrar,
            "caHashes": list(way.hashes),
            "trustDomain": way.trust_domain,
            "controlPlaneNamespace": home,
            "command": [word for line in lines for word in line],
            "remarks": list(way.remarks),
        }
        print(json.dumps(report, indent=2))
        return
    command = " \\\n  ".join(shlex.join(line) for line in lines)
    many = "one machine" if kept.uses == 1 else f"{kept.uses} machines"
    print(f"Token {kept.id}: {many} may join {kept.namespace}/{kept.group} with it until {until}.", file=sys.stderr)
    print("It is shown this once. Run this on the machine, as root:\n", file=sys.stderr)
    if output == "token":
        print(command, file=sys.stderr)
        print(made.text, flush=True)
    else:
        print(f"{command} <<'TOKEN'\n{made.text}\nTOKEN", flush=True)
    for remark in way.remarks:
        print(f"\n‼ {remark}", file=sys.stderr)


def state_of(token: JoinToken, now: datetime) -> str:
    """Return what may come of a token: ``usable``, ``locked``, ``expired`` or ``used up``."""
    if token.is_locked:
        return "locked"
    if token.expires <= now.timestamp():
        return "expired"
    return "usable" if len(token.redemptions) < token.uses else "used up"


async def list_tokens(inquiry: Inquiry) -> tuple[list[JoinToken], dict[str, Problem]]:
    """Return the tokens that are kept, by namespace, group and id, and why others cannot be read, by their Secret.

    Raises:
        ConnectionError, Unreachable, NotAllowed, ApiError: the cluster does not say.
    """
    raws = await inquiry.list_all(SECRETS, inquiry.options.control_plane, f"{LABEL_TOKEN}=true")
    found: list[JoinToken] = []
    broken: dict[str, Problem] = {}
    for raw in raws:
        match parse_join_token(raw):
            case JoinToken() as token:
                found.append(token)
            case Problem() as problem:
                broken[raw["metadata"]["name"]] = problem
    return sorted(found, key=lambda token: (token.namespace, token.group, token.id)), broken


async def show_list(args: argparse.Namespace, inquiry: Inquiry) -> int:
    """Write the tokens that there are; return 0. Never what is kept of their secrets."""
    now = await inquiry.now()
    tokens, broken = await list_tokens(inquiry)
    found = [token for token in tokens if args.group in ("", token.group) and args.namespace in ("", token.namespace)]
    if args.output == "json":
        print(json.dumps({"tokens": [_as_json(token, now) for token in found]}, indent=2))
    elif not found:
        print("there is no token", file=sys.stderr)
    else:
        open_terminal().table([_HEAD, *(_row(token, now) for token in found)], indent="")
    for name, problem in sorted(broken.items()):
        print(f"‼ nobody can join with Secret {name}: {problem}", file=sys.stderr)
    return DONE


_HEAD = ("id", "namespace", "group", "state", "expires", "uses", "from", "machines")


def _row(token: JoinToken, now: datetime) -> tuple[str, ...]:
    left = datetime.fromtimestamp(token.expires, UTC) - now
    span = say_span(left)
    return (
        token.id,
        token.namespace,
        token.group,
        state_of(token, now),
        f"in {span}" if left.total_seconds() > 0 else f"{span} ago",
        f"{len(token.redemptions)} of {token.uses}",
        token.cidr or "anywhere",
        ", ".join(each.uid for each in token.redemptions) or "-",
    )


def _as_json(token: JoinToken, now: datetime) -> Json:
    return {
        "id": token.id,
        "namespace": token.namespace,
        "group": token.group,
        "state": state_of(token, now),
        "expires": _date(token.expires),
        "uses": token.uses,
        "cidr": token.cidr or None,
        "redemptions": [{"uid": each.uid, "at": _date(each.at)} for each in token.redemptions],
    }


async def revoke(args: argparse.Namespace, inquiry: Inquiry) -> int:
    """Delete tokens; return 0, 1 when one of them is not there, 2 when none is named. Machines that have joined stay.

    Raises:
        ConnectionError, Unreachable, NotAllowed, ApiError: the cluster does not say, or lets us delete nothing.
    """
    if not args.id and not args.ended:
        print("meshwright group: write which tokens, by their id, or --ended", file=sys.stderr)
        return USAGE
    known, _ = await list_tokens(inquiry)
    now = await inquiry.now()
    wanted: Iterable[str] = args.id
    if args.ended:
        wanted = sorted({*args.id, *(token.id for token in known if state_of(token, now) != "usable")})
    client = await inquiry.client()
    status = DONE
    for id_ in wanted:
        try:
            if id_ not in {token.id for token in known}:
                raise ApiError(404, "NotFound", {})
            await client.delete(SECRETS, inquiry.options.control_plane, f"{TOKEN_PREFIX}{id_}")
            print(f"token {id_} is revoked")
        except ApiError as error:
            if error.status != 404:
                raise
            print(f"meshwright group: there is no token {id_}", file=sys.stderr)
            status = NOT_DONE
    return status


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(text: str) -> str:
    if not SUBDOMAIN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no name of an object: lower case, digits, dashes and dots")
    return text


def _namespace(text: str) -> str:
    if not LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no namespace's name: lower case, digits and dashes")
    return text


def _seconds(text: str) -> int:
    try:
        seconds = parse_millis(text) // 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write {error}") from error
    if not 60 <= seconds <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"'{text}': write 1m to 24h")
    return seconds


def _uses(text: str) -> int:
    uses = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_USES)) else 0
    if not 1 <= uses <= MAX_USES:
        raise argparse.ArgumentTypeError(f"'{text}': write 1 to {MAX_USES}")
    return uses


def _cidr(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no network; write one such as 192.0.2.0/24") from None


def _token_id(text: str) -> str:
    # What was given may be a whole token: it is not repeated.
    if not _ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"write the {_ID_LENGTH} characters that the token has before its dot")
    return text
