-- The place of a change in its transaction, and the message that ends the transaction.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_TRANSACTION', 'change_transaction.>');
CREATE SCHEMA change_transaction;
SET search_path = change_transaction, public;
CREATE TABLE orders (id int PRIMARY KEY, v text);
CREATE TABLE "Items" (id int PRIMARY KEY, v text);
CREATE TABLE alone (id int PRIMARY KEY);

CREATE VIEW sent AS
SELECT subject, regexp_replace(payload, ',"(schema|xid)":.*', '') AS what, payload::jsonb #>> '{tx,n}' AS n, payload::jsonb ->> 'n' AS total,
    payload::jsonb -> 'tables' AS tables
FROM changes('CHANGE_TRANSACTION');

SELECT nats_publish_table(t, 'change_transaction.{table}', transaction => true, transaction_end => 'change_transaction.end')
FROM unnest(ARRAY['orders', '"Items"']::regclass[]) AS t;
SELECT nats_publish_table('alone', 'change_transaction.{table}', transaction => true);
SELECT relation, options ->> 'transaction' AS transaction, options ->> 'transaction_end' AS transaction_end
FROM nats_published_tables WHERE level = 'row' ORDER BY relation::text;

-- Numbers without gaps, of the tables with the same end together; the end says how many.
BEGIN;
INSERT INTO orders VALUES (1), (2);
INSERT INTO "Items" VALUES (1);
INSERT INTO alone VALUES (1);
UPDATE orders SET v = 'x';
DELETE FROM "Items";
TRUNCATE orders;
INSERT INTO alone VALUES (2);
COMMIT;
SELECT subject, what, n, total, tables FROM sent;
-- A transaction each.
INSERT INTO orders VALUES (1);
INSERT INTO orders VALUES (2);
SELECT subject, n, total, tables FROM sent;
-- What is rolled back gives its numbers back.
BEGIN;
INSERT INTO orders VALUES (3);
SAVEPOINT a;
INSERT INTO orders VALUES (4);
SAVEPOINT b;
INSERT INTO "Items" VALUES (4);
INSERT INTO orders VALUES (5);
RELEASE b;
INSERT INTO orders VALUES (6);
ROLLBACK TO a;
INSERT INTO orders VALUES (7);
SAVEPOINT c;
INSERT INTO "Items" VALUES (8);
RELEASE c;
SAVEPOINT d;
INSERT INTO "Items" VALUES (9);
ROLLBACK TO d;
INSERT INTO "Items" VALUES (10);
DO $$ BEGIN
    INSERT INTO orders VALUES (11);
    BEGIN
        INSERT INTO orders VALUES (12);
        RAISE 'no';
    EXCEPTION WHEN OTHERS THEN
        INSERT INTO orders VALUES (13);
    END;
END $$;
COMMIT;
SELECT what, n, total, tables FROM sent;
BEGIN;
SAVEPOINT a;
INSERT INTO orders VALUES (20);
ROLLBACK TO a;
COMMIT;
BEGIN;
INSERT INTO orders VALUES (20);
ROLLBACK;
UPDATE orders SET v = v;
SELECT count(*) AS nothing FROM sent;
-- A table of which nothing is left is not in the end.
BEGIN;
INSERT INTO orders VALUES (21);
SAVEPOINT a;
INSERT INTO "Items" VALUES (21);
ROLLBACK TO a;
COMMIT;
SELECT n, total, tables FROM sent;
-- What deferred triggers publish is before the end.
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON "Items" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION nats_publish_change('subject=change_transaction.later', 'transaction=on', 'transaction_end=change_transaction.end');
INSERT INTO "Items" VALUES (20);
SELECT subject, n, total, tables FROM sent;
DROP TRIGGER later ON "Items";
-- The end is published as who made the changes, though COMMIT is somebody else's.
CREATE ROLE regress_change_writer;
GRANT USAGE ON SCHEMA change_transaction TO regress_change_writer;
GRANT ALL ON orders TO regress_change_writer;
BEGIN;
SET LOCAL ROLE regress_change_writer;
INSERT INTO orders VALUES (30);
RESET ROLE;
COMMIT;
SELECT count(*) FROM sent;
DROP OWNED BY regress_change_writer;
DROP ROLE regress_change_writer;

-- The outbox: its rows are in that order.
SELECT nats_publish_table('orders', 'change_transaction.{table}', delivery => 'outbox', level => 'statement', transaction => true,
    transaction_end => 'change_transaction.end');
BEGIN;
INSERT INTO orders VALUES (40), (41);
SAVEPOINT a;
DELETE FROM orders WHERE id < 40;
ROLLBACK TO a;
DELETE FROM orders WHERE id = 40;
COMMIT;
SELECT subject, convert_from(payload, 'UTF8')::json #>> '{tx,n}' AS n, convert_from(payload, 'UTF8')::json -> 'tables' AS tables
FROM nats_outbox ORDER BY id;
DELETE FROM nats_outbox;
BEGIN;
INSERT INTO orders VALUES (42);
PREPARE TRANSACTION 'regress_change_transaction';
COMMIT PREPARED 'regress_change_transaction';
SELECT subject FROM nats_outbox ORDER BY id;
DELETE FROM nats_outbox;
-- Subtransactions, one for each row, leave nothing in memory: for some thousands PostgreSQL itself has less than this.
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE b (id int);
SELECT nats_publish_table(t, 'change_transaction.{table}', delivery => 'outbox', transaction => true, transaction_end => 'change_transaction.end',
    events => '{insert}') FROM unnest('{a,b}'::regclass[]) AS t;
