-- Typed arguments that are headers of the server, each for what it does. Where a server does not know one, it is refused:
-- the server would ignore the header, and store the message without it.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers
\set ECHO none
SELECT server_is(2, 11) AS knows_subjects, server_is(2, 12) AS knows_counters \gset
\set ECHO all
SELECT nats_create_stream('TYPED', '{typed.>}', '{"storage": "memory", "allow_rollup_hdrs": true}') IS NOT NULL AS created;
SELECT create_stream('TYPEDNOT', 'typednot.>');

-- ---- rollup ----
SELECT (nats_publish(subject, subject)).seq FROM unnest('{typed.a,typed.a,typed.b}'::text[]) AS subject;
SELECT (nats_publish('typed.a', 'all of a', rollup => 'subject')).seq;
SELECT * FROM stream_messages('TYPED');
SELECT nats_publish_async('typed.b', 'all of b', rollup => 'subject') > 0 AS published;
SELECT nats_publish_on_commit('typed.c', 'all', rollup => 'all');
SELECT * FROM stream_messages('TYPED');
SELECT value FROM nats_explain('typed.a', 'x', headers => '{"nats-rollup": "sub"}') WHERE item = 'header Nats-Rollup';
SELECT error_of(format($$SELECT nats_publish('typed.a', 'x', rollup => %L)$$, rollup)) FROM unnest('{"",sub,ALL,x}'::text[]) AS rollup;
SELECT error_of($$SELECT nats_publish('typed.a', 'x', rollup => 'all', headers => '{"NATS-rollup": "all"}')$$);
SELECT error_of($$SELECT nats_publish('typed.a', 'x', headers => '{"Nats-Rollup": "everything"}')$$);
SELECT error_of($$SELECT nats_publish('typednot.a', 'x', rollup => 'subject')$$);
-- A session that is bounded to some subjects takes nothing else away.
SET nats_publish.allowed_subjects = 'typed.>';
SELECT error_of($$SELECT nats_publish('typed.a', 'x', rollup => 'all')$$);
SELECT (nats_publish('typed.c', 'all of c', rollup => 'subject')).seq;
RESET nats_publish.allowed_subjects;
SELECT seq, subject, payload FROM stream_messages('TYPED');

-- ---- expect_last_subject_seq_subject ----
-- Asked of the server only when it is certain to be understood.
SELECT error_of($$SELECT nats_publish('typed.a', 'x', expect_last_subject_seq_subject => 'typed.a')$$);
SELECT error_of(format($$SELECT nats_publish('typed.a', 'x', expect_last_subject_seq => 1, expect_last_subject_seq_subject => %L)$$, subject))
FROM unnest('{"",typed..a,typed.>.a,typed. a}'::text[]) AS subject;
SELECT error_of($$SELECT nats_publish('typed.a', 'x', expect_last_subject_seq => 1, expect_last_subject_seq_subject => 'typed.a',
    headers => '{"Nats-Expected-Last-Subject-Sequence-Subject": "typed.a"}')$$);
CREATE FUNCTION expected(command text, outcome text, known boolean) RETURNS boolean LANGUAGE sql AS
    $$SELECT CASE WHEN known THEN e LIKE outcome ELSE e ~ '^0A000: [a-z_ ]+ needs nats-server 2\.1[0-9], the connected one is 2\.' END FROM error_of(command) AS e$$;
SELECT what, expected(format('SELECT %s(''typed.order.1.%s'', ''x'', expect_last_subject_seq => %s, expect_last_subject_seq_subject => %L)',
    function, what, seq, subject), outcome, :'knows_subjects')
FROM (VALUES
    ('created', 'nats_publish', '(nats_stream_info(''TYPED'') -> ''state'' ->> ''last_seq'')::bigint + 1', 'typed.order.1.>', '40001: %'),
    ('created', 'nats_publish', '0', 'typed.order.1.>', 'no error'),
    ('paid', 'nats_publish', '0', 'typed.order.1.>', '40001: %wrong last sequence%'),
    ('paid', 'nats_publish', '0', 'typed.order.2.>', 'no error'),
    ('sent', 'nats_publish_async', '0', 'typed.order.*.sent', 'no error'),
    ('read', 'nats_publish', '0', 'typed.order.1.sent', '40001: %')) AS v (what, function, seq, subject, outcome);
