-- Savepoints: whose futures a transaction waits for, and whose failures are its own.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

-- What is published to a full stream fails at once.
SELECT create_stream('SAVEPOINTS', 'savepoints.>');
SELECT nats_create_stream('SAVEFULL', '{savefull.>}', '{"storage": "memory", "max_msgs": 1, "discard": "new"}') IS NOT NULL AS created;
SELECT seq FROM nats_publish('savefull.a', 'the only one');
CREATE TABLE savepoints_rows (n int);

-- ROLLBACK TO frees the transaction of a failure; the message that was good stays.
BEGIN;
INSERT INTO savepoints_rows VALUES (1);
SAVEPOINT s;
SELECT nats_publish_async('savepoints.a', '1') IS NOT NULL AS published;
SELECT nats_publish_async('savefull.a', '1') AS bad \gset
ROLLBACK TO s;
SELECT error_of('SELECT nats_await(' || :bad || ')') LIKE '22023: future % is not one of this transaction' AS gone;
SELECT count(*) FROM nats_futures();
COMMIT;

-- Also when the failure was seen before.
BEGIN;
INSERT INTO savepoints_rows VALUES (2);
SAVEPOINT s;
SELECT nats_publish_async('savefull.a', '2') AS bad \gset
SELECT nats_await(:bad);
ROLLBACK TO s;
COMMIT;
BEGIN;
INSERT INTO savepoints_rows VALUES (3);
SAVEPOINT s;
SELECT nats_publish_async('savefull.a', '3') AS bad \gset
SELECT nats_flush();
ROLLBACK TO s;
SELECT nats_flush();
COMMIT;
SELECT * FROM savepoints_rows;

-- RELEASE keeps it.
BEGIN;
INSERT INTO savepoints_rows VALUES (4);
SAVEPOINT s;
SELECT nats_publish_async('savefull.a', '4') IS NOT NULL AS published;
RELEASE s;
COMMIT;
\echo :LAST_ERROR_SQLSTATE

-- ROLLBACK TO an inner one does not free it of an outer one's, nor of what came before or after.
BEGIN;
SELECT nats_publish_async('savefull.a', '5') IS NOT NULL AS published;
SAVEPOINT s;
ROLLBACK TO s;
COMMIT;
BEGIN;
SAVEPOINT a;
SELECT nats_publish_async('savefull.a', '6') IS NOT NULL AS published;
SAVEPOINT b;
SELECT nats_publish_async('savefull.b', '6') IS NOT NULL AS published;
ROLLBACK TO b;
RELEASE a;
COMMIT;
BEGIN;
SAVEPOINT a;
ROLLBACK TO a;
SELECT nats_publish_async('savefull.a', '7') IS NOT NULL AS published;
COMMIT;

-- Nested: the inner one is released into the outer one, which is rolled back.
BEGIN;
INSERT INTO savepoints_rows VALUES (8);
SELECT nats_publish_async('savepoints.a', '8') AS kept \gset
SAVEPOINT a;
SELECT nats_publish_async('savefull.a', '8') IS NOT NULL AS published;
SAVEPOINT b;
SELECT nats_publish_async('savefull.b', '8') IS NOT NULL AS published;
RELEASE b;
SELECT nats_publish_async('savefull.c', '8') IS NOT NULL AS published;
ROLLBACK TO a;
SELECT future - :kept AS future, subject FROM nats_futures() ORDER BY future;
SELECT (nats_await(:kept)).duplicate;
SELECT nats_publish_async('savepoints.b', '8') IS NOT NULL AS published;
SELECT subject FROM nats_futures() ORDER BY future;
COMMIT;

-- The inner one is rolled back, and then the outer one.
BEGIN;
SELECT nats_publish_async('savepoints.a', '8') AS kept \gset
SAVEPOINT a;
SELECT nats_publish_async('savefull.a', '8') AS bad \gset
SAVEPOINT b;
SELECT nats_publish_async('savefull.b', '8') IS NOT NULL AS published;
ROLLBACK TO b;
SELECT nats_publish_async('savefull.c', '8') IS NOT NULL AS published;
ROLLBACK TO a;
SELECT nats_publish_async('savepoints.b', '8') IS NOT NULL AS published;
SELECT future - :kept AS future, subject FROM nats_futures() ORDER BY future;
SELECT error_of('SELECT nats_await(' || :bad || ')') LIKE '22023: future % is not one of this transaction' AS gone;
COMMIT;

