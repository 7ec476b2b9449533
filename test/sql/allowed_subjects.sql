-- nats_publish.allowed_subjects: what it takes, and that nothing gets past it, whichever way it goes.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('ALLOWED', 'allowed.>', '_OTHER.>');
-- What becomes of a subject, by each way in.
CREATE FUNCTION attempt(subject text, OUT "sync" text, OUT async text, OUT on_commit text, OUT outbox text, OUT "insert" text, OUT retried text)
LANGUAGE plpgsql AS $$
BEGIN
    sync := error_of(format('SELECT nats_publish(%L, %L)', subject, 'sync'));
    async := left(error_of(format('SELECT nats_publish_async(%L, %L)', subject, 'async')), 5);
    on_commit := left(error_of(format('SELECT nats_publish_on_commit(%L, %L)', subject, 'on_commit')), 5);
    outbox := left(error_of(format('SELECT nats_publish_outbox(%L, %L)', subject, 'outbox')), 5);
    "insert" := left(error_of(format('INSERT INTO nats_outbox (subject, payload) VALUES (%L, %L)', subject, 'insert')), 5);
    retried := left(error_of(format('INSERT INTO nats_outbox (subject, payload, next_attempt_at, last_error) VALUES (%L, %L, now(), ''x'')', subject, 'retried')), 5);
END
$$;

-- What is no list of patterns.
SELECT list, left(error_of(format('SET nats_publish.allowed_subjects = %L', list)), 5) AS error
FROM unnest(ARRAY['a', ' a.* , b.> ', '>', '', ' ', ',', 'a,', 'a..b', 'a.', 'a.>.b', 'a*', 'a.b>', 'a b', E'a\nb', 'grün.*', '$JS.>']) AS list;
SET nats_publish.allowed_subjects = 'a, b.>.c';
RESET nats_publish.allowed_subjects;
SHOW nats_publish.allowed_subjects;

-- One subject, and those of patterns; a superuser is not excepted.
SET nats_publish.allowed_subjects = 'allowed.one, allowed.*.two,allowed.all.>,allowed.grün.日本';
BEGIN;
SELECT subject, tried.* FROM unnest(ARRAY['allowed.one', 'allowed.x.two', 'allowed.all.a', 'allowed.all.a.b.c', 'allowed.grün.日本']) AS subject, attempt(subject) AS tried;
COMMIT;
SELECT subject, tried.* FROM unnest(ARRAY['allowed.on', 'allowed.one.x', 'allowed.ONE', 'allowed.two', 'allowed.x.y.two', 'allowed.all', 'allowed', 'allowed.grün.日', 'other']) AS subject, attempt(subject) AS tried;
SELECT subject, string_agg(payload, ' ' ORDER BY payload) AS stored FROM stream_messages('ALLOWED') GROUP BY subject ORDER BY subject COLLATE "C";
SELECT subject, string_agg(convert_from(payload, 'UTF8'), ' ' ORDER BY id) AS waiting FROM nats_outbox GROUP BY subject ORDER BY subject COLLATE "C";
TRUNCATE nats_outbox, nats_outbox_dead RESTART IDENTITY;
-- The hint says where to look.
SELECT nats_publish('allowed.two', 'x');
-- A subject that is none is told so; one that is reserved is, whatever is allowed.
SELECT subject, tried.* FROM unnest(ARRAY['allowed.all..', 'allowed.all.*', 'allowed.all.>', 'allowed.all. ']) AS subject, attempt(subject) AS tried;
SELECT error_of($$SELECT nats_publish('', 'x')$$), error_of($$SELECT nats_publish(NULL, 'x')$$);
SET nats_publish.allowed_subjects = '>, $JS.>, $SYS.>, _INBOX.>';
SELECT subject, tried.* FROM unnest(ARRAY['$JS.API.INFO', '$JS', '$SYS.REQ', '_INBOX.a']) AS subject, attempt(subject) AS tried;
SELECT subject, count(*) FROM nats_outbox GROUP BY subject ORDER BY subject COLLATE "C";
TRUNCATE nats_outbox RESTART IDENTITY;
-- The inboxes are those of the connection that the call uses.
SELECT format('CREATE SERVER regress_nats_allowed FOREIGN DATA WRAPPER nats OPTIONS (url %L, inbox_prefix %L)', current_setting('nats_publish.url'), '_OTHER') AS command \gset
:command;
SET nats_publish.allowed_subjects = '';
SELECT error_of($$SELECT nats_publish('_OTHER.a', 'x')$$), left(error_of($$SELECT nats_publish('_INBOX.a', 'x')$$), 5) AS own;
SET nats_publish.server = 'regress_nats_allowed';
SELECT subject, tried.* FROM unnest(ARRAY['_OTHER.a', '_OTHER']) AS subject, attempt(subject) AS tried;
SELECT left(error_of($$SELECT nats_publish('allowed.foreign', 'x')$$), 8) AS published;
-- It is for foreign servers too.
SET nats_publish.allowed_subjects = 'allowed.one';
SELECT subject, tried.* FROM unnest(ARRAY['allowed.two']) AS subject, attempt(subject) AS tried;
RESET nats_publish.server;
DROP SERVER regress_nats_allowed;
TRUNCATE nats_outbox RESTART IDENTITY;

