-- The formats cloudevents and debezium, and traceparent.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_FORMATS', 'change_formats.>');
CREATE SCHEMA change_formats;
SET search_path = change_formats, public;
CREATE TABLE items (id int, "A b" text, n numeric, PRIMARY KEY (id, "A b"));
-- Each kind of change, in one transaction of which we know id and times.
CREATE PROCEDURE change_items() LANGUAGE sql AS $$
    INSERT INTO items VALUES (1, 'a.b > ü', 1.50), (2, '', NULL);
    UPDATE items SET n = 2 WHERE id = 1;
    UPDATE items SET id = 3, n = 3 WHERE id = 2;
    DELETE FROM items;
    TRUNCATE items;
$$;

-- CloudEvents, binary mode: the body is that of json, the rest is in headers.
CREATE VIEW cloudevents AS
SELECT s.subject, s.payload, m.headers, s.payload::json ->> 'op' AS op, row_number() OVER (ORDER BY s.seq) AS n
FROM stream_messages('CHANGE_FORMATS') AS s, nats_get_message('CHANGE_FORMATS', s.seq) AS m;
SELECT nats_publish_table('items', format => 'cloudevents');
SET timezone = 'Asia/Kathmandu';
BEGIN;
CALL change_items();
SELECT pg_current_xact_id() AS xid, (to_json(now() AT TIME ZONE 'UTC') #>> '{}') || 'Z' AS started \gset
COMMIT;
RESET timezone;
SELECT op, ARRAY(SELECT name FROM jsonb_object_keys(headers) AS name ORDER BY lower(name)) AS headers FROM cloudevents ORDER BY n;
SELECT op, headers ->> 'ce-specversion' AS specversion, headers ->> 'ce-type' AS type, headers ->> 'ce-subject' AS subject,
    headers ->> 'ce-datacontenttype' AS datacontenttype,
    headers ->> 'Content-Type' AS content_type, headers ->> 'Pg-Op' AS pg_op, headers ->> 'Pg-Table' AS pg_table
FROM cloudevents ORDER BY n;
SELECT count(*) AS messages, count(DISTINCT headers ->> 'ce-id') AS ids,
    bool_and(headers ->> 'ce-id' = headers ->> 'Nats-Msg-Id') AS id_is_msg_id, bool_and(headers ->> 'ce-time' = :'started') AS time,
    bool_and(headers ->> 'ce-source' = '/postgresql/' || current_database() || '/change_formats/items') AS source,
    bool_and(headers ->> 'Pg-Xid' = :'xid') AS xid
FROM cloudevents;
SELECT subject, payload FROM changes('CHANGE_FORMATS');
-- The body is that of json to the last byte.
SELECT nats_publish_table('items', old => true, subject => 'change_formats.json', msg_id => 'json-{op}-{id}');
CREATE TRIGGER cloudevents AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change('format=cloudevents', 'old=true', 'subject=change_formats.cloudevents',
    'msg_id=cloudevents {op} {id}', 'headers={"Id": "{id}"}');
CREATE TRIGGER cloudevents_truncate AFTER TRUNCATE ON items FOR EACH STATEMENT
    EXECUTE FUNCTION nats_publish_change('format=cloudevents', 'subject=change_formats.cloudevents',
    'msg_id=cloudevents {op} {id}');
CALL change_items();
SELECT count(*), count(DISTINCT payload) FROM cloudevents;
SELECT headers ->> 'ce-id' AS id, headers ->> 'Nats-Msg-Id' AS msg_id, headers ->> 'ce-subject' AS subject,
    headers ->> 'Id' AS header
FROM cloudevents WHERE subject LIKE '%.cloudevents' ORDER BY n;
SELECT count(*) FROM changes('CHANGE_FORMATS');
DROP TRIGGER cloudevents ON items;
DROP TRIGGER cloudevents_truncate ON items;
-- Without ids of messages, events still have them; a table without key has no subject.
CREATE TABLE "Key.Less" (n int);
SELECT nats_publish_table('"Key.Less"', format => 'cloudevents', level => 'statement', old => true);
SET nats_publish.auto_msg_id = off;
INSERT INTO "Key.Less" VALUES (1), (NULL);
DELETE FROM "Key.Less";
RESET nats_publish.auto_msg_id;
SELECT subject, headers ->> 'ce-type' AS type, headers ? 'ce-subject' AS subject, headers ? 'Nats-Msg-Id' AS msg_id,
    headers ->> 'ce-id' <> '' AS id, regexp_replace(headers ->> 'ce-source', '.*/change', '/change') AS source
FROM cloudevents ORDER BY n;
SELECT count(DISTINCT headers ->> 'ce-id') AS ids FROM cloudevents;
SELECT count(*) FROM changes('CHANGE_FORMATS');
-- The database is a part of the source.
CREATE DATABASE "regress nats.ü" TEMPLATE template0;
SELECT current_database() AS home \gset
\c "regress nats.ü"
CREATE EXTENSION nats_publish;
CREATE TABLE t (id int PRIMARY KEY);
SELECT nats_publish_table('t', subject => 'change_formats.cloudevents', format => 'cloudevents');
CREATE TRIGGER debezium AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nats_publish_change('subject=change_formats.debezium',
    'format=debezium');
INSERT INTO t VALUES (1);
\c :home
DROP DATABASE "regress nats.ü";
SET search_path = change_formats, public;
SELECT subject, headers ->> 'ce-source' AS ce_source, payload::json #>> '{source,name}' AS name,
    payload::json #>> '{source,db}' AS db
FROM stream_messages('CHANGE_FORMATS') ORDER BY subject;
SELECT count(*) FROM changes('CHANGE_FORMATS');

-- Debezium's envelope. What each transaction has of its own is compared first, and left out of what is shown.
CREATE VIEW debezium AS
SELECT s.subject, regexp_replace(regexp_replace(s.payload, '"source":\{[^}]*\}', '"source":{}'), ',"op":"(.)","ts_ms":\d{13},',
    ',"op":"\1","ts_ms":0,') AS payload,
    s.payload::json -> 'source' AS source, (s.payload::json ->> 'ts_ms')::bigint AS ts_ms, s.headers - 'Pg-Xid' AS headers
FROM stream_messages('CHANGE_FORMATS') AS s;
SELECT nats_publish_table('items', format => 'debezium');
BEGIN;
SELECT pg_current_xact_id() AS xid, extract(epoch FROM now()) * 1000 AS started,
    extract(epoch FROM clock_timestamp()) * 1000 AS before, pg_current_wal_insert_lsn() AS lsn_before \gset
CALL change_items();
SELECT extract(epoch FROM clock_timestamp()) * 1000 AS after, pg_current_wal_insert_lsn() AS lsn_after \gset
COMMIT;
SELECT subject, payload FROM debezium;
SELECT DISTINCT ARRAY(SELECT field FROM json_object_keys(source) AS field ORDER BY field) AS fields,
    source ->> 'version' AS version, source ->> 'connector' AS connector, source ->> 'name' = current_database() AS name,
    source ->> 'snapshot' AS snapshot, source ->> 'db' = current_database() AS db, source ->> 'schema' AS schema,
    source ->> 'table' AS "table", source ->> 'txId' = :'xid' AS txid, json_typeof(source -> 'xmin') AS xmin,
    (source ->> 'ts_ms')::bigint BETWEEN floor(:started) AND ceil(:started) AS "source.ts_ms",
    ts_ms BETWEEN floor(:before) AND ceil(:after) AS ts_ms,
    '0/0'::pg_lsn + (source ->> 'lsn')::numeric BETWEEN :'lsn_before' AND :'lsn_after' AS lsn,
    json_typeof(source -> 'txId') AS txid_is, json_typeof(source -> 'lsn') AS lsn_is
FROM debezium;
SELECT source ->> 'version' = extversion AS version FROM debezium, pg_extension WHERE extname = 'nats_publish' LIMIT 1;
SELECT DISTINCT headers - 'Nats-Msg-Id' AS headers FROM debezium ORDER BY headers;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_FORMATS') -> 'success' AS purged;
SELECT nats_publish_table('items', format => 'debezium', old => true, level => 'statement', columns => '{n}');
CALL change_items();
SELECT payload FROM debezium;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_FORMATS') -> 'success' AS purged;
SELECT nats_publish_table('"Key.Less"', format => 'debezium', old => true, headers => '{"N": "{n}"}');
INSERT INTO "Key.Less" VALUES (1);
UPDATE "Key.Less" SET n = n;
UPDATE "Key.Less" SET n = NULL;
DELETE FROM "Key.Less";
SELECT headers, payload FROM debezium;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_FORMATS') -> 'success' AS purged;
-- A key that is changed is two messages, in order, each with headers and subject of its own; of a row that is known by
-- nothing but itself there is no other row to take away.
CREATE TABLE moved (a int, b int, v text, PRIMARY KEY (a, b));
SELECT nats_publish_table('moved', 'change_formats.{op}.{a}.{b}', format => 'debezium', level => 'statement', headers => '{"B": "{b}"}',
    msg_id => '{xid}-{op}-{a}-{b}');
INSERT INTO moved VALUES (1, 1, 'x'), (2, 2, 'y');
UPDATE moved SET a = a + 1, v = 'z';
SELECT subject, payload, headers ->> 'Pg-Op' AS op, headers ->> 'B' AS b FROM debezium;
ALTER TABLE moved DROP CONSTRAINT moved_pkey, REPLICA IDENTITY FULL;
UPDATE moved SET a = a + 1;
SELECT nats_publish_table('moved', 'change_formats.{op}', format => 'json');
ALTER TABLE moved ADD PRIMARY KEY (a);
UPDATE moved SET a = a + 1 WHERE a = 4;
SELECT subject, regexp_replace(payload, ',"xid".*', '') AS payload FROM debezium OFFSET 6;
DROP TABLE moved;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_FORMATS') -> 'success' AS purged;

-- Debezium's values: what its connector makes of these with time.precision.mode = adaptive_time_microseconds,
-- decimal.handling.mode = string and base64 for bytea.
CREATE DOMAIN amount AS numeric(10, 2);
CREATE TABLE encoded (id int8 PRIMARY KEY, d date, t time, tz timetz, ts timestamp, ts3 timestamp(3), tstz timestamptz, iv interval, n numeric, am amount,
    by bytea, j json, jb jsonb, o oid, b boolean, f float8, tx text, u uuid, a int[], r int4range);
SELECT nats_publish_table('encoded', subject => 'change_formats.encoded.{d}', format => 'debezium', value_encoding => 'debezium', old => true);
SET timezone = 'Asia/Kathmandu';
INSERT INTO encoded VALUES
    (1, '2016-09-15', '04:05:11.332', '04:00:00.5-05:11', '2016-05-04 13:51:30.123456', '2016-05-04 13:51:30.123', '2016-05-04 13:51:30.123456+00',
    '1 year 2 mons 3 days 04:05:06.7', 1.10, 2.5, '\x00ff10', '{"a":  "b"}', '{"a": [1]}', 26, true, 'NaN', '"x"', '00000000-0000-0000-0000-000000000001', '{1,2}', '[1,5)'),
    (2, '1969-12-31', '24:00', '23:00-02', '1969-12-31 23:59:59.999999', '1969-12-31 23:59:59.999', '0044-03-15 12:00+00 BC', '-1 s', 'NaN', -0.01, '', 'null', '"x"', 4294967295,
    false, -0.5, '', NULL, '{}', 'empty'),
    (4, NULL, NULL, NULL, NULL, NULL, '0001-01-01 00:00+00 BC', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, NULL, NULL, NULL, '294247-01-10 04:00:54.775808', '294276-12-31 23:59:59.999', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (6, NULL, NULL, NULL, NULL, NULL, NULL, '106751991 days 14454.775807 s', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (7, NULL, NULL, NULL, NULL, NULL, NULL, '106751991 days 14454.775808 s', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (8, NULL, NULL, NULL, NULL, NULL, NULL, '-106751991 days -14454.775808 s', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (9, NULL, NULL, NULL, NULL, NULL, NULL, '-106751991 days -14454.775809 s', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (10, NULL, NULL, NULL, NULL, NULL, NULL, '106751992 days', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, 'infinity', NULL, NULL, 'infinity', '-infinity', 'infinity', NULL, NULL, NULL, repeat('long ', 30)::bytea, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE encoded SET b = NOT b WHERE id = 2;
RESET timezone;
SELECT subject, payload::json -> 'before' AS before, payload::json -> 'after' AS after FROM debezium;
SELECT options ->> 'value_encoding' AS value_encoding FROM nats_published_tables WHERE relation = 'encoded'::regclass AND level = 'row';
SELECT error_of($$SELECT nats_publish_table('encoded', value_encoding => 'debezium')$$), error_of($$SELECT nats_publish_table('encoded', format => 'debezium', value_encoding => 'x')$$);
DROP TABLE encoded;
DROP DOMAIN amount;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_FORMATS') -> 'success' AS purged;

-- Whatever is in a name or a value, it is JSON.
CREATE TABLE "T""\ü" ("C""\ü" text PRIMARY KEY);
SELECT nats_publish_table('"T""\ü"', subject => 'change_formats.weird', format => 'debezium');
INSERT INTO "T""\ü" VALUES (E'"\\\n\u00fc');
SELECT payload::json #>> '{source,table}' AS "table", payload::json ->> 'after' AS after FROM stream_messages('CHANGE_FORMATS');
SELECT nats_jetstream('STREAM.PURGE.CHANGE_FORMATS') -> 'success' AS purged;

-- traceparent: what may be one.
SELECT value, error_of(format('SET nats_publish.traceparent = %L', value)) AS error
FROM unnest(ARRAY['00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff', '',
    '00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0A',
    '00-00000000000000000000000000000000-b7ad6b7169203331-01', '00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01',
    '01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x',
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1', '00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01',
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01', '000af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    '00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01', ' 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    E'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX: y', 'x', '-']) AS value;
RESET nats_publish.traceparent;
SHOW nats_publish.traceparent;
-- The one that is set at the change, in each format; the rest of what the session publishes does not have it.
CREATE TABLE traced (id int PRIMARY KEY);
SELECT nats_publish_table('traced');
CREATE TRIGGER cloudevents AFTER INSERT ON traced FOR EACH ROW EXECUTE FUNCTION nats_publish_change('format=cloudevents',
    'delivery=async');
CREATE TRIGGER debezium AFTER INSERT ON traced FOR EACH ROW EXECUTE FUNCTION nats_publish_change('format=debezium',
    'delivery=sync');
BEGIN;
INSERT INTO traced VALUES (1);
SET LOCAL nats_publish.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
INSERT INTO traced VALUES (2);
SET LOCAL nats_publish.traceparent = '00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00';
INSERT INTO traced VALUES (3);
TRUNCATE traced;
SELECT nats_publish_on_commit('change_formats.plain', '{}');
COMMIT;
INSERT INTO traced VALUES (4);
SELECT coalesce(payload::json #>> '{key,id}', payload::json #>> '{after,id}') AS id, headers ->> 'traceparent' AS traceparent, count(*)
FROM stream_messages('CHANGE_FORMATS') GROUP BY 1, 2 ORDER BY 1, 2;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_FORMATS') -> 'success' AS purged;
-- Anybody may set it.
CREATE ROLE regress_change_tracer;
SET ROLE regress_change_tracer;
SET nats_publish.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
SHOW nats_publish.traceparent;
RESET nats_publish.traceparent;
RESET ROLE;
DROP ROLE regress_change_tracer;

-- Headers of the option that are the format's own.
CREATE FUNCTION refused(name text, format text) RETURNS boolean LANGUAGE sql AS $$
    SELECT error_of(format('SELECT nats_publish_table(''items'', headers => %L, format => %L)',
        jsonb_build_object(name, 'x'), format)) LIKE '22023: %'
$$;
SELECT name, refused(name, 'json') AS json, refused(name, 'cloudevents') AS cloudevents, refused(name, 'debezium') AS debezium
FROM unnest(string_to_array('Pg-Op pg-op Pg-Table Pg-Xid traceparent TraceParent Nats-Msg-Id nats-expected-stream Nats-TTL Nats-'
    ' ce-id CE-Subject ce-time ce-type ce-source ce-specversion ce-datacontenttype content-type'
    ' tracestate Pg-Other Natsy ce-other', ' ')) AS name;

-- A column as the message, as it is.
CREATE TABLE events (id int PRIMARY KEY, body jsonb, bytes bytea, words text);
SELECT nats_publish_table('events', 'change_formats.{op}.{id}', payload => 'body');
INSERT INTO events VALUES (1, '{"a": "b"}', NULL, NULL), (2, NULL, NULL, NULL);
SELECT nats_publish_table('events', 'change_formats.{op}.{id}', payload => 'bytes');
INSERT INTO events VALUES (3, NULL, '\x00ff', NULL), (4, NULL, '', NULL);
DELETE FROM events WHERE id = 3;
SELECT nats_publish_table('events', 'change_formats.{op}.{id}', payload => 'words', columns => '{id}', headers => '{"Body": "{body}"}');
INSERT INTO events VALUES (5, '[]', NULL, E'two\nlines');
TRUNCATE events;
SELECT subject, headers - 'Pg-Xid' AS headers, payload FROM stream_messages('CHANGE_FORMATS') ORDER BY seq;
SELECT options -> 'payload' AS payload FROM nats_published_tables WHERE relation = 'events'::regclass;
SELECT error_of($$SELECT nats_publish_table('events', payload => 'nothing')$$),
    error_of($$SELECT nats_publish_table('events', payload => 'body', format => 'debezium')$$),
    error_of($$SELECT nats_publish_table('events', payload => '')$$) \gx
-- JSON is what it is, also a string or what no text can have.
CREATE TABLE documents (id int PRIMARY KEY, j json, jb jsonb);
SELECT nats_publish_table('documents', 'change_formats.json.{id}', payload => 'j', events => '{insert}');
INSERT INTO documents (id, j) VALUES (1, '"text"'), (2, '"null"'), (3, 'null'), (4, '{"zero":  "\u0000", "half": "\ud800"}');
SELECT nats_publish_table('documents', 'change_formats.jsonb.{id}', payload => 'jb', events => '{insert}');
INSERT INTO documents (id, jb) VALUES (5, '"text"'), (6, '"null"'), (7, 'null'), (8, '1.50'), (9, '"\"ü\""');
SELECT subject, payload FROM stream_messages('CHANGE_FORMATS') WHERE subject LIKE '%.json%';
DROP TABLE documents;
CREATE TRIGGER two AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION nats_publish_change('payload=body, words');
SELECT error_of('INSERT INTO events VALUES (6)');
DROP TABLE events;

DROP FUNCTION refused;
DROP VIEW cloudevents, debezium;
DROP PROCEDURE change_items;
DROP TABLE items, "Key.Less", "T""\ü", traced;
DROP SCHEMA change_formats;
SELECT delete_stream('CHANGE_FORMATS');
