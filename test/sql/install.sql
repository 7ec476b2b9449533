-- What CREATE EXTENSION creates, and who may use it.

-- Row and array types are members of an extension only since PostgreSQL 17. Indexes and triggers are none, but as good.
CREATE TEMP VIEW objects AS
SELECT classid, objid, pg_describe_object(classid, objid, 0) COLLATE "C" AS object
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
    AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'nats_publish')
    AND pg_describe_object(classid, objid, 0) NOT LIKE '%[]'
    AND NOT (classid = 'pg_class'::regclass AND (SELECT relkind FROM pg_class WHERE oid = objid) IN ('c', 'S'))
    AND NOT (classid = 'pg_type'::regclass AND EXISTS (SELECT FROM pg_class WHERE reltype = objid AND relkind <> 'c'));
CREATE TEMP VIEW parts AS
SELECT classid, objid, pg_describe_object(classid, objid, 0) COLLATE "C" AS object
FROM (SELECT 'pg_class'::regclass AS classid, indexrelid AS objid, indrelid AS relation FROM pg_index
      WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
      UNION ALL SELECT 'pg_trigger'::regclass, oid, tgrelid FROM pg_trigger WHERE NOT tgisinternal) AS part
WHERE relation IN (SELECT objid FROM objects WHERE classid = 'pg_class'::regclass);
SELECT object FROM objects ORDER BY object;
SELECT object FROM parts ORDER BY object;

CREATE TEMP VIEW functions AS
SELECT p.* FROM pg_proc p JOIN objects o ON o.classid = 'pg_proc'::regclass AND o.objid = p.oid;

-- Publishing must neither be planned away nor run in a parallel worker, and no argument is skipped for being null.
SELECT provolatile, proparallel, proisstrict, prosecdef, proleakproof, count(*) > 0 AS "some"
FROM functions GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5;

-- Nobody but the owner may execute any of them: proacl is set, and has nothing for PUBLIC. Nor use any relation.
SELECT oid::regprocedure AS function FROM functions WHERE proacl IS NULL;
SELECT f.oid::regprocedure AS function, a.privilege_type
FROM functions f, aclexplode(f.proacl) a WHERE a.grantee = 0;
SELECT o.object, a.privilege_type
FROM objects o JOIN pg_class c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid, aclexplode(c.relacl) a WHERE a.grantee = 0;

-- Everything is commented.
SELECT object AS without_comment FROM (TABLE objects UNION ALL TABLE parts) AS o WHERE obj_description(objid, classid::regclass::name) IS NULL;
SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'nats_publish';

-- The names and defaults of arguments are part of the interface.
\pset format unaligned
\pset tuples_only on
SELECT format('%s(%s) -> %s', proname, pg_get_function_arguments(oid), pg_get_function_result(oid)) COLLATE "C" AS signature
FROM functions ORDER BY signature;
\pset format aligned
\pset tuples_only off

-- An ordinary role can do nothing ...
CREATE ROLE regress_nats_nobody;
SET ROLE regress_nats_nobody;
SELECT nats_publish('install.a', 'x');
SELECT nats_publish_async('install.a', 'x');
SELECT nats_server_info();
SELECT nats_jetstream('STREAM.NAMES');
SELECT nats_create_stream('INSTALL', '{install.>}');
RESET ROLE;

-- ... until it is granted, and then no more than that.
SELECT nats_create_stream('INSTALL', '{install.>}', '{"storage": "memory"}') -> 'config' ->> 'name' AS stream;
GRANT EXECUTE ON FUNCTION nats_publish(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) TO regress_nats_nobody;
SET ROLE regress_nats_nobody;
SELECT * FROM nats_publish('install.a', 'x'::text);
SELECT * FROM nats_publish('install.a', 'x'::bytea);
SELECT nats_jetstream('STREAM.DELETE.INSTALL');
RESET ROLE;
REVOKE ALL ON FUNCTION nats_publish(text, text, jsonb, text, text, bigint, bigint, interval, text, text, numeric, timestamptz) FROM regress_nats_nobody;
DROP ROLE regress_nats_nobody;
SELECT nats_jetstream('STREAM.DELETE.INSTALL') ->> 'success' AS deleted;

