-- What the benchmark measures inside the backend. Times are microseconds.

CREATE SCHEMA bench;

CREATE TYPE bench.timing AS (rate float8, p50_us float8, p99_us float8, max_us float8);

CREATE FUNCTION bench.timing(elapsed interval, single interval[]) RETURNS bench.timing
LANGUAGE sql AS $$
    SELECT array_length(single, 1) / extract(epoch FROM elapsed)::float8,
           percentile_disc(0.5)  WITHIN GROUP (ORDER BY us),
           percentile_disc(0.99) WITHIN GROUP (ORDER BY us),
           max(us)
    FROM (SELECT extract(epoch FROM t)::float8 * 1e6 AS us FROM unnest(single) AS t) AS times
$$;

-- Each call of nats_publish, which waits for its acknowledgement.
CREATE FUNCTION bench.sync(messages int, payload text) RETURNS bench.timing
LANGUAGE plpgsql AS $$
DECLARE
    started  timestamptz := clock_timestamp();
    before   timestamptz;
    ack      nats_puback;
    single   interval[];
BEGIN
    FOR i IN 1 .. messages LOOP
        before := clock_timestamp();
        ack := nats_publish('bench.a', payload);
        single[i] := clock_timestamp() - before;
    END LOOP;
    RETURN bench.timing(clock_timestamp() - started, single);
END
$$;

-- Each call of nats_publish_async, taking the subjects in turn; the last flush counts in the rate alone.
CREATE FUNCTION bench.async(messages int, subjects text[], payload text) RETURNS bench.timing
LANGUAGE plpgsql AS $$
DECLARE
    started  timestamptz := clock_timestamp();
    before   timestamptz;
    subject  text;
    future   bigint;
    single   interval[];
BEGIN
    FOR i IN 1 .. messages LOOP
        subject := subjects[1 + i % array_length(subjects, 1)];
        before := clock_timestamp();
        future := nats_publish_async(subject, payload);
        single[i] := clock_timestamp() - before;
    END LOOP;
    PERFORM nats_flush();
    RETURN bench.timing(clock_timestamp() - started, single);
END
$$;

-- Transactions of a few messages each, from the first publish to the end of the drain.
CREATE PROCEDURE bench.commits(transactions int, messages int, payload text,
                               INOUT rate float8 DEFAULT NULL, INOUT p50_us float8 DEFAULT NULL,
                               INOUT p99_us float8 DEFAULT NULL, INOUT max_us float8 DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    started  timestamptz := clock_timestamp();
    before   timestamptz;
    future   bigint;
    single   interval[];
BEGIN
    FOR t IN 1 .. transactions LOOP
        before := clock_timestamp();
        FOR i IN 1 .. messages LOOP
            future := nats_publish_async('bench.a', payload);
        END LOOP;
        future := nats_flush();
        single[t] := clock_timestamp() - before;
        COMMIT;
    END LOOP;
    SELECT * INTO rate, p50_us, p99_us, max_us FROM bench.timing(clock_timestamp() - started, single);
END
$$;

-- Transactions of a few messages each that are held for the COMMIT, which counts.
CREATE PROCEDURE bench.held_commits(transactions int, messages int, payload text,
                                    INOUT rate float8 DEFAULT NULL, INOUT p50_us float8 DEFAULT NULL,
                                    INOUT p99_us float8 DEFAULT NULL, INOUT max_us float8 DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    started  timestamptz := clock_timestamp();
    before   timestamptz;
    single   interval[];
BEGIN
    FOR t IN 1 .. transactions LOOP
        before := clock_timestamp();
        PERFORM nats_publish_on_commit('bench.a', payload) FROM generate_series(1, messages);
        COMMIT;
        single[t] := clock_timestamp() - before;
    END LOOP;
    SELECT * INTO rate, p50_us, p99_us, max_us FROM bench.timing(clock_timestamp() - started, single);
END
$$;

-- The table whose changes are published, and the triggers that people write without nats_publish_table.
CREATE TABLE bench.orders (id int PRIMARY KEY, customer int, note text, amount numeric, created timestamptz);

CREATE TABLE bench.outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload json);

CREATE TABLE bench.other_outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, subject text NOT NULL, payload text NOT NULL);

CREATE FUNCTION bench.to_outbox() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.outbox (payload) SELECT row_to_json(NEW);
    RETURN NULL;
END
$$;

CREATE FUNCTION bench.to_nats_outbox() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO nats_outbox (subject, payload, msg_id)
    SELECT 'bench.published.insert', convert_to(row_to_json(NEW)::text, 'UTF8'), 'published-' || NEW.id;
    RETURN NULL;
END
$$;

CREATE FUNCTION bench.to_channel() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bench', row_to_json(NEW)::text);
    RETURN NULL;
END
$$;

-- Rows that are read from the WAL, in transactions of 1000 or in one.
CREATE TABLE bench.wal_rows (id int PRIMARY KEY, note text);

CREATE PROCEDURE bench.write_rows(count int, in_transaction int)
LANGUAGE plpgsql AS $$
BEGIN
    FOR begins IN 1 .. count BY in_transaction LOOP
        INSERT INTO bench.wal_rows SELECT i, repeat('x', 60) FROM generate_series(begins, least(begins + in_transaction - 1, count)) AS i;
        COMMIT;
    END LOOP;
END
$$;

CREATE PROCEDURE bench.write_outbox(count int, in_transaction int)
LANGUAGE plpgsql AS $$
BEGIN
    FOR begins IN 1 .. count BY in_transaction LOOP
        PERFORM nats_publish_outbox('bench.a', repeat('x', 128)) FROM generate_series(begins, least(begins + in_transaction - 1, count)) AS i;
        COMMIT;
    END LOOP;
END
$$;
