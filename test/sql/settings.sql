-- The settings: their bounds and units, who may set them, and what is not shown.
-- A server that does not preload the library knows nothing of them before its first use in a session.
LOAD 'nats_publish';

\pset format unaligned
SELECT name, unit, context, vartype, min_val, max_val, enumvals, boot_val
FROM pg_settings
WHERE name LIKE 'nats\_publish.%' AND name <> 'nats_publish.url' ORDER BY name COLLATE "C";
\pset format aligned
SELECT context, vartype, boot_val FROM pg_settings WHERE name = 'nats_publish.url';

-- Each is described.
SELECT name FROM pg_settings WHERE name LIKE 'nats\_publish.%' AND coalesce(short_desc, '') !~ '^[A-Z].*\.$';

-- Units.
SET nats_publish.connect_timeout = '3s';
SHOW nats_publish.connect_timeout;
SET nats_publish.ack_timeout = 1500;
SHOW nats_publish.ack_timeout;
SET nats_publish.commit_timeout = '1min';
SHOW nats_publish.commit_timeout;
SET nats_publish.max_pending_bytes = '1MB';
SHOW nats_publish.max_pending_bytes;
SET nats_publish.max_pending_bytes = 2048;
SHOW nats_publish.max_pending_bytes;
SET nats_publish.max_pending = 1;
SET nats_publish.on_full = error;
SHOW nats_publish.on_full;
SET nats_publish.auto_msg_id = off;
RESET ALL;
SHOW nats_publish.commit_timeout;
SHOW nats_publish.max_pending_bytes;

-- Bounds, in an error whose words differ between versions.
\set VERBOSITY sqlstate
SET nats_publish.connect_timeout = 0;
SET nats_publish.connect_timeout = '2h';
SET nats_publish.ack_timeout = 0;
SET nats_publish.ack_timeout = '-1s';
SET nats_publish.ack_timeout = '2d';
SET nats_publish.commit_timeout = 0;
SET nats_publish.commit_timeout = '1 year';
SET nats_publish.max_pending = 0;
SET nats_publish.max_pending = 1000001;
SET nats_publish.max_pending_bytes = 0;
SET nats_publish.max_pending_bytes = '63kB';
SET nats_publish.max_pending_bytes = '2GB';
SET nats_publish.on_full = 'block';
SET nats_publish.auto_msg_id = 'perhaps';
SET nats_publish.commit_batch = 'one';

\set VERBOSITY default

-- Those of the relay are the configuration file's, and checked when they are written to it.
\set VERBOSITY sqlstate
SET nats_publish.relay_databases = 'postgres';
SET nats_publish.relay_ordering = relaxed;
SET nats_publish.relay_batch_size = 10;
SET nats_publish.relay_poll_interval = '10s';
SET nats_publish.relay_max_attempts = 1;
ALTER SYSTEM SET nats_publish.relay_databases = 'app, , billing';
ALTER SYSTEM SET nats_publish.relay_databases = 'app billing';
ALTER SYSTEM SET nats_publish.relay_databases = '"app';
ALTER SYSTEM SET nats_publish.relay_ordering = 'loose';
ALTER SYSTEM SET nats_publish.relay_batch_size = 0;
ALTER SYSTEM SET nats_publish.relay_batch_size = 100001;
ALTER SYSTEM SET nats_publish.relay_poll_interval = '9ms';
ALTER SYSTEM SET nats_publish.relay_poll_interval = '2h';
ALTER SYSTEM SET nats_publish.relay_max_attempts = 0;
ALTER SYSTEM SET nats_publish.relay_max_attempts = 1000001;
\set VERBOSITY default
ALTER SYSTEM SET nats_publish.relay_databases = 'app billing';
-- Good ones; not read again before they are gone.
ALTER SYSTEM SET nats_publish.relay_databases = 'app, "My, App" , billing';
ALTER SYSTEM SET nats_publish.relay_poll_interval = '10ms';
ALTER SYSTEM RESET nats_publish.relay_databases;
ALTER SYSTEM RESET nats_publish.relay_poll_interval;

