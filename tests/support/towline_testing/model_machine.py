"""Hypothesis drives the model: which faults come when, in the smallest example that breaks an invariant.

In `EverythingMachine` all that can happen does. The other mixes are for what shows only if several things
fall together: a lease that is trusted for too long, or a run that is stopped before it begins.
"""

from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from towline_testing.model_conditions import SLOW_IMAGES, TIGHT
from towline_testing.model_world import Model

_MOMENTS = st.sampled_from((0.01, 0.5, 3.0, 20.0, 60.0))
_WHO = st.integers(0, 2)
_SEEDS = st.integers(0, 2**32 - 1)
_SPANS = st.sampled_from((1.0, 20.0, 100.0, 200.0))
_OUTAGES = st.sampled_from((60.0, 100.0, 200.0))
_SOON = st.sampled_from((0.5, 3.0, 10.0))
_WAITS = st.sampled_from((3.0, 20.0, 60.0))


class _Machine(RuleBasedStateMachine):
    """Has a model; time passes after every rule, and all is well in the end."""

    steps: ClassVar[int] = 0
    """Virtual events that all examples of the class have carried out."""
    examples: ClassVar[int] = 0
    model: Model

    def _begin(self, model: Model) -> None:
        self.model = model
        self.whole = True

    def _then(self, seconds: float) -> None:
        self.whole = False
        self.model.let(seconds)
        self.model.check()
        self.whole = True

    def teardown(self) -> None:
        """End all faults: what is left must end, and nothing may be left then."""
        if not hasattr(self, "model"):
            return
        if self.whole:
            self.model.heal_and_check()
        cls = type(self)
        cls.steps += self.model.timeline.steps
        cls.examples += 1


class EverythingMachine(_Machine):
    """What may happen to the protocol, one rule for each."""

    @initialize(seed=_SEEDS, agents=st.integers(2, 3))
    def begin(self, seed: int, agents: int) -> None:
        self._begin(Model(seed, agents))

    @rule(
        queue=st.integers(0, 1),
        gpus=_WHO,
        priority=st.integers(0, 1),
        limits=st.integers(0, 14),
        due=st.booleans(),
        then=_MOMENTS,
    )
    def submit(self, then: float, **run: Any) -> None:
        self.model.submit(**run)
        self._then(then)

    @rule(queue=st.integers(0, 1), limits=st.integers(0, 14), then=_MOMENTS)
    def submit_plain(self, queue: int, limits: int, then: float) -> None:
        self.model.submit(queue=queue, gpus=0, priority=0, limits=limits)
        self._then(then)

    @rule(number=st.integers(0, 9), preempt=st.booleans(), then=_MOMENTS)
    def stop(self, number: int, preempt: bool, then: float) -> None:
        (self.model.preempt if preempt else self.model.cancel)(number)
        self._then(then)

    @rule(who=_WHO, deadline=st.sampled_from((None, 5.0, 60.0)), then=_MOMENTS)
    def drain(self, who: int, deadline: float | None, then: float) -> None:
        self.model.drain(who, deadline)
        self._then(then)

    @rule(easy=st.booleans(), then=_MOMENTS)
    def set_policies(self, easy: bool, then: float) -> None:
        self.model.set_policies(easy=easy)
        self._then(then)

    @rule(who=_WHO, then=_MOMENTS)
    def upgrade(self, who: int, then: float) -> None:
        self.model.upgrade(who)
        self._then(then)

    @rule(who=_WHO, fuse=st.integers(0, 12), then=_MOMENTS)
    def crash_agent(self, who: int, fuse: int, then: float) -> None:
        self.model.crash_agent(who, fuse)
        self._then(then)

    @rule(who=_WHO, then=_MOMENTS)
    def reboot(self, who: int, then: float) -> None:
        self.model.reboot(who)
        self._then(then)

    @rule(who=_WHO, span=_SPANS, then=_MOMENTS)
    def freeze_agent(self, who: int, span: float, then: float) -> None:
        self.model.freeze_agent(who, span)
        self._then(then)

    @rule(who=_WHO, up=st.booleans(), down=st.booleans(), then=_MOMENTS)
    def cut(self, who: int, up: bool, down: bool, then: float) -> None:
        self.model.cut(who, up=up, down=down)
        self._then(then)

    @rule(who=_WHO, span=_SPANS, frozen=st.sampled_from((-1.0, 0.0, 8.0, 20.0)), then=_MOMENTS)
    def isolate(self, who: int, span: float, frozen: float, then: float) -> None:
        self.model.isolate(who, span, frozen)
        self._then(then)

    @rule(who=_WHO, noticed=st.sampled_from((0.0, 1.0, 30.0)), then=_MOMENTS)
    def break_connection(self, who: int, noticed: float, then: float) -> None:
        self.model.break_connection(who, noticed)
        self._then(then)

    @rule(who=_WHO, copies=st.integers(1, 3), then=_MOMENTS)
    def deliver(self, who: int, copies: int, then: float) -> None:
        self.model.deliver(who, copies)
        self._then(then)

    @rule(who=_WHO, span=st.sampled_from((1.0, 30.0)), then=_MOMENTS)
    def fill_disk(self, who: int, span: float, then: float) -> None:
        self.model.fill_disk(who, span)
        self._then(then)

    @rule(which=st.integers(0, 1), in_order=st.booleans(), then=_MOMENTS)
    def crash_replica(self, which: int, in_order: bool, then: float) -> None:
        self.model.crash_replica(which, in_order=in_order)
        self._then(then)

    @rule(which=st.integers(0, 1), span=_SPANS, then=_MOMENTS)
    def freeze_replica(self, which: int, span: float, then: float) -> None:
        self.model.freeze_replica(which, span)
        self._then(then)

    @rule(which=st.integers(0, 1), count=st.integers(1, 2), then=_MOMENTS)
    def lose_replies(self, which: int, count: int, then: float) -> None:
        self.model.lose_replies(which, count)
        self._then(then)

    @rule(span=st.sampled_from((1.0, 60.0, 150.0)), which=_WHO, then=_MOMENTS)
    def database_away(self, span: float, which: int, then: float) -> None:
        self.model.database_away(span, which)
        self._then(then)

    @rule(seconds=st.sampled_from((-2.0, 1.0, 2.0)), which=st.integers(0, 1), then=_MOMENTS)
    def jump_and_sweep(self, seconds: float, which: int, then: float) -> None:
        self.model.jump(seconds)
        self.model.sweep(which)
        self._then(then)


