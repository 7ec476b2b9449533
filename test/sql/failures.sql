-- Asynchronous messages that fail: a critical one takes its transaction with it, another one is a warning.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

-- Of these two streams one is full after one message; a full stream refuses at once.
SELECT create_stream('FAILURES', 'failures.>');
SELECT nats_create_stream('FULL', '{full.>}', '{"storage": "memory", "max_msgs": 1, "discard": "new"}') IS NOT NULL AS created;
SELECT seq FROM nats_publish('full.a', 'the only one');
CREATE TABLE failures_rows (n int);

-- COMMIT fails with the reason, and has stored no row.
BEGIN;
INSERT INTO failures_rows VALUES (1);
SELECT nats_publish_async('failures.a', '1') AS good, nats_publish_async('full.a', '1') AS bad \gset
COMMIT;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM failures_rows;
SELECT count(*) FROM nats_futures();

-- So does an autocommit statement.
INSERT INTO failures_rows SELECT 2 WHERE nats_publish_async('full.a', '2') IS NOT NULL;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM failures_rows;

-- A subject that no stream takes: this is retried for some time, for a stream may be changing its leader.
BEGIN;
INSERT INTO failures_rows VALUES (3);
SELECT nats_publish_async('nostream.a', '3') IS NOT NULL AS published;
COMMIT;
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('nostream.a', '3');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM failures_rows;

-- nats_await raises the message's error, nats_flush the first; nats_futures tells.
BEGIN;
SELECT nats_publish_async('full.a', '4') AS bad \gset
SAVEPOINT s;
SELECT nats_await(:bad);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT nats_await(:bad, '0');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT nats_flush();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT future - :bad AS future, subject, msg_id IS NOT NULL AS has_id, status, stream, seq, duplicate, sqlstate, error FROM nats_futures();
-- Having seen the error does not make it good.
INSERT INTO failures_rows VALUES (4);
COMMIT;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM failures_rows;

-- More than one: the error is the first one's, in the order of the calls; the first ones are listed.
-- A new session counts its futures from 1.
\c -
BEGIN;
SELECT nats_publish_async('failures.a', '5');
SELECT nats_publish_async('failures.a', '5', expect_last_seq => 1000);
SELECT nats_publish_async('full.a', '5');
COMMIT;
\echo :LAST_ERROR_SQLSTATE
\c -
BEGIN;
SELECT count(nats_publish_async('full.' || i, '6')) FROM generate_series(1, 5) AS i;
COMMIT;
\c -
BEGIN;
SELECT count(nats_publish_async('full.' || i, '7')) FROM generate_series(1, 1000) AS i;
COMMIT;
\echo :LAST_ERROR_SQLSTATE

-- critical => false: the transaction commits, with a warning at the next call or at its end.
BEGIN;
INSERT INTO failures_rows VALUES (8);
SELECT nats_publish_async('full.a', '8', critical => false) AS bad \gset
SELECT nats_await(:bad);
ROLLBACK;
BEGIN;
INSERT INTO failures_rows VALUES (9);
SELECT nats_publish_async('full.a', '9', critical => false) AS bad \gset
SELECT nats_flush() IN (0, 1) AS flushed;
SELECT future - :bad AS future, subject, status, sqlstate, error FROM nats_futures();
COMMIT;
SELECT * FROM failures_rows;
-- How many warnings many of them are depends on when their answers arrive. They are counted.
SET client_min_messages = error;
BEGIN;
SELECT count(nats_publish_async('full.b', '10', critical => false)) FROM generate_series(1, 10) AS i;
SELECT nats_flush() IS NOT NULL AS flushed;
COMMIT;
RESET client_min_messages;
-- Other failures of theirs: what is wrong with the message itself is an error all the same.
SELECT nats_publish_async('full..a', 'x', critical => false);
SELECT nats_publish_async(repeat('full', 2000), 'x', critical => false);
SELECT published, acked, failed, failed_uncritical FROM nats_session_stats();

-- Both kinds: the warning is told as well.
BEGIN;
SELECT nats_publish_async('full.c', '11', critical => false) IS NOT NULL AS published;
SELECT nats_publish_async('full.d', '11') IS NOT NULL AS published;
COMMIT;
SELECT failed, failed_uncritical FROM nats_session_stats();

-- The session is as before.
SELECT nats_publish_async('failures.a', '12') IS NOT NULL AS published;
SELECT connects FROM nats_session_stats();
-- What was published in the failed transactions and was good, has stayed.
SELECT payload FROM stream_messages('FAILURES');
SELECT payload FROM stream_messages('FULL');
DROP TABLE failures_rows;
SELECT delete_stream('FAILURES'), delete_stream('FULL');
