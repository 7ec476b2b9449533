-- Held messages and savepoints: what is rolled back is never sent, the rest keeps its order.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('OCSAVE', 'ocsave.>');

-- What a transaction has published, in one line.
CREATE FUNCTION published() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(payload, ' ' ORDER BY seq) FROM stream_messages('OCSAVE') WHERE nats_jetstream('STREAM.PURGE.OCSAVE') IS NOT NULL
$$;
CREATE FUNCTION hold(message text) RETURNS void LANGUAGE sql AS $$SELECT nats_publish_on_commit('ocsave.a', message)$$;

-- Rolled back, released, and both, with what came before, between and after.
BEGIN;
SELECT hold('1');
SAVEPOINT a;
SELECT hold('-2');
ROLLBACK TO a;
SELECT hold('3');
ROLLBACK TO a;
SELECT hold('4');
RELEASE a;
SELECT hold('5');
SAVEPOINT b;
SELECT hold('6');
SAVEPOINT c;
SELECT hold('-7');
SAVEPOINT d;
SELECT hold('-8');
RELEASE d;
SELECT hold('-9');
ROLLBACK TO c;
SELECT hold('10');
SAVEPOINT e;
SELECT hold('-11');
ROLLBACK TO e;
RELEASE c;
SELECT hold('12');
RELEASE b;
SELECT hold('13');
COMMIT;
SELECT published();

-- The outer one takes what the inner one has released.
BEGIN;
SELECT hold('1');
SAVEPOINT a;
SAVEPOINT b;
SELECT hold('-2');
RELEASE b;
SAVEPOINT c;
SAVEPOINT d;
SELECT hold('-3');
RELEASE c;
ROLLBACK TO a;
SAVEPOINT b;
SELECT hold('4');
COMMIT;
SELECT published();

-- Only in savepoints, which leave levels without any message; several of the same name.
BEGIN;
SAVEPOINT a;
SAVEPOINT a;
SAVEPOINT a;
SELECT hold('1');
RELEASE a;
SAVEPOINT b;
SELECT hold('-2');
ROLLBACK TO b;
ROLLBACK TO b;
RELEASE b;
SELECT hold('3');
RELEASE a;
RELEASE a;
SAVEPOINT a;
SAVEPOINT b;
ROLLBACK TO a;
SELECT hold('4');
COMMIT;
SELECT published();
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT hold('-1');
RELEASE b;
ROLLBACK TO a;
COMMIT;
SELECT published();
-- The error of a statement takes what that statement had held, and all of its savepoint.
BEGIN;
SELECT hold('1');
SAVEPOINT a;
SELECT hold('-2');
SELECT hold('-3'), 1 / length(repeat('x', 0));
ROLLBACK TO a;
SELECT hold('4');
COMMIT;
SELECT published();

-- A hundred levels deep, all released; and rolled back in the middle.
CREATE FUNCTION hold_nested(depth int, failing int DEFAULT 0) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF depth > 100 THEN
        RETURN;
    END IF;
    PERFORM hold(depth::text);
    BEGIN
        PERFORM hold_nested(depth + 1, failing);
        PERFORM hold((-depth)::text);
        IF depth = failing THEN
            RAISE EXCEPTION 'rolled back';
        END IF;
    EXCEPTION WHEN raise_exception THEN
        PERFORM hold('caught');
    END;
END
$$;
BEGIN;
SELECT hold_nested(1);
COMMIT;
SELECT published() = (SELECT string_agg(i::text, ' ') FROM (SELECT generate_series(1, 100) UNION ALL SELECT generate_series(-100, -1)) AS s (i)) AS "all, in order";
BEGIN;
SELECT hold_nested(1, 40);
COMMIT;
SELECT published() = (SELECT string_agg(i::text, ' ') FROM generate_series(1, 40) AS i) || ' caught ' ||
    (SELECT string_agg(i::text, ' ') FROM generate_series(-39, -1) AS i) AS "those of 40 levels, in order";
-- The same with plain savepoints.
SELECT 'BEGIN' UNION ALL
SELECT unnest(ARRAY['SAVEPOINT s' || i, format('DO $d$ BEGIN PERFORM hold(%L); END $d$', i)]) FROM generate_series(1, 100) AS i UNION ALL
SELECT 'ROLLBACK TO s61' UNION ALL
SELECT unnest(ARRAY['RELEASE s' || i, format('DO $d$ BEGIN PERFORM hold(%L); END $d$', -i)]) FROM generate_series(61, 31, -1) AS i UNION ALL
SELECT 'ROLLBACK TO s11' UNION ALL
SELECT 'COMMIT'
\set ECHO none
\gexec
\set ECHO all
SELECT published() = (SELECT string_agg(i::text, ' ') FROM generate_series(1, 10) AS i) AS "the first ten";

-- EXCEPTION blocks in a loop, each of whose messages is kept or not; the log is longer than work_mem.
SET work_mem = '64kB';
DO $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        BEGIN
            PERFORM nats_publish_on_commit('ocsave.loop', i::text || repeat(' ', i % 500));
            IF i % 3 = 0 THEN
                PERFORM nats_publish_on_commit('ocsave.loop', '-1');
                RAISE EXCEPTION 'rolled back';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            IF i % 2 = 0 THEN
                PERFORM nats_publish_on_commit('ocsave.loop', i::text || repeat(' ', i % 500));
            END IF;
        END;
    END LOOP;
END
$$;
SELECT array_agg(payload ORDER BY seq) = (SELECT array_agg(i::text || repeat(' ', i % 500)) FROM generate_series(1, 3000) AS i WHERE i % 3 <> 0 OR i % 2 = 0) AS "those that were kept, in order", count(*)
FROM stream_messages('OCSAVE');
SELECT nats_jetstream('STREAM.PURGE.OCSAVE') -> 'success' AS purged;
RESET work_mem;

-- A caught error of the call itself.
DO $$
BEGIN
    PERFORM hold('1');
    BEGIN
        PERFORM hold('-2');
        PERFORM nats_publish_on_commit('ocsave.*', '3');
    EXCEPTION WHEN invalid_parameter_value THEN
        PERFORM hold('4');
    END;
END
$$;
SELECT published();

-- psql's ON_ERROR_ROLLBACK
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT hold('1');
SELECT hold('-2'), 1 / length(repeat('x', 0));
SELECT hold('3');
COMMIT;
\set ON_ERROR_ROLLBACK off
SELECT published();

-- With futures: each kind on its own.
SELECT nats_create_stream('OCSFULL', '{ocsfull.>}', '{"storage": "memory", "max_msgs": 1, "discard": "new"}') IS NOT NULL AS created;
SELECT seq FROM nats_publish('ocsfull.a', 'the only one');
BEGIN;
SELECT hold('1');
SAVEPOINT a;
SELECT nats_publish_async('ocsfull.a', 'failed') IS NOT NULL AS published, hold('-2');
ROLLBACK TO a;
SELECT nats_publish_on_commit('ocsfull.a', '-3');
ROLLBACK TO a;
SELECT hold('4'), nats_publish_async('ocsave.a', 'first') IS NOT NULL AS published;
COMMIT;
SELECT published();

DROP FUNCTION published, hold, hold_nested;
SELECT delete_stream('OCSAVE'), delete_stream('OCSFULL');
