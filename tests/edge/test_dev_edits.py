"""Files edited one after another under a running mesh, compared with a mesh that starts with what they hold then."""

import random
import re
from pathlib import Path

import orjson
import pytest

from meshwright.edge.dev import Shelf
from meshwright.edge.folder import Folder
from meshwright.edge.local_mesh import LocalMesh, LocalOptions, Reach, open_mesh
from meshwright.edge.protobuf import TypeUrl
from meshwright.model.units import Namespace

SHOP = Namespace("shop")
FILES = ("a.yaml", "b.yaml", "deep/c.yaml")


def some_object(chance: random.Random) -> str:
    name, other = chance.choice(("web", "blue")), chance.choice(("web", "blue", "gone"))
    return chance.choice(
        (
            f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {other}}},"
            f" ports: [{{port: {chance.choice((8080, 9090))}}}]}}}}",
            f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: 10.96.0.7,"
            " ports: [{port: 8080}]}}",
            f"{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}, annotations:"
            f" {{dev.meshwright.dev/{chance.choice(('text', 'delay'))}: 1ms}}}}, spec: {{replicas: "
            f"{chance.randrange(3)}, template: {{metadata: {{labels: {{app: {other}}}}}}}}}}}",
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: "
            f"{other}}}, spec: {{parentRefs: [{{group: '', kind: Service, name: {name}}}],"
            f" rules: [{{backendRefs: [{{name: {other}, port: 8080}}]}}]}}}}",
            f"{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, annotations:"
            f" {{config.linkerd.io/opaque-ports: '{chance.choice(('9090', 'x'))}'}}}}}}",
            f"{{apiVersion: workload.linkerd.io/v1beta1, kind: ExternalWorkload, metadata: {{name: {name}, labels:"
            f" {{app: {other}}}}}, spec: {{workloadIPs: [{{ip: 192.0.2.1}}], ports: [{{port: 8080}}],"
            " meshTLS: {identity: spiffe://root/a, serverName: a.b}}}",
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-own, labels:"
            f" {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{port: 8080}}],"
            " endpoints: [{addresses: [127.0.0.1]}]}",
        )
    )


def edit(folder: Path, chance: random.Random) -> None:
    file = folder / chance.choice(FILES)
    if file.exists() and chance.random() < 0.2:
        file.unlink()
        return
    file.parent.mkdir(exist_ok=True)
    texts = [some_object(chance) for _ in range(chance.randrange(1, 6))]
    file.write_text("".join(f"---\n{text}\n" for text in texts) + chance.choice(("", "", "", "a: b: c\n")))


def describe(mesh: LocalMesh) -> dict[str, object]:
    """Return all that a mesh has come to, without what is given out anew at every start."""
    delivery = mesh.delivery
    names = {
        TypeUrl.LISTENER: delivery.names(TypeUrl.LISTENER),
        TypeUrl.SCOPE: delivery.names(TypeUrl.SCOPE),
        **{kind: list(map(str, mesh.frontends)) for kind in (TypeUrl.ENDPOINTS, TypeUrl.ROUTES, TypeUrl.CLUSTER)},
    }
    made = {
        f"{kind.word} {name}": delivery.make(kind, name, delivery.variant(kind, name, mesh.options.proxy))
        for kind, those in names.items()
        for name in those
    }
    found = {
        "made": made,
        "problems": {str(ref): sorted(map(str, problems)) for ref, problems in mesh.problems.items()},
        "of workloads": sorted(f"{manifest.place} {problem}" for manifest, problem in mesh.workload_problems),
        "statuses": {str(ref): str(status) for ref, status in mesh.statuses.items()},
        "frontends": {str(name): str(each.destination) for name, each in mesh.frontends.items()},
        "stand-ins": {str(endpoint): str(how) for endpoint, how in mesh.stand_ins.items()},
    }
    # Which addresses of 127.0.0.0/8 a mesh has depends on who else is running.
    text = re.sub(r"127\.\d+\.(\d+\.\d+)", r"127.*.\1", orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode())
    whole: dict[str, object] = orjson.loads(text)
    return whole


def write_what_counts(root: Path, folder: Folder) -> None:
    """Put what a broken file held before, and holds for us, in its place: a fresh start cannot know it."""
    for error in folder.unreadable:
        file = Path(error.place.file)
        if file != root:
            file.write_text("".join(f"---\n{orjson.dumps(each.raw).decode()}\n" for each in folder.held(file)))


async def start(folder: Folder, mesh: LocalMesh) -> Shelf:
    shelf = Shelf(folder, SHOP)
    await mesh.apply(*shelf.take())
    return shelf


@pytest.mark.parametrize("seed", range(4))
async def test_after_any_edits_it_is_as_if_just_started(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    edit(tmp_path, chance)
    folder = Folder([tmp_path])
    folder.look()
    async with open_mesh(LocalOptions(client=SHOP)) as mesh:
        shelf = await start(folder, mesh)
        for number in range(12):
            edit(tmp_path, chance)
            shelf.put(folder.look())
            change = await mesh.apply(*shelf.take())
            assert change.reach is not Reach.LATE, number
        edited = describe(mesh)
    write_what_counts(tmp_path, folder)
    fresh_folder = Folder([tmp_path])
    fresh_folder.look()
    async with open_mesh(LocalOptions(client=SHOP)) as mesh:
        await start(fresh_folder, mesh)
        fresh = describe(mesh)

    assert edited == fresh
