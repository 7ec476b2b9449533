-- Changes that are replicated are not published again: what is a replica's own is said by ENABLE ALWAYS.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_REPLICA', 'change_replica.>');
CREATE SCHEMA change_replica;
SET search_path = change_replica, public;
CREATE TABLE by_row (id int PRIMARY KEY, n int);
CREATE TABLE by_statement (LIKE by_row INCLUDING ALL);
CREATE TABLE by_parts (LIKE by_row INCLUDING ALL) PARTITION BY RANGE (id);
CREATE TABLE by_part PARTITION OF by_parts DEFAULT;
SELECT nats_publish_table('by_row'), nats_publish_table('by_statement', level => 'statement'), nats_publish_table('by_parts');
CREATE PROCEDURE change_all(role text) LANGUAGE plpgsql AS $$
DECLARE
    relation text;
BEGIN
    PERFORM set_config('session_replication_role', role, true);
    FOREACH relation IN ARRAY '{by_row,by_statement,by_parts}'::text[] LOOP
        EXECUTE format('INSERT INTO %I VALUES (1, 1), (2, 2)', relation);
        EXECUTE format('UPDATE %I SET n = 3 WHERE id = 1', relation);
        EXECUTE format('DELETE FROM %I WHERE id = 1', relation);
        EXECUTE format('TRUNCATE %I', relation);
    END LOOP;
END
$$;
CREATE VIEW sent AS
SELECT payload::json ->> 'table' AS "table", string_agg(payload::json ->> 'op', ' ' ORDER BY n) AS ops
FROM changes('CHANGE_REPLICA') WITH ORDINALITY AS c (subject, headers, payload, n) GROUP BY 1 ORDER BY 1;

-- As origin and locally, but not as replica.
CALL change_all('origin');
SELECT * FROM sent;
CALL change_all('local');
SELECT * FROM sent;
CALL change_all('replica');
SELECT * FROM sent;
-- Only the role at the change counts, not that at COMMIT.
BEGIN;
INSERT INTO by_row VALUES (10, 1);
SET LOCAL session_replication_role = replica;
INSERT INTO by_row VALUES (11, 1);
COMMIT;
DELETE FROM by_row;
SELECT * FROM sent;

-- ENABLE ALWAYS, trigger by trigger.
ALTER TABLE by_row ENABLE ALWAYS TRIGGER nats_publish_row;
ALTER TABLE by_statement ENABLE ALWAYS TRIGGER nats_publish_insert, ENABLE ALWAYS TRIGGER nats_publish_truncate;
ALTER TABLE by_parts ENABLE ALWAYS TRIGGER nats_publish_row;
ALTER TABLE by_part ENABLE ALWAYS TRIGGER nats_publish_row;
CALL change_all('origin');
SELECT * FROM sent;
CALL change_all('replica');
SELECT * FROM sent;
-- ENABLE REPLICA is for replicas only, DISABLE for nobody.
ALTER TABLE by_row ENABLE REPLICA TRIGGER nats_publish_row;
ALTER TABLE by_statement DISABLE TRIGGER nats_publish_insert;
CALL change_all('origin');
SELECT * FROM sent;
CALL change_all('replica');
SELECT * FROM sent;
SELECT relation, trigger_name, enabled FROM nats_published_tables ORDER BY relation::text, trigger_name;
-- Published anew it is as at first.
SELECT nats_publish_table('by_row'), nats_publish_table('by_statement', level => 'statement'), nats_publish_table('by_parts');
CALL change_all('replica');
SELECT * FROM sent;
SELECT DISTINCT enabled FROM nats_published_tables;

DROP VIEW sent;
DROP PROCEDURE change_all;
DROP TABLE by_row, by_statement, by_parts;
DROP SCHEMA change_replica;
SELECT delete_stream('CHANGE_REPLICA');
