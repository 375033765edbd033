"""``meshwright``: one command for every process of the mesh, and for looking at it without a cluster.

A subcommand's module is imported only when it is the one that was asked for: the tools for a folder need none of the
cluster's clients.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from meshwright import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A subcommand. ``module`` has ``add_arguments(parser)`` and ``run(args) -> exit status``."""

    module: str
    summary: str
    examples: tuple[tuple[str, str], ...]


class _Module(Protocol):
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "compile": Command(
        module="meshwright.edge.compile_command",
        summary="show what the operator would write for a folder of manifests; no cluster needed",
        examples=(
            ("meshwright compile --status examples/", "objects and statuses to stdout, problems to stderr"),
            (
                "meshwright compile examples/ --proxy shop/web-v1 --out /tmp/mesh",
                "the whole Envoy configuration of one proxy, as a file",
            ),
        ),
    ),
    "dev": Command(
        module="meshwright.edge.dev",
        summary="run a folder of manifests on a real Envoy on this machine, and follow every save",
        examples=(
            ("meshwright dev examples/", "every Service gets a URL; edit a file and save it"),
            ("meshwright dev --from mobile examples/", "the same, as clients in namespace mobile see it"),
        ),
    ),
    "operator": Command(
        module="meshwright.edge.operator",
        summary="watch a cluster, compile, write policy and statuses",
        examples=(
            ("meshwright operator", "inside a pod, or with the current kubectl context"),
            ("KUBECONFIG=./kind.yaml meshwright operator", "against another cluster"),
        ),
    ),
    "xds": Command(
        module="meshwright.edge.delivery",
        summary="deliver policy, Services and endpoints of a cluster to its Envoys",
        examples=(
            ("meshwright xds", "inside a pod, or with the current kubectl context"),
            ("KUBECONFIG=./kind.yaml meshwright xds", "against another cluster"),
        ),
    ),
    "webhook": Command(
        module="meshwright.edge.webhook",
        summary="give new pods their proxy: the admission webhook",
        examples=(
            ("meshwright webhook", "inside a pod, with the chart's settings in the environment"),
            ("KUBECONFIG=./kind.yaml meshwright webhook", "against another cluster"),
        ),
    ),
    "inject": Command(
        module="meshwright.edge.inject_command",
        summary="give the pods of manifests their proxy; no cluster needed",
        examples=(
            ("meshwright inject shop.yaml | kubectl apply -f -", "what was done with each object goes to stderr"),
            ("kubectl get deploy -o yaml | meshwright inject -", "as the webhook would do it to their pods"),
        ),
    ),
    "uninject": Command(
        module="meshwright.edge.uninject_command",
        summary="take the proxy out of manifests again",
        examples=(
            ("meshwright uninject meshed.yaml > shop.yaml", "the exact reverse of `meshwright inject`"),
            ("kubectl get deploy -o yaml | meshwright uninject - | kubectl apply -f -", "out of what is running"),
        ),
    ),
    "check": Command(
        module="meshwright.edge.check_command",
        summary="say whether meshwright can be installed, is well, and serves its proxies; and how to mend what is not",
        examples=(
            ("meshwright check --pre", "before the installation"),
            ("meshwright check --proxy -n shop", "the installation, and every proxy in namespace shop"),
        ),
    ),
    "explain": Command(
        module="meshwright.edge.explain_command",
        summary="say who may call whom, who says so, and for every other authorization why it does not",
        examples=(
            (
                "meshwright explain access --from shop/web --to shop/cart:8080 --path /cart/42",
                "in the cluster: may the pod web call this?",
            ),
            (
                "meshwright explain access -f policies/ --from 192.0.2.7 --to shop/cart:8080",
                "by manifests alone: may somebody without an identity?",
            ),
        ),
    ),
    "policy": Command(
        module="meshwright.edge.policy_command",
        summary="try policy before it is applied; have it written from what was seen",
        examples=(
            (
                "meshwright policy test policy-test.yaml",
                "a file of who is to be let in, and who is not; no cluster needed",
            ),
            ("meshwright policy generate -n shop > shop-policy.yaml", "who was seen calling, as policy in audit mode"),
        ),
    ),
    "audit": Command(
        module="meshwright.edge.audit_command",
        summary="say who was refused, or would be if audit mode were deny, and what would let them in",
        examples=(
            ("meshwright audit -n shop --since 24h", "who calls the workloads of namespace shop without leave"),
            ("meshwright audit -o json", "all of the mesh, for machines"),
        ),
    ),
    "identity": Command(
        module="meshwright.edge.identity_command",
        summary="make a trust anchor and an issuer without cert-manager, and show those of a cluster",
        examples=(
            ("meshwright identity create-anchor --out mesh-ca", "a new root of identities, as files"),
            ("meshwright identity show", "who issues, until when, and what is wrong"),
        ),
    ),
    "group": Command(
        module="meshwright.edge.group_command",
        summary="have machines outside the cluster join, and see how they are",
        examples=(
            (
                "meshwright group token create ledger -n shop",
                "a token, and the one command to run on the machine",
            ),
            ("meshwright group status", "every group and its machines: who is not ready, and why"),
        ),
    ),
    "agent": Command(
        module="meshwright.edge.agent_command",
        summary="make a machine outside the cluster part of the mesh",
        examples=(
            (
                "meshwright agent install --registrar registrar.example:15013 --ca-hash sha256:… -n shop -g ledger "
                "--token-file -",
                "as root, once; `meshwright group token create` prints it",
            ),
            ("meshwright agent status", "registered? until when? what went wrong lately?"),
        ),
    ),
    "bootstrap": Command(
        module="meshwright.edge.bootstrap_command",
        summary="show what an Envoy that is fed by `meshwright xds` is started with",
        examples=(
            ("meshwright bootstrap --xds meshwright-xds.meshwright:15010 shop/web-7d9f", "to stdout"),
            ("meshwright bootstrap --xds 10.0.0.9:15010 --out /etc/envoy/envoy.yaml shop/web-7d9f", "to a file"),
        ),
    ),
    "proxy": Command(
        module="meshwright.edge.proxy_command",
        summary="run the Envoy of a meshed pod, with a certificate that is renewed for ever",
        examples=(
            (
                "meshwright proxy --xds meshwright-xds.meshwright:15010 --signing meshwright-xds.meshwright:15012",
                "inside a pod; `meshwright inject` writes it there",
            ),
            ("kubectl logs POD -c meshwright-proxy", "why it is not ready: what it says meanwhile"),
        ),
    ),
    "certify": Command(
        module="meshwright.edge.certify_command",
        summary="get this pod a new certificate, once, and print when to come again",
        examples=(
            (
                "meshwright certify --signing meshwright-xds.meshwright:15012",
                "inside a meshed pod: why does it have no certificate?",
            ),
            (
                "kubectl exec POD -c meshwright-proxy -- meshwright certify --signing meshwright-xds.meshwright:15012",
                "the same, from your desk: a new certificate now",
            ),
        ),
    ),
    "redirect": Command(
        module="meshwright.edge.redirect_command",
        summary="turn the connections of this pod to its proxy, with iptables",
        examples=(
            ("meshwright redirect --inbound-port 4143 --outbound-port 4140 --proxy-uid 2102", "as root, in a pod"),
            ("meshwright redirect --dry-run --skip-inbound-ports 9100,3000-3010", "show the rules; needs no root"),
        ),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status; 2 is bad usage."""
    words = sys.argv[1:] if argv is None else list(argv)
    chosen = words[0] if words else ""
    try:
        if chosen not in COMMANDS:
            _make_parser().parse_args(words or ["--help"])
            return 0
        module = cast(_Module, import_module(COMMANDS[chosen].module))
        parser = _make_command_parser(chosen)
        module.add_arguments(parser)
        return module.run(parser.parse_args(words[1:]))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except BrokenPipeError:
        # Who read our output has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _make_parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="meshwright",
        description="A service-mesh control plane: Gateway API routes and Linkerd's policies on Envoy.",
        epilog="\n".join(
            (
                "commands:",
                *lines,
                "",
                *_examples(command.examples[0] for command in list(COMMANDS.values())[:2]),
                "",
                "`meshwright COMMAND --help` says more.",
            )
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"meshwright {__version__}")
    parser.add_argument("command", choices=tuple(COMMANDS), metavar="COMMAND", help="one of those below")
    return parser


def _make_command_parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    return argparse.ArgumentParser(
        prog=f"meshwright {name}",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog="\n".join(_examples(command.examples)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _examples(examples: Iterable[tuple[str, str]]) -> list[str]:

    return ["examples:", *(f"  {line}\n      {what}" for line, what in examples)]


if __name__ == "__main__":
    sys.exit(main())
