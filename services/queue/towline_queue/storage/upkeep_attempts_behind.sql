-- Drop the attempts of months that ended before towline.drop_attempts_before, if that is set.
DO $$
DECLARE
    before timestamptz := nullif(current_setting('towline.drop_attempts_before'), '');
    partition name;
BEGIN
    FOR partition IN
        SELECT child.relname
        FROM pg_inherits
        JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
        WHERE pg_inherits.inhparent = to_regclass('queue.attempts')
          AND child.relname ~ '^attempts_[0-9]{4}_[0-9]{2}$'
          AND child.relname < to_char(before AT TIME ZONE 'UTC', '"attempts_"YYYY_MM')
        ORDER BY child.relname
    LOOP
        EXECUTE format('DROP TABLE queue.%I', partition);
    END LOOP;
    DELETE FROM queue.attempts_default WHERE end_time < before;
END $$
