-- Where transactions end that hold messages: procedures, triggers, PREPARE TRANSACTION, cursors, read-only ones.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('OCENDS', 'ocends.>');
SELECT nats_create_stream('OCEFULL', '{ocefull.>}', '{"storage": "memory", "max_msgs": 1, "discard": "new"}') IS NOT NULL AS created;
SELECT seq FROM nats_publish('ocefull.a', 'the only one');
CREATE TABLE oce_rows (n int);
CREATE FUNCTION published(filter text) RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(payload, ' ' ORDER BY seq) FROM stream_messages('OCENDS') WHERE subject = filter$$;

-- A DO block is one transaction.
DO $$
BEGIN
    PERFORM nats_publish_on_commit('ocends.do', i::text) FROM generate_series(1, 3) AS i;
    IF stream_count('OCENDS') > 0 THEN
        RAISE WARNING 'sent before COMMIT';
    END IF;
END
$$;
SELECT published('ocends.do');

-- A procedure can be several; so can a DO block.
CREATE PROCEDURE oce_procedure(subject text) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO oce_rows VALUES (1);
    PERFORM nats_publish_on_commit('ocends.procedure', '1');
    COMMIT;
    RAISE NOTICE 'published: %', published('ocends.procedure');
    INSERT INTO oce_rows VALUES (-2);
    PERFORM nats_publish_on_commit('ocends.procedure', '-2');
    PERFORM nats_publish_on_commit('no.stream', '-2');
    ROLLBACK;
    RAISE NOTICE 'published: %', published('ocends.procedure');
    FOR i IN 3 .. 20 LOOP
        PERFORM nats_publish_on_commit('ocends.procedure', CASE WHEN i % 2 = 0 THEN i ELSE -i END::text);
        IF i % 2 = 0 THEN
            COMMIT;
        ELSE
            ROLLBACK;
        END IF;
    END LOOP;
    INSERT INTO oce_rows VALUES (21);
    PERFORM nats_publish_on_commit(subject, '21');
    COMMIT;
    INSERT INTO oce_rows VALUES (22);
    PERFORM nats_publish_on_commit(subject, '22');
END
$$;
CALL oce_procedure('ocends.procedure');
SELECT published('ocends.procedure');
SELECT * FROM oce_rows;
TRUNCATE oce_rows;
\set VERBOSITY sqlstate
CALL oce_procedure('ocefull.a');
\set VERBOSITY default
SELECT * FROM oce_rows;
TRUNCATE oce_rows;
DO $$
BEGIN
    PERFORM nats_publish_on_commit('ocends.block', '1');
    COMMIT;
    PERFORM nats_publish_on_commit('ocends.block', '-2');
    ROLLBACK;
    PERFORM nats_publish_on_commit('ocends.block', '3');
END
$$;
SELECT published('ocends.block');

-- Triggers; those of a deferred constraint run in COMMIT.
CREATE FUNCTION oce_publish() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nats_publish_on_commit(TG_ARGV[0], NEW.n::text);
    RETURN NULL;
END
$$;
CREATE TABLE oce_triggers (n int CHECK (n < 100));
CREATE TRIGGER publish AFTER INSERT ON oce_triggers FOR EACH ROW EXECUTE FUNCTION oce_publish('ocends.row');
CREATE CONSTRAINT TRIGGER publish_deferred AFTER INSERT ON oce_triggers DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION oce_publish('ocends.deferred');
CREATE CONSTRAINT TRIGGER publish_full AFTER INSERT ON oce_triggers DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.n < 0) EXECUTE FUNCTION oce_publish('ocefull.a');
BEGIN;
INSERT INTO oce_triggers VALUES (1), (2);
SAVEPOINT s;
INSERT INTO oce_triggers VALUES (3);
ROLLBACK TO s;
INSERT INTO oce_triggers VALUES (4);
COMMIT;
INSERT INTO oce_triggers VALUES (5), (100);
INSERT INTO oce_triggers VALUES (6);
BEGIN;
INSERT INTO oce_triggers VALUES (-7);
SELECT 'still good';
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
BEGIN;
INSERT INTO oce_triggers VALUES (8);
SET CONSTRAINTS ALL IMMEDIATE;
INSERT INTO oce_triggers VALUES (9);
COMMIT;
SELECT published('ocends.row') AS row, published('ocends.deferred') AS deferred;
SELECT string_agg(n::text, ' ') AS rows FROM oce_triggers;
-- A deferred trigger that fails comes before any message.
CREATE FUNCTION oce_fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'failed in COMMIT'; END $$;
CREATE CONSTRAINT TRIGGER z_fail AFTER INSERT ON oce_triggers DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.n = 10) EXECUTE FUNCTION oce_fail();
INSERT INTO oce_triggers VALUES (10);
SELECT published('ocends.row') LIKE '%10' AS row, published('ocends.deferred') LIKE '%10' AS deferred;