SELECT count(*) = CASE WHEN :'knows_subjects' THEN 3 ELSE 0 END AS stored FROM stream_messages('TYPED') WHERE subject LIKE 'typed.order.%';
-- A pattern is within bounds if all its subjects are.
SET nats_publish.allowed_subjects = 'typed.*.*,typed.order.>';
SELECT subject, value AS allowed
FROM unnest('{typed.order.1,typed.order.>,typed.order.*.a,typed.a.*,typed.*.*,typed.a.>,typed.>,typed.*,*.order.a,>,typedx.a.b}'::text[]) AS subject,
    nats_explain('typed.order.3', 'x', jsonb_build_object('Nats-Expected-Last-Subject-Sequence-Subject', subject)) WHERE item = 'allowed';
RESET nats_publish.allowed_subjects;

-- ---- increment ----
SELECT CASE WHEN :'knows_counters' THEN '{"storage": "memory", "allow_msg_counter": true}' ELSE '{"storage": "memory"}' END AS options \gset
SELECT nats_create_stream('TYPEDCOUNT', '{typedcount.>}', :'options') IS NOT NULL AS created;
SELECT increment, left(error_of(format('SELECT nats_publish(''typedcount.a'', NULL, increment => %L)', increment)), 70)
FROM unnest('{1.5,NaN,Infinity,-Infinity,0.000001,-1e-3}'::numeric[]) AS increment;
SELECT options, error_of(format('SELECT nats_publish(''typedcount.a'', %s, increment => 1, %s)', payload, options))
FROM (VALUES ('NULL', 'expect_stream => ''TYPEDCOUNT'''), ('NULL', 'expect_last_seq => 0'), ('NULL', 'expect_last_subject_seq => 0'),
    ('NULL', 'rollup => ''subject'''), ('''x''', 'msg_id => ''a'''), ('NULL', 'headers => ''{"Nats-Incr": 1}'''),
    ('NULL', 'headers => ''{"nats-rollup": "sub"}''')) AS v (payload, options);
SELECT stream_count('TYPEDCOUNT');
CREATE FUNCTION increase(by numeric) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    ack nats_puback;
    later nats_puback;
BEGIN
    ack := nats_publish('typedcount.a', NULL, increment => by);
    later := nats_await(nats_publish_async('typedcount.a', '', increment => by));
    RETURN format('%s %s %s', ack.value, later.value, later.duplicate);
EXCEPTION WHEN feature_not_supported THEN
    RETURN sqlerrm;
END
$$;
SELECT by, CASE WHEN :'knows_counters' THEN result = expected ELSE result LIKE 'increment needs nats-server 2.12, the connected one is 2.%' END AS as_expected
FROM (VALUES (1::numeric, '1 2 f'), (-3, '-1 -4 f'), (4.00, '0 4 f'), (0, '4 4 f'),
    (1e30, '1000000000000000000000000000004 2000000000000000000000000000004 f')) AS v (by, expected), increase(by) AS result;
-- More digits than any other type has.
SELECT CASE WHEN :'knows_counters' THEN length(result) = 2 * 10001 + 3 ELSE result LIKE 'increment needs %' END AS as_expected
FROM increase((10::numeric ^ 10000)) AS result;
SELECT left(error_of($$SELECT nats_publish('typedcount.a', NULL, increment => 10::numeric ^ 70000)$$), 5) AS too_long;
-- Counted once: a duplicate tells no value.
CREATE FUNCTION publish_counter(id text) RETURNS nats_puback LANGUAGE plpgsql AS $$
BEGIN
    RETURN nats_publish('typedcount.b', NULL, msg_id => id, increment => 5);
EXCEPTION WHEN feature_not_supported THEN
    RETURN NULL;
