-- Changes published by statement triggers: still a message for each row.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_STATEMENT', 'change_statement.>');
CREATE SCHEMA change_statement;
SET search_path = change_statement, public;
CREATE TABLE items (id int PRIMARY KEY, name text, seen int);
SELECT nats_publish_table('items', level => 'statement');
SELECT tgname, tgoldtable IS NOT NULL AS old, tgnewtable IS NOT NULL AS new
FROM pg_trigger WHERE tgrelid = 'items'::regclass AND NOT tgisinternal ORDER BY tgname;

-- The messages are those of row triggers.
INSERT INTO items VALUES (1, 'pen', 1), (2, NULL, NULL);
UPDATE items SET name = 'ink';
UPDATE items SET name = 'pen' WHERE id = 1;
UPDATE items SET id = 3 WHERE id = 2;
DELETE FROM items;
TRUNCATE items;
SELECT * FROM changes('CHANGE_STATEMENT');
SELECT nats_publish_table('items', level => 'statement', old => true, ignore => '{seen}');
INSERT INTO items VALUES (1, 'pen', 1), (2, NULL, NULL);
-- one row of which nothing that matters changes, one of which something does
UPDATE items SET name = 'pen', seen = coalesce(seen, 0) + 1;
DELETE FROM items WHERE id = 2;
SELECT payload FROM changes('CHANGE_STATEMENT');

-- No row, no message.
INSERT INTO items SELECT 1 WHERE false;
UPDATE items SET name = 'none' WHERE false;
UPDATE items SET name = name, id = id;
UPDATE items SET seen = 99;
DELETE FROM items WHERE false;
INSERT INTO items VALUES (1, 'pen', 1) ON CONFLICT DO NOTHING;
SELECT count(*) FROM changes('CHANGE_STATEMENT');