-- PREPARE TRANSACTION can't hold messages, and says what else could be done.
BEGIN;
INSERT INTO oce_rows VALUES (30);
SELECT nats_publish_on_commit('ocends.prepared', '30');
SELECT nats_publish_async('ocends.prepared', 'async') IS NOT NULL AS published;
PREPARE TRANSACTION 'nats 30';
\echo :LAST_ERROR_SQLSTATE
SELECT published('ocends.prepared') AS "drained first";
-- The futures come first, and so does their error.
BEGIN;
SELECT nats_publish_on_commit('ocends.prepared', '31');
SELECT nats_publish_async('ocefull.a', '31') IS NOT NULL AS published;
\set VERBOSITY sqlstate
PREPARE TRANSACTION 'nats 31';
\set VERBOSITY default
-- What was rolled back to is not held.
BEGIN;
SAVEPOINT s;
SELECT nats_publish_on_commit('ocends.prepared', '32');
ROLLBACK TO s;
INSERT INTO oce_rows VALUES (32);
PREPARE TRANSACTION 'nats 32';
COMMIT PREPARED 'nats 32';
BEGIN;
SELECT nats_publish_on_commit('ocends.prepared', '33');
ROLLBACK;
BEGIN;
PREPARE TRANSACTION 'nats 33';
ROLLBACK PREPARED 'nats 33';
SELECT gid FROM pg_prepared_xacts;
SELECT * FROM oce_rows;
SELECT published('ocends.prepared');
-- Also when they were spilled.
SET work_mem = '64kB';
BEGIN;
SELECT count(nats_publish_on_commit('ocends.prepared', '34')) FROM generate_series(1, 5000);
\set VERBOSITY sqlstate
PREPARE TRANSACTION 'nats 34';
\set VERBOSITY default
RESET work_mem;
SELECT count(*) FROM pg_ls_tmpdir();
SELECT published('ocends.prepared');

-- Read-only transactions: nothing is written here.
BEGIN READ ONLY;
SELECT nats_publish_on_commit('ocends.readonly', '40');
COMMIT;
SET default_transaction_read_only = on;
SELECT nats_publish_on_commit('ocends.readonly', '41');
RESET default_transaction_read_only;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT nats_publish_on_commit('ocends.readonly', '42');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT nats_publish_on_commit('ocends.readonly', '43');
SET TRANSACTION READ ONLY;
COMMIT;
SELECT published('ocends.readonly');

-- A cursor holds messages for what is fetched from it; WITH HOLD the rest in COMMIT.
BEGIN;
DECLARE c CURSOR FOR SELECT i, nats_publish_on_commit('ocends.cursor', i::text) FROM generate_series(1, 5) AS i;
FETCH 2 FROM c;
SAVEPOINT s;
FETCH 1 FROM c;
ROLLBACK TO s;
FETCH 1 FROM c;
SELECT published('ocends.cursor') AS before;
COMMIT;
SELECT published('ocends.cursor');
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT i, nats_publish_on_commit('ocends.hold', i::text) FROM generate_series(1, 5) AS i;
FETCH 2 FROM c;
COMMIT;
FETCH ALL FROM c;
CLOSE c;
SELECT count(DISTINCT payload) FROM stream_messages('OCENDS') WHERE subject = 'ocends.hold';

-- COMMIT AND CHAIN
BEGIN;
SELECT nats_publish_on_commit('ocends.chain', '50');
COMMIT AND CHAIN;
SELECT nats_publish_on_commit('ocends.chain', '51');
ROLLBACK AND CHAIN;
SELECT nats_publish_on_commit('ocends.chain', '52');
COMMIT;
SELECT published('ocends.chain');

-- COPY, a set of rows, a function in a default, DISCARD ALL between transactions.
CREATE TABLE oce_default (n int, held text DEFAULT nats_publish_on_commit('ocends.default', 'x')::text);
COPY oce_default (n) FROM stdin;
1
2
\.
INSERT INTO oce_default (n) VALUES (3);
DISCARD ALL;
\i :helpers
SELECT published('ocends.default');

-- Several statements in one message of the protocol are one transaction.
SELECT nats_publish_on_commit('ocends.simple', '60') \; SELECT 1 / 0;
SELECT nats_publish_on_commit('ocends.simple', '61') \; SELECT nats_publish_on_commit('ocends.simple', '62');
SELECT published('ocends.simple');

-- What was published before is waited for first: when it has failed, nothing that is held goes out.
BEGIN;
SELECT nats_publish_async('ocefull.a', 'one too many') IS NOT NULL AS published;
SELECT nats_publish_on_commit('ocends.mixed', '70');
COMMIT;
SELECT published('ocends.mixed');

SELECT connects, connections_lost, failed FROM nats_session_stats();
DROP TABLE oce_rows, oce_triggers, oce_default;
DROP PROCEDURE oce_procedure;
DROP FUNCTION oce_publish, oce_fail, published;
SELECT delete_stream('OCENDS'), delete_stream('OCEFULL');
