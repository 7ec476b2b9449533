-- Changes of partitioned tables and of inheritance: which table a message names, and that each row is there once.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_PARTITIONS', 'change_partitions.>', 'change_parts.>');
CREATE SCHEMA change_partitions;
CREATE SCHEMA change_parts;
SET search_path = change_partitions, public;

-- A partition like the table, one with another order of columns and a dropped one, one in another schema, one
-- that is partitioned itself, and the default.
CREATE TABLE sales (id int, region text, amount numeric, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE sales_north PARTITION OF sales FOR VALUES IN ('north');
CREATE TABLE sales_south (amount numeric, gone int, region text NOT NULL, id int NOT NULL);
ALTER TABLE sales_south DROP gone;
ALTER TABLE sales ATTACH PARTITION sales_south FOR VALUES IN ('south');
CREATE TABLE change_parts.sales_east PARTITION OF sales FOR VALUES IN ('east');
CREATE TABLE sales_west PARTITION OF sales FOR VALUES IN ('west') PARTITION BY RANGE (id);
CREATE TABLE sales_west_low PARTITION OF sales_west FOR VALUES FROM (0) TO (100);
CREATE TABLE sales_west_high (region text NOT NULL, gone text, id int NOT NULL, amount numeric);
ALTER TABLE sales_west_high DROP gone;
ALTER TABLE sales_west ATTACH PARTITION sales_west_high FOR VALUES FROM (100) TO (200);
CREATE TABLE sales_other PARTITION OF sales DEFAULT;

-- What has been published.
CREATE VIEW sent AS
SELECT subject,
    concat_ws(' ', payload::jsonb ->> 'op', (payload::jsonb ->> 'schema') || '.' || (payload::jsonb ->> 'table')) AS what,
    payload::jsonb -> 'key' AS key, payload::jsonb -> 'new' AS new, payload::jsonb -> 'old' AS old,
    payload::jsonb -> 'changed' AS changed, headers
FROM changes('CHANGE_PARTITIONS');

-- Row triggers.
SELECT nats_publish_table('sales');
INSERT INTO sales SELECT i, region, i FROM unnest('{north,south,east,west,else}'::text[]) WITH ORDINALITY AS r (region, i);
INSERT INTO sales VALUES (150, 'west', 150);
SELECT * FROM sent;
UPDATE sales SET amount = amount + 1;
SELECT what, new, changed FROM sent;
-- an update that moves no row, of a column that each partition has in another place
UPDATE sales SET amount = amount;
UPDATE sales SET id = id + 10 WHERE id < 100;
SELECT what, new, old, changed FROM sent;
-- what moves a row is a delete and an insert
UPDATE sales SET region = 'south' WHERE region = 'north';
UPDATE sales SET id = 114 WHERE id = 14;
UPDATE sales SET region = 'elsewhere', amount = 0 WHERE region = 'else';
SELECT what, key, new, old, changed FROM sent;
-- also when a foreign key follows it
CREATE TABLE bills (sale int, region text, FOREIGN KEY (sale, region) REFERENCES sales ON UPDATE CASCADE ON DELETE CASCADE);
SELECT nats_publish_table('bills', key => '{sale}');
INSERT INTO bills VALUES (12, 'south');
UPDATE sales SET region = 'north' WHERE id = 12;
UPDATE sales SET region = 'south' WHERE id = 12;
SELECT what, key, new, old, changed FROM sent;
DROP TABLE bills;
DELETE FROM sales WHERE region IN ('west', 'south');
SELECT subject, what, key FROM sent;
-- a partition as a table: its rows are the other's still
INSERT INTO sales_south VALUES (1, 'south', 1);
INSERT INTO change_parts.sales_east (id, region, amount) VALUES (2, 'east', 2);
INSERT INTO sales_west VALUES (103, 'west', 3);
UPDATE sales_west_high SET amount = 4;
UPDATE sales_west SET id = 3 WHERE id = 103;
DELETE FROM sales_south;
COPY sales_west_low (id, region, amount) FROM stdin;
50	west	5
\.
SELECT * FROM sent;

-- TRUNCATE of the table, which is one message; of a partition, which is none of the table.
TRUNCATE sales_west_low;
TRUNCATE change_parts.sales_east, sales_other;
TRUNCATE sales_west;
SELECT * FROM sent;
TRUNCATE sales;
SELECT * FROM sent;

-- A partition that comes later, goes, and is a table of its own then.
CREATE TABLE sales_up PARTITION OF sales FOR VALUES IN ('up');
CREATE TABLE sales_down (id int NOT NULL, amount numeric, region text NOT NULL);
INSERT INTO sales_down VALUES (1, 1, 'down');
ALTER TABLE sales ATTACH PARTITION sales_down FOR VALUES IN ('down');
INSERT INTO sales VALUES (1, 'up', 1), (2, 'down', 2);
UPDATE sales_down SET amount = 3;
SELECT what, new FROM sent;
ALTER TABLE sales DETACH PARTITION sales_down;
INSERT INTO sales_down VALUES (4, 4, 'down');
SELECT what, new FROM sent;
SELECT nats_publish_table('sales_down', key => '{id}');
INSERT INTO sales_down VALUES (5, 5, 'down');
SELECT subject, what, key, new FROM sent;
SELECT relation, trigger_name, partitions FROM nats_published_tables ORDER BY 1, 2;
-- With a trigger of that name of its own it cannot be attached; without it, it can.
SELECT error_of($$ALTER TABLE sales ATTACH PARTITION sales_down FOR VALUES IN ('down')$$) LIKE '42710: %' AS refused;
SELECT nats_unpublish_table('sales_down');
ALTER TABLE sales ATTACH PARTITION sales_down FOR VALUES IN ('down');
INSERT INTO sales VALUES (6, 'down', 6);
SELECT subject, what, key, new FROM sent;
-- With statement triggers it can, and its changes come twice, which the doctor says. Published besides it can't be; but TRUNCATE can.
ALTER TABLE sales DETACH PARTITION sales_down;
SELECT nats_publish_table('sales_down', key => '{id}', level => 'statement');
ALTER TABLE sales ATTACH PARTITION sales_down FOR VALUES IN ('down');
SELECT status, detail FROM nats_check() WHERE check_name = 'changes';
INSERT INTO sales_down VALUES (7, 7, 'down');
SELECT subject FROM sent;
SELECT nats_unpublish_table('sales_down');
SELECT error_of(format('SELECT nats_publish_table(''sales_down'', key => ''{id}'', level => %L)', level)) FROM unnest('{row,statement}'::text[]) AS level;
SELECT nats_publish_table('sales_down', key => '{id}', events => '{truncate}');
SELECT status, detail FROM nats_check() WHERE check_name = 'changes';
SELECT nats_unpublish_table('sales_down');
-- the other way round, and where one of the two is at level statement
CREATE TABLE twice (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE twice_low PARTITION OF twice FOR VALUES FROM (1) TO (100);
SELECT nats_publish_table('twice_low', level => part),
    error_of(format('SELECT nats_publish_table(''twice'', level => %L, events => ''{insert,delete}'')', whole)) AS refused,
    nats_unpublish_table('twice'), nats_unpublish_table('twice_low')
FROM unnest('{row,statement}'::text[]) AS part, unnest('{row,statement}'::text[]) AS whole;
SELECT nats_publish_table('twice', level => 'statement', events => '{insert,delete}');
SELECT error_of($$SELECT nats_publish_table('twice_low')$$);
SELECT error_of($$SELECT nats_publish_table('twice_low', events => '{update}')$$);
SELECT nats_unpublish_table('twice_low');
DROP TABLE twice;

-- Options hold for all partitions: templates, keys and lists of columns find their columns in each.
SELECT nats_publish_table('sales', subject => 'change_parts.{table}.{region}.{id}', columns => '{amount,region}',
    ignore => '{amount}', key => '{id}', headers => '{"Amount": "{amount}"}', old => true);
TRUNCATE sales;
INSERT INTO sales SELECT i, region, i FROM unnest('{north,south,east,west,else}'::text[]) WITH ORDINALITY AS r (region, i);
INSERT INTO sales VALUES (150, 'west', 150);
UPDATE sales SET amount = 7;
UPDATE sales SET id = 8 WHERE id = 2;
DELETE FROM sales WHERE id IN (8, 150);
SELECT subject, key, new, old, changed, headers FROM sent;

-- The key is that of the published table, in its order of columns, whatever a partition has of its own: two rows of
-- which one is the other backwards are two subjects, and names of columns stand in one order.
CREATE TABLE pairs (a int, b int, c text, d text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
CREATE TABLE pairs_low PARTITION OF pairs FOR VALUES FROM (0) TO (2);
CREATE TABLE pairs_high (gone int, b int NOT NULL, d text, c text, a int NOT NULL, UNIQUE (b));
ALTER TABLE pairs_high DROP gone, REPLICA IDENTITY FULL;
ALTER TABLE pairs ATTACH PARTITION pairs_high FOR VALUES FROM (2) TO (9);
SELECT nats_publish_table('pairs', 'change_parts.{a}.{b}', format => 'cloudevents', old => true);
INSERT INTO pairs VALUES (1, 2, 'x', 'y'), (2, 1, 'x', 'y');
UPDATE pairs SET d = 'e', c = 'z';
UPDATE pairs SET b = b + 2;
DELETE FROM pairs;
SELECT subject, headers ->> 'ce-subject' AS ce_subject, payload FROM changes('CHANGE_PARTITIONS');
-- Of a part of the columns, too.
SELECT nats_publish_table('pairs', 'change_parts.{a}.{b}', columns => '{d,b,c}', key => '{b}', ignore => '{d}');
INSERT INTO pairs VALUES (1, 2, 'x', 'y'), (2, 1, 'x', 'y');
UPDATE pairs SET d = 'e';
UPDATE pairs SET d = 'f', c = 'z';
SELECT subject, payload FROM changes('CHANGE_PARTITIONS');
SELECT nats_publish_table('pairs', payload => 'd', subject => 'change_parts.{c}', events => '{insert}');
INSERT INTO pairs VALUES (1, 3, 'c', '"d"'), (2, 4, 'c', '"d"');
SELECT subject, payload FROM changes('CHANGE_PARTITIONS');
DROP TABLE pairs;

-- A replica identity is not inherited, and partitions may have primary keys that the table has not.
CREATE TABLE logs (id int NOT NULL, v text NOT NULL) PARTITION BY LIST (id);
CREATE UNIQUE INDEX logs_id ON logs (id);
CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1);
CREATE TABLE logs_2 (v text PRIMARY KEY, id int NOT NULL);
ALTER TABLE logs ATTACH PARTITION logs_2 FOR VALUES IN (2);
SELECT error_of($$SELECT nats_publish_table('logs')$$);
ALTER TABLE logs REPLICA IDENTITY USING INDEX logs_id;
SELECT nats_publish_table('logs');
INSERT INTO logs VALUES (1, 'x'), (2, 'y');
UPDATE logs SET v = 'z' || id;
ALTER TABLE logs REPLICA IDENTITY FULL;
UPDATE logs SET v = 'v' || id;
DELETE FROM logs;
SELECT subject, what, key, new, old, changed FROM sent;
-- What the table above loses is missing at once, and said before a row meets it.
ALTER TABLE logs REPLICA IDENTITY NOTHING;
SELECT relation, trigger_name, error, partitions FROM nats_published_tables WHERE error IS NOT NULL;
SELECT error_of('INSERT INTO logs VALUES (1, 1)');
SELECT error_of('INSERT INTO logs_2 VALUES (1, 2)');
DROP TABLE logs;

-- Who publishes a partition as well publishes it twice: once as the table, once as itself.
SELECT nats_publish_table('sales');
CREATE TRIGGER north AFTER INSERT OR UPDATE OR DELETE ON sales_north FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change('subject=change_parts.{table}');
INSERT INTO sales VALUES (20, 'north', 20), (20, 'up', 20);
SELECT subject, what, key FROM sent;
DROP TRIGGER north ON sales_north;
-- A trigger on a partitioned partition is that one's.
CREATE TRIGGER west AFTER INSERT ON sales_west FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change('subject=change_parts.{schema}.{table}');
INSERT INTO sales VALUES (21, 'west', 21);
SELECT subject, what, key FROM sent;
DROP TRIGGER west ON sales_west;
-- The trigger of a partition cannot be replaced or dropped alone.
SELECT nats_unpublish_table('sales_north');
SELECT left(error_of($$SELECT nats_publish_table('sales_north')$$), 5) AS "name is taken";
INSERT INTO sales VALUES (22, 'north', 22);
SELECT subject, what, key FROM sent;

-- A deferred one of a partition, too.
SELECT nats_unpublish_table('sales');
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT OR UPDATE ON sales_south DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change();
BEGIN;
INSERT INTO sales VALUES (30, 'south', 30);
UPDATE sales SET amount = 31 WHERE id = 30;
COMMIT;
SELECT subject, what, new FROM sent;
DROP TRIGGER deferred ON sales_south;

-- Statement triggers do not see what a MERGE updates as it is, so they are refused for updates ...
SELECT error_of($$SELECT nats_publish_table('sales', level => 'statement')$$);
CREATE TRIGGER updated AFTER UPDATE ON sales REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
SELECT error_of('UPDATE sales SET amount = 2');
DROP TRIGGER updated ON sales;
-- ... nor what a partition with another order of columns computes, so they are for inserts into such a table, ...
CREATE TABLE computed (id int PRIMARY KEY, n int, double int GENERATED ALWAYS AS (n * 2) STORED) PARTITION BY RANGE (id);
CREATE TABLE computed_low PARTITION OF computed FOR VALUES FROM (0) TO (10);
CREATE TABLE computed_high (double int GENERATED ALWAYS AS (n * 2) STORED, n int, id int NOT NULL);
ALTER TABLE computed ATTACH PARTITION computed_high FOR VALUES FROM (10) TO (20);
SELECT error_of($$SELECT nats_publish_table('computed', level => 'statement', events => '{insert}')$$);
CREATE TRIGGER inserted AFTER INSERT ON computed REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change();
SELECT left(error_of('INSERT INTO computed VALUES (1, 1), (11, 11)'), 5);
DROP TRIGGER inserted ON computed;
SELECT nats_publish_table('computed');
INSERT INTO computed VALUES (1, 1), (11, 11);
SELECT what, new FROM sent;
SELECT nats_publish_table('computed', level => 'statement', events => '{delete}', old => true);
DELETE FROM computed;
SELECT what, old FROM sent;
DROP TABLE computed;
-- ... and for nothing else.
SELECT nats_publish_table('sales', level => 'statement', old => true, events => '{insert,delete,truncate}');
TRUNCATE sales;
INSERT INTO sales SELECT i, region, i FROM unnest('{north,south,east,west,else}'::text[]) WITH ORDINALITY AS r (region, i);
INSERT INTO sales VALUES (150, 'west', 150);
UPDATE sales SET region = 'south' WHERE region = 'north';
INSERT INTO sales VALUES (2, 'east', 0), (9, 'west', 9) ON CONFLICT (id, region) DO UPDATE SET amount = excluded.amount;
MERGE INTO sales USING (VALUES (9, 'west', 10), (10, 'south', 10)) AS s (id, region, amount)
    ON sales.id = s.id AND sales.region = s.region
WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.region, s.amount);
DELETE FROM sales WHERE id < 9;
TRUNCATE sales;
SELECT what, key, new FROM sent ORDER BY what, key, new;
-- What is said of a partition, by its name, is no statement of the table.
INSERT INTO sales_north VALUES (1, 'north', 1);
UPDATE sales_north SET amount = 2;
DELETE FROM sales_north;
SELECT count(*) FROM sent;
SELECT nats_unpublish_table('sales');

-- Inheritance: row triggers see the rows of their own table only, ...
CREATE TABLE people (id int PRIMARY KEY, name text);
CREATE TABLE staff (wage numeric) INHERITS (people);
CREATE TABLE guests (gone int, guest_of int, name text, id int NOT NULL);
ALTER TABLE guests DROP gone;
ALTER TABLE guests INHERIT people;
SELECT nats_publish_table('people');
INSERT INTO people VALUES (1, 'Ada');
INSERT INTO staff VALUES (2, 'Grace', 10);
INSERT INTO guests VALUES (2, 'Alan', 3);
UPDATE people SET name = upper(name);
DELETE FROM people WHERE id = 3;
SELECT what, new FROM sent;
-- ... statement triggers of the parent those of its children as well, as far as they are the parent's.
SELECT nats_publish_table('people', level => 'statement', old => true);
UPDATE people SET name = lower(name);
INSERT INTO guests VALUES (2, 'alan', 3);
UPDATE people SET id = id + 10;
UPDATE staff SET wage = 11;
UPDATE ONLY people SET name = 'Ada';
DELETE FROM people;
SELECT what, new, old, changed FROM sent;
-- A child has its own.
SELECT nats_publish_table('staff', key => '{id}');
INSERT INTO people VALUES (1, 'Ada');
INSERT INTO staff VALUES (2, 'Grace', 10);
UPDATE people SET name = upper(name);
TRUNCATE people;
SELECT what, new FROM sent;

DROP VIEW sent;
DROP TABLE people, staff, guests, sales;
DROP SCHEMA change_partitions, change_parts;
SELECT delete_stream('CHANGE_PARTITIONS');
