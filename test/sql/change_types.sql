-- Every value arrives as to_jsonb gives it, whatever the session's settings.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_TYPES', 'change_types.>');
CREATE SCHEMA change_types;
SET search_path = change_types, public;

-- The fields of the rows of a table with the column id that did not arrive as they are stored: none.
CREATE FUNCTION differences(relation regclass) RETURNS TABLE (id int, field text, sent jsonb, stored jsonb) LANGUAGE plpgsql
    SET bytea_output = hex SET datestyle = ISO SET intervalstyle = postgres SET extra_float_digits = 1 SET timezone = UTC
    SET lc_monetary = 'C' AS $$
BEGIN
    RETURN QUERY EXECUTE format('
        SELECT published.id, f.* FROM %s AS published
        LEFT JOIN (SELECT payload::jsonb -> ''new'' AS new FROM stream_messages(''CHANGE_TYPES'')) AS m
            ON (m.new ->> ''id'')::int = published.id
        CROSS JOIN LATERAL (SELECT key, s.value AS sent, t.value AS stored
            FROM jsonb_each(m.new) AS s FULL JOIN jsonb_each(to_jsonb(published)) AS t USING (key)) AS f
        WHERE f.sent IS DISTINCT FROM f.stored ORDER BY published.id, f.key', relation);
    PERFORM nats_jetstream('STREAM.PURGE.CHANGE_TYPES');
END
$$;
-- All changes are made in a session that would have values written in another way.
SET bytea_output = escape;
SET intervalstyle = sql_standard;
SET extra_float_digits = -15;
SET xmlbinary = hex;

-- Numbers.
CREATE TABLE numbers (id int PRIMARY KEY, i2 int2, i8 int8, o oid, f4 float4, f8 float8, n numeric, n2 numeric(30, 5), m money,
    b boolean);
SELECT nats_publish_table('numbers', old => true);
INSERT INTO numbers VALUES
    (0, 0, 0, 0, 0, 0, 0, 0, '0', false),
    (1, 32767, 9223372036854775807, 4294967295, 3.4028235e38, 1.7976931348623157e308, 99999999999999999999999999999999999999.99,
    1.5, '1.50', true),
    (-1, -32768, -9223372036854775808, 1, -1.17549435e-38, -2.2250738585072014e-308, -0.00000000000000000000000000000000000001,
    -1.5, '-1.50', false),
    (2, 1, 1, 1, 'NaN', 'NaN', 'NaN', 'NaN', NULL, NULL),
    (3, 1, 1, 1, 'Infinity', 'Infinity', 'Infinity', 1, NULL, NULL),
    (4, 1, 1, 1, '-Infinity', '-Infinity', '-Infinity', 1, NULL, NULL),
    (5, 1, 1, 1, '-0', '-0', '-0', '-0', NULL, NULL),
    (6, NULL, NULL, NULL, 0.1, 0.1, 1.500, 1.500, NULL, NULL),
    (7, NULL, NULL, NULL, 1e-45, 5e-324, 1e1000, 1e20, NULL, NULL),
    (8, NULL, NULL, NULL, 1.1, 0.30000000000000004, ('1' || repeat('0', 131071))::numeric, NULL, NULL, NULL),
    (9, NULL, NULL, NULL, 16777216, 9007199254740993, ('0.' || repeat('0', 16382) || '1')::numeric, NULL, NULL, NULL);
SELECT substring(payload FROM '"f4":.*"n2":[^,]*') AS as_written FROM stream_messages('CHANGE_TYPES')
WHERE (payload::json #>> '{new,id}')::int BETWEEN 2 AND 6;
SELECT * FROM differences('numbers');

-- Texts.
CREATE TABLE texts (id int PRIMARY KEY, t text, v varchar(20), c char(5), c1 "char", n name);
SELECT nats_publish_table('texts');
INSERT INTO texts VALUES
    (1, '', '', '', '', ''),
    (2, '"quotes" ''and'' \back\slashes/', '"', 'a', 'a', 'a'),
    (3, E'\b\f\n\r\t\x01\x1f\x7f', E'\x02', E'\n', E'\t', E'\r'),
    (4, 'Grüße, 世界 🐘', 'ß', 'ü', 'x', 'größe'),
    (5, E'\u2028\u2029\u00a0\ufeff\uffff\U0010ffff</script>', '{"a": [1]}', 'null', '"', 'null'),
    (6, repeat('long ', 20000), NULL, NULL, NULL, NULL);
INSERT INTO texts SELECT 100 + i, chr(i), chr(i), chr(i) FROM generate_series(1, 255) AS i;
SELECT count(*) FROM stream_messages('CHANGE_TYPES') WHERE payload ~ '[\u0001-\u001f]';
SELECT * FROM differences('texts');

-- Bytes and bits, which need no escaping by what is set.
CREATE TABLE bytes (id int PRIMARY KEY, b bytea, b1 bit(3), bv bit varying);
SELECT nats_publish_table('bytes');
INSERT INTO bytes VALUES (1, '\x00ff5c', B'101', B'1'), (2, '', B'000', B''), (3, 'text'::bytea, NULL, NULL),
    (4, decode(repeat('00', 10000), 'hex'), NULL, NULL);
SELECT * FROM differences('bytes');

-- Dates and times.
CREATE TABLE times (id int PRIMARY KEY, d date, ts timestamp, tz timestamptz, t time, ttz timetz, i interval, ts0 timestamp(0),
    t3 time(3));
SELECT nats_publish_table('times');
SET datestyle = 'German';
SET timezone = 'America/St_Johns';
INSERT INTO times VALUES
    (1, '2026-01-02', '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05.678901+00', '03:04:05.678901', '03:04:05.678901+05:30',
    '1 year 2 mons 3 days 04:05:06.789', '2026-01-02 03:04:05', '03:04:05.678'),
    (2, 'infinity', 'infinity', 'infinity', '00:00', '00:00+00', '0', 'infinity', '00:00'),
    (3, '-infinity', '-infinity', '-infinity', '24:00', '24:00-15:59', '-1 year +1 day -00:00:00.000001', '-infinity', '24:00'),
    (4, '0044-03-15 BC', '0044-03-15 12:00:00 BC', '0044-03-15 12:00:00+00 BC', '12:00', '12:00-00:30:15', '178000000 years', NULL,
    NULL),
    (5, '4714-11-24 BC', '4714-11-24 00:00:00 BC', '4714-11-24 00:00:00+00 BC', NULL, NULL, '-178000000 years', NULL, NULL),
    (6, '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', NULL, NULL, '1 day -1 hour', NULL,
    NULL),
    (7, '10000-01-01', '2026-03-08 02:30', '1850-01-01 00:00+00', NULL, NULL, '36 hours', NULL, NULL);
SELECT * FROM differences('times');
RESET datestyle;
RESET timezone;

-- JSON in JSON: the value itself, not a string; and what jsonb cannot have in json.
CREATE TABLE jsons (id int PRIMARY KEY, j json, jb jsonb, js json[], jp jsonpath);
SELECT nats_publish_table('jsons', key => '{id}');
INSERT INTO jsons VALUES
    (1, '{"b": 1, "a": [1, 2.50, {"c": null}], "b": 2}', '{"b": 1, "a": [1, 2.50, {"c": null}], "b": 2}', '{"1","null","\"x\""}',
    '$.a[*] ? (@ > 1)'),
    (2, 'null', 'null', NULL, NULL), (3, '"text \u00fc \ud83d\ude04"', '"text \u00fc \ud83d\ude04"', '{}', '$'),
    (4, '1.50', '1.50', '{NULL}', NULL), (5, NULL, NULL, NULL, NULL), (6, 'true', 'false', NULL, NULL), (7, '[]', '{}', NULL, NULL),
    (8, (repeat('[', 100) || repeat(']', 100))::json, (repeat('[', 100) || repeat(']', 100))::jsonb, NULL, NULL);
SELECT * FROM differences('jsons');
INSERT INTO jsons VALUES (9, '{"zero": "\u0000", "half": "\ud800"}');
UPDATE jsons SET jb = '1' WHERE id = 9;
UPDATE jsons SET j = '{"zero": "\u0000\u0000"}' WHERE id = 9;
DELETE FROM jsons WHERE id = 9;
SELECT regexp_replace(payload, ',"xid":.*', '') AS payload FROM stream_messages('CHANGE_TYPES');
SELECT nats_jetstream('STREAM.PURGE.CHANGE_TYPES') -> 'success' AS purged;

-- Arrays, composite types, domains, enums and ranges, of one another.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'so "so"');
CREATE TYPE pair AS (n int, t text, "Weird ""Name" bytea);
CREATE TYPE nested AS (p pair, ps pair[], d date, m mood);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN email AS text;
CREATE DOMAIN blob AS bytea;
CREATE DOMAIN instant AS timestamptz;
CREATE DOMAIN span AS interval;
CREATE DOMAIN yes AS boolean;
CREATE DOMAIN pair_domain AS pair;
CREATE DOMAIN list AS int[];
CREATE DOMAIN of_domain AS positive;
CREATE DOMAIN document AS jsonb;
CREATE TYPE float_range AS RANGE (subtype = float8);
CREATE TABLE composed (id int PRIMARY KEY, ints int[], grid int[], bs bytea[], dates date[], pairs pair[], p pair, nested nested,
    nests nested[], m mood,
    moods mood[], d1 positive, d2 email, d3 blob, d4 instant, d5 span, d6 yes, d7 pair_domain, d8 list, d9 of_domain, d10 document,
    ds positive[],
    r int4range, nr numrange, dr daterange, tr tstzrange, fr float_range, mr int4multirange, rs int4range[], flags boolean[],
    spans interval[], texts text[]);
SELECT nats_publish_table('composed');
INSERT INTO composed VALUES
    (1, '{1,2,NULL}', '{{1,2},{3,NULL}}', '{"\\x00ff",NULL}', '{2026-01-02,infinity,NULL}',
    ARRAY[(1, 'a', '\x01'), NULL, (NULL, NULL, NULL)]::pair[], (1, '"', '\xff'),
        ((1, 'x', NULL), ARRAY[(2, 'y', '\x02')]::pair[], '2026-01-02', 'so "so"'),
        ARRAY[((1, 'x', NULL), '{}', NULL, 'ok')::nested], 'so "so"',
        '{sad,NULL,"so \"so\""}', 1, 'a@b', '\x00ff', '2026-01-02 00:00+00', '1 year 1 day', true, (1, 't', '\x03'), '{1,2}', 2,
        '{"a": 1}', '{1,2}',
        '[1,5)', '(,1.50]', '[2026-01-02,infinity)', '[2026-01-02 00:00+00,)', '[0.1,0.30000000000000004]', '{[1,2),[3,4)}',
        '{"[1,2)",empty}', '{t,f,NULL}', '{1 year,-1 day}',
        ARRAY['', 'NULL', NULL, '"', '{}', E'\\', 'ü', E'\n']);
INSERT INTO composed (id, ints, grid, pairs, p, nested, nests, moods, d8, r, mr, rs, texts) VALUES
    (2, '{}', '[0:1][-1:0]={{1,2},{3,4}}', '{}', (NULL, NULL, NULL), (NULL, NULL, NULL, NULL), '{}', '{}', '{}', 'empty', '{}',
    '{}', '{}'),
    (3, '[5:6]={1,2}', '{{{1}},{{2}}}', '{NULL}', NULL, NULL, '{NULL}', '{NULL}', '{NULL}', '(,)', '{(,)}', '{NULL}',
    '{{a,b},{c,d}}');
INSERT INTO composed VALUES (4);
SELECT * FROM differences('composed');

-- Other types of the server; xml where it is built in.
SELECT error_of($$SELECT xml '<a/>'$$) = 'no error' AS has_xml \gset
SELECT CASE WHEN :'has_xml' THEN 'xml' ELSE 'text' END AS xml \gset
CREATE TABLE others (id int PRIMARY KEY, u uuid, net inet, c cidr, mac macaddr, p point, l lseg, po polygon, ci circle,
    tv tsvector, tq tsquery,
    x :xml, rc regclass, rp regprocedure, ro regrole, lsn pg_lsn, x8 xid8, ti tid, iv int2vector, ov oidvector);
SELECT nats_publish_table('others');
INSERT INTO others VALUES (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '192.168.1.1/24', '::ffff:1.2.3.0/120', '08:00:2b:01:02:03',
    '(0.1,-2)', '((0.1,0),(1,1))',
    '((0,0),(1,0.3),(1,1))', '<(0.1,0.2),0.30000000000000004>', 'a:1A "b c":2', 'a & !b:*', '<a b="&quot;">text<!-- c --></a>',
    'pg_class', 'lower(text)', 0, '16/B374D848', '18446744073709551615', '(1,2)', '1 2', '3 4');
INSERT INTO others VALUES (2);
SELECT * FROM differences('others');

-- A type with its own cast to json, which may run SQL and even publish.
CREATE TABLE casts (n int);
SELECT nats_publish_table('casts', events => '{insert}');
CREATE TYPE shout AS ENUM ('hey', 'hello');
CREATE FUNCTION shout_to_json(shout) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO casts VALUES (length($1::text));
    RETURN to_json(upper($1::text) || '!');
END
$$;
CREATE CAST (shout AS json) WITH FUNCTION shout_to_json(shout);
CREATE TABLE shouts (id int PRIMARY KEY, s shout);
SELECT nats_publish_table('shouts');
INSERT INTO shouts VALUES (1, 'hey');
UPDATE shouts SET s = 'hello';
SELECT subject, payload::jsonb -> 'new' AS new FROM changes('CHANGE_TYPES') ORDER BY subject, new;
DROP CAST (shout AS json);

-- What makes a change of each type: the new image, not the text.
UPDATE numbers SET i2 = 1, f8 = 1, n = 1, b = true WHERE id = 0;
UPDATE texts SET t = 'x', c = 'x' WHERE id = 1;
UPDATE composed SET ints = '{1}', p.n = 1, d1 = 1, r = '[1,2)' WHERE id = 2;
UPDATE composed SET ints = '{1}', p.n = 1, d1 = 1, r = '[1,1]' WHERE id = 2;
SELECT payload::jsonb -> 'changed' AS changed FROM changes('CHANGE_TYPES');

-- Big values: out of line, compressed, and both. The new row has those that did not change, too.
CREATE TABLE big (id int PRIMARY KEY, n int, e text, m text, x text);
ALTER TABLE big ALTER e SET STORAGE EXTERNAL, ALTER m SET STORAGE MAIN;
SELECT nats_publish_table('big', old => true);
CREATE VIEW big_changes AS
SELECT subject, payload::jsonb -> 'changed' AS changed, payload::jsonb #>> '{new,n}' AS n, kind,
    length(payload::jsonb -> kind ->> 'e') AS e, length(payload::jsonb -> kind ->> 'm') AS m,
    length(payload::jsonb -> kind ->> 'x') AS x
FROM changes('CHANGE_TYPES') WITH ORDINALITY, unnest('{old,new}'::text[]) AS kind WHERE payload::jsonb ? kind
ORDER BY ordinality, kind DESC;
SELECT string_agg(md5(i::text), '') AS noise FROM generate_series(1, 5000) AS i \gset
INSERT INTO big VALUES (1, 1, repeat('e', 100000), repeat('m', 100000), :'noise');
SELECT pg_column_size(e) > 90000 AS external, pg_column_size(m) < 5000 AS compressed, pg_column_size(x) > 50000 AS "out of line"
FROM big;
UPDATE big SET n = 2;
UPDATE big SET e = e || '', m = m || '', x = x || '';
UPDATE big SET e = overlay(e PLACING 'f' FROM 50000);
UPDATE big SET m = overlay(m PLACING 'f' FROM 50000), x = x || 'x';
UPDATE big SET id = 2, e = NULL;
DELETE FROM big;
SELECT * FROM big_changes;
SELECT nats_publish_table('big', level => 'statement', old => true);
INSERT INTO big VALUES (1, 1, repeat('e', 100000), repeat('m', 100000), :'noise');
UPDATE big SET n = 2;
UPDATE big SET e = e || '', m = m || '', x = x || '';
UPDATE big SET x = x || 'x';
DELETE FROM big;
SELECT * FROM big_changes;
SELECT nats_publish_table('big');
INSERT INTO big VALUES (1, 1, repeat('e', 100000), repeat('m', 100000), :'noise');
SELECT count(*) FROM differences('big');
-- Too big for the server: an error, and no row.
SELECT error_of($$INSERT INTO big VALUES (2, 1, repeat('e', 2000000))$$) ~ '^54000: ' AS refused;
SELECT count(*) FROM big;

-- Columns that came later, or went, and those that compute themselves.
CREATE TABLE grown (id int PRIMARY KEY, gone text, kept text);
INSERT INTO grown VALUES (1, 'gone', 'kept'), (2, 'gone', 'kept');
ALTER TABLE grown ADD later int, ADD fast int DEFAULT 7, ADD filled text DEFAULT 'a' || 'b' NOT NULL, DROP gone;
SELECT nats_publish_table('grown', old => true);
UPDATE grown SET kept = 'changed' WHERE id = 1;
UPDATE grown SET fast = 7, filled = 'ab', later = NULL;
UPDATE grown SET fast = 8, later = 1 WHERE id = 2;
DELETE FROM grown WHERE id = 1;
INSERT INTO grown VALUES (3);
SELECT payload FROM changes('CHANGE_TYPES');
SELECT nats_publish_table('grown', level => 'statement', columns => '{later,kept}', old => true);
ALTER TABLE grown ADD latest numeric DEFAULT 1.5, DROP filled;
UPDATE grown SET latest = 2;
UPDATE grown SET later = 2;
DELETE FROM grown;
SELECT payload FROM changes('CHANGE_TYPES');
CREATE TABLE computed (id int GENERATED ALWAYS AS IDENTITY (START 5) PRIMARY KEY, serial serial, price numeric,
    gross numeric GENERATED ALWAYS AS (price * 2) STORED,
    class text GENERATED ALWAYS AS (CASE WHEN price > 10 THEN 'dear' ELSE 'cheap' END) STORED);
SELECT nats_publish_table('computed');
INSERT INTO computed (price) VALUES (1), (20);
UPDATE computed SET price = 3 WHERE id = 5;
SELECT payload FROM changes('CHANGE_TYPES');
SELECT nats_publish_table('computed', columns => '{gross}', level => 'statement');
UPDATE computed SET serial = 9;
UPDATE computed SET price = 4 WHERE id = 5;
SELECT payload FROM changes('CHANGE_TYPES');

-- Virtual columns, since PostgreSQL 18, are left out, and not to be named. Before, it is a stored one that we overlook.
SELECT current_setting('server_version_num')::int >= 180000 AS has_virtual \gset
SELECT CASE WHEN :'has_virtual' THEN 'VIRTUAL' ELSE 'STORED' END AS kind \gset
CREATE TABLE virtual (a int, v int GENERATED ALWAYS AS (a * 2) :kind, id int PRIMARY KEY);
SELECT option, CASE WHEN :'has_virtual' THEN left(error_of(format('SELECT nats_publish_table(''virtual'', %s)', option)), 5)
    ELSE '0A000' END AS error
FROM unnest(ARRAY[$$columns => '{v}'$$, $$ignore => '{v}'$$, $$key => '{v}'$$, $$subject => 'change_types.{v}'$$,
    $$msg_id => '{v}'$$, $$headers => '{"A": "{v}"}'$$]) AS option;
SELECT nats_publish_table('virtual', old => true);
INSERT INTO virtual VALUES (1, DEFAULT, 1);
UPDATE virtual SET a = 2;
SELECT nats_publish_table('virtual', level => 'statement', old => true, headers => '{"A": "{a}"}');
UPDATE virtual SET a = 3;
DELETE FROM virtual;
SELECT headers ->> 'A' AS header, kind, value - CASE WHEN :'has_virtual' THEN '' ELSE 'v' END AS value
FROM changes('CHANGE_TYPES'), jsonb_each(payload::jsonb) AS field (kind, value) WHERE kind IN ('key', 'old', 'new', 'changed');

-- Names that are words of the messages or of SQL, or are no words at all.
CREATE TABLE "Weird ""Table" ("Weird ""Name" int, op text, "xid" text, "new" text, "größe" text, "select" text, "\" text, " " text,
    "{""a"":1}" text, PRIMARY KEY ("Weird ""Name", op));
SELECT nats_publish_table('"Weird ""Table"', subject => 'change_types.weird.{op}', ignore => '{select}');
INSERT INTO "Weird ""Table" VALUES (1, 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine');
UPDATE "Weird ""Table" SET "xid" = '3', "new" = '4', "größe" = '5', "select" = '6', "\" = '7', " " = '8', "{""a"":1}" = '9';
UPDATE "Weird ""Table" SET op = '2';
DELETE FROM "Weird ""Table";
SELECT * FROM changes('CHANGE_TYPES');

-- One row has one subject, one id and one text, whoever writes it: times are in UTC, names of objects have their schema,
-- and money is as in the locale C; also inside ranges, arrays, composites, domains, and in one that is made of all of them.
CREATE DOMAIN moment AS timestamptz;
CREATE TYPE stretch AS (during tstzrange, of regclass);
CREATE TYPE price AS (amount money, since moment[]);
CREATE TABLE sessions (tz timestamptz, r tstzrange, mr tstzmultirange, a timestamptz[], m money, c regclass, p regprocedure,
    y regtype[], s stretch, l price[], d moment, t timetz, PRIMARY KEY (tz, r, a, c));
-- By these types alone, for one of the others would set what it needs for all.
CREATE TABLE roles (r regrole, s regnamespace);
SELECT nats_publish_table('roles', 'change_types.{r}.{s}', events => '{insert}', msg_id => '{xid}-{r}-{s}');
SELECT nats_publish_table('sessions', 'change_types.{tz}.{r}.{mr}.{a}.{m}.{c}.{p}.{y}.{s}.{l}.{d}.{t}', format => 'cloudevents',
    msg_id => '{op}-{xid}-{tz}-{r}-{a}-{m}-{c}-{y}', headers => '{"All": "{tz} {r} {mr} {a} {m} {c} {p} {y} {s} {l} {d} {t}"}');
CREATE PROCEDURE write_sessions() LANGUAGE sql AS $$
    INSERT INTO change_types.sessions VALUES ('2024-02-01 03:04:05+00', '[2024-02-01 03:04:05+00,infinity)', '{[2024-07-01 00:00+00,)}',
        '{2024-07-01 12:00+00}', '1234.5'::numeric::money, 'change_types.sessions', 'change_types.differences(regclass)',
        '{change_types.stretch,int4}', ROW('[2024-02-01 03:04:05+00,)', 'change_types.sessions'),
        ARRAY[ROW(2::numeric::money, '{2024-02-01 03:04:05+00}')::change_types.price], '2024-02-01 03:04:05+00', '03:04:05+02');
    INSERT INTO change_types.roles VALUES ('pg_monitor', 'pg_catalog');
    UPDATE change_types.sessions SET m = m * 2;
    DELETE FROM change_types.sessions;
$$;
CREATE TABLE written (who int, op text, message text);
CREATE FUNCTION take(who int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO change_types.written
    SELECT who, headers ->> 'Pg-Op', regexp_replace(concat_ws(E'\n', subject, replace(headers ->> 'Nats-Msg-Id', headers ->> 'Pg-Xid', 'XID'),
        headers ->> 'All', headers ->> 'ce-subject', payload), ',"xid".*', '') FROM public.stream_messages('CHANGE_TYPES');
$$;
SET timezone = UTC;
SET search_path = '';
CALL change_types.write_sessions();
SET search_path = change_types, public;
SELECT take(1);
SELECT nats_jetstream('STREAM.PURGE.CHANGE_TYPES') -> 'success' AS purged;
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';
SET quote_all_identifiers = on;
DO $$ BEGIN
    PERFORM set_config('lc_monetary', name, false) FROM unnest('{de_DE.utf8,de_DE.UTF-8,en_GB.utf8,C.UTF-8,C}'::text[]) AS name
    WHERE EXISTS (SELECT FROM pg_collation WHERE collcollate = name) LIMIT 1;
END $$;
CALL write_sessions();
SHOW timezone;
SHOW search_path;
RESET timezone;
RESET datestyle;
RESET quote_all_identifiers;
RESET lc_monetary;
SELECT take(2);
SELECT message FROM written WHERE who = 1 AND op = 'insert' ORDER BY message;
SELECT op, count(*), count(DISTINCT message) FROM written GROUP BY op ORDER BY op;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_TYPES') -> 'success' AS purged;
-- Also once a row type has become one that has such.
CREATE TYPE inner_row AS (a int);
CREATE TYPE outer_row AS (i inner_row[]);
CREATE TABLE outgrown (id int PRIMARY KEY, o outer_row);
SELECT nats_publish_table('outgrown', 'change_types.x');
INSERT INTO outgrown VALUES (1, ROW(ARRAY[ROW(1)::inner_row]));
ALTER TYPE inner_row ADD ATTRIBUTE c regclass;
INSERT INTO outgrown VALUES (2, ROW(ARRAY[ROW(2, 'outgrown')::inner_row]));
SELECT payload FROM changes('CHANGE_TYPES');
-- Text that is stored as broken UTF-8 is valid where it is read: each byte of no character is U+FFFD.
CREATE CAST (bytea AS text) WITHOUT FUNCTION;
CREATE TABLE broken (t text PRIMARY KEY, a text[], whole text);
SELECT nats_publish_table('broken', 'change_types.{t}', format => 'cloudevents', old => true, headers => '{"T": "{t}"}');
INSERT INTO broken VALUES ('\xff'::bytea::text, ARRAY['\x61e28262c3'::bytea::text, '\xeda080'::bytea::text], 'ü');
UPDATE broken SET t = '\xc0af'::bytea::text;
DELETE FROM broken;
SELECT subject, headers ->> 'T' AS header, headers ->> 'ce-subject' AS ce_subject, regexp_replace(payload, ',"xid".*', '}')::json AS payload
FROM stream_messages('CHANGE_TYPES');
SELECT nats_publish_table('broken', 'change_types.x', payload => 't', events => '{insert}');
INSERT INTO broken VALUES ('\x41ff'::bytea::text);
SELECT payload FROM stream_messages('CHANGE_TYPES') ORDER BY seq DESC LIMIT 1;
-- In the time that its length takes, not that squared, which no timeout would interrupt.
CREATE TABLE long (t text);
SELECT nats_publish_table('long', 'change_types.x', payload => 't', events => '{insert}');
BEGIN;
SET LOCAL statement_timeout = '10s';
INSERT INTO long SELECT decode(repeat('ff', 340000), 'hex')::text;
COMMIT;
SELECT octet_length(payload) FROM stream_messages('CHANGE_TYPES') ORDER BY seq DESC LIMIT 1;
DROP TABLE long;
SELECT nats_jetstream('STREAM.PURGE.CHANGE_TYPES') -> 'success' AS purged;
DROP TABLE broken;
DROP CAST (bytea AS text);
-- Not of the search path is what another's cast to JSON does.
CREATE FUNCTION helper(text) RETURNS json LANGUAGE sql AS $$SELECT to_json(upper($1))$$;
CREATE TYPE word AS ENUM ('a', 'b');
CREATE FUNCTION word_to_json(word) RETURNS json LANGUAGE sql AS $$SELECT helper($1::text)$$;
CREATE CAST (word AS json) WITH FUNCTION word_to_json(word);
CREATE TABLE words (id int PRIMARY KEY, w word, at timestamptz);
SELECT nats_publish_table('words', 'change_types.words');
INSERT INTO words VALUES (1, 'a', '2024-02-01 03:04:05+00');
SELECT payload FROM changes('CHANGE_TYPES');

SET client_min_messages = warning;
DROP SCHEMA change_types CASCADE;
SELECT delete_stream('CHANGE_TYPES');
