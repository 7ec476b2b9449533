-- The window: how many messages, and bytes of them, are on their way unacknowledged.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('WINDOW', 'window.>');

-- With any window every message arrives once, in order.
CREATE FUNCTION publish_many(subject text, count int, payload text DEFAULT '') RETURNS bigint LANGUAGE sql AS
    $$SELECT count(nats_publish_async(subject, i || payload)) FROM generate_series(1, count) AS i$$;
CREATE FUNCTION is_complete(subject text, count int) RETURNS boolean LANGUAGE sql AS $$
    WITH found AS MATERIALIZED (
        SELECT convert_from(m.payload, 'UTF8')::int AS n
        FROM generate_series(1, stream_count('WINDOW')) AS number, nats_get_message('WINDOW', number) AS m
        WHERE m.subject = is_complete.subject ORDER BY m.seq
    )
    SELECT array_agg(n) = (SELECT array_agg(i) FROM generate_series(1, count) AS i) FROM found
$$;
SET nats_publish.max_pending = 1;
SELECT publish_many('window.1', 500);
SET nats_publish.max_pending = 2;
SELECT publish_many('window.2', 500);
SET nats_publish.max_pending = 10;
SELECT publish_many('window.10', 1000);
SELECT is_complete('window.1', 500), is_complete('window.2', 500), is_complete('window.10', 1000);
SELECT nats_jetstream('STREAM.PURGE.WINDOW') ->> 'purged' AS purged;

-- nats_publish takes its place in the window too.
SET nats_publish.max_pending = 1;
BEGIN;
SELECT nats_publish_async('window.both', '1') IS NOT NULL AS published;
SELECT duplicate FROM nats_publish('window.both', '2');
SELECT nats_publish_async('window.both', '3') IS NOT NULL AS published;
SELECT nats_flush() IN (0, 1) AS flushed;
COMMIT;
SELECT payload FROM stream_messages('WINDOW');

-- on_full = error raises when the window is full: no server answers two hundred thousand times between two calls.
SET nats_publish.on_full = error;
SET nats_publish.max_pending = 1;
CREATE FUNCTION try_many(subject text, count int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    PERFORM nats_publish_async(subject, 'x') FROM generate_series(1, count) AS i;
    RETURN 'no error';
EXCEPTION WHEN insufficient_resources THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN format('%s: %s. %s', sqlstate, sqlerrm, hint);
END
$$;
SELECT try_many('window.full', 200000);
SET nats_publish.max_pending = 10;
SELECT try_many('window.full', 200000);
-- Nothing that was refused is a future, and the transaction can go on.
BEGIN;
SAVEPOINT s;
DO $$
BEGIN
    PERFORM nats_publish_async('window.full', 'x') FROM generate_series(1, 200000) AS i;
END
$$;
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT count(*) FROM nats_futures();
SELECT nats_flush() >= 0 AS flushed;
SELECT nats_publish_async('window.later', 'y') IS NOT NULL AS published;
COMMIT;
SELECT count(*) FROM stream_messages('WINDOW') WHERE subject = 'window.later';
-- critical => false is a warning instead.
SET client_min_messages = error;
BEGIN;
SELECT count(nats_publish_async('window.uncritical', 'x', critical => false)) FROM generate_series(1, 10000) AS i;
SELECT nats_flush() >= 0 AS flushed;
SELECT DISTINCT sqlstate FROM nats_futures() WHERE status = 'failed';
COMMIT;
RESET client_min_messages;
RESET nats_publish.on_full;
RESET nats_publish.max_pending;

-- Bytes: a few large messages fill it, and one alone may be larger than it all.
SET nats_publish.max_pending_bytes = '64kB';
SELECT nats_jetstream('STREAM.PURGE.WINDOW') IS NOT NULL AS purged;
SELECT publish_many('window.bytes', 200, repeat('x', 30000));
SELECT publish_many('window.huge', 5, repeat('x', 500000));
SELECT subject, count(*), count(DISTINCT md5(payload)), min(length(payload)) FROM stream_messages('WINDOW') GROUP BY subject ORDER BY subject;
SET nats_publish.on_full = error;
SELECT try_many('window.small', 1);
SELECT publish_many('window.huge', 1, repeat('x', 500000));
\set VERBOSITY sqlstate
DO $$
BEGIN
    PERFORM nats_publish_async('window.bytes', repeat('x', 1000000)) FROM generate_series(1, 100) AS i;
END
$$;
\set VERBOSITY default

-- The session has come through all this on one connection.
SELECT connects, connections_lost FROM nats_session_stats();
DROP FUNCTION publish_many, is_complete, try_many;
SELECT delete_stream('WINDOW');
