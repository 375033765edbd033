"""How long the API server waits for the admission webhook: `meshwright webhook` as a process, over HTTPS."""

import asyncio
import base64
import os
import signal
import ssl
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from e2e.bench.sizes import Progress
from meshwright.edge.webhook import NAMESPACES, SECRETS
from meshwright.edge.webhook_certificate import make_secret
from tests.edge.apiserver import ApiServer
from tests.envoy import free_port

Json = dict[str, Any]
NAME = "meshwright-webhook.meshwright.svc"
CONTAINERS, VARIABLES, REVIEWS, WARM_UP = 4, 40, 1000, 100
CALLERS = (1, 16)
_START_SECONDS = 60


def make_pod() -> Json:
    """Return a pod as large as many are: some 20 KiB."""
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 2}
    mounts = [{"name": f"volume-{each}", "mountPath": f"/etc/volume-{each}", "readOnly": True} for each in range(6)]
    containers = [
        {
            "name": f"app-{number}",
            "image": "registry.example/team/app@sha256:" + "0" * 64,
            "ports": [{"name": "http", "containerPort": 8080 + number}],
            "env": [{"name": f"SETTING_{each}", "value": "x" * 60} for each in range(VARIABLES)],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "livenessProbe": probe,
            "readinessProbe": probe,
            "volumeMounts": mounts,
        }
        for number in range(CONTAINERS)
    ]
    metadata = {
        "generateName": "app-7d9f8c6b5-",
        "labels": {f"example.com/label-{each}": "value" for each in range(10)},
        "annotations": {"config.linkerd.io/opaque-ports": "5432", "config.linkerd.io/proxy-cpu-limit": "1"},
    }
    volumes = [{"name": f"volume-{each}", "configMap": {"name": f"settings-{each}"}} for each in range(6)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": containers, "volumes": volumes},
    }


def make_review(namespace: str) -> bytes:
    """Return what an API server posts when a pod is to be made in ``namespace``."""
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    request = {"uid": "u", "kind": kind, "operation": "CREATE", "namespace": namespace, "object": make_pod()}
    return orjson.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})


async def measure() -> Json:
    """Return milliseconds from a review to its answer, for pods that get a proxy and for pods that did not ask."""
    progress = Progress("inject")
    secret = make_secret("meshwright", NAME, (), datetime.now(UTC))
    port, metrics_port = free_port(), free_port()
    async with ApiServer() as server:
        if ("", "secrets") not in server.cluster.resources:
            server.cluster.define(SECRETS)
        server.cluster.put(SECRETS, secret)
        server.cluster.put(NAMESPACES, {"metadata": {"name": "shop", "annotations": {"linkerd.io/inject": "enabled"}}})
        server.cluster.put(NAMESPACES, {"metadata": {"name": "plain"}})
        with tempfile.TemporaryDirectory() as folder:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "meshwright.cli", "webhook", "--kubeconfig", server.kubeconfig(Path(folder))),
                *("--host", "127.0.0.1", "--port", str(port), "--metrics-port", str(metrics_port)),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            try:
                await _await_ready(process, metrics_port)
                progress(f"{REVIEWS} pods for each row")
                context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
                rows = [
                    await _measure_row(f"https://127.0.0.1:{port}/inject", context, namespace, callers)
                    for callers in CALLERS
                    for namespace in ("plain", "shop")
                ]
            finally:
                process.send_signal(signal.SIGINT)
                await process.wait()
    ratio = round(rows[1]["p50_ms"] / rows[0]["p50_ms"], 2)
    return {"rows": rows, "pod_bytes": len(orjson.dumps(make_pod())), "p50_with_proxy_to_without_ratio": ratio}


async def _await_ready(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    raise AssertionError("meshwright webhook ended")


async def _measure_row(url: str, context: ssl.SSLContext, namespace: str, callers: int) -> Json:
    body, took = make_review(namespace), list[float]()
    connector = aiohttp.TCPConnector(ssl=context, limit=callers)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def call(count: int) -> None:
            for _ in range(count):
                started = time.perf_counter()
                async with session.post(url, data=body, server_hostname=NAME) as answer:
                    response = orjson.loads(await answer.read())["response"]
                took.append((time.perf_counter() - started) * 1000)
                assert ("patch" in response) == (namespace == "shop")

        await call(WARM_UP)
        took.clear()
        started = time.perf_counter()
        await asyncio.gather(*(call(REVIEWS // callers) for _ in range(callers)))
        seconds = time.perf_counter() - started
    took.sort()
    return {
        "pods": "injected" if namespace == "shop" else "not asked",
        "callers": callers,
        "p50_ms": round(statistics.median(took), 2),
        "p99_ms": round(took[int(len(took) * 0.99)], 2),
        "per_second": round(len(took) / seconds),
    }
