-- Publishing changes: each option, who may, and that what changes in the catalog is seen.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_OPTIONS', 'change_options.>', 'change_moved.>', 'change_moved%2E.>');
CREATE SCHEMA change_options;
SET search_path = change_options, public;
CREATE TABLE items (id int PRIMARY KEY, name text, "Full Name" text, price numeric);

CREATE FUNCTION options_of(relation regclass) RETURNS TABLE (trigger_name name, level text, events text[], subject text,
    delivery text, format text, options jsonb, enabled text) LANGUAGE sql AS $$
    SELECT trigger_name, level, events, subject, delivery, format, jsonb_strip_nulls(options), enabled
    FROM nats_published_tables AS t
    WHERE t.relation = $1 ORDER BY trigger_name
$$;

-- Defaults; every option; and a second call instead of the first.
SELECT count(*) FROM nats_published_tables;
SELECT nats_publish_table('items');
SELECT relation, options ?& '{subject,delivery,format,columns,ignore,key,msg_id,headers,old}' AS "all options" FROM nats_published_tables;
\x on
SELECT * FROM options_of('items');
SELECT nats_publish_table('items', subject => 'change_options.{id}', level => 'statement', delivery => 'async',
    format => 'cloudevents', columns => '{id,"Full Name"}', ignore => '{"Full Name"}',
    key => '{id,name}', msg_id => '{xid}-{id}', headers => '{"B": "{Full Name}", "A": "x"}', old => true,
    events => '{delete,insert}');
SELECT * FROM options_of('items');
\x off
INSERT INTO items VALUES (1, 'pen', 'Red pen', 1);
DELETE FROM items;
SELECT subject, headers - 'Nats-Msg-Id' - 'ce-id' - 'ce-time' AS headers, payload FROM changes('CHANGE_OPTIONS');
SELECT nats_publish_table('items', events => '{truncate}');
SELECT * FROM options_of('items');
INSERT INTO items VALUES (1, 'pen', 'Red pen', 1);
TRUNCATE items;
SELECT subject FROM changes('CHANGE_OPTIONS');
SELECT nats_publish_table('items', level => level, events => '{update,insert}') FROM unnest('{row,statement,row}'::text[]) AS level;
SELECT trigger_name, level, events FROM options_of('items');
-- There are no triggers left in the end; nor were there any of somebody else.
SELECT nats_unpublish_table('items'), nats_unpublish_table('items') AS again;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nats_publish_row AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER mine AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION nats_publish_change();
SELECT nats_unpublish_table('items');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'items'::regclass ORDER BY tgname;
SELECT trigger_name FROM options_of('items');
SELECT nats_publish_table('items', level => 'statement');
SELECT nats_unpublish_table('items');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'items'::regclass ORDER BY tgname;
SELECT left(error_of($$SELECT nats_publish_table('items')$$), 5) AS "name is taken";
DROP TRIGGER nats_publish_row ON items;
DROP TRIGGER mine ON items;
DROP FUNCTION nothing;
-- A function of the same name in another schema is not ours.
CREATE FUNCTION change_options.nats_publish_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nats_publish_row AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION change_options.nats_publish_change();
SELECT nats_unpublish_table('items');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'items'::regclass ORDER BY tgname;
DROP FUNCTION change_options.nats_publish_change() CASCADE;
-- It is all or nothing, and a rollback takes it back.
BEGIN;
SELECT nats_publish_table('items');
INSERT INTO items VALUES (1);
ROLLBACK;
SELECT count(*) FROM nats_published_tables;
-- The view knows what ALTER TABLE says of triggers.
SELECT nats_publish_table('items');
ALTER TABLE items DISABLE TRIGGER nats_publish_truncate;
ALTER TABLE items ENABLE ALWAYS TRIGGER nats_publish_row;
SELECT trigger_name, enabled FROM options_of('items');
ALTER TABLE items ENABLE REPLICA TRIGGER nats_publish_row;
INSERT INTO items VALUES (1);
TRUNCATE items;
SELECT trigger_name, enabled FROM options_of('items');
ALTER TABLE items DISABLE TRIGGER ALL;
INSERT INTO items VALUES (1);
SELECT count(*) FROM changes('CHANGE_OPTIONS');
SELECT nats_publish_table('items');
INSERT INTO items VALUES (2);
SELECT trigger_name, enabled FROM options_of('items');
SELECT count(*) FROM changes('CHANGE_OPTIONS');

