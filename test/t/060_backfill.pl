
# Rows that are there already, while others change them: a table that is filled from nothing but the stream is equal to
# the published one, no row is older than what the stream has of it, and whatever is killed in the middle, each row
# comes at least once.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use PsqlSession;
use PublishTest;

# The changes of a run are those of the run with the same seed: SEED=... make test T=backfill. How the clients and
# the chunks overtake each other is not.
my $SEED = $ENV{SEED} // (time * 1000) % 1_000_000_000;
my $ROWS = 2000;
my $CLIENTS = 4;
srand $SEED;
note("SEED=$SEED");

my ($nats, $client) = nats_with_stream('B', ['b.>'], storage => 'file');
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	# of the table whose changes are read from the WAL; all rows have one subject
	shared_preload_libraries => 'nats_publish',
	'nats_publish.relay_databases' => join(',', map { "backfill_wal_$_" } 1 .. 5),
	'nats_publish.relay_ordering' => 'relaxed',
	wal_level => 'logical',
	log_statement => 'none',
	restart_after_crash => 'on',
	max_connections => 30,
	max_worker_processes => 20,
	deadlock_timeout => '20ms');

# Changes of any row, also of those that the chunks have not reached. New keys are among the old ones, and behind them.
sub pick { return $_[rand @_]; }
sub key { return 1 + int rand 2 * $ROWS; }

# One that has moved from where a chunk will be to where one was is only in the stream as a change, and the other way round
# it is read where it is.
sub change
{
	my $key = key();
	return pick(
		"UPDATE t SET v = v + 1 WHERE id = $key",
		"UPDATE t SET v = v + 1, txt = repeat('x', 1 + $key % 3000) WHERE id = $key",
		"INSERT INTO t VALUES ($key, 0, 'new') ON CONFLICT (id) DO UPDATE SET v = t.v + 1",
		"DELETE FROM t WHERE id = $key",
		"UPDATE t SET id = " . key() . ", v = v + 1 WHERE id = $key AND NOT EXISTS (SELECT FROM t WHERE id = " . key() . ')');
}

# With rollbacks, transactions of several changes; they deadlock, and keys collide.
sub transaction
{
	my ($rollbacks) = @_;
	return change() if !$rollbacks || rand() < 0.5;
	return ('BEGIN', (map { rand() < 0.2 ? ('SAVEPOINT s', change(), 'ROLLBACK TO s') : change() } 0 .. rand 4),
		rand() < 0.2 ? 'ROLLBACK' : 'COMMIT');
}

# Without rollbacks nothing may fail once it is published: a new key is only looked for where nobody else makes one.
sub script
{
	my ($number, $rollbacks, $changes) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir('changes') . '/script.sql';
	open(my $file, '>', $path) or die "$path: $!";
	my $moved = 100_000 * $number;
	foreach (1 .. $changes)
	{
		foreach my $statement (transaction($rollbacks))
		{
			$statement =~ s/SET id = \d+/'SET id = ' . ($moved += 1)/e unless $rollbacks;
			print $file "$statement;\n";
		}
	}
	close $file or die "$path: $!";
	return $path;
}

my $TABLE = 'CREATE TABLE t (gone int, id int PRIMARY KEY, v int, txt text); ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ALTER txt SET STORAGE EXTERNAL';
my $PARTITIONED = 'CREATE TABLE t (id int PRIMARY KEY, v int, txt text) PARTITION BY RANGE (id);
	CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (1) TO (700);
	CREATE TABLE t_2 (txt text, v int, gone int, id int NOT NULL); ALTER TABLE t_2 DROP COLUMN gone;
	ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (700) TO (1400);
	CREATE TABLE t_3 PARTITION OF t DEFAULT';

