-- The outbox: what its functions and its table take, who may write it, and what the relay is told. No relay
-- runs here: the library is not preloaded.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

TRUNCATE nats_outbox, nats_outbox_dead, nats_control RESTART IDENTITY;
-- What is in the table; an id that nobody has given is told apart.
CREATE FUNCTION waiting(OUT id bigint, OUT subject text, OUT payload text, OUT headers jsonb, OUT msg_id text)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT id, subject, CASE WHEN payload::text ~ '[89a-f][0-9a-f]$' THEN payload::text ELSE convert_from(payload, 'UTF8') END, headers,
           CASE WHEN msg_id ~ '^[0-9A-Za-z]{22}$' THEN '(automatic)' WHEN msg_id ~ '^[0-9a-f]{8}-' THEN '(uuid)' ELSE msg_id END
    FROM nats_outbox ORDER BY id
$$;

-- The four payloads; text has the encoding of what is sent.
SELECT nats_publish_outbox('outbox.text', 'Grüße');
SELECT nats_publish_outbox('outbox.bytea', '\x00ff80fe'::bytea);
SELECT nats_publish_outbox('outbox.json', '{"b":  1, "a": 2, "b": "ü"}'::json);
SELECT nats_publish_outbox('outbox.jsonb', '{"b":  1, "a": 2, "b": "ü"}'::jsonb);
SELECT nats_publish_outbox('outbox.null', NULL::text), nats_publish_outbox('outbox.null', NULL::bytea),
    nats_publish_outbox('outbox.null', NULL::json), nats_publish_outbox('outbox.null', NULL::jsonb);
SELECT nats_publish_outbox('outbox.empty', ''), nats_publish_outbox('outbox.empty', ''::bytea);
SELECT nats_publish_outbox('outbox.sübject.世', 'x');
SELECT * FROM waiting();
SELECT id, payload IS NULL AS "null", length(payload), payload FROM nats_outbox ORDER BY id;
-- The rest of a new row.
SELECT DISTINCT created_at BETWEEN now() - interval '1 minute' AND now() AS created, attempts, next_attempt_at <= now() AS is_due, last_error FROM nats_outbox;
SELECT count(DISTINCT msg_id) = count(*) AS "unique" FROM nats_outbox;
TRUNCATE nats_outbox RESTART IDENTITY;

