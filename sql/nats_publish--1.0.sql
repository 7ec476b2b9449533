/* sql/nats_publish--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION nats_publish" to load this file. \quit

-- ---------------------------------------------------------------------------
-- Types
-- ---------------------------------------------------------------------------

CREATE TYPE nats_puback AS (stream text, seq bigint, duplicate boolean, domain text, value numeric);
COMMENT ON TYPE nats_puback IS 'what JetStream answers when it has stored a message';
COMMENT ON COLUMN nats_puback.value IS 'of a counter: what it is at now; NULL for other messages, and for a duplicate';

CREATE TYPE nats_message AS (stream text, subject text, seq bigint, "time" timestamptz, headers jsonb, payload bytea);
COMMENT ON TYPE nats_message IS 'a message stored in a stream';

-- ---------------------------------------------------------------------------
-- Publishing: now, and wait for the acknowledgment
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_publish(subject text, payload text, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS nats_puback
AS 'MODULE_PATHNAME', 'nats_publish_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz)
IS 'publish text to NATS JetStream now and return its acknowledgment';

CREATE FUNCTION nats_publish(subject text, payload bytea, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS nats_puback
AS 'MODULE_PATHNAME', 'nats_publish_bytea' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish(text, bytea, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz)
IS 'publish bytes to NATS JetStream now and return the acknowledgment';

CREATE FUNCTION nats_publish(subject text, payload json, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS nats_puback
AS 'MODULE_PATHNAME', 'nats_publish_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish(text, json, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz)
IS 'publish JSON to NATS JetStream now and return its acknowledgment';

CREATE FUNCTION nats_publish(subject text, payload jsonb, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS nats_puback
AS 'MODULE_PATHNAME', 'nats_publish_jsonb' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish(text, jsonb, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz)
IS 'publish JSON to NATS JetStream now and return its acknowledgment';

-- ---------------------------------------------------------------------------
-- Publishing: now, and the transaction waits for the acknowledgment
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_publish_async(subject text, payload text, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL, critical boolean DEFAULT true,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'nats_publish_async_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_async(text, text, jsonb, text, text, bigint, bigint, interval, boolean, text, text, numeric, timestamptz)
IS 'publish text to NATS JetStream now and return a future; COMMIT waits for its acknowledgment if it is critical';

CREATE FUNCTION nats_publish_async(subject text, payload bytea, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL, critical boolean DEFAULT true,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'nats_publish_async_bytea' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_async(text, bytea, jsonb, text, text, bigint, bigint, interval, boolean, text, text, numeric, timestamptz)
IS 'publish bytes to NATS JetStream now and return a future; COMMIT waits for the acknowledgment if it is critical';

CREATE FUNCTION nats_publish_async(subject text, payload json, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL, critical boolean DEFAULT true,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'nats_publish_async_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_async(text, json, jsonb, text, text, bigint, bigint, interval, boolean, text, text, numeric, timestamptz)
IS 'publish JSON to NATS JetStream now and return a future; COMMIT waits for its acknowledgment if it is critical';

CREATE FUNCTION nats_publish_async(subject text, payload jsonb, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL, critical boolean DEFAULT true,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'nats_publish_async_jsonb' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_async(text, jsonb, jsonb, text, text, bigint, bigint, interval, boolean, text, text, numeric, timestamptz)
IS 'publish JSON to NATS JetStream now and return a future; COMMIT waits for its acknowledgment if it is critical';

-- ---------------------------------------------------------------------------
-- Publishing: when the transaction commits
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_publish_on_commit(subject text, payload text, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'nats_publish_on_commit_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_on_commit(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz)
IS 'publish text to NATS JetStream when the transaction commits, and not at all when it does not';

CREATE FUNCTION nats_publish_on_commit(subject text, payload bytea, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'nats_publish_on_commit_bytea' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_on_commit(text, bytea, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz)
IS 'publish bytes to NATS JetStream when the transaction commits, and not at all when it does not';

CREATE FUNCTION nats_publish_on_commit(subject text, payload json, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'nats_publish_on_commit_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_on_commit(text, json, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz)
IS 'publish JSON to NATS JetStream when the transaction commits, and not at all when it does not';

CREATE FUNCTION nats_publish_on_commit(subject text, payload jsonb, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    expect_stream text DEFAULT NULL, expect_last_seq bigint DEFAULT NULL,
    expect_last_subject_seq bigint DEFAULT NULL, ttl interval DEFAULT NULL,
    rollup text DEFAULT NULL, expect_last_subject_seq_subject text DEFAULT NULL,
    increment numeric DEFAULT NULL, deliver_at timestamptz DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'nats_publish_on_commit_jsonb' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_on_commit(text, jsonb, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz)
IS 'publish JSON to NATS JetStream when the transaction commits, and not at all when it does not';

-- ---------------------------------------------------------------------------
-- Publishing: after the transaction has committed
-- ---------------------------------------------------------------------------

CREATE TABLE nats_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY CHECK (id > 0),
    subject text NOT NULL,
    payload bytea,
    headers jsonb,
    msg_id text NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now(),
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
COMMENT ON TABLE nats_outbox IS 'messages that wait for the relay; a row is a message, and roles can be granted to insert it';
COMMENT ON SEQUENCE nats_outbox_id_seq IS 'the ids of nats_outbox';
COMMENT ON COLUMN nats_outbox.payload IS 'text in UTF-8, or any bytes; NULL is an empty message';
COMMENT ON COLUMN nats_outbox.headers IS 'as the argument headers of nats_publish()';
COMMENT ON COLUMN nats_outbox.msg_id IS 'the Nats-Msg-Id, the same at each attempt';
COMMENT ON COLUMN nats_outbox.next_attempt_at IS 'earliest time at which a message that failed is tried again, or one that was not tried yet is delivered';
COMMENT ON COLUMN nats_outbox.last_error IS 'SQLSTATE and text; 58030, for a message that may be stored, stays';

-- What waits to be tried again holds up the rest of its subject, which can be too long for an index.
CREATE INDEX nats_outbox_waiting ON nats_outbox (left(subject, 500) COLLATE "C", id) WHERE next_attempt_at IS NOT NULL AND (last_error IS NOT NULL OR attempts > 0);
COMMENT ON INDEX nats_outbox_waiting IS 'messages that have failed and are tried again, by their subjects';
CREATE INDEX nats_outbox_due ON nats_outbox (next_attempt_at, id) WHERE next_attempt_at IS NOT NULL;
COMMENT ON INDEX nats_outbox_due IS 'messages that have failed and are tried again, and those to be delivered later, by the time';
CREATE INDEX nats_outbox_failed ON nats_outbox (next_attempt_at) WHERE next_attempt_at IS NOT NULL AND (last_error IS NOT NULL OR attempts > 0);
COMMENT ON INDEX nats_outbox_failed IS 'messages that have failed and are tried again, by the time';

CREATE TABLE nats_outbox_dead (
    dead_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    id bigint NOT NULL,
    subject text NOT NULL,
    payload bytea,
    headers jsonb,
    msg_id text NOT NULL,
    created_at timestamptz NOT NULL,
    attempts int NOT NULL,
    last_error text,
    died_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX nats_outbox_dead_id ON nats_outbox_dead (id);
COMMENT ON INDEX nats_outbox_dead_id IS 'for nats_outbox_retry()';
COMMENT ON TABLE nats_outbox_dead IS 'messages that the relay has given up, with their error';
COMMENT ON COLUMN nats_outbox_dead.dead_id IS 'its own key, because ids of nats_outbox can repeat, and come from other databases';
COMMENT ON COLUMN nats_outbox_dead.id IS 'the id that it had in nats_outbox';
COMMENT ON COLUMN nats_outbox_dead.last_error IS 'SQLSTATE and text; 58030: the message may be stored nevertheless';

-- pg_dump and pg_restore take tables by name, and what is paused has to be known before the messages are there.
CREATE TABLE nats_control (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    paused boolean NOT NULL
);
COMMENT ON TABLE nats_control IS 'pauses the relay of this database while a row says so';
COMMENT ON COLUMN nats_control.id IS 'random, so that it differs from that of rows replicated from another database';

SELECT pg_catalog.pg_extension_config_dump('nats_control', '');
SELECT pg_catalog.pg_extension_config_dump('nats_outbox', '');
SELECT pg_catalog.pg_extension_config_dump('nats_outbox_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('nats_outbox_dead', '');

-- The other place where messages wait. It is not dumped, as a slot is of one cluster, and so is this; and where all tables are
-- replicated, there are rows of other databases.
CREATE TABLE nats_wal (
    database text PRIMARY KEY,
    secret bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()),
    slot name,
    enabled_at timestamptz,
    lost_from pg_lsn,
    lost_to pg_lsn,
    lost_at timestamptz
);
COMMENT ON TABLE nats_wal IS 'how the WAL of this database is published; it has a row once nats_wal_enable() was called';
COMMENT ON COLUMN nats_wal.database IS 'the identifier of the cluster and the oid of the database';
COMMENT ON COLUMN nats_wal.secret IS 'proves that a message in the WAL was written by the functions that publish; never changes';
COMMENT ON COLUMN nats_wal.slot IS 'the replication slot that nats_wal_enable() has made; NULL: nats_wal_disable() was called since';
COMMENT ON COLUMN nats_wal.lost_from IS 'what was committed between this (if known) and lost_to and not published before is lost';

CREATE FUNCTION nats_outbox_check()
RETURNS trigger
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_outbox_check()
IS 'trigger function of nats_outbox: refuses what could never be published, and wakes the relay at commit';

CREATE FUNCTION nats_outbox_wake()
RETURNS trigger
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_outbox_wake()
IS 'trigger function of nats_control: marks a pause for pg_dump, and wakes the relay at commit';

CREATE TRIGGER nats_outbox_check BEFORE INSERT OR UPDATE OF subject, payload, headers, msg_id ON nats_outbox
    FOR EACH ROW EXECUTE FUNCTION nats_outbox_check();
COMMENT ON TRIGGER nats_outbox_check ON nats_outbox IS 'refuses what could never be published, and wakes the relay at commit';
CREATE TRIGGER nats_outbox_wake AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON nats_control
    FOR EACH STATEMENT EXECUTE FUNCTION nats_outbox_wake();
COMMENT ON TRIGGER nats_outbox_wake ON nats_control IS 'marks a pause for pg_dump, and wakes the relay at commit';

CREATE FUNCTION nats_publish_outbox(subject text, payload text, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'nats_publish_outbox_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_outbox(text, text, jsonb, text, timestamptz)
IS 'write text to the outbox, from which the relay publishes it after the transaction has committed';

CREATE FUNCTION nats_publish_outbox(subject text, payload bytea, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'nats_publish_outbox_bytea' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_outbox(text, bytea, jsonb, text, timestamptz)
IS 'write bytes to the outbox, from which the relay publishes them after the transaction has committed';

CREATE FUNCTION nats_publish_outbox(subject text, payload json, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'nats_publish_outbox_text' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_outbox(text, json, jsonb, text, timestamptz)
IS 'write JSON to the outbox, from which the relay publishes it after the transaction has committed';

CREATE FUNCTION nats_publish_outbox(subject text, payload jsonb, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'nats_publish_outbox_jsonb' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_outbox(text, jsonb, jsonb, text, timestamptz)
IS 'write JSON to the outbox, from which the relay publishes it after the transaction has committed';

-- ---------------------------------------------------------------------------
-- The relay
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_wal_enable()
RETURNS pg_lsn
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_wal_enable()
IS 'publish the WAL of this database from now on: create the replication slot of its relay; returns where it begins';

CREATE FUNCTION nats_wal_disable(discard boolean DEFAULT false)
RETURNS pg_lsn
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_wal_disable(boolean)
IS 'wait until the WAL of this database is published, and drop its replication slot; discard => true does not wait';

CREATE FUNCTION nats_relay_status(OUT datname text, OUT pid int, OUT state text, OUT url text, OUT published bigint,
    OUT failed bigint, OUT dead bigint, OUT last_success timestamptz, OUT last_error text, OUT last_error_at timestamptz,
    OUT blocked_by int[], OUT ordering text, OUT shared_stream text)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_relay_status()
IS 'the relays of all databases, and what they have done since they were started';

CREATE FUNCTION nats_wal_relay_status(OUT datname text, OUT pid int, OUT state text, OUT url text, OUT published bigint,
    OUT failed bigint, OUT dead bigint, OUT last_success timestamptz, OUT last_error text, OUT last_error_at timestamptz,
    OUT blocked_by int[], OUT ordering text, OUT shared_stream text, OUT read_lsn pg_lsn, OUT confirmed_lsn pg_lsn, OUT queued bigint, OUT queued_bytes bigint,
    OUT decoding xid, OUT decoded bigint, OUT diverted bigint, OUT forged bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_wal_relay_status()
IS 'the relays of the WAL of all databases, and what they have done since they were started';

-- They write as the owners of the tables, whose triggers do not have the caller's search_path.
CREATE FUNCTION nats_outbox_retry(id bigint)
RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION nats_outbox_retry(bigint)
IS 'let the relay publish a dead, retrying or scheduled message of the outbox now; false: none has that id';

CREATE FUNCTION nats_outbox_retry_all()
RETURNS bigint
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION nats_outbox_retry_all()
IS 'let the relay publish all dead and retrying messages of the outbox now; returns how many';

CREATE FUNCTION nats_relay_pause()
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION nats_relay_pause()
IS 'stop the relay of this database from publishing, until nats_relay_resume()';

CREATE FUNCTION nats_relay_resume()
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION nats_relay_resume()
IS 'let the relay of this database publish again';

-- In the schema of the extension anybody may have put operators and functions that fit better: those of the views are
-- PostgreSQL's.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE VIEW @extschema@.nats_outbox_messages AS
SELECT id, CASE WHEN next_attempt_at IS NULL THEN 'waiting' WHEN last_error IS NOT NULL OR attempts > 0 THEN 'retrying'
                WHEN next_attempt_at > now() THEN 'scheduled' ELSE 'waiting' END AS state, subject, msg_id,
       octet_length(payload) AS bytes, created_at, attempts,
       CASE WHEN (last_error IS NOT NULL OR attempts > 0) AND next_attempt_at > now() + interval '4 days' THEN now() ELSE next_attempt_at END AS next_attempt_at, last_error
FROM @extschema@.nats_outbox
UNION ALL
SELECT id, 'dead', subject, msg_id, octet_length(payload), created_at, attempts, NULL, last_error
FROM @extschema@.nats_outbox_dead;
-- A time so far away was written by a clock that was wrong; the relay does not wait for it.
COMMENT ON VIEW @extschema@.nats_outbox_messages
IS 'what waits for the relay or for its time, is tried again or was given up, without headers and payloads';

-- What waits for its time and has not failed is no backlog until then.
CREATE VIEW @extschema@.nats_relay AS
SELECT s.datname, s.pid, s.state, s.blocked_by, s.url, s.ordering, s.shared_stream,
       CASE WHEN own THEN (SELECT count(*) FROM @extschema@.nats_outbox WHERE (last_error IS NULL AND attempts = 0 AND next_attempt_at > now()) IS NOT TRUE) END AS backlog,
       CASE WHEN own THEN clock_timestamp() - (SELECT least(clock_timestamp(), greatest('epoch', created_at, CASE WHEN last_error IS NULL THEN next_attempt_at END)) FROM @extschema@.nats_outbox
                                               WHERE (last_error IS NULL AND attempts = 0 AND next_attempt_at > now()) IS NOT TRUE ORDER BY id LIMIT 1) END AS oldest_age,
       CASE WHEN own THEN (SELECT count(*) FROM @extschema@.nats_outbox WHERE next_attempt_at IS NOT NULL AND (last_error IS NOT NULL OR attempts > 0)) END AS retrying,
       retried.subject AS retrying_subject, retried.last_error AS retrying_error,
       CASE WHEN own THEN (SELECT count(*) FROM @extschema@.nats_outbox WHERE last_error IS NULL AND attempts = 0 AND next_attempt_at > now()) END AS scheduled,
       s.published, s.failed, s.dead, s.last_success, s.last_error, s.last_error_at
FROM @extschema@.nats_relay_status() AS s, LATERAL (SELECT s.datname = current_database() AS own) AS o
LEFT JOIN LATERAL (SELECT subject, last_error FROM @extschema@.nats_outbox WHERE own AND next_attempt_at IS NOT NULL AND (last_error IS NOT NULL OR attempts > 0) ORDER BY id LIMIT 1) AS retried ON true;
COMMENT ON VIEW @extschema@.nats_relay
IS 'the relays of all databases; what is in the outbox is known for the current one';

-- What only some versions of PostgreSQL have in pg_replication_slots is taken out of its JSON. A slot is known by its name,
-- for who may see the view need not see nats_wal.
CREATE VIEW @extschema@.nats_wal_relay AS
SELECT d.datname, s.pid,
       coalesce(s.state, CASE WHEN pg_is_in_recovery() THEN 'standby' WHEN r.slot_name IS NULL THEN 'no slot' ELSE 'no relay' END) AS state,
       s.blocked_by, s.url, s.ordering,
       r.slot_name AS slot, r.wal_status, to_jsonb(r) ->> 'invalidation_reason' AS invalidation_reason,
       (to_jsonb(r) ->> 'failover')::boolean AS failover,
       greatest(s.confirmed_lsn, r.confirmed_flush_lsn) AS confirmed_lsn,
       greatest(now_at - greatest(s.confirmed_lsn, r.confirmed_flush_lsn), 0)::bigint AS behind_bytes,
       (now_at - r.restart_lsn)::bigint AS kept_bytes, r.safe_wal_size AS safe_bytes,
       s.queued, s.queued_bytes, s.decoding, s.decoded,
       s.published, s.diverted, s.dead, s.forged, s.last_success, s.last_error, s.last_error_at,
       w.lost_from, w.lost_to, w.lost_at
FROM (SELECT concat((SELECT system_identifier FROM pg_control_system()), '.', oid) AS database FROM pg_database WHERE datname = current_database()) AS own
CROSS JOIN LATERAL (SELECT datname::name FROM @extschema@.nats_wal_relay_status()
      UNION SELECT database FROM pg_replication_slots WHERE slot_name = 'nats_publish_' || datoid AND plugin = 'pgoutput'
      UNION SELECT d.datname FROM @extschema@.nats_wal AS w, pg_database AS d
            WHERE d.datname = current_database() AND w.slot = 'nats_publish_' || d.oid AND w.database = own.database) AS d
LEFT JOIN @extschema@.nats_wal_relay_status() AS s ON s.datname = d.datname
LEFT JOIN pg_replication_slots AS r ON r.database = d.datname AND r.slot_name = 'nats_publish_' || r.datoid AND r.plugin = 'pgoutput'
LEFT JOIN @extschema@.nats_wal AS w ON d.datname = current_database() AND w.database = own.database,
LATERAL (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS now_at) AS n;
COMMENT ON VIEW @extschema@.nats_wal_relay
IS 'the databases whose WAL is published: their replication slots and relays; what was lost is known for the current one';

SET LOCAL search_path = @extschema@, pg_temp;

-- ---------------------------------------------------------------------------
-- Futures
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_await(future bigint, timeout interval DEFAULT NULL)
RETURNS nats_puback
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_await(bigint, interval)
IS 'wait for a future of this transaction: return its acknowledgment or raise its error';

CREATE FUNCTION nats_flush(timeout interval DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_flush(interval)
IS 'wait until no message of this session is unacknowledged and return how many were';

CREATE FUNCTION nats_futures(OUT future bigint, OUT subject text, OUT msg_id text, OUT status text,
    OUT stream text, OUT seq bigint, OUT duplicate boolean, OUT sqlstate text, OUT error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_futures()
IS 'the futures of this transaction and what has become of them: pending, acked or failed';

-- ---------------------------------------------------------------------------
-- The session's connection
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_server_info(OUT url text, OUT server_name text, OUT server_id text, OUT version text,
    OUT api_level int, OUT cluster text, OUT max_payload bigint, OUT tls boolean, OUT jetstream boolean,
    OUT client_id bigint, OUT client_ip text, OUT rtt interval, OUT connected_at timestamptz)
RETURNS record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_server_info()
IS 'connect to NATS if necessary and describe the server';

CREATE FUNCTION nats_disconnect()
RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_disconnect()
IS 'wait as nats_flush() does and close the connection to NATS; false: there was none';

CREATE FUNCTION nats_session_stats(OUT published bigint, OUT acked bigint, OUT duplicates bigint, OUT failed bigint,
    OUT failed_uncritical bigint, OUT retried bigint, OUT resent bigint, OUT bytes bigint,
    OUT connects bigint, OUT connections_lost bigint, OUT suppressed bigint)
RETURNS record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_session_stats()
IS 'what this session has published, counted since it began';

-- ---------------------------------------------------------------------------
-- All sessions
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_publish_counters(OUT database oid, OUT mode text, OUT published bigint, OUT acked bigint,
    OUT duplicates bigint, OUT failed bigint, OUT suppressed bigint, OUT retried bigint, OUT resent bigint,
    OUT bytes bigint, OUT ack_ms float8, OUT commit_waits bigint, OUT commit_wait_ms float8,
    OUT commit_wait_max_ms float8, OUT connects bigint, OUT reconnects bigint, OUT last_error text,
    OUT last_error_at timestamptz, OUT stats_reset timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_counters()
IS 'what all sessions have published, for the view nats_publish_stats';

CREATE VIEW nats_publish_stats AS
SELECT d.datname, c.mode, c.published, c.acked, c.duplicates, c.failed, c.suppressed, c.retried, c.resent, c.bytes,
       c.commit_waits, c.commit_wait_ms, c.commit_wait_max_ms, c.connects, c.reconnects, c.last_error,
       c.last_error_at, c.stats_reset
FROM @extschema@.nats_publish_counters() AS c JOIN pg_catalog.pg_database AS d ON d.oid = c.database;
COMMENT ON VIEW nats_publish_stats
IS 'what all sessions have published since the server started, by database and way of publishing';

CREATE FUNCTION nats_publish_times(OUT database oid, OUT mode text, OUT measure text, OUT from_ms float8,
    OUT to_ms float8, OUT count bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_times()
IS 'how long acknowledgments and commits took, for the view nats_publish_histogram';

CREATE VIEW nats_publish_histogram AS
SELECT d.datname, t.mode, t.measure, t.from_ms, t.to_ms, t.count
FROM @extschema@.nats_publish_times() AS t JOIN pg_catalog.pg_database AS d ON d.oid = t.database;
COMMENT ON VIEW nats_publish_histogram
IS 'how many acknowledgments (ack) or commits (commit_wait) took how long';

-- As above.
SET LOCAL search_path = pg_catalog, pg_temp;

-- A time in a bucket is taken to lie where it does if the bucket's are spread evenly; in the last, at its beginning.
CREATE VIEW @extschema@.nats_publish_latency AS
WITH bucket AS (
    SELECT *, sum(count) OVER (PARTITION BY database, mode, measure ORDER BY from_ms) AS seen,
           sum(count) OVER (PARTITION BY database, mode, measure) AS total
    FROM @extschema@.nats_publish_times()
), quantile AS (
    SELECT database, mode, measure, q,
           CASE WHEN to_ms = 'Infinity' THEN from_ms
                ELSE from_ms + (to_ms - from_ms) * (q * total - (seen - count))::float8 / count END AS ms
    FROM bucket CROSS JOIN unnest('{0.5,0.9,0.99}'::numeric[]) AS q
    WHERE count > 0 AND seen >= q * total AND seen - count < q * total
), total AS (
    SELECT database, mode, measure, sum(count)::bigint AS count
    FROM bucket
    GROUP BY database, mode, measure
)
SELECT d.datname, t.mode, t.measure, t.count,
       CASE t.measure WHEN 'ack' THEN c.ack_ms ELSE c.commit_wait_ms END AS sum_ms,
       p50.ms AS p50_ms, p90.ms AS p90_ms, p99.ms AS p99_ms
FROM total AS t
     JOIN pg_catalog.pg_database AS d ON d.oid = t.database
     JOIN @extschema@.nats_publish_counters() AS c USING (database, mode)
     LEFT JOIN quantile AS p50 ON (p50.database, p50.mode, p50.measure, p50.q) = (t.database, t.mode, t.measure, 0.5)
     LEFT JOIN quantile AS p90 ON (p90.database, p90.mode, p90.measure, p90.q) = (t.database, t.mode, t.measure, 0.9)
     LEFT JOIN quantile AS p99 ON (p99.database, p99.mode, p99.measure, p99.q) = (t.database, t.mode, t.measure, 0.99);
COMMENT ON VIEW @extschema@.nats_publish_latency
IS 'how long an acknowledgment (ack) or a commit (commit_wait) takes, from nats_publish_histogram';

SET LOCAL search_path = @extschema@, pg_temp;

CREATE FUNCTION nats_publish_stats_reset()
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_stats_reset()
IS 'set the statistics of all databases to zero';

CREATE FUNCTION nats_publish_backends(OUT pid int, OUT database oid, OUT role oid, OUT url text, OUT server_name text,
    OUT state text, OUT pending int, OUT pending_bytes bigint, OUT oldest_pending timestamptz, OUT last_error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_backends()
IS 'what each session is doing with NATS, for the view nats_publish_activity';

CREATE VIEW nats_publish_activity AS
SELECT b.pid, d.datname, r.rolname AS usename, b.url, b.server_name, b.state, b.pending, b.pending_bytes,
       clock_timestamp() - b.oldest_pending AS oldest_pending, b.last_error
FROM @extschema@.nats_publish_backends() AS b
     LEFT JOIN pg_catalog.pg_database AS d ON d.oid = b.database
     LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = b.role;
COMMENT ON VIEW nats_publish_activity
IS 'the sessions that publish: where each is connected to, and what is not acknowledged yet';

-- ---------------------------------------------------------------------------
-- Servers and users, for nats_publish.server
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_fdw_validator(options text[], catalog oid)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION nats_fdw_validator(text[], oid)
IS 'check the options of a NATS server or user mapping';

CREATE FOREIGN DATA WRAPPER nats VALIDATOR nats_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER nats
IS 'NATS servers to publish to; it has no foreign tables';

-- ---------------------------------------------------------------------------
-- Streams
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_jetstream(api text, request jsonb DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_jetstream(text, jsonb)
IS 'send one request to the JetStream API, such as STREAM.NAMES, and return the reply';

CREATE FUNCTION nats_create_stream(name text, subjects text[], options jsonb DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_create_stream(text, text[], jsonb)
IS 'create a stream that takes these subjects; options are fields of the JetStream stream configuration';

CREATE FUNCTION nats_stream_info(stream text)
RETURNS jsonb
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_stream_info(text)
IS 'configuration and state of a stream, as JetStream reports them';

CREATE FUNCTION nats_unschedule(subject text, msg_id text)
RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_unschedule(text, text)
IS 'cancel a message that waits in its stream until deliver_at; false: none with that subject and msg_id waits';

CREATE FUNCTION nats_get_message(stream text, seq bigint)
RETURNS nats_message
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_get_message(text, bigint)
IS 'read one message of a stream by its sequence number';

-- ---------------------------------------------------------------------------
-- Before something is wrong, and when something is
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_check(subject text DEFAULT NULL, probe boolean DEFAULT false)
RETURNS TABLE (check_name text, status text, detail text)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_check(text, boolean)
IS 'look for what keeps messages from being published, or stored as you expect; probe => true asks who takes the subject, at servers before 2.11 with an empty message that no stream stores but subscribers see';

CREATE FUNCTION nats_explain(subject text, payload text, headers jsonb DEFAULT NULL, msg_id text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL)
RETURNS TABLE (item text, value text)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_explain(text, text, jsonb, text, timestamptz)
IS 'tell what nats_publish() would send and where to, without sending it';

-- ---------------------------------------------------------------------------
-- Change publishing
-- ---------------------------------------------------------------------------

CREATE FUNCTION nats_publish_change()
RETURNS trigger
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_change()
IS 'trigger function that publishes the changed rows of its table; its arguments are options, name=value each';

CREATE FUNCTION nats_annotate(annotations jsonb)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_annotate(jsonb)
IS 'add headers to all later messages of the transaction; NULL removes them all';

CREATE FUNCTION nats_publish_table(relation regclass, subject text DEFAULT '{schema}.{table}.{op}',
    level text DEFAULT 'row', delivery text DEFAULT 'on_commit', format text DEFAULT 'json',
    columns text[] DEFAULT NULL, ignore text[] DEFAULT NULL, key text[] DEFAULT NULL, msg_id text DEFAULT NULL,
    headers jsonb DEFAULT NULL, old boolean DEFAULT false,
    events text[] DEFAULT '{insert,update,delete,truncate}', payload text DEFAULT NULL, value_encoding text DEFAULT 'json',
    transaction boolean DEFAULT false, transaction_end text DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_table(regclass, text, text, text, text, text[], text[], text[], text, jsonb, boolean, text[], text, text, boolean, text)
IS 'publish the changes of a table: create its triggers, replacing those of an earlier call';

CREATE FUNCTION nats_unpublish_table(relation regclass)
RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_unpublish_table(regclass)
IS 'drop the triggers that nats_publish_table() has created; false: there were none';

CREATE FUNCTION nats_change_options(trigger oid, OUT subject text, OUT delivery text, OUT format text,
    OUT columns text[], OUT ignore text[], OUT key text[], OUT msg_id text, OUT headers jsonb, OUT old boolean,
    OUT payload text, OUT value_encoding text, OUT transaction boolean, OUT transaction_end text, OUT error text, OUT hint text)
RETURNS record
AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_change_options(oid)
IS 'the options of a trigger that calls nats_publish_change(), and the error that a change of its table would get';

CREATE TABLE nats_publish_rows_runs (
    relation regclass PRIMARY KEY,
    run text NOT NULL,
    role oid NOT NULL,
    arguments jsonb NOT NULL,
    last_key text[],
    rows_read bigint NOT NULL DEFAULT 0,
    rows_published bigint NOT NULL DEFAULT 0,
    rows_left_out bigint NOT NULL DEFAULT 0,
    rows_expected bigint,
    rows_before bigint NOT NULL DEFAULT 0,
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    resumed timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished timestamptz,
    stop boolean NOT NULL DEFAULT false,
    error text
);
COMMENT ON TABLE nats_publish_rows_runs IS 'how far nats_publish_rows() is with each table';
COMMENT ON COLUMN nats_publish_rows_runs.run IS 'begins the ids of its messages';
COMMENT ON COLUMN nats_publish_rows_runs.arguments IS 'what a call must be given to resume it';
COMMENT ON COLUMN nats_publish_rows_runs.last_key IS 'the key up to which all rows are done';
COMMENT ON COLUMN nats_publish_rows_runs.rows_read IS 'rows that were read, including those that do not satisfy the condition';
COMMENT ON COLUMN nats_publish_rows_runs.rows_left_out IS 'rows whose subjects had a message already, with only_missing';
COMMENT ON COLUMN nats_publish_rows_runs.rows_expected IS 'an estimate, made when it was started';
COMMENT ON COLUMN nats_publish_rows_runs.rows_before IS 'rows that were read before it was resumed';
COMMENT ON COLUMN nats_publish_rows_runs.stop IS 'whether it ends after its chunk';

CREATE PROCEDURE nats_publish_rows(relation regclass, condition text DEFAULT NULL, subject text DEFAULT NULL,
    batch int DEFAULT 1000, pause interval DEFAULT '0', only_missing boolean DEFAULT false, trigger name DEFAULT NULL,
    restart boolean DEFAULT false, dry_run boolean DEFAULT false)
AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON PROCEDURE nats_publish_rows(regclass, text, text, int, interval, boolean, name, boolean, boolean)
IS 'publish the rows that a published table has already, as messages of op read';

CREATE FUNCTION nats_publish_rows_stop(relation regclass, forget boolean DEFAULT false)
RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_rows_stop(regclass, boolean)
IS 'end nats_publish_rows() of a table after its chunk; forget => true: it cannot be resumed';

CREATE FUNCTION nats_publish_command()
RETURNS event_trigger
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_publish_command()
IS 'event trigger function that publishes DDL, as nats_published_ddl says';

CREATE FUNCTION nats_check_ddl(subject text, delivery text)
RETURNS boolean
AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_check_ddl(text, text)
IS 'check how DDL is to be published; raises what is wrong with it';

CREATE TABLE nats_published_ddl (
    subject text NOT NULL,
    delivery text NOT NULL,
    CONSTRAINT nats_published_ddl_check CHECK (nats_check_ddl(subject, delivery))
);
CREATE UNIQUE INDEX nats_published_ddl_one ON nats_published_ddl ((true));
COMMENT ON TABLE nats_published_ddl IS 'how DDL is published; one row, or none';
COMMENT ON COLUMN nats_published_ddl.subject IS 'where to: {command} in it is the command tag';
COMMENT ON COLUMN nats_published_ddl.delivery IS 'on_commit, async, sync or outbox';
COMMENT ON CONSTRAINT nats_published_ddl_check ON nats_published_ddl IS 'the subject and the delivery can be used';
COMMENT ON INDEX nats_published_ddl_one IS 'there is one way to publish DDL';
SELECT pg_catalog.pg_extension_config_dump('nats_published_ddl', '');

-- These two write the table as its owner, who may be somebody else than the superuser who calls.
CREATE FUNCTION nats_keep_ddl(subject text, delivery text)
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_keep_ddl(text, text)
IS 'write nats_published_ddl, for nats_publish_ddl()';

CREATE FUNCTION nats_forget_ddl()
RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION nats_forget_ddl()
IS 'empty nats_published_ddl, for nats_unpublish_ddl()';

-- What is looked for when it is called has its schema of then: the name of now can be another schema's by that time.
CREATE FUNCTION nats_unpublish_ddl()
RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema CONSTANT regnamespace := (SELECT extnamespace FROM pg_extension WHERE extname = 'nats_publish');
    trigger name;
    dropped boolean := false;
BEGIN
    FOR trigger IN SELECT evtname FROM pg_event_trigger WHERE evtfoid = format('%s.nats_publish_command()', schema)::regprocedure LOOP
        EXECUTE format('DROP EVENT TRIGGER %I', trigger);
        dropped := true;
    END LOOP;
    EXECUTE format('SELECT %s.nats_forget_ddl()', schema);
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION nats_unpublish_ddl()
IS 'drop the event triggers that publish DDL; false: there were none';

CREATE FUNCTION nats_publish_ddl(subject text DEFAULT 'schema.changes.{command}', delivery text DEFAULT 'on_commit')
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema CONSTANT regnamespace := (SELECT extnamespace FROM pg_extension WHERE extname = 'nats_publish');
BEGIN
    EXECUTE format('SELECT %s.nats_unpublish_ddl()', schema);
    EXECUTE format('CREATE EVENT TRIGGER nats_publish_ddl ON ddl_command_end EXECUTE FUNCTION %s.nats_publish_command()', schema);
    EXECUTE format('CREATE EVENT TRIGGER nats_publish_drop ON sql_drop EXECUTE FUNCTION %s.nats_publish_command()', schema);
    EXECUTE format('SELECT %s.nats_keep_ddl($1, $2)', schema) USING subject, delivery;
END
$$;
COMMENT ON FUNCTION nats_publish_ddl(text, text)
IS 'publish DDL: create event triggers, replacing those of an earlier call';

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE VIEW @extschema@.nats_published_tables AS
SELECT t.tgrelid::regclass AS relation,
       t.tgname AS trigger_name,
       CASE WHEN t.tgtype & 1 = 1 THEN 'row' ELSE 'statement' END AS level,
       array_remove(ARRAY[CASE WHEN t.tgtype & 4 <> 0 THEN 'insert' END, CASE WHEN t.tgtype & 16 <> 0 THEN 'update' END,
                          CASE WHEN t.tgtype & 8 <> 0 THEN 'delete' END, CASE WHEN t.tgtype & 32 <> 0 THEN 'truncate' END],
                    NULL) AS events,
       o.subject, o.delivery, o.format,
       CASE WHEN o.subject IS NOT NULL THEN to_jsonb(o) - '{error,hint}'::text[] END AS options,
       o.error, o.hint,
       CASE t.tgenabled WHEN 'O' THEN 'origin' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' END
           AS enabled,
       -- without a lock, which pg_partition_tree() takes
       (WITH RECURSIVE parts AS (
            SELECT inhrelid FROM pg_inherits WHERE inhparent = t.tgrelid
            UNION ALL SELECT i.inhrelid FROM parts JOIN pg_inherits i ON i.inhparent = parts.inhrelid)
        SELECT count(*) FROM parts JOIN pg_class c ON c.oid = parts.inhrelid AND c.relispartition AND c.relkind <> 'p') AS partitions
FROM pg_catalog.pg_trigger t CROSS JOIN LATERAL @extschema@.nats_change_options(t.oid) o
WHERE t.tgfoid = '@extschema@.nats_publish_change()'::regprocedure AND t.tgparentid = 0;
COMMENT ON VIEW @extschema@.nats_published_tables
IS 'the tables whose changes are published: by which triggers, how, and where to';

-- Its lock is that of rows_run.c.
CREATE VIEW @extschema@.nats_publish_rows_progress AS
SELECT r.relation,
       CASE WHEN r.finished IS NOT NULL THEN 'finished'
            WHEN l.pid IS NOT NULL THEN CASE WHEN r.stop THEN 'stopping' ELSE 'running' END
            WHEN r.stop THEN 'stopped' WHEN r.error IS NOT NULL THEN 'failed' ELSE 'interrupted' END AS state,
       l.pid, pg_get_userbyid(r.role) AS role, r.rows_read, r.rows_published, r.rows_left_out, r.rows_expected,
       s.rate AS rows_per_second,
       CASE WHEN l.pid IS NOT NULL AND s.rate > 0 AND r.rows_expected > r.rows_read
            THEN r.updated + (r.rows_expected - r.rows_read) / s.rate * interval '1 second' END AS estimated_end,
       r.started, r.updated, r.finished,
       -- an error can have a value in it
       CASE WHEN pg_has_role(r.role, 'USAGE') THEN r.error ELSE left(r.error, 5) END AS error
FROM @extschema@.nats_publish_rows_runs AS r
     LEFT JOIN pg_catalog.pg_locks AS l ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 3
         AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
         AND l.classid = '@extschema@.nats_publish_rows_runs'::regclass AND l.objid = r.relation,
     LATERAL (SELECT round((r.rows_read - r.rows_before) / nullif(extract(epoch FROM r.updated - r.resumed), 0), 1)::float8) AS s (rate);
COMMENT ON VIEW @extschema@.nats_publish_rows_progress
IS 'how far nats_publish_rows() is with each table, of about how many rows, and how fast';

SET LOCAL search_path = @extschema@, pg_temp;

CREATE FUNCTION nats_grant(role regrole, what text)
RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema CONSTANT regnamespace := (SELECT extnamespace FROM pg_extension WHERE extname = 'nats_publish');
    names CONSTANT text[] := CASE what
        WHEN 'publish' THEN '{nats_publish,nats_publish_async,nats_publish_on_commit,nats_publish_outbox,nats_await,nats_flush,nats_futures,nats_annotate,nats_unschedule}'
        WHEN 'publish tables' THEN '{nats_publish_table,nats_unpublish_table,nats_publish_change,nats_change_options,nats_publish_rows,nats_publish_rows_stop}'
    END;
    function regprocedure;
BEGIN
    IF names IS NULL THEN
        RAISE 'there is no "%" to grant', what USING ERRCODE = 'invalid_parameter_value', HINT = 'It is "publish" or "publish tables".';
    END IF;
    IF NOT has_schema_privilege(role, schema, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO %s', schema, role);
    END IF;
    FOR function IN SELECT oid FROM pg_proc WHERE pronamespace = schema AND proname = ANY (names) LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', function, role);
    END LOOP;
    IF what = 'publish tables' THEN
        EXECUTE format('GRANT SELECT ON %1$s.nats_published_tables, %1$s.nats_publish_rows_progress TO %2$s', schema, role);
    END IF;
END
$$;
COMMENT ON FUNCTION nats_grant(regrole, text)
IS 'grant a role all that it needs to publish, or to publish the changes of its tables';

-- ---------------------------------------------------------------------------
-- Privileges: nobody publishes who was not granted it
-- ---------------------------------------------------------------------------

REVOKE ALL ON FUNCTION nats_publish(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish(text, bytea, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish(text, json, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish(text, jsonb, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_async(text, text, jsonb, text, text, bigint, bigint, interval, boolean, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_async(text, bytea, jsonb, text, text, bigint, bigint, interval, boolean, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_async(text, json, jsonb, text, text, bigint, bigint, interval, boolean, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_async(text, jsonb, jsonb, text, text, bigint, bigint, interval, boolean, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_on_commit(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_on_commit(text, bytea, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_on_commit(text, json, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_on_commit(text, jsonb, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_outbox(text, text, jsonb, text, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_outbox(text, bytea, jsonb, text, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_outbox(text, json, jsonb, text, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_outbox(text, jsonb, jsonb, text, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_outbox_check() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_outbox_wake() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_outbox_retry(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_outbox_retry_all() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_relay_pause() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_relay_resume() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_wal_enable() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_wal_disable(boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_relay_status() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_wal_relay_status() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_await(bigint, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_flush(interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_futures() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_server_info() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_disconnect() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_session_stats() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_fdw_validator(text[], oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_jetstream(text, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_create_stream(text, text[], jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_stream_info(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_unschedule(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_get_message(text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_check(text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_explain(text, text, jsonb, text, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_annotate(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_change() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_grant(regrole, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_command() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_check_ddl(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_keep_ddl(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_forget_ddl() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_ddl(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_unpublish_ddl() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_table(regclass, text, text, text, text, text[], text[], text[], text, jsonb, boolean, text[], text, text, boolean, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_unpublish_table(regclass) FROM PUBLIC;
REVOKE ALL ON PROCEDURE nats_publish_rows(regclass, text, text, int, interval, boolean, name, boolean, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_rows_stop(regclass, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_change_options(oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_counters() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_times() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_backends() FROM PUBLIC;
REVOKE ALL ON FUNCTION nats_publish_stats_reset() FROM PUBLIC;

-- What shows nothing but names and figures, monitoring may see.
GRANT EXECUTE ON FUNCTION nats_publish_counters(), nats_publish_times(), nats_publish_backends(), nats_relay_status(),
    nats_wal_relay_status()
TO pg_monitor;
GRANT SELECT ON nats_publish_stats, nats_publish_histogram, nats_publish_latency, nats_publish_activity, nats_relay,
    nats_wal_relay, nats_outbox_messages, nats_publish_rows_progress
TO pg_monitor;
