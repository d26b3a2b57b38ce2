-- For the statements beside this one, in the same transaction, which are DDL and so take no parameters: how
-- long attempts are kept (`keep`; null: all are), and how long to wait for a lock, for whoever needs the
-- table later waits behind.
SELECT set_config(
           'towline.drop_attempts_before',
           coalesce(CAST(now() - CAST(:keep AS interval) AS text), ''),
           true),
       set_config('lock_timeout', CAST(:lock_timeout AS text), true)
