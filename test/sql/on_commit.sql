-- nats_publish_on_commit: nothing leaves before COMMIT, nothing at all after a rollback.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('ONCOMMIT', 'oncommit.>');
SELECT nats_create_stream('OCFULL', '{ocfull.>}', '{"storage": "memory", "max_msgs": 1, "discard": "new"}') IS NOT NULL AS created;
SELECT seq FROM nats_publish('ocfull.a', 'the only one');
CREATE TABLE oc_rows (n int);

-- Nothing before COMMIT, everything after it, in the order of the calls.
BEGIN;
INSERT INTO oc_rows VALUES (1);
SELECT nats_publish_on_commit('oncommit.a', '1');
SELECT nats_publish_on_commit('oncommit.b', '2');
SELECT nats_publish_on_commit('oncommit.a', '3');
SELECT stream_count('ONCOMMIT') AS before;
SELECT count(*) AS futures, nats_flush() AS flushed FROM nats_futures();
COMMIT;
SELECT * FROM stream_messages('ONCOMMIT');
-- Nothing after ROLLBACK, nor after an error.
BEGIN;
SELECT nats_publish_on_commit('oncommit.rolled.back', '4');
ROLLBACK;
BEGIN;
SELECT nats_publish_on_commit('oncommit.rolled.back', '5');
SELECT 1 / 0;
COMMIT;
SELECT nats_publish_on_commit('oncommit.rolled.back', '6'), 1 / (n - n) FROM oc_rows;
SELECT stream_count('ONCOMMIT') AS after;
-- A statement of its own is a transaction of its own; and so is what comes after a failure.
SELECT nats_publish_on_commit('oncommit.alone', '7');
SELECT * FROM stream_messages('ONCOMMIT') WHERE seq > 3;

-- What is stored: each type of payload, and everything that can be said of a message.
SELECT nats_jetstream('STREAM.PURGE.ONCOMMIT') -> 'success' AS purged;
BEGIN;
SELECT nats_publish_on_commit('oncommit.text', 'Grüße');
SELECT nats_publish_on_commit('oncommit.bytea', '\x00ff0d0a00'::bytea);
SELECT nats_publish_on_commit('oncommit.json', '{"a":  1}'::json);
SELECT nats_publish_on_commit('oncommit.jsonb', '{"b":  [1, "x"]}'::jsonb);
SELECT nats_publish_on_commit('oncommit.empty', '');
SELECT nats_publish_on_commit('oncommit.empty', ''::bytea);
SELECT nats_publish_on_commit('oncommit.null', NULL::text);
SELECT nats_publish_on_commit('oncommit.null', NULL::bytea);
SELECT nats_publish_on_commit('oncommit.null', NULL::json);
SELECT nats_publish_on_commit('oncommit.null', NULL::jsonb);
SELECT nats_publish_on_commit('oncommit.headers', 'x', '{"A": "1", "B": ["2", "3"], "C": ""}');
SELECT nats_publish_on_commit('oncommit.id', 'x', msg_id => 'an id');
SELECT nats_publish_on_commit('oncommit.id', 'y', '{"Nats-Msg-Id": "another id"}');
SELECT nats_publish_on_commit('oncommit.all', 'x', '{"A": "1"}', msg_id => 'third id', expect_stream => 'ONCOMMIT',
    expect_last_seq => nats.seq, expect_last_subject_seq => 0)
