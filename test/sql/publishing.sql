-- nats_publish.publishing: off, nothing is published and nothing fails; dry_run, what would be wrong is said.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('PUBLISHING', 'publishing.>');
CREATE TABLE stats AS SELECT 0::bigint AS suppressed, 0::bigint AS published, 0::bigint AS connects;
-- What has changed since the last call.
CREATE FUNCTION counted(OUT suppressed bigint, OUT published bigint, OUT connects bigint) LANGUAGE sql AS $$
    WITH now AS MATERIALIZED (SELECT * FROM nats_session_stats()), before AS MATERIALIZED (SELECT * FROM stats),
        kept AS (UPDATE stats SET suppressed = now.suppressed, published = now.published, connects = now.connects FROM now)
    SELECT now.suppressed - before.suppressed, now.published - before.published, now.connects - before.connects FROM now, before
$$;
SELECT nats_disconnect();
SELECT counted() IS NOT NULL AS counted;

-- Off: NULL, for each function and payload.
SET nats_publish.publishing = off;
SELECT nats_publish('publishing.a', 'x') IS NULL AS text, nats_publish('publishing.a', '\x00'::bytea) IS NULL AS bytea,
    nats_publish('publishing.a', '1'::json) IS NULL AS json, nats_publish('publishing.a', '1'::jsonb) IS NULL AS jsonb;
SELECT nats_publish_async('publishing.a', 'x') IS NULL AS text, nats_publish_async('publishing.a', '\x00'::bytea) IS NULL AS bytea,
    nats_publish_async('publishing.a', '1'::json) IS NULL AS json, nats_publish_async('publishing.a', '1'::jsonb) IS NULL AS jsonb;
SELECT nats_publish_on_commit('publishing.a', 'x'), nats_publish_on_commit('publishing.a', '\x00'::bytea),
    nats_publish_on_commit('publishing.a', '1'::json), nats_publish_on_commit('publishing.a', '1'::jsonb);
SELECT nats_publish_outbox('publishing.a', 'x') IS NULL AS text, nats_publish_outbox('publishing.a', '\x00'::bytea) IS NULL AS bytea,
    nats_publish_outbox('publishing.a', '1'::json) IS NULL AS json, nats_publish_outbox('publishing.a', '1'::jsonb) IS NULL AS jsonb;
SELECT * FROM nats_publish('publishing.a', 'x');
SELECT * FROM counted();
-- Whatever they are called with, and the server is: nothing is looked at, and nothing connected to.
SET nats_publish.allowed_subjects = 'other';
SET nats_publish.url = 'nats://127.0.0.1:1';
SET nats_publish.server = 'regress_nats_none';
SELECT nats_publish('', 'x', headers => '1', msg_id => '', ttl => '-1 day') IS NULL AS bad, nats_publish('$JS.API.INFO', 'x') IS NULL AS reserved,
    nats_publish('publishing.large', repeat('x', 2000000)) IS NULL AS large, nats_publish('publishing.a', 'x', expect_last_seq => 5) IS NULL AS expecting;
SELECT * FROM counted();
-- What goes with them.
BEGIN;
SELECT nats_await(nats_publish_async('publishing.a', 'x')) IS NULL AS await;
SELECT nats_await(NULL) IS NULL AS await, nats_await(NULL, '1 second') IS NULL AS await;
SELECT nats_publish_async('publishing.a', 'x', critical => false) IS NULL AS uncritical;
SELECT nats_flush();
SELECT count(*) FROM nats_futures();
SELECT nats_publish_on_commit('publishing.a', 'x');
COMMIT;
SELECT nats_disconnect();
SELECT * FROM counted();
-- A future that is none is one here, too.
SELECT error_of('SELECT nats_await(1)');
-- Two-phase commit has nothing held.
BEGIN;
SELECT nats_publish_on_commit('publishing.a', 'x'), nats_publish_async('publishing.a', 'x');
PREPARE TRANSACTION 'publishing';
COMMIT PREPARED 'publishing';
-- Triggers: neither their options nor their rows are looked at.
CREATE TABLE items (id int PRIMARY KEY, name text);
SELECT nats_publish_table('items', 'publishing.{name}', delivery => 'sync');
INSERT INTO items VALUES (1, 'a'), (2, 'b');
SELECT * FROM counted();
UPDATE items SET name = 'c';
DELETE FROM items WHERE id = 1;
TRUNCATE items;
SELECT * FROM counted();
SELECT nats_publish_table('items', 'publishing.{name}', level => 'statement', delivery => 'async');
INSERT INTO items VALUES (1, 'a'), (2, 'b');
SELECT nats_publish_table('items', 'publishing.{name}', delivery => 'on_commit');
UPDATE items SET name = 'd';
SELECT nats_publish_table('items', 'publishing.{name}', delivery => 'outbox');
UPDATE items SET name = 'e';
SELECT nats_unpublish_table('items');
CREATE TRIGGER bad AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION nats_publish_change('subject={nothing}', 'what=ever');
INSERT INTO items VALUES (3, 'c');
SELECT * FROM counted();
SELECT count(*) FROM nats_outbox;
-- A change of it within a transaction counts from there: what was held before is published.
RESET nats_publish.server;
RESET nats_publish.url;
RESET nats_publish.allowed_subjects;
RESET nats_publish.publishing;
BEGIN;
SELECT nats_publish_async('publishing.before', 'async') > 0 AS future;
SELECT nats_publish_on_commit('publishing.before', 'on_commit');
SET LOCAL nats_publish.publishing = off;
SELECT nats_publish_async('publishing.after', 'async');
SELECT nats_publish_on_commit('publishing.after', 'on_commit');
COMMIT;
SELECT subject, payload FROM stream_messages('PUBLISHING');
-- In a function, and back.
CREATE FUNCTION quiet() RETURNS boolean LANGUAGE sql SET nats_publish.publishing = off AS $$SELECT nats_publish('publishing.quiet', 'x') IS NULL$$;
SELECT quiet(), (nats_publish('publishing.loud', 'x')).stream;
SELECT subject, payload FROM stream_messages('PUBLISHING') OFFSET 2;
-- The rest goes on: streams, and being told about the server.
SET nats_publish.publishing = off;
SELECT (nats_server_info()).jetstream, stream_count('PUBLISHING'), nats_disconnect();