# Strict: what a change is about must be there, unless it is a row of the beginning that was not read yet; and what is
# read must be to the last bit what the changes before it have made of the row.
my $REPLAY = <<'END';
CREATE FUNCTION replay() RETURNS TABLE (op text, number bigint) LANGUAGE plpgsql AS $$
DECLARE
	m record;
	was t;
	now_is t;
	counts jsonb := '{}';
BEGIN
	CREATE TABLE unread AS SELECT id FROM beginning;
	CREATE UNIQUE INDEX ON unread (id);
	CREATE TABLE copy (LIKE t);
	ALTER TABLE copy ADD PRIMARY KEY (id);
	FOR m IN SELECT seq, payload ->> 'op' AS op, (payload -> 'key' ->> 'id')::int AS key,
			coalesce(payload -> 'old' -> 'id', payload -> 'key' -> 'id')::int AS old_key, payload -> 'new' AS new
		FROM message WHERE seq NOT IN (SELECT seq FROM phantom) ORDER BY seq LOOP
		counts := counts || jsonb_build_object(m.op, coalesce((counts -> m.op)::bigint, 0) + 1);
		now_is := jsonb_populate_record(NULL::t, m.new);
		SELECT * INTO was FROM copy WHERE id = m.old_key;
		IF m.op = 'insert' AND (was.id IS NOT NULL OR EXISTS (SELECT FROM unread WHERE id = m.key)) THEN
			RAISE 'message %: % is there already', m.seq, m.key;
		ELSIF m.op <> 'insert' AND was.id IS NULL AND NOT EXISTS (SELECT FROM unread WHERE id = m.old_key) THEN
			RAISE 'message %: there is no row % for %', m.seq, m.old_key, m.op;
		ELSIF m.op = 'read' AND was.id IS NOT NULL AND was *<> now_is THEN
			RAISE 'message %: % was read, and was %', m.seq, now_is, was;
		ELSIF m.op = 'update' AND was.v >= now_is.v THEN
			RAISE 'message %: % comes after %', m.seq, now_is, was;
		END IF;
		DELETE FROM copy WHERE id = m.old_key;
		DELETE FROM unread WHERE id = m.old_key;
		IF m.op <> 'delete' THEN
			INSERT INTO copy SELECT (now_is).*;
		END IF;
	END LOOP;
	RETURN QUERY SELECT key, value::bigint FROM jsonb_each_text(counts);
END $$;
END

# The messages of the outbox, as stream_to_table() has those of a stream.
my $OUTBOX = q(CREATE TABLE message AS SELECT id AS seq, subject, convert_from(payload, 'UTF8')::jsonb AS payload,
	headers || jsonb_build_object('Nats-Msg-Id', jsonb_build_array(msg_id)) AS headers FROM nats_outbox);

my $number = 0;
my $wal_number = 0;

# With a relay of its database; there are five, with two processes each.
sub is_from_wal { my (%case) = @_; return $case{delivery} eq 'wal' || $case{storage}; }

