-- nats_publish_async: futures and what becomes of them, within one transaction.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('ASYNC', 'async.>');

-- A future is a number of this session, higher with each call.
BEGIN;
SELECT nats_publish_async('async.text', '1'::text, msg_id => 'async 1') AS first \gset
SELECT nats_publish_async('async.bytea', '2'::bytea) AS second \gset
SELECT nats_publish_async('async.json', '{"n": 3}'::json) AS third \gset
SELECT nats_publish_async('async.jsonb', '{"n":4}'::jsonb, headers => '{"H": "x"}') AS fourth \gset
SELECT nats_publish_async('async.null', NULL, critical => NULL) AS fifth \gset
SELECT nats_publish_async('async.text', '6', msg_id => 'async 1') AS sixth \gset
SELECT :first < :second AND :second < :third AND :third < :fourth AND :fourth < :fifth AND :fifth < :sixth AS ascending;
SELECT * FROM nats_await(:first);
SELECT * FROM nats_await(:fourth);
SELECT * FROM nats_await(:sixth);
-- again, which takes no time, and at once
SELECT * FROM nats_await(:first);
SELECT * FROM nats_await(:second, '0');
SELECT future - :first AS future, subject, CASE WHEN msg_id ~ '^[0-9A-Za-z]{22}$' THEN 'automatic' ELSE msg_id END AS msg_id,
    status, stream, seq, duplicate, sqlstate, error
FROM nats_futures() ORDER BY future;
COMMIT;
SELECT * FROM stream_messages('ASYNC');

-- With the transaction they are gone.
SELECT count(*) FROM nats_futures();
SELECT error_of('SELECT nats_await(' || :first || ')') = '22023: future ' || :first || ' is not one of this transaction' AS gone;
SELECT error_of('SELECT nats_await(0)'), error_of('SELECT nats_await(-1)');
SELECT error_of('SELECT nats_await(9223372036854775807)');
SELECT error_of('SELECT nats_await(NULL)');
SELECT error_of($$SELECT nats_await(1, '-1 second')$$);
SELECT error_of($$SELECT nats_flush('-1 second')$$);

-- nats_flush waits for everything and tells how much that was: what was acknowledged before does not count.
BEGIN;
SELECT nats_flush();
SELECT count(nats_publish_async('async.flush', i::text)) FROM generate_series(1, 100) AS i;
SELECT nats_flush() BETWEEN 1 AND 100 AS waited;
SELECT nats_flush();
SELECT status, count(*) FROM nats_futures() GROUP BY status;
SELECT nats_flush('1 minute');
COMMIT;

-- The order in the stream is that of the calls, of both functions.
BEGIN;
SELECT nats_publish_async('async.order', '1') IS NOT NULL AS published;
SELECT seq - 105 AS seq FROM nats_publish('async.order', '2');
SELECT nats_publish_async('async.order', '3', critical => false) IS NOT NULL AS published;
SELECT nats_publish_async('async.order', '4') IS NOT NULL AS published;
SELECT seq - 105 AS seq FROM nats_publish('async.order', '5');
COMMIT;
SELECT payload FROM stream_messages('ASYNC') WHERE subject = 'async.order';

-- An autocommit statement waits like COMMIT; rolled-back messages stay.
SELECT nats_publish_async('async.auto', 'committed') IS NOT NULL AS published;
BEGIN;
SELECT nats_publish_async('async.auto', 'rolled back') IS NOT NULL AS published;
SELECT nats_flush() IN (0, 1) AS flushed;
ROLLBACK;
SELECT payload FROM stream_messages('ASYNC') WHERE subject = 'async.auto';

-- Ten thousand in one statement.
SELECT count(DISTINCT nats_publish_async('async.many', i::text)) FROM generate_series(1, 10000) AS i;
SELECT stream_count('ASYNC') - 112 AS stored;
SELECT convert_from((nats_get_message('ASYNC', 112 + i)).payload, 'UTF8') = i::text AS in_order
FROM unnest('{1,2,5000,9999,10000}'::int[]) AS i;

SELECT published, acked, duplicates, failed, failed_uncritical, resent, connects, connections_lost FROM nats_session_stats();
SELECT delete_stream('ASYNC');