END
$$;
SELECT n, CASE WHEN :'knows_counters' THEN (a.duplicate, a.value) IS NOT DISTINCT FROM (n = 2, CASE n WHEN 1 THEN 5 WHEN 3 THEN 10 END::numeric) ELSE a IS NULL END AS as_expected
FROM (VALUES (1, 'typed-a'), (2, 'typed-a'), (3, 'typed-b')) AS v (n, id), publish_counter(id) AS a;
-- What the stream says.
SELECT CASE WHEN :'knows_counters' THEN e ~ '^0A000: could not publish to "typed.a": message counters is disabled' ELSE e LIKE '0A000: increment needs%' END AS as_expected
FROM error_of($$SELECT nats_publish('typed.a', NULL, increment => 1)$$) AS e;
SELECT CASE WHEN :'knows_counters' THEN e ~ '^22023: could not publish to "typedcount.a": message counter increment is missing' ELSE e = 'no error' END AS as_expected
FROM error_of($$SELECT nats_publish('typedcount.a', 'x')$$) AS e;
SELECT (nats_publish('typed.a', 'no counter')).value IS NULL AS no_value;
DROP FUNCTION increase, publish_counter;
SELECT delete_stream('TYPEDCOUNT');

-- ---- deliver_at ----
SELECT CASE WHEN :'knows_counters' THEN '{"storage": "memory", "allow_msg_schedules": true, "allow_msg_ttl": true}' ELSE '{"storage": "memory"}' END AS options \gset
SELECT nats_create_stream('TYPEDLATER', '{typedlater.>,schedule.typedlater.>,schedule.typed.>}', :'options') IS NOT NULL AS created;
SELECT at, error_of(format('SELECT nats_publish(''typedlater.a'', ''x'', deliver_at => %L)', at))
FROM unnest('{infinity,-infinity,1969-12-31 23:59:59Z,2262-01-01 00:00:00Z}'::timestamptz[]) AS at;
SELECT options, error_of(format('SELECT nats_publish(''typedlater.a'', NULL, deliver_at => ''2100-01-01'', %s)', options))
FROM unnest(ARRAY['expect_last_seq => 0', 'expect_last_subject_seq => 0', 'rollup => ''subject''', 'increment => 1', 'headers => ''{"Nats-Schedule": "@at x"}''',
    'headers => ''{"nats-schedule-target": "typedlater.b"}''', 'ttl => ''1 hour'', headers => ''{"Nats-Schedule-TTL": "1h"}''',
    'msg_id => repeat(''x'', 4000)']) AS options;
SELECT expected(format('SELECT nats_publish(''typedlater.a'', ''x'', headers => ''{"A": "b"}'', msg_id => ''later/1 a.b'', ttl => ''1 hour'', deliver_at => %L)', at), 'no error', :'knows_counters')
FROM unnest('{2100-01-01 12:00+02}'::timestamptz[]) AS at;
SELECT expected('SELECT nats_publish_async(''typedlater.a'', ''y'', msg_id => ''later2'', deliver_at => ''2100-01-01 00:00:00.000001+00'')', 'no error', :'knows_counters');
SELECT CASE WHEN :'knows_counters' THEN count(*) = 2 AND bool_and((subject, headers - 'Nats-Rollup', payload) IN (
        ('schedule.typedlater.a.later%2F1%20a%2Eb', '{"A": "b", "Nats-Msg-Id": "later/1 a.b", "Nats-Schedule": "@at 2100-01-01T10:00:00.000000Z",
            "Nats-Schedule-Target": "typedlater.a", "Nats-Schedule-TTL": "3600"}', 'x'),
        ('schedule.typedlater.a.later2', '{"Nats-Msg-Id": "later2", "Nats-Schedule": "@at 2100-01-01T00:00:00.000001Z", "Nats-Schedule-Target": "typedlater.a"}', 'y')))
    ELSE count(*) = 0 END AS as_expected
FROM stream_messages('TYPEDLATER');
-- What is taken back, and by whom.
SELECT nats_unschedule('typedlater.a', 'later2') = :'knows_counters'::boolean AS there_was, nats_unschedule('typedlater.a', 'later2') AS there_is,
    nats_unschedule('typedlater.b', 'later/1 a.b') AS other, nats_unschedule('nostream.a', 'x') AS no_stream, nats_unschedule(NULL, 'x') AS "null";
