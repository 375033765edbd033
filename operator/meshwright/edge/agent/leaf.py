"""Making keys and looking at certificates, in a program that ends again: ``python -m meshwright.edge.agent.leaf``.

The resident process never loads what this needs. Words go in as arguments, what is found comes out as one JSON object;
keys stay in files.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshwright.edge.agent.disk import write_durably
from meshwright.edge.certify import NotCertified, describe_period, encode_key, make_request, shake_hands
from meshwright.edge.leaf_files import Pair
from meshwright.parse.certificate import parse_certificates

_WHENCE = "of this machine"


def main(words: Sequence[str]) -> int:
    """Do one thing; return 0, or 1 with a line on standard error."""
    parser = argparse.ArgumentParser(prog="meshwright-agent-leaf")
    tasks = parser.add_subparsers(dest="task", required=True)
    request = tasks.add_parser("request", help="print a request for the key in a file, which is made when missing")
    request.add_argument("key", type=Path)
    look = tasks.add_parser("look", help="print what a certificate says, if it is good now")
    for name in ("chain", "key", "anchors"):
        look.add_argument(name, type=Path)
    look.add_argument("--prefix", required=True, help="what its one URI name must begin with")
    look.add_argument("--uri", default="", help="what its one URI name must be")
    args = parser.parse_args(words)
    try:
        found = _request(args.key) if args.task == "request" else _look(args)
    except (NotCertified, OSError) as error:
        print(error.strerror or error if isinstance(error, OSError) else error, file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


def _request(path: Path) -> dict[str, str]:
    return {"csr": make_request(_load_or_make(path))}


def _load_or_make(path: Path) -> ec.EllipticCurvePrivateKey:
    """A key that is there is used again: with the same key, an answer that was lost can be had once more."""
    if path.is_file():
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError):
            key = None
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    made = ec.generate_private_key(ec.SECP256R1())
    write_durably(path, encode_key(made))
    return made


def _look(args: argparse.Namespace) -> dict[str, object]:
    pair = Pair(number=0, chain=args.chain, key=args.key)
    certificates, problems = parse_certificates(pair.chain.read_bytes(), "certificate")
    if problems or not certificates:
        raise NotCertified(f"there is no certificate that can be read: {problems[0].message}")
    leaf = certificates[0]
    uri = leaf.uris[0] if len(leaf.uris) == 1 else ""
    if not uri.startswith(args.prefix) or (args.uri and uri != args.uri):
        raise NotCertified(
            f"the certificate is somebody else's: it names {', '.join(leaf.uris) or 'nobody'}, and this machine is "
            f"{args.uri or f'one name that begins with {args.prefix}'}"
        )
    now = datetime.now(UTC)
    if not leaf.not_before <= now < leaf.not_after:
        raise NotCertified(describe_period(leaf, now).replace("this node's", "this machine's"))
    shake_hands(pair, args.anchors, whence=_WHENCE)
    return {"uri": uri}


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1:]))
