"""The services' way to PostgreSQL: what becomes of a transaction whose process is frozen."""

import pytest
from sqlalchemy import text

from towline.errors import Unavailable
from towline.service.postgres import connecting, transaction
from towline_testing.waiting import eventually_async


async def test_transactions_that_idle_end_after_ten_seconds(database_url: str):
    async with connecting(database_url) as engine, transaction(engine) as connection:
        shown = await connection.execute(text("SHOW idle_in_transaction_session_timeout"))
        assert shown.scalar_one() == "10s"


async def test_a_transaction_ended_for_idling_frees_its_locks_and_is_unavailable(database_url: str):
    async with connecting(database_url) as engine:
        async with transaction(engine) as connection:
            await connection.execute(text("CREATE TABLE held (x int)"))
        with pytest.raises(Unavailable):
            async with transaction(engine) as frozen:
                await frozen.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
                await frozen.execute(text("LOCK TABLE held"))

                async def free() -> bool:
                    async with transaction(engine) as other:
                        count = "SELECT count(*) FROM pg_locks WHERE relation = 'held'::regclass"
                        return (await other.execute(text(count))).scalar_one() == 0

                await eventually_async(free)
                await frozen.execute(text("SELECT 1"))
        async with transaction(engine) as after:  # the pool has noticed
            await after.execute(text("SELECT 1"))
