
# However many rows a statement changes, publishing them takes no more memory than one's settings allow; however many
# statements, tables and failures a session has seen, it is no larger for them. And a table that changes its shape
# under the statements that change its rows.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;

# In kB: what may be in memory of what is held, changed or unacknowledged, and what malloc keeps and PostgreSQL caches.
my $WORK_MEM = 1024;
my $MAX_PENDING = 4 * 1024;
my $FEW_MB = 4 * 1024;
# A leak of sixty bytes per statement would be more than that; one of PostgreSQL's caches may get another block.
my $CONTEXTS = 1024;

my $nats = NatsServer->new(jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
# counts all and keeps the last ones: it is not the server's memory that this measures
$client->create_stream('M', ['m.>'], max_msgs => 1000, duplicate_window => 1_000_000_000);
$client->create_stream('FULL', ['full.>'], max_msgs => 1, discard => 'new');
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.max_pending_bytes' => "${MAX_PENDING}kB",
	'log_statement' => 'none',
	'log_min_error_statement' => 'panic',
	'log_min_messages' => 'log',
	'work_mem' => "${WORK_MEM}kB",
	'temp_buffers' => '1MB',
	'autovacuum' => 'off');

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }
sub last_seq { return $client->stream_info('M')->{state}{last_seq}; }
# There, or on the way there.
sub published { return last_seq() + sql('SELECT count(*) FROM nats_outbox'); }
sub last_message { return $client->get_message('M', last_seq()); }

# One statement that changes many rows

sql(q(CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$));

my %STATEMENTS = (
	insert => q(INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, COUNT) AS i),
	update => q(UPDATE t SET v = 'new ' || id),
	delete => q(DELETE FROM t));

# Makes a table t with so many rows (unless it shall be filled) and triggers; what the statement and its COMMIT add to a
# new session, and the time they take.
sub measure
{
	my ($op, $count, $triggers) = @_;
	sql(q(TRUNCATE nats_outbox; DROP TABLE IF EXISTS t; CREATE UNLOGGED TABLE t (id int PRIMARY KEY, v text)));
	sql($STATEMENTS{insert} =~ s/COUNT/$count/r) if $op ne 'insert';
	sql($triggers);
	my $session = PsqlSession->new($node);
	# all that a session needs once
	$session->value(q(BEGIN; INSERT INTO t VALUES (-1, ''); UPDATE t SET v = 'x' WHERE id = -1; DELETE FROM t WHERE id = -1; COMMIT));
	my $before = process_memory($session->pid);
	my $published = published();
	$session->value('BEGIN');
	my ($statement, $seconds) = peak_memory($session, $STATEMENTS{$op} =~ s/COUNT/$count/r);
	my ($commit, $more) = peak_memory($session, 'COMMIT');
	return { statement => $statement - $before, commit => $commit - $before, seconds => $seconds + $more, published => published() - $published };
}

my %ordinary;
sub compare
{
	my ($op, $count, $level, $delivery) = @_;
	my $what = sprintf '%s of %d rows, by %s, %s', $op, $count, $level, $delivery;
	# An ordinary trigger for rows has PostgreSQL remember each of them; one for statements does not.
	$ordinary{"$op $count $level"} //= measure($op, $count, $level eq 'row' ?
			'CREATE TRIGGER nothing AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION nothing()' : '');
	my $plain = $ordinary{"$op $count $level"};
	my $published = measure($op, $count, "SELECT nats_publish_table('t', 'm.t', level => '$level', delivery => '$delivery')");
	note(sprintf '%s: %d kB, then %d kB in COMMIT (without publishing %d and %d), %.1f s (%.1f s)', $what,
		(map { @$_{ 'statement', 'commit' } } $published, $plain), $published->{seconds}, $plain->{seconds});
	# the rows that were changed and what is held of them, or their futures
	my $limit = 3 * $WORK_MEM + $MAX_PENDING + $FEW_MB;
	cmp_ok($published->{statement} - $plain->{statement}, '<', $limit, "$what: memory is bounded");
	cmp_ok($published->{commit} - $plain->{commit}, '<', $limit, 'and so it is in COMMIT');
	is($published->{published}, $count, 'all messages are there');
	my $last = $delivery eq 'outbox' ? sql(q(SELECT convert_from(payload, 'UTF8') FROM nats_outbox ORDER BY id DESC LIMIT 1)) : last_message()->{payload};
	like($last, qr/"op":"$op",.*"key":\{"id":$count\}/, 'up to the last row');
	return;
}