FROM (SELECT (nats_stream_info('ONCOMMIT') #>> '{state,last_seq}')::bigint + 13 AS seq) AS nats;
SET LOCAL nats_publish.auto_msg_id = off;
SELECT nats_publish_on_commit('oncommit.bare', 'x');
SELECT nats_publish_on_commit('oncommit.bare', NULL::text);
COMMIT;
SELECT subject, headers, payload FROM stream_messages('ONCOMMIT');
SELECT headers IS NULL AS none FROM nats_get_message('ONCOMMIT', (nats_stream_info('ONCOMMIT') #>> '{state,last_seq}')::bigint);
-- The setting counts that is valid at the call.
SELECT nats_jetstream('STREAM.PURGE.ONCOMMIT') -> 'success' AS purged;
BEGIN;
SELECT nats_publish_on_commit('oncommit.with', 'x');
SET nats_publish.auto_msg_id = off;
COMMIT;
BEGIN;
SELECT nats_publish_on_commit('oncommit.without', 'x');
RESET nats_publish.auto_msg_id;
COMMIT;
SELECT m.subject, m.headers IS NOT NULL AS has_id
FROM stream_messages('ONCOMMIT') AS s, nats_get_message('ONCOMMIT', s.seq) AS m;

-- Whatever is wrong with a message is told by the call, and not by COMMIT.
SELECT nats_jetstream('STREAM.PURGE.ONCOMMIT') -> 'success' AS purged;
BEGIN;
SELECT error_of($$SELECT nats_publish_on_commit(NULL, 'x')$$);
SELECT error_of($$SELECT nats_publish_on_commit('', 'x')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.*', 'x')$$);
SELECT error_of($$SELECT nats_publish_on_commit('$JS.API.INFO', 'x')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', '[]')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', '{"A": null}')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', '{"Nats-Batch-Id": "1"}')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', '{"Nats-Batch-Commit": "1"}')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', '{"Nats-Msg-Id": "1"}', msg_id => '1')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', msg_id => '')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', expect_last_seq => -1)$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', expect_last_subject_seq => -1)$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', ttl => '1 ms')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', 'x', jsonb_build_object('A', repeat('x', 65536)))$$);
SELECT error_of($$SELECT nats_publish_on_commit(repeat('x', 4001), 'x')$$);
SELECT error_of($$SELECT nats_publish_on_commit('oncommit.a', repeat('x', 2000000))$$) ~ '^54000: message is 20000\d\d bytes long with its headers, the server''s max_payload is ' AS refused;
SELECT nats_publish_on_commit('oncommit.good', 'x');
COMMIT;
SELECT subject FROM stream_messages('ONCOMMIT');
-- A session that has not been connected learns of max_payload in COMMIT, and sends nothing then.
\c -
\i :helpers
BEGIN;
SELECT nats_publish_on_commit('oncommit.small', 'x');
SELECT nats_publish_on_commit('oncommit.large', repeat('x', 2000000));
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT subject FROM stream_messages('ONCOMMIT');

