"""``meshwright certify``: one certificate for the pod this runs in, and when to come again.

It starts, asks, writes and ends: between two renewals no process of ours is in the pod but a shell that sleeps.
"""

import argparse
import random
import sys
from datetime import UTC, datetime

from meshwright.edge.certify import NotCertified, certify, find_valid_leaf
from meshwright.edge.host_port import split_address
from meshwright.edge.leaf_files import LeafFolder
from meshwright.edge.renewal import seconds_to_renewal, seconds_to_retry
from meshwright.model.identity import Certificate, TrustDomain
from meshwright.model.proxy import ProxySettings
from meshwright.model.units import Namespace

_DEFAULTS = ProxySettings()
_DRAW = random.SystemRandom().random


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright certify``."""
    add_identity_arguments(parser)
    parser.add_argument(
        "--attempt",
        type=int,
        default=1,
        metavar="N",
        help="how often it was tried in a row, this time included: the more, the longer it waits after a failure "
        "(default: 1)",
    )
    parser.epilog = f"""\
{parser.epilog or ""}

Makes an ECDSA P-256 key, has `meshwright xds` sign a certificate for it, looks whether the answer is this pod's,
fits the key, is valid now and hangs from the trust anchors, and lets it count. Envoy takes it within 5 s.

files:
  {_DEFAULTS.secrets_folder}/token           who this pod is: a projected token, audience meshwright
  {_DEFAULTS.secrets_folder}/ca-bundle.crt   the trust anchors
  {_DEFAULTS.identity_folder}/tls-N.key, tls-N.crt    key and chain; the key never leaves this folder
  {_DEFAULTS.identity_folder}/identity.json           which N counts; written last

Prints one number, the seconds to wait until the next run: to the renewal (two thirds of the certificate's life), or,
when it failed, to the next attempt. A failure is one line on standard error.

exit status: 0 a new certificate counts; 1 nothing has changed; 2 bad usage"""


def add_identity_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say who signs, and where files are."""
    parser.add_argument(
        "--signing", required=True, metavar="HOST:PORT", help="where `meshwright xds` signs certificates"
    )
    parser.add_argument(
        "--trust-domain",
        default=TrustDomain().name,
        metavar="NAME",
        help="the mesh's trust domain (default: %(default)s)",
    )
    parser.add_argument(
        "--control-plane-namespace",
        default=TrustDomain().control_plane,
        metavar="NS",
        help="the namespace of `meshwright xds` (default: %(default)s)",
    )
    parser.add_argument(
        "--identity-folder",
        default=_DEFAULTS.identity_folder,
        metavar="DIR",
        help="where key and certificate are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--secrets-folder",
        default=_DEFAULTS.secrets_folder,
        metavar="DIR",
        help="where token and trust anchors are (default: %(default)s)",
    )


def read_settings(args: argparse.Namespace) -> ProxySettings:
    """Return what `add_identity_arguments` was given."""
    return ProxySettings(
        trust=TrustDomain(name=args.trust_domain, control_plane=Namespace(args.control_plane_namespace)),
        identity_folder=args.identity_folder.rstrip("/"),
        secrets_folder=args.secrets_folder.rstrip("/"),
    )


def run(args: argparse.Namespace) -> int:
    """Get a certificate once; return 0, 1 when there is none, or 2 when an argument cannot be used."""
    try:
        signing = split_address(args.signing)
    except ValueError as error:
        print(f"meshwright certify: --signing: {error}", file=sys.stderr)
        return 2
    settings = read_settings(args)
    leaf, seconds = try_once(settings, signing, attempt=args.attempt, program="meshwright certify")
    print(f"{seconds:.1f}")
    return 0 if leaf else 1


def try_once(
    settings: ProxySettings, signing: tuple[str, int], *, attempt: int, program: str
) -> tuple[Certificate | None, float]:
    """Return the new certificate, ``None`` when there is none, and the seconds to wait; say why on standard error."""
    assert settings.trust is not None
    folder = LeafFolder(settings)
    try:
        leaf = certify(folder, signing, settings.trust)
    except (NotCertified, OSError) as error:
        now = datetime.now(UTC)
        old = find_valid_leaf(folder, settings.trust, now)
        seconds = seconds_to_retry(attempt, None if old is None else old.not_after - now, _DRAW())
        if isinstance(error, NotCertified) and error.retry_after is not None:
            seconds = max(seconds, min(error.retry_after, 60.0))
        print(f"{program}: {error}; {_describe_state(old, now)}, next attempt in {seconds:.0f} s", file=sys.stderr)
        return None, seconds
    return leaf, seconds_to_renewal(leaf.not_before, leaf.not_after, datetime.now(UTC), _DRAW())


def find_usable(settings: ProxySettings) -> tuple[Certificate | None, float]:
    """Return the certificate in place that can be used now, ``None`` without one, and the seconds to its renewal."""
    assert settings.trust is not None
    now = datetime.now(UTC)
    leaf = find_valid_leaf(LeafFolder(settings), settings.trust, now)
    return leaf, 0.0 if leaf is None else seconds_to_renewal(leaf.not_before, leaf.not_after, now, _DRAW())


def _describe_state(old: Certificate | None, now: datetime) -> str:
    if old is None:
        return "there is no valid certificate in place"
    minutes = int((old.not_after - now).total_seconds()) // 60
    return f"the certificate in place is good for {minutes // 60} h {minutes % 60} min"