# A database with a table that has had rows before it was published.
sub table_with_rows
{
	my (%case) = @_;
	my $db = publishing_database($node, is_from_wal(%case) ? 'backfill_wal_' . ++$wal_number : 'backfill_' . ++$number);
	$client->purge('B');
	if (is_from_wal(%case))
	{
		$node->safe_psql($db, "ALTER DATABASE $db SET nats_publish.outbox_storage = '@{[ $case{storage} // 'table' ]}'");
		# its relay may not have seen yet that it is there
		$node->safe_psql($db, 'SELECT nats_relay_resume()');
		wait_for('the relay', sub { $node->safe_psql($db, 'SELECT state FROM nats_relay WHERE datname = current_database()') eq 'idle' });
		$node->safe_psql($db, 'SELECT nats_wal_enable()');
	}
	$node->safe_psql($db, ($case{table} // $TABLE) . "; INSERT INTO t SELECT i, 0, 'first' FROM generate_series(1, $ROWS) AS i;
		CREATE TABLE beginning AS SELECT * FROM t;
		CREATE TABLE done (xid xid8, ts timestamptz);
		CREATE FUNCTION done() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO done VALUES (pg_current_xact_id(), now()); RETURN NULL; END';
		CREATE TRIGGER done AFTER INSERT OR UPDATE OR DELETE ON t EXECUTE FUNCTION done();
		SELECT nats_publish_table('t', '@{[ $case{subject} // 'b.t' ]}', delivery => '$case{delivery}'); ANALYZE t");
	return $db;
}

# What the stream has comes to the table that is there; each row of the beginning was told of.
sub compare
{
	my ($what, $db, %case) = @_;
	my $sql = sub { return $node->safe_psql($db, $_[0]); };
	if (is_from_wal(%case))
	{
		my $position = $sql->('SELECT pg_current_wal_insert_lsn()');
		wait_for("the WAL up to $position", sub { $sql->("SELECT confirmed_flush_lsn >= '$position' FROM pg_replication_slots WHERE database = current_database()") eq 't' });
	}
	if ($case{delivery} eq 'outbox' && !$case{storage}) { $sql->($OUTBOX); }
	else { stream_to_table($client, 'B', $node, $db, 'message'); }
	# Of a transaction that was struck in its COMMIT there may be messages; its xid can come again. What was read is so,
	# whatever became of the chunk. The WAL has the time of its COMMIT.
	my $transaction = $case{delivery} eq 'wal' ? ["(payload ->> 'xid')::xid8", 'xid'] :
		["((payload ->> 'xid')::xid8, (payload ->> 'ts')::timestamptz)", 'xid, ts'];
	$sql->("CREATE TABLE phantom AS SELECT seq FROM message WHERE payload ->> 'op' <> 'read'
		AND $transaction->[0] NOT IN (SELECT $transaction->[1] FROM done)");
	$sql->($REPLAY);
	my ($status, $output, $error) = $node->psql($db, 'SELECT op, number FROM replay()');
	is($error, '', "$what: each message follows from those before it");
	return if $error ne '';
	cmp_ok($sql->('SELECT count(*) FROM phantom'), '<=', $case{is_crash} ? 1 : 0, 'but for the transaction that was struck');
	is($sql->('SELECT count(*) FROM unread'), 0, 'each row of the beginning was told of');
	is($sql->('SELECT count(*) FROM ((TABLE t EXCEPT TABLE copy) UNION ALL (TABLE copy EXCEPT TABLE t)) AS different'), 0,
		'the copy is equal to the table');
	is($sql->('SELECT (SELECT count(*) FROM t) - (SELECT count(*) FROM copy)'), 0, 'and as large');
	return map { split /\|/ } split /\n/, $output // '';
}

# Changes by four clients, and rows read at the same time, again and again.
sub replay
{
	my ($what, %case) = @_;
	my $db = table_with_rows(%case);
	my $rollbacks = $case{delivery} ne 'async' && $case{delivery} ne 'sync';
	my @sessions = map { PsqlSession->new($node, dbname => $db) } 1 .. $CLIENTS;
	my $caller = PsqlSession->new($node, dbname => $db);
	my @scripts = map { script($_, $rollbacks, $case{changes}) } 1 .. $CLIENTS;
	$sessions[$_]->begin("\\i $scripts[$_]\n") foreach 0 .. $#sessions;
	# also where it is in the way of others, in a deadlock or as a row moves to another partition
	my $runs = 0;
	my $failed = '';
	do
	{
		my $result = $caller->run("CALL nats_publish_rows('t', batch => $case{batch}@{[ $case{only} // '' ]})");
		$failed .= $result->{error} if $result->{sqlstate} ne '';
		$runs++;
	} while $failed eq '' && grep { $_->is_running } @sessions;
	is($failed, '', "$what: rows are read while others change them");
	my $said = join '', map { $_->finish->{error} } @sessions;
	$_->close foreach @sessions, $caller;
	my %errors;
	$errors{$_}++ foreach $said =~ /(?:ERROR|FATAL|PANIC|WARNING):  (\w{5}):/g;
	# 40001: a row that it wants has moved to another partition
	my $allowed = $rollbacks ? qr/^(23505|40P01|25P02|3B001|40001)$/ : qr/^$/;
	is(scalar(grep { $_ !~ /was already moved to another partition/ } $said =~ /40001: ([^\n]*)/g), 0, "$what: none that has to do with a message");
	is(join(' ', grep { $_ !~ $allowed } sort keys %errors), '', "$what: no error but those of the changes") or diag(substr $said, 0, 3000);
	my %counts = compare($what, $db, %case);
	note("$runs runs; " . join ', ', map { "$_ $counts{$_}" } sort keys %counts);
	cmp_ok($counts{$_} // 0, '>=', 100, "there were many of each: $_") foreach qw(insert update delete);
	cmp_ok($counts{read} // 0, '>=', $ROWS / 2, 'and many rows were read');
	return;
}

replay('held for COMMIT', delivery => 'on_commit', changes => 1500, batch => 40);
replay('without waiting', delivery => 'async', changes => 2000, batch => 40);
replay('one round trip each', delivery => 'sync', changes => 1000, batch => 20);
replay('through the outbox', delivery => 'outbox', changes => 1500, batch => 40);
replay('from the WAL', delivery => 'wal', changes => 1500, batch => 40, table => "$TABLE; ALTER TABLE t REPLICA IDENTITY FULL");
replay('through the outbox in the WAL', delivery => 'outbox', storage => 'wal', changes => 1500, batch => 40);
replay('where they are missing', delivery => 'on_commit', changes => 1500, batch => 40, subject => 'b.t.{id}', only => ', only_missing => true');
replay('of partitions', delivery => 'on_commit', changes => 1500, batch => 40, table => $PARTITIONED);

# In the middle

my $CALL = "CALL nats_publish_rows('t', batch => 50, pause => '20 ms')";

sub progress
{
	my ($db, $expression) = @_;
	return $node->safe_psql($db, "SELECT $expression FROM nats_publish_rows_progress WHERE relation = 't'::regclass");
}

# So that a run can't come to its end before what is to happen in its middle has.
sub hold_row
{
	my ($db, $id) = @_;
	my $holder = PsqlSession->new($node, dbname => $db);
	$holder->value("BEGIN; SELECT FROM t WHERE id = $id FOR UPDATE");
	return $holder;
}

# Until some, and not all, of a run's rows are read; before it has begun there is no row of it.
sub wait_for_middle
{
	my ($db, $from) = @_;
	wait_for('the middle of a run', sub { (progress($db, 'rows_read') || 0) > ($from // 0) + 200 });
	# a chunk does not wait for that itself
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	wait_for('its WAL to be on disk', sub { $node->safe_psql('postgres', "SELECT pg_current_wal_flush_lsn() >= '$lsn'") eq 't' });
	return;
}

# Something happens in the middle of a run, while others write; the same call goes on.
sub interrupt_run
{
	my ($what, $strike, %case) = @_;
	$what .= ', ' . join ' in ', grep { defined } $case{delivery}, $case{storage};
	my $db = table_with_rows(%case);
	my $caller = PsqlSession->new($node, dbname => $db);
	my $writer = PsqlSession->new($node, dbname => $db);
	my $holder = hold_row($db, $ROWS - 99);
	my $script = script(1, 0, 300);
	$writer->begin("\\i $script\n");
	$caller->begin($CALL);
	wait_for_middle($db);
	$strike->($caller, $db);
	my $result = $caller->finish;
	ok($result->{sqlstate} ne '' || $result->{error} =~ /server closed the connection|connection to server was lost/, "$what: the call ends in an error")
		or diag($result->{error});
	$holder->kill;
	eval { $writer->finish; };
	wait_until_back($node);
	$_->kill foreach $caller, $writer;
	my $read = progress($db, 'rows_read');
	is(progress($db, "state || CASE WHEN error IS NULL THEN '' ELSE ' with an error' END"), 'interrupted', 'and the run is shown as such');
	cmp_ok($read, '>=', 200, 'what was done is known');
	cmp_ok($read, '<', $ROWS, 'and that it is not all');

	my $again = PsqlSession->new($node, dbname => $db);
	$result = $again->run($CALL);
	is($result->{sqlstate}, '', 'the same call goes on') or diag($result->{error});
	my ($published, $all) = $result->{error} =~ /rows of table "t": (\d+) published, of (\d+) read/;
	is(progress($db, 'state'), 'finished', 'and comes to its end');
	cmp_ok($all, '<', $ROWS + 400, 'it did not begin anew');
	$again->close;
	compare($what, $db, %case, is_crash => scalar($what =~ /killed/));
	is($node->safe_psql($db, "SELECT count(*) - count(DISTINCT headers -> 'Nats-Msg-Id') FROM message WHERE payload ->> 'op' = 'read'"), 0,
		'no row was stored twice as it was');
	return;
}

my %STRIKES = (
	cancelled => sub { my ($caller, $db) = @_; $node->safe_psql($db, 'SELECT pg_cancel_backend(' . $caller->pid . ')'); },
	'backend ended' => sub { my ($caller, $db) = @_; $node->safe_psql($db, 'SELECT pg_terminate_backend(' . $caller->pid . ')'); },
	'backend killed' => sub { my ($caller) = @_; kill 'KILL', $caller->pid; },
	'PostgreSQL killed' => sub { $node->stop('immediate'); $node->start; });

foreach my $strike (sort keys %STRIKES)
{
	interrupt_run($strike, $STRIKES{$strike}, delivery => $_) foreach qw(on_commit async outbox);
}
interrupt_run('backend killed', $STRIKES{'backend killed'}, delivery => 'sync');
interrupt_run('backend killed', $STRIKES{'backend killed'}, delivery => 'outbox', storage => 'wal');
interrupt_run($_, $STRIKES{$_}, delivery => 'wal', table => "$TABLE; ALTER TABLE t REPLICA IDENTITY FULL") foreach 'cancelled', 'PostgreSQL killed';

# NATS is killed, and comes back too late for the messages of a chunk.
foreach my $delivery ('on_commit', 'async')
{
	my $db = table_with_rows(delivery => $delivery);
	my $caller = PsqlSession->new($node, dbname => $db,
		settings => { 'nats_publish.ack_timeout' => '1s', 'nats_publish.commit_timeout' => '1s', 'nats_publish.connect_timeout' => '1s' });
	my $holder = hold_row($db, $ROWS - 99);
	$caller->begin($CALL);
	wait_for_middle($db);
	$nats->kill9;
	$holder->kill;
	my $result = $caller->finish;
	like($result->{sqlstate}, qr/^58/, "NATS is away, $delivery: the call ends");
	like(progress($db, 'state || error'), qr/^failed58/, 'and why, is to be seen');
	$nats->restart;
	$client = NatsClient->new(url => $nats->url);
	is($caller->sqlstate($CALL), '', 'when it is back the same call goes on');
	compare("NATS was killed, $delivery", $db, delivery => $delivery);
	$caller->close;
}

# Seen from other sessions, and stopped by them
{
	my $db = table_with_rows(delivery => 'on_commit');
	my $caller = PsqlSession->new($node, dbname => $db);
	my $other = PsqlSession->new($node, dbname => $db);
	# a pause without an end
	$caller->begin($CALL =~ s/20 ms/1 hour/r);
	wait_for('a chunk', sub { progress($db, 'rows_read') eq '50' });
	ok(wait_for('a pause', sub { $node->safe_psql($db, "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND pid = " . $caller->pid) eq '0' }),
		'nothing is locked in a pause');
	$other->value('UPDATE t SET v = v + 1 WHERE id = 1');
	$other->value('SELECT pg_cancel_backend(' . $caller->pid . ')');
	is($caller->finish->{sqlstate}, '57014', 'which ends when it is cancelled');

	my $call = $CALL =~ s/20 ms/100 ms/r;
	my $holder = hold_row($db, $ROWS / 2 - 99);
	$caller->begin($call);
	wait_for_middle($db);
	is(progress($db, "state || ' ' || (pid = " . $caller->pid . ") || ' ' || rows_expected || ' ' || (rows_published = rows_read)"),
		"running true $ROWS true", 'a run is seen while it goes on');
	# 500 in a second at most
	is(progress($db, q(rows_per_second > 0 AND rows_per_second < 100000 AND estimated_end BETWEEN updated + interval '1 s' AND updated + interval '10 min')), 't',
		'and when it will end');
	is($other->sqlstate($call), '55006', 'there is one at a time');
	is($other->sqlstate($call =~ s/50/50, restart => true/r), '55006', 'in any case');
	is($other->value(q(SELECT nats_publish_rows_stop('t'))), 't', 'it can be stopped');
	$holder->kill;
	is($caller->finish->{sqlstate}, '57014', 'after its chunk');
	is(progress($db, 'state'), 'stopped', 'which is seen');
	my $read = progress($db, 'rows_read');
	$holder = hold_row($db, $ROWS - 99);
	$caller->begin($call);
	wait_for_middle($db, $read);
	is($other->value(q(SELECT nats_publish_rows_stop('t', forget => true))), 't', 'and forgotten');
	$holder->kill;
	is($caller->finish->{sqlstate}, '57014', 'then it ends, too');
	is(progress($db, 'state'), '', 'and leaves nothing');
	is($other->sqlstate("SET statement_timeout = '300ms'; $call"), '57014', 'a timeout of statements ends it');
	is(progress($db, 'state'), 'interrupted', 'as who cancels it does');
	is($other->sqlstate('RESET statement_timeout; ' . $CALL =~ s/20 ms/0/r), '', 'and the rest comes later');
	$_->close foreach $caller, $other;
}

# What a client is told of a long run
{
	my $db = table_with_rows(delivery => 'async');
	my $session = PsqlSession->new($node, dbname => $db);
	my $result = $session->run($CALL =~ s/20 ms/200 ms/r);
	like($result->{error}, qr/NOTICE:  00000: \d+ rows of table "t" have been read of about $ROWS, \d+ a second, about 00:00:\d\d to go/,
		'it is told how far a run is');
	$session->close;
}

# Memory is that of some rows, however many and large they are.
{
	my $db = publishing_database($node, 'large');
	$client->purge('B');
	$node->safe_psql($db, q(CREATE TABLE t (id int PRIMARY KEY, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
		INSERT INTO t SELECT i, repeat('x', 500000) FROM generate_series(1, 300) AS i;
		INSERT INTO t SELECT i, 'small' FROM generate_series(1001, 100000) AS i;
		SELECT nats_publish_table('t', 'b.t', delivery => 'on_commit')));
	# what is on its way is in memory, as of any message
	my $session = PsqlSession->new($node, dbname => $db, settings => { 'nats_publish.max_pending_bytes' => '8MB' });
	$session->value(q(CALL nats_publish_rows('t', 'id = 1')));
	my $before = process_memory($session->pid);
	$session->value('SET client_min_messages = warning');
	my ($peak, $seconds) = peak_memory($session, q(CALL nats_publish_rows('t')));
	note("memory grows by @{[ $peak - $before ]} kB, $seconds s");
	cmp_ok($peak - $before, '<', 40_000, 'of 150 MB of large rows, and of 100,000 small ones, few are in memory');
	$session->close;
}

unlike(slurp_file($node->logfile), qr/PANIC|leak/, 'nothing else has happened');

done_testing();
