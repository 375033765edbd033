"""What an installation decides about proxies, from flags, the environment and a file."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from meshwright import __version__
from meshwright.edge.flags import add_switch, make_add
from meshwright.edge.policy_flags import add_follows_namespace
from meshwright.model.identity import TrustDomain
from meshwright.model.injection import InjectionSettings
from meshwright.model.units import Namespace
from meshwright.parse.injection import check_defaults

_EXCLUDED = "kube-system,kube-public,kube-node-lease"


class SettingsError(Exception):
    """The flags, or the file they name, cannot be used. The message has a line for each fault."""


def add_injection_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a pod's proxy is made; each can be set as ``MESHWRIGHT_<FLAG>``."""
    add = make_add(parser)
    add("--namespace", "meshwright", "the control plane's own namespace")
    add("--trust-domain", "cluster.local", "the root that identities hang from")
    add("--image", f"meshwright:{__version__}", "the image of the proxy, with its tag or digest")
    add("--xds", "", "HOST:PORT where proxies get their configuration; none: meshwright-xds.NAMESPACE:15010")
    add("--signing", "", "HOST:PORT where they get their certificates; none: meshwright-xds.NAMESPACE:15012")
    add("--defaults", "", "file of JSON: texts by an annotation's name without its prefix, for pods that say nothing")
    add("--excluded-namespaces", _EXCLUDED, "namespaces where no pod gets a proxy, with commas")
    add("--redirect-mode", "auto", "which iptables the pods' nodes have", choices=("auto", "nft", "legacy"))
    add_follows_namespace(parser)
    add_switch(
        parser,
        "--scrape-annotations",
        "pods get annotations by which Prometheus finds their proxies' metrics, unless they have prometheus.io/* "
        "of their own",
    )


def read_injection_settings(args: argparse.Namespace) -> InjectionSettings:
    """Return what the flags say.

    Raises:
        SettingsError: the file of defaults cannot be used.
    """
    namespace = Namespace(args.namespace)
    return InjectionSettings(
        trust=TrustDomain(name=args.trust_domain, control_plane=namespace),
        image=args.image,
        version=__version__,
        xds=args.xds or f"meshwright-xds.{namespace}:15010",
        signing=args.signing or f"meshwright-xds.{namespace}:15012",
        defaults=_read_defaults(Path(args.defaults)) if args.defaults else {},
        excluded=tuple(Namespace(name.strip()) for name in args.excluded_namespaces.split(",") if name.strip()),
        redirect_mode=args.redirect_mode,
        follows_namespace=args.default_inbound_follows_namespace,
        has_scrape_annotations=args.scrape_annotations,
    )


def _read_defaults(file: Path) -> Mapping[str, str]:
    try:
        raw = json.loads(file.read_bytes())
    except OSError as error:
        raise SettingsError(f"--defaults {file}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"--defaults {file}: this is not JSON: {error}") from error
    defaults, problems = check_defaults(raw)
    if problems:
        raise SettingsError("\n".join(f"--defaults {file}: {problem}" for problem in problems))
    return defaults