compare('insert', 1_000_000, 'row', 'on_commit');
compare('update', 200_000, 'row', 'on_commit');
compare('insert', 200_000, 'statement', 'on_commit');
compare('update', 1_000_000, 'statement', 'on_commit');
compare('delete', 200_000, 'statement', 'on_commit');
compare('insert', 1_000_000, 'row', 'async');
compare('delete', 200_000, 'row', 'async');
compare('update', 1_000_000, 'statement', 'async');
compare('insert', 200_000, 'row', 'outbox');
compare('update', 200_000, 'statement', 'outbox');
compare('insert', 20_000, 'row', 'sync');
compare('update', 20_000, 'statement', 'sync');

# Many statements, of one row each

sub contexts { my ($session) = @_; return $session->value('SELECT sum(total_bytes) / 1024 FROM pg_backend_memory_contexts'); }

# How much a session grows by something that it has done a tenth of before, in kB; and what else it says.
sub growth
{
	my ($session, $count, $make_sql) = @_;
	$session->run($make_sql->($count / 10), 170);
	my ($contexts, $memory) = (contexts($session), process_memory($session->pid));
	my $result = $session->run($make_sql->($count), 170);
	$result->{contexts} = contexts($session) - $contexts;
	$result->{memory} = process_memory($session->pid) - $memory;
	return $result;
}

my $session = PsqlSession->new($node, settings => { bytea_output => 'escape', IntervalStyle => 'iso_8601' });

# That the session does not grow, or not more than another one by something alike.
sub check_growth
{
	my ($what, $count, $make_sql, $other) = @_;
	my $growth = growth($session, $count, $make_sql);
	my $expected = $other // { contexts => 0, memory => 0 };
	note(sprintf '%s: %d kB of contexts, %d kB, %.1f s', $what, @$growth{ 'contexts', 'memory', 'seconds' });
	cmp_ok($growth->{contexts} - $expected->{contexts}, '<', $CONTEXTS, "$what: memory contexts are as large as before");
	cmp_ok($growth->{memory} - $expected->{memory}, '<', $FEW_MB, 'and so is the process');
	return $growth->{error};
}

sql(q(CREATE UNLOGGED TABLE r (id int PRIMARY KEY, v text, b bytea DEFAULT '\x00', s interval DEFAULT '1 day');
	CREATE UNLOGGED TABLE s (LIKE r INCLUDING ALL);
	SELECT nats_publish_table('r', 'm.r.{id}', headers => '{"V": "{v}"}', msg_id => '{xid}-{op}-{id}');
	SELECT nats_publish_table('s', 'm.s.{id}', level => 'statement', delivery => 'async', format => 'cloudevents', old => true)));

sub loop { my ($count, $statements) = @_; return "DO \$\$ BEGIN FOR i IN 1 .. $count LOOP $statements END LOOP; END \$\$"; }

my $seq = last_seq();
is(check_growth('30,000 statements in transactions of their own, row by row', 30_000, sub {
	loop($_[0] / 3, q(INSERT INTO r VALUES (i, 'x'); COMMIT; UPDATE r SET v = 'y' WHERE id = i; COMMIT; DELETE FROM r WHERE id = i; COMMIT;)) }), '', 'without an error');
is(check_growth('30,000 statements in transactions of their own, as statements', 30_000, sub {
	loop($_[0] / 3, q(INSERT INTO s VALUES (i, 'x'); COMMIT; UPDATE s SET v = 'y' WHERE id = i; COMMIT; DELETE FROM s WHERE id = i; COMMIT;)) }), '', 'without an error');
is(check_growth('20,000 statements in one transaction, row by row', 20_000, sub {
	loop($_[0] / 2, q(INSERT INTO r VALUES (i, 'x'); DELETE FROM r WHERE id = i;)) }), '', 'without an error');
is(check_growth('20,000 statements in one transaction, as statements', 20_000, sub {
	loop($_[0] / 2, q(INSERT INTO s VALUES (i, 'x'); DELETE FROM s WHERE id = i;)) }), '', 'without an error');
is(last_seq() - $seq, 1.1 * 100_000, 'each of them is in the stream');
is($session->value('SELECT published - acked, failed FROM nats_session_stats()'), '0|0', 'once');

# What fails