-- Each delivery. What is told when, with a stream that is full.
SELECT nats_create_stream('CHANGE_FULL', '{change_full.>}',
    '{"storage": "memory", "max_msgs": 1, "discard": "new"}') IS NOT NULL AS created;
SELECT seq FROM nats_publish('change_full.a', 'the only one');
SELECT nats_publish_table('items', delivery => 'on_commit');
BEGIN;
INSERT INTO items VALUES (10), (11);
SELECT count(*) AS futures, stream_count('CHANGE_OPTIONS') AS stored FROM nats_futures();
COMMIT;
SELECT nats_publish_table('items', delivery => 'async', msg_id => '{id}-async');
BEGIN;
INSERT INTO items VALUES (12), (13);
SELECT subject, msg_id, status IN ('pending', 'acked') AS ok FROM nats_futures();
ROLLBACK;
SELECT nats_flush() >= 0 AS flushed;
SELECT nats_publish_table('items', delivery => 'sync');
BEGIN;
INSERT INTO items VALUES (14), (15);
SELECT count(*) AS futures, stream_count('CHANGE_OPTIONS') AS stored FROM nats_futures();
ROLLBACK;
SELECT nats_publish_table('items', delivery => 'sync', level => 'statement');
BEGIN;
INSERT INTO items VALUES (16), (17);
SELECT count(*) AS futures, stream_count('CHANGE_OPTIONS') AS stored FROM nats_futures();
ROLLBACK;
SELECT payload::jsonb #> '{key,id}' AS id FROM changes('CHANGE_OPTIONS');
SELECT id FROM items WHERE id >= 10 ORDER BY id;
SELECT nats_publish_table('items', subject => 'change_full.b', delivery => 'sync');
SELECT left(error_of('INSERT INTO items VALUES (20)'), 5) AS error;
SELECT nats_publish_table('items', subject => 'change_full.b', delivery => 'async');
BEGIN;
SELECT error_of('INSERT INTO items VALUES (20)');
\set VERBOSITY sqlstate
COMMIT;
SELECT nats_publish_table('items', subject => 'change_full.b', delivery => 'on_commit');
BEGIN;
SELECT error_of('INSERT INTO items VALUES (20)');
COMMIT;
\set VERBOSITY default
SELECT nats_publish_table('items', subject => 'change_nobody.b', delivery => 'sync');
SELECT left(error_of('INSERT INTO items VALUES (20)'), 5) AS error;
SELECT count(*) FROM items WHERE id = 20;
SELECT nats_unpublish_table('items');
SELECT delete_stream('CHANGE_FULL');

-- What nats_publish_table refuses, before it creates anything.
CREATE TABLE keyless (n int);
CREATE VIEW a_view AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW a_materialized_view AS SELECT 1 AS id;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (id int);
CREATE FUNCTION publish_error(arguments text, relation text DEFAULT 'items') RETURNS text LANGUAGE sql AS
    $$SELECT error_of(format('SELECT nats_publish_table(%L, %s)', relation, arguments))$$;
