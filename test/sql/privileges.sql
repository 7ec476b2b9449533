-- What a role can do that was granted nothing, and the settings that are the administrator's.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers

CREATE ROLE regress_nats_restricted LOGIN;
CREATE ROLE regress_nats_group;
GRANT regress_nats_group TO regress_nats_restricted;
SELECT current_user AS superuser \gset

-- Nothing of the extension can be used, but types as columns and variables.
CREATE TEMP VIEW members AS
SELECT classid, objid, pg_describe_object(classid, objid, 0) COLLATE "C" AS object
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
    AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'nats_publish');
CREATE TEMP TABLE granted AS
SELECT object, 'EXECUTE' AS privilege FROM members
WHERE classid = 'pg_proc'::regclass AND has_function_privilege('regress_nats_restricted', objid, 'EXECUTE')
UNION ALL
SELECT object, privilege
FROM members, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
WHERE classid = 'pg_class'::regclass AND (SELECT relkind FROM pg_class WHERE oid = objid) IN ('r', 'v')
    AND has_table_privilege('regress_nats_restricted', objid, privilege)
UNION ALL
SELECT object, privilege
FROM members, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS privilege
WHERE classid = 'pg_class'::regclass AND (SELECT relkind FROM pg_class WHERE oid = objid) IN ('r', 'v')
    AND has_any_column_privilege('regress_nats_restricted', objid, privilege)
UNION ALL
SELECT object, privilege
FROM members, unnest(ARRAY['SELECT', 'USAGE', 'UPDATE']) AS privilege
WHERE classid = 'pg_class'::regclass AND (SELECT relkind FROM pg_class WHERE oid = objid) = 'S'
    AND has_sequence_privilege('regress_nats_restricted', objid, privilege)
UNION ALL
SELECT object, 'USAGE' FROM members
WHERE classid = 'pg_foreign_data_wrapper'::regclass AND has_foreign_data_wrapper_privilege('regress_nats_restricted', objid, 'USAGE');
SELECT * FROM granted ORDER BY object;
-- Of each kind of object there was one to look at, and no other kind.
SELECT classid::regclass, (SELECT relkind FROM pg_class WHERE oid = objid) AS relkind, count(*) > 0 AS "some"
FROM members WHERE classid <> 'pg_type'::regclass GROUP BY 1, 2 ORDER BY 1, 2;
SELECT object FROM members WHERE object LIKE 'sequence %' ORDER BY object;
-- It notices.
GRANT UPDATE (subject) ON nats_outbox TO regress_nats_group;
SELECT has_any_column_privilege('regress_nats_restricted', 'nats_outbox', 'UPDATE');
REVOKE UPDATE (subject) ON nats_outbox FROM regress_nats_group;

\c - regress_nats_restricted
SELECT object, left(error_of(command), 5) AS error FROM (VALUES
    ('function', $$SELECT nats_publish('privileges.a', 'x')$$),
    ('async', $$SELECT nats_publish_async('privileges.a', 'x')$$),
    ('on_commit', $$SELECT nats_publish_on_commit('privileges.a', 'x')$$),
    ('outbox', $$SELECT nats_publish_outbox('privileges.a', 'x')$$),
    ('retry', $$SELECT nats_outbox_retry(1)$$),
    ('pause', $$SELECT nats_relay_pause()$$),
    ('table', $$SELECT FROM nats_outbox$$),
    ('dead', $$DELETE FROM nats_outbox_dead$$),
    ('insert', $$INSERT INTO nats_outbox (subject) VALUES ('privileges.a')$$),
    ('lock', $$LOCK TABLE nats_outbox$$),
    ('control', $$INSERT INTO nats_control (paused) VALUES (true)$$),
    ('sequence', $$SELECT nextval('nats_outbox_id_seq')$$),
    ('view', $$SELECT FROM nats_relay$$),
    ('messages', $$SELECT FROM nats_outbox_messages$$),
    ('tables', $$SELECT FROM nats_published_tables$$),
    ('trigger', $$CREATE TEMP TABLE t (i int); CREATE TRIGGER p AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nats_publish_change()$$),
    ('validator', $$SELECT nats_fdw_validator('{}', 'pg_foreign_server'::regclass)$$),
    ('server', $$CREATE SERVER mine FOREIGN DATA WRAPPER nats OPTIONS (url 'nats://127.0.0.1')$$),
    ('type', $$CREATE TEMP TABLE acks (ack nats_puback)$$)) AS t (object, command);