sql(q(CREATE TABLE unsent (id int, v text); SELECT nats_publish_table('unsent', 'nowhere.{id}', key => '{id}');
	CREATE TABLE unsent_s (id int, v text); SELECT nats_publish_table('unsent_s', 'm.{v}', key => '{id}', level => 'statement');
	CREATE TABLE long (id int, v text); SELECT nats_publish_table('long', 'm.{v}', key => '{id}');
	CREATE TABLE filled (id int, v text); SELECT nats_publish_table('filled', 'full.{id}', key => '{id}', delivery => 'async');
	CREATE TABLE later (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text); SELECT nats_publish_table('later', 'm.later');
	INSERT INTO later VALUES (1, '');
	CREATE TABLE wrong (id int, v text);
	CREATE TRIGGER wrong AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION nats_publish_change('subject=m.{nothing}');
	CREATE TYPE no_json AS ENUM ('a');
	CREATE FUNCTION no_json(no_json) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RAISE 'no JSON'; END $$;
	CREATE CAST (no_json AS json) WITH FUNCTION no_json(no_json);
	CREATE TABLE unwritten (id int PRIMARY KEY, b bytea DEFAULT '\x00ff', v no_json DEFAULT 'a');
	SELECT nats_publish_table('unwritten', 'm.unwritten');
	CREATE TABLE unwritten_s (LIKE unwritten INCLUDING ALL); SELECT nats_publish_table('unwritten_s', 'm.unwritten', level => 'statement')));

my %failing = (
	'42704' => [q(INSERT INTO unsent VALUES (1, 'x');)],
	'22023' => [q(INSERT INTO long VALUES (1, repeat('x', 5000));), q(INSERT INTO unsent_s SELECT n, repeat('x', n * 500) FROM generate_series(1, 9) AS n;)],
	'42703' => [q(INSERT INTO wrong VALUES (1, 'x');)],
	'53400' => [q(INSERT INTO filled VALUES (1, 'x'), (2, 'x');)],
	'23505' => [q(BEGIN; INSERT INTO later VALUES (1, 'x'), (2, 'x'); COMMIT;)],
	'P0001' => [q(INSERT INTO unwritten VALUES (1);), q(INSERT INTO unwritten_s VALUES (1);)]);
foreach my $sqlstate (sort keys %failing)
{
	is($session->sqlstate($_), $sqlstate, "fails: $_") foreach @{ $failing{$sqlstate} };
}
is($session->value('SHOW bytea_output; SHOW IntervalStyle'), "escape\niso_8601", 'what failed has left the settings as they were');

# no stream: that takes its time
delete $failing{42704};
my @failing = map { @$_ } @failing{ sort keys %failing };
# without what COMMIT finds
my @caught = map { "BEGIN $_ EXCEPTION WHEN others THEN NULL; END;" } grep { !/filled|BEGIN/ } @failing;
my $errors = () = check_growth('10,000 failed transactions', 10_000, sub {
	my $path = PostgreSQL::Test::Utils::tempdir('failing') . '/script.sql';
	open(my $file, '>', $path) or die "$path: $!";
	print $file "\\set VERBOSITY terse\n", (map { join("\n", @failing) . "\n" } 1 .. $_[0] / @failing);
	close $file or die "$path: $!";
	return "\\i $path\n" }) =~ /ERROR: /g;
cmp_ok($errors, '>=', 9_990, 'they have failed');
is(check_growth('10,000 caught failures in one transaction', 10_000, sub { loop($_[0] / @caught, "@caught") }), '', 'without an error');
is($session->value('SHOW bytea_output; SHOW IntervalStyle'), "escape\niso_8601", 'the settings are as they were');

# Many tables

sub tables
{
	my ($count, $publish, $unpublish) = @_;
	return loop($count, <<"END");
		EXECUTE 'CREATE ' || CASE i % 2 WHEN 0 THEN 'TEMP' ELSE 'UNLOGGED' END || ' TABLE many (id int PRIMARY KEY, v text)';
		EXECUTE $publish; COMMIT;
		EXECUTE 'INSERT INTO many VALUES (1, ''a'')'; EXECUTE 'UPDATE many SET v = ''b'''; EXECUTE 'SELECT row_to_json(many) FROM many'; EXECUTE 'DELETE FROM many'; COMMIT;
		IF i % 3 > 0 THEN EXECUTE '$unpublish'; COMMIT; END IF;
		EXECUTE 'DROP TABLE many'; COMMIT;
END
}

$seq = last_seq();
# PostgreSQL itself remembers something of each table, and of each one whose rows became JSON.
my $ordinary = growth(PsqlSession->new($node), 2_000, sub {
	tables($_[0], q('CREATE TRIGGER ordinary BEFORE UPDATE ON many FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()'),
		q(DROP TRIGGER ordinary ON many)) });
