"""The API server of the part `machines`, with a group and the machines that an earlier leader has left, all well.

Run as a module, with a file that says how many there are, and which Secrets.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from e2e.bench.fleet import GROUP, NAMESPACE, claim_of, nonce_of, source_of, uid_of
from meshwright.edge.clock import utc_now
from meshwright.edge.resources import RESOURCES
from meshwright.emit.external_workload import emit_conditions, emit_workload
from meshwright.emit.workload_plan import with_hash
from meshwright.link.enroll import hash_nonce, make_template, make_workload_name
from meshwright.model.enrollment import Health, InstanceKey
from meshwright.model.group import Group
from meshwright.model.instance import Enrolled, LeaseState, Standing, workload_ref
from meshwright.model.ref import Kind
from meshwright.model.units import Millis
from meshwright.parse.kinds import parse_object
from tests.edge.apiserver import ApiServer
from tests.edge.authority import TRUST
from tests.edge.shop import CUSTOM

Json = dict[str, Any]
LEASE_SECONDS = 35.0
_GROUP: Json = {
    "apiVersion": "workload.buoyant.io/v1alpha1",
    "kind": "ExternalGroup",
    "metadata": {"namespace": NAMESPACE, "name": GROUP, "generation": 1},
    "spec": {
        "template": {"metadata": {"labels": {"app": GROUP}}, "ports": [{"port": 8000}]},
        "probes": [{"httpGet": {"path": "/", "port": 8000}}],
    },
}
_POLICY: Json = {
    "apiVersion": "meshwright.dev/v1alpha1",
    "kind": "RegistrationPolicy",
    "metadata": {"namespace": NAMESPACE, "name": GROUP, "generation": 1},
    "spec": {
        "targetRef": {"group": "workload.buoyant.io", "kind": "ExternalGroup", "name": GROUP},
        "limits": {"instances": 10_000},
    },
}


def make_workload(group: Group, number: int, since: str) -> Json:
    """Return the ExternalWorkload that an earlier leader has left of a machine that was well."""
    key = InstanceKey(NAMESPACE, GROUP, uid_of(number))
    name = make_workload_name(NAMESPACE, GROUP, key.uid)
    enrolled = Enrolled(
        key=key,
        ref=workload_ref(key, name),
        template=make_template(group),
        agent_labels=(),
        epoch=1,
        nonce_hash=hash_nonce(nonce_of(number, 1)),
        identity=TRUST.machine_uri(NAMESPACE, GROUP, key.uid),
        server_name=TRUST.machine_dns(NAMESPACE, GROUP, name),
        ips=(claim_of(number),),
        registered_from=source_of(number),
        agent="0.1.0",
    )
    standing = Standing(
        lease=LeaseState.CURRENT,
        lease_ms=Millis(int(LEASE_SECONDS * 1000)),
        has_probe=True,
        health=Health.PASSING,
        observed=source_of(number),
    )
    conditions = [
        {
            "type": each.type,
            "status": each.status,
            "reason": each.reason,
            "message": each.message,
            "lastTransitionTime": since,
        }
        for each in emit_conditions(standing)
    ]
    return {**with_hash(emit_workload(enrolled)), "status": {"conditions": conditions}}


async def serve_api(setting: Json) -> None:
    """Be an API server with a group, its machines and tokens; say where it is; end with standard input."""
    group = parse_object(_GROUP)
    assert isinstance(group, Group)
    since = utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")
    with tempfile.TemporaryDirectory() as folder:
        async with ApiServer() as server:
            server.cluster.define(*CUSTOM)
            for name in (NAMESPACE, TRUST.control_plane):
                server.cluster.put(RESOURCES[Kind.NAMESPACE], {"metadata": {"name": name}})
            for secret in setting["secrets"]:
                server.cluster.put(RESOURCES[Kind.SECRET], secret)
            server.cluster.put(RESOURCES[Kind.EXTERNAL_GROUP], _GROUP)
            server.cluster.put(RESOURCES[Kind.REGISTRATION_POLICY], _POLICY)
            for number in range(setting["machines"]):
                server.cluster.put(
                    RESOURCES[Kind.EXTERNAL_WORKLOAD], make_workload(group, number, since), manager="meshwright"
                )
            print(server.kubeconfig(Path(folder)), flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve_api(json.loads(Path(sys.argv[1]).read_text())))
