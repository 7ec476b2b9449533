-- ttl: how long a message lives. Servers before 2.11 do not know it, and must not store it forever.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT server_is(2, 11) AS knows_ttl \gset
SELECT CASE WHEN :'knows_ttl' THEN '{"storage": "memory", "allow_msg_ttl": true}' ELSE '{"storage": "memory"}' END AS options \gset
SELECT nats_create_stream('TTL', '{ttl.>}', :'options') IS NOT NULL AS created;

-- What the server is never asked.
SELECT error_of($$SELECT nats_publish('ttl.a', 'x', ttl => '0')$$);
SELECT error_of($$SELECT nats_publish('ttl.a', 'x', ttl => '999 ms')$$);
SELECT error_of($$SELECT nats_publish('ttl.a', 'x', ttl => '-1 second')$$);
SELECT error_of($$SELECT nats_publish('ttl.a', 'x', ttl => '1 day -25 hours')$$);
SELECT error_of($$SELECT nats_publish('ttl.a', 'x', ttl => '178000000 years')$$);
-- Since PostgreSQL 17 there are infinite ones. The negative one has passed, and is not for ever.
SELECT current_setting('server_version_num')::int < 170000 OR
    error_of($$SELECT nats_publish('ttl.a', 'x', ttl => '-infinity')$$) = '22023: ttl must be at least one second' AS refused;
SELECT error_of($$SELECT nats_publish_async('ttl.a', 'x', ttl => '1 ms')$$);
SELECT error_of($$SELECT nats_publish_async('ttl.a', 'x', ttl => '1 ms', critical => false)$$);
SELECT stream_count('TTL');

-- What needs the server: what each message is stored with, or why it is not stored.
CREATE FUNCTION publish_with(ttl interval) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    ack nats_puback;
BEGIN
    ack := nats_publish('ttl.a', 'x', ttl => ttl);
    RETURN (nats_get_message(ack.stream, ack.seq)).headers ->> 'Nats-TTL';
EXCEPTION WHEN feature_not_supported THEN
    RETURN sqlerrm;
END
$$;
SELECT ttl, CASE
    WHEN :'knows_ttl' THEN publish_with(ttl) = seconds::text
    ELSE publish_with(ttl) LIKE 'ttl needs nats-server 2.11, the connected one is %'
END AS as_expected
FROM (VALUES ('1 second'::interval, 1), ('1.5 seconds', 2), ('1 hour', 3600), ('1 day', 86400), ('1 month', 2592000),
    ('1 year', 31557600)) AS v (ttl, seconds);
DROP FUNCTION publish_with;

-- As a header it is the same feature.
SELECT CASE WHEN :'knows_ttl' THEN e = 'no error' ELSE e LIKE '0A000: ttl needs nats-server 2.11, %' END AS as_expected
FROM error_of($$SELECT nats_publish('ttl.a', 'x', headers => '{"nats-ttl": "10s"}')$$) AS e;
SELECT CASE WHEN :'knows_ttl' THEN e = 'no error' ELSE e LIKE '0A000: ttl needs nats-server 2.11, %' END AS as_expected
FROM error_of($$SELECT nats_publish_async('ttl.a', 'x', ttl => '1 minute')$$) AS e;

-- Nothing was stored that will not be removed again.
SELECT count(*) FROM stream_messages('TTL') WHERE NOT coalesce(headers ? 'Nats-TTL', false);
SELECT delete_stream('TTL');