-- Whoever could put operators and functions into its schema before it was created, has no part in its views.
CREATE ROLE regress_nats_trickster;
CREATE DATABASE regress_nats_tricked TEMPLATE template0;
SELECT current_database() AS before \gset
\c regress_nats_tricked
GRANT CREATE ON SCHEMA public TO regress_nats_trickster;
SET ROLE regress_nats_trickster;
CREATE TABLE tricked (how text);
CREATE FUNCTION trick(how text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.tricked VALUES (how || ' by ' || current_user);
    RETURN true;
END
$$;
CREATE FUNCTION minus(numeric, bigint) RETURNS numeric LANGUAGE sql AS $$SELECT 1::numeric FROM public.trick('numeric - bigint')$$;
CREATE OPERATOR - (LEFTARG = numeric, RIGHTARG = bigint, FUNCTION = minus);
CREATE FUNCTION bits(smallint, int) RETURNS int LANGUAGE sql AS $$SELECT 1 FROM public.trick('smallint & int')$$;
CREATE OPERATOR & (LEFTARG = smallint, RIGHTARG = int, FUNCTION = bits);
CREATE FUNCTION same(oid, regprocedure) RETURNS boolean LANGUAGE sql AS $$SELECT $1 = $2::oid FROM public.trick('oid = regprocedure')$$;
CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regprocedure, FUNCTION = same);
CREATE FUNCTION cat(text, oid) RETURNS text LANGUAGE sql AS $$SELECT $1 FROM public.trick('text || oid')$$;
CREATE OPERATOR || (LEFTARG = text, RIGHTARG = oid, FUNCTION = cat);
CREATE FUNCTION concat(bigint, text, oid) RETURNS text LANGUAGE sql AS $$SELECT $2 FROM public.trick('concat')$$;
CREATE FUNCTION to_jsonb(pg_replication_slots) RETURNS jsonb LANGUAGE sql AS $$SELECT '{}'::jsonb FROM public.trick('to_jsonb')$$;
CREATE FUNCTION array_remove(text[], text) RETURNS text[] LANGUAGE sql AS $$SELECT $1 FROM public.trick('array_remove')$$;
RESET ROLE;
CREATE EXTENSION nats_publish;
CREATE TABLE items (id int PRIMARY KEY);
SELECT nats_publish_table('items', 'install.items');
SELECT count(*) FROM nats_published_tables;
SELECT count(*) FROM nats_wal_relay;
SELECT count(*) FROM nats_relay;
SELECT count(*) FROM nats_outbox_messages;
SELECT DISTINCT how FROM tricked ORDER BY how;
-- Of what is PostgreSQL's own, there are no dependencies.
SELECT DISTINCT ev_class::regclass AS view, pg_describe_object(refclassid, refobjid, 0) AS uses
FROM pg_class JOIN pg_rewrite ON ev_class = pg_class.oid JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = pg_rewrite.oid
WHERE relnamespace = 'public'::regnamespace AND refclassid IN ('pg_operator'::regclass, 'pg_proc'::regclass) AND NOT EXISTS (SELECT FROM pg_depend AS member
    WHERE member.classid = d.refclassid AND member.objid = d.refobjid AND member.deptype = 'e');
\c :before
DROP DATABASE regress_nats_tricked;
DROP ROLE regress_nats_trickster;

-- It can be created in a schema of its own, and again.
CREATE SCHEMA nats;
BEGIN;
DROP EXTENSION nats_publish;
CREATE EXTENSION nats_publish SCHEMA nats;
SELECT (nats.nats_server_info()).jetstream;
-- Which is called otherwise then; somebody else's can have its name.
ALTER SCHEMA nats RENAME TO "regress nats";
SET search_path = "regress nats", public;
CREATE SCHEMA nats;
CREATE FUNCTION nats.nats_publish_command() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not this one'; END$$;
SELECT nats_relay_pause();
SELECT paused FROM nats_control;
SELECT nats_relay_resume();
SELECT nats_outbox_retry(1), nats_outbox_retry_all();
SELECT nats_publish_ddl('install.{command}', delivery => 'outbox');
CREATE TABLE told (id int);
SELECT subject FROM nats_outbox;
SELECT nats_unpublish_ddl();
CREATE ROLE regress_nats_nobody;
SELECT nats_grant('regress_nats_nobody', 'publish tables');
SELECT has_table_privilege('regress_nats_nobody', 'nats_published_tables', 'SELECT');
SET ROLE regress_nats_nobody;
SELECT count(*) FROM nats_published_tables;
RESET ROLE;
ROLLBACK;
DROP SCHEMA nats;
SELECT (nats_server_info()).jetstream;
