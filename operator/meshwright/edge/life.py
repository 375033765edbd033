"""kopf, in a thread and an event loop of its own: it hears of CustomResourceDefinitions that come and go.

It is not asked for anything else: no state of its own on users' objects, no finalizers, no Events, no peering. Should
it end, it is started again; nothing that is compiled depends on it.
"""

import asyncio
import itertools
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import kopf

from meshwright.edge.api_resource import CUSTOM_RESOURCE_DEFINITIONS
from meshwright.edge.client import Login

log = logging.getLogger(__name__)

FINALIZER = "meshwright.dev/never"
"""kopf removes the finalizer it is configured with from objects that no handler of ours needs it for. Its default is
the same in all operators: with that we would take other operators' finalizers away. This one nobody has."""

LOGIN_SECONDS = 1.0
"""How long kopf may take to log in before it is stopped all the same; it asks nobody for that."""

ENDING_SECONDS = 0.5
"""How long kopf's tasks may take to end by themselves once it is to stop."""

Defined = Callable[[str, str, bool], None]
"""Takes group, plural, and whether the definition is there. Called in kopf's thread."""


class Patience:
    """Waits for kopf between attempts: up to 30 s, and for ever, but none once ``is_over``. Can be iterated again and
    again."""

    def __init__(self, is_over: Callable[[], bool] = lambda: False) -> None:
        self._is_over = is_over

    def __iter__(self) -> Iterator[float]:
        for count in itertools.count():
            if self._is_over():
                return
            yield random.uniform(0.25, 0.5) * min(60.0, 2.0 ** min(count, 6))


class NoProgress(kopf.ProgressStorage):
    """Keeps nothing of handlers' progress anywhere: ours have none."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None: ...

    def purge(self, **_: Any) -> None: ...

    def touch(self, **_: Any) -> None: ...

    def clear(self, *, essence: Any) -> Any:
        return essence


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no last-seen body of objects anywhere, and makes no copy of one to compare."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None: ...


def make_settings(is_over: Callable[[], bool] = lambda: False) -> kopf.OperatorSettings:
    """Return settings under which kopf writes nothing, ever, and tries on until ``is_over``, whatever happens."""
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.server_timeout = 290
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = 500
    settings.queueing.idle_timeout = 0.1
    settings.execution.executor = ThreadPoolExecutor(1, thread_name_prefix="kopf")
    settings.networking.error_backoffs = Patience(is_over)
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.diffbase_storage = NoDiffBase()
    return settings


def make_registry(
    *, login: Callable[[], Awaitable[Login]], defined: Defined, ending: Callable[[], None] = lambda: None
) -> kopf.OperatorRegistry:
    """Return the handlers: how to log in, and what to do with a CustomResourceDefinition. ``ending`` is called when
    kopf's own tasks have ended, for whatever reason."""
    registry = kopf.OperatorRegistry()

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        ending()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        known = await login()
        return kopf.ConnectionInfo(
            server=known.server,
            ca_path=known.ca_path,
            insecure=known.skips_verification,
            token=known.token,
            certificate_path=known.certificate_path,
            private_key_path=known.key_path,
        )

    # What this returned would be written into the object's status.
    @kopf.on.event(
        CUSTOM_RESOURCE_DEFINITIONS.group,
        CUSTOM_RESOURCE_DEFINITIONS.version,
        CUSTOM_RESOURCE_DEFINITIONS.plural,
        registry=registry,
    )
    async def hear_of_definition(type: str | None, spec: kopf.Spec, **_: Any) -> None:
        names = spec.get("names") or {}
        defined(str(spec.get("group") or ""), str(names.get("plural") or ""), type != "DELETED")

    return registry


class Life:
    """Runs kopf until `stop`. ``login`` is awaited in the loop that `start` was called in; ``restarted`` is called in
    kopf's thread."""

    def __init__(
        self, *, login: Callable[[], Awaitable[Login]], defined: Defined, restarted: Callable[[], None]
    ) -> None:
        self._login = login
        self._defined = defined
        self._restarted = restarted
        self._home: asyncio.AbstractEventLoop | None = None
        self._away: asyncio.AbstractEventLoop | None = None
        self._asked: asyncio.Event | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name="kopf", daemon=True)

    def start(self) -> None:
        self._home = asyncio.get_running_loop()
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether kopf's thread runs."""
        return self._thread.is_alive()

    def stop(self, seconds: float = 5.0) -> None:
        """Ask kopf to end and wait for it, but not longer than this."""
        self._stopping.set()
        if self._away is not None and self._asked is not None:
            with suppress(RuntimeError):  # it ended by itself just now
                self._away.call_soon_threadsafe(self._asked.set)
        self._thread.join(timeout=seconds)

    def _main(self) -> None:
        waits = iter(Patience())
        while not self._stopping.is_set():
            asyncio.run(self._run())
            if not self._stopping.is_set():
                self._restarted()
                self._stopping.wait(next(waits))

    async def _run(self) -> None:
        self._away, self._asked = asyncio.get_running_loop(), asyncio.Event()
        if self._stopping.is_set():
            return
        # A flag of this loop: kopf would wait for one of the thread's kind in a worker that nothing can end. A kopf
        # that ends by itself waits 5 s for the task that looks at the flag, unless the flag is up.
        flag = asyncio.Event()
        is_in = asyncio.Event()

        async def log_in() -> Login:
            known = await self._log_in()
            is_in.set()
            return known

        operator = asyncio.create_task(
            kopf.operator(
                registry=make_registry(login=log_in, defined=self._defined, ending=flag.set),
                settings=make_settings(self._stopping.is_set),
                standalone=True,
                clusterwide=True,
                stop_flag=flag,
            )
        )
        asked = asyncio.create_task(self._asked.wait())
        await asyncio.wait((operator, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not operator.done():
            # Interrupted before it is in, kopf waits 5 s for tasks of its own that wait for that.
            with suppress(TimeoutError):
                async with asyncio.timeout(LOGIN_SECONDS):
                    await is_in.wait()
            flag.set()
            # Now and then kopf loses one of its tasks on the way, and would wait 5 s for it. The loop is ours alone.
            await asyncio.wait((operator,), timeout=ENDING_SECONDS)
            for task in asyncio.all_tasks() - {operator, asyncio.current_task()}:
                task.cancel()
            await asyncio.wait((operator,))
        if (error := operator.exception()) is not None and not self._stopping.is_set():
            log.error("kopf ended, it is started again: %r", error)

    async def _log_in(self) -> Login:
        assert self._home is not None
        home = self._home

        async def ask() -> Login:
            return await self._login()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), home))
