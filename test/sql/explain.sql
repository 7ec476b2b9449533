-- nats_explain(): what would be published, and where to; and that nothing is.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('EXPLAIN', 'explain.>');
-- The port is another one each time, and only newer servers tell of subscribers.
CREATE FUNCTION explained(subject text, payload text, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL, OUT item text, OUT value text)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT item, regexp_replace(value, '127\.0\.0\.1:\d{2,}', '127.0.0.1:port', 'g') FROM nats_explain(subject, payload, headers, msg_id)
    WHERE item <> 'subscribers'
$$;
-- As an error of nats_publish(), with the same arguments?
CREATE FUNCTION same_error(arguments text, OUT error text, OUT same boolean) LANGUAGE sql AS $$
    SELECT error_of('SELECT nats_explain(' || arguments || ')'),
        error_of('SELECT nats_explain(' || arguments || ')') IS NOT DISTINCT FROM error_of('SELECT nats_publish(' || arguments || ')')
$$;

SELECT * FROM explained('explain.a', 'hello');
SELECT * FROM explained('explain.a', 'hello', '{"Source": "billing", "Tag": ["a", "b"], "Number": 1, "True": true}', 'order-1');
SELECT * FROM explained('explain.a', NULL, '{"nats-msg-id": "order-1"}');
SELECT * FROM explained('explain.a', 'grün') WHERE item LIKE '%size';
SET nats_publish.auto_msg_id = off;
SELECT * FROM explained('explain.a', 'hello') WHERE item = 'msg_id' OR item LIKE '%size';
RESET nats_publish.auto_msg_id;
-- The size that it tells is the one that is sent.
SELECT value::int AS size FROM nats_explain('explain.a', 'x', '{"A": "b"}') WHERE item = 'message_size' \gset
SELECT (nats_publish('explain.a', 'x', '{"A": "b"}')).seq;
SELECT length(decode(message ->> 'hdrs', 'base64')) + length(decode(message ->> 'data', 'base64')) = :size AS same
FROM (SELECT nats_jetstream('STREAM.MSG.GET.EXPLAIN', '{"seq": 1}') -> 'message' AS message) AS m;

-- Bad input is what it is to nats_publish().
SELECT * FROM same_error($$NULL, 'x'$$);
SELECT * FROM same_error($$'', 'x'$$);
SELECT * FROM same_error($$'explain.*', 'x'$$);
SELECT * FROM same_error($$'$JS.API.INFO', 'x'$$);
SELECT * FROM same_error($$'_INBOX.a', 'x'$$);
SELECT * FROM same_error($$'explain.a', 'x', headers => '{"A B": "c"}'$$);
SELECT * FROM same_error($$'explain.a', 'x', headers => '{"Nats-Batch-Id": "c"}'$$);
SELECT * FROM same_error($$'explain.a', 'x', headers => '1'$$);
SELECT * FROM same_error($$'explain.a', 'x', headers => '{"Nats-Msg-Id": "a"}', msg_id => 'b'$$);
SELECT * FROM same_error($$'explain.a', 'x', headers => jsonb_build_object('A', repeat('x', 70000))$$);
SELECT * FROM same_error($$'explain.a', 'x', msg_id => ''$$);

-- What keeps it from being published is told.
SET nats_publish.publishing = off;
SELECT * FROM explained('explain.a', 'x') WHERE item IN ('publishing', 'stream');
SET nats_publish.publishing = dry_run;
SELECT * FROM explained('explain.a', 'x') WHERE item IN ('publishing', 'stream');
RESET nats_publish.publishing;
SET nats_publish.allowed_subjects = 'other.>, explain.b';
SELECT * FROM explained('explain.a', 'x') WHERE item = 'allowed';
SELECT * FROM explained('explain.b', 'x') WHERE item = 'allowed';
RESET nats_publish.allowed_subjects;
-- A newer server knows that there is none, an older one only that the account has none.
SELECT value ~ '^(none: No stream takes|unknown: The account has no stream that takes) the subject\.$' AS said
FROM explained('nothing.takes.this', 'x') WHERE item = 'stream';
SELECT * FROM explained('explain.a', repeat('x', 1048577)) WHERE item IN ('payload_size', 'max_payload');
SET nats_publish.url = 'nats://user:secret@127.0.0.1:1';
SELECT * FROM explained('explain.a', 'x') WHERE item IN ('max_payload', 'server', 'stream');
RESET nats_publish.url;
SET nats_publish.server = 'regress_nats_none';
SELECT * FROM explained('explain.a', 'x') WHERE item IN ('payload_size', 'max_payload', 'server', 'stream');
RESET nats_publish.server;

-- Nothing was sent, and nothing is left.
SELECT stream_count('EXPLAIN');
BEGIN READ ONLY;
SELECT nats_publish_async('explain.a', 'x') > 0 AS future;
SELECT count(*) > 5 AS explained FROM nats_explain('explain.a', 'x');
SELECT nats_flush() >= 0 AS flushed;
COMMIT;
SELECT stream_count('EXPLAIN');
