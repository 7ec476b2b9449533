-- What is too large, or too much for a stream; the connection survives.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('LIMITS', 'limits.>');
SELECT client_id AS client, max_payload FROM nats_server_info() \gset

-- max_payload of the server counts the headers: it would close the connection.
SET nats_publish.auto_msg_id = off;
SELECT seq FROM nats_publish('limits.a', repeat('x', :max_payload));
SELECT replace(error_of($$SELECT nats_publish('limits.a', repeat('x', $$ || :max_payload + 1 || '))'), :'max_payload', 'MAX') AS error;
SELECT error_of($$SELECT nats_publish_async('limits.a', repeat('x', $$ || :max_payload + 1 || '))') ~ '^54000: message is' AS refused;
SELECT error_of($$SELECT nats_publish_async('limits.a', repeat('x', $$ || :max_payload + 1 || '), critical => false)') ~ '^54000: message is' AS refused;
SELECT error_of($$SELECT nats_publish('limits.a', decode(repeat('00', $$ || :max_payload + 1 || $$), 'hex'))$$) ~ '^54000: message is' AS refused;
SET nats_publish.auto_msg_id = on;
SELECT error_of($$SELECT nats_publish('limits.a', repeat('x', $$ || :max_payload || '))') ~ '^54000: message is' AS refused;
SELECT seq FROM nats_publish('limits.a', repeat('x', :max_payload - 1000));
SELECT nats_publish('limits.a', repeat('x', 10000000));
\echo :LAST_ERROR_SQLSTATE
SELECT error_of(format('SELECT nats_jetstream(%L, %L)', 'STREAM.NAMES', jsonb_build_object('subject', repeat('x', 2000000)))) ~ '^54000: ' AS refused;
SELECT seq FROM nats_publish('limits.a', '3');
SELECT client_id = :client AS same FROM nats_server_info();

-- In a transaction the error is that call's only.
BEGIN;
SELECT nats_publish_async('limits.b', '4') IS NOT NULL AS published;
SAVEPOINT s;
SELECT nats_publish_async('limits.b', repeat('x', 10000000));
ROLLBACK TO s;
SELECT nats_publish_async('limits.b', '5') IS NOT NULL AS published;
COMMIT;
SELECT seq, length(payload) FROM stream_messages('LIMITS') WHERE seq > 2;

-- A stream's max_msg_size.
SELECT nats_create_stream('LIMSIZE', '{limsize}', '{"storage": "memory", "max_msg_size": 1000}') -> 'config' -> 'max_msg_size' AS max_msg_size;
SELECT seq FROM nats_publish('limsize', repeat('x', 900));
SELECT nats_publish('limsize', repeat('x', 1001));
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish_async('limsize', repeat('x', 1001));
\echo :LAST_ERROR_SQLSTATE

-- A full stream that discards new messages: by number, by bytes.
-- The one text that stands for what servers leave out of their replies.
SELECT nats_create_stream('LIMMODE', '{limmode}', '{"storage": "memory", "persist_mode": "default"}') -> 'config' ->> 'name' AS stream;
SELECT nats_create_stream('LIMMODE', '{limmode}', '{"storage": "memory", "persist_mode": "default"}') -> 'config' ->> 'name' AS stream;
SELECT (nats_jetstream('STREAM.DELETE.LIMMODE') -> 'success')::bool AS deleted;
SELECT nats_create_stream('LIMMSGS', '{limmsgs}', '{"storage": "memory", "max_msgs": 2, "discard": "new"}') IS NOT NULL AS created;
SELECT nats_create_stream('LIMBYTES', '{limbytes}', '{"storage": "memory", "max_bytes": 1000, "discard": "new"}') IS NOT NULL AS created;
SELECT count(nats_publish('limmsgs', 'x')) FROM generate_series(1, 2);
SELECT nats_publish('limmsgs', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT seq FROM nats_publish('limbytes', repeat('x', 500));
SELECT nats_publish('limbytes', repeat('x', 500));
\echo :LAST_ERROR_SQLSTATE
-- There is room again.
SELECT nats_jetstream('STREAM.PURGE.LIMMSGS') -> 'purged' AS purged;
SELECT seq FROM nats_publish('limmsgs', 'x');
-- One that discards old messages is never full.
SELECT nats_create_stream('LIMOLD', '{limold}', '{"storage": "memory", "max_msgs": 2}') IS NOT NULL AS created;
SELECT count(nats_publish_async('limold', i::text)) FROM generate_series(1, 100) AS i;
SELECT seq, payload FROM stream_messages('LIMOLD');

-- A sealed stream: any other error of JetStream is 38000, with its number.
SELECT nats_jetstream('STREAM.UPDATE.LIMOLD', nats_stream_info('LIMOLD') -> 'config' || '{"sealed": true}') -> 'config' -> 'sealed' AS sealed;
SELECT nats_publish('limold', 'x');
\echo :LAST_ERROR_SQLSTATE

SELECT client_id = :client AS same FROM nats_server_info();
SELECT delete_stream('LIMITS'), delete_stream('LIMSIZE'), delete_stream('LIMMSGS'), delete_stream('LIMBYTES'), delete_stream('LIMOLD');