-- It removes nothing else.
SELECT (nats_publish('schedule.typedlater.a.b', 'no schedule', msg_id => 'later3')).seq > 0 AS stored, nats_unschedule('typedlater.a', 'b');
SELECT stream_count('TYPEDLATER') = CASE WHEN :'knows_counters' THEN 2 ELSE 1 END AS kept;
SELECT error_of($$SELECT nats_unschedule('typedlater.*', 'x')$$), error_of($$SELECT nats_unschedule('$JS.API', 'x')$$);
SET nats_publish.allowed_subjects = 'typedlater.>';
SELECT error_of($$SELECT nats_publish('typedlater.a', 'x', msg_id => 'a', deliver_at => '2100-01-01')$$), error_of($$SELECT nats_unschedule('typedlater.a', 'later/1 a.b')$$);
SET nats_publish.allowed_subjects = 'schedule.>';
SELECT error_of($$SELECT nats_publish('typedlater.a', 'x', msg_id => 'a', deliver_at => '2100-01-01')$$), error_of($$SELECT nats_unschedule('typedlater.a', 'later/1 a.b')$$);
SET nats_publish.allowed_subjects = 'typedlater.>,schedule.typedlater.>';
-- A copy takes nothing back that the original has published.
SET nats_publish.publishing = off;
SELECT nats_unschedule('typedlater.a', 'later/1 a.b') IS NULL AS is_off;
SET nats_publish.publishing = dry_run;
SELECT nats_unschedule('typedlater.a', 'later/1 a.b') IS NULL AS is_off;
RESET nats_publish.publishing;
SELECT nats_unschedule('typedlater.a', 'later/1 a.b') = :'knows_counters'::boolean AS there_was;
RESET nats_publish.allowed_subjects;
SELECT subject FROM stream_messages('TYPEDLATER');
-- What the stream says.
SELECT expected($$SELECT nats_publish('typed.a', 'x', deliver_at => '2100-01-01')$$, '22023: could not publish to "schedule.typed.a.%": message schedules target is invalid%', :'knows_counters');
SELECT expected($$SELECT nats_publish('nostream.a', 'x', deliver_at => '2100-01-01')$$, '42704: could not publish to "schedule.nostream.a.%', :'knows_counters');
SET nats_publish.schedule_prefix = 'typed';
SELECT expected($$SELECT nats_publish('typed.a', 'x', deliver_at => '2100-01-01')$$, '0A000: could not publish to "typed.typed.a.%": message schedules is disabled%', :'knows_counters');
SET nats_publish.schedule_prefix = 'typed.*';
SET nats_publish.schedule_prefix = '';
RESET nats_publish.schedule_prefix;
SELECT item, CASE item WHEN 'delivered' THEN value ~ CASE WHEN :'knows_counters' THEN '^by the stream$' ELSE '^by nobody: nats-server 2\.[0-9]+ does not do it, nats_publish_outbox\(\) does$' END
    ELSE value IN ('schedule.typedlater.a.x', '@at 2100-01-01T00:00:00.000000Z', 'typedlater.a', 'TYPEDLATER') END AS as_expected
FROM nats_explain('typedlater.a', 'x', msg_id => 'x', deliver_at => '2100-01-01Z') WHERE item ~* 'subject|schedule|stream|deliver';
SELECT delete_stream('TYPEDLATER');

-- ---- Calls as they were ----
-- By position, and with what drivers leave open: a parameter of unknown type is text.
SELECT (nats_publish('typed.call', 'x', NULL, 'typed-1', 'TYPED', NULL, NULL, NULL)).stream;
SELECT nats_publish_async('typed.call', 'x', NULL, NULL, NULL, NULL, NULL, NULL, false) > 0 AS published;
SELECT nats_publish_on_commit('typed.call', 'x', NULL, NULL, NULL, NULL, NULL, NULL);
PREPARE one (unknown, unknown) AS SELECT (nats_publish($1, $2)).stream;
PREPARE two (unknown, unknown, unknown, unknown) AS SELECT (nats_publish($1, $2, headers => $3, msg_id => $4)).stream;
PREPARE three (unknown, unknown, unknown) AS SELECT (nats_publish($1, $2, rollup => $3)).stream;
SELECT name, parameter_types FROM pg_prepared_statements WHERE name IN ('one', 'two', 'three') ORDER BY name;
EXECUTE one ('typed.call', 'x');
EXECUTE two ('typed.call', 'x', '{"A": "b"}', 'typed-2');
EXECUTE three ('typed.call', 'the last', 'subject');
SELECT payload FROM stream_messages('TYPED') WHERE subject = 'typed.call';
DEALLOCATE ALL;

DROP FUNCTION expected;
SELECT delete_stream('TYPED'), delete_stream('TYPEDNOT');
