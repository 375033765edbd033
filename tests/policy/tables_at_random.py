"""Random policies and callers in the form of the table of cases; what is expected is what the slow reference says."""

from ipaddress import ip_address

from tests.policy.reference import Installed, judge
from tests.policy.table import Expected, Row, Table, load
from tests.policy.worlds_at_random import Maker

PREFIX = "random-"


def find_table(name: str, attempts: int = 100) -> Table:
    """Return the table of that name: ``random-SEED``, or a file's."""
    return make_table(int(name.removeprefix(PREFIX)), attempts) if name.startswith(PREFIX) else load(name)


def make_table(seed: int, attempts: int) -> Table:
    maker = Maker(seed)
    objects = maker.world()
    rows: list[Row] = []
    while len(rows) < attempts:
        caller, (kind, namespace, name), port, request = maker.attempt()
        if getattr(ip_address(caller["address"]), "ipv4_mapped", None):
            continue  # no connection has such an address
        verdict = judge(objects, Installed(), caller, (kind, namespace, name), port, request)
        rows.append(
            Row(
                number=len(rows) + 1,
                namespace=namespace,
                name=name,
                port=port,
                caller=caller,
                request=request,
                expected=Expected(
                    outcome=verdict.outcome,
                    server=verdict.server,
                    default=verdict.default,
                    route=verdict.route,
                    by=verdict.by,
                ),
                text="",
            )
        )
    kinds = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): str(each["kind"])
        for each in objects
        if each["kind"] in ("Pod", "ExternalWorkload")
    }
    return Table(file=f"{PREFIX}{seed}", installed={}, objects=tuple(objects), rows=tuple(rows), workloads=kinds)
