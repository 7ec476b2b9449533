
# Published tables outlive their server: pg_dump brings their triggers back, and neither a restore nor replication
# publishes again what was published when it was written.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use PsqlSession;
use PublishTest;

my ($nats, $client) = nats_with_stream('D', ['d.>']);
my $node = publishing_node('main', 'nats_publish.url' => $nats->url, log_statement => 'none', wal_level => 'logical', max_wal_senders => 10);

sub stored { return $client->stream_info('D')->{state}{messages}; }

# The subjects (with operations) of the messages that something publishes.
sub published_by
{
	my ($code) = @_;
	my $before = $client->stream_info('D')->{state}{last_seq};
	$code->();
	my $after = $client->stream_info('D')->{state}{last_seq};
	return join ' ', sort map { "$_->{headers}{'Pg-Op'}[0]=$_->{subject}" } map { $client->get_message('D', $_) } $before + 1 .. $after;
}

# Dump and restore

# The extension is in a schema of its own, and names are no easy ones.
my $TABLES = <<'END';
CREATE SCHEMA "Nats Ext";
CREATE EXTENSION nats_publish SCHEMA "Nats Ext";
CREATE SCHEMA "Odd ""Schema""";
SET search_path = public, "Nats Ext";

CREATE TABLE plain (id int PRIMARY KEY, v text);
SELECT nats_publish_table('plain', 'd.plain.{id}');

CREATE TABLE by_statement (id int PRIMARY KEY, v text);
SELECT nats_publish_table('by_statement', 'd.statement.{id}', level => 'statement', old => true);

