-- Templates: what becomes of values in subjects, message ids and headers.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/change_helpers.psql'
\i :helpers

SELECT create_stream('CHANGE_SUBJECTS', 'change_subjects.>', '%24JS.*');
CREATE SCHEMA change_subjects;
SET search_path = change_subjects, public;

-- What a token was made from.
CREATE FUNCTION decoded(token text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE token WHEN '%00' THEN NULL WHEN '%' THEN '' ELSE (
        SELECT convert_from(string_agg(CASE WHEN part[1] LIKE '\%%' THEN decode(substr(part[1], 2), 'hex')
            ELSE convert_to(part[1], 'UTF8') END, '' ORDER BY n), 'UTF8')
        FROM regexp_matches(token, '%[0-9A-F]{2}|[-A-Za-z0-9_~]+|.', 'g') WITH ORDINALITY AS m (part, n)) END
$$;

-- A value is one token, whatever is in it, and can be read back.
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
SELECT nats_publish_table('customers', subject => 'change_subjects.{name}.{id}', msg_id => '{id}/{op}/{name}',
    headers => '{"Name": "{name}", "About": "<{name}>"}');
INSERT INTO customers (name) VALUES ('Ada'), ('a.b > *'), (''), (NULL), ('*'), ('>'), ('.'), ('..'), (' '), ('%'), ('%00'),
    ('%2E'), ('100%'), ('{op}'), ('{'), ('}'), ('$JS'), ('_INBOX'), ('-_~'), ('!"#$%&''()*+,-./:;<=>?@[\]^_`{|}~'), (E'\t\r\n\x01\x7f'), (E'a\r\n\r\nPUB forged 1\r\nx\r\n'),
    ('Grüße'), ('世界'), ('🐘'), (E'\u00a0\u2028'), ('NULL'), (' x '), ('aZ09');
SELECT c.name, m.subject, decoded(split_part(m.subject, '.', 2)) IS NOT DISTINCT FROM c.name AS "decoded back",
    array_length(string_to_array(m.subject, '.'), 1) AS tokens,
    m.headers ->> 'Nats-Msg-Id' AS msg_id, m.headers ->> 'Name' AS header, m.headers ->> 'About' AS about
FROM stream_messages('CHANGE_SUBJECTS') AS m JOIN customers AS c ON c.id::text = split_part(m.subject, '.', 3) ORDER BY c.id;
SELECT count(*) FROM changes('CHANGE_SUBJECTS');
-- All bytes that there are, and in a header only printable ASCII is left.
INSERT INTO customers (name) VALUES ((SELECT string_agg(chr(i), '') FROM generate_series(1, 300) AS i)), (repeat('ü', 600));
SELECT decoded(split_part(m.subject, '.', 2)) = c.name AS subject, m.subject ~ '^[-A-Za-z0-9_~%.]*$' AS plain,
    decoded(m.headers ->> 'Name') = c.name AS header,
    m.headers ->> 'Name' ~ '^[!-~]*$' AND m.headers ->> 'Name' !~ '"' AS printable,
    decoded(split_part(m.headers ->> 'Nats-Msg-Id', '/', 3)) = c.name AS msg_id
FROM stream_messages('CHANGE_SUBJECTS') AS m JOIN customers AS c ON c.id::text = split_part(m.subject, '.', 3) ORDER BY c.id;
-- The old row's of a DELETE, the new row's of an UPDATE, nobody's of a TRUNCATE.
DELETE FROM customers WHERE id > 1;
SELECT count(*) FROM changes('CHANGE_SUBJECTS');
UPDATE customers SET name = 'Lovelace';
DELETE FROM customers;
TRUNCATE customers;
SELECT subject, headers FROM changes('CHANGE_SUBJECTS');
SELECT nats_publish_table('customers', level => 'statement', subject => 'change_subjects.{name}',
    msg_id => '{id}/{op}/{name}/statement', headers => '{"Name": "{name}"}');
INSERT INTO customers (name) VALUES ('Ada'), (NULL);
UPDATE customers SET name = 'b.' || name;
DELETE FROM customers;
TRUNCATE customers;
SELECT subject, headers FROM changes('CHANGE_SUBJECTS');

-- Names: the predefined ones, columns of these names, and columns that need quotes.
CREATE TABLE "Odd.Table" (id int PRIMARY KEY, op text, xid text, "schema" text, "table" text, "Customer" text, customer text,
    "a b" text, "q""q" text, "{x}" text, "größe" text);
SELECT nats_publish_table('"Odd.Table"',
    subject => 'change_subjects.{schema}.{table}.{op}.{"op"}.{"xid"}.{"schema"}.{"table"}.{Customer}.{customer}.{"Customer"}.'
        '{a b}.{"a b"}.{"q""q"}.{"{x}"}.{größe}.{"größe"}',
    msg_id => '{op}-{"op"}-{id}', headers => '{"Column": "{\"q\"\"q\"}", "Xid": "{xid}", "Table": "{schema} {table} {op}"}');
INSERT INTO "Odd.Table" VALUES (1, 'Op', 'Xid', 'Schema', 'Table', 'Upper', 'lower', 'blank', 'quote', 'brace', 'umlaut');
SELECT subject, headers - 'Xid' - 'Pg-Xid' AS headers, headers ->> 'Xid' = payload::json ->> 'xid' AS xid
FROM stream_messages('CHANGE_SUBJECTS');
SELECT count(*) FROM changes('CHANGE_SUBJECTS');
SELECT nats_publish_table('"Odd.Table"', subject => 'change_subjects.{xid}.{{}}.{{op}}.{{{op}}}.%41.ü');
DELETE FROM "Odd.Table";
SELECT split_part(subject, '.', 2) = payload::json ->> 'xid' AS xid, substr(subject, strpos(subject, '{')) AS rest
FROM stream_messages('CHANGE_SUBJECTS');
SELECT count(*) FROM changes('CHANGE_SUBJECTS');
ALTER TABLE "Odd.Table" RENAME TO " ü";
SELECT nats_publish_table('" ü"', events => '{truncate}');
TRUNCATE " ü";
SELECT * FROM changes('CHANGE_SUBJECTS');

-- A value is written as in the message, without quotes, whatever the session's settings.
CREATE DOMAIN yes AS boolean;
CREATE DOMAIN day AS date;
CREATE TYPE pair AS (n int, t text);
CREATE TABLE kinds (id int PRIMARY KEY, kind text, b boolean, yes yes, d date, day day, ts timestamp, tz timestamptz, i interval,
    f8 float8, f4 float4, n numeric, bytes bytea, c char(4), u uuid,
    j json, jb jsonb, r int4range, e "char");
CREATE FUNCTION publish_columns() RETURNS text LANGUAGE sql AS $$
    SELECT nats_publish_table('kinds', subject => 'change_subjects.{id}', columns => '{id}',
    headers => jsonb_object_agg('X-' || attname, '{' || attname || '}'))::text
    FROM pg_attribute WHERE attrelid = 'kinds'::regclass AND attnum > 2
$$;
SELECT publish_columns();
SET datestyle = 'German';
SET intervalstyle = 'sql_standard';
SET bytea_output = 'escape';
SET extra_float_digits = -15;
SET timezone = 'Asia/Kathmandu';
INSERT INTO kinds VALUES (1, 'usual', true, false, '2026-02-01', '2026-02-01', '2026-02-01 03:04:05.5', '2026-02-01 03:04:05.5+00',
    '1 year 2 days', 0.30000000000000004, 0.1, 1.50, '\x00ff', 'ab',
    'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{"a": [1, "x"]}', '{"a":[1,"x"]}', '[1,3)', 'x'),
    (2, 'special', NULL, NULL, 'infinity', '-infinity', '-infinity', 'infinity', '-1 day', 'NaN', '-Infinity', 'Infinity', '', '',
    NULL, '["\u00fc"]', '["\u00fc"]', 'empty', ''),
    (3, 'null', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'null', 'null', NULL, NULL);
SELECT k.kind, substr(h.key, 3) AS "column", h.value FROM kinds AS k
    JOIN stream_messages('CHANGE_SUBJECTS') AS m ON m.subject = 'change_subjects.' || k.id, jsonb_each_text(m.headers) AS h
WHERE h.key LIKE 'X-%' ORDER BY k.id, "column";
SELECT count(*) FROM changes('CHANGE_SUBJECTS');
-- The same in a subject.
SELECT nats_publish_table('kinds', subject => 'change_subjects.{b}.{yes}.{d}.{tz}.{i}.{f8}.{bytes}.{jb}.{c}', columns => '{id}');
DELETE FROM kinds;
SELECT subject FROM changes('CHANGE_SUBJECTS');
-- Arrays and rows are JSON there, and so here.
CREATE TABLE composed (id int PRIMARY KEY, ints int[], flags boolean[], days date[], p pair, ps pair[]);
SELECT nats_publish_table('composed', subject => 'change_subjects.{ints}.{flags}.{days}', headers => '{"P": "{p}", "Ps": "{ps}"}',
    key => '{ints}', format => 'cloudevents');
INSERT INTO composed VALUES (1, '{1,2,NULL}', '{t,f}', '{2026-02-01}', (1, 'x y'), ARRAY[(1, 'x y')]::pair[]),
    (2, '{}', '{}', '{}', (NULL, NULL), '{}');
SELECT subject, headers ->> 'P' AS p, headers ->> 'Ps' AS ps, headers ->> 'ce-subject' AS ce_subject
FROM changes('CHANGE_SUBJECTS');
RESET datestyle;
RESET intervalstyle;
RESET bytea_output;
RESET extra_float_digits;
RESET timezone;

-- A header whose template names a NULL is left out, also when it says something else too. An empty value is none.
CREATE TABLE notes (id int PRIMARY KEY, a text, b text);
SELECT nats_publish_table('notes', subject => 'change_subjects.notes',
    headers => '{"A": "{a}", "Both": "a={a}, b={b}", "Fixed": "always: 100% \"so\" ü {{x}}", "Empty": ""}');
INSERT INTO notes VALUES (1, 'x', 'y'), (2, NULL, 'y'), (3, '', '');
TRUNCATE notes;
SELECT headers FROM changes('CHANGE_SUBJECTS');

-- msg_id: JetStream stores the same change once.
SELECT nats_publish_table('notes', subject => 'change_subjects.notes', msg_id => 'note-{id}-{op}');
INSERT INTO notes VALUES (1, 'first', 'x'), (2, 'first', 'x');
DELETE FROM notes WHERE id = 1;
INSERT INTO notes VALUES (1, 'again', 'x');
UPDATE notes SET a = 'first';
UPDATE notes SET a = 'second';
SELECT headers ->> 'Nats-Msg-Id' AS msg_id, payload::jsonb #>> '{new,a}' AS a FROM changes('CHANGE_SUBJECTS');
-- Without the option each message has an id of its own, or none.
SELECT nats_publish_table('notes', subject => 'change_subjects.notes');
UPDATE notes SET a = 'x';
SELECT count(DISTINCT m.headers ->> 'Nats-Msg-Id') AS ids FROM stream_messages('CHANGE_SUBJECTS') AS s,
    nats_get_message('CHANGE_SUBJECTS', s.seq) AS m;
SELECT count(*) FROM changes('CHANGE_SUBJECTS');
SET nats_publish.auto_msg_id = off;
UPDATE notes SET a = 'y';
RESET nats_publish.auto_msg_id;
SELECT count(m.headers ->> 'Nats-Msg-Id') AS ids FROM stream_messages('CHANGE_SUBJECTS') AS s,
    nats_get_message('CHANGE_SUBJECTS', s.seq) AS m;
SELECT count(*) FROM changes('CHANGE_SUBJECTS');

-- Templates that are none, told when the table is published; and columns that are not there.
SELECT template, error_of(format('SELECT nats_publish_table(''notes'', %L)', template)) AS error
FROM unnest(ARRAY['', 'a.{', 'a.{id', 'a.}', 'a.{}', 'a.{""}', 'a.{"id}', 'a.{"id"', 'a.{"id"x}', 'a.{{id}', 'a.{id}}',
    'a.{{{id}}', 'a.{nothing}', 'a.{ID}', 'a.{"ID"}', 'a.{ id}',
    'a.{"op"}', 'a.{Op}', 'a.{ctid}', 'a.{notes.id}']) AS template;
SELECT error_of($$SELECT nats_publish_table('notes', msg_id => '{nothing}')$$);
SELECT error_of($$SELECT nats_publish_table('notes', msg_id => '')$$);
SELECT error_of($$SELECT nats_publish_table('notes', msg_id => '{id')$$);
SELECT error_of($$SELECT nats_publish_table('notes', headers => '{"A": "{nothing}"}')$$);
SELECT error_of($$SELECT nats_publish_table('notes', headers => '{"A": "}"}')$$);

-- What is no subject, told at the latest by the change; the row is not changed then.
CREATE FUNCTION change_with(template text, value text DEFAULT 'x') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nats_publish_table('notes', subject => template);
    UPDATE notes SET a = value WHERE id = 1;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ': ' || sqlerrm;
END
$$;
SELECT template, change_with(template, 'z') AS error
FROM unnest(ARRAY['$JS.{id}', '$JS.API.STREAM.DELETE.CHANGE_SUBJECTS', '$SYS.{a}', '_INBOX.{a}', 'change_subjects..{a}', '.{a}',
    'change_subjects.{a}.', 'change_subjects.*', 'change_subjects.>',
    'change_subjects.a b', E'change_subjects.a\r\nb']) AS template;
SELECT change_with('change_subjects.{a}', repeat('x', 3985)) AS "too long",
    change_with('change_subjects.{a}', repeat('ü', 700)) AS encoded;
SELECT a = 'y' AS unchanged FROM notes WHERE id = 1;
SELECT count(*) FROM changes('CHANGE_SUBJECTS');
SELECT change_with('change_subjects.{a}', repeat('x', 3984)) AS longest;
SELECT change_with('{a}.{b}', '$JS') AS "not reserved";
SELECT length(subject), left(subject, 20) FROM changes('CHANGE_SUBJECTS');
-- Ids and headers are as long as JetStream takes them.
SELECT nats_publish_table('notes', subject => 'change_subjects.notes', headers => '{"A": "{a}"}');
SELECT left(error_of($$UPDATE notes SET a = repeat('x', 66000)$$), 5) AS headers;
SELECT nats_publish_table('notes', subject => 'change_subjects.notes', msg_id => '{a}');
SELECT left(error_of($$UPDATE notes SET a = repeat('x', 66000)$$), 5) AS msg_id;
SELECT count(*) FROM changes('CHANGE_SUBJECTS');

DROP FUNCTION decoded, publish_columns, change_with;
DROP TABLE customers, " ü", kinds, composed, notes;
DROP DOMAIN yes, day;
DROP TYPE pair;
DROP SCHEMA change_subjects;
SELECT delete_stream('CHANGE_SUBJECTS');
