-- Databases in other encodings: what is sent is UTF-8, and bytes are bytes.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

SELECT create_stream('ENCODINGS', 'encodings.>');
SELECT current_database() AS utf8 \gset
CREATE DATABASE regress_nats_latin1 TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE regress_nats_ascii TEMPLATE template0 ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C';

-- LATIN1. The client goes on in UTF-8.
\c regress_nats_latin1
SET client_encoding = UTF8;
CREATE EXTENSION nats_publish;
\i :helpers
SHOW server_encoding;
SELECT seq FROM nats_publish('encodings.text', 'Grüße'::text);
SELECT seq FROM nats_publish('encodings.json', '{"ä": "ö"}'::json);
SELECT seq FROM nats_publish('encodings.jsonb', '{"ä": "ö"}'::jsonb);
SELECT seq FROM nats_publish('encodings.bytea', '\xe4f6fc'::bytea);
SELECT seq FROM nats_publish('encodings.sübject.é', 'x');
SELECT seq FROM nats_publish('encodings.header', 'x', headers => '{"H": "ü", "Many": ["é", "à"]}', msg_id => 'ïd');
SELECT seq, duplicate FROM nats_publish('encodings.header', 'x', headers => '{"nats-msg-id": "ïd"}');
-- The limit of a subject is in bytes as sent.
SELECT error_of(format('SELECT nats_publish(%L, %L)', rpad('encodings.', 3000, 'ü'), 'x'));
SELECT error_of(format('SELECT nats_publish(%L, %L)', 'encodings.ü ', 'x'));
-- What comes back is in the database's encoding again.
SELECT seq, subject, CASE seq WHEN 6 THEN headers END AS headers, payload FROM generate_series(1, 6) AS number, nats_get_message('ENCODINGS', number);
SELECT number, length(convert_from(payload, 'UTF8')), length(payload) FROM generate_series(1, 3) AS number, nats_get_message('ENCODINGS', number);
BEGIN;
SELECT nats_publish_async('encodings.fütüre', 'ü', msg_id => 'ÿ') AS future \gset
SELECT nats_flush() IN (0, 1) AS flushed;
SELECT subject, length(subject), msg_id, status FROM nats_futures();
SELECT seq FROM nats_await(:future);
COMMIT;
-- So are errors.
SELECT nats_publish('encodings.conflict.ö', 'x', expect_last_seq => 1);
BEGIN;
SELECT nats_publish_async('encodings.conflict.ö', 'x', expect_last_seq => 1) IS NOT NULL AS published;
SELECT nats_flush();
COMMIT;
SELECT nats_jetstream('STREAM.INFO.NÖNE');
SELECT nats_create_stream('ENCODINGS2', '{encodings2.ä}', '{"storage": "memory", "description": "Größe"}') -> 'config' ->> 'description' AS description;
SELECT nats_stream_info('ENCODINGS2') -> 'config' -> 'subjects' AS subjects;
SELECT stream FROM nats_publish('encodings2.ä', 'x');
SELECT delete_stream('ENCODINGS2');
-- Names of streams.
SELECT create_stream('ENCÖDINGS', 'encödings.>');
SELECT stream FROM nats_publish('encödings.a', 'x', expect_stream => 'ENCÖDINGS');
SELECT nats_stream_info('ENCÖDINGS') -> 'config' ->> 'name' AS name;
SELECT subject FROM nats_get_message('ENCÖDINGS', 1);

-- SQL_ASCII: bytes that must be UTF-8 already.
\c regress_nats_ascii
SET client_encoding = UTF8;
CREATE EXTENSION nats_publish;
\i :helpers
SHOW server_encoding;
SELECT seq FROM nats_publish('encodings.ascii', 'plain');
SELECT seq FROM nats_publish('encodings.ascii', convert_from('\x4772c3bcc39f65', 'SQL_ASCII'));
SELECT seq FROM nats_publish('encodings.ascii', '\xe4f6fc'::bytea);
SELECT nats_publish('encodings.ascii', convert_from('\xe4f6fc', 'SQL_ASCII'));
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish(convert_from('\x656e636f64696e67732ee4', 'SQL_ASCII'), 'x');
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('encodings.ascii', 'x', msg_id => convert_from('\xe4', 'SQL_ASCII'));
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('encodings.ascii', 'x', headers => jsonb_build_object('H', convert_from('\xe4', 'SQL_ASCII')));
\echo :LAST_ERROR_SQLSTATE
SELECT nats_publish('encodings.ascii', jsonb_build_object('H', convert_from('\xe4', 'SQL_ASCII')));
\echo :LAST_ERROR_SQLSTATE
-- What comes back is UTF-8 as well.
SELECT subject, CASE seq WHEN 6 THEN headers END AS headers FROM generate_series(5, 6) AS number, nats_get_message('ENCODINGS', number);
BEGIN;
SELECT seq FROM nats_publish('encodings.ü', 'x', msg_id => 'ü');
SELECT nats_publish_async('encodings.ü', 'x', msg_id => 'ü') IS NOT NULL AS published;
SELECT nats_flush() IN (0, 1) AS flushed;
SELECT subject, msg_id FROM nats_futures();
COMMIT;

-- And as everything is in UTF-8.
\c :utf8
SELECT subject, headers, payload FROM stream_messages('ENCODINGS');
SELECT nats_stream_info('ENCÖDINGS') -> 'state' -> 'messages' AS messages;
SELECT delete_stream('ENCÖDINGS');
DROP DATABASE regress_nats_latin1;
DROP DATABASE regress_nats_ascii;
SELECT delete_stream('ENCODINGS');