SELECT arguments, publish_error(arguments) AS error FROM (VALUES
    ('subject => ''a.{'''), ('subject => ''{nothing}'''),
    ('level => ''column'''), ('level => ''ROW'''), ('level => '''''),
    ('delivery => ''never'''), ('delivery => ''Async'''), ('format => ''xml'''),
    ('columns => ''{}'''), ('columns => ''{nothing}'''), ('columns => ''{id,id}'''), ('columns => ''{NULL}'''),
    ('columns => ''{full name}'''), ('columns => ''{""}'''), ('columns => ''{ctid}'''),
    ('ignore => ''{}'''), ('ignore => ''{nothing}'''), ('ignore => ''{name,name}'''), ('ignore => ''{id}'''),
    ('ignore => ''{name}'', key => ''{name}'''),
    ('key => ''{}'''), ('key => ''{nothing}'''), ('key => ''{id,name,id}'''), ('key => ''{ID}'''),
    ('msg_id => ''{nothing}'''), ('msg_id => ''{'''), ('msg_id => '''''),
    ('headers => ''[]'''), ('headers => ''"x"'''), ('headers => ''{"A": 1}'''), ('headers => ''{"A": null}'''),
    ('headers => ''{"A": ["x"]}'''), ('headers => ''{"A": {}}'''), ('headers => ''{"": "x"}'''),
    ('headers => ''{"A B": "x"}'''), ('headers => ''{"A:": "x"}'''), ('headers => ''{"Ä": "x"}'''), ('headers => ''{"A": "{"}'''),
    ('headers => ''{"A": "x\r\nB: y"}'''),
    ('headers => ''{"Pg-Op": "x"}'''), ('headers => ''{"pg-table": "x"}'''), ('headers => ''{"PG-XID": "x"}'''),
    ('headers => ''{"Traceparent": "x"}'''), ('headers => ''{"Nats-Msg-Id": "{id}"}'''), ('headers => ''{"nats-anything": "x"}'''),
    ('headers => ''{"a": "x", "A": "y"}'''),
    ('events => ''{}'''), ('events => ''{upsert}'''), ('events => ''{INSERT}'''), ('events => ''{insert,NULL}''')) AS a (arguments);
SELECT relation, publish_error('level => ''row''', relation) AS error
FROM unnest('{keyless,a_view,a_materialized_view,a_sequence,a_type,items_pkey,pg_class,nothing}'::text[]) AS relation;
SELECT error_of('SELECT nats_publish_table(NULL)') AS publish, error_of('SELECT nats_unpublish_table(NULL)') AS unpublish;
SELECT events, publish_error(format('events => %L', events), 'keyless') AS error
FROM (VALUES ('{insert}'), ('{insert,truncate}'), ('{update}'), ('{delete}')) AS e (events);
SELECT nats_unpublish_table('keyless'), error_of($$SELECT nats_unpublish_table('a_view')$$) AS "view";
SELECT publish_error('level => ''statement''', 'keyless') AS error;
SELECT count(*) FROM nats_published_tables;
-- A failed call leaves the triggers of the one before.
SELECT nats_publish_table('items', columns => '{id}');
SELECT publish_error('columns => ''{nothing}''') AS error;
SELECT trigger_name, options -> 'columns' AS columns FROM options_of('items');
SELECT nats_unpublish_table('items');

-- The same by one's own CREATE TRIGGER, whose arguments are only looked at when it fires.
CREATE FUNCTION trigger_error(VARIADIC arguments text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER t AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION nats_publish_change(%s)',
        (SELECT string_agg(quote_literal(a), ', ') FROM unnest(arguments) AS a));
    INSERT INTO items VALUES (100, 'pen', 'Red pen', 1);
    RAISE EXCEPTION 'none';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE sqlstate WHEN 'P0001' THEN 'no error' ELSE sqlstate || ': ' || sqlerrm END;
END
$$;
SELECT argument, trigger_error(argument) AS error
FROM unnest(ARRAY['', 'subject', '=', 'subject=', 'Subject=a', ' subject=a', 'subject =a', 'unknown=1', 'level=row',
    'events=insert', 'delivery=', 'delivery=later', 'delivery=ASYNC', 'format=', 'format=xml',
    'columns=', 'columns= ', 'columns=id,', 'columns=,id', 'columns=nothing', 'columns=id,ID', 'columns=id,"id"',
    'columns=id name', 'columns="id', 'columns=""', 'columns=Full Name', 'columns={id}',
    'ignore=', 'ignore=nothing', 'ignore=id', 'key=', 'key=nothing', 'key=id,id', 'msg_id=', 'msg_id={', 'headers=', 'headers=[]',
    'headers={', 'headers={"A": 1}', 'headers={"Pg-Op": "x"}',
    'old=', 'old=perhaps', 'subject=change_options.{', 'subject=change_options.{nothing}']) AS argument;
