-- Headers: what may be one, and that nothing else reaches the server.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('HEADERS', 'headers.>');
SET nats_publish.auto_msg_id = off;

SELECT seq FROM nats_publish('headers.scalars', '1', headers =>
    '{"String": "text", "Empty": "", "Number": 1.50, "Big": 12345678901234567890.1, "True": true, "False": false}');
-- An array is a header that is repeated, in this order; an empty one is none.
SELECT seq FROM nats_publish('headers.arrays', '2', headers =>
    '{"Many": ["b", "a", "b", 1, false], "One": ["x"], "None": []}');
-- Names keep their case, and names that differ in case only are different headers.
SELECT seq FROM nats_publish('headers.case', '3', headers => '{"a-B_c!#$%&''*+.^`|~9": "x", "X-Y": "1", "x-y": "2"}');
-- Values are anything within a line.
SELECT seq FROM nats_publish('headers.values', '4', headers =>
    jsonb_build_object('Colon', 'a: b', 'Tab', E'a\tb', 'Utf8', 'ü世🐘', 'Quote', '"\', 'Control', E'\x01\x7f',
        'Version', 'NATS/1.0 503'));
SELECT seq FROM nats_publish('headers.none', '5', headers => '{}');
SELECT seq FROM nats_publish('headers.none', '6', headers => NULL);
SELECT * FROM stream_messages('HEADERS');

-- Blanks around a value belong to it, as far as the server and clients keep them.
SELECT seq FROM nats_publish('headers.blanks', '7', headers => '{"Blanks": "  a  "}');
SELECT btrim(headers ->> 'Blanks') FROM nats_get_message('HEADERS', 7);

-- The headers of typed arguments can be given as headers, in any case; the server hears of them as it wants to.
SELECT seq FROM nats_publish('headers.typed', '8', headers => '{"nats-expected-stream": "HEADERS", "NATS-EXPECTED-LAST-SEQUENCE": 7}');
SELECT headers FROM nats_get_message('HEADERS', 8);
SELECT error_of($$SELECT nats_publish('headers.typed', 'x', headers => '{"nats-expected-stream": "OTHER"}')$$);
-- Blanks around such a value would be lost on the way.
SELECT error_of($$SELECT nats_publish('headers.typed', 'x', headers => '{"nats-expected-stream": " HEADERS"}')$$),
    error_of($$SELECT nats_publish('headers.typed', 'x', msg_id => E'a\t')$$);

-- All the others are errors.
CREATE TEMP TABLE bad (id serial, headers jsonb);
INSERT INTO bad (headers) VALUES
    ('null'), ('[]'), ('["a"]'), ('"a"'), ('1'), ('true'),
    ('{"": "x"}'), ('{" ": "x"}'), ('{"a b": "x"}'), ('{"a ": "x"}'), ('{" a": "x"}'), ('{"a:": "x"}'), ('{":": "x"}'),
    ('{"a\tb": "x"}'), ('{"a\rb": "x"}'), ('{"a\nb": "x"}'), ('{"a\r\nb": "x"}'), ('{"a\u0001": "x"}'), ('{"a\u007f": "x"}'),
    ('{"ä": "x"}'), ('{"a世": "x"}'), ('{"a\u00a0": "x"}'),
    -- peers.md d-25
    (jsonb_build_object(E'A: 1\r\nNats-Msg-Id', 'forged')),
    (jsonb_build_object(E'A: 1\r\n\r\nPUB headers.forged 1\r\nx\r\n', 'forged')),
    ('{"K": null}'), ('{"K": {}}'), ('{"K": {"a": 1}}'), ('{"K": [[]]}'), ('{"K": [["a"]]}'), ('{"K": [{}]}'),
    ('{"K": [null]}'), ('{"K": ["a", null]}'),
    ('{"K": "a\rb"}'), ('{"K": "a\nb"}'), ('{"K": "a\r\nb"}'), ('{"K": "\n"}'), ('{"K": ["a", "b\r\nNats-Msg-Id: forged"]}'),
    ('{"K": "v\r\n\r\nPUB headers.forged 1\r\nx\r\n"}'),
    ('{"Nats-Batch-Id": "x"}'), ('{"nats-batch-sequence": 1}'), ('{"NATS-BATCH-COMMIT": 1}'), ('{"Nats-Batch-Anything": 1}'),
    ('{"Nats-Expected-Last-Msg-Id": "x"}'), ('{"nats-expected-last-msg-id": "x"}'),
    ('{"Nats-Stream-Source": "x"}'), ('{"nats-stream-source": "x"}'),
    ('{"Good": "x", "Nats-Stream-Source": "x"}'),
    ('{"Nats-Expected-Stream": ["HEADERS", "HEADERS"]}'),
    ('{"nats-expected-stream": "HEADERS", "Nats-Expected-Stream": "HEADERS"}');
SELECT headers, error_of(format('SELECT nats_publish(%L, %L, headers => %L)', 'headers.bad', 'x', headers)) AS error
FROM bad ORDER BY id;
-- The same for the asynchronous function.
SELECT DISTINCT left(error_of(format('SELECT nats_publish_async(%L, %L, headers => %L)', 'headers.bad', 'x', headers)), 5) AS error
FROM bad;
-- Long names do not overrun the message.
SELECT length(error_of(format('SELECT nats_publish(%L, %L, headers => %L)', 'headers.bad', 'x',
    jsonb_build_object(repeat('n', 100000), NULL)))) BETWEEN 100 AND 2000 AS bounded;

-- A typed argument and its header exclude each other.
SELECT error_of($$SELECT nats_publish('headers.both', 'x', expect_stream => 'HEADERS', headers => '{"Nats-Expected-Stream": "HEADERS"}')$$);
SELECT error_of($$SELECT nats_publish('headers.both', 'x', expect_last_seq => 8, headers => '{"nats-expected-last-sequence": 8}')$$);
SELECT error_of($$SELECT nats_publish('headers.both', 'x', expect_last_subject_seq => 0, headers => '{"Nats-Expected-Last-Subject-Sequence": 0}')$$);
SELECT error_of($$SELECT nats_publish('headers.both', 'x', ttl => '1 hour', headers => '{"nats-ttl": "1h"}')$$);
SELECT error_of($$SELECT nats_publish('headers.both', 'x', expect_stream => '')$$);
SELECT error_of($$SELECT nats_publish('headers.both', 'x', expect_stream => E'HEADERS\r\nNats-Rollup: all')$$);

-- Nothing of all this was stored.
SELECT stream_count('HEADERS');

-- JetStream takes headers of up to 65,535 bytes; libnats and core NATS would send more.
SELECT error_of(format('SELECT nats_publish(%L, %L, headers => %L)', 'headers.size', 'x',
    jsonb_build_object('A', repeat('x', 70000))));
SELECT error_of(format('SELECT nats_publish_async(%L, %L, headers => %L)', 'headers.size', 'x',
    jsonb_build_object('A', repeat('x', 65536 - 17))));
SELECT seq FROM nats_publish('headers.size', '9', headers => jsonb_build_object('A', repeat('x', 65535 - 17)));
SELECT length(headers ->> 'A') FROM nats_get_message('HEADERS', 9);
SELECT error_of(format('SELECT nats_publish(%L, %L, headers => %L)', 'headers.size', 'x',
    (SELECT jsonb_object_agg('Name-' || i, repeat('x', 100)) FROM generate_series(1, 1000) AS i)));

SELECT delete_stream('HEADERS');
