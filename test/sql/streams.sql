-- Streams: the JetStream API from SQL.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

-- nats_create_stream returns the server's reply.
SELECT reply -> 'config' ->> 'name' AS name, reply -> 'config' -> 'subjects' AS subjects, reply -> 'config' ->> 'storage' AS storage,
    reply -> 'did_create' AS did_create
FROM nats_create_stream('STREAMS', '{streams.>, "streams2.*.x"}') AS reply;
-- Again, the same, is fine; with other options not.
SELECT nats_create_stream('STREAMS', '{streams.>, "streams2.*.x"}') -> 'config' ->> 'name' AS name;
SELECT nats_create_stream('STREAMS', '{streams.>}');
\echo :LAST_ERROR_SQLSTATE
SELECT nats_create_stream('STREAMS_OVERLAP', '{streams.a}');
\echo :LAST_ERROR_SQLSTATE

-- Options are the fields of the configuration.
SELECT config ->> 'description' AS description, config ->> 'storage' AS storage, config -> 'max_msgs' AS max_msgs, config -> 'max_age' AS max_age,
    config ->> 'retention' AS retention, config ->> 'discard' AS discard, config -> 'num_replicas' AS num_replicas, config -> 'duplicate_window' AS duplicate_window
FROM (SELECT nats_create_stream('STREAMS_OPTIONS', '{streamsoptions}', '{"description": "Ünïcode \"and\" quotes", "storage": "memory",
    "max_msgs": 10, "max_age": 3600000000000, "retention": "workqueue", "discard": "new", "num_replicas": 1, "duplicate_window": 60000000000,
    "deny_delete": false, "placement": null, "name": "OTHER", "subjects": ["other"]}') -> 'config' AS config) AS s;
SELECT nats_stream_info('STREAMS_OPTIONS') -> 'config' -> 'subjects' AS subjects;
-- Without subjects the stream takes that of its name.
SELECT nats_create_stream('STREAMS_PLAIN', NULL) -> 'config' -> 'subjects' AS subjects;

-- An option that the server does not know: older ones drop it silently, which is found and undone; newer ones refuse it.
SELECT error ~ '^0A000: the server does not know the stream option "no_such_option"$' OR server_is(2, 12) AND error <> 'no error' AS refused
FROM error_of($$SELECT nats_create_stream('STREAMS_UNKNOWN', '{streamsunknown}', '{"no_such_option": true}')$$) AS error;
SELECT error_of($$SELECT nats_stream_info('STREAMS_UNKNOWN')$$);
SELECT CASE WHEN server_is(2, 11) THEN error = 'no error' AND delete_stream('STREAMS_TTL') = 'true'
    ELSE error = '0A000: the server does not know the stream option "allow_msg_ttl"' END AS as_expected
FROM error_of($$SELECT nats_create_stream('STREAMS_TTL', '{streamsttl}', '{"allow_msg_ttl": true}')$$) AS error;
-- A stream that was there before is not taken away for that.
SELECT seq FROM nats_publish('STREAMS_PLAIN', 'a message');
SELECT left(error_of($$SELECT nats_create_stream('STREAMS_PLAIN', NULL, '{"no_such_option": true}')$$), 5) IN ('22023', '0A000', '38000') AS refused;
SELECT payload FROM stream_messages('STREAMS_PLAIN');

-- Wrong options and names.
SELECT error_of($$SELECT nats_create_stream('STREAMS_BAD', '{streamsbad}', '{"retention": "forever"}')$$) ~ '^(22023|38000): ' AS refused;
SELECT error_of($$SELECT nats_create_stream('STREAMS_BAD', '{streamsbad}', '{"max_msgs": "many"}')$$) ~ '^(22023|38000): ' AS refused;
SELECT error_of($$SELECT nats_create_stream('STREAMS_BAD', '{streamsbad}', '[]')$$);
SELECT error_of($$SELECT nats_create_stream('STREAMS_BAD', '{streamsbad}', '"x"')$$);
SELECT error_of($$SELECT nats_create_stream('STREAMS_BAD', '{streamsbad, NULL}')$$);
SELECT left(error_of($$SELECT nats_create_stream('STREAMS_BAD', '{"bad subject"}')$$), 5);
SELECT left(error_of($$SELECT nats_create_stream('STREAMS_BAD', '{a..b}')$$), 5);
SELECT error_of($$SELECT nats_stream_info('STREAMS_BAD')$$);
SELECT name, error_of(format('SELECT nats_create_stream(%L, %L)', name, '{streamsbad}')) AS create_stream,
    left(error_of(format('SELECT nats_stream_info(%L)', name)), 5) AS stream_info,
    left(error_of(format('SELECT nats_get_message(%L, 1)', name)), 5) AS get_message
FROM (VALUES (NULL), (''), ('A.B'), ('A*'), ('>'), ('A B'), (E'A\tB'), (E'A\r\nB'), ('A/B'), ('A\B'), (E'A\x01'), (E'A\x7f')) AS v (name);
SELECT error_of(format('SELECT nats_stream_info(%L)', repeat('A', 300))) ~ '^(22023|42704|38000): ' AS refused;
SELECT left(error_of(format('SELECT nats_stream_info(%L)', repeat('A', 10000))), 5);

-- nats_stream_info.
SELECT nats_stream_info('STREAMS') -> 'state' ->> 'messages' AS messages;
SELECT nats_stream_info('STREAMS_NONE');
\echo :LAST_ERROR_SQLSTATE

-- nats_jetstream: requests with and without a body.
SELECT nats_jetstream('STREAM.NAMES') -> 'streams' @> '["STREAMS", "STREAMS_PLAIN"]' AS found;
SELECT nats_jetstream('STREAM.NAMES', '{}') -> 'streams' @> '["STREAMS", "STREAMS_PLAIN"]' AS found;
SELECT nats_jetstream('STREAM.NAMES', '{"subject": "streams2.a.x"}') -> 'streams' AS streams;
SELECT nats_jetstream('INFO') ? 'limits' AS limits;
SELECT nats_jetstream('STREAM.INFO.STREAMS_NONE');
\echo :LAST_ERROR_SQLSTATE
SELECT nats_jetstream('CONSUMER.INFO.STREAMS.none');
\echo :LAST_ERROR_SQLSTATE
SELECT error_of($$SELECT nats_jetstream('STREAM.NAMES', '[1]')$$) ~ '^38000: .*: invalid JSON.*\(JetStream error 10025\)$' AS refused;
-- Nobody answers this.
SET nats_publish.ack_timeout = '200ms';
SELECT nats_jetstream('NO.SUCH.API');
\echo :LAST_ERROR_SQLSTATE
RESET nats_publish.ack_timeout;
SELECT api, error_of(format('SELECT nats_jetstream(%L)', api))
FROM (VALUES (NULL), (''), ('.'), ('STREAM.'), ('STREAM..INFO'), ('STREAM NAMES'), ('STREAM.*'), ('>'), (E'STREAM.NAMES\r\nPUB a 0\r\n'),
    (E'STREAM.\x7f')) AS v (api);
SELECT left(error_of(format('SELECT nats_jetstream(%L)', repeat('A', 10000))), 5);

-- nats_get_message.
SELECT seq FROM nats_publish('streams.a', '\x0001ff'::bytea, headers => '{"A": ["1", "2", "1"], "B": "ü"}', msg_id => 'id');
SELECT stream, subject, seq, "time" <= clock_timestamp() + '1 minute' AS "time", headers, payload FROM nats_get_message('STREAMS', 1);
SELECT (nats_get_message('STREAMS', 1)).payload;
SELECT nats_get_message('STREAMS', 2);
\echo :LAST_ERROR_SQLSTATE
SELECT nats_get_message('STREAMS_NONE', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT error_of($$SELECT nats_get_message('STREAMS', 0)$$);
SELECT error_of($$SELECT nats_get_message('STREAMS', -1)$$);
SELECT error_of($$SELECT nats_get_message('STREAMS', NULL)$$);
SELECT left(error_of($$SELECT nats_get_message('STREAMS', 9223372036854775807)$$), 5);
SELECT left(error_of($$SELECT nats_get_message(NULL, 1)$$), 5);
-- One that was deleted.
SELECT nats_jetstream('STREAM.MSG.DELETE.STREAMS', '{"seq": 1}') -> 'success' AS deleted;
SELECT nats_get_message('STREAMS', 1);
\echo :LAST_ERROR_SQLSTATE

-- These requests wait for what is published before them in no way, and do not disturb it.
BEGIN;
SELECT count(nats_publish_async('streams.b', i::text)) FROM generate_series(1, 100) AS i;
SELECT nats_stream_info('STREAMS') -> 'config' ->> 'name' AS name;
SELECT count(*) FROM nats_futures();
COMMIT;
SELECT stream_count('STREAMS');

SELECT delete_stream('STREAMS'), delete_stream('STREAMS_OPTIONS'), delete_stream('STREAMS_PLAIN');
