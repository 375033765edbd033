"""``meshwright bootstrap``: what an Envoy that takes its configuration from delivery is started with."""

import argparse
import json
import sys
from pathlib import Path

from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.model.proxy import ProxySettings, read_node_id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright bootstrap``."""
    parser.add_argument(
        "proxy", metavar="NS/POD", help="the pod beside which the Envoy runs; a machine is NS/externalworkload/NAME"
    )
    parser.add_argument("--xds", required=True, metavar="HOST:PORT", help="where `meshwright xds` listens")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write; default: standard output")


def run(args: argparse.Namespace) -> int:
    """Write the bootstrap as JSON, which Envoy reads as YAML; return 0, or 2 when an argument cannot be used."""
    if (proxy := read_node_id(args.proxy)) is None:
        print(f"meshwright bootstrap: {args.proxy!r} is not NS/POD; write shop/web-7d9f", file=sys.stderr)
        return 2
    try:
        bootstrap = emit_bootstrap(proxy, args.xds, ProxySettings())
    except ValueError as error:
        print(f"meshwright bootstrap: --xds: {error}", file=sys.stderr)
        return 2
    text = json.dumps(bootstrap, sort_keys=True, indent=1) + "\n"
    if args.out is None:
        sys.stdout.write(text)
        return 0
    try:
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"meshwright bootstrap: --out: {error}", file=sys.stderr)
        return 2
    return 0