-- The settings are the administrator's, however they are set; others are everybody's. They are there when the library is.
\c - :superuser
GRANT EXECUTE ON FUNCTION nats_session_stats(), nats_publish(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) TO regress_nats_restricted;
GRANT CREATE ON SCHEMA public TO regress_nats_restricted;
SELECT create_stream('PRIVILEGES', 'privileges.>');
CREATE TABLE privileges_settings (name text, value text);
GRANT SELECT ON privileges_settings TO PUBLIC;
INSERT INTO privileges_settings VALUES ('allowed_subjects', 'x.>'), ('publishing', 'off'), ('url', 'nats://127.0.0.1:1'), ('inbox_prefix', '_MINE'),
    ('randomize', 'on'), ('creds_file', '/x'), ('username', 'x'), ('password_file', '/x'), ('token_file', '/x'), ('nkey_seed_file', '/x'),
    ('tls_ca_file', '/x'), ('tls_cert_file', '/x'), ('tls_key_file', '/x'), ('tls_handshake_first', 'on'), ('server', ''), ('ack_timeout', '5s');
\c - regress_nats_restricted
SELECT suppressed FROM nats_session_stats();
SELECT name AS setting,
    left(error_of(format('SET nats_publish.%I = %L', name, value)), 5) AS "set",
    left(error_of(format('SET LOCAL nats_publish.%I = %L', name, value)), 5) AS local,
    left(error_of(format('SELECT set_config(%L, %L, false)', 'nats_publish.' || name, value)), 5) AS set_config,
    left(error_of(format('RESET nats_publish.%I', name)), 5) AS reset,
    left(error_of(format('ALTER ROLE CURRENT_USER SET nats_publish.%I = %L', name, value)), 5) AS role,
    left(error_of(format('ALTER DATABASE %I SET nats_publish.%I = %L', current_database(), name, value)), 5) AS "database",
    left(error_of(format('CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET nats_publish.%I = %L AS $$SELECT 1$$', name, value)), 5) AS "function"
FROM privileges_settings;
-- Those about the connection are not shown either.
SELECT name AS setting, left(error_of(format('SELECT current_setting(%L)', 'nats_publish.' || name)), 5) AS shown,
    (SELECT count(*) FROM pg_settings AS s WHERE s.name = 'nats_publish.' || p.name) AS listed
FROM privileges_settings AS p;
-- Before that, nothing is known of them but their names. What is set then is not used.
\c - regress_nats_restricted
SELECT DISTINCT left(error_of(format('ALTER ROLE CURRENT_USER SET nats_publish.%I = %L', name, value)), 5) AS role,
    left(error_of(format('ALTER DATABASE %I SET nats_publish.%I = %L', current_database(), name, value)), 5) AS "database",
    left(error_of(format('CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET nats_publish.%I = %L AS $$SELECT 1$$', name, value)), 5) AS "function"
FROM privileges_settings;
\c - regress_nats_restricted
SET nats_publish.url = 'nats://127.0.0.1:1';
SET nats_publish.inbox_prefix = '_MINE';
SET nats_publish.publishing = 'off';
\set VERBOSITY sqlstate
SELECT stream FROM nats_publish('privileges.placeholder', 'x'::text);
\set VERBOSITY default
SHOW nats_publish.publishing;
SELECT error_of($$SELECT nats_publish('_MINE.a', 'x'::text)$$) ~ '^22023' AS reserved;

-- What the administrator has set for a role is not to be escaped from.
\c - :superuser
ALTER ROLE regress_nats_restricted SET nats_publish.allowed_subjects = 'privileges.ok.*';
CREATE FUNCTION publish_both() RETURNS text LANGUAGE sql AS $$
    SELECT left(error_of('SELECT nats_publish(''privileges.bad'', ''x''::text)'), 5) || ', ' || error_of('SELECT nats_publish(''privileges.ok.a'', ''x''::text)')
$$;
CREATE FUNCTION privileges_definer(value text) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT set_config('nats_publish.allowed_subjects', value, false)$$;
\c - regress_nats_restricted
SELECT publish_both();
SHOW nats_publish.allowed_subjects;
CREATE FUNCTION privileges_own(value text) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT set_config('nats_publish.allowed_subjects', value, false)$$;
SELECT attempt, left(error_of(attempt), 5) AS error, publish_both()
FROM (VALUES ($$SET nats_publish.allowed_subjects = DEFAULT$$), ($$RESET nats_publish.allowed_subjects$$), ($$SET LOCAL nats_publish.allowed_subjects = ''$$),
    ($$SELECT privileges_own('')$$), ($$SELECT set_config('nats_publish.allowed_subjects', NULL, true)$$),
    ($$ALTER ROLE CURRENT_USER RESET nats_publish.allowed_subjects$$), ($$ALTER ROLE CURRENT_USER RESET ALL$$),
    ($$SET SESSION AUTHORIZATION regress_nats_group$$), ($$SET SESSION AUTHORIZATION DEFAULT$$)) AS t (attempt);
SET ROLE regress_nats_group;
SELECT left(error_of($$SET nats_publish.allowed_subjects = ''$$), 5) AS "set", left(error_of($$RESET nats_publish.allowed_subjects$$), 5) AS reset,
    left(error_of($$SELECT nats_publish('privileges.bad', 'x'::text)$$), 5) AS publish;
