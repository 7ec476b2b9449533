-- Headers for all later messages of a transaction.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('ANNOTATIONS', 'annotations.>');
CREATE TABLE annotated (id int PRIMARY KEY);
SELECT nats_publish_table('annotated', 'annotations.row.{id}', format => 'cloudevents', headers => '{"Own": "{id}"}');
CREATE VIEW sent AS SELECT subject, headers - '{Pg-Xid,Pg-Op,Pg-Table,ce-id,ce-time,ce-type,ce-source,ce-subject,ce-specversion,ce-datacontenttype,Content-Type}'::text[] AS headers
FROM stream_messages('ANNOTATIONS');

-- Of every kind of message, from the call on; more of them, fewer of them.
BEGIN;
SELECT nats_publish_on_commit('annotations.before', 'x');
SELECT nats_annotate('{"Actor": "änn", "n": 1.5, "Yes": true}');
INSERT INTO annotated VALUES (1);
SELECT nats_publish_on_commit('annotations.held', 'x');
SELECT nats_publish_async('annotations.async', 'x'::text) IS NOT NULL AS published;
SELECT stream FROM nats_publish('annotations.sync', 'x', '{"a": "own"}');
SELECT nats_publish_outbox('annotations.outbox', 'x') IS NOT NULL AS published;
SELECT headers FROM nats_outbox;
DELETE FROM nats_outbox;
SELECT nats_annotate('{"n": null, "Request": "r"}');
INSERT INTO annotated VALUES (2);
SAVEPOINT a;
SELECT nats_annotate('{"Gone": "with the savepoint"}');
ROLLBACK TO a;
INSERT INTO annotated VALUES (3);
-- what a message has of its own counts more, whatever the case of its name
SELECT nats_annotate('{"own": "no", "actor": "no", "Nats_": "x"}');
SELECT nats_publish_on_commit('annotations.own', 'x', '{"OWN": "yes"}');
INSERT INTO annotated VALUES (4);
SELECT nats_annotate(NULL);
SELECT nats_publish_on_commit('annotations.none', 'x');
SELECT nats_annotate('{"Last": "x"}');
COMMIT;
SELECT nats_publish_on_commit('annotations.later', 'x');
SELECT * FROM sent ORDER BY subject;
SELECT nats_jetstream('STREAM.PURGE.ANNOTATIONS') -> 'success' AS purged;

-- As a setting; without an id, too.
SET nats_publish.annotations = '{"Who": "session"}';
SET nats_publish.auto_msg_id = off;
SELECT stream FROM nats_publish('annotations.sync', 'x');
RESET nats_publish.auto_msg_id;
CREATE FUNCTION annotating() RETURNS text LANGUAGE sql SET nats_publish.annotations = '{"Who": "function"}' AS
    $$SELECT stream FROM nats_publish('annotations.function', 'x')$$;
SELECT annotating();
BEGIN;
SELECT nats_annotate('{"More": "x"}');
SELECT nats_publish_on_commit('annotations.both', 'x');
COMMIT;
SELECT value AS "message_size, annotated" FROM nats_explain('annotations.x', 'x', msg_id => 'a') WHERE item = 'message_size';
RESET nats_publish.annotations;
SELECT * FROM sent ORDER BY subject;
DROP FUNCTION annotating;

-- What can be none.
SELECT annotations, error_of(format('SELECT nats_annotate(%L)', annotations)) AS error,
    error_of(format('SET nats_publish.annotations = %L', annotations)) IS NOT NULL AS setting_too
FROM unnest(ARRAY['[]', '"x"', '{"": "x"}', '{"a b": "x"}', '{"a:": "x"}', '{"a": {}}', '{"a": [1]}', '{"a": "x\r\ny: z"}', '{"Nats-Msg-Id": "x"}',
    '{"nats-ttl": "1s"}', '{"pg-op": "x"}', '{"CE-id": "x"}', '{"TraceParent": "x"}']) AS annotations;
SELECT error_of($$SELECT nats_annotate(jsonb_build_object('a', repeat('x', 4096)))$$);
BEGIN;
SELECT nats_annotate(jsonb_build_object('a', repeat('x', 3000)));
SELECT error_of($$SELECT nats_annotate(jsonb_build_object('b', repeat('x', 3000)))$$);
COMMIT;
SET nats_publish.annotations = '{"a": "b"';
SET nats_publish.annotations = '{"a": "b", "ce-id": "c"}';
SHOW nats_publish.annotations;

-- The setting is anybody's.
CREATE ROLE regress_annotator;
SET ROLE regress_annotator;
SELECT error_of('SELECT nats_annotate(''{"a": "b"}'')');
SET nats_publish.annotations = '{"a": "b"}';
RESET nats_publish.annotations;
RESET ROLE;
DROP ROLE regress_annotator;
DROP VIEW sent;
DROP TABLE annotated;
SELECT delete_stream('ANNOTATIONS');