-- Many of them, each with one that fails and is rolled back, and one that is kept: one level after the other ...
DO $$
BEGIN
    INSERT INTO savepoints_rows VALUES (9);
    FOR i IN 1 .. 100 LOOP
        BEGIN
            PERFORM nats_publish_async('savefull.loop', i::text);
            RAISE EXCEPTION 'rolled back';
        EXCEPTION WHEN raise_exception THEN
            PERFORM nats_publish_async('savepoints.loop', i::text);
        END;
    END LOOP;
END
$$;
-- ... and one within the other.
CREATE FUNCTION publish_nested(depth int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF depth = 0 THEN
        RETURN;
    END IF;
    BEGIN
        PERFORM publish_nested(depth - 1);
        PERFORM nats_publish_async('savepoints.nested', depth::text);
        BEGIN
            PERFORM nats_publish_async('savefull.nested', depth::text);
            RAISE EXCEPTION 'rolled back';
        EXCEPTION WHEN raise_exception THEN
        END;
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'never';
    END;
END
$$;
BEGIN;
INSERT INTO savepoints_rows VALUES (10);
SELECT publish_nested(50);
SELECT count(*), count(DISTINCT subject) FROM nats_futures();
COMMIT;
SELECT * FROM savepoints_rows;
SELECT subject, count(*) FROM stream_messages('SAVEPOINTS') GROUP BY subject ORDER BY min(seq);
SELECT array_agg(payload::int ORDER BY seq) = (SELECT array_agg(i) FROM generate_series(1, 50) AS i) AS in_order
FROM stream_messages('SAVEPOINTS') WHERE subject = 'savepoints.nested';

-- A caught error of nats_publish: nothing of it is left, and the futures of the block are not waited for.
DO $$
BEGIN
    INSERT INTO savepoints_rows VALUES (11);
    FOR i IN 1 .. 10 LOOP
        BEGIN
            PERFORM nats_publish_async('savefull.caught', i::text);
            PERFORM nats_publish('savefull.caught', i::text);
        EXCEPTION WHEN configuration_limit_exceeded THEN
            IF i = 10 THEN
                RAISE NOTICE '%: %', sqlstate, sqlerrm;
            END IF;
        END;
    END LOOP;
END
$$;
-- A caught nats_await too, when the message was published in the block, but not when outside.
DO $$
DECLARE
    future bigint;
BEGIN
    INSERT INTO savepoints_rows VALUES (12);
    future := nats_publish_async('savefull.caught', '12');
    BEGIN
        PERFORM nats_await(future);
    EXCEPTION WHEN configuration_limit_exceeded THEN
        RAISE NOTICE '%: %', sqlstate, sqlerrm;
    END;
END
$$;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM savepoints_rows WHERE n > 10;

-- psql's ON_ERROR_ROLLBACK is a savepoint around each command.
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO savepoints_rows VALUES (13);
SELECT nats_publish_async('savepoints.psql', '13') IS NOT NULL AS published;
SELECT nats_publish_async('savefull.psql', '13'), 1 / (n - n) FROM savepoints_rows;
SELECT nats_publish('savefull.psql', '13');
COMMIT;
\set ON_ERROR_ROLLBACK off
SELECT * FROM savepoints_rows WHERE n > 12;
SELECT payload FROM stream_messages('SAVEPOINTS') WHERE subject = 'savepoints.psql';

-- The error of two levels' failures lists them in the order of the calls.
\c -
BEGIN;
SAVEPOINT a;
SELECT nats_publish_async('savefull.1', '14');
RELEASE a;
SELECT nats_publish_async('savefull.2', '14');
SAVEPOINT b;
SELECT nats_publish_async('savefull.rolled.back', '14');
ROLLBACK TO b;
SELECT nats_publish_async('savefull.4', '14');
RELEASE b;
COMMIT;

DROP FUNCTION publish_nested;
DROP TABLE savepoints_rows;
SELECT delete_stream('SAVEPOINTS'), delete_stream('SAVEFULL');
