"""Leading, holding and following, whatever becomes of the Lease."""

from dataclasses import dataclass, field

from meshwright.edge.registrar.tenure import Always, Phase, Tenure
from tests.edge.registrar.office import Grip


@dataclass(kw_only=True)
class Case:
    grip: Grip = field(default_factory=Grip)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tenure = Tenure(
            self.grip,
            begin=lambda: self.told.append("begin"),
            pause=lambda: self.told.append("pause"),
            resume=lambda: self.told.append("resume"),
            end=lambda: self.told.append("end"),
        )

    def set(self, *, held: bool, orphaned: bool = False, kept: bool = False) -> None:
        self.grip.is_held, self.grip.orphaned, self.grip.kept = held, orphaned, kept

    @property
    def answers(self) -> tuple[bool, bool]:
        return self.tenure.is_leading, self.tenure.is_holding


def make_leader() -> Case:
    case = Case()
    case.tenure.acquired()
    assert case.answers == (False, False)
    case.tenure.taken_over()
    assert (case.answers, case.told) == ((True, False), ["begin"])
    return case


def test_an_api_server_that_is_away_is_held_out_and_gone_on_from() -> None:
    case = make_leader()
    case.set(held=False, orphaned=True)
    assert case.answers == (False, True)
    case.tenure.lost()
    assert case.answers == (False, True)
    case.set(held=True, kept=True)
    assert case.answers == (False, False)
    case.tenure.acquired()
    assert (case.answers, case.told) == ((True, False), ["begin", "pause", "resume"])


def test_a_loss_that_is_over_before_it_is_told_is_held_out_too() -> None:
    case = make_leader()
    case.set(held=True, kept=True)
    case.tenure.lost()
    assert case.tenure.phase is Phase.HOLDING
    case.tenure.look()
    case.tenure.acquired()
    assert (case.answers, case.told) == ((True, False), ["begin", "pause", "resume"])


def test_another_holder_ends_it_before_anybody_looks() -> None:
    case = make_leader()
    case.set(held=False, orphaned=True)
    case.tenure.lost()
    case.set(held=False)
    assert case.answers == (False, False)
    case.tenure.look()
    assert (case.tenure.phase, case.told) == (Phase.FOLLOWING, ["begin", "pause", "end"])


def test_a_lease_that_somebody_took_is_not_held_on_to() -> None:
    case = make_leader()
    case.set(held=False)
    case.tenure.lost()
    assert (case.tenure.phase, case.told) == (Phase.FOLLOWING, ["begin", "end"])


def test_who_comes_back_after_somebody_else_begins_anew() -> None:
    case = make_leader()
    case.set(held=False, orphaned=True)
    case.tenure.lost()
    case.set(held=True)
    case.tenure.acquired()
    assert (case.tenure.phase, case.told) == (Phase.TAKING_OVER, ["begin", "pause", "end", "begin"])


def test_a_loss_before_all_is_known_ends_it() -> None:
    case = Case()
    case.tenure.acquired()
    case.set(held=False, orphaned=True)
    case.tenure.lost()
    case.tenure.taken_over()
    assert (case.tenure.phase, case.answers, case.told) == (Phase.FOLLOWING, (False, False), ["begin", "end"])


def test_a_single_replica_leads_for_ever() -> None:
    told: list[str] = []
    note = told.append
    tenure = Tenure(
        Always(),
        begin=lambda: note("begin"),
        pause=lambda: note("pause"),
        resume=lambda: note("resume"),
        end=lambda: note("end"),
    )
    tenure.acquired()
    tenure.taken_over()
    tenure.look()
    assert (tenure.is_leading, tenure.is_holding, told) == (True, False, ["begin"])
