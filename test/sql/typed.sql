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
