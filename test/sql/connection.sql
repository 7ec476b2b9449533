-- The session's connection: made at first use, changed with the settings, told about, closed.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

-- Helpers and LOAD do not connect, nor does closing what is not there.
\c -
SELECT nats_disconnect();
SELECT connects FROM nats_session_stats();
SELECT url ~ '^nats://127\.0\.0\.1:\d+$' AS url, length(server_name) > 0 AS server_name, length(server_id) AS server_id,
    version ~ '^\d+\.\d+\.\d+' AS version, coalesce(api_level >= 0, NOT server_is(2, 12)) AS api_level, cluster,
    max_payload >= 1048576 AS max_payload, tls, jetstream, client_id > 0 AS client_id, client_ip,
    rtt BETWEEN '0' AND '10 seconds' AS rtt, connected_at BETWEEN now() - interval '1 hour' AND clock_timestamp() AS connected_at
FROM nats_server_info();
SELECT connects FROM nats_session_stats();

-- The connection is kept ...
SELECT client_id AS client FROM nats_server_info() \gset
SELECT create_stream('CONNECTION', 'connection.>');
SELECT seq FROM nats_publish('connection.a', '1');
SELECT client_id = :client AS same FROM nats_server_info();
-- ... over failed transactions and statements ...
BEGIN;
SELECT nats_publish_async('connection.a', '2') IS NOT NULL AS published;
SELECT 1 / 0;
ROLLBACK;
SELECT nats_publish('connection..a', 'x');
SELECT nats_jetstream('STREAM.INFO.CONNECTION_NONE');
SELECT client_id = :client AS same FROM nats_server_info();
-- ... until it is closed. The next call makes another.
SELECT nats_disconnect();
SELECT nats_disconnect();
SELECT stream, duplicate FROM nats_publish('connection.a', '3');
SELECT client_id > :client AS other FROM nats_server_info();
SELECT connects, connections_lost FROM nats_session_stats();

-- nats_disconnect waits for what is not acknowledged, and the futures remain.
BEGIN;
SELECT count(nats_publish_async('connection.b', i::text)) FROM generate_series(1, 1000) AS i;
SELECT nats_disconnect();
SELECT nats_disconnect();
SELECT status, count(*) FROM nats_futures() GROUP BY status;
SELECT nats_publish_async('connection.b', '1001') IS NOT NULL AS published;
COMMIT;
SELECT count(*), count(DISTINCT payload) FROM stream_messages('CONNECTION') WHERE subject = 'connection.b';
-- A failure that it finds is raised, as by nats_flush.
SELECT nats_create_stream('CONNECTFULL', '{connectfull.>}', '{"storage": "memory", "max_msgs": 1, "discard": "new"}') IS NOT NULL AS created;
SELECT seq FROM nats_publish('connectfull.a', 'the only one');
BEGIN;
SELECT nats_publish_async('connectfull.a', 'x') IS NOT NULL AS published;
SELECT nats_disconnect();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- The next publish uses a changed URL. Nobody listens on port 1.
SELECT current_setting('nats_publish.url') AS url \gset
SELECT stream_count('CONNECTION') AS before \gset
SET nats_publish.url = 'nats://user:secret@127.0.0.1:1';
SELECT nats_publish('connection.a', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish_async('connection.a', 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT nats_server_info();
\echo :LAST_ERROR_SQLSTATE
SELECT error_of($$SELECT nats_jetstream('STREAM.NAMES')$$) ~ '^58000: .*could not connect to NATS$' AS unreachable;
SELECT nats_flush(), nats_disconnect();
-- Several: each says why.
SET nats_publish.url = 'nats://127.0.0.1:1, nats://token-secret@127.0.0.1:2,nats://127.0.0.1:3';
SELECT nats_publish('connection.a', 'x');
-- critical => false is a warning, and the next one does not even try for a second.
\c -
SELECT set_config('nats_publish.url', 'nats://127.0.0.1:1', false) IS NOT NULL AS "set";
CREATE TABLE connection_rows (n int);
BEGIN;
INSERT INTO connection_rows VALUES (1);
SELECT nats_publish_async('connection.a', 'x', critical => false) AS first,
    nats_publish_async('connection.a', 'x', critical => false) AS second \gset
SELECT future - :first AS future, subject, msg_id IS NOT NULL AS has_id, status, sqlstate, error FROM nats_futures() ORDER BY future;
COMMIT;
TABLE connection_rows;
DROP TABLE connection_rows;
-- A server that is not there is passed over.
SELECT set_config('nats_publish.url', 'nats://127.0.0.1:1,' || :'url', false) IS NOT NULL AS "set";
SELECT seq - :before AS next FROM nats_publish('connection.a', '4');
SELECT url = :'url' AS as_told FROM nats_server_info();
SELECT set_config('nats_publish.url', replace(:'url', 'nats://', 'nats://user:secret@'), false) IS NOT NULL AS "set";
SELECT url = :'url' AS without_credentials FROM nats_server_info();
RESET nats_publish.url;
SELECT seq - :before AS next FROM nats_publish('connection.a', '5');
-- Within a transaction: what is on its way on the old connection is finished first.
BEGIN;
SELECT count(nats_publish_async('connection.c', i::text)) FROM generate_series(1, 100) AS i;
SELECT client_id AS client FROM nats_server_info() \gset
SET LOCAL nats_publish.inbox_prefix = '_INBOX_other';
SELECT nats_publish_async('connection.c', '101') IS NOT NULL AS published;
SELECT client_id > :client AS other FROM nats_server_info();
COMMIT;
SELECT seq - :before AS next FROM nats_publish('connection.c', '102');
SELECT count(*), count(DISTINCT payload) FROM stream_messages('CONNECTION') WHERE subject = 'connection.c';
-- Timeouts are no reason for a new connection.
SELECT client_id AS client FROM nats_server_info() \gset
SET nats_publish.ack_timeout = '20s';
SET nats_publish.connect_timeout = '20s';
SELECT client_id = :client AS same FROM nats_server_info();

-- DISCARD ALL leaves the connection as it is.
DISCARD ALL;
SELECT client_id = :client AS same FROM nats_server_info();

SELECT connections_lost FROM nats_session_stats();
SELECT delete_stream('CONNECTION'), delete_stream('CONNECTFULL');
