-- Changes published by row triggers: what the messages say, and what is no change.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_ROWS', 'change_rows.>');
CREATE SCHEMA change_rows;
SET search_path = change_rows, public;
CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(8, 2));
SELECT nats_publish_table('items');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'items'::regclass AND NOT tgisinternal ORDER BY tgname;

-- A message for each row, in the order of the changes. There is no header but those that changes() knows.
INSERT INTO items VALUES (1, 'pen', 1.5), (2, NULL, NULL);
UPDATE items SET price = 2 WHERE id = 1;
UPDATE items SET name = 'ink', price = coalesce(price, 0) + 1;
DELETE FROM items WHERE id = 2;
TRUNCATE items;
SELECT * FROM changes('CHANGE_ROWS');
-- All rows of a statement, as many as there are.
INSERT INTO items SELECT i, 'many', i FROM generate_series(1, 300) AS i;
UPDATE items SET name = 'few' WHERE id > 297;
DELETE FROM items;
SELECT subject, count(*), array_agg(id ORDER BY seq) = array_agg(id ORDER BY id) AS in_order
FROM (SELECT seq, subject, (payload::jsonb #>> '{key,id}')::int AS id FROM stream_messages('CHANGE_ROWS')) AS m
GROUP BY subject ORDER BY subject;
SELECT count(*) FROM changes('CHANGE_ROWS');

-- xid and ts are the transaction's, wherever in it the change was, and in whatever time zone.
SET timezone = 'Asia/Kathmandu';
BEGIN;
SELECT pg_current_xact_id() AS xid, now() AS started \gset
INSERT INTO items VALUES (3, 'cap', 3);
SAVEPOINT a;
UPDATE items SET price = 4 WHERE id = 3;
RELEASE a;
DELETE FROM items;
TRUNCATE items;
COMMIT;
RESET timezone;
SELECT payload::json ->> 'op' AS op, json_typeof(payload::json -> 'xid'), (payload::json ->> 'xid')::xid8 = :'xid' AS xid,
    pg_xact_status((payload::json ->> 'xid')::xid8), (payload::json ->> 'ts')::timestamptz = :'started' AS ts,
    payload::json ->> 'ts' ~ '\+00:00$' AS utc, headers ->> 'Pg-Op' AS pg_op, headers ->> 'Pg-Table' AS pg_table,
    headers ->> 'Pg-Xid' = :'xid' AS pg_xid, ARRAY(SELECT jsonb_object_keys(headers)) AS headers,
    ARRAY(SELECT json_object_keys(payload::json)) AS fields
FROM stream_messages('CHANGE_ROWS');
SELECT count(*) FROM changes('CHANGE_ROWS');

-- Nor does what names look like depend on the session.
SET quote_all_identifiers = on;
SELECT nats_publish_table('items');
INSERT INTO items VALUES (1, 'pen', 1);
RESET quote_all_identifiers;
DELETE FROM items;
SELECT subject, headers ->> 'Pg-Table' AS pg_table FROM stream_messages('CHANGE_ROWS');
SELECT count(*) FROM changes('CHANGE_ROWS');

-- A key that changes: old has what it was, and nothing else.
INSERT INTO items VALUES (4, 'bag', 4);
UPDATE items SET id = 5;
UPDATE items SET id = 6, name = 'box';
SELECT payload FROM changes('CHANGE_ROWS') WHERE subject LIKE '%.update';
CREATE TABLE pairs (a int, note text, b text, PRIMARY KEY (b, a));
SELECT nats_publish_table('pairs');
INSERT INTO pairs VALUES (1, 'x', 'one');
UPDATE pairs SET a = 2;
UPDATE pairs SET b = 'two', note = 'y';
UPDATE pairs SET note = 'z';
DELETE FROM pairs;
SELECT subject, payload::jsonb - '{op,schema,table,new,xid,ts}'::text[] AS rest FROM stream_messages('CHANGE_ROWS');
SELECT count(*) FROM changes('CHANGE_ROWS');

-- old => true: the whole row before.
SELECT nats_publish_table('items', old => true);
UPDATE items SET price = NULL;
UPDATE items SET id = 7, name = 'lid';
DELETE FROM items;
INSERT INTO items VALUES (1, 'pen', 1);
TRUNCATE items;
SELECT payload FROM changes('CHANGE_ROWS');
SELECT nats_publish_table('items');

-- An UPDATE that changes nothing publishes nothing.
INSERT INTO items VALUES (1, 'pen', 1), (2, NULL, NULL);
UPDATE items SET name = name, price = price, id = id;
UPDATE items SET price = 1.001 WHERE id = 1;
UPDATE items SET name = 'pen', price = nullif(price, 1) + 1 WHERE id = 2;
UPDATE items SET name = NULL WHERE id = 2;
UPDATE items SET name = 'p' || 'en' WHERE id = 1;
-- NULL is not the empty string, and not NULL is not NULL.
UPDATE items SET name = '' WHERE id = 2;
UPDATE items SET name = NULL WHERE id = 2;
SELECT subject, payload::jsonb -> 'new' ->> 'name' AS name, payload::jsonb -> 'changed' AS changed FROM changes('CHANGE_ROWS');
-- What is equal and not the same is a change.
CREATE TABLE images (id int PRIMARY KEY, n numeric, f float8);
INSERT INTO images VALUES (1, 1.0, 0);
SELECT nats_publish_table('images');
UPDATE images SET n = 1.00, f = '-0';
UPDATE images SET n = 1.00, f = '-0';
SELECT payload FROM changes('CHANGE_ROWS');

-- What is not published is in no message; neither it nor what is ignored makes one.
CREATE TABLE watched (id int PRIMARY KEY, name text, seen int, secret text);
SELECT nats_publish_table('watched', columns => '{id,name,seen}', ignore => '{seen}');
INSERT INTO watched VALUES (1, 'door', 1, 's1');
UPDATE watched SET seen = 2;
UPDATE watched SET secret = 's2';
UPDATE watched SET seen = 3, secret = 's3';
UPDATE watched SET name = 'gate', seen = 4, secret = 's4';
UPDATE watched SET name = 'wall';
UPDATE watched SET id = 2, seen = 5;
DELETE FROM watched;
SELECT payload FROM changes('CHANGE_ROWS');
SELECT nats_publish_table('watched', columns => '{id,name,seen}', ignore => '{seen}', old => true);
INSERT INTO watched VALUES (1, 'door', 1, 's1');
UPDATE watched SET seen = 2;
UPDATE watched SET name = 'gate', secret = 's2';
DELETE FROM watched;
SELECT payload FROM changes('CHANGE_ROWS');
-- A key that is not published itself is in key and old, and its change is one.
SELECT nats_publish_table('watched', columns => '{name}');
INSERT INTO watched VALUES (1, 'door', 1, 's1');
UPDATE watched SET seen = 2;
UPDATE watched SET id = 2;
UPDATE watched SET id = 3, name = 'gate';
DELETE FROM watched;
SELECT payload FROM changes('CHANGE_ROWS');
SELECT nats_publish_table('watched', columns => '{secret,name}', old => true);
INSERT INTO watched VALUES (1, 'door', 1, 's1');
UPDATE watched SET id = 2;
DELETE FROM watched;
SELECT payload FROM changes('CHANGE_ROWS');

-- Without a key: no key in the messages.
CREATE TABLE keyless (n int);
SELECT nats_publish_table('keyless', events => '{insert,truncate}');
INSERT INTO keyless VALUES (1), (1);
UPDATE keyless SET n = 2;
DELETE FROM keyless;
TRUNCATE keyless;
SELECT nats_publish_table('keyless', old => true);
INSERT INTO keyless VALUES (1);
UPDATE keyless SET n = 2;
UPDATE keyless SET n = 2;
DELETE FROM keyless;
SELECT subject, payload FROM changes('CHANGE_ROWS');
-- Without any column.
CREATE TABLE blank ();
SELECT nats_publish_table('blank', old => true);
INSERT INTO blank DEFAULT VALUES;
DELETE FROM blank;
SELECT subject, payload FROM changes('CHANGE_ROWS');

-- Nothing leaves before COMMIT, and nothing at all after a rollback.
BEGIN;
INSERT INTO items VALUES (3, 'held', 3);
SELECT stream_count('CHANGE_ROWS') AS before;
COMMIT;
SELECT stream_count('CHANGE_ROWS') AS after;
BEGIN;
INSERT INTO items VALUES (4, 'rolled back', 4);
TRUNCATE items;
ROLLBACK;
BEGIN;
INSERT INTO items VALUES (4, 'rolled back', 4);
INSERT INTO items VALUES (4, 'twice', 4);
COMMIT;
INSERT INTO items VALUES (4, 'rolled back', 4), (3, 'twice', 4);
SELECT subject, payload::jsonb -> 'new' AS new FROM changes('CHANGE_ROWS');
-- Savepoints, and blocks that catch errors.
BEGIN;
INSERT INTO items VALUES (10, 'kept', 1);
SAVEPOINT a;
UPDATE items SET name = 'rolled back';
SAVEPOINT b;
DELETE FROM items;
RELEASE b;
ROLLBACK TO a;
UPDATE items SET name = 'kept too' WHERE id = 10;
SAVEPOINT c;
DELETE FROM items WHERE id = 10;
RELEASE c;
DO $$
BEGIN
    INSERT INTO items VALUES (11, 'caught', 1), (10, 'kept', 1);
    BEGIN
        INSERT INTO items VALUES (12, 'caught', 1);
        INSERT INTO items VALUES (11, 'twice', 1);
    EXCEPTION WHEN unique_violation THEN
        INSERT INTO items VALUES (13, 'caught', 1);
    END;
END
$$;
COMMIT;
SELECT subject, payload::jsonb #> '{key,id}' AS id, payload::jsonb #>> '{new,name}' AS name FROM changes('CHANGE_ROWS');

-- Each change of a row is one, whatever becomes of the row later.
BEGIN;
INSERT INTO items VALUES (20, 'first', 1);
UPDATE items SET name = 'second' WHERE id = 20;
UPDATE items SET name = 'third' WHERE id = 20;
DELETE FROM items WHERE id = 20;
INSERT INTO items VALUES (20, 'fourth', 1);
COMMIT;
SELECT subject, payload::jsonb #>> '{new,name}' AS name FROM changes('CHANGE_ROWS');

-- What is published is what is stored, and only that.
CREATE FUNCTION adjust() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = 'unwanted' THEN
        RETURN NULL;
    END IF;
    NEW.name := upper(NEW.name);
    RETURN NEW;
END
$$;
CREATE TRIGGER adjust BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION adjust();
INSERT INTO items VALUES (30, 'adjusted', 1), (31, 'unwanted', 1);
UPDATE items SET name = 'Adjusted' WHERE id = 30;
UPDATE items SET name = 'unwanted' WHERE id = 30;
SELECT payload FROM changes('CHANGE_ROWS');
DROP TRIGGER adjust ON items;
DROP FUNCTION adjust;

-- COPY, ON CONFLICT, MERGE, writable CTEs, views and cursors change rows too.
DELETE FROM items;
SELECT count(*) > 0 AS some FROM changes('CHANGE_ROWS');
COPY items FROM stdin;
1	pen	1
2	\N	\N
\.
INSERT INTO items VALUES (1, 'pencil', 1), (3, 'cap', 3) ON CONFLICT (id) DO UPDATE SET name = excluded.name;
INSERT INTO items VALUES (1, 'pen', 1) ON CONFLICT DO NOTHING;
SELECT payload FROM changes('CHANGE_ROWS');
MERGE INTO items USING (VALUES (1, 'chalk'), (2, NULL), (4, 'ruler')) AS source (id, name) ON items.id = source.id
WHEN MATCHED AND source.name IS NULL THEN DELETE
WHEN MATCHED THEN UPDATE SET name = source.name
WHEN NOT MATCHED THEN INSERT VALUES (source.id, source.name);
SELECT payload FROM changes('CHANGE_ROWS') ORDER BY payload;
WITH gone AS (DELETE FROM items WHERE id = 3 RETURNING *) INSERT INTO items SELECT id + 10, name, price FROM gone;
CREATE VIEW cheap AS SELECT id, name FROM items;
UPDATE cheap SET name = 'by view' WHERE id = 4;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM items WHERE id = 4 FOR UPDATE;
FETCH c;
UPDATE items SET name = 'by cursor' WHERE CURRENT OF c;
COMMIT;
SELECT payload FROM changes('CHANGE_ROWS');

-- Read and lock, and nothing is published.
SELECT count(*) FROM items;
SELECT id FROM items ORDER BY id LIMIT 1 FOR UPDATE;
UPDATE items SET name = 'none' WHERE false;
DELETE FROM items WHERE false;
SELECT count(*) FROM changes('CHANGE_ROWS');

DROP VIEW cheap;
DROP TABLE items, pairs, images, watched, keyless, blank;
DROP SCHEMA change_rows;
SELECT delete_stream('CHANGE_ROWS');