-- Headers are as those of nats_publish: scalars become text, an array is a repeated header, its order kept.
SELECT nats_publish_outbox('outbox.headers', 'x', headers => '{"String": "text", "Empty": "", "Number": 1.50, "Big": 12345678901234567890.1, "True": true}');
SELECT nats_publish_outbox('outbox.headers', 'x', headers => '{"Many": ["b", "a", "b", 1, false], "One": ["x"], "None": []}');
SELECT nats_publish_outbox('outbox.headers', 'x', headers => '{"a-B_c!#$%&''*+.^`|~9": "x", "X-Y": "1", "x-y": "2"}');
SELECT nats_publish_outbox('outbox.headers', 'x', headers => jsonb_build_object('Colon', 'a: b', 'Tab', E'a\tb', 'Utf8', 'ü世🐘', 'Quote', '"\', 'Control', E'\x01\x7f'));
SELECT nats_publish_outbox('outbox.headers', 'x', headers => '{"nats-expected-stream": "S", "NATS-TTL": "1h", "Nats-Rollup": "sub"}');
SELECT nats_publish_outbox('outbox.headers', 'x', headers => '{}'), nats_publish_outbox('outbox.headers', 'x', headers => NULL),
    nats_publish_outbox('outbox.headers', 'x', headers => '{"None": []}');
-- The id has a column, whichever way it was given.
SELECT nats_publish_outbox('outbox.id', 'x', msg_id => 'given');
SELECT nats_publish_outbox('outbox.id', 'x', headers => '{"Nats-Msg-Id": "header"}');
SELECT nats_publish_outbox('outbox.id', 'x', headers => '{"nats-msg-ID": ["in any case"], "Other": "x"}');
SELECT nats_publish_outbox('outbox.id', 'x', msg_id => 'ïd');
SELECT nats_publish_outbox('outbox.id', 'x', msg_id => NULL);
SET nats_publish.auto_msg_id = off;
SELECT nats_publish_outbox('outbox.id', 'x'), nats_publish_outbox('outbox.id', 'x', headers => '{"A": "x"}');
RESET nats_publish.auto_msg_id;
-- The same id twice is two rows: it is the stream that finds duplicates.
SELECT nats_publish_outbox('outbox.id', 'x', msg_id => 'given');
SELECT id, headers, msg_id FROM waiting();
TRUNCATE nats_outbox RESTART IDENTITY;

-- What could never be published is an error, and at once.
SELECT error_of('SELECT nats_publish_outbox(NULL, ''x'')');
SELECT error_of('SELECT nats_publish_outbox(NULL, NULL::bytea)');
CREATE TEMP TABLE bad (id serial, subject text, headers jsonb, msg_id text);
INSERT INTO bad (subject) VALUES (''), ('outbox.'), ('.outbox'), ('outbox..a'), ('outbox.*'), ('outbox.>'), ('outbox a'), (E'outbox\r\na'),
    (E'outbox.\x7f'), ('$JS.API.INFO'), ('$SYS.x'), ('_INBOX.x'), (rpad('outbox.', 4001, 'x'));
INSERT INTO bad (subject, headers) SELECT 'outbox.bad', headers::jsonb FROM unnest(ARRAY['null', '[]', '"a"', '1', '{"": "x"}', '{"a b": "x"}', '{"a:": "x"}',
    '{"a\r\nb": "x"}', '{"ä": "x"}', '{"K": null}', '{"K": {}}', '{"K": [["a"]]}', '{"K": "a\r\nb"}', '{"K": ["a", null]}',
    '{"Nats-Batch-Id": "x"}', '{"nats-expected-last-msg-id": "x"}', '{"Nats-Stream-Source": "x"}', '{"Nats-Msg-Id": ["a", "b"]}',
    '{"Nats-Msg-Id": ""}', '{"Nats-Msg-Id": "a", "nats-msg-id": "b"}']) AS headers;
INSERT INTO bad (subject, msg_id) VALUES ('outbox.bad', ''), ('outbox.bad', E'a\nb');
INSERT INTO bad (subject, headers, msg_id) VALUES ('outbox.bad', '{"Nats-Msg-Id": "a"}', 'a'), ('outbox.bad', '{"nats-msg-id": "a"}', 'b');
SELECT left(subject, 20) AS subject, headers, msg_id,
    error_of(format('SELECT nats_publish_outbox(%L, %L, headers => %L, msg_id => %L)', subject, 'x', headers, msg_id)) AS error
FROM bad ORDER BY id;
SELECT error_of(format('SELECT nats_publish_outbox(%L, %L, headers => %L)', 'outbox.bad', 'x', jsonb_build_object('A', repeat('x', 70000))));
-- The row's own INSERT finds the same; there, a Nats-Msg-Id in headers always meets the column.
SELECT left(subject, 20) AS subject, headers, msg_id, error, error = outbox AS same
FROM (SELECT *, error_of(format('INSERT INTO nats_outbox (subject, payload, headers, msg_id) VALUES (%L, %L, %L, %L)',
                                subject, 'x', headers, coalesce(msg_id, 'x'))) AS error,
             error_of(format('SELECT nats_publish_outbox(%L, %L, headers => %L, msg_id => %L)', subject, 'x', headers, coalesce(msg_id, 'x'))) AS outbox
      FROM bad) AS tried
WHERE error IS DISTINCT FROM outbox OR headers ? 'Nats-Msg-Id' ORDER BY id;
SELECT error_of('INSERT INTO nats_outbox (subject) VALUES (NULL)');
SELECT error_of('INSERT INTO nats_outbox (subject, msg_id) VALUES (''outbox.a'', NULL)');
SELECT error_of('INSERT INTO nats_outbox (id, subject) VALUES (1, ''outbox.a'')');
SELECT error_of(format('INSERT INTO nats_outbox (subject, headers) VALUES (%L, %L)', 'outbox.bad', jsonb_build_object('A', repeat('x', 70000))));
SELECT count(*) FROM nats_outbox;
-- Arguments that belong to an immediate publish are none.
SELECT error_of($$SELECT nats_publish_outbox('outbox.a', 'x', expect_last_seq => 1)$$);

-- What no NATS server takes, either way.
SELECT error_of($$SELECT nats_publish_outbox('outbox.large', repeat('x', 67108865))$$);
SELECT error_of($$INSERT INTO nats_outbox (subject, payload) VALUES ('outbox.large', convert_to(repeat('x', 67108865), 'UTF8'))$$);
INSERT INTO nats_outbox (subject, payload) VALUES ('outbox.large', '');
SELECT error_of($$UPDATE nats_outbox SET payload = convert_to(repeat('x', 67108865), 'UTF8') WHERE subject = 'outbox.large'$$);
DELETE FROM nats_outbox;
-- A trigger of the administrator's can keep messages out, whichever way they come.
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN CASE WHEN NEW.subject <> 'outbox.noise' THEN NEW END; END$$;
CREATE TRIGGER keep_out BEFORE INSERT ON nats_outbox FOR EACH ROW EXECUTE FUNCTION keep_out();
CREATE TABLE noise (id int PRIMARY KEY);
SELECT nats_publish_table('noise', 'outbox.{table}', delivery => 'outbox');
INSERT INTO nats_outbox (subject) VALUES ('outbox.noise');
SELECT nats_publish_outbox('outbox.noise', 'x'), nats_publish_outbox('outbox.other', 'x') IS NULL AS other;
INSERT INTO noise VALUES (1);
SELECT subject FROM nats_outbox ORDER BY id;
DROP TABLE noise;
DROP TRIGGER keep_out ON nats_outbox;
DROP FUNCTION keep_out;

-- Ids grow, in the order of the calls. What is rolled back is gone, and leaves a gap.
TRUNCATE nats_outbox RESTART IDENTITY;
SELECT nats_publish_outbox('outbox.order', i::text) AS id FROM generate_series(1, 3) AS i;
BEGIN;
SELECT nats_publish_outbox('outbox.order', 'rolled back');
ROLLBACK;
BEGIN;
SELECT nats_publish_outbox('outbox.order', 'before');
SAVEPOINT a;
SELECT nats_publish_outbox('outbox.order', 'undone');
ROLLBACK TO a;
SELECT nats_publish_outbox('outbox.order', 'after');
SAVEPOINT b;
SELECT nats_publish_outbox('outbox. ', 'error');
ROLLBACK TO b;
SELECT nats_publish_outbox('outbox.order', 'after an error');
COMMIT;
DO $$
BEGIN
    BEGIN
        PERFORM nats_publish_outbox('outbox.order', 'undone');
        RAISE EXCEPTION 'undo';
    EXCEPTION WHEN raise_exception THEN
        PERFORM nats_publish_outbox('outbox.order', 'handled');
    END;
END
$$;
-- Two-phase commit: it is a table.
BEGIN;
SELECT nats_publish_outbox('outbox.order', 'prepared');
PREPARE TRANSACTION 'outbox';
SELECT count(*) FROM nats_outbox WHERE payload = 'prepared';
COMMIT PREPARED 'outbox';
SELECT id, payload FROM waiting();

-- Nothing can be written in a read-only transaction.
BEGIN READ ONLY;
SELECT error_of($$SELECT nats_publish_outbox('outbox.read_only', 'x')$$);
SELECT nats_publish_outbox('outbox.read_only', 'x');
ROLLBACK;
BEGIN READ ONLY;
SELECT error_of($$SELECT nats_relay_pause()$$);
SELECT error_of($$SELECT nats_outbox_retry(1)$$);
ROLLBACK;

-- Nothing of all this has talked to NATS, nor would it need to.
\c
SET nats_publish.url = 'nats://127.0.0.1:1';
SELECT nats_publish_outbox('outbox.offline', 'x') > 0 AS written;
SELECT published, connects, failed FROM nats_session_stats();
RESET nats_publish.url;
\i :helpers

-- Privileges: a role that may call a function writes rows and sees none.
TRUNCATE nats_outbox RESTART IDENTITY;
CREATE ROLE regress_nats_caller;
CREATE ROLE regress_nats_writer;
SET ROLE regress_nats_caller;
SELECT error_of($$SELECT nats_publish_outbox('outbox.a', 'x')$$);
SELECT error_of(format('SELECT nats_publish_outbox(%L, %L::%s)', 'outbox.a', '1', type)) FROM unnest('{text,bytea,json,jsonb}'::text[]) AS type;
SELECT error_of(format('SELECT %s', call))
FROM unnest('{nats_outbox_retry(1),nats_outbox_retry_all(),nats_relay_pause(),nats_relay_resume(),nats_relay_status()}'::text[]) AS call;
SELECT error_of(format('SELECT FROM %s', name)) FROM unnest('{nats_outbox,nats_outbox_dead,nats_control,nats_relay}'::text[]) AS name;
RESET ROLE;
GRANT EXECUTE ON FUNCTION nats_publish_outbox(text, text, jsonb, text, timestamptz) TO regress_nats_caller;
SET ROLE regress_nats_caller;
SELECT nats_publish_outbox('outbox.caller', current_user::text, '{"A": "x"}', 'caller');
SELECT error_of($$SELECT nats_publish_outbox('outbox.caller', 'x'::bytea)$$);
SELECT error_of($$SELECT nats_publish_outbox('outbox. ', 'x'::text)$$);
SELECT error_of('SELECT FROM nats_outbox');
SELECT error_of('INSERT INTO nats_outbox (subject) VALUES (''outbox.caller'')');
SELECT error_of('DELETE FROM nats_outbox');
SELECT current_user, session_user = current_user AS session;
RESET ROLE;
-- One that may insert: into the four columns, and no more.
GRANT INSERT (subject, payload, headers, msg_id) ON nats_outbox TO regress_nats_writer;
SET ROLE regress_nats_writer;
INSERT INTO nats_outbox (subject, payload, headers, msg_id) VALUES ('outbox.writer', 'x', '{"A": ["x", "y"]}', 'writer');
INSERT INTO nats_outbox (subject) VALUES ('outbox.writer');
INSERT INTO nats_outbox (subject, payload) SELECT 'outbox.writer', convert_to(i::text, 'UTF8') FROM generate_series(1, 2) AS i;
COPY nats_outbox (subject, payload) FROM stdin;
outbox.copied	copied
\.
COPY nats_outbox (subject, payload) FROM stdin;
outbox.copied	copied
outbox.*	copied
\.
SELECT DISTINCT error_of(format('INSERT INTO nats_outbox (subject, payload, headers, msg_id) VALUES (%L, %L, %L, %L)',
                                subject, 'x', headers, msg_id)) = 'no error' AS taken
FROM (VALUES ('outbox.*', NULL::text, 'a'), ('$JS.API.INFO', NULL, 'a'), ('', NULL, 'a'), (NULL, NULL, 'a'), ('outbox.a', '{"K": "a\r\nb"}', 'a'),
             ('outbox.a', '[]', 'a'), ('outbox.a', NULL, ''), ('outbox.a', NULL, E'a\r\nb'), ('outbox.a', '{"Nats-Msg-Id": "b"}', 'a')) AS bad (subject, headers, msg_id);
SELECT error_of('INSERT INTO nats_outbox (subject, id) OVERRIDING SYSTEM VALUE VALUES (''outbox.writer'', 1)');
SELECT error_of('INSERT INTO nats_outbox (subject, attempts) VALUES (''outbox.writer'', -1)');
SELECT error_of('INSERT INTO nats_outbox (subject, created_at) VALUES (''outbox.writer'', now())');
SELECT error_of('INSERT INTO nats_outbox (subject) VALUES (''outbox.writer'') RETURNING id');
SELECT error_of('SELECT FROM nats_outbox');
SELECT error_of('UPDATE nats_outbox SET subject = ''outbox.b''');
SELECT error_of($$SELECT nats_publish_outbox('outbox.writer', 'x')$$);
RESET ROLE;
SELECT * FROM waiting();
-- What is written later is checked too.
SELECT error_of('UPDATE nats_outbox SET subject = ''outbox.*'' WHERE id = 1');
SELECT error_of('UPDATE nats_outbox SET subject = NULL WHERE id = 1');
SELECT error_of('UPDATE nats_outbox SET msg_id = '''' WHERE id = 1');
SELECT error_of('UPDATE nats_outbox SET headers = ''[1]'' WHERE id = 1');
UPDATE nats_outbox SET subject = 'outbox.changed', headers = '{"B": "y"}', msg_id = 'changed', payload = 'changed' WHERE id = 1;
UPDATE nats_outbox SET attempts = 2, next_attempt_at = now(), last_error = 'x' WHERE id = 1;
SELECT * FROM waiting() WHERE id = 1;
-- The view of the relay needs its function too.
GRANT SELECT ON nats_relay TO regress_nats_caller;
SET ROLE regress_nats_caller;
SELECT error_of('SELECT * FROM nats_relay');
RESET ROLE;
GRANT EXECUTE ON FUNCTION nats_relay_status() TO regress_nats_caller;
SET ROLE regress_nats_caller;
SELECT error_of('SELECT * FROM nats_relay');
RESET ROLE;

-- What a caller has in its search_path, or in its temporary schema, is not what these functions use.
TRUNCATE nats_outbox RESTART IDENTITY;
CREATE SCHEMA outbox_tricks AUTHORIZATION regress_nats_caller;
GRANT EXECUTE ON FUNCTION nats_outbox_retry(bigint), nats_outbox_retry_all(), nats_relay_pause(), nats_relay_resume() TO regress_nats_caller;
SELECT nats_publish_outbox('outbox.trick', 'waits') AS id \gset
UPDATE nats_outbox SET attempts = 3, next_attempt_at = now() + interval '1 hour' WHERE id = :id;
INSERT INTO nats_outbox_dead (id, subject, msg_id, created_at, attempts) VALUES (1000, 'outbox.trick', 'dead', now(), 10);
SET ROLE regress_nats_caller;
CREATE TABLE outbox_tricks.tricked (how text);
CREATE FUNCTION outbox_tricks.trick(text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_tricks.tricked VALUES ($1 || ' by ' || current_user);
    RETURN false;
END
$$;
CREATE FUNCTION outbox_tricks.equal(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$SELECT outbox_tricks.trick('equal')$$;
CREATE OPERATOR outbox_tricks.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = outbox_tricks.equal);
CREATE FUNCTION outbox_tricks.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT NULL::timestamptz FROM outbox_tricks.trick('now')$$;
CREATE FUNCTION outbox_tricks.gen_random_uuid() RETURNS uuid LANGUAGE sql AS $$SELECT NULL::uuid FROM outbox_tricks.trick('uuid')$$;
CREATE FUNCTION outbox_tricks.nats_outbox_retry(bigint) RETURNS boolean LANGUAGE sql AS $$SELECT outbox_tricks.trick('retry')$$;
CREATE FUNCTION outbox_tricks.nats_outbox_check() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM outbox_tricks.trick('check'); RETURN NEW; END$$;
CREATE TABLE outbox_tricks.nats_outbox (id bigserial, subject text, payload bytea, headers jsonb, msg_id text, next_attempt_at timestamptz);
CREATE TABLE outbox_tricks.nats_outbox_dead (id bigint, subject text, payload bytea, headers jsonb, msg_id text, created_at timestamptz, attempts int);
CREATE TABLE outbox_tricks.nats_control (id uuid PRIMARY KEY DEFAULT outbox_tricks.gen_random_uuid(), paused boolean);
CREATE TEMP TABLE nats_outbox (LIKE outbox_tricks.nats_outbox INCLUDING ALL);
CREATE TEMP TABLE nats_outbox_dead (LIKE outbox_tricks.nats_outbox_dead);
CREATE TEMP TABLE nats_control (LIKE outbox_tricks.nats_control INCLUDING ALL);
SET search_path = outbox_tricks, pg_temp, pg_catalog, public;
SELECT public.nats_publish_outbox('outbox.trick', 'by function'::text) > 0 AS written;
SELECT public.nats_outbox_retry(1000);
SELECT public.nats_outbox_retry(1001);
SELECT public.nats_outbox_retry_all();
SELECT public.nats_relay_pause();
RESET search_path;
SELECT (SELECT count(*) FROM outbox_tricks.tricked) AS tricked, (SELECT count(*) FROM outbox_tricks.nats_outbox) AS outbox,
    (SELECT count(*) FROM pg_temp.nats_outbox) AS "temp", (SELECT count(*) FROM pg_temp.nats_outbox_dead) AS dead,
    (SELECT count(*) FROM outbox_tricks.nats_control) + (SELECT count(*) FROM pg_temp.nats_control) AS control;
RESET ROLE;
SELECT id, subject, attempts, next_attempt_at <= now() AS is_due FROM public.nats_outbox ORDER BY id;
SELECT count(*) FROM public.nats_outbox_dead;
SELECT paused FROM public.nats_control;
DROP TABLE pg_temp.nats_outbox, pg_temp.nats_outbox_dead, pg_temp.nats_control;
SET client_min_messages = warning;
DROP SCHEMA outbox_tricks CASCADE;
-- None runs with its owner's rights; those that write tables for an operator have a search_path of their own, with the temporary schema last.
SELECT proname, prosecdef, proconfig FROM pg_proc WHERE (prosecdef OR proname ~ 'retry|relay_(pause|resume)') AND proname LIKE 'nats\_%' ORDER BY proname;

-- Dead and waiting messages are tried again, as they were.
TRUNCATE nats_outbox, nats_control RESTART IDENTITY;
INSERT INTO nats_outbox_dead (id, subject, payload, headers, msg_id, created_at, attempts, last_error) VALUES
    (1001, 'outbox.dead', 'a', '{"A": ["x", "y"]}', 'a', '2026-01-01 00:00+00', 10, '54000: too large'),
    (1002, 'outbox.dead', NULL, NULL, 'b', '2026-01-02 00:00+00', 1, '22023: bad'),
    (1003, 'outbox.dead', '\xff00', NULL, 'c', '2026-01-03 00:00+00', 1, NULL);
SELECT count(*) FROM nats_outbox_dead WHERE died_at BETWEEN now() - interval '1 minute' AND now();
SELECT nats_outbox_retry(1001), nats_outbox_retry(1001) AS "waits already", nats_outbox_retry(999), nats_outbox_retry(NULL) AS "null";
SELECT id, subject, payload, headers, msg_id, created_at AT TIME ZONE 'UTC' AS created_at, attempts, next_attempt_at <= now() AS is_due, last_error FROM nats_outbox;
SELECT id FROM nats_outbox_dead ORDER BY id;
-- A new message does not meet the id of an old one.
SELECT nats_publish_outbox('outbox.new', 'x'), nats_publish_outbox('outbox.new', 'y');
UPDATE nats_outbox SET attempts = 4, next_attempt_at = now() + interval '1 hour', last_error = '42704: no stream' WHERE id IN (1, 1001);
SELECT nats_outbox_retry(1);
SELECT id, attempts, next_attempt_at > now() AS later, last_error FROM nats_outbox ORDER BY id;
SELECT nats_outbox_retry_all();
SELECT id, attempts, next_attempt_at <= now() AS is_due, last_error FROM nats_outbox ORDER BY id;
SELECT nats_outbox_retry_all(), (SELECT count(*) FROM nats_outbox_dead) AS dead;
-- A time that a wrong clock has written is not when it will be tried again.
BEGIN;
UPDATE nats_outbox SET next_attempt_at = now() + CASE id WHEN 1 THEN interval '1 year' ELSE interval '30 s' END;
SELECT id, next_attempt_at - now() AS tried_in FROM nats_outbox_messages ORDER BY id;
ROLLBACK;
-- One whose id another message has by now gets a new one.
INSERT INTO nats_outbox_dead (id, subject, msg_id, created_at, attempts) VALUES (1, 'outbox.dead', 'd', now(), 10);
SELECT error_of('SELECT nats_outbox_retry(1)');
SELECT count(*) FROM nats_outbox_dead;
DELETE FROM nats_outbox_dead;
-- What can't be published is tried again all the same: it is the relay's to say what is wrong with it.
INSERT INTO nats_outbox_dead (id, subject, msg_id, created_at, attempts) VALUES (1004, 'outbox.*', 'e', now(), 10), (1005, 'outbox.good', 'f', now(), 10);
SELECT error_of('SELECT nats_outbox_retry(1004)');
SELECT error_of('SELECT nats_outbox_retry_all()');
SELECT id FROM nats_outbox_dead ORDER BY id;
-- Undone with the transaction.
BEGIN;
SELECT nats_outbox_retry(1005);
ROLLBACK;
SELECT id FROM nats_outbox_dead ORDER BY id;

-- The relay is told to stop and to go on, by what a transaction commits.
SELECT count(*) FROM nats_control;
SELECT nats_relay_resume();
SELECT paused FROM nats_control;
SELECT nats_relay_pause();
SELECT nats_relay_pause();
SELECT paused FROM nats_control;
BEGIN;
SELECT nats_relay_resume();
ROLLBACK;
SELECT paused FROM nats_control;
SELECT nats_relay_resume();
SELECT paused FROM nats_control;
-- Rows of another database, as replication brings them: each pauses it, and they are resumed as one.
INSERT INTO nats_control VALUES (gen_random_uuid(), true);
SELECT nats_relay_pause();
SELECT count(*), bool_and(paused) FROM nats_control;
SELECT nats_relay_resume();
SELECT count(*), bool_or(paused) FROM nats_control;
-- There is no relay.
SELECT * FROM nats_relay;
SELECT * FROM nats_relay_status();
SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'nats_publish%';

-- The trigger functions are for triggers.
SELECT error_of('SELECT nats_outbox_check()');
SELECT error_of('SELECT nats_outbox_wake()');
-- ... and for those of the extension's tables: elsewhere there may be other columns of these names.
CREATE TABLE other (subject int, headers int, msg_id int);
CREATE TRIGGER checked BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION nats_outbox_check();
SELECT error_of('INSERT INTO other VALUES (1, 1, 1)');
DROP TRIGGER checked ON other;
CREATE TRIGGER woken BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION nats_outbox_wake();
SELECT error_of('INSERT INTO other VALUES (1, 1, 1)');
DROP TABLE other;
CREATE TRIGGER checked BEFORE INSERT ON nats_outbox FOR EACH STATEMENT EXECUTE FUNCTION nats_outbox_check();
SELECT error_of($$SELECT nats_publish_outbox('outbox.a', 'x')$$);
DROP TRIGGER checked ON nats_outbox;

SELECT pg_get_triggerdef(oid) AS trigger FROM pg_trigger
WHERE tgrelid IN ('nats_outbox'::regclass, 'nats_control'::regclass) AND NOT tgisinternal ORDER BY tgname;

-- Change publishing with delivery outbox writes what delivery on_commit sends.
TRUNCATE nats_outbox RESTART IDENTITY;
SELECT create_stream('OUTBOX', 'outbox.>');
CREATE TABLE orders (id int PRIMARY KEY, customer text, amount numeric, note text, body bytea);
CREATE FUNCTION both_deliveries(VARIADIC options text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    list text := (SELECT string_agg(quote_literal(option), ', ') FROM unnest(options) AS option);
BEGIN
    PERFORM nats_jetstream('STREAM.PURGE.OUTBOX');
    DROP TRIGGER IF EXISTS on_commit ON orders;
    DROP TRIGGER IF EXISTS outbox ON orders;
    DROP TRIGGER IF EXISTS on_commit_all ON orders;
    DROP TRIGGER IF EXISTS outbox_all ON orders;
    TRUNCATE nats_outbox, orders;
    EXECUTE format('CREATE TRIGGER on_commit AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION nats_publish_change(%s, ''delivery=on_commit'')', list);
    EXECUTE format('CREATE TRIGGER outbox AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION nats_publish_change(%s, ''delivery=outbox'')', list);
    EXECUTE format('CREATE TRIGGER on_commit_all AFTER TRUNCATE ON orders FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change(%s, ''delivery=on_commit'')', list);
    EXECUTE format('CREATE TRIGGER outbox_all AFTER TRUNCATE ON orders FOR EACH STATEMENT EXECUTE FUNCTION nats_publish_change(%s, ''delivery=outbox'')', list);
END
$$;
-- The two clocks and the position in the WAL are those of the call.
CREATE FUNCTION plain(payload bytea) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(convert_from(payload, 'UTF8'), '("ts_ms":\d+,"transaction"|"lsn":\d+,)', '', 'g')
$$;
CREATE FUNCTION compare(OUT messages bigint, OUT same boolean, OUT same_order boolean, OUT headers text) RETURNS record LANGUAGE sql AS $$
    WITH stored AS (
        SELECT row_number() OVER (ORDER BY number) AS number, m.subject, plain(m.payload) AS payload, m.headers
        FROM generate_series((nats_stream_info('OUTBOX') #>> '{state,first_seq}')::int, (nats_stream_info('OUTBOX') #>> '{state,last_seq}')::int) AS number,
            nats_get_message('OUTBOX', number) AS m
    ), waits AS (
        SELECT row_number() OVER (ORDER BY id) AS number, subject, plain(payload) AS payload,
            coalesce(headers, '{}') || jsonb_build_object('Nats-Msg-Id', msg_id) AS headers
        FROM nats_outbox
    )
    SELECT (SELECT count(*) FROM stored),
        (SELECT count(*) FROM stored JOIN waits USING (subject, payload, headers)) = greatest((SELECT count(*) FROM stored), (SELECT count(*) FROM waits)),
        (SELECT bool_and(s.subject = w.subject) FROM stored AS s JOIN waits AS w USING (number)),
        (SELECT string_agg(DISTINCT name, ' ') FROM waits, jsonb_object_keys(waits.headers) AS name)
$$;
CREATE PROCEDURE change_orders() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO orders VALUES (1, 'ümlaut "quoted"', 1.50, 'a.b *', '\x00ff'), (2, NULL, NULL, NULL, NULL);
    UPDATE orders SET amount = 2, note = E'two\nlines' WHERE id = 1;
    UPDATE orders SET id = 3 WHERE id = 2;
    UPDATE orders SET amount = amount;
    DELETE FROM orders WHERE id = 3;
    COMMIT;
    TRUNCATE orders;
    COMMIT;
END
$$;
SELECT both_deliveries('subject=outbox.{table}.{id}.{op}', 'msg_id={op}-{id}-{xid}', 'headers={"Customer": "{customer}", "Note": "{note}"}');
CALL change_orders();
SELECT * FROM compare();
SELECT id, subject, headers ->> 'Customer' AS customer, headers ->> 'Note' AS note, regexp_replace(convert_from(payload, 'UTF8'), ',"xid".*', '}') AS payload FROM nats_outbox ORDER BY id;
SELECT both_deliveries('subject=outbox.{table}', 'msg_id={op}-{id}-{xid}', 'format=json', 'old=true', 'columns=id,amount');
CALL change_orders();
SELECT * FROM compare();
SELECT both_deliveries('subject=outbox.{table}.{op}', 'msg_id={op}-{id}-{xid}', 'format=cloudevents');
CALL change_orders();
SELECT * FROM compare();
SELECT both_deliveries('subject=outbox.{table}.{op}', 'msg_id={op}-{id}-{xid}', 'format=debezium', 'old=true');
SET nats_publish.traceparent = '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01';
CALL change_orders();
SELECT * FROM compare();
RESET nats_publish.traceparent;
DROP TRIGGER on_commit ON orders;
DROP TRIGGER on_commit_all ON orders;
DROP TRIGGER outbox ON orders;
DROP TRIGGER outbox_all ON orders;
SELECT delete_stream('OUTBOX');

-- By nats_publish_table, row by row and by statement; each message has an id, and that of a CloudEvent is it.
TRUNCATE nats_outbox RESTART IDENTITY;
SELECT nats_publish_table('orders', 'outbox.{table}.{op}', delivery => 'outbox');
SELECT trigger_name, level, delivery FROM nats_published_tables ORDER BY trigger_name;
INSERT INTO orders VALUES (1, 'a'), (2, 'b');
SELECT nats_publish_table('orders', 'outbox.{table}.{op}', level => 'statement', delivery => 'outbox', format => 'cloudevents');
UPDATE orders SET amount = 1;
DELETE FROM orders WHERE id = 2;
SELECT id, subject, convert_from(payload, 'UTF8')::jsonb -> 'key' AS key, msg_id ~ '^[0-9A-Za-z]{22}$' AS automatic, headers ->> 'ce-id' = msg_id AS "ce-id"
FROM nats_outbox ORDER BY id;
BEGIN;
DELETE FROM orders;
ROLLBACK;
SELECT count(*) FROM nats_outbox;
-- A column as the message.
TRUNCATE nats_outbox RESTART IDENTITY;
SELECT nats_publish_table('orders', 'outbox.{customer}', delivery => 'outbox', payload => 'body', msg_id => 'order-{id}', events => '{insert}');
INSERT INTO orders (id, customer, body) VALUES (7, 'c', '\x00ff'), (8, 'd', NULL);
SELECT id, subject, payload, headers - 'Pg-Xid' AS headers, msg_id FROM nats_outbox ORDER BY id;
-- Who may write the table publishes, without a privilege on the outbox; a message that is none is the statement's error.
GRANT INSERT ON orders TO regress_nats_writer;
REVOKE INSERT (subject, payload, headers, msg_id) ON nats_outbox FROM regress_nats_writer;
SET ROLE regress_nats_writer;
INSERT INTO orders (id, customer) VALUES (9, 'e');
SELECT error_of('SELECT FROM nats_outbox');
RESET ROLE;
SELECT subject, msg_id FROM waiting() OFFSET 2;
SELECT error_of($$SELECT nats_publish_table('orders', '$JS.{customer}', delivery => 'outbox')$$);
SELECT nats_publish_table('orders', 'outbox.{note}', delivery => 'outbox', events => '{insert}');
SELECT error_of(format('INSERT INTO orders (id, note) VALUES (10, %L)', repeat('x', 4000)));
SELECT count(*) FROM orders WHERE id = 10;
DROP TABLE orders;
-- A child's row triggers are its own; a statement is the parent's when it names it.
CREATE TABLE parent (id int PRIMARY KEY, note text);
CREATE TABLE child (extra text) INHERITS (parent);
TRUNCATE nats_outbox RESTART IDENTITY;
SELECT nats_publish_table('parent', 'outbox.parent.{id}', delivery => 'outbox');
INSERT INTO child VALUES (1, 'a', 'b');
UPDATE parent SET note = 'c';
SELECT count(*) FROM nats_outbox;
SELECT nats_publish_table('parent', 'outbox.parent.{id}', delivery => 'outbox', level => 'statement');
UPDATE child SET note = 'd';
UPDATE parent SET note = 'e';
SELECT subject, convert_from(payload, 'UTF8')::jsonb -> 'new' AS new FROM nats_outbox;
DROP TABLE parent CASCADE;

-- In a schema of its own, whatever its name; and again after DROP EXTENSION, in the same session.
CREATE SCHEMA "Out Box";
BEGIN;
DROP EXTENSION nats_publish;
CREATE EXTENSION nats_publish SCHEMA "Out Box";
SELECT "Out Box".nats_publish_outbox('outbox.schema', 'x');
CREATE TABLE published (id int PRIMARY KEY);
SELECT "Out Box".nats_publish_table('published', 'outbox.{table}', delivery => 'outbox');
INSERT INTO published VALUES (1);
SELECT "Out Box".nats_relay_pause();
SELECT id, subject FROM "Out Box".nats_outbox ORDER BY id;
INSERT INTO "Out Box".nats_outbox_dead (id, subject, msg_id, created_at, attempts) VALUES (9, 'outbox.schema', 'x', now(), 1);
SELECT "Out Box".nats_outbox_retry(9);
INSERT INTO "Out Box".nats_outbox (subject) VALUES ('outbox.schema'), ('outbox.*');
ROLLBACK;
DROP SCHEMA "Out Box";
BEGIN;
DROP EXTENSION nats_publish;
CREATE EXTENSION nats_publish;
SELECT nats_publish_outbox('outbox.again', 'x');
ROLLBACK;
SELECT nats_publish_outbox('outbox.again', 'x') > 0 AS written;

-- In a database of another encoding, what is text in the message is UTF-8 here too.
SELECT current_database() AS utf8 \gset
CREATE DATABASE regress_nats_outbox TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_nats_outbox
SET client_encoding = UTF8;
CREATE EXTENSION nats_publish;
SELECT nats_publish_outbox('outbox.é', 'Grüße', headers => '{"H": "ü", "Many": ["é", "à"]}', msg_id => 'ïd');
SELECT nats_publish_outbox('outbox.json', '{"ä": "ö"}'::json), nats_publish_outbox('outbox.jsonb', '{"ä": "ö"}'::jsonb);
SELECT id, subject, convert_from(payload, 'UTF8') AS payload, length(payload), headers, CASE id WHEN 1 THEN msg_id END AS msg_id FROM nats_outbox ORDER BY id;
\c :utf8
DROP DATABASE regress_nats_outbox;

TRUNCATE nats_outbox, nats_outbox_dead, nats_control RESTART IDENTITY;
REVOKE ALL ON FUNCTION nats_publish_outbox(text, text, jsonb, text, timestamptz), nats_outbox_retry(bigint), nats_outbox_retry_all(), nats_relay_pause(),
    nats_relay_resume(), nats_relay_status() FROM regress_nats_caller;
REVOKE ALL ON nats_relay FROM regress_nats_caller;
DROP ROLE regress_nats_caller;
DROP ROLE regress_nats_writer;
DROP FUNCTION waiting, both_deliveries, plain, compare;
DROP PROCEDURE change_orders;