-- Many rows: each once, the old one with the new one that came of it, also when keys change.
DELETE FROM items;
SELECT count(*) FROM changes('CHANGE_STATEMENT');
INSERT INTO items SELECT i, 'name ' || i, i FROM generate_series(1, 500) AS i;
UPDATE items SET id = id + 1000, name = 'new ' || id FROM generate_series(1, 500) AS i WHERE i = id;
DELETE FROM items WHERE id % 2 = 0;
SELECT subject, count(*), count(DISTINCT payload::jsonb -> 'key') AS keys,
    bool_and(subject NOT LIKE '%.update' OR (payload::jsonb #>> '{new,id}')::int = (payload::jsonb #>> '{old,id}')::int + 1000
        AND payload::jsonb #>> '{new,name}' = 'new ' || (payload::jsonb #>> '{old,id}')
        AND payload::jsonb -> 'changed' = '["id", "name"]') AS paired
FROM changes('CHANGE_STATEMENT') GROUP BY subject ORDER BY subject;
TRUNCATE items;

-- Rows that a BEFORE trigger skips or changes.
CREATE FUNCTION adjust() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.name := upper(NEW.name);
    RETURN CASE WHEN NEW.id % 2 = 0 THEN NEW END;
END
$$;
CREATE TRIGGER adjust BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION adjust();
INSERT INTO items SELECT i, 'x' FROM generate_series(1, 5) AS i;
UPDATE items SET name = 'y';
SELECT payload FROM changes('CHANGE_STATEMENT');
DROP TRIGGER adjust ON items;
DROP FUNCTION adjust;

-- ON CONFLICT DO UPDATE, MERGE and COPY.
INSERT INTO items VALUES (2, 'two', 2), (3, 'three', 3), (4, 'Y', 4) ON CONFLICT (id) DO UPDATE SET name = excluded.name;
SELECT payload FROM changes('CHANGE_STATEMENT');
MERGE INTO items USING (VALUES (2, 'deux'), (3, NULL), (4, 'Y'), (5, 'cinq')) AS source (id, name) ON items.id = source.id
WHEN MATCHED AND source.name IS NULL THEN DELETE
WHEN MATCHED THEN UPDATE SET name = source.name
WHEN NOT MATCHED THEN INSERT VALUES (source.id, source.name);
SELECT payload FROM changes('CHANGE_STATEMENT') ORDER BY payload;
COPY items FROM stdin;
6	six	6
7	\N	\N
\.
SELECT payload FROM changes('CHANGE_STATEMENT');

-- Writable CTEs: another table, and the same one several times in a statement.
CREATE TABLE archive (LIKE items);
SELECT nats_publish_table('archive', level => 'statement', key => '{id}');
WITH gone AS (DELETE FROM items WHERE id > 5 RETURNING *) INSERT INTO archive SELECT * FROM gone;
SELECT subject, payload::jsonb #> '{key,id}' AS id FROM changes('CHANGE_STATEMENT') ORDER BY subject, id;
WITH a AS (INSERT INTO items VALUES (8, 'eight') RETURNING id), b AS (INSERT INTO items VALUES (9, 'nine') RETURNING id),
    c AS (UPDATE items SET name = 'II' WHERE id = 2), d AS (UPDATE items SET name = 'IV' WHERE id = 4)
INSERT INTO items VALUES (10, 'ten');
SELECT subject, payload::jsonb -> 'new' AS new FROM changes('CHANGE_STATEMENT') ORDER BY subject, new;

-- Foreign keys: what cascades to a table is published as its change, each row once, with either kind of triggers.
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE guests (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE SET NULL ON UPDATE CASCADE);
CREATE FUNCTION change_parents() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO parents SELECT generate_series(1, 4);
    INSERT INTO children SELECT i, 1 + i % 4 FROM generate_series(1, 8) AS i;
    INSERT INTO guests SELECT i, 1 + i % 4 FROM generate_series(1, 4) AS i;
    UPDATE parents SET id = id + 10 WHERE id < 3;
    DELETE FROM parents WHERE id <> 11;
    DELETE FROM parents;
    TRUNCATE parents CASCADE;
END
$$;
CREATE VIEW cascaded AS
SELECT subject, count(*), string_agg(format('%s:%s>%s', payload::jsonb #>> '{key,id}', payload::jsonb #>> '{old,parent}',
    payload::jsonb #>> '{new,parent}'), ' ' ORDER BY payload) AS "key:old>new"
FROM changes('CHANGE_STATEMENT') GROUP BY subject ORDER BY subject;
SELECT nats_publish_table(t, level => 'statement', old => true) FROM unnest('{parents,children,guests}'::regclass[]) AS t;
SELECT change_parents();
SELECT * FROM cascaded;
SELECT nats_publish_table(t, level => 'row', old => true) FROM unnest('{parents,children,guests}'::regclass[]) AS t;
SELECT change_parents();
SELECT * FROM cascaded;

-- TRUNCATE of several tables.
TRUNCATE items, archive;
SELECT subject, payload FROM changes('CHANGE_STATEMENT');

-- Nothing after a rollback, and each statement in its place.
BEGIN;
INSERT INTO items VALUES (1, 'kept');
SAVEPOINT a;
UPDATE items SET name = 'rolled back';
ROLLBACK TO a;
UPDATE items SET name = 'kept too';
INSERT INTO items VALUES (2, 'kept');
INSERT INTO items VALUES (1, 'twice') ON CONFLICT DO NOTHING;
COMMIT;
BEGIN;
INSERT INTO items VALUES (3, 'rolled back');
ROLLBACK;
INSERT INTO items VALUES (3, 'rolled back'), (1, 'twice');
SELECT subject, payload::jsonb #>> '{new,name}' AS name FROM changes('CHANGE_STATEMENT');

-- Triggers that change the table again: every change is published, by the trigger of its own statement.
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT max(id) FROM new_rows) < 50 THEN
        INSERT INTO items SELECT id * 10, name FROM new_rows;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER a_echo AFTER INSERT ON items REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION echo();
INSERT INTO items VALUES (5, 'five'), (6, 'six');
SELECT payload::jsonb #> '{key,id}' AS id FROM changes('CHANGE_STATEMENT') ORDER BY id;
DROP TRIGGER a_echo ON items;
DROP FUNCTION echo;

-- Triggers of one's own name the transition tables as they like, ...
SELECT nats_unpublish_table('items');
CREATE TRIGGER i AFTER INSERT ON items REFERENCING NEW TABLE AS "New ""Rows" FOR EACH STATEMENT
    EXECUTE FUNCTION nats_publish_change('columns=id');
CREATE TRIGGER u AFTER UPDATE ON items REFERENCING NEW TABLE AS old OLD TABLE AS new FOR EACH STATEMENT
    EXECUTE FUNCTION nats_publish_change('columns=name');
CREATE TRIGGER d AFTER DELETE ON items REFERENCING OLD TABLE AS items FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
CREATE TRIGGER t AFTER TRUNCATE ON items FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
INSERT INTO items VALUES (7, 'seven', 7), (8, 'eight', 8);
UPDATE items SET name = upper(name), seen = 0 WHERE id > 7;
DELETE FROM items WHERE id > 6;
TRUNCATE items;
SELECT subject, payload FROM changes('CHANGE_STATEMENT');
DROP TRIGGER i ON items;
DROP TRIGGER u ON items;
DROP TRIGGER d ON items;
-- ... but need those that have the rows.
CREATE TRIGGER i AFTER INSERT ON items FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
INSERT INTO items VALUES (1);
DROP TRIGGER i ON items;
INSERT INTO items VALUES (1);
CREATE TRIGGER u AFTER UPDATE ON items FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
UPDATE items SET name = 'x';
DROP TRIGGER u ON items;
CREATE TRIGGER u AFTER UPDATE ON items REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
UPDATE items SET name = 'x';
DROP TRIGGER u ON items;
CREATE TRIGGER u AFTER UPDATE ON items REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
UPDATE items SET name = 'x';
DROP TRIGGER u ON items;
CREATE TRIGGER d AFTER DELETE ON items FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
DELETE FROM items;
DROP TRIGGER d ON items;
CREATE TRIGGER iud AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
DELETE FROM items;
DROP TRIGGER iud ON items;
-- A row trigger may have them, too.
CREATE TRIGGER r AFTER INSERT ON items REFERENCING NEW TABLE AS n FOR EACH ROW EXECUTE FUNCTION nats_publish_change();
INSERT INTO items VALUES (2), (3);
SELECT subject, payload FROM changes('CHANGE_STATEMENT');

DROP VIEW cascaded;
DROP FUNCTION change_parents;
DROP TABLE items, archive, parents, children, guests;
DROP SCHEMA change_statement;
SELECT delete_stream('CHANGE_STATEMENT');
