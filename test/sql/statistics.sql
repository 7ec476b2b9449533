-- What all sessions have counted, in views. Here the library is not preloaded, so up to PostgreSQL 16 there is nowhere to
-- count: what the views show is for TAP.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

-- The columns.
SELECT attrelid::regclass AS view, attname AS column, format_type(atttypid, atttypmod) AS type
FROM pg_attribute
WHERE attrelid IN ('nats_publish_stats'::regclass, 'nats_publish_histogram'::regclass, 'nats_publish_latency'::regclass,
        'nats_publish_activity'::regclass) AND attnum > 0
ORDER BY attrelid::regclass::text COLLATE "C", attnum;

-- Without shared memory, and since PostgreSQL 17 there always is some: an error in both words and hint, or none.
CREATE FUNCTION shared_memory_error(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE command;
    RETURN CASE WHEN current_setting('server_version_num')::int >= 170000 THEN 'as expected' ELSE 'no error' END;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN CASE WHEN current_setting('server_version_num')::int < 170000
                    AND sqlerrm LIKE '%shared_preload_libraries%' AND hint LIKE '%shared_preload_libraries%'
                THEN 'as expected' ELSE sqlerrm END;
END
$$;
SELECT command, shared_memory_error(command)
FROM unnest(ARRAY['SELECT count(*) FROM nats_publish_stats', 'SELECT count(*) FROM nats_publish_histogram',
    'SELECT count(*) FROM nats_publish_latency', 'SELECT count(*) FROM nats_publish_activity',
    'SELECT nats_publish_stats_reset()']) AS command;

-- Publishing does without, and the session counts.
SELECT create_stream('STATISTICS', 'statistics.>');
CREATE TEMP TABLE before AS SELECT * FROM nats_session_stats();
BEGIN;
SELECT stream FROM nats_publish('statistics.a', 'x');
SELECT nats_publish_async('statistics.a', 'xx') > 0 AS future;
SELECT nats_publish_on_commit('statistics.a', 'xxx');
COMMIT;
SELECT now.published - before.published AS published, now.acked - before.acked AS acked, now.bytes - before.bytes AS bytes
FROM nats_session_stats() AS now, before;
SELECT delete_stream('STATISTICS');

-- Who may read, and who may reset.
CREATE ROLE regress_nats_monitor IN ROLE pg_monitor;
CREATE ROLE regress_nats_none;
SELECT role, view, has_table_privilege(role, view, 'SELECT') AS reads
FROM unnest('{regress_nats_monitor,regress_nats_none}'::text[]) AS role,
    unnest('{nats_publish_activity,nats_publish_histogram,nats_publish_latency,nats_publish_stats}'::text[]) AS view;
SELECT role, has_function_privilege(role, 'nats_publish_stats_reset()', 'EXECUTE') AS resets
FROM unnest('{regress_nats_monitor,regress_nats_none}'::text[]) AS role;
SET ROLE regress_nats_none;
SELECT count(*) FROM nats_publish_stats;
SELECT nats_publish_stats_reset();
RESET ROLE;
DROP ROLE regress_nats_monitor, regress_nats_none;

DROP FUNCTION shared_memory_error;
