"""Three machines that have joined one group, for the tests of machines outside the cluster."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.agents import Agent, apply_group, make_token, ready_addresses, remove_group
from e2e.kube import Json, Kube
from e2e.machines import Machine, mend_network
from e2e.mesh import Mesh

GROUP = "ledger"
NUMBERS = (11, 12, 13)
LEASE = 3
"""Seconds, as the group's policy says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """``token``: what ``group token create`` said; every machine joined with it."""

    kube: Kube
    mesh: Mesh
    agents: tuple[Agent, ...]
    token: Json
    folder: Path

    def wait_ready(self) -> None:
        """Return once the cluster sends requests to each of them."""
        wanted = {agent.machine.ip for agent in self.agents}
        if not wanted <= ready_addresses(self.kube, GROUP):
            for agent in self.agents:
                agent.wait_ready()

    @contextmanager
    def another(self, name: str, number: int, group: str) -> Iterator[Agent]:
        """Have one machine more for the time of the block: switched on, its application running, no agent yet."""
        machine = Machine(name, number, self.folder / name)
        try:
            machine.boot()
            machine.start_app()
            yield Agent(kube=self.kube, machine=machine, group=group)
        finally:
            machine.remove()


@contextmanager
def run_fleet(kube: Kube, mesh: Mesh) -> Iterator[Fleet]:
    """Have the machines for the time of the block. They are not waited for."""
    with ExitStack() as stack:
        folder = Path(tempfile.gettempdir()) / "mw-machines"
        shutil.rmtree(folder, ignore_errors=True)  # of tests that were killed
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        mend_network()
        apply_group(kube, GROUP)
        stack.callback(remove_group, kube, GROUP)
        token = make_token(mesh, GROUP, "--uses", str(len(NUMBERS) + 3))
        agents = []
        for number in NUMBERS:
            machine = Machine(f"vm-{number}", number, folder / f"vm-{number}")
            stack.callback(machine.remove)
            machine.boot()
            machine.start_app()
            agents.append(agent := Agent(kube=kube, machine=machine, group=GROUP))
            agent.install(token["command"], token["token"])
            agent.start()
        stack.callback(mend_network)
        yield Fleet(kube=kube, mesh=mesh, agents=tuple(agents), token=token, folder=folder)