-- Dry run: the same errors as with on, and the results of off.
SELECT nats_jetstream('STREAM.PURGE.PUBLISHING') ->> 'success' AS purged;
SELECT counted() IS NOT NULL AS counted;
CREATE TABLE attempts (id int GENERATED ALWAYS AS IDENTITY, subject text DEFAULT 'publishing.dry', payload text DEFAULT 'x', headers jsonb, msg_id text);
INSERT INTO attempts DEFAULT VALUES;
INSERT INTO attempts (subject) VALUES (NULL), (''), ('publishing..a'), ('publishing.*'), ('publishing. '), ('$JS.API.INFO'), ('$SYS.a'), ('_INBOX.a'),
    (rpad('publishing.', 4001, 'x')), ('other.a');
INSERT INTO attempts (headers) SELECT headers::jsonb FROM unnest(ARRAY['1', '{"": "x"}', '{"A b": "x"}', '{"A": "x\r\ny"}', '{"A": null}', '{"A": {}}',
    '{"Nats-Batch-Id": "x"}', '{"Nats-Msg-Id": ["a", "b"]}']) AS headers;
INSERT INTO attempts (headers) VALUES (jsonb_build_object('A', repeat('x', 70000)));
INSERT INTO attempts (msg_id) VALUES (''), (E'a\nb');
INSERT INTO attempts (headers, msg_id) VALUES ('{"Nats-Msg-Id": "a"}', 'b');
CREATE FUNCTION outcomes(OUT id int, OUT function text, OUT error text) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT id, function, error_of(format('SELECT %I(%L, %L, headers => %L, msg_id => %L)', function, subject, payload, headers, msg_id))
    FROM attempts, unnest('{nats_publish,nats_publish_async,nats_publish_on_commit,nats_publish_outbox}'::text[]) AS function
$$;
SET nats_publish.allowed_subjects = 'publishing.>, $JS.>';
SET nats_publish.publishing = dry_run;
CREATE TABLE dry AS SELECT * FROM outcomes();
SELECT * FROM counted();
SELECT stream_count('PUBLISHING'), (SELECT count(*) FROM nats_outbox) AS waiting;
SET nats_publish.publishing = on;
CREATE TABLE wet AS SELECT * FROM outcomes();
SELECT stream_count('PUBLISHING'), (SELECT count(*) FROM nats_outbox) AS waiting;
TRUNCATE nats_outbox RESTART IDENTITY;
SELECT count(*) AS same, count(DISTINCT error) AS errors FROM dry JOIN wet USING (id, function, error);
SELECT * FROM dry FULL JOIN wet USING (id, function) WHERE dry.error IS DISTINCT FROM wet.error;
SELECT left(error, 80) AS error, count(*) FROM dry GROUP BY error ORDER BY error COLLATE "C";
-- Other arguments, as far as no server is asked.
SET nats_publish.publishing = dry_run;
SELECT arguments, error_of(format('SELECT nats_publish(%L, %L, %s)', 'publishing.dry', 'x', arguments)) AS error
FROM unnest(ARRAY['ttl => ''-1 second''', 'expect_last_seq => -1', 'expect_last_subject_seq => -1', 'expect_stream => E''a\nb''', 'expect_stream => ''S''',
    'expect_stream => ''S'', headers => ''{"Nats-Expected-Stream": "T"}''']) AS arguments;
-- Triggers: options, templates and values.
SELECT counted() IS NOT NULL AS counted;
SET nats_publish.url = 'nats://127.0.0.1:1';
SELECT error_of('INSERT INTO items VALUES (4, ''d'')');
DROP TRIGGER bad ON items;
SELECT nats_publish_table('items', 'publishing.{name}', delivery => 'sync');
SELECT error_of('INSERT INTO items VALUES (5, ''a.b *'')'), error_of(format('INSERT INTO items VALUES (6, %L)', repeat('x', 4000)));
SELECT nats_publish_table('items', 'other.{name}', level => 'statement', delivery => 'outbox');
SELECT error_of('UPDATE items SET name = ''z''');
SET nats_publish.allowed_subjects = '';
SELECT error_of('UPDATE items SET name = ''z''');
SELECT * FROM counted();
SELECT count(*) FROM items WHERE name = 'z';
-- What goes with them.
BEGIN;
SELECT nats_await(nats_publish_async('publishing.a', 'x')) IS NULL AS await, nats_await(NULL) IS NULL AS "null", nats_flush();
SELECT nats_publish_on_commit('publishing.a', 'x');
SELECT count(*) FROM nats_futures();
COMMIT;
SELECT * FROM counted();
RESET nats_publish.url;
RESET nats_publish.publishing;
SELECT count(*) FROM nats_outbox;
SELECT subject, count(*) FROM stream_messages('PUBLISHING') GROUP BY subject;
-- Published again, a missing future is an error.
SELECT error_of('SELECT nats_await(NULL)');

DROP TABLE items, attempts, dry, wet, stats;
DROP FUNCTION counted, quiet, outcomes;
SELECT delete_stream('PUBLISHING');
