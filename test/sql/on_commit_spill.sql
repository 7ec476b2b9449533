-- Held messages beyond work_mem are in a temporary file; nobody notices, but for what it costs.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('OCSPILL', 'ocspill.>');
SET work_mem = '64kB';

-- What message n is: of any length from 1 to 2000 bytes.
CREATE FUNCTION payload_of(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$SELECT n::text || ' ' || repeat(chr(97 + (n % 26)::int), (n * 7919 % 2000)::int)$$;
CREATE FUNCTION hold(first bigint, last bigint) RETURNS bigint LANGUAGE sql AS
    $$SELECT count(nats_publish_on_commit('ocspill.' || i % 10, payload_of(i), jsonb_build_object('N', i))) FROM generate_series(first, last) AS i$$;
-- Are exactly these numbers in the stream, complete and in order? Purges it.
CREATE FUNCTION is_published(numbers bigint[]) RETURNS boolean LANGUAGE sql SET temp_file_limit = -1 AS $$
    SELECT coalesce(array_agg((m.headers ->> 'N')::bigint ORDER BY m.seq), '{}') = numbers AND
        coalesce(bool_and(m.payload = payload_of((m.headers ->> 'N')::bigint) AND m.subject = 'ocspill.' || (m.headers ->> 'N')::bigint % 10), true)
    FROM stream_messages('OCSPILL') AS m WHERE nats_jetstream('STREAM.PURGE.OCSPILL') IS NOT NULL
$$;
CREATE FUNCTION numbers(VARIADIC bounds bigint[]) RETURNS bigint[] LANGUAGE sql AS $$
    SELECT coalesce(array_agg(i ORDER BY b, i), '{}')
    FROM generate_series(1, cardinality(bounds), 2) AS b, generate_series(bounds[b], bounds[b + 1]) AS i
$$;
CREATE FUNCTION temporary_files() RETURNS bigint LANGUAGE sql AS $$SELECT count(*) FROM pg_ls_tmpdir()$$;

-- All of them, in order; the file goes with the transaction.
BEGIN;
SELECT hold(1, 5000), temporary_files();
COMMIT;
SELECT is_published(numbers(1, 5000)), temporary_files();
BEGIN;
SELECT hold(1, 1000), temporary_files();
ROLLBACK;
SELECT is_published('{}'), temporary_files();

-- Rolled back: what is in memory only, what is in the file only, what is in both.
BEGIN;
SELECT hold(1, 10);
SAVEPOINT s;
SELECT hold(11, 20);
ROLLBACK TO s;
SELECT hold(21, 30);
SELECT temporary_files();
SAVEPOINT s;
SELECT hold(31, 400);
SELECT temporary_files();
ROLLBACK TO s;
SELECT hold(401, 405);
SAVEPOINT t;
SELECT hold(406, 1000);
SAVEPOINT u;
SELECT hold(1001, 2000);
RELEASE u;
SAVEPOINT v;
SELECT hold(2001, 2003);
ROLLBACK TO v;
SELECT hold(2004, 2500);
RELEASE t;
SAVEPOINT w;
SELECT hold(2501, 3000);
ROLLBACK TO w;
SELECT hold(3001, 3001);
COMMIT;
SELECT is_published(numbers(1, 10, 21, 30, 401, 405, 406, 1000, 1001, 2000, 2004, 2500, 3001, 3001));
-- Everything, so that the file is empty again
BEGIN;
SAVEPOINT s;
SELECT hold(1, 1000);
ROLLBACK TO s;
SELECT hold(1001, 1010);
COMMIT;
SELECT is_published(numbers(1001, 1010));
BEGIN;
SAVEPOINT s;
SELECT hold(1, 1000);
ROLLBACK TO s;
COMMIT;
SELECT is_published('{}'), temporary_files();
-- At each place around the edge of work_mem: rolled back after n messages, with as many kept.
DO $$
BEGIN
    FOR n IN 1 .. 150 LOOP
        PERFORM hold(n * 10 + 1, n * 10 + 2);
        BEGIN
            PERFORM hold(100000, 100000 + n);
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
            PERFORM hold(n * 10 + 3, n * 10 + 3);
        END;
    END LOOP;
END
$$;
SELECT is_published((SELECT array_agg(n * 10 + i ORDER BY n, i) FROM generate_series(1, 150) AS n, generate_series(1, 3) AS i));
-- work_mem is another one in between.
BEGIN;
SELECT hold(1, 100);
SET LOCAL work_mem = '1MB';
SELECT hold(101, 1000);
SET LOCAL work_mem = '64kB';
SELECT hold(1001, 1100);
SET LOCAL work_mem = '16MB';
SAVEPOINT s;
SELECT hold(1101, 3000);
SET LOCAL work_mem = '64kB';
SELECT hold(3001, 3100);
ROLLBACK TO s;
SELECT hold(3101, 3200);
COMMIT;
SELECT is_published(numbers(1, 1100, 3101, 3200));

-- Messages that are larger than work_mem.
SET nats_publish.auto_msg_id = off;
BEGIN;
SELECT count(nats_publish_on_commit('ocspill.' || i % 2, repeat(chr(96 + i), CASE WHEN i % 5 = 0 THEN 10 ELSE 900000 END))) FROM generate_series(1, 20) AS i;
SAVEPOINT s;
SELECT count(nats_publish_on_commit('ocspill.0', repeat('-', 900000))) FROM generate_series(1, 3);
ROLLBACK TO s;
SELECT nats_publish_on_commit('ocspill.1', repeat('u', 1000000));
COMMIT;
SELECT seq - min(seq) OVER () AS n, subject, left(payload, 1) AS "of", length(payload), payload = repeat(left(payload, 1), length(payload)) AS complete
FROM stream_messages('OCSPILL');
RESET nats_publish.auto_msg_id;
SELECT nats_jetstream('STREAM.PURGE.OCSPILL') -> 'success' AS purged;

-- A COMMIT that fails in the middle of the file.
SELECT nats_create_stream('OCSPFULL', '{ocspfull.>}', '{"storage": "memory", "max_msgs": 1000, "discard": "new"}') IS NOT NULL AS created;
BEGIN;
SELECT count(nats_publish_on_commit('ocspfull.a', payload_of(i))) FROM generate_series(1, 20000) AS i;
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT count(*) = 1000 AND bool_and(payload = payload_of(seq)) AS "the first thousand" FROM stream_messages('OCSPFULL');
SELECT temporary_files();
SELECT delete_stream('OCSPFULL');

-- No more of it than temp_file_limit: an error of the call, and the next transaction is fine.
SET temp_file_limit = '1MB';
BEGIN;
\set VERBOSITY sqlstate
SELECT hold(1, 5000);
\set VERBOSITY default
COMMIT;
SELECT is_published('{}'), temporary_files();
BEGIN;
SELECT hold(1, 500);
COMMIT;
SELECT is_published(numbers(1, 500)), temporary_files();
-- In a savepoint: what was held before stays, in the file and in memory ...
BEGIN;
SELECT hold(1, 700), temporary_files();
SAVEPOINT s;
SELECT left(error_of('SELECT hold(701, 5000)'), 5) AS sqlstate;
SELECT hold(5001, 5010);
COMMIT;
SELECT is_published(numbers(1, 700, 5001, 5010));
-- ... also when as much is held again as has been rolled back ...
BEGIN;
SELECT hold(1, 300);
SAVEPOINT s;
SELECT left(error_of('SELECT hold(301, 5000)'), 5) AS sqlstate;
ROLLBACK TO s;
SELECT hold(301, 600);
SAVEPOINT s;
SELECT left(error_of('SELECT hold(601, 5000)'), 5) AS sqlstate;
ROLLBACK TO s;
SELECT hold(601, 610);
COMMIT;
SELECT is_published(numbers(1, 610)), temporary_files();
-- ... and when the message that was refused is tried again with more room.
DO $$
DECLARE
    refused int := 0;
BEGIN
    FOR i IN 1 .. 3000 LOOP
        BEGIN
            PERFORM hold(i, i);
        EXCEPTION WHEN configuration_limit_exceeded THEN
            SET temp_file_limit = -1;
            PERFORM hold(i, i);
            refused := refused + 1;
        END;
    END LOOP;
    RAISE NOTICE '% refused', refused;
END
$$;
SELECT is_published(numbers(1, 3000)), temporary_files();
RESET temp_file_limit;
-- A message that is given up at the limit, and nothing after it: what is in memory is sent all the same.
SET temp_file_limit = '1MB';
DO $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        BEGIN
            PERFORM hold(i, i);
        EXCEPTION WHEN configuration_limit_exceeded THEN
            PERFORM set_config('test.held', (i - 1)::text, false);
            RETURN;
        END;
    END LOOP;
END
$$;
SELECT is_published(numbers(1, current_setting('test.held')::bigint)), temporary_files();
RESET temp_file_limit;

DROP FUNCTION is_published, numbers, hold, payload_of, temporary_files;
SELECT delete_stream('OCSPILL');
