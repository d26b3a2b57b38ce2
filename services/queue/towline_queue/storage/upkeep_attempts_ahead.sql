-- Make the partitions of this month and the two next ones where they are missing. What stands in the
-- default partition for such a month, because nobody made its partition in time, moves into it.
DO $$
DECLARE
    month timestamp;
    partition text;
    bounds text;
BEGIN
    FOR ahead IN 0..2 LOOP
        month := date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead);
        partition := to_char(month, '"attempts_"YYYY_MM');
        CONTINUE WHEN to_regclass('queue.' || partition) IS NOT NULL;
        -- First, so that of two that would make it one finds it made.
        LOCK TABLE queue.attempts_default IN ACCESS EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass('queue.' || partition) IS NOT NULL;
        bounds := format(
            'FROM (%L) TO (%L)',
            to_char(month, 'YYYY-MM-DD "00:00+00"'),
            to_char(month + interval '1 month', 'YYYY-MM-DD "00:00+00"'));
        -- Attached, not made as a partition: that does not wait for those who write to the others.
        EXECUTE format(
            'CREATE TABLE queue.%I (LIKE queue.attempts INCLUDING ALL) WITH (
                 autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000,
                 autovacuum_freeze_min_age = 0)',
            partition);
        EXECUTE format(
            'WITH moved AS (
                 DELETE FROM queue.attempts_default
                 WHERE end_time >= %L AND end_time < %L RETURNING *)
             INSERT INTO queue.%I SELECT * FROM moved',
            month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC', partition);
        EXECUTE format(
            'ALTER TABLE queue.attempts ATTACH PARTITION queue.%I FOR VALUES %s', partition, bounds);
    END LOOP;
END $$