CREATE TABLE "Odd ""Schema"""."It's a \ ""Table"".{id}" ("The ID" int PRIMARY KEY, "a, b" text, "{op}" text, "back\slash" int, "ünï" text);
SELECT nats_publish_table('"Odd ""Schema"""."It''s a \ ""Table"".{id}"', 'd.{{odd}}.{table}.{"The ID"}.{"{op}"}.{a, b}', delivery => 'async', format => 'cloudevents',
	columns => '{The ID,"a, b","{op}","back\\slash",ünï}', ignore => '{"{op}",ünï}', key => '{The ID,back\\slash}',
	msg_id => '{xid}-{op}-{The ID}-''quote\', headers => '{"X-Quote": "it''s \"{a, b}\" \\ {op}", "X-Plain": "a=b, c"}', old => true, events => '{update,insert}');

CREATE TABLE every_option (id int, alt int NOT NULL UNIQUE, v text, w text);
SELECT nats_publish_table('every_option', subject => 'd.every.{alt}', level => 'statement', delivery => 'sync', format => 'debezium',
	columns => '{alt,v}', ignore => '{v}', key => '{alt}', msg_id => NULL, headers => '{}', old => false, events => '{insert,delete,truncate}');

CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (10);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (id);
CREATE TABLE parted_2_1 PARTITION OF parted_2 DEFAULT;
SELECT nats_publish_table('parted', 'd.parted.{id}');

CREATE TABLE own (id int PRIMARY KEY, "Customer Id" int, v text);
CREATE TRIGGER "It's my ""own""" AFTER INSERT OR UPDATE OF v OR DELETE ON own FOR EACH ROW
	EXECUTE FUNCTION nats_publish_change('subject=d.own.{id}', 'delivery=async', 'columns=ID , "Customer Id"', 'old=yes');
CREATE TRIGGER rows_of_a_statement AFTER INSERT ON own REFERENCING NEW TABLE AS "n""r" FOR EACH STATEMENT
	EXECUTE FUNCTION nats_publish_change(E'subject=d.own.statement.{id}', 'msg_id=\x{xid}\y{id}');
CREATE TRIGGER when_it_is_two AFTER UPDATE ON own FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION nats_publish_change('subject=d.own.when');
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON own DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
	EXECUTE FUNCTION nats_publish_change('subject=d.own.deferred');

CREATE TABLE boxed (id int PRIMARY KEY, v text);
SELECT nats_publish_table('boxed', 'd.boxed.{id}', delivery => 'outbox', payload => 'v');

CREATE TABLE switched (id int PRIMARY KEY, v text);
SELECT nats_publish_table('switched', 'd.switched.{id}', level => 'statement');
ALTER TABLE switched DISABLE TRIGGER nats_publish_update;
ALTER TABLE switched ENABLE REPLICA TRIGGER nats_publish_delete;
ALTER TABLE switched ENABLE ALWAYS TRIGGER nats_publish_truncate;
CREATE TABLE never (id int PRIMARY KEY);
SELECT nats_publish_table('never', 'd.never');
SELECT nats_unpublish_table('never');
END

# On every table, in one transaction and in every way.
my $CHANGES = <<'END';
INSERT INTO public.plain VALUES (1, 'a'), (2, 'b'); UPDATE public.plain SET v = 'c' WHERE id = 1; DELETE FROM public.plain WHERE id = 2;
INSERT INTO public.by_statement VALUES (1, 'a'), (2, 'b'); UPDATE public.by_statement SET id = id + 10; TRUNCATE public.by_statement;
INSERT INTO public.by_statement VALUES (3, '');
INSERT INTO "Odd ""Schema"""."It's a \ ""Table"".{id}" VALUES (1, 'it''s', NULL, 2, 'ü');
UPDATE "Odd ""Schema"""."It's a \ ""Table"".{id}" SET "{op}" = 'x'; UPDATE "Odd ""Schema"""."It's a \ ""Table"".{id}" SET "a, b" = 'x';
INSERT INTO public.every_option VALUES (1, 1, 'a', 'b'), (2, 2, 'a', 'b');
UPDATE public.every_option SET alt = 3 WHERE id = 1; DELETE FROM public.every_option WHERE alt = 2;
INSERT INTO public.parted VALUES (1, 'a'), (20, 'b'); UPDATE public.parted SET id = 21 WHERE id = 1; DELETE FROM public.parted_2_1 WHERE id = 20;
INSERT INTO public.own VALUES (1, 1, 'a'), (2, 2, 'b'); UPDATE public.own SET v = 'c'; UPDATE public.own SET "Customer Id" = 3; DELETE FROM public.own WHERE id = 1;
INSERT INTO public.switched VALUES (1, 'a'); UPDATE public.switched SET v = 'b'; DELETE FROM public.switched;
TRUNCATE public.switched; INSERT INTO public.switched VALUES (2, 'b');
INSERT INTO public.never VALUES (1);
INSERT INTO public.boxed VALUES (1, 'it''s a\b'); UPDATE public.boxed SET v = 'ü'; DELETE FROM public.boxed;
END
my $CLEAN = 'SET session_replication_role = replica; TRUNCATE public.plain, public.by_statement,
	"Odd ""Schema"""."It\'s a \ ""Table"".{id}", public.every_option, public.parted, public.own, public.boxed, public.never;
	DELETE FROM public.switched WHERE id <> 2; RESET session_replication_role;';

sub database
{
	my ($name) = @_;
	$node->safe_psql('postgres', qq(CREATE DATABASE "$name" TEMPLATE template0 ENCODING 'UTF8'));
	return $name;
}

my $TRIGGERS = 'SELECT tgrelid::regclass, tgname, tgtype, tgenabled, tgdeferrable, tgnargs, encode(tgargs, \'escape\'), pg_get_triggerdef(oid)
	FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgrelid::regclass::text, tgname';
my $VIEW = 'SELECT * FROM "Nats Ext".nats_published_tables ORDER BY relation::text, trigger_name';

database('before');
$node->safe_psql('before', $TABLES);
my $changes = published_by(sub { $node->safe_psql('before', "BEGIN; $CHANGES COMMIT") });
# What is missing: updates of columns that are ignored, not published or not events, and what is switched off. An update
# that moves a row to another partition is two changes.
is($changes, join(' ', sort
		'insert=d.plain.1', 'insert=d.plain.2', 'update=d.plain.1', 'delete=d.plain.2', 'truncate=d.statement.%00',
		(map { "insert=d.statement.$_" } 1, 2, 3), (map { "update=d.statement.$_" } 11, 12),
		'insert=d.{odd}.It%27s%20a%20%5C%20%22Table%22%2E%7Bid%7D.1.%00.it%27s', 'update=d.{odd}.It%27s%20a%20%5C%20%22Table%22%2E%7Bid%7D.1.x.x',
		'insert=d.every.1', 'insert=d.every.2', 'delete=d.every.2',
		'insert=d.parted.1', 'insert=d.parted.20', 'delete=d.parted.1', 'insert=d.parted.21', 'delete=d.parted.20',
		(map { ("insert=d.own.$_", "insert=d.own.statement.$_", 'insert=d.own.deferred', 'update=d.own.when') } 1, 2), 'delete=d.own.1',
		'insert=d.switched.1', 'truncate=d.switched.%00', 'insert=d.switched.2'), 'the tables are published');
my $view = $node->safe_psql('before', $VIEW);
note($view);
is(scalar(split /\n/, $view), 22, 'nats_published_tables has a row for each trigger, but none for those of partitions');
my $ROWS = 'SELECT * FROM plain, by_statement, every_option, parted, own, switched; SELECT * FROM "Nats Ext".nats_outbox ORDER BY id';
my $rows = $node->safe_psql('before', $ROWS);
# Those that wait for the relay, without what is different each time.
my $OUTBOX = q(SELECT id, subject, convert_from(payload, 'UTF8'), headers - 'Pg-Xid' FROM "Nats Ext".nats_outbox ORDER BY id);
my $outbox = $node->safe_psql('before', $OUTBOX);
like($outbox, qr/\A1\|d\.boxed\.1\|it's a\\b\|.*\n2\|d\.boxed\.1\|ü\|.*\n3\|d\.boxed\.1\|ü\|.*"delete".*\z/, 'messages in the outbox');
my $triggers = $node->safe_psql('before', $TRIGGERS);

my $dir = PostgreSQL::Test::Utils::tempdir('dump');
my $source = $node->connstr('before');
my %restores = (
	'a plain dump' => sub {
		command_ok([ 'pg_dump', '-f', "$dir/plain.sql", '-d', $source ], 'pg_dump');
		command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $_[0], '-f', "$dir/plain.sql" ], 'psql restores it');
	},
	'a plain dump of INSERTs' => sub {
		command_ok([ 'pg_dump', '--column-inserts', '-f', "$dir/inserts.sql", '-d', $source ], 'pg_dump');
		command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $_[0], '-f', "$dir/inserts.sql" ], 'psql restores it');
	},
	'a custom dump' => sub {
		command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", '-d', $source ], 'pg_dump');
		command_ok([ 'pg_restore', '-1', '-d', $_[0], "$dir/custom" ], 'pg_restore');
	},
	'a directory, in parallel' => sub {
		command_ok([ 'pg_dump', '-Fd', '-f', "$dir/directory", '-d', $source ], 'pg_dump');
		command_ok([ 'pg_restore', '-j', '2', '-d', $_[0], "$dir/directory" ], 'pg_restore');
	},
	'the schema, then the data' => sub {
		command_ok([ 'pg_dump', '-s', '-f', "$dir/schema.sql", '-d', $source ], 'pg_dump of the schema');
		command_ok([ 'pg_dump', '-a', '-f', "$dir/data.sql", '-d', $source ], 'pg_dump of the data');
		local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
		command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $_[0], '-f', "$dir/schema.sql", '-f', "$dir/data.sql" ], 'psql restores both');
	});

