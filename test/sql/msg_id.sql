-- Message ids, automatic and explicit: a message with an id that JetStream knows is stored once.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('IDS', 'ids.>');

-- Automatic ids look as NATS's own do, and do not repeat.
SELECT count(nats_publish('ids.auto', i::text)) FROM generate_series(1, 100) AS i;
SELECT count(*), count(DISTINCT headers ->> 'Nats-Msg-Id') AS "distinct",
    bool_and(headers ->> 'Nats-Msg-Id' ~ '^[0-9A-Za-z]{22}$') AS well_formed
FROM generate_series(1, 100) AS number, nats_get_message('IDS', number);
-- Another session has others.
SELECT substr(headers ->> 'Nats-Msg-Id', 1, 12) AS session_part FROM nats_get_message('IDS', 100)
\gset
\c -
SELECT seq FROM nats_publish('ids.auto', '101');
SELECT starts_with(headers ->> 'Nats-Msg-Id', :'session_part') FROM nats_get_message('IDS', 101);

-- The second message with an explicit id is a duplicate, and the ack names the first.
SELECT * FROM nats_publish('ids.explicit', 'one', msg_id => 'id 1');
SELECT * FROM nats_publish('ids.explicit', 'two', msg_id => 'id 1');
SELECT * FROM nats_publish('ids.other.subject', 'three', msg_id => 'id 1');
SELECT * FROM nats_publish('ids.explicit', 'four', msg_id => 'ID 1');
SELECT * FROM nats_publish('ids.explicit', 'five', msg_id => 'naïve ☃ id');
SELECT * FROM nats_publish('ids.explicit', 'six', msg_id => 'naïve ☃ id');

-- A header that has the name is an id too, in whatever case.
SELECT * FROM nats_publish('ids.header', 'seven', headers => '{"Nats-Msg-Id": "id 1"}');
SELECT * FROM nats_publish('ids.header', 'eight', headers => '{"nats-msg-id": "id 1"}');
SELECT * FROM nats_publish('ids.header', 'nine', headers => '{"NATS-MSG-ID": "id 2"}');
SELECT * FROM nats_publish('ids.header', 'ten', headers => '{"Nats-Msg-Id": 3}');
SELECT * FROM nats_publish('ids.header', 'eleven', msg_id => '3');

-- Without any.
SET nats_publish.auto_msg_id = off;
SELECT seq FROM nats_publish('ids.none', 'twelve');
SELECT seq FROM nats_publish('ids.none', 'thirteen', headers => '{}');
SELECT headers IS NULL AS no_headers FROM generate_series(106, 107) AS number, nats_get_message('IDS', number);
SELECT seq FROM nats_publish('ids.none', 'fourteen', msg_id => 'id 14');
RESET nats_publish.auto_msg_id;
SELECT seq, subject, headers, payload FROM stream_messages('IDS') WHERE seq > 101;

-- An empty array is no header, so the message gets an automatic id.
SELECT seq FROM nats_publish('ids.auto', 'fifteen', headers => '{"Nats-Msg-Id": []}');
SELECT length(headers ->> 'Nats-Msg-Id') FROM nats_get_message('IDS', 110);

-- What is no id.
SELECT error_of($$SELECT nats_publish('ids.bad', 'x', msg_id => '')$$);
SELECT error_of($$SELECT nats_publish('ids.bad', 'x', msg_id => E'a\r\nNats-TTL: 1')$$);
SELECT error_of($$SELECT nats_publish('ids.bad', 'x', msg_id => 'a', headers => '{"Nats-Msg-Id": "a"}')$$);
SELECT error_of($$SELECT nats_publish('ids.bad', 'x', msg_id => 'a', headers => '{"nats-MSG-id": "b"}')$$);
SELECT error_of($$SELECT nats_publish('ids.bad', 'x', headers => '{"nats-MSG-id": "a", "Nats-Msg-Id": "a"}')$$);
SELECT error_of($$SELECT nats_publish('ids.bad', 'x', headers => '{"Nats-Msg-Id": ["a", "b"]}')$$);
SELECT left(error_of($$SELECT nats_publish('ids.bad', 'x', headers => '{"Nats-Msg-Id": ""}')$$), 5) AS error;

SELECT published, acked, duplicates, failed FROM nats_session_stats();
SELECT stream_count('IDS');
SELECT delete_stream('IDS');
