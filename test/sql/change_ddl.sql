-- DDL as messages, in order with those of rows.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_DDL', 'change_ddl.>');
CREATE SCHEMA change_ddl;
SET search_path = change_ddl, public;
CREATE VIEW sent AS
SELECT subject, payload::json ->> 'op' AS op, payload::json ->> 'command' AS command, payload::json -> 'objects' AS objects, payload::json ->> 'statement' AS statement
FROM stream_messages('CHANGE_DDL');
CREATE FUNCTION purge() RETURNS boolean LANGUAGE sql AS $$SELECT (nats_jetstream('STREAM.PURGE.CHANGE_DDL') -> 'success')::boolean$$;

SELECT nats_publish_ddl('change_ddl.schema.{command}');
SELECT * FROM nats_published_ddl;
SELECT evtname, evtevent, evtenabled FROM pg_event_trigger ORDER BY evtname;
CREATE TABLE orders (id serial PRIMARY KEY, "Odd ""name" text);
ALTER TABLE orders ADD v text;
ALTER TABLE orders DROP v;
COMMENT ON TABLE orders IS 'ü "x"';
CREATE TEMP TABLE passing (id int);
CREATE TRIGGER " on x.y" AFTER INSERT ON passing EXECUTE FUNCTION nats_publish_change();
CREATE POLICY visible ON passing;
CREATE RULE keep AS ON DELETE TO passing DO INSTEAD NOTHING;
DROP TRIGGER " on x.y" ON passing;
DROP POLICY visible ON passing;
DROP RULE keep ON passing;
DROP TABLE passing;
CREATE VIEW of_orders AS SELECT id FROM orders;
DROP TABLE orders CASCADE;
SELECT * FROM sent;
SELECT purge();

-- What changes no schema is none of it: a restored dump ends with it. Secrets in URLs stay here, wherever they are.
CREATE MATERIALIZED VIEW counts AS SELECT 1 AS n;
REFRESH MATERIALIZED VIEW counts;
COMMENT ON MATERIALIZED VIEW counts IS 'nats://app:s3/cret@nats';
COMMENT ON MATERIALIZED VIEW counts IS 'https://example.org/counts, by b@example.org';
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
ALTER FUNCTION f() SET nats_publish.url = 'app:s3cret@nats:4222';
DROP FUNCTION f();
DROP MATERIALIZED VIEW counts;
SELECT command, statement FROM sent;
SELECT purge();

-- With CASCADE, what it takes of tables that stay; of those that go, themselves.
CREATE TYPE mood AS ENUM ('a');
CREATE TABLE people (id int PRIMARY KEY, m mood, up int REFERENCES people);
CREATE TABLE pets (id int PRIMARY KEY, of int REFERENCES people);
SELECT purge();
DROP TYPE mood CASCADE;
DROP TABLE people CASCADE;
DROP TABLE pets;
SELECT command, objects FROM sent;
SELECT purge();
-- In order with rows, and as the transaction and its savepoints go.
BEGIN;
CREATE TABLE rows (id int PRIMARY KEY);
SELECT nats_publish_table('rows', 'change_ddl.row.{id}');
SELECT nats_annotate('{"Actor": "ann"}');
INSERT INTO rows VALUES (1);
ALTER TABLE rows ADD v int;
SAVEPOINT a;
DROP TABLE rows;
ROLLBACK TO a;
INSERT INTO rows VALUES (2);
COMMIT;
BEGIN;
DROP TABLE rows;
ROLLBACK;
SELECT subject, command FROM sent;
SELECT headers - 'Pg-Xid' AS headers FROM stream_messages('CHANGE_DDL') WHERE subject LIKE '%alter_table';
SELECT purge();
-- What a function does, and nothing of what an extension's script does; no secret is published.
DO $$ BEGIN EXECUTE 'CREATE TABLE by_function (id int)'; END $$;
CREATE SERVER change_ddl FOREIGN DATA WRAPPER nats OPTIONS (url 'nats://127.0.0.1:1');
CREATE USER MAPPING FOR PUBLIC SERVER change_ddl OPTIONS (user 'u', password 'very secret');
CREATE ROLE regress_change_mapped;
CREATE USER
    /* two lines */ MAPPING FOR regress_change_mapped SERVER change_ddl OPTIONS (token 'very secret');
CREATE FUNCTION by_function(value text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER USER MAPP' || 'ING FOR regress_change_mapped SERVER change_ddl OPTIONS (SET to' || 'ken %L)', value);
END $$;
SELECT by_function('very s' || 'ecret');
DROP FUNCTION by_function;
CREATE FUNCTION with_setting() RETURNS void LANGUAGE sql SET nats_publish.url = 'nats://very:hidden@127.0.0.1' AS '';
ALTER FUNCTION with_setting() SET nats_publish.url = 'tls://hidden@127.0.0.1';
ALTER FUNCTION with_setting() SET nats_publish.url = 'nats://127.0.0.1/a@b';
DROP FUNCTION with_setting;
DROP SERVER change_ddl CASCADE;
DROP ROLE regress_change_mapped;
SELECT * FROM sent;
SELECT count(*) FROM stream_messages('CHANGE_DDL') WHERE payload ~ 'very s|hidden';
SELECT purge();

-- Who alters a table needs no right; deliveries; session_replication_role.
CREATE ROLE regress_change_alterer;
GRANT CREATE, USAGE ON SCHEMA change_ddl TO regress_change_alterer;
SET ROLE regress_change_alterer;
CREATE TABLE change_ddl.theirs (id int);
SELECT error_of('SELECT nats_publish_ddl()'), error_of('SELECT nats_publish_command()') ~ '^(42501|0A000)' AS refused;
SET search_path = '';
DROP TABLE change_ddl.theirs;
RESET ROLE;
SET search_path = change_ddl, public;
SELECT command FROM sent;
SELECT purge();
SELECT nats_publish_ddl('change_ddl.outbox', delivery => 'outbox');
CREATE TABLE other (id int);
SELECT subject, convert_from(payload, 'UTF8')::json ->> 'command' AS command FROM nats_outbox;
DELETE FROM nats_outbox;
SET session_replication_role = replica;
DROP TABLE other;
RESET session_replication_role;
SELECT count(*) FROM nats_outbox;

-- What can't be.
SELECT error_of('SELECT nats_publish_ddl(''a..b'')'), error_of('SELECT nats_publish_ddl(''a.{table}'')'), error_of('SELECT nats_publish_ddl(''a.{'')'),
    error_of('SELECT nats_publish_ddl(''a'', ''never'')') \gx
SELECT * FROM nats_published_ddl;

SELECT nats_unpublish_ddl(), nats_unpublish_ddl() AS again;
CREATE TABLE unseen (id int);
SELECT count(*) FROM sent;
DROP OWNED BY regress_change_alterer;
DROP ROLE regress_change_alterer;
SET client_min_messages = warning;
DROP SCHEMA change_ddl CASCADE;
SELECT delete_stream('CHANGE_DDL');