foreach my $how (sort keys %restores)
{
	my $to = database($how);
	note($how);
	is(published_by(sub { $restores{$how}->($node->connstr($to)) }), '', 'the restore publishes nothing');
	is($node->safe_psql($to, $ROWS), $rows, 'the rows are there, and the messages that wait in the outbox');
	is($node->safe_psql($to, $TRIGGERS), $triggers, 'the triggers are the same');
	is($node->safe_psql($to, $VIEW), $view, 'nats_published_tables is the same');
	is(published_by(sub { $node->safe_psql($to, "$CLEAN BEGIN; $CHANGES COMMIT") }), $changes, 'the same changes publish the same messages');
	is($node->safe_psql($to, $OUTBOX), join("\n", $outbox, map { ($_ + 3) . ((split /\n/, $outbox)[ $_ - 1 ] =~ s/^\d+//r) } 1 .. 3),
		'and put the same into the outbox, behind those that wait');
}

# Data alone, into tables that are published: these are changes like others
foreach my $how ([], ['--disable-triggers'])
{
	$node->safe_psql('a custom dump', $CLEAN);
	is(published_by(sub { command_ok([ 'pg_restore', '-a', @$how, '-t', 'plain', '-d', $node->connstr('a custom dump'), "$dir/custom" ], 'pg_restore of the data') }),
		@$how ? '' : 'insert=d.plain.1', 'data that is loaded into a published table is published, unless its triggers are disabled');
}

# A session that says that it replicates
is(published_by(sub { $node->safe_psql('before', "SET session_replication_role = replica; INSERT INTO plain VALUES (100, ''); DELETE FROM switched") }),
	'delete=d.switched.2', 'session_replication_role = replica fires none but those that are for it');

# The extension

my $result = PsqlSession->new($node, dbname => 'before')->run('ALTER EXTENSION nats_publish SET SCHEMA public');
is($result->{sqlstate}, '0A000', 'the extension stays in its schema');
my $session = PsqlSession->new($node, dbname => 'a plain dump');
$result = $session->run('DROP EXTENSION nats_publish');
is($result->{sqlstate}, '2BP01', 'DROP EXTENSION is refused while there are triggers');
like($result->{error}, qr/trigger nats_publish_row on table plain depends on function "Nats Ext"\.nats_publish_change\(\)/, 'and names them');
$session->value("INSERT INTO plain VALUES (50, '')");
$session->value('SET client_min_messages = error; DROP EXTENSION nats_publish CASCADE');
is($session->value('SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal'), 0, 'with CASCADE, it drops them');
is(published_by(sub { $session->value("INSERT INTO plain VALUES (51, ''); INSERT INTO parted VALUES (5, '')") }), '', 'the tables are tables as before');
$session->value('CREATE EXTENSION nats_publish SCHEMA "Nats Ext"; SELECT "Nats Ext".nats_publish_table(\'plain\', \'d.again.{id}\')');
is(published_by(sub { $session->value("INSERT INTO plain VALUES (52, '')") }), 'insert=d.again.52', 'and can be published again');
$session->close;

# Logical replication

my $subscriber = publishing_node('subscriber', 'nats_publish.url' => $nats->url, wal_retrieve_retry_interval => '200ms', max_logical_replication_workers => 8);
$_->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, v text)') foreach $node, $subscriber;
$node->safe_psql('postgres', "INSERT INTO t VALUES (1, 'before'); SELECT nats_publish_table('t', 'd.from.{id}'); CREATE PUBLICATION p FOR TABLE t");
$subscriber->safe_psql('postgres', "SELECT nats_publish_table('t', 'd.to.{id}')");

sub catch_up
{
	$node->wait_for_catchup('s');
	return;
}

# What is published by both of changes on the publisher.
sub replicated
{
	my ($sql) = @_;
	return published_by(sub { $node->safe_psql('postgres', $sql); catch_up(); });
}

is(published_by(sub {
		$subscriber->safe_psql('postgres', q(CREATE SUBSCRIPTION s CONNECTION ') . $node->connstr . q( dbname=postgres' PUBLICATION p));
		$subscriber->poll_query_until('postgres', "SELECT count(*) = 1 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel") or die 'no initial copy';
		catch_up();
	}), '', 'the first copy of a table publishes nothing');
my $every = q(BEGIN; INSERT INTO t VALUES (2, 'a'), (3, 'b'); UPDATE t SET v = 'c' WHERE id = 2; UPDATE t SET id = 4 WHERE id = 3;
	DELETE FROM t WHERE id = 2; COMMIT; TRUNCATE t);
my $from = 'delete=d.from.2 insert=d.from.2 insert=d.from.3 truncate=d.from.%00 update=d.from.2 update=d.from.4';
is(replicated($every), $from, 'the publisher publishes its changes once, the subscriber those that it applies not at all');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM t'), 0, 'and it has applied them');
is(published_by(sub { $subscriber->safe_psql('postgres', "INSERT INTO t VALUES (100, 'own')") }), 'insert=d.to.100', 'its own ones are published');

$subscriber->safe_psql('postgres', 'ALTER TABLE t ENABLE ALWAYS TRIGGER nats_publish_row, ENABLE ALWAYS TRIGGER nats_publish_truncate');
is($subscriber->safe_psql('postgres', 'SELECT trigger_name, enabled FROM nats_published_tables ORDER BY 1'),
	"nats_publish_row|always\nnats_publish_truncate|always", 'nats_published_tables tells when triggers fire');
is(replicated($every), join(' ', sort split(/ /, $from), split(/ /, $from =~ s/from/to/gr)), 'ENABLE ALWAYS: the subscriber publishes what it applies');
is($client->get_message('D', $client->stream_info('D')->{state}{last_seq})->{headers}{'Pg-Table'}[0], 'public.t', 'with all headers');

# A subscriber that can't publish does not apply; it tries again
$node->safe_psql('postgres', "SELECT nats_unpublish_table('t')");
my $log_start = -s $subscriber->logfile;
$client->js('STREAM.UPDATE.D', { name => 'D', subjects => ['e.>'], storage => 'memory' });
$node->safe_psql('postgres', "INSERT INTO t VALUES (7, 'a')");
$subscriber->wait_for_log(qr/background worker "logical replication.* exited with exit code 1/, $log_start);
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = 7'), 0, 'no stream takes the message: the change is not applied');
is(published_by(sub { $client->js('STREAM.UPDATE.D', { name => 'D', subjects => ['d.>'], storage => 'memory' }); catch_up(); }), 'insert=d.to.7',
	'until there is one, and the message is there once');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = 7'), 1, 'and so is the row');

# Level statement: changes are applied row by row, so there is no statement
$subscriber->safe_psql('postgres', q(SELECT nats_publish_table('t', 'd.to.{id}', level => 'statement');
	ALTER TABLE t ENABLE ALWAYS TRIGGER nats_publish_insert, ENABLE ALWAYS TRIGGER nats_publish_truncate));
is(replicated("INSERT INTO t VALUES (8, 'a'); TRUNCATE t"), 'truncate=d.to.%00', 'what is applied fires no statement trigger but of TRUNCATE');

$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');
unlike(slurp_file($_->logfile), qr/PANIC|terminated by signal|leak/, 'nothing else has happened') foreach $node, $subscriber;

done_testing();
