-- Servers and users of NATS as foreign servers and user mappings: their options, and who may use and see what.
\getenv directory PG_ABS_SRCDIR
\set helpers :directory '/helpers.psql'
\i :helpers
SELECT current_setting('nats_publish.url') AS url, current_user AS superuser \gset

SELECT fdwhandler = 0 AS no_handler, fdwvalidator::regproc AS validator FROM pg_foreign_data_wrapper WHERE fdwname = 'nats';

-- What an error says. No text of it may have a value in it: each that is a secret has this word.
CREATE FUNCTION option_error(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'good';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' / ', sqlstate || ': ' || message, nullif(detail, ''), nullif(hint, ''))
        || CASE WHEN message || detail || hint ~* 'secret' THEN ' AND SHOWS THE VALUE' ELSE '' END;
END
$$;
CREATE TEMP TABLE options (id serial, options text);
\pset format unaligned

-- A server.
INSERT INTO options (options) VALUES
    (''), ($$OPTIONS (inbox_prefix '_PG')$$), ($$OPTIONS (url '')$$), ($$OPTIONS (url 'http://localhost')$$),
    ($$OPTIONS (url 'nats://localhost:0')$$), ($$OPTIONS (url 'nats://a,,nats://b')$$),
    ($$OPTIONS (url 'nats://secret@localhost')$$), ($$OPTIONS (url 'nats://user:secret@localhost')$$),
    ($$OPTIONS (url 'nats://localhost, nats://user:secret@localhost:4223')$$), ($$OPTIONS (url 'nats://user:secret@ho st')$$),
    ($$OPTIONS (url 'nats://localhost', inbox_prefix '')$$), ($$OPTIONS (url 'nats://localhost', inbox_prefix '_PG.>')$$),
    ($$OPTIONS (url 'nats://localhost', inbox_prefix '$JS.API')$$), ($$OPTIONS (url 'nats://localhost', inbox_prefix E'a\r\nSUB > 1')$$),
    ($$OPTIONS (url 'nats://localhost', inbox_prefix 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx')$$),
    ($$OPTIONS (url 'nats://localhost', randomize 'perhaps')$$), ($$OPTIONS (url 'nats://localhost', randomize '')$$),
    ($$OPTIONS (url 'nats://localhost', tls_handshake_first '2')$$), ($$OPTIONS (url 'nats://localhost', tls_ca_file '')$$),
    ($$OPTIONS (url 'nats://localhost', "URL" 'nats://localhost')$$), ($$OPTIONS (url 'nats://localhost', password 'secret')$$),
    ($$OPTIONS (url 'nats://localhost', creds_file '/secret')$$), ($$OPTIONS (url 'nats://localhost', url 'nats://other')$$);
SELECT options, option_error('CREATE SERVER regress_nats FOREIGN DATA WRAPPER nats ' || options) FROM options ORDER BY id;
TRUNCATE options RESTART IDENTITY;
CREATE SERVER regress_nats TYPE 'nats' VERSION '2' FOREIGN DATA WRAPPER nats
    OPTIONS (url 'nats://a:1, tls://[::1]:2,c', inbox_prefix '_PG.app', randomize 'YES', tls_ca_file '/ca.pem', tls_handshake_first 'off');
SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'regress_nats';
ALTER SERVER regress_nats OPTIONS (SET url 'nats://d', DROP inbox_prefix, DROP tls_ca_file, SET randomize 'f');
SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'regress_nats';
ALTER SERVER regress_nats OPTIONS (ADD inbox_prefix '_PG');
INSERT INTO options (options) VALUES
    ($$(SET url 'nats://user:secret@d')$$), ($$(DROP url)$$), ($$(ADD url 'nats://e')$$), ($$(SET tls_ca_file '/ca.pem')$$), ($$(DROP tls_ca_file)$$),
    ($$(ADD token 'secret')$$), ($$(SET inbox_prefix '*')$$), ($$(SET randomize 'no way')$$);
SELECT options, option_error('ALTER SERVER regress_nats OPTIONS ' || options) FROM options ORDER BY id;
TRUNCATE options RESTART IDENTITY;
SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'regress_nats';

-- The wrapper has no options, nor has a foreign table, of which there can't be a useful one.
SELECT option_error($$ALTER FOREIGN DATA WRAPPER nats OPTIONS (ADD url 'nats://localhost')$$);
SELECT option_error($$CREATE FOREIGN TABLE foreign_server_table (i int) SERVER regress_nats OPTIONS (subject 'x')$$);
CREATE FOREIGN TABLE foreign_server_table (i int) SERVER regress_nats;
SELECT * FROM foreign_server_table;
\echo :LAST_ERROR_SQLSTATE
DROP FOREIGN TABLE foreign_server_table;
DROP SERVER regress_nats;

-- A user mapping.
CREATE SERVER regress_nats FOREIGN DATA WRAPPER nats OPTIONS (url :'url');
CREATE FUNCTION mapping_error(options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    error text := option_error('CREATE USER MAPPING FOR PUBLIC SERVER regress_nats ' || options);
BEGIN
    IF error = 'good' THEN
        DROP USER MAPPING FOR PUBLIC SERVER regress_nats;
    END IF;
    RETURN error;
END
$$;
INSERT INTO options (options) VALUES
    (''), ($$OPTIONS (user 'app', password 'secret')$$), ($$OPTIONS (token 'secret')$$), ($$OPTIONS (creds_file '/secret.creds')$$),
    ($$OPTIONS (tls_cert_file '/secret.pem', tls_key_file '/secret.key')$$),
    ($$OPTIONS (user 'app', password 'secret', tls_cert_file '/secret.pem', tls_key_file '/secret.key')$$),
    ($$OPTIONS (user 'secret')$$), ($$OPTIONS (password 'secret')$$), ($$OPTIONS (user 'app', password '')$$),
    ($$OPTIONS (user '', password 'secret')$$),
    ($$OPTIONS (token '')$$), ($$OPTIONS (creds_file '')$$), ($$OPTIONS (creds '')$$), ($$OPTIONS (creds 'secret')$$),
    ($$OPTIONS (nkey_seed '')$$), ($$OPTIONS (nkey_seed 'SUSECRET')$$),
    ($$OPTIONS (user 'app', password 'secret', token 'secret')$$), ($$OPTIONS (token 'secret', creds_file '/secret')$$),
    ($$OPTIONS (tls_cert_file '/secret.pem')$$), ($$OPTIONS (tls_key_file '/secret.key')$$),
    ($$OPTIONS (user 'app', password_file '/secret')$$), ($$OPTIONS (username 'app', password 'secret')$$),
    ($$OPTIONS ("user" 'app', "PASSWORD" 'secret')$$), ($$OPTIONS (url 'nats://secret@localhost')$$);
SELECT options, mapping_error(options) FROM options ORDER BY id;
TRUNCATE options RESTART IDENTITY;
-- The seed of a user, which no server knows; that of an account begins with SA.
\set seed 'SUAACAQDAQCQMBYIBEFAWDANBYHRAEISCMKBKFQXDAMRUGY4DUPB6IC5CQ'
SELECT mapping_error(format('OPTIONS (nkey_seed %L)', :'seed'));
SELECT mapping_error(format('OPTIONS (nkey_seed %L)', overlay(:'seed' PLACING 'SA' FROM 1)));
SELECT mapping_error(format('OPTIONS (nkey_seed %L)', overlay(:'seed' PLACING 'B' FROM 10)));
SELECT format(E'-----BEGIN NATS USER JWT-----\nx.y.z\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n', :'seed') AS creds \gset
SELECT mapping_error(format('OPTIONS (creds %L)', :'creds'));
SELECT mapping_error(format('OPTIONS (creds %L)', replace(:'creds', E'\n', E'\r\n')));
SELECT mapping_error(format('OPTIONS (creds %L)', replace(:'creds', 'USER JWT', 'USER')));
SELECT mapping_error(format('OPTIONS (creds %L)', replace(:'creds', :'seed', 'SUSECRET')));
SELECT mapping_error(format('OPTIONS (creds %L)', replace(:'creds', 'x.y.z', repeat('secret', 5000))));
SELECT mapping_error(format('OPTIONS (creds %L)', :'creds' || repeat('secret', 3000)));
SELECT mapping_error(format('OPTIONS (user %L, password %L)', 'app', repeat('secret', 200)));
SELECT mapping_error(format('OPTIONS (token %L)', repeat('secret', 200)));

CREATE USER MAPPING FOR CURRENT_USER SERVER regress_nats OPTIONS (user 'app', password 'secret');
INSERT INTO options (options) VALUES
    ($$(SET password 'a secret')$$), ($$(DROP password)$$), ($$(DROP user)$$), ($$(ADD token 'secret')$$), ($$(SET token 'secret')$$),
    ($$(ADD nkey_seed 'secret')$$), ($$(ADD user 'secret')$$), ($$(SET password '')$$), ($$(DROP user, DROP password, ADD token 'a secret')$$),
    ($$(SET token 'another secret')$$);
SELECT options, option_error('ALTER USER MAPPING FOR CURRENT_USER SERVER regress_nats OPTIONS ' || options) FROM options ORDER BY id;
SELECT umoptions FROM pg_user_mappings WHERE srvname = 'regress_nats';
DROP USER MAPPING FOR CURRENT_USER SERVER regress_nats;

-- Who may use a server: who has USAGE.
CREATE ROLE regress_nats_app LOGIN;
CREATE ROLE regress_nats_owner;
CREATE ROLE regress_nats_group;
GRANT EXECUTE ON FUNCTION nats_publish(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) TO regress_nats_app, regress_nats_owner;
CREATE FOREIGN DATA WRAPPER regress_nats_other;
CREATE SERVER regress_nats_other FOREIGN DATA WRAPPER regress_nats_other;
SELECT create_stream('FOREIGN', 'foreign.>');
SET ROLE regress_nats_app;
-- The setting is anybody's, and only looked at when something is published.
SET nats_publish.server = 'regress_nats_none';
SELECT nats_publish('foreign.a', 'x'::text);
\echo :LAST_ERROR_SQLSTATE
SET nats_publish.server = 'regress_nats_other';
SELECT nats_publish('foreign.a', 'x'::text);
\echo :LAST_ERROR_SQLSTATE
SET nats_publish.server = 'regress_nats';
SELECT nats_publish('foreign.a', 'x'::text);
\echo :LAST_ERROR_SQLSTATE
-- Upper and lower case make another name.
SET nats_publish.server = 'REGRESS_NATS';
SELECT nats_publish('foreign.a', 'x'::text);
\echo :LAST_ERROR_SQLSTATE
RESET nats_publish.server;
SELECT stream FROM nats_publish('foreign.a', 'x'::text);
RESET ROLE;
SET nats_publish.server = 'regress_nats';
SELECT stream FROM nats_publish('foreign.a', 'x');
GRANT USAGE ON FOREIGN SERVER regress_nats TO regress_nats_app;
SET ROLE regress_nats_app;
SELECT stream FROM nats_publish('foreign.a', 'x'::text);
RESET ROLE;
REVOKE USAGE ON FOREIGN SERVER regress_nats FROM regress_nats_app;
SET ROLE regress_nats_app;
SELECT nats_publish('foreign.a', 'x'::text);
RESET ROLE;
-- As a member of a group, too.
GRANT USAGE ON FOREIGN SERVER regress_nats TO regress_nats_group;
GRANT regress_nats_group TO regress_nats_app;
SET ROLE regress_nats_app;
SELECT stream FROM nats_publish('foreign.a', 'x'::text);
RESET ROLE;
REVOKE regress_nats_group FROM regress_nats_app;
SET ROLE regress_nats_app;
SELECT nats_publish('foreign.a', 'x'::text);
RESET ROLE;
SELECT stream_count('FOREIGN');
RESET nats_publish.server;

-- Who sees what of a mapping: its user, if it may use the server, and the server's owner that of PUBLIC.
ALTER SERVER regress_nats OWNER TO regress_nats_owner;
CREATE USER MAPPING FOR regress_nats_app SERVER regress_nats OPTIONS (user 'app', password 'secret');
CREATE USER MAPPING FOR regress_nats_owner SERVER regress_nats OPTIONS (token 'secret');
CREATE USER MAPPING FOR PUBLIC SERVER regress_nats OPTIONS (token 'public secret');
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'regress_nats' ORDER BY usename COLLATE "C";
SET ROLE regress_nats_app;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'regress_nats' ORDER BY usename COLLATE "C";
SELECT umoptions FROM pg_user_mapping;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER regress_nats TO regress_nats_app;
SET ROLE regress_nats_app;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'regress_nats' ORDER BY usename COLLATE "C";
RESET ROLE;
SET ROLE regress_nats_owner;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'regress_nats' ORDER BY usename COLLATE "C";
RESET ROLE;
SET ROLE regress_nats_group;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'regress_nats' ORDER BY usename COLLATE "C";
SELECT count(*) FROM pg_foreign_server WHERE srvname = 'regress_nats' AND srvoptions::text !~ 'secret';
RESET ROLE;

-- An ordinary role may make servers and mappings, once it may use the wrapper; but name no file of the database server.
SET ROLE regress_nats_owner;
SELECT option_error($$CREATE SERVER regress_nats_own FOREIGN DATA WRAPPER nats OPTIONS (url 'nats://localhost')$$);
RESET ROLE;
GRANT USAGE ON FOREIGN DATA WRAPPER nats TO regress_nats_owner;
SET ROLE regress_nats_owner;
CREATE SERVER regress_nats_own FOREIGN DATA WRAPPER nats OPTIONS (url 'nats://localhost', randomize 'on', tls_handshake_first 'off', inbox_prefix '_PG');
SELECT option_error($$ALTER SERVER regress_nats_own OPTIONS (ADD tls_ca_file '/secret')$$);
CREATE USER MAPPING FOR CURRENT_USER SERVER regress_nats_own;
SELECT option_error(format('ALTER USER MAPPING FOR CURRENT_USER SERVER regress_nats_own OPTIONS (%s)', options))
FROM (VALUES (1, $$ADD creds_file '/secret'$$), (2, $$ADD tls_cert_file '/secret', ADD tls_key_file '/secret'$$), (3, $$ADD user 'app', ADD password 'secret'$$)) AS o (id, options)
ORDER BY id;
DROP SERVER regress_nats_own CASCADE;
-- The file that a superuser has named stays as it is, or goes.
RESET ROLE;
ALTER USER MAPPING FOR regress_nats_owner SERVER regress_nats OPTIONS (DROP token, ADD creds_file '/secret');
SET ROLE regress_nats_owner;
SELECT option_error($$ALTER USER MAPPING FOR CURRENT_USER SERVER regress_nats OPTIONS (SET creds_file '/another')$$);
SELECT option_error($$ALTER USER MAPPING FOR CURRENT_USER SERVER regress_nats OPTIONS (DROP creds_file, ADD token 'secret')$$);
RESET ROLE;

-- What is chosen for a role is used by its next session.
DROP USER MAPPING FOR regress_nats_app SERVER regress_nats;
DROP USER MAPPING FOR PUBLIC SERVER regress_nats;
ALTER ROLE regress_nats_app SET nats_publish.server = 'regress_nats_none';
\c - regress_nats_app
SELECT nats_publish('foreign.a', 'x'::text);
\c - :superuser
ALTER ROLE regress_nats_app SET nats_publish.server = 'regress_nats';
\c - regress_nats_app
SELECT stream FROM nats_publish('foreign.a', 'x'::text);
\c - :superuser

-- The extension does not go without its servers.
\set VERBOSITY terse
DROP EXTENSION nats_publish;
\set VERBOSITY default

SELECT delete_stream('FOREIGN');
DROP SERVER regress_nats CASCADE;
DROP FOREIGN DATA WRAPPER regress_nats_other CASCADE;
REVOKE ALL ON FUNCTION nats_publish(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM regress_nats_app, regress_nats_owner;
REVOKE ALL ON FOREIGN DATA WRAPPER nats FROM regress_nats_owner;
DROP ROLE regress_nats_app, regress_nats_owner, regress_nats_group;
DROP FUNCTION mapping_error, option_error;