SELECT trigger_error('delivery=async', 'delivery=async') AS error;
SELECT trigger_error('columns=id', 'subject=change_options.a', 'columns=name') AS error;
SELECT trigger_error('subject=change_options.a=b') AS "value has =", trigger_error(E'columns=ID , "Full Name"\t,price', 'old=on',
    'ignore=Price', 'key="id"') AS names;
-- The trigger has to be an AFTER one, and the function a trigger's.
CREATE TRIGGER t BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION nats_publish_change();
SELECT error_of('INSERT INTO items VALUES (100)');
DROP TRIGGER t ON items;
CREATE TRIGGER t BEFORE TRUNCATE ON items FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
SELECT error_of('TRUNCATE items');
DROP TRIGGER t ON items;
CREATE TRIGGER t INSTEAD OF INSERT ON a_view FOR EACH ROW EXECUTE FUNCTION nats_publish_change();
SELECT error_of('INSERT INTO a_view VALUES (1)');
DROP TRIGGER t ON a_view;
SELECT left(error_of('SELECT nats_publish_change()'), 5);
CREATE TRIGGER t AFTER UPDATE ON keyless FOR EACH ROW EXECUTE FUNCTION nats_publish_change();
INSERT INTO keyless VALUES (1);
UPDATE keyless SET n = 2;
DROP TRIGGER t ON keyless;
-- What is wrong with one is in the view.
CREATE TRIGGER t AFTER INSERT ON keyless FOR EACH ROW EXECUTE FUNCTION nats_publish_change('delivery=never');
SELECT relation, trigger_name, level, events, subject, options, error FROM nats_published_tables WHERE trigger_name = 't';
DROP TRIGGER t ON keyless;
SELECT nats_change_options(0) IS NULL AS "no trigger";

-- A change of the table that the options do not survive is in the view, and told by the doctor, before a row meets it.
CREATE TABLE altered (id int PRIMARY KEY, a text, b text, c text);
SELECT nats_publish_table('altered', 'change_options.{a}', columns => '{id,b}', ignore => '{b}', headers => '{"C": "{c}"}');
CREATE FUNCTION altered_error() RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(trigger_name || ': ' || error, '; ' ORDER BY trigger_name) FROM nats_published_tables WHERE relation = 'altered'::regclass$$;
CREATE VIEW doctor AS SELECT status, detail FROM nats_check() WHERE check_name = 'changes';
SELECT altered_error(), options ->> 'subject' AS subject FROM nats_published_tables WHERE relation = 'altered'::regclass LIMIT 1;
SELECT status FROM doctor;
-- one of the WAL that can't be understood, too, though it is disabled
CREATE TRIGGER misspelt AFTER INSERT ON altered FOR EACH ROW EXECUTE FUNCTION nats_publish_change('delivery=wal', 'colums=id');
ALTER TABLE altered DISABLE TRIGGER misspelt;
SELECT subject, delivery, error, hint FROM nats_published_tables WHERE trigger_name = 'misspelt';
SELECT * FROM doctor;
DROP TRIGGER misspelt ON altered;
ALTER TABLE altered RENAME a TO d;
SELECT altered_error();
SELECT options ->> 'subject' AS subject FROM nats_published_tables WHERE trigger_name = 'nats_publish_row' AND error IS NOT NULL;
SELECT * FROM doctor;
INSERT INTO altered VALUES (1);
ALTER TABLE altered ENABLE REPLICA TRIGGER nats_publish_row;
ALTER TABLE altered ENABLE REPLICA TRIGGER nats_publish_truncate;
BEGIN;
INSERT INTO altered VALUES (2);
ROLLBACK;
SELECT detail LIKE 'Writes of replication to altered fail%' AS of_replication FROM doctor;
ALTER TABLE altered DISABLE TRIGGER USER;
SELECT status FROM doctor;
ALTER TABLE altered ENABLE TRIGGER USER;
ALTER TABLE altered RENAME d TO a;
SELECT altered_error(), status FROM doctor;
ALTER TABLE altered DROP COLUMN b;
SELECT altered_error();
INSERT INTO altered VALUES (1);
ALTER TABLE altered ADD COLUMN b text;
SELECT altered_error();
ALTER TABLE altered RENAME c TO e;
SELECT altered_error();
ALTER TABLE altered RENAME e TO c;
ALTER TABLE altered DROP CONSTRAINT altered_pkey;
SELECT altered_error();
INSERT INTO altered VALUES (1);
ALTER TABLE altered ADD PRIMARY KEY (b);
SELECT altered_error();
INSERT INTO altered VALUES (1);
DROP VIEW doctor;
DROP FUNCTION altered_error;
DROP TABLE altered;

