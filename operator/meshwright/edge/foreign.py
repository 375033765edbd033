"""Names of workloads of another mesh: those that Linkerd's own documentation has, above all."""

import re
from collections.abc import Iterable

from meshwright.model.identity import TrustDomain

_END = re.compile(r".*?(?:^|\.)(serviceaccount\.identity\..+)")
"""What comes after the account and its namespace. Source: linkerd2 ``pkg/identity``: there follow the control plane's
namespace and the trust domain."""


def find_foreign(names: Iterable[str], trust: TrustDomain) -> list[str]:
    """Return what those of ``names`` end in that have the form of a workload's and are none of this mesh, each end
    once, sorted. They may be meant: of another cluster, or of a mesh beside this one."""
    ends = {found.group(1) for name in names if (found := _END.fullmatch(name))}
    return sorted(ends - {trust.suffix})