-- A place in a trace, as W3C Trace Context has it.
CREATE FUNCTION traceparent_error(value text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('nats_publish.traceparent', value, true);
    RETURN 'good';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate;
END
$$;
SELECT value, traceparent_error(value) FROM (VALUES (''), ('00-0123456789abcdef0123456789abcdef-0123456789abcdef-01'),
    ('00-00000000000000000000000000000001-0000000000000001-00'), ('00-00000000000000000000000000000000-0123456789abcdef-01'),
    ('00-0123456789abcdef0123456789abcdef-0000000000000000-01'), ('00-0123456789ABCDEF0123456789abcdef-0123456789abcdef-01'),
    ('01-0123456789abcdef0123456789abcdef-0123456789abcdef-01'), ('00-0123456789abcdef0123456789abcdef-0123456789abcdef-0'),
    ('00-0123456789abcdef0123456789abcdef-0123456789abcdef-01-'), (E'00-0123456789abcdef0123456789abcdef-0123456789abcdef-0\n'), (' ')) AS v (value);
DROP FUNCTION traceparent_error;

-- There are no others.
SET nats_publish.unknown = 1;
\echo :LAST_ERROR_SQLSTATE
SELECT set_config('nats_publish.url2', 'x', false);

-- URLs.
CREATE FUNCTION url_error(url text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    PERFORM set_config('nats_publish.url', url, true);
    RETURN 'good';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN format('%s: %s', sqlstate, detail)
        || CASE WHEN message || detail || hint ~ 'secret' THEN ' AND SHOWS ' || message ELSE '' END;
END
$$;
CREATE TEMP TABLE urls (id serial, url text);
INSERT INTO urls (url) VALUES
    ('nats://127.0.0.1:4222'), ('nats://localhost'), ('localhost'), ('localhost:4222'), ('127.0.0.1'), ('nats://[::1]:4222'),
    ('nats://[::1]'), ('[::1]:4222'), ('nats://localhost:4222/'), ('nats://a:1, nats://b:2 ,nats://c'),
    ('nats://user:secret@host:4222'), ('nats://secret@host'), ('user:secret@host'), ('nats://us%40er:se%3Acret@host'),
    ('nats://user:@host'), ('nats://user:p@ss@host'), ('nats://host:65535');
SELECT url, url_error(url) FROM urls ORDER BY id;
TRUNCATE urls RESTART IDENTITY;
INSERT INTO urls (url) VALUES
    (''), (' '), (','), ('nats://'), ('nats://a,'), ('nats://a,,nats://b'), ('nats:// host'), ('nats://a b'),
    ('http://host'), ('ws://host'), ('nats:/host'), ('nats//host'), ('nats://host/path'), ('nats://host?x=1'), ('nats://host#x'),
    ('nats://host:'), ('nats://host:0'), ('nats://host:65536'), ('nats://host:99999999999'), ('nats://host:port'),
    ('nats://host:-1'), ('nats://host: 42'), ('nats://:4222'), ('nats://[::1'), ('nats://[::1]x'), ('nats://[]'),
    ('nats://@host'), ('nats://:secret@host'), ('nats://user:secret@'), ('nats://user:secret@host:x'),
    ('nats://user:secret%zz@host'), ('nats://user:secret%@host'), ('nats://user:secret%00@host'),
    ('nats://good, nats://user:secret@ho st'), ('http://user:secret@host'), ('nats://' || repeat('h', 256)),
    (E'nats://ho\rst'), (E'nats://ho\nst'), ('nats://user:' || repeat('secret', 200) || '@host');
SELECT left(url, 40) AS url, url_error(url) FROM urls ORDER BY id;
DROP FUNCTION url_error;
-- Not even the server's own error shows the value.
SET nats_publish.url = 'nats://user:secret@ho st';

-- Inbox prefixes.
SET nats_publish.inbox_prefix = '';
SET nats_publish.inbox_prefix = '_INBOX.';
SET nats_publish.inbox_prefix = '_INBOX.*';
SET nats_publish.inbox_prefix = '_INBOX.>';
SET nats_publish.inbox_prefix = 'a b';
-- What nobody can publish to, nobody can be answered on.
\set VERBOSITY sqlstate
SET nats_publish.inbox_prefix = E'a\r\nSUB > 1';
SET nats_publish.inbox_prefix = '$JS.API';
SET nats_publish.inbox_prefix = '$SYS';
\set VERBOSITY default
SET nats_publish.inbox_prefix = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx';
SET nats_publish.inbox_prefix = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx';
SET nats_publish.inbox_prefix = '_INBOX_app.1';
SHOW nats_publish.inbox_prefix;
RESET nats_publish.inbox_prefix;

-- An ordinary role neither sees nor sets the URL. The words of these errors differ between versions.
CREATE ROLE regress_nats_user;
SET ROLE regress_nats_user;
\set VERBOSITY sqlstate
SHOW nats_publish.url;
SELECT current_setting('nats_publish.url');
SET nats_publish.url = 'nats://127.0.0.1';
SET nats_publish.inbox_prefix = '_INBOX_user';
\set VERBOSITY default
SELECT count(*) FROM pg_settings WHERE name = 'nats_publish.url';
SELECT count(*) FROM pg_settings WHERE name = 'nats_publish.inbox_prefix';
SET nats_publish.ack_timeout = '1s';
SET nats_publish.max_pending = 10;
RESET ROLE;
-- What it sets before the library is loaded is dropped then.
ALTER ROLE regress_nats_user LOGIN;
GRANT EXECUTE ON FUNCTION nats_session_stats() TO regress_nats_user;
SELECT current_user AS superuser \gset
\c - regress_nats_user
SET nats_publish.url = 'nats://other';
SET nats_publish.max_pending = 77;
SELECT published FROM nats_session_stats();
SHOW nats_publish.max_pending;
\c - :superuser
SELECT current_setting('nats_publish.url') <> 'nats://other' AS "not other";
REVOKE ALL ON FUNCTION nats_session_stats() FROM regress_nats_user;
LOAD 'nats_publish';
-- What is set for a role is checked too.
ALTER ROLE regress_nats_user SET nats_publish.url = 'nats://other';
ALTER ROLE regress_nats_user SET nats_publish.on_full = 'error';
ALTER ROLE regress_nats_user SET nats_publish.inbox_prefix = '*';
GRANT SET ON PARAMETER nats_publish.inbox_prefix TO regress_nats_user;
SET ROLE regress_nats_user;
SET nats_publish.inbox_prefix = '_INBOX_user';
RESET ROLE;
REVOKE SET ON PARAMETER nats_publish.inbox_prefix FROM regress_nats_user;
DROP ROLE regress_nats_user;
