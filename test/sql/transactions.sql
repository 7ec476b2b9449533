-- Where transactions end: procedures, deferred triggers, PREPARE TRANSACTION, cursors, read-only ones.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('TRANSACTIONS', 'tx.>');
SELECT nats_create_stream('TXFULL', '{txfull.>}', '{"storage": "memory", "max_msgs": 1, "discard": "new"}') IS NOT NULL AS created;
SELECT seq FROM nats_publish('txfull.a', 'the only one');
CREATE TABLE tx_rows (n int);

-- A DO block is one transaction.
DO $$
BEGIN
    INSERT INTO tx_rows VALUES (1);
    PERFORM nats_publish_async('tx.do', i::text) FROM generate_series(1, 3) AS i;
END
$$;
DO $$
BEGIN
    INSERT INTO tx_rows VALUES (2);
    PERFORM nats_publish_async('txfull.a', '2');
END
$$;
SELECT * FROM tx_rows;

-- A procedure can be several.
CREATE PROCEDURE tx_procedure(subject text) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tx_rows VALUES (3);
    PERFORM nats_publish_async('tx.procedure', 'committed');
    COMMIT;
    IF EXISTS (SELECT FROM nats_futures()) THEN
        RAISE WARNING 'futures of the last transaction';
    END IF;
    INSERT INTO tx_rows VALUES (-3);
    PERFORM nats_publish_async('txfull.a', 'rolled back');
    ROLLBACK;
    PERFORM nats_publish_async('tx.procedure', 'rolled back');
    PERFORM nats_flush();
    ROLLBACK;
    INSERT INTO tx_rows VALUES (4);
    PERFORM nats_publish_async(subject, 'last');
    COMMIT;
    INSERT INTO tx_rows VALUES (5);
END
$$;
CALL tx_procedure('tx.procedure');
SELECT * FROM tx_rows WHERE n NOT IN (1);
SELECT payload FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.procedure';
TRUNCATE tx_rows;
\set VERBOSITY terse
CALL tx_procedure('txfull.a');
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM tx_rows;
TRUNCATE tx_rows;

-- A hundred transactions, every second one rolled back.
CREATE PROCEDURE tx_loop() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 100 LOOP
        PERFORM nats_publish_async('tx.loop', i::text);
        IF i % 2 = 0 THEN
            COMMIT;
        ELSE
            ROLLBACK;
        END IF;
    END LOOP;
END
$$;
CALL tx_loop();
SELECT count(*) >= 50 AS "the committed ones", count(*) = count(DISTINCT payload) AS once
FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.loop';

-- Deferred constraint triggers publish in COMMIT, and are waited for.
CREATE FUNCTION tx_publish() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nats_publish_async(TG_ARGV[0], NEW.n::text);
    RETURN NULL;
END
$$;
CREATE TABLE tx_deferred (n int);
CREATE CONSTRAINT TRIGGER publish AFTER INSERT ON tx_deferred DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION tx_publish('tx.deferred');
CREATE CONSTRAINT TRIGGER publish_full AFTER INSERT ON tx_deferred DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.n < 0) EXECUTE FUNCTION tx_publish('txfull.a');
BEGIN;
INSERT INTO tx_deferred VALUES (6), (7);
SELECT count(*) FROM nats_futures();
COMMIT;
INSERT INTO tx_deferred VALUES (8);
BEGIN;
INSERT INTO tx_deferred VALUES (9);
ROLLBACK;
BEGIN;
INSERT INTO tx_deferred VALUES (-10);
SELECT 'still good';
COMMIT;
\echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO tx_deferred VALUES (11);
SET CONSTRAINTS ALL IMMEDIATE;
SELECT count(*) FROM nats_futures();
COMMIT;
SELECT * FROM tx_deferred;
SELECT payload FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.deferred';

-- PREPARE TRANSACTION waits like COMMIT, and what is prepared has no futures.
BEGIN;
INSERT INTO tx_rows VALUES (12);
SELECT nats_publish_async('tx.prepared', '12') IS NOT NULL AS published;
PREPARE TRANSACTION 'nats 12';
SELECT payload FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.prepared';
SELECT count(*) FROM nats_futures();
COMMIT PREPARED 'nats 12';
BEGIN;
INSERT INTO tx_rows VALUES (13);
SELECT nats_publish_async('txfull.a', '13') IS NOT NULL AS published;
PREPARE TRANSACTION 'nats 13';
\echo :LAST_ERROR_SQLSTATE
BEGIN;
INSERT INTO tx_rows VALUES (14);
SELECT seq > 0 AS stored FROM nats_publish('tx.prepared', '14');
PREPARE TRANSACTION 'nats 14';
ROLLBACK PREPARED 'nats 14';
SELECT gid FROM pg_prepared_xacts;
SELECT * FROM tx_rows;

-- Read-only transactions can publish: nothing is written here.
BEGIN READ ONLY;
SELECT seq > 0 AS stored FROM nats_publish('tx.readonly', '15');
SELECT nats_publish_async('tx.readonly', '16') IS NOT NULL AS published;
SELECT count(*) FROM nats_futures();
COMMIT;
SET default_transaction_read_only = on;
SELECT nats_publish_async('tx.readonly', '17') IS NOT NULL AS published;
RESET default_transaction_read_only;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT nats_publish_async('tx.readonly', '18') IS NOT NULL AS published;
COMMIT;
SELECT payload FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.readonly';

-- A cursor publishes what is fetched from it; WITH HOLD the rest in COMMIT.
BEGIN;
DECLARE c CURSOR FOR SELECT i, nats_publish_async('tx.cursor', i::text) IS NOT NULL AS published FROM generate_series(1, 5) AS i;
FETCH 2 FROM c;
COMMIT;
SELECT payload FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.cursor';
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT i, nats_publish_async('tx.hold', i::text) IS NOT NULL AS published FROM generate_series(1, 5) AS i;
FETCH 2 FROM c;
COMMIT;
FETCH ALL FROM c;
CLOSE c;
SELECT count(DISTINCT payload) FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.hold';
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT nats_publish_async('txfull.a', i::text) FROM generate_series(1, 2) AS i;
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
CLOSE ALL;

-- Statements that are refused after the message was sent: it stays, and the row does not.
BEGIN;
INSERT INTO tx_rows VALUES (19);
SELECT nats_publish_async('tx.failed', '19') IS NOT NULL AS published;
SELECT 1 / 0;
SELECT nats_publish_async('tx.failed', 'x');
COMMIT;
SELECT nats_publish('tx.failed', '20'), 1 / (n - n) FROM tx_rows;
SELECT payload FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.failed';

-- COMMIT AND CHAIN.
BEGIN;
SELECT nats_publish_async('tx.chain', '21') IS NOT NULL AS published;
COMMIT AND CHAIN;
SELECT count(*) FROM nats_futures();
SELECT nats_publish_async('txfull.chain', '22') IS NOT NULL AS published;
ROLLBACK AND CHAIN;
SELECT nats_publish_async('tx.chain', '23') IS NOT NULL AS published;
COMMIT;
SELECT payload FROM stream_messages('TRANSACTIONS') WHERE subject = 'tx.chain';

SELECT connects, connections_lost FROM nats_session_stats();
DROP TABLE tx_rows, tx_deferred;
DROP PROCEDURE tx_procedure, tx_loop;
DROP FUNCTION tx_publish;
SELECT delete_stream('TRANSACTIONS'), delete_stream('TXFULL');