BEGIN;
INSERT INTO a VALUES (1);
SELECT sum(used_bytes) AS before FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext' \gset
DO $$ BEGIN
    FOR i IN 1 .. 3000 LOOP
        BEGIN
            INSERT INTO a VALUES (i);
        EXCEPTION WHEN unique_violation THEN
            NULL;
        END;
        INSERT INTO b VALUES (i);
        BEGIN
            INSERT INTO b VALUES (i);
            RAISE 'no';
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT CASE WHEN sum(used_bytes) - :before < 100000 THEN 'little' ELSE (sum(used_bytes) - :before)::text END AS taken
FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext';
COMMIT;
SELECT convert_from(payload, 'UTF8')::json ->> 'n' AS n, convert_from(payload, 'UTF8')::json -> 'tables' AS tables
FROM nats_outbox ORDER BY id DESC LIMIT 1;
DELETE FROM nats_outbox;

-- CloudEvents, and Debezium, whose transaction block is what its consumers know.
SELECT nats_publish_table('orders', 'change_transaction.{table}', format => 'cloudevents', transaction => true, transaction_end => 'change_transaction.end');
INSERT INTO orders VALUES (50);
SELECT headers - '{ce-id,ce-time,Pg-Xid,ce-source}'::text[] AS headers, headers ->> 'ce-source' = '/postgresql/' || current_database() AS source,
    headers ->> 'ce-id' <> '' AS id, headers ->> 'ce-time' LIKE '____-__-__T%Z' AS time
FROM stream_messages('CHANGE_TRANSACTION') WHERE subject LIKE '%.end';
SELECT count(*) FROM sent;
SELECT nats_publish_table('orders', 'change_transaction.{table}', format => 'debezium', transaction => true, transaction_end => 'change_transaction.end');
SELECT nats_publish_table('"Items"', 'change_transaction.{table}', format => 'debezium', transaction => true, transaction_end => 'change_transaction.end');
BEGIN;
INSERT INTO orders VALUES (60);
INSERT INTO "Items" VALUES (60);
UPDATE "Items" SET id = 61 WHERE id = 60;
SELECT pg_current_xact_id() AS xid \gset
COMMIT;
SELECT subject, payload::json ->> 'op' AS op, payload::json #> '{transaction,total_order}' AS total_order,
    payload::json #> '{transaction,data_collection_order}' AS data_collection_order, payload::json ->> 'status' AS status,
    payload::json -> 'event_count' AS event_count, payload::json -> 'data_collections' AS data_collections
FROM stream_messages('CHANGE_TRANSACTION');
SELECT count(DISTINCT id), bool_and(id LIKE :'xid' || ':%') AS xid FROM
    (SELECT coalesce(payload::json #>> '{transaction,id}', payload::json ->> 'id') AS id FROM stream_messages('CHANGE_TRANSACTION')) AS ids;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_TRANSACTION') -> 'success' AS purged;

-- Only of what is held until the transaction ends.
SELECT error_of(format('SELECT nats_publish_table(''orders'', %s)', options)) FROM unnest(ARRAY[
    'transaction => true, delivery => ''async''', 'transaction => true, delivery => ''sync''', 'transaction_end => ''change_transaction.end''',
    'transaction => true, transaction_end => ''''', 'transaction => true, transaction_end => ''a..b''', 'transaction => true, payload => ''v''']) AS options;
-- The end goes the way of its changes, and what goes other ways has other ends, though COMMIT has settings of its own.
SELECT nats_publish_table('orders', 'change_transaction.{table}', transaction => true, transaction_end => 'change_transaction.end');
SELECT nats_publish_table('"Items"', 'change_transaction.{table}', delivery => 'outbox', transaction => true, transaction_end => 'change_transaction.end');
BEGIN;
INSERT INTO orders VALUES (61);
INSERT INTO "Items" VALUES (62);
SET LOCAL nats_publish.publishing = dry_run;
INSERT INTO orders VALUES (62), (63);
SET LOCAL nats_publish.publishing = off;
SET LOCAL nats_publish.server = 'regress_nats_nowhere';
SET LOCAL nats_publish.outbox_storage = wal;
SET LOCAL nats_publish.allowed_subjects = 'nothing';
COMMIT;
SELECT what, n, total, tables FROM sent;
SELECT subject, convert_from(payload, 'UTF8')::json -> 'n' AS total FROM nats_outbox ORDER BY id;
DELETE FROM nats_outbox;
BEGIN;
SET LOCAL nats_publish.publishing = dry_run;
INSERT INTO orders VALUES (64);
SET LOCAL nats_publish.publishing = on;
INSERT INTO orders VALUES (65);
SET LOCAL nats_publish.publishing = dry_run;
COMMIT;
SELECT what, n, total, tables FROM sent;
-- It must be allowed where the first change is made.
SELECT error_of($$SET nats_publish.allowed_subjects = 'change_transaction.orders'; INSERT INTO orders VALUES (66)$$);
RESET nats_publish.allowed_subjects;
-- A session that publishes nothing, does not.
SET nats_publish.publishing = dry_run;
INSERT INTO orders VALUES (70);
SET nats_publish.publishing = off;
INSERT INTO orders VALUES (71);
RESET nats_publish.publishing;
SELECT count(*) FROM sent;

DROP VIEW sent;
SET client_min_messages = warning;
DROP SCHEMA change_transaction CASCADE;
SELECT delete_stream('CHANGE_TRANSACTION');
