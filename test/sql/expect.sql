-- Optimistic concurrency: expect_stream, expect_last_seq, expect_last_subject_seq.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('EXPECT', 'expect.>');
SELECT create_stream('EXPECT2', 'expect2.>');

-- The stream that takes the message.
SELECT seq FROM nats_publish('expect.a', '1', expect_stream => 'EXPECT');
SELECT nats_publish('expect.a', 'x', expect_stream => 'EXPECT2');
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('expect2.a', 'x', expect_stream => 'EXPECT');
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('expect.a', 'x', expect_stream => 'expect');
\echo :LAST_ERROR_SQLSTATE

-- The last message of the stream.
SELECT seq FROM nats_publish('expect.a', '2', expect_last_seq => 1);
SELECT seq FROM nats_publish('expect.b', '3', expect_last_seq => 2);
SELECT nats_publish('expect.a', 'x', expect_last_seq => 2);
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('expect.a', 'x', expect_last_seq => 4);
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('expect.a', 'x', expect_last_seq => 9223372036854775807);
\echo :LAST_ERROR_SQLSTATE

-- Zero: the stream has no message.
SELECT nats_publish('expect.a', 'x', expect_last_seq => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT seq FROM nats_publish('expect2.a', '1', expect_last_seq => 0);

-- The last message of the subject; zero: it has none.
SELECT seq FROM nats_publish('expect.a', '4', expect_last_subject_seq => 2);
SELECT seq FROM nats_publish('expect.b', '5', expect_last_subject_seq => 3);
SELECT seq FROM nats_publish('expect.c', '6', expect_last_subject_seq => 0);
SELECT nats_publish('expect.a', 'x', expect_last_subject_seq => 6);
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('expect.b', 'x', expect_last_subject_seq => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('expect.none', 'x', expect_last_subject_seq => 1);
\echo :LAST_ERROR_SQLSTATE

-- Together.
SELECT seq FROM nats_publish('expect.a', '7', expect_stream => 'EXPECT', expect_last_seq => 6, expect_last_subject_seq => 4);
SELECT error_of($$SELECT nats_publish('expect.a', 'x', expect_stream => 'EXPECT', expect_last_seq => 7, expect_last_subject_seq => 4)$$);

-- Numbers that are none.
SELECT error_of($$SELECT nats_publish('expect.a', 'x', expect_last_seq => -1)$$);
SELECT error_of($$SELECT nats_publish('expect.a', 'x', expect_last_subject_seq => -1)$$);
SELECT error_of($$SELECT nats_publish('expect.a', 'x', expect_last_subject_seq => -9223372036854775808)$$);

-- A compare-and-set loop in PL/pgSQL: the number that the server has is in the error for people, to programs it
-- is a serialization failure.
DO $$
DECLARE
    expected bigint := 5;
    ack nats_puback;
BEGIN
    LOOP
        BEGIN
            ack := nats_publish('expect.a', '8', expect_last_subject_seq => expected);
            EXIT;
        EXCEPTION WHEN serialization_failure THEN
            RAISE NOTICE 'not %', expected;
            expected := expected + 1;
        END;
    END LOOP;
    RAISE NOTICE '%', ack;
END
$$;

-- Asynchronously it is COMMIT that fails ...
BEGIN;
SELECT nats_publish_async('expect.b', '9', expect_last_subject_seq => 5) IS NOT NULL AS published;
SELECT nats_publish_async('expect.b', 'x', expect_last_subject_seq => 5) IS NOT NULL AS published;
COMMIT;
\echo :LAST_ERROR_SQLSTATE
-- ... and a chain of them is possible when nobody else interferes.
BEGIN;
SELECT nats_publish_async('expect.b', '10', expect_last_seq => 9) IS NOT NULL AS published;
SELECT nats_publish_async('expect.b', '11', expect_last_seq => 10) IS NOT NULL AS published;
SELECT nats_publish_async('expect.b', '12', expect_last_seq => 11) IS NOT NULL AS published;
COMMIT;

-- The same message again: servers differ in whether they look at its id or at the sequence first.
SELECT seq, duplicate FROM nats_publish('expect.d', '13', msg_id => 'expect 1', expect_last_subject_seq => 0);
SELECT error ~ '^no error$|^40001: .* wrong last sequence: 13 ' AS stored_once
FROM error_of($$SELECT nats_publish('expect.d', '13', msg_id => 'expect 1', expect_last_subject_seq => 0)$$) AS error;

SELECT seq, subject, payload FROM stream_messages('EXPECT');
SELECT seq, subject, payload FROM stream_messages('EXPECT2');
SELECT delete_stream('EXPECT'), delete_stream('EXPECT2');