-- COMMIT fails: no row, and what is with JetStream is told. No stream takes the subject ...
BEGIN;
INSERT INTO oc_rows VALUES (-1);
SELECT nats_publish_on_commit('oncommit.nostream', '1');
SELECT nats_publish_on_commit('no.stream.takes.it', '2');
COMMIT;
\echo :LAST_ERROR_SQLSTATE
-- ... the sequence was another one ...
BEGIN;
INSERT INTO oc_rows VALUES (3);
SELECT nats_publish_on_commit('oncommit.account', '1', expect_last_subject_seq => 0);
COMMIT;
BEGIN;
INSERT INTO oc_rows VALUES (-3);
SELECT nats_publish_on_commit('oncommit.account', '2', expect_last_subject_seq => 0);
\set VERBOSITY sqlstate
COMMIT;
BEGIN;
SELECT nats_publish_on_commit('oncommit.account', '2', expect_last_seq => 0);
COMMIT;
BEGIN;
SELECT nats_publish_on_commit('oncommit.account', '2', expect_last_seq => 1000000);
COMMIT;
BEGIN;
SELECT nats_publish_on_commit('oncommit.account', '2', expect_stream => 'ANOTHER');
COMMIT;
\set VERBOSITY default
SELECT (nats_stream_info('ONCOMMIT') #>> '{state,last_seq}')::bigint AS last_seq \gset
BEGIN;
SELECT nats_publish_on_commit('oncommit.account', '2', expect_last_subject_seq => :last_seq);
SELECT nats_publish_on_commit('oncommit.account', '3', expect_last_seq => :last_seq + 1, expect_stream => 'ONCOMMIT');
COMMIT;
SELECT payload FROM stream_messages('ONCOMMIT') WHERE subject = 'oncommit.account';
-- ... the stream is full: one message, some, and so many that the rest is not even sent.
BEGIN;
INSERT INTO oc_rows VALUES (-4);
SELECT nats_publish_on_commit('ocfull.a', '1');
COMMIT;
\echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO oc_rows VALUES (-5);
SELECT count(nats_publish_on_commit(CASE WHEN i % 3 = 0 THEN 'ocfull.' ELSE 'oncommit.some.' END || i, 'x')) FROM generate_series(1, 9) AS i;
COMMIT;
\echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO oc_rows VALUES (-6);
SELECT count(nats_publish_on_commit('ocfull.many', 'x')) FROM generate_series(1, 50000) AS i;
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT substring(:'LAST_ERROR_MESSAGE' FROM '^could not publish \d+ messages of this transaction: (.*)') AS message;
SELECT acked + failed < published + 1 AS counted, published < 50000 AS "the rest was not sent" FROM nats_session_stats();
SELECT * FROM oc_rows;
SELECT count(*) FROM stream_messages('OCFULL');
-- A transaction after a failed one is like any other.
BEGIN;
INSERT INTO oc_rows VALUES (2);
SELECT nats_publish_on_commit('oncommit.after', 'x');
COMMIT;
SELECT payload FROM stream_messages('ONCOMMIT') WHERE subject = 'oncommit.after';
SELECT * FROM oc_rows;

-- ttl: a server that does not know it is sent nothing.
SELECT server_is(2, 11) AS knows_ttl \gset
SELECT CASE WHEN :'knows_ttl' THEN '{"storage": "memory", "allow_msg_ttl": true}' ELSE '{"storage": "memory"}' END AS options \gset
SELECT nats_create_stream('OCTTL', '{octtl.>}', :'options') IS NOT NULL AS created;
BEGIN;
SELECT nats_publish_on_commit('octtl.a', '1');
SELECT nats_publish_on_commit('octtl.a', '2', ttl => '1 hour');
\set VERBOSITY sqlstate
\set ECHO none
\if :knows_ttl
ROLLBACK;
\echo 'ERROR:  0A000'
\else
COMMIT;
\endif
\set ECHO all
\set VERBOSITY default
SELECT stream_count('OCTTL');
SELECT nats_publish_on_commit('octtl.a', '3');
SELECT stream_count('OCTTL');

-- With what is published at once in the same transaction: that comes first.
BEGIN;
SELECT nats_publish_on_commit('oncommit.mixed', 'held 1');
SELECT nats_publish_async('oncommit.mixed', 'async 2') IS NOT NULL AS published;
SELECT (nats_publish('oncommit.mixed', 'now 3')).stream;
SELECT nats_publish_on_commit('oncommit.mixed', 'held 4');
SELECT nats_publish_async('oncommit.mixed', 'async 5') IS NOT NULL AS published;
SELECT subject FROM nats_futures();
COMMIT;
SELECT payload FROM stream_messages('ONCOMMIT') WHERE subject = 'oncommit.mixed';
BEGIN;
SELECT nats_publish_on_commit('oncommit.unmixed', 'held 1');
SELECT nats_publish_async('oncommit.unmixed', 'async 2') IS NOT NULL AS published;
SELECT (nats_publish('oncommit.unmixed', 'now 3')).stream;
ROLLBACK;
SELECT payload FROM stream_messages('ONCOMMIT') WHERE subject = 'oncommit.unmixed';
-- One that failed at once keeps those that are held from being sent.
BEGIN;
INSERT INTO oc_rows VALUES (-7);
SELECT nats_publish_async('ocfull.async', 'x') AS bad \gset
SELECT nats_publish_on_commit('oncommit.unsent', 'x'), nats_publish_on_commit('oncommit.unsent', 'y');
SAVEPOINT s;
SELECT nats_flush();
ROLLBACK TO s;
COMMIT;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM stream_messages('ONCOMMIT') WHERE subject = 'oncommit.unsent';
SELECT * FROM oc_rows;
-- critical => false does not.
BEGIN;
SELECT nats_publish_async('ocfull.async', 'x', critical => false) IS NOT NULL AS published;
SELECT nats_flush() >= 0 AS flushed;
SELECT nats_publish_on_commit('oncommit.sent', 'x');
COMMIT;
SELECT count(*) FROM stream_messages('ONCOMMIT') WHERE subject = 'oncommit.sent';

-- An id makes a second message the same one, in one transaction or two: not an error.
BEGIN;
SELECT nats_publish_on_commit('oncommit.twice', '1', msg_id => 'twice'), nats_publish_on_commit('oncommit.twice', '2', msg_id => 'twice');
COMMIT;
SELECT nats_publish_on_commit('oncommit.twice', '3', msg_id => 'twice');
SELECT payload FROM stream_messages('ONCOMMIT') WHERE subject = 'oncommit.twice';

-- A small window.
SET nats_publish.max_pending = 1;
SELECT count(nats_publish_on_commit('oncommit.window', i::text)) FROM generate_series(1, 100) AS i;
SELECT array_agg(payload::int ORDER BY seq) = (SELECT array_agg(i) FROM generate_series(1, 100) AS i) AS in_order
FROM stream_messages('ONCOMMIT') WHERE subject = 'oncommit.window';
RESET nats_publish.max_pending;

-- Who may: nobody whom it was not granted to.
CREATE ROLE oc_nobody;
SET ROLE oc_nobody;
SELECT nats_publish_on_commit('oncommit.role', 'x');
RESET ROLE;
DROP ROLE oc_nobody;

DROP TABLE oc_rows;
SELECT delete_stream('ONCOMMIT'), delete_stream('OCFULL'), delete_stream('OCTTL');