-- Held messages were allowed when they were held: a change does not take them back.
SET nats_publish.allowed_subjects = 'allowed.held';
BEGIN;
SELECT nats_publish_on_commit('allowed.held', 'held');
SET LOCAL nats_publish.allowed_subjects = 'allowed.none';
SELECT left(error_of($$SELECT nats_publish_on_commit('allowed.held', 'x')$$), 5);
COMMIT;
SELECT payload FROM stream_messages('ALLOWED') WHERE subject = 'allowed.held';

-- Change triggers: the subject is the message's, whatever a row's value would make of it.
CREATE TABLE items (id int PRIMARY KEY, name text);
CREATE FUNCTION write_item(delivery text, name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nats_publish_table('items', 'allowed.items.{name}', delivery => write_item.delivery, payload => 'name', events => '{insert}');
    RETURN error_of(format('INSERT INTO items SELECT count(*), %L FROM items', name));
END
$$;
SET nats_publish.allowed_subjects = 'allowed.items.ok, allowed.items.*.more, allowed.items.a%2Eb';
SELECT delivery, name, write_item(delivery, name) AS error
FROM unnest('{sync,async,on_commit,outbox}'::text[]) AS delivery, unnest(ARRAY['ok', 'bad', 'a.b', 'ok.more', '>', '*', 'ok *', E'ok\r\n', '', NULL]) AS name;
SELECT count(*) FROM items;
SELECT subject, count(*) FROM stream_messages('ALLOWED') WHERE subject LIKE 'allowed.items%' GROUP BY subject ORDER BY subject COLLATE "C";
SELECT subject, count(*) FROM nats_outbox GROUP BY subject ORDER BY subject COLLATE "C";
-- By the statement: what is not allowed fails it.
SELECT nats_publish_table('items', 'allowed.items.{name}', level => 'statement', events => '{insert}');
SELECT error_of($$INSERT INTO items VALUES (101, 'ok'), (102, 'ok'), (103, 'bad')$$);
SELECT error_of($$INSERT INTO items VALUES (101, 'ok'), (102, 'ok')$$);
-- A subject without a template, an update that makes it another one, and those of other events.
SELECT nats_publish_table('items', 'allowed.items.ok', delivery => 'sync');
SELECT error_of('UPDATE items SET name = ''x'' WHERE id = 101'), error_of('DELETE FROM items WHERE id = 101');
SELECT nats_publish_table('items', 'allowed.items', delivery => 'sync');
SELECT error_of('UPDATE items SET name = ''x'' WHERE id = 102'), error_of('DELETE FROM items WHERE id = 102'), error_of('TRUNCATE items');
SELECT nats_publish_table('items', 'allowed.items.{op}', delivery => 'on_commit');
SET nats_publish.allowed_subjects = 'allowed.items.insert, allowed.items.update';
SELECT error_of('INSERT INTO items VALUES (200, ''a'')'), error_of('UPDATE items SET name = ''b'' WHERE id = 200'), error_of('DELETE FROM items WHERE id = 200'),
    error_of('TRUNCATE items');
-- A trigger that is deferred to the commit.
SELECT nats_unpublish_table('items');
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nats_publish_change('subject=allowed.items.{name}');
BEGIN;
INSERT INTO items VALUES (300, 'deferred');
COMMIT;
SELECT count(*) FROM items WHERE id = 300;
DROP TABLE items;

-- The outbox, written as a table: with each column, changed afterwards, and by COPY.
TRUNCATE nats_outbox, nats_outbox_dead RESTART IDENTITY;
CREATE ROLE regress_nats_allowed;
GRANT SELECT, INSERT, UPDATE ON nats_outbox TO regress_nats_allowed;
SET nats_publish.allowed_subjects = 'allowed.>';
SET ROLE regress_nats_allowed;
INSERT INTO nats_outbox (subject) VALUES ('allowed.a'), ('allowed.b');
INSERT INTO nats_outbox (subject) VALUES ('allowed.c'), ('other.c');
INSERT INTO nats_outbox (id, subject, payload, headers, msg_id, created_at, attempts, next_attempt_at, last_error) OVERRIDING SYSTEM VALUE
    VALUES (1000, 'other.all', 'x', '{}', 'x', now(), 3, '-infinity', 'x');
INSERT INTO nats_outbox (id, subject, payload, headers, msg_id, created_at, attempts, next_attempt_at, last_error) OVERRIDING SYSTEM VALUE
    VALUES (1001, 'allowed.all', 'x', '{}', 'x', now(), 3, '-infinity', 'x');
UPDATE nats_outbox SET subject = 'other.a' WHERE subject = 'allowed.a';
UPDATE nats_outbox SET (subject, next_attempt_at) = ('other.a', now());
UPDATE nats_outbox SET subject = 'allowed.changed' WHERE subject = 'allowed.b';
INSERT INTO nats_outbox (id, subject, msg_id) OVERRIDING SYSTEM VALUE VALUES (1001, 'x', 'x') ON CONFLICT (id) DO UPDATE SET subject = 'other.conflict';
INSERT INTO nats_outbox (id, subject, msg_id) OVERRIDING SYSTEM VALUE VALUES (1001, 'allowed.x', 'x') ON CONFLICT (id) DO UPDATE SET subject = 'other.conflict';
MERGE INTO nats_outbox USING (SELECT 1) AS s ON subject = 'allowed.a' WHEN MATCHED THEN UPDATE SET subject = 'other.merged';
COPY nats_outbox (subject, next_attempt_at) FROM STDIN;
allowed.copied	\N
other.copied	\N
\.
COPY nats_outbox (subject, next_attempt_at) FROM STDIN;
other.copied	-infinity
\.
COPY nats_outbox (subject, next_attempt_at) FROM STDIN;
allowed.copied	\N
\.
-- Nor past it by way of a view, or of another session_replication_role.
SET session_replication_role = replica;
ALTER TABLE nats_outbox DISABLE TRIGGER nats_outbox_check;
CREATE TEMP VIEW written AS SELECT subject FROM nats_outbox;
INSERT INTO written VALUES ('other.view');
RESET ROLE;
SELECT id, subject, next_attempt_at FROM nats_outbox ORDER BY id;
REVOKE ALL ON nats_outbox FROM regress_nats_allowed;
DROP VIEW written;

-- Trying again publishes too.
TRUNCATE nats_outbox RESTART IDENTITY;
INSERT INTO nats_outbox_dead (id, subject, msg_id, created_at, attempts) VALUES (11, 'other.dead', 'a', now(), 10), (12, 'allowed.dead', 'b', now(), 10);
SET nats_publish.allowed_subjects = '';
INSERT INTO nats_outbox (subject, next_attempt_at, last_error) VALUES ('other.waiting', '2100-01-01', 'x'), ('allowed.waiting', '2100-01-01', 'x');
SELECT id, subject FROM nats_outbox ORDER BY id;
SET nats_publish.allowed_subjects = 'allowed.>';
GRANT EXECUTE ON FUNCTION nats_outbox_retry(bigint), nats_outbox_retry_all() TO regress_nats_allowed;
SET ROLE regress_nats_allowed;
SELECT id, error_of('SELECT nats_outbox_retry(' || id || ')') AS error FROM unnest('{1,2,11,12}'::int[]) AS id;
SELECT error_of('SELECT nats_outbox_retry_all()');
RESET ROLE;
SELECT id, subject, next_attempt_at > now() AS later FROM nats_outbox ORDER BY id;
SELECT id, subject FROM nats_outbox_dead ORDER BY id;
RESET nats_publish.allowed_subjects;
SELECT nats_outbox_retry_all();
REVOKE ALL ON FUNCTION nats_outbox_retry(bigint), nats_outbox_retry_all() FROM regress_nats_allowed;
DROP ROLE regress_nats_allowed;

TRUNCATE nats_outbox, nats_outbox_dead RESTART IDENTITY;
SELECT delete_stream('ALLOWED');
DROP FUNCTION attempt, write_item;
