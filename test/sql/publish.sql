-- nats_publish: payloads of each type, and what comes back.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('PUBLISH', 'publish.>');

SELECT * FROM nats_publish('publish.text', 'hello'::text);
SELECT * FROM nats_publish('publish.bytea', '\x00ff0d0a00'::bytea);
SELECT * FROM nats_publish('publish.json', '{"b": 1,  "a": [1,2], "b": 2}'::json);
SELECT * FROM nats_publish('publish.jsonb', '{"b": 1,  "a": [1,2], "b": 2}'::jsonb);
SELECT pg_typeof(nats_publish('publish.type', 'x'));

-- A literal of unknown type is text, in every notation, and so is a null.
SELECT * FROM nats_publish('publish.unknown', '{"a":  1}');
SELECT * FROM nats_publish('publish.unknown', E'\\x4142');
SELECT * FROM nats_publish('publish.unknown', NULL);

-- A null payload is an empty message, as an empty one is.
SELECT * FROM nats_publish('publish.null', NULL::text);
SELECT * FROM nats_publish('publish.null', NULL::bytea);
SELECT * FROM nats_publish('publish.null', NULL::json);
SELECT * FROM nats_publish('publish.null', NULL::jsonb);
SELECT * FROM nats_publish('publish.empty', ''::text);

SELECT stream, subject, seq, now() - "time" < '1 hour' AS recent, payload
FROM generate_series(1, 13) AS number, nats_get_message('PUBLISH', number)
ORDER BY seq;

-- A null subject is an error, and stores nothing.
SELECT nats_publish(NULL, 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish_async(NULL, 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT stream_count('PUBLISH');

-- The other arguments may be null.
SELECT seq FROM nats_publish('publish.nulls', 'x', headers => NULL, msg_id => NULL, expect_stream => NULL,
    expect_last_seq => NULL, expect_last_subject_seq => NULL, ttl => NULL);

-- Each call is one message, wherever it stands.
SELECT count(nats_publish('publish.series', i::text)) FROM generate_series(1, 10) AS i;
PREPARE one AS SELECT (nats_publish('publish.prepared', 'same')).duplicate;
EXECUTE one;
EXECUTE one;
SELECT (nats_publish('publish.constant', 'same')).duplicate FROM generate_series(1, 3);
SELECT subject, count(*), array_agg(payload ORDER BY seq) FROM stream_messages('PUBLISH')
WHERE seq > 14 GROUP BY subject ORDER BY min(seq);

-- Any text is sent as UTF-8, long ones too.
SELECT seq FROM nats_publish('publish.utf8', 'Grüße, 世界 🐘');
SELECT convert_from(payload, 'UTF8'), length(payload) FROM nats_get_message('PUBLISH', 30);
SELECT seq FROM nats_publish('publish.long', repeat('0123456789', 50000));
SELECT length(payload), md5(payload) = md5(repeat('0123456789', 50000)) AS same FROM nats_get_message('PUBLISH', 31);

-- From a toasted column.
CREATE TEMP TABLE big (t text, b bytea, j json, jb jsonb);
ALTER TABLE big ALTER t SET STORAGE EXTERNAL;
INSERT INTO big SELECT repeat('x', 100000), decode(repeat('00ff', 50000), 'hex'),
    to_json(array_agg(i)), to_jsonb(array_agg(i)) FROM generate_series(1, 10000) AS i;
SELECT (nats_publish('publish.toast', t)).seq, (nats_publish('publish.toast', b)).seq,
    (nats_publish('publish.toast', j)).seq, (nats_publish('publish.toast', jb)).seq FROM big;
SELECT (nats_get_message('PUBLISH', 32)).payload = t::bytea AS t, (nats_get_message('PUBLISH', 33)).payload = b AS b,
    (nats_get_message('PUBLISH', 34)).payload = j::text::bytea AS j, (nats_get_message('PUBLISH', 35)).payload = jb::text::bytea AS jb
FROM big;

SELECT delete_stream('PUBLISH');
