-- Subjects: what may be one, and that nothing else reaches the server.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('SUBJECTS', 'subjects.>', 'other.>', '*');
SELECT create_stream('KV_subjects', '$KV.subjects.>');
SET nats_publish.auto_msg_id = off;

CREATE TEMP TABLE good (id serial, subject text);
INSERT INTO good (subject) VALUES
    ('a'), ('subjects.a'), ('subjects.a-b_c'), ('subjects.a*b'), ('subjects.*a'), ('subjects.a*'), ('subjects.a>'),
    ('subjects.>>'), ('subjects.**'), ('subjects.ü世🐘'), ('subjects.$JS.x'), ('$'), ('$JSX'), ('_INBOXES'), ('subjects."\/'),
    ('subjects.{a}%s%n'), ('$KV.subjects.key');
SELECT subject, stream, seq FROM good, LATERAL nats_publish(subject, subject) ORDER BY id;
SELECT subject, payload = subject AS same FROM stream_messages('SUBJECTS');
SELECT subject, payload FROM stream_messages('KV_subjects');

CREATE TEMP TABLE bad (id serial, subject text);
INSERT INTO bad (subject) VALUES
    (''), (' '), ('.'), ('..'), ('.subjects'), ('subjects.'), ('subjects..a'), ('subjects.a.'), ('.subjects.a'),
    (' subjects.a'), ('subjects.a '), ('subjects.a b'), (E'subjects.a\tb'), (E'subjects.a\rb'), (E'subjects.a\nb'),
    (E'subjects.a\r\n'), (E'subjects.a\x01'), (E'subjects.a\x1f'), (E'subjects.a\x7f'), (E'subjects.ü b'),
    ('*'), ('>'), ('subjects.*'), ('subjects.>'), ('*.a'), ('subjects.*.a'), ('subjects.>.a'), ('subjects.a.>'),
    ('$JS'), ('$JS.API.STREAM.NAMES'), ('$JS.API.STREAM.DELETE.SUBJECTS'), ('$JS.ACK.SUBJECTS.x.1.1.1.1.1'),
    ('$SYS'), ('$SYS.REQ.SERVER.PING'), ('_INBOX'), ('_INBOX.abc.1'),
    -- peers.md d-25
    (E'ok.a 0\r\n\r\nPUB evil.x 5\r\nhello\r\nPUB ok.b'), ('ok.c evil.reply'), ('ok.*'), ('ok..q'), ('ok.e.'),
    (E'subjects.a 0\r\n\r\nPUB subjects.forged 5\r\nhello\r\nPUB subjects.b'), ('subjects.c other.reply'),
    (E'subjects.a\r\n+OK\r\n');
SELECT subject, error_of(format('SELECT nats_publish(%L, %L)', subject, 'x')) AS error FROM bad ORDER BY id;
SELECT DISTINCT left(error_of(format('SELECT nats_publish_async(%L, %L)', subject, 'x')), 5) AS error FROM bad;
SELECT DISTINCT left(error_of(format('SELECT nats_publish_async(%L, %L, critical => false)', subject, 'x')), 5) AS error FROM bad;
SELECT count(*) FROM nats_futures();

-- Nothing of this was stored, and the connection is what it was.
SELECT stream_count('SUBJECTS'), stream_count('KV_subjects');
SELECT connects FROM nats_session_stats();

-- The inbox prefix is the one of the setting.
SET nats_publish.inbox_prefix = 'other.inbox';
SELECT error_of($$SELECT nats_publish('other.inbox.1', 'x')$$);
SELECT error_of($$SELECT nats_publish('other.inbox', 'x')$$);
SELECT seq > 0 AS ok FROM nats_publish('other.inboxes', 'x');
RESET nats_publish.inbox_prefix;

-- 4,000 bytes, not characters, are the limit.
SELECT (nats_publish(rpad('subjects.', 4000, 'x'), 'x')).seq IS NOT NULL AS ok;
SELECT error_of(format('SELECT nats_publish(%L, %L)', rpad('subjects.', 4001, 'x'), 'x'));
SELECT error_of(format('SELECT nats_publish(%L, %L)', rpad('subjects.', 5000, 'x'), 'x'));
SELECT error_of(format('SELECT nats_publish(%L, %L)', rpad('subjects.', 2100, 'ü'), 'x'));
SELECT error_of(format('SELECT nats_publish(%L, %L)', rpad('subjects.', 2000000, '.x'), 'x'));
-- With headers, and with the longest inbox prefix, the protocol line of a longest subject still fits.
SET nats_publish.auto_msg_id = on;
SET nats_publish.inbox_prefix = 'inbox.of.thirty.two.bytes.xxxxxx';
SELECT (nats_publish(rpad('subjects.', 4000, 'x'), repeat('x', 100000))).seq IS NOT NULL AS ok;
SELECT (nats_publish_async(rpad('subjects.', 4000, 'x'), repeat('x', 100000))) IS NOT NULL AS ok;
SELECT subject = rpad('subjects.', 4000, 'x') AS same, length(payload)
FROM stream_messages('SUBJECTS') WHERE length(subject) > 100;

SELECT delete_stream('SUBJECTS'), delete_stream('KV_subjects');