is($ordinary->{error}, '', 'tables with an ordinary trigger');
note(sprintf '2,000 tables with an ordinary trigger: %d kB of contexts, %d kB, %.1f s', @$ordinary{ 'contexts', 'memory', 'seconds' });
is(check_growth('2,000 tables', 2_000, sub {
	tables($_[0], q('SELECT nats_publish_table(''many'', ''m.{table}.{id}'', level => ''' || CASE i % 4 / 2 WHEN 0 THEN 'row' ELSE 'statement' END || ''')'),
		q(SELECT nats_unpublish_table(''many''))) }, $ordinary), '', 'without an error');
is(last_seq() - $seq, 1.1 * 2_000 * 3, 'their messages are in the stream');
cmp_ok($session->value(q(SELECT count(*) FROM pg_backend_memory_contexts WHERE name LIKE 'nats_publish change plan')), '<', 40, 'no plan is left of tables that are gone');
is(check_growth('a table that is published 2,000 times', 2_000, sub {
	loop($_[0], q(PERFORM nats_publish_table('r', 'm.r.' || i || '.{id}'); INSERT INTO r VALUES (i); COMMIT; DELETE FROM r; COMMIT;)) }), '', 'without an error');
$session->close;
unlike(slurp_file($node->logfile), qr/leak|WARNING|PANIC|terminated by signal/, 'without a word in the log');

# A table whose columns come, go and are renamed while it is written to

foreach my $level ('row', 'statement')
{
	$client->create_stream('A', ['a.>']);
	sql(q(DROP TABLE IF EXISTS a; CREATE TABLE a (id int PRIMARY KEY, x text, n int NOT NULL DEFAULT 1)));
	sql("SELECT nats_publish_table('a', 'a.{id}', level => '$level', old => true)");
	my @writers = map { PsqlSession->new($node) } 1, 2;
	my $altering = PsqlSession->new($node);
	$writers[$_]->begin(loop(400, qq(INSERT INTO a VALUES (i * 2 + $_, 'x' || i * 2 + $_); COMMIT; UPDATE a SET n = n + 1 WHERE id = i * 2 + $_; COMMIT;)))
		foreach 0, 1;
	my $rounds = 0;
	while (grep { $_->is_running } @writers)
	{
		$altering->value(q(ALTER TABLE a ADD COLUMN more int DEFAULT 5; ALTER TABLE a RENAME x TO y; ALTER TABLE a ADD COLUMN most text;
			ALTER TABLE a ALTER n TYPE bigint; ALTER TABLE a DROP COLUMN more; ALTER TABLE a RENAME y TO x;
			ALTER TABLE a ALTER n TYPE int; ALTER TABLE a DROP COLUMN most));
		$rounds++;
	}
	is($_->finish->{error}, '', "level $level: what a table's owner does to it is no error for those who write") foreach @writers;
	note("$rounds rounds");
	cmp_ok($rounds, '>', 0, 'it was changed meanwhile');
	sql('DROP TABLE IF EXISTS message');
	stream_to_table($client, 'A', $node, 'postgres', 'message');
	is(sql(q(SELECT count(*), count(DISTINCT subject) FROM message WHERE payload ->> 'op' = 'insert')), '800|800', 'each row is in the stream');
	is(sql(q(SELECT count(*), count(DISTINCT subject) FROM message WHERE payload ->> 'op' = 'update')), '800|800', 'and each of its updates');
	is(sql(q(SELECT r FROM message, LATERAL (VALUES (payload -> 'new'), (payload -> 'old')) AS v (r) WHERE r IS NOT NULL
			AND NOT (coalesce(r ->> 'x', r ->> 'y') = 'x' || (r ->> 'id') AND 'a.' || (r ->> 'id') = subject AND (r -> 'n') IN ('1', '2')
				AND coalesce(r -> 'more', '5') IN ('5', 'null') AND coalesce(r -> 'most', 'null') = 'null'
				AND (SELECT count(*) FROM jsonb_object_keys(r) AS name WHERE name NOT IN ('more', 'most')) = 3) LIMIT 5)), '', 'as it was at that time');
	is(sql(q(SELECT payload FROM message WHERE payload ->> 'op' = 'update' AND payload -> 'changed' <> '["n"]' LIMIT 5)), '', 'with what has changed');
	$client->delete_stream('A');
}

done_testing();
