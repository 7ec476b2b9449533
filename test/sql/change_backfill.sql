-- The rows that a published table has already.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('BACKFILL', 'backfill.>');
CREATE SCHEMA backfill;
SET search_path = backfill, public;

-- The messages of op read, with their ids: a run, the key, and the version of the row.
CREATE FUNCTION reads(OUT subject text, OUT id text, OUT headers jsonb, OUT payload text)
RETURNS SETOF record LANGUAGE sql AS $$
SELECT c.subject, regexp_replace(c.headers ->> 'Nats-Msg-Id', '^[0-9A-Za-z]{22}\.(.*)\.[0-9]+$', '<run>.\1.<xmin>'),
    nullif(c.headers - 'Nats-Msg-Id', '{}'), c.payload FROM changes('BACKFILL') AS c
$$;

-- As inserted rows are published, but for the op and the id. Dropped and generated columns are as there.
CREATE TABLE orders (gone int, id int PRIMARY KEY, "Customer" text, amount numeric, twice numeric GENERATED ALWAYS AS (amount * 2) STORED);
ALTER TABLE orders DROP COLUMN gone;
INSERT INTO orders VALUES (2, 'b', 20), (1, 'a', 10.50), (3, NULL, 30);
SELECT nats_publish_table('orders', 'backfill.orders.{op}.{Customer}', msg_id => 'order-{id}', headers => '{"Who": "{Customer}"}');
CALL nats_publish_rows('orders');
SELECT * FROM reads();
-- What there is to be seen of it.
SELECT relation, state, pid, role = current_user AS own, rows_read, rows_published, error, finished >= started AS finished
FROM nats_publish_rows_progress;
-- Another call begins anew; what the stream has lately is not in its way.
CALL nats_publish_rows('orders');
SELECT count(*) FROM reads();
-- In chunks of any size, to another subject, and of some rows only.
CALL nats_publish_rows('orders', batch => 1);
SELECT id FROM reads();
CALL nats_publish_rows('orders', batch => 2, subject => 'backfill.{table}.new.{id}');
SELECT subject FROM reads();
CALL nats_publish_rows('orders', 'amount > 10.5 -- the dear ones');
SELECT id FROM reads();
CALL nats_publish_rows('orders', 'orders.id = ANY (SELECT 1)');
SELECT id FROM reads();
CALL nats_publish_rows('orders', 'false');
SELECT id FROM reads();
TRUNCATE orders;
SELECT count(*) FROM reads();
CALL nats_publish_rows('orders');
SELECT count(*) FROM reads();

-- Each format, delivery and level.
CREATE TABLE items (id int PRIMARY KEY, v jsonb);
INSERT INTO items VALUES (1, '{"a": 1}');
SELECT nats_publish_table('items', 'backfill.items', format => 'debezium', delivery => 'async', level => 'statement');
CALL nats_publish_rows('items');
SELECT payload::jsonb #>> '{op}' AS op, payload::jsonb #>> '{source,snapshot}' AS snapshot, payload::jsonb #>> '{after,v}' AS v,
    payload::jsonb -> 'before' AS before FROM reads();
SELECT nats_publish_table('items', 'backfill.items', format => 'cloudevents', delivery => 'sync');
CALL nats_publish_rows('items');
SELECT headers ->> 'ce-type' AS type, headers ->> 'ce-subject' AS subject, headers ->> 'ce-id' ~ '^[0-9A-Za-z]{22}\.1\.[0-9]+$' AS id,
    payload FROM reads();
