"""Wake-ups inside one process."""

from datetime import timedelta

from towline_queue.signals import Key, Signals, Topic, parse_ready_name

NOW = timedelta(0)
RUN = Key(Topic.RUN, "runs/a")


async def test_an_announcement_wakes_who_watches_its_name_or_its_topic() -> None:
    signals = Signals()
    with (
        signals.watching(RUN) as one,
        signals.watching(Key(Topic.RUN)) as every,
        signals.watching(Key(Topic.RUN, "runs/b"), Key(Topic.LOG, "runs/a")) as other,
    ):
        signals.run_changed("runs/a")
        assert await one.wait()
        assert await every.wait()
        assert not await other.wait(NOW)
        signals.log_grew("runs/a")
        assert await other.wait()


async def test_what_came_before_the_wait_counts_once() -> None:
    signals = Signals()
    with signals.watching(RUN) as watch:
        for _ in range(5):
            signals.run_changed("runs/a")
        assert await watch.wait(NOW)
        assert not await watch.wait(NOW)


async def test_names_are_remembered_up_to_a_bound() -> None:
    signals = Signals()
    with signals.watching(Key(Topic.READY)) as watch:
        signals.queue_ready("queues/a")
        signals.queue_ready("queues/b")
        assert watch.take_names(Topic.READY) == {"queues/a", "queues/b"}
        assert watch.take_names(Topic.READY) == frozenset()
        for number in range(5000):
            signals.queue_ready(f"queues/{number}")
        assert watch.take_names(Topic.READY) is None
        signals.queue_ready("queues/c")
        assert watch.take_names(Topic.READY) == {"queues/c"}


async def test_runs_announced_together_are_heard_of_as_if_one_by_one() -> None:
    signals = Signals()
    with signals.watching(RUN) as one, signals.watching(Key(Topic.RUN, "runs/z")) as other:
        signals.runs_changed(["runs/a", "runs/b"])
        assert one.take_names(Topic.RUN) == {"runs/a"}
        assert await one.wait(NOW)
        assert not await other.wait(NOW)
        with signals.watching(Key(Topic.RUN)) as every:
            signals.runs_changed([])
            assert not await every.wait(NOW)
            signals.run_changed("runs/c")
            signals.runs_changed(["runs/a", "runs/b"])
            assert every.take_names(Topic.RUN) == {"runs/a", "runs/b", "runs/c"}
            signals.runs_changed([f"runs/{number}" for number in range(5000)])
            assert every.take_names(Topic.RUN) is None
            for start in range(0, 2000, 500):
                signals.runs_changed([f"runs/{number}" for number in range(start, start + 500)])
            assert every.take_names(Topic.RUN) is None


async def test_nothing_is_kept_when_nobody_watches() -> None:
    signals = Signals()
    with signals.watching(RUN, Key(Topic.STOP)):
        pass
    signals.run_changed("runs/a")
    signals.stop_requested("runs/a")
    with signals.watching(RUN, Key(Topic.STOP)) as watch:
        assert not await watch.wait(NOW)


async def test_topics_are_remembered_apart() -> None:
    signals = Signals()
    with signals.watching(Key(Topic.READY), Key(Topic.CREDITS)) as watch:
        signals.queue_ready("queues/a")
        signals.queue_ready("queues/a", 2)
        signals.credits_changed("agents/one")
        assert watch.take_names(Topic.CREDITS) == {"agents/one"}
        ready = watch.take_names(Topic.READY)
        assert {parse_ready_name(name) for name in ready or ()} == {("queues/a", None), ("queues/a", 2)}


async def test_what_another_replica_announces_is_not_relayed_back() -> None:
    signals = Signals()
    with signals.watching(Key(Topic.STOP)) as relay, signals.watching(Key(Topic.STOP, "runs/a")) as waiter:
        signals.relayed(Topic.STOP, "runs/a", relay)
        assert await waiter.wait()
        assert not await relay.wait(NOW)
        signals.relayed(Topic.STOP, None, relay)  # too many to name
        assert await waiter.wait()
        assert waiter.take_names(Topic.STOP) is None
        signals.stop_requested("runs/a")
        assert await relay.wait()
