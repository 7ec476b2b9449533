-- Publishing from triggers of one's own.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('TRIGGERS', 'triggers.>');
CREATE TABLE orders (id int PRIMARY KEY, customer text, total numeric);

-- For each row, asynchronously.
CREATE FUNCTION publish_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nats_publish_async('triggers.orders.' || lower(TG_OP), to_jsonb(coalesce(NEW, OLD)));
    RETURN NULL;
END
$$;
CREATE TRIGGER publish_order AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION publish_order();
INSERT INTO orders VALUES (1, 'Ada', 10), (2, 'Grace', 20.50);
BEGIN;
UPDATE orders SET total = total + 1;
DELETE FROM orders WHERE id = 1;
COMMIT;
SELECT subject, payload FROM stream_messages('TRIGGERS');

-- A rollback takes the rows away, not the messages.
BEGIN;
INSERT INTO orders VALUES (3, 'Edsger', 30);
SELECT nats_flush() IN (0, 1) AS flushed;
ROLLBACK;
SELECT id FROM orders ORDER BY id;
SELECT subject, payload FROM stream_messages('TRIGGERS') WHERE seq > 5;

-- AFTER triggers run when the statement is through: one that fails before publishes nothing.
INSERT INTO orders VALUES (4, 'Barbara', 40), (2, 'Grace', 20.50);
INSERT INTO orders SELECT i, 'x', 1 / (7 - i) FROM generate_series(5, 8) AS i;
SELECT id FROM orders ORDER BY id;
SELECT payload::jsonb -> 'id' AS id FROM stream_messages('TRIGGERS') WHERE seq > 6;

-- ON CONFLICT, COPY, and writable CTEs fire triggers as always.
INSERT INTO orders VALUES (2, 'Grace', 22), (9, 'Alan', 90) ON CONFLICT (id) DO UPDATE SET total = excluded.total;
INSERT INTO orders VALUES (9, 'Alan', 90) ON CONFLICT DO NOTHING;
COPY orders FROM stdin;
10	Margaret	100
11	\N	\N
\.
WITH gone AS (DELETE FROM orders WHERE id > 9 RETURNING id) SELECT count(*) FROM gone;
SELECT subject, payload::jsonb -> 'id' AS id FROM stream_messages('TRIGGERS') WHERE seq > 6 ORDER BY seq;

-- Synchronously, and before the row is there; what was NULL is told as it is.
CREATE FUNCTION publish_order_now() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.total := (nats_publish('triggers.now', NEW::text, msg_id => TG_TABLE_NAME || NEW.id)).seq;
    RETURN NEW;
END
$$;
CREATE TRIGGER publish_order_now BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION publish_order_now();
INSERT INTO orders VALUES (12, NULL, NULL);
BEGIN;
INSERT INTO orders VALUES (13, 'Tony', NULL);
ROLLBACK;
-- once more, which JetStream has already
INSERT INTO orders VALUES (13, 'Tony', NULL);
SELECT subject, payload FROM stream_messages('TRIGGERS') WHERE subject = 'triggers.now';

-- An ordinary role publishes through a trigger function of somebody who may.
CREATE ROLE regress_nats_clerk;
GRANT INSERT ON orders TO regress_nats_clerk;
SET ROLE regress_nats_clerk;
INSERT INTO orders VALUES (14, 'Clerk', NULL);
RESET ROLE;
ALTER FUNCTION publish_order() SECURITY DEFINER;
ALTER FUNCTION publish_order_now() SECURITY DEFINER;
SET ROLE regress_nats_clerk;
INSERT INTO orders VALUES (14, 'Clerk', NULL);
RESET ROLE;
SELECT id FROM orders WHERE id = 14;
REVOKE ALL ON orders FROM regress_nats_clerk;
DROP ROLE regress_nats_clerk;

DROP TABLE orders;
DROP FUNCTION publish_order, publish_order_now;
SELECT delete_stream('TRIGGERS');