-- One's own trigger: options, WHEN, UPDATE OF, several of a table.
DELETE FROM items;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_OPTIONS') -> 'success' AS purged;
-- A key can be NULL.
SELECT nats_publish_table('keyless', key => '{n}');
INSERT INTO keyless VALUES (NULL);
SELECT payload FROM changes('CHANGE_OPTIONS');
SELECT nats_unpublish_table('keyless');
CREATE TRIGGER few AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change('subject=change_options.few.{id}', 'columns=id, "Full Name"', 'ignore="Full Name"',
    'old=true', 'delivery=async');
CREATE TRIGGER dear AFTER INSERT OR UPDATE ON items FOR EACH ROW WHEN (NEW.price > 10)
    EXECUTE FUNCTION nats_publish_change('subject=change_options.dear.{id}', 'columns=price', 'delivery=async');
CREATE TRIGGER named AFTER UPDATE OF name ON items FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change('subject=change_options.named.{id}', 'columns=name,price', 'headers={"Name": "{name}"}',
    'delivery=async');
INSERT INTO items VALUES (1, 'pen', 'Red pen', 1), (2, 'ring', 'Gold ring', 100);
UPDATE items SET "Full Name" = 'Ring' WHERE id = 2;
UPDATE items SET price = 11;
UPDATE items SET name = 'x', price = price WHERE id = 1;
UPDATE items SET name = name, price = 12 WHERE id = 2;
UPDATE items SET name = name WHERE id = 2;
DELETE FROM items;
SELECT subject, headers, payload FROM changes('CHANGE_OPTIONS');
\x on
SELECT * FROM options_of('items');
\x off
SELECT nats_unpublish_table('items');
DROP TRIGGER few ON items;
DROP TRIGGER dear ON items;
DROP TRIGGER named ON items;

-- A deferred constraint trigger publishes at the end, with each state in between; SET CONSTRAINTS at once.
CREATE CONSTRAINT TRIGGER later AFTER INSERT OR UPDATE OR DELETE ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change('delivery=async');
BEGIN;
INSERT INTO items VALUES (1, 'first');
UPDATE items SET name = 'second';
SELECT count(*) AS futures FROM nats_futures();
SET CONSTRAINTS later IMMEDIATE;
SELECT count(*) AS futures FROM nats_futures();
DELETE FROM items;
SELECT count(*) AS futures FROM nats_futures();
COMMIT;
SELECT subject, payload::jsonb #>> '{new,name}' AS name FROM changes('CHANGE_OPTIONS');
DROP TRIGGER later ON items;
CREATE CONSTRAINT TRIGGER later AFTER INSERT OR UPDATE OR DELETE ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change();
BEGIN;
INSERT INTO items VALUES (1, 'first');
SAVEPOINT a;
UPDATE items SET name = 'rolled back';
ROLLBACK TO a;
UPDATE items SET name = 'second';
SET CONSTRAINTS ALL IMMEDIATE;
SET CONSTRAINTS ALL DEFERRED;
DELETE FROM items;
COMMIT;
SELECT subject, payload::jsonb #>> '{new,name}' AS name FROM changes('CHANGE_OPTIONS');
DROP TRIGGER later ON items;