SELECT nats_publish_table('items', 'backfill.items', payload => 'v', delivery => 'outbox');
CALL nats_publish_rows('items');
SELECT subject, convert_from(payload, 'UTF8'), headers ->> 'Pg-Op' AS op, msg_id ~ '^[0-9A-Za-z]{22}\.1\.[0-9]+$' AS id FROM nats_outbox;
DELETE FROM nats_outbox;
-- A chunk is a transaction, with its end; who gets rows alone is told of none.
SELECT nats_publish_table('items', 'backfill.items', transaction => true, transaction_end => 'backfill.end');
INSERT INTO items SELECT i FROM generate_series(2, 5) AS i;
SELECT count(*) FROM reads();
CALL nats_publish_rows('items', batch => 3);
SELECT subject, payload FROM reads();
CALL nats_publish_rows('items', batch => 3, subject => 'backfill.for.one');
SELECT subject, payload FROM reads();
-- Chunks are no batches, which JetStream would store all or none of.
SET nats_publish.commit_batch = atomic;
CALL nats_publish_rows('items');
SHOW nats_publish.commit_batch;
RESET nats_publish.commit_batch;
SELECT count(*) FROM reads();
SELECT nats_unpublish_table('items');

-- Keys of several columns, of any type and name; the session's settings change nothing.
CREATE TABLE keys ("a""b" text, at timestamptz, f float8, span interval, v int, PRIMARY KEY (at, "a""b", f, span));
INSERT INTO keys SELECT chr(97 + i % 3), timestamptz '2026-01-01 00:00+00' + i / 4 * interval '1.000001 days', i / 3.0, make_interval(days => -i, secs => i), i
FROM generate_series(1, 40) AS i;
SELECT nats_publish_table('keys', 'backfill.keys');
SET datestyle = 'German';
SET timezone = 'America/St_Johns';
SET intervalstyle = 'sql_standard';
SET extra_float_digits = -10;
SET default_transaction_isolation = 'serializable';
CALL nats_publish_rows('keys', batch => 7);
RESET ALL;
SET search_path = backfill, public;
SELECT count(DISTINCT payload::jsonb #> '{new,v}'), count(*) FROM reads();
-- Each type, by the order of its own; chunks end anywhere.
CREATE COLLATION backfill.no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad', 'glad', 'bad', 'mad');
CREATE TYPE pair AS (a int, b text);
SET array_nulls = off;
\set ECHO none
SELECT format('CREATE TABLE key_%s (k %s PRIMARY KEY, v int)', number, type), format('INSERT INTO key_%s SELECT %s, i FROM generate_series(1, 4) AS i', number, value),
    format('DO $do$ BEGIN PERFORM nats_publish_table(''key_%s'', ''backfill.key.%s''); END $do$', number, number), format('CALL nats_publish_rows(''key_%s'', batch => 3) /* %s */', number, type)
FROM (VALUES (1, 'text', $$repeat(chr(68 - i), 9000)$$), (2, 'text COLLATE "C"', $$'B' || i$$), (3, 'text COLLATE no_case', $$'E' || chr(70 - i)$$),
    (4, 'numeric', $$(ARRAY['NaN', '-Infinity', 'Infinity', '1e-300'])[i]::numeric$$), (5, 'uuid', $$md5(i::text)::uuid$$), (6, 'positive', $$5 - i$$),
    (7, 'mood', $$(enum_range(NULL::mood))[i]$$), (8, 'pair', $$ROW(i % 2, 'a"b' || i)::pair$$), (9, 'int[]', $$ARRAY[i, NULL]$$), (10, 'int4range', $$int4range(i, 9)$$),
    (11, 'char(5)', $$chr(100 - i)$$), (12, '"char"', $$chr(100 - i)::"char"$$), (13, 'name', $$'n' || i$$), (14, 'bytea', $$int4send(5 - i)$$), (15, 'money', $$(i * 1000.5)::numeric::money$$),
    (16, 'date', $$(ARRAY['infinity', '-infinity', '0044-03-15 BC', '2026-01-01'])[i]::date$$), (17, 'timetz', $$('10:00+0' || i)::timetz$$), (18, 'inet', $$('10.0.0.' || 5 - i)::inet$$),
    (19, 'bit varying', $$(5 - i)::bit(3)$$), (20, 'pg_lsn', $$('0/' || i)::pg_lsn$$), (21, 'jsonb', $$to_jsonb(5 - i)$$), (22, 'interval', $$make_interval(mins => 5 - i)$$),
    (23, 'text[]', $$ARRAY['a' || i, NULL]$$)) AS v (number, type, value)
\gexec
\set ECHO all
RESET array_nulls;
-- in that order, all of them
SELECT subject, array_agg((payload::jsonb #>> '{new,v}')::int ORDER BY seq) AS rows, count(DISTINCT id) AS ids FROM (SELECT row_number() OVER () AS seq, * FROM reads()) AS r
GROUP BY subject ORDER BY min(seq);
-- An id has no way to be that of another key.
CREATE TABLE two_texts (a text, b text, PRIMARY KEY (a, b));
INSERT INTO two_texts VALUES ('a.b', 'c'), ('a', 'b.c'), ('', ''), ('.', ''), ('', '.'), ('a%2Eb', 'c'), ('a}.{b', '');
SELECT nats_publish_table('two_texts', 'backfill.two');
CALL nats_publish_rows('two_texts');
SELECT count(*) FROM reads();
CREATE TABLE unique_key (id int NOT NULL UNIQUE, v text);
INSERT INTO unique_key VALUES (1);
SELECT nats_publish_table('unique_key', 'backfill.unique', key => '{id}');
CALL nats_publish_rows('unique_key');
ALTER TABLE unique_key REPLICA IDENTITY USING INDEX unique_key_id_key;
CALL nats_publish_rows('unique_key');
SELECT id FROM reads();
-- Operators of several schemas; and none but those of the index: the owner of a domain could make others, which would be executed by the caller.
SET client_min_messages = warning;
CREATE SCHEMA backfill_theirs;
CREATE EXTENSION citext SCHEMA backfill_theirs;
CREATE DOMAIN backfill_theirs.address AS backfill_theirs.citext;
CREATE FUNCTION backfill_theirs.compare(backfill_theirs.address, backfill_theirs.address) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'executed as %', current_user; END $$;
CREATE OPERATOR backfill_theirs.<= (LEFTARG = backfill_theirs.address, RIGHTARG = backfill_theirs.address, FUNCTION = backfill_theirs.compare);
CREATE OPERATOR backfill_theirs.> (LEFTARG = backfill_theirs.address, RIGHTARG = backfill_theirs.address, FUNCTION = backfill_theirs.compare);
RESET client_min_messages;
CREATE TABLE addresses (k backfill_theirs.address PRIMARY KEY);
CREATE TABLE mixed (tenant int, k backfill_theirs.address, n numeric, PRIMARY KEY (tenant, k, n));
INSERT INTO addresses SELECT chr(64 + i) || i FROM generate_series(1, 9) AS i;
INSERT INTO mixed SELECT i / 6, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'A' END || i % 4 / 2, i FROM generate_series(1, 23) AS i;
SELECT nats_publish_table('addresses', 'backfill.addresses'), nats_publish_table('mixed', 'backfill.mixed');
CALL nats_publish_rows('addresses', batch => 2);
CALL nats_publish_rows('mixed', batch => 2);
SELECT subject, count(DISTINCT payload::jsonb -> 'new'), count(*) FROM reads() GROUP BY subject ORDER BY subject;
SET client_min_messages = warning;
DROP SCHEMA backfill_theirs CASCADE;
RESET client_min_messages;
-- A key that is not in the order of its type.
CREATE TABLE patterns (k text, id int NOT NULL);
CREATE UNIQUE INDEX patterns_k ON patterns (k text_pattern_ops);
ALTER TABLE patterns ALTER k SET NOT NULL, REPLICA IDENTITY USING INDEX patterns_k;
INSERT INTO patterns VALUES ('a', 1);
SELECT nats_publish_table('patterns', 'backfill.patterns', key => '{id}');
CALL nats_publish_rows('patterns');
-- One row in many columns with the name of the table.
CREATE TABLE same (same int PRIMARY KEY, id text);
INSERT INTO same VALUES (1, 'x');
SELECT nats_publish_table('same', 'backfill.same');
CALL nats_publish_rows('same', 'same.same = 1 AND same = 1');
SELECT payload FROM reads();

-- Partitions are rows of the table above; a table that inherits is not.
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (10);
CREATE TABLE parted_2 (v text, gone int, id int NOT NULL);
ALTER TABLE parted_2 DROP COLUMN gone;
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (10) TO (20);
INSERT INTO parted SELECT i, 'v' || i FROM generate_series(8, 11) AS i;
SELECT nats_publish_table('parted', 'backfill.{table}.{id}');
CALL nats_publish_rows('parted', batch => 3);
SELECT subject, payload FROM reads();
CALL nats_publish_rows('parted_2');
SELECT subject, payload FROM reads();
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2);
SELECT nats_publish_table('parent', 'backfill.parent');
CALL nats_publish_rows('parent');
SELECT id FROM reads();

-- The condition of a trigger is one for the rows; and which trigger it is can be said.
CREATE TABLE own (id int PRIMARY KEY, amount int);
INSERT INTO own SELECT i, i * 10 FROM generate_series(1, 4) AS i;
CREATE TRIGGER dear AFTER INSERT OR UPDATE ON own FOR EACH ROW WHEN (NEW.amount > 20) EXECUTE FUNCTION nats_publish_change('subject=backfill.dear.{id}');
CALL nats_publish_rows('own');
SELECT subject FROM reads();
CREATE TRIGGER other AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION nats_publish_change('subject=backfill.other.{id}', 'columns=id');
CALL nats_publish_rows('own');
CALL nats_publish_rows('own', 'amount < 40', trigger => 'dear');
SELECT subject FROM reads();
\set VERBOSITY terse
CALL nats_publish_rows('own', trigger => 'other', dry_run => true);
\set VERBOSITY default
SELECT subject FROM reads();
CALL nats_publish_rows('own', trigger => 'third');
DROP TRIGGER other ON own;
DROP TRIGGER dear ON own;
CREATE TRIGGER changed AFTER UPDATE ON own FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION nats_publish_change('subject=backfill.own');
CALL nats_publish_rows('own');

-- Only what is missing, where a subject has one row: what is there already is newer.
TRUNCATE orders;
SELECT nats_publish_table('orders', 'backfill.orders.{id}');
INSERT INTO orders VALUES (1, 'one'), (2, 'two'), (3, 'three');
SELECT nats_jetstream('STREAM.PURGE.BACKFILL', '{"filter": "backfill.orders.2"}') ->> 'purged' AS purged;
CALL nats_publish_rows('orders', only_missing => true);
SELECT subject, id, payload FROM reads() WHERE payload::jsonb ->> 'op' = 'read';
SELECT rows_read, rows_published, rows_left_out FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;
-- Counted by chunks; that of a row is no less missing as it does not satisfy the condition.
SELECT nats_jetstream('STREAM.PURGE.BACKFILL', '{"filter": "backfill.orders.3"}') ->> 'purged' AS purged;
CALL nats_publish_rows('orders', 'id > 1', only_missing => true, batch => 1);
SELECT rows_read, rows_published, rows_left_out FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;
SELECT subject, payload::jsonb ->> 'op' AS op FROM reads();
CALL nats_publish_rows('orders', only_missing => true, subject => 'backfill.orders.{op}.{id}');
CALL nats_publish_rows('orders', only_missing => true, subject => 'backfill.orders.{Customer}');
SELECT nats_publish_table('orders', 'backfill.orders.{id}', delivery => 'outbox');
CALL nats_publish_rows('orders', only_missing => true);
SELECT nats_publish_table('orders', 'backfill.orders.{id}');

-- What goes wrong is told, and kept until the call goes on behind what was done.
CREATE FUNCTION fails(id int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    IF id = 3 AND current_setting('backfill.fails', true) = 'on' THEN RAISE 'not yet'; END IF;
    RETURN true;
END $$;
SET backfill.fails = on;
CALL nats_publish_rows('orders', 'fails(id)', batch => 2);
SELECT state, rows_read, rows_published, error FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;
CALL nats_publish_rows('orders');
SET backfill.fails = off;
CALL nats_publish_rows('orders', 'fails(id)', batch => 2);
SELECT subject FROM reads();
SELECT state, rows_read, rows_published, error FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;
SET backfill.fails = on;
CALL nats_publish_rows('orders', 'fails(id)', batch => 2);
CALL nats_publish_rows('orders', batch => 2, restart => true);
SELECT subject FROM reads();
CALL nats_publish_rows('orders', 'fails(id)', batch => 2);
SELECT nats_publish_rows_stop('orders'), nats_publish_rows_stop('orders', forget => true), nats_publish_rows_stop('orders');
-- What is behind a key is not, in another order.
CREATE TABLE numbers (id int PRIMARY KEY, n int NOT NULL, v text COLLATE "C" NOT NULL DEFAULT 'x');
INSERT INTO numbers SELECT i, i FROM generate_series(1, 10) AS i;
SELECT nats_publish_table('numbers', 'backfill.numbers');
SET backfill.fails = on;
CALL nats_publish_rows('numbers', 'fails(n)', batch => 1);
ALTER TABLE numbers ALTER id TYPE text;
SET backfill.fails = off;
CALL nats_publish_rows('numbers', 'fails(n)', batch => 1);
ALTER TABLE numbers DROP CONSTRAINT numbers_pkey, ADD PRIMARY KEY (n);
CALL nats_publish_rows('numbers', 'fails(n)', batch => 1);
ALTER TABLE numbers DROP CONSTRAINT numbers_pkey, ADD PRIMARY KEY (id, v);
CALL nats_publish_rows('numbers', 'fails(n)', batch => 1);
SET backfill.fails = on;
CALL nats_publish_rows('numbers', 'fails(n)', batch => 2, restart => true);
ALTER TABLE numbers ALTER v TYPE text COLLATE "POSIX";
CALL nats_publish_rows('numbers', 'fails(n)', batch => 2);
ALTER TABLE numbers ALTER v TYPE text COLLATE "C";
ALTER TABLE numbers RENAME id TO key;
SET backfill.fails = off;
CALL nats_publish_rows('numbers', 'fails(n)', batch => 2);
SELECT payload::jsonb #>> '{new,id}' AS id, payload::jsonb #>> '{new,key}' AS key FROM reads() WHERE subject = 'backfill.numbers';
DROP TABLE numbers;
SELECT count(*) FROM reads();
-- A message that fails, with its COMMIT.
SELECT nats_publish_table('orders', 'nowhere.orders.{id}');
CALL nats_publish_rows('orders');
SELECT state, rows_read, rows_published, left(error, 5) AS error FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;
SELECT nats_publish_rows_stop('orders', forget => true);
SELECT nats_publish_table('orders', 'backfill.orders.{id}');

-- A dry run shows the first messages and how many there would be, also in a transaction.
INSERT INTO orders VALUES (4, 'four'), (5, repeat('x', 2000));
SELECT count(*) FROM reads();
\set VERBOSITY terse
BEGIN;
CALL nats_publish_rows('orders', 'id > 1', dry_run => true);
COMMIT;
\set VERBOSITY default
SET nats_publish.publishing = dry_run;
\set VERBOSITY terse
CALL nats_publish_rows('orders', 'id > 4');
\set VERBOSITY default
SET nats_publish.publishing = off;
CALL nats_publish_rows('orders');
RESET nats_publish.publishing;
SELECT count(*) FROM reads();
SELECT count(*) FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;

-- What is not possible.
CREATE VIEW seen AS TABLE orders;
CREATE TABLE unpublished (id int PRIMARY KEY);
CREATE TABLE keyless (id int);
SELECT nats_publish_table('keyless', 'backfill.keyless', events => '{insert}');
CALL nats_publish_rows(NULL);
CALL nats_publish_rows('seen');
CALL nats_publish_rows(0::regclass);
CALL nats_publish_rows('unpublished');
CALL nats_publish_rows('keyless');
-- A key that can be violated for a while, and one that partitions do not have
CREATE TABLE deferrable_key (id int PRIMARY KEY DEFERRABLE);
CREATE TABLE parted_key (id int NOT NULL) PARTITION BY LIST (id);
CREATE TABLE parted_key_1 PARTITION OF parted_key FOR VALUES IN (1);
ALTER TABLE ONLY parted_key ADD PRIMARY KEY (id);
SELECT nats_publish_table(relation, 'backfill.keyless', events => '{insert}') FROM unnest('{deferrable_key,parted_key}'::regclass[]) AS relation;
CALL nats_publish_rows('deferrable_key');
CALL nats_publish_rows('parted_key');
-- What a row that is read does not know
CREATE TRIGGER of_table AFTER INSERT ON orders FOR EACH ROW WHEN (NEW.id > 0 AND NEW.tableoid <> 0) EXECUTE FUNCTION nats_publish_change('subject=backfill.x');
CALL nats_publish_rows('orders', trigger => 'of_table');
DROP TRIGGER of_table ON orders;
CALL nats_publish_rows('orders', batch => 0);
CALL nats_publish_rows('orders', batch => NULL);
SELECT pause, left(error_of(format('CALL nats_publish_rows(''orders'', pause => %L)', pause)), 5) AS error
FROM unnest('{-1 s,48:00:00,2 days,1 month,1 year,-1 day 12:00,100000000 days}'::interval[]) AS pause;
\set VERBOSITY terse
CALL nats_publish_rows('orders', pause => '1 day 23:59:59.999999');
CALL nats_publish_rows('orders', pause => '2 days -00:00:00.000001');
CALL nats_publish_rows('orders', pause => NULL);
\set VERBOSITY default
CALL nats_publish_rows('orders', 'no_column > 1');
CALL nats_publish_rows('orders', 'true); DELETE FROM orders');
CALL nats_publish_rows('orders', 'true); SELECT 1 FROM orders WHERE (true');
CALL nats_publish_rows('orders', 'id < 2) OR (id > 2');
CALL nats_publish_rows('orders', 'true /* no end');
CALL nats_publish_rows('orders', 'id');
CALL nats_publish_rows('orders', 'true ORDER BY id');
CALL nats_publish_rows('orders', '');
CALL nats_publish_rows('orders', 'count(*) > 0');
CALL nats_publish_rows('orders', '1 / (id - id) = 1');
CALL nats_publish_rows('orders', 'NULL', restart => true);
CALL nats_publish_rows('orders', subject => 'backfill.{no_column}');
BEGIN;
CALL nats_publish_rows('orders');
ROLLBACK;
DO $$ BEGIN PERFORM error_of('CALL nats_publish_rows(''orders'')'); END $$;
SELECT error_of('CALL nats_publish_rows(''orders'')');

-- Rights are those of SELECT ... FOR SHARE, and of what can be called.
CREATE ROLE regress_nats_backfill;
GRANT USAGE ON SCHEMA backfill TO regress_nats_backfill;
SET ROLE regress_nats_backfill;
CALL nats_publish_rows('orders');
SELECT nats_publish_rows_stop('orders');
RESET ROLE;
SELECT nats_grant('regress_nats_backfill', 'publish tables');
SET ROLE regress_nats_backfill;
CALL nats_publish_rows('orders');
RESET ROLE;
GRANT SELECT ON orders TO regress_nats_backfill;
SET ROLE regress_nats_backfill;
CALL nats_publish_rows('orders');
RESET ROLE;
GRANT UPDATE ON orders TO regress_nats_backfill;
SELECT count(*) FROM reads();
-- What a policy hides is not there; and another's run is his.
CREATE POLICY few ON orders USING (id < 3);
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
SET backfill.fails = on;
CALL nats_publish_rows('orders', 'fails(id)');
SET ROLE regress_nats_backfill;
SELECT nats_publish_rows_stop('orders');
CALL nats_publish_rows('orders', 'fails(id)');
CALL nats_publish_rows('orders', 'fails(id)', restart => true);
SELECT relation, state, role FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;
RESET ROLE;
-- He is who he was by another name, and who has his is not.
SET ROLE regress_nats_backfill;
CALL nats_publish_rows('orders', 'fails(id + 1)', batch => 1, restart => true);
RESET ROLE;
ALTER ROLE regress_nats_backfill RENAME TO regress_nats_renamed;
CREATE ROLE regress_nats_backfill;
SELECT nats_grant('regress_nats_backfill', 'publish tables');
GRANT USAGE ON SCHEMA backfill TO regress_nats_backfill;
SET ROLE regress_nats_backfill;
SELECT nats_publish_rows_stop('orders');
-- Nor may he see what his error has of rows.
SELECT role, error FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;
SET ROLE regress_nats_renamed;
SELECT role, error FROM nats_publish_rows_progress WHERE relation = 'orders'::regclass;
SELECT nats_publish_rows_stop('orders');
RESET ROLE;
DROP OWNED BY regress_nats_backfill;
DROP ROLE regress_nats_backfill;
ALTER ROLE regress_nats_renamed RENAME TO regress_nats_backfill;
-- Of the chunk that failed some may have gone out.
SELECT DISTINCT subject FROM reads() ORDER BY subject;
-- A row that can be seen and not be changed can't be locked.
ALTER POLICY few ON orders USING (false);
CREATE POLICY seen ON orders FOR SELECT USING (true);
CREATE POLICY changed ON orders FOR UPDATE USING (id = 2);
SET ROLE regress_nats_backfill;
CALL nats_publish_rows('orders', restart => true);
RESET ROLE;
SELECT DISTINCT subject FROM reads() ORDER BY subject;
-- Nor is anything published to where the session may not.
SET nats_publish.allowed_subjects = 'backfill.other.>';
CALL nats_publish_rows('orders', batch => 1, restart => true);
CALL nats_publish_rows('orders', dry_run => true);
RESET nats_publish.allowed_subjects;

-- What the owner has made a part of the table runs as the owner, whoever reads it.
CREATE ROLE regress_nats_owner;
GRANT USAGE ON SCHEMA backfill TO regress_nats_owner;
CREATE TYPE temper AS ENUM ('calm');
CREATE FUNCTION tell_user(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    RAISE NOTICE '% as %', what, current_user;
    PERFORM set_config('backfill.behind', what, false);
    RETURN true;
END $$;
CREATE FUNCTION constant(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN backfill.tell_user('the constant'); END $$;
CREATE DOMAIN number AS int CHECK (backfill.tell_user('the domain'));
CREATE FUNCTION temper_json(temper) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM backfill.tell_user('the cast'); RETURN to_json($1::text); END $$;
CREATE CAST (temper AS json) WITH FUNCTION temper_json(temper);
CREATE TABLE theirs (id number PRIMARY KEY, m temper);
ALTER TABLE theirs OWNER TO regress_nats_owner;
SET ROLE regress_nats_owner;
INSERT INTO theirs VALUES (1, 'calm'), (2, NULL);
RESET ROLE;
SELECT nats_publish_table('theirs', 'backfill.theirs');
DROP TRIGGER nats_publish_row ON theirs;
CREATE TRIGGER nats_publish_row AFTER INSERT ON theirs FOR EACH ROW WHEN (backfill.tell_user('the condition') AND backfill.constant(1))
    EXECUTE FUNCTION nats_publish_change('subject=backfill.theirs');
\set VERBOSITY terse
CALL nats_publish_rows('theirs', dry_run => true);
RESET backfill.behind;
CALL nats_publish_rows('theirs', batch => 1);
SELECT current_setting('backfill.behind') AS what_they_set;
SELECT payload::jsonb #>> '{new,m}' AS m FROM reads() WHERE subject = 'backfill.theirs';

DROP TABLE theirs;
DROP OWNED BY regress_nats_owner;
DROP ROLE regress_nats_owner;
DROP OWNED BY regress_nats_backfill;
DROP ROLE regress_nats_backfill;
SELECT delete_stream('BACKFILL');
DROP SCHEMA backfill CASCADE;