RESET ROLE;
SELECT publish_both();
RESET ALL;
SELECT publish_both();
DISCARD ALL;
SELECT publish_both();
-- Nor by a placeholder.
\c - regress_nats_restricted
\set VERBOSITY sqlstate
SET nats_publish.allowed_subjects = '';
SELECT publish_both();
SHOW nats_publish.allowed_subjects;
\c - regress_nats_restricted
BEGIN;
SET LOCAL nats_publish.allowed_subjects = '>';
SELECT publish_both();
COMMIT;
SELECT publish_both();
\c - regress_nats_restricted
SET client_min_messages = error;
BEGIN;
SAVEPOINT a;
SET nats_publish.allowed_subjects = '>';
SAVEPOINT b;
SET LOCAL nats_publish.allowed_subjects = '';
SELECT publish_both();
RELEASE a;
SELECT publish_both();
COMMIT;
SELECT publish_both();
\c - regress_nats_restricted
RESET ALL;
SELECT publish_both();
\c - regress_nats_restricted
DISCARD ALL;
SELECT publish_both();
\c - regress_nats_restricted
ALTER ROLE CURRENT_USER SET nats_publish.allowed_subjects = '';
ALTER ROLE CURRENT_USER RESET nats_publish.allowed_subjects;
ALTER ROLE CURRENT_USER RESET ALL;
\c - regress_nats_restricted
SELECT publish_both();
\set VERBOSITY default
SELECT rolname, unnest(setconfig) AS setting FROM pg_db_role_setting JOIN pg_roles ON pg_roles.oid = setrole WHERE rolname LIKE 'regress\_nats\_%';
-- It is the session's, not the role's.
\c - :superuser
SET ROLE regress_nats_restricted;
SELECT publish_both();
RESET ROLE;

-- What the administrator gives can be used: a function, or the right to set it.
\c - regress_nats_restricted
SELECT publish_both();
SELECT privileges_definer('privileges.bad');
SELECT publish_both();
RESET nats_publish.allowed_subjects;
\c - :superuser
GRANT SET ON PARAMETER nats_publish.allowed_subjects TO regress_nats_group;
\c - regress_nats_restricted
SELECT publish_both();
RESET nats_publish.allowed_subjects;
SELECT publish_both();
SET nats_publish.allowed_subjects = '';
SELECT publish_both();
\c - regress_nats_restricted
SET nats_publish.allowed_subjects = '';
SELECT publish_both();
\c - :superuser
REVOKE SET ON PARAMETER nats_publish.allowed_subjects FROM regress_nats_group;

SELECT delete_stream('PRIVILEGES');
DROP TABLE privileges_settings;
DROP FUNCTION publish_both, privileges_definer(text), privileges_own(text);
REVOKE ALL ON SCHEMA public FROM regress_nats_restricted;
REVOKE ALL ON FUNCTION nats_session_stats(), nats_publish(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM regress_nats_restricted;
DROP ROLE regress_nats_restricted, regress_nats_group;

-- One call gives a role all that it needs to publish, or to publish its tables.
SELECT create_stream('PRIVILEGES_GRANT', 'privileges_grant.>');
CREATE ROLE regress_nats_publisher;
CREATE ROLE "regress nats Owner";
CREATE SCHEMA regress_nats_owned AUTHORIZATION "regress nats Owner";
SELECT nats_grant('regress_nats_publisher', 'publish');
SELECT nats_grant('"regress nats Owner"', 'publish tables');
SELECT error_of($$SELECT nats_grant('regress_nats_publisher', 'all')$$);
SET ROLE regress_nats_publisher;
SELECT stream FROM nats_publish('privileges_grant.a', 'x');
SELECT (nats_await(nats_publish_async('privileges_grant.a', '{"id": 2}'))).stream, nats_flush(), (SELECT count(*) FROM nats_futures());
SELECT nats_publish_on_commit('privileges_grant.a', '{"id": 2}'::jsonb);
SELECT nats_publish_outbox('privileges_grant.a', '\x00'::bytea) IS NOT NULL AS published;
BEGIN;
SELECT nats_annotate('{"a": "b"}');
COMMIT;
SELECT error_of($$SELECT nats_publish_table('pg_class')$$), error_of($$SELECT nats_grant('regress_nats_publisher', 'publish')$$);
SET ROLE "regress nats Owner";
CREATE TABLE regress_nats_owned.t (id int PRIMARY KEY);
SELECT nats_publish_table('regress_nats_owned.t', 'privileges_grant.t');
SELECT trigger_name, error FROM nats_published_tables WHERE relation = 'regress_nats_owned.t'::regclass ORDER BY trigger_name;
INSERT INTO regress_nats_owned.t VALUES (1);
SELECT nats_unpublish_table('regress_nats_owned.t');
SELECT error_of($$SELECT nats_publish('privileges_grant.a', 'x'::text)$$);
RESET ROLE;
DELETE FROM nats_outbox WHERE subject = 'privileges_grant.a';
DROP OWNED BY regress_nats_publisher, "regress nats Owner";
DROP ROLE regress_nats_publisher, "regress nats Owner";
SELECT delete_stream('PRIVILEGES_GRANT');