-- What changes in the catalog is seen at the next change: columns, ...
SELECT nats_publish_table('items', subject => '{schema}.{table}.{id}', old => true);
INSERT INTO items VALUES (1, 'pen');
ALTER TABLE items ADD added int DEFAULT 5;
UPDATE items SET name = 'ink';
ALTER TABLE items RENAME name TO title;
UPDATE items SET title = 'cap';
ALTER TABLE items DROP price;
UPDATE items SET title = 'box', added = 6;
ALTER TABLE items ALTER added TYPE text USING added + 1;
UPDATE items SET title = 'bag';
ALTER TABLE items DROP "Full Name", DROP added;
SELECT payload FROM changes('CHANGE_OPTIONS');
-- ... also in the transaction that changes them, and when it is rolled back, ...
BEGIN;
ALTER TABLE items ADD added int DEFAULT 5;
UPDATE items SET title = 'in';
SAVEPOINT a;
ALTER TABLE items RENAME title TO name;
UPDATE items SET name = 'inner';
ROLLBACK TO a;
UPDATE items SET title = 'out';
COMMIT;
BEGIN;
ALTER TABLE items RENAME title TO name;
UPDATE items SET name = 'rolled back';
ROLLBACK;
UPDATE items SET title = 'back';
SELECT payload::jsonb -> 'new' AS new FROM changes('CHANGE_OPTIONS');
-- ... names and schemas, ...
CREATE SCHEMA change_moved;
ALTER TABLE items RENAME TO things;
UPDATE things SET title = 'renamed';
ALTER TABLE things SET SCHEMA change_moved;
UPDATE change_moved.things SET title = 'moved';
ALTER SCHEMA change_moved RENAME TO "change_moved.";
UPDATE "change_moved.".things SET title = 'away';
ALTER SCHEMA "change_moved." RENAME TO change_moved;
ALTER TABLE change_moved.things SET SCHEMA change_options;
ALTER TABLE things RENAME TO items;
DROP SCHEMA change_moved;
UPDATE items SET title = 'back';
SELECT nats_publish_table('items', subject => 'change_options.{schema}.{table}.{title}', old => true);
ALTER SCHEMA change_options RENAME TO change_renamed;
UPDATE change_renamed.items SET title = 'at home';
ALTER SCHEMA change_renamed RENAME TO change_options;
UPDATE items SET title = 'back';
SELECT subject, headers, payload::jsonb ->> 'schema' AS schema, payload::jsonb ->> 'table' AS "table"
FROM changes('CHANGE_OPTIONS');
-- ... the key, ...
SELECT nats_publish_table('items', columns => '{title}', subject => 'change_options.key', old => true);
UPDATE items SET title = '1';
ALTER TABLE items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (id, title);
UPDATE items SET title = '2';
ALTER TABLE items DROP CONSTRAINT items_pkey;
UPDATE items SET title = '3';
ALTER TABLE items ALTER title SET NOT NULL;
CREATE UNIQUE INDEX items_title ON items (title);
ALTER TABLE items REPLICA IDENTITY USING INDEX items_title;
UPDATE items SET title = '4';
-- what is left out of the columns is not in the key either, and matters as little
ALTER TABLE items REPLICA IDENTITY FULL;
UPDATE items SET title = '5';
UPDATE items SET id = id + 100;
UPDATE items SET id = id - 100;
ALTER TABLE items REPLICA IDENTITY DEFAULT;
UPDATE items SET title = '6';
ALTER TABLE items ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED;
UPDATE items SET title = '7';
SELECT payload::jsonb -> 'key' AS key, payload::jsonb -> 'new' AS new, payload::jsonb -> 'old' AS old
FROM changes('CHANGE_OPTIONS');
INSERT INTO items (id, title) VALUES (2, '2');
SELECT nats_publish_table('items', subject => 'change_options.key');
ALTER TABLE items DROP CONSTRAINT items_pkey;
UPDATE items SET title = '8' WHERE id = 2;
ALTER TABLE items ADD PRIMARY KEY (id);
UPDATE items SET title = '9' WHERE id = 2;
SELECT payload FROM changes('CHANGE_OPTIONS');
-- ... a column that an option names, ...
SELECT nats_publish_table('items', subject => 'change_options.{title}', columns => '{title}', msg_id => 'catalog-{id}-{title}');
ALTER TABLE items RENAME title TO name;
SELECT error_of($$UPDATE items SET name = 'x' WHERE id = 2$$);
ALTER TABLE items RENAME id TO title;
ALTER TABLE items RENAME name TO id;
SELECT error_of($$UPDATE items SET id = 'now the title' WHERE title = 2$$), error_of('UPDATE items SET title = 3 WHERE title = 2');
ALTER TABLE items RENAME id TO name;
ALTER TABLE items RENAME title TO id;
ALTER TABLE items RENAME name TO title;
UPDATE items SET title = 'x' WHERE id = 3;
SELECT subject, headers, payload::jsonb -> 'key' AS key FROM changes('CHANGE_OPTIONS');
-- ... and the trigger.
SELECT nats_unpublish_table('items');
CREATE TRIGGER one AFTER UPDATE ON items FOR EACH ROW EXECUTE FUNCTION nats_publish_change('subject=change_options.one');
UPDATE items SET title = 'one' WHERE id = 3;
ALTER TRIGGER one ON items RENAME TO two;
UPDATE items SET title = 'two' WHERE id = 3;
DROP TRIGGER two ON items;
CREATE TRIGGER two AFTER UPDATE ON items FOR EACH ROW EXECUTE FUNCTION nats_publish_change('subject=change_options.three',
    'columns=title');