class OutageMachine(_Machine):
    """Runs that last, and outages that last longer than leases."""

    @initialize(seed=_SEEDS)
    def begin(self, seed: int) -> None:
        self._begin(Model(seed, conditions=TIGHT))
        self.submit(queue=0, then=3.0)
        self.submit(queue=1, then=20.0)

    @rule(queue=st.integers(0, 1), then=_WAITS)
    def submit(self, queue: int, then: float) -> None:
        self.model.submit(queue=queue, gpus=0, priority=0, limits=3)
        self._then(then)

    @rule(who=_WHO, span=_OUTAGES, frozen=st.sampled_from((-1.0, 0.0, 8.0, 20.0)), then=_WAITS)
    def isolate(self, who: int, span: float, frozen: float, then: float) -> None:
        self.model.isolate(who, span, frozen)
        self._then(then)

    @rule(who=_WHO, back_after=st.sampled_from((0.1, 5.0, 20.0)), then=_WAITS)
    def crash_agent(self, who: int, back_after: float, then: float) -> None:
        self.model.crash_agent(who, 0, back_after)
        self._then(then)

    @rule(which=st.integers(0, 1), span=_OUTAGES, then=_WAITS)
    def freeze_replica(self, which: int, span: float, then: float) -> None:
        self.model.freeze_replica(which, span)
        self._then(then)

    @rule(which=st.integers(0, 1), span=_OUTAGES, then=_WAITS)
    def database_away(self, which: int, span: float, then: float) -> None:
        self.model.database_away(span, which)
        self._then(then)


class PreparationMachine(_Machine):
    """Runs whose images take long, and what takes them back meanwhile."""

    @initialize(seed=_SEEDS)
    def begin(self, seed: int) -> None:
        self._begin(Model(seed, conditions=SLOW_IMAGES))
        self.submit(queue=1, gpus=0, then=3.0)

    @rule(queue=st.integers(0, 1), gpus=_WHO, then=_SOON)
    def submit(self, queue: int, gpus: int, then: float) -> None:
        self.model.submit(queue=queue, gpus=gpus, priority=0, limits=3)
        self._then(then)

    @rule(number=st.integers(0, 9), preempt=st.booleans(), then=_SOON)
    def stop(self, number: int, preempt: bool, then: float) -> None:
        (self.model.preempt if preempt else self.model.cancel)(number)
        self._then(then)

    @rule(who=_WHO, deadline=st.sampled_from((None, 5.0)), then=_SOON)
    def drain(self, who: int, deadline: float | None, then: float) -> None:
        self.model.drain(who, deadline)
        self._then(then)
        self.model.crash_agent(who, 0, 0.1)  # or it would be given nothing more

    @rule(who=_WHO, fuse=st.integers(0, 12), then=_SOON)
    def crash_agent(self, who: int, fuse: int, then: float) -> None:
        self.model.crash_agent(who, fuse, 5.0)
        self._then(then)

    @rule(who=_WHO, noticed=st.sampled_from((0.0, 30.0)), then=_SOON)
    def break_connection(self, who: int, noticed: float, then: float) -> None:
        self.model.break_connection(who, noticed)
        self._then(then)

    @rule(which=st.integers(0, 1), then=_SOON)
    def lose_reply(self, which: int, then: float) -> None:
        self.model.lose_replies(which, 1)
        self._then(then)


_MIXES = ((EverythingMachine, 40), (OutageMachine, 12), (PreparationMachine, 30))
"""Machines, and how many of its rules one example has."""


def explore(number: int, examples: int, *, shrink: bool = True) -> tuple[int, int]:
    """Try so many examples of each mix, which `number` decides.

    Args:
        number: Seeds Hypothesis.
        examples: How many of each mix.
        shrink: Whether to look for the smallest example where one has failed.

    Returns:
        Virtual events, and examples.

    Raises:
        Broken: An invariant does not hold.
    """
    machines: list[type[_Machine]] = []
    for mix, rules in _MIXES:
        machine = seed(number)(type(mix.__name__, (mix,), {"steps": 0, "examples": 0}))
        machines.append(machine)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=rules,
                database=None,
                deadline=None,
                phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
                report_multiple_bugs=False,
                print_blob=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    return sum(machine.steps for machine in machines), sum(machine.examples for machine in machines)