UPDATE items SET title = 'three' WHERE id = 3;
CREATE OR REPLACE TRIGGER two AFTER UPDATE ON items FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change('subject=change_options.four', 'columns=id', 'old=1');
UPDATE items SET title = 'four' WHERE id = 3;
UPDATE items SET id = 4, title = 'four and a half' WHERE id = 3;
SELECT subject, payload::jsonb -> 'new' AS new, payload::jsonb -> 'old' AS old FROM changes('CHANGE_OPTIONS');
ALTER TRIGGER two ON items RENAME TO nats_publish_row;
SELECT nats_unpublish_table('items');
SELECT count(*) FROM nats_published_tables;

-- Partitions follow what is changed of the partitioned table.
CREATE TABLE root (id int, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part (n int, id int NOT NULL);
ALTER TABLE root ATTACH PARTITION part FOR VALUES FROM (0) TO (100);
SELECT nats_publish_table('root');
INSERT INTO root VALUES (1, 1);
ALTER TABLE root RENAME TO trunk;
INSERT INTO trunk VALUES (2, 2);
ALTER TABLE trunk RENAME n TO number;
INSERT INTO part (id, number) VALUES (3, 3);
CREATE SCHEMA change_moved;
ALTER TABLE trunk SET SCHEMA change_moved;
INSERT INTO part (id, number) VALUES (4, 4);
ALTER TABLE part RENAME TO branch;
INSERT INTO branch (id, number) VALUES (5, 5);
ALTER TRIGGER nats_publish_row ON change_moved.trunk RENAME TO publish_trunk;
ALTER TABLE change_moved.trunk ADD added int DEFAULT 1;
INSERT INTO branch (id, number) VALUES (6, 6);
SELECT subject, payload::jsonb ->> 'schema' AS schema, payload::jsonb ->> 'table' AS "table", payload::jsonb -> 'new' AS new
FROM changes('CHANGE_OPTIONS');
SELECT relation, trigger_name, events FROM nats_published_tables ORDER BY trigger_name;
DROP TABLE change_moved.trunk;
DROP SCHEMA change_moved;

-- A plan that is in use when the catalog changes: a function that a row calls alters other tables, and this.
CREATE TYPE loud AS ENUM ('a', 'b');
CREATE FUNCTION loud_to_json(loud) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE keyless ALTER n SET DEFAULT 1;
    ALTER SCHEMA change_options RENAME TO change_passing;
    ALTER SCHEMA change_passing RENAME TO change_options;
    RETURN to_json($1::text);
END
$$;
CREATE CAST (loud AS json) WITH FUNCTION loud_to_json(loud);
CREATE TABLE louds (id int PRIMARY KEY, l loud, t text);
SELECT nats_publish_table('louds', old => true, headers => '{"T": "{t}"}');
INSERT INTO louds SELECT i, 'a', 'text ' || i FROM generate_series(1, 3) AS i;
UPDATE louds SET l = 'b';
SELECT headers, payload FROM changes('CHANGE_OPTIONS');
DROP CAST (loud AS json);

-- Privileges: nobody may who was not granted it, ...
CREATE ROLE regress_change_owner;
CREATE ROLE regress_change_writer;
GRANT USAGE, CREATE ON SCHEMA change_options TO regress_change_owner, regress_change_writer;
SET ROLE regress_change_owner;
CREATE TABLE owned (id int PRIMARY KEY);
SELECT error_of($$SELECT nats_publish_table('owned')$$) AS publish, error_of($$SELECT nats_unpublish_table('owned')$$) AS unpublish;
SELECT error_of('CREATE TRIGGER t AFTER INSERT ON owned FOR EACH ROW EXECUTE FUNCTION nats_publish_change()') AS create_trigger;
RESET ROLE;
-- ... and who was only for a table of which he could create triggers anyway.
GRANT EXECUTE ON FUNCTION nats_publish_table TO regress_change_owner;
SET ROLE regress_change_owner;
SELECT error_of($$SELECT nats_publish_table('owned')$$) AS "without nats_publish_change";
RESET ROLE;
GRANT EXECUTE ON FUNCTION nats_publish_change, nats_unpublish_table TO regress_change_owner;
SET ROLE regress_change_owner;
SELECT nats_publish_table('owned', delivery => 'async');
SELECT error_of($$SELECT nats_publish_table('items')$$) AS "another's table",
    error_of($$SELECT nats_publish_table('pg_class')$$) AS "the system's";
SELECT left(error_of($$SELECT nats_unpublish_table('items')$$), 5) AS "another's table",
    left(error_of($$SELECT nats_unpublish_table('pg_class')$$), 5) AS "the system's";
INSERT INTO owned VALUES (1);
DELETE FROM owned;
GRANT INSERT, UPDATE (id), DELETE ON owned TO regress_change_writer;
-- Who may write the table then publishes, though he may neither read it nor call anything.
SET ROLE regress_change_writer;
INSERT INTO owned VALUES (2);
SELECT error_of('DELETE FROM owned WHERE id = 1') AS "delete by column", error_of('SELECT * FROM owned') AS read;
UPDATE owned SET id = 3;
SELECT error_of($$SELECT nats_publish_async('change_options.x', 'x')$$) AS call,
    error_of($$SELECT nats_unpublish_table('owned')$$) AS unpublish;
RESET ROLE;
SET ROLE regress_change_owner;
SELECT nats_publish_table('owned', level => 'statement');
SET ROLE regress_change_writer;
INSERT INTO owned VALUES (4);
DELETE FROM owned;
RESET ROLE;
SELECT subject, payload::jsonb -> 'key' AS key FROM changes('CHANGE_OPTIONS');
-- The view is for whom it was granted to.
SET ROLE regress_change_writer;
SELECT relation, trigger_name FROM nats_published_tables ORDER BY trigger_name;
RESET ROLE;
-- TRIGGER is enough, where CREATE TRIGGER finds it enough.
GRANT EXECUTE ON FUNCTION nats_publish_table, nats_publish_change TO regress_change_writer;
GRANT TRIGGER ON items TO regress_change_writer;
SET ROLE regress_change_writer;
SELECT error_of($$SELECT nats_publish_table('items')$$) AS "with TRIGGER";
RESET ROLE;
SELECT trigger_name FROM options_of('items');

SET client_min_messages = warning;
DROP OWNED BY regress_change_writer, regress_change_owner;
DROP ROLE regress_change_writer, regress_change_owner;
DROP SCHEMA change_options CASCADE;
SELECT delete_stream('CHANGE_OPTIONS');
