
# Our place among the callbacks at the ends of transactions: asked first, before postgres_fdw or anybody else commits elsewhere,
# and last, so that what another library publishes behind us is an error, and nothing is lost. And what COMMIT costs.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use PsqlSession;
use PublishTest;
use SilentProxy;

my ($nats) = nats_with_stream('C', ['c.>']);
my $client = NatsClient->new(url => $nats->url);
# takes no more
$client->create_stream('FULL', ['full'], max_msgs => 1, discard => 'new');
$client->js_publish('full', '');
my $node = publishing_node('main', 'nats_publish.url' => $nats->url, max_prepared_transactions => 5);
$node->safe_psql('postgres', 'CREATE TABLE t (i int); CREATE TABLE remote (i int); CREATE TABLE published (i int PRIMARY KEY)');

sub session { my (%settings) = @_; return PsqlSession->new($node, settings => \%settings); }
my $admin = session();
sub value { return $admin->value($_[0]); }
sub stored { return map { $_->{subject} } $client->stream_messages('C'); }
sub rows { return value(q(SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM remote))); }

sub clean
{
	# a published table says so
	value('DELETE FROM t; DELETE FROM remote; DELETE FROM published');
	$client->purge('C');
	return;
}

# postgres_fdw commits elsewhere in its PRE_COMMIT, and registers that at its first connection in the session.

SKIP:
{
	my $present = $node->safe_psql('postgres', q(SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'));
	skip 'there is no postgres_fdw', 1 unless $present;
	$node->safe_psql('postgres', sprintf <<'END', $node->host, $node->port);
CREATE EXTENSION postgres_fdw;
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;
CREATE FOREIGN TABLE f (i int) SERVER loopback OPTIONS (table_name 'remote');

CREATE FUNCTION publish(subject text) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM nats_publish_on_commit(subject, ''); END$$;
CREATE FUNCTION publish_and_write(subject text) RETURNS void LANGUAGE plpgsql AS
	$$BEGIN PERFORM publish(subject); INSERT INTO t VALUES (1); INSERT INTO f VALUES (1); END$$;
CREATE FUNCTION write_remote() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO f VALUES (1); RETURN NULL; END$$;
CREATE TABLE deferred (i int);
CREATE CONSTRAINT TRIGGER write_remote AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION write_remote();
END
	my $use = q(SELECT count(*) FROM f \g /dev/null
		);
	my $publish = q(SELECT publish('%s') \g /dev/null
		);
	my $write = 'INSERT INTO t VALUES (1); INSERT INTO f VALUES (1);';
	my %transactions = (
		'we are used first' => "BEGIN; $publish $write COMMIT",
		'postgres_fdw is used first' => "$use BEGIN; $write $publish COMMIT",
		'both were used, ours first' => q(SELECT nats_publish('c.before', '') \g /dev/null
			) . "$use BEGIN; $write $publish COMMIT",
		'both were used, ours last' => $use . q(SELECT nats_publish('c.before', '') \g /dev/null
			) . "BEGIN; $publish $write COMMIT",
		'in one statement' => q(SELECT publish_and_write('%s') \g /dev/null
			),
		'in a procedure that commits' => q(DO $$BEGIN PERFORM publish_and_write('%s'); COMMIT; END$$),
		'in the second transaction of one' => q(DO $$BEGIN PERFORM nats_publish('c.before', ''); COMMIT; PERFORM publish_and_write('%s'); COMMIT; END$$),
		'in a deferred trigger' => "BEGIN; $publish INSERT INTO t VALUES (1); INSERT INTO deferred VALUES (1); COMMIT",
		'behind a savepoint' => q(BEGIN; SAVEPOINT s; SELECT publish('c.none') \g /dev/null
			) . "ROLLBACK TO s; $publish $write COMMIT",
		'in a savepoint' => "BEGIN; SAVEPOINT s; $publish $write RELEASE s; COMMIT",
		'where a savepoint has published' => q(BEGIN; SAVEPOINT s; SELECT nats_publish('c.before', '') \g /dev/null
			) . "ROLLBACK TO s; $write $publish COMMIT",
		'with a cursor' => "BEGIN; DECLARE c CURSOR FOR SELECT * FROM f; $publish FETCH c; $write COMMIT",
		'with a cursor that is held' => "BEGIN; $publish DECLARE c CURSOR WITH HOLD FOR SELECT * FROM f; $write COMMIT; CLOSE c",
		'where all cursors are closed' => "BEGIN; $publish CLOSE ALL; $publish $write COMMIT",
		'with AND CHAIN' => "BEGIN; $publish $write COMMIT AND CHAIN; ROLLBACK");
	foreach my $name (sort keys %transactions)
	{
		clean();
		my $failed = session();
		is($failed->sqlstate($transactions{$name} =~ s/%s/full/gr), '53400', "$name: the message is refused");
		is(rows(), '0 0', 'nothing is committed, there or here') or diag($name);
		my $session = session();
		is($session->error($transactions{$name} =~ s/%s/c.a/gr), '', 'else both are');
		is(rows(), '1 1', 'with their rows');
		is((grep { $_ eq 'c.a' } stored()) > 0, 1, 'and the message');

		# again in the session whose COMMIT has failed
		clean();
		is($failed->run('ROLLBACK;' . $transactions{$name} =~ s/%s/c.a/gr)->{sqlstate}, '', 'and the next transaction');
		is(rows(), '1 1', 'has its rows');
		is($failed->value('SELECT count(*) FROM pg_cursors'), '0', 'no cursor of ours is left') unless $name =~ /held/;
	}

	# postgres_fdw refuses PREPARE, in its callback
	foreach my $first ('us', 'postgres_fdw')
	{
		clean();
		my $session = session();
		$session->value(qq(SELECT count(*) FROM f \\g /dev/null
			)) if $first eq 'postgres_fdw';
		is($session->sqlstate(q(BEGIN; SELECT nats_publish_async('full', '') \g /dev/null
			INSERT INTO f VALUES (1); PREPARE TRANSACTION 'p')), '53400', "PREPARE asks us first, with $first used first");
		is($session->sqlstate(q(ROLLBACK; BEGIN; SELECT nats_publish_async('c.a', '') \g /dev/null
			INSERT INTO f VALUES (1); PREPARE TRANSACTION 'p')), '0A000', 'then postgres_fdw');
		is(rows(), '0 0', 'no rows');
	}

	my $session = session();
	is($session->value(q(BEGIN; SELECT nats_publish_on_commit('c.a', '') \g /dev/null
		SELECT count(*) FROM pg_cursors)), '0', 'pg_cursors shows nothing of ours');
}

# A library that publishes in its callbacks, registered before or after us. It is only for this test.

my $dir = PostgreSQL::Test::Utils::tempdir('library');
my $source = <<'END';
#include "postgres.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;
void _PG_init(void);

static char *event_name = "";
static char *command = "";

static void
run(const char *name)
{
	char *sql = pstrdup(command);

	if (strcmp(event_name, name) != 0)
		return;
	if (strcmp(sql, "fail") == 0)
		elog(ERROR, "failed in %s", name);
	else
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		SPI_connect();
		SPI_execute(sql, false, 0);
		SPI_finish();
		PopActiveSnapshot();
	}
}

static void
on_event(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_PRE_COMMIT)
		run("pre_commit");
	if (event == XACT_EVENT_PRE_PREPARE)
		run("pre_prepare");
}

static void
on_sub_event(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *argument)
{
	if (event == SUBXACT_EVENT_START_SUB)
		run("start_sub");
	if (event == SUBXACT_EVENT_PRE_COMMIT_SUB)
		run("pre_commit_sub");
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		run("commit_sub");
}

/* A trigger, behind which nobody asks for interrupts before COMMIT does. */
PG_FUNCTION_INFO_V1(cancel);
Datum
cancel(PG_FUNCTION_ARGS)
{
	InterruptPending = QueryCancelPending = true;
	return PointerGetDatum(NULL);
}

void
_PG_init(void)
{
	DefineCustomStringVariable("other.event", "When.", NULL, &event_name, "", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("other.command", "What.", NULL, &command, "", PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(on_event, NULL);
	RegisterSubXactCallback(on_sub_event, NULL);
}
END
append_to_file("$dir/other.c", $source);
chomp(my ($include, $compiler) = map { `pg_config --$_` } 'includedir-server', 'cc');
system_or_bail(split(' ', $compiler), '-shared', '-fPIC', "-I$include", '-D_GNU_SOURCE', '-o', "$dir/other.so", "$dir/other.c");

my $warm = q(SELECT nats_publish('c.warm', '') \g /dev/null
	);
my $hold = q(SELECT nats_publish_on_commit('c.held', '') \g /dev/null
	);
my %orders = (
	'before us' => "LOAD '$dir/other.so'; $warm",
	'after us' => "$warm LOAD '$dir/other.so';");
my %calls = (
	nats_publish => q(SELECT nats_publish('c.late', '')),
	nats_publish_async => q(SELECT nats_publish_async('c.late', '')),
	'nats_publish_async(critical => false)' => q(SELECT nats_publish_async('c.late', '', critical => false)),
	nats_publish_on_commit => q(SELECT nats_publish_on_commit('c.late', '')),
	'a trigger' => q(INSERT INTO published VALUES (1)));
$node->safe_psql('postgres', q(SELECT nats_publish_table('published', subject => 'c.late', delivery => 'on_commit')));

# The library's transaction: its row and its message, or an error and none of both.
sub is_all_or_nothing
{
	my ($session, $result, $name) = @_;
	$session->value('SELECT nats_flush()');
	my $is_refused = $result->{sqlstate} eq '25000';
	my $late = grep { $_ eq 'c.late' } stored();
	ok($is_refused || $result->{sqlstate} eq '', "$name: 25000, or no error") or diag($result->{error});
	is(rows(), $is_refused ? '0 0' : '1 0', 'the row' . ($is_refused ? ' is rolled back' : ''));
	is($late, $is_refused ? 0 : 1, 'and the message');
	return $is_refused;
}

foreach my $order (sort keys %orders)
{
	foreach my $end ('COMMIT', q(PREPARE TRANSACTION 'p'))
	{
		foreach my $call (sort keys %calls)
		{
			next if $end ne 'COMMIT' && $calls{$call} =~ /on_commit|published/;
			my $event = $end eq 'COMMIT' ? 'pre_commit' : 'pre_prepare';
			my $name = "$call at $end, loaded $order";
			my $session = session();
			$session->value($orders{$order} . "SET other.event = '$event'");
			foreach my $also ('', $warm, $hold)
			{
				next if $also eq $hold && $end ne 'COMMIT';
				clean();
				my $arm = q(SET LOCAL other.command = ') . ($calls{$call} =~ s/'/''/gr) . q(';);
				my $result = $session->run("BEGIN; $arm INSERT INTO t VALUES (1); $also $end;");
				$session->value(q(COMMIT PREPARED 'p')) if $end ne 'COMMIT' && $result->{sqlstate} eq '';
				is(is_all_or_nothing($session, $result, $name), $also ne '' || $order eq 'before us', 'refused if it is behind us');
				like($result->{error}, qr/deferred trigger/, 'with a hint') if $result->{sqlstate};
				is($session->run("BEGIN; INSERT INTO t VALUES (2); $hold COMMIT")->{sqlstate}, '', 'the next transaction is a new one');
			}
		}
	}
}

# A row of the outbox is none of what we send at the end
{
	my $session = session();
	$session->value($orders{'before us'} . q(SET other.event = 'pre_commit'));
	$session->value(q(BEGIN; SELECT nats_publish('c.a', '') \g /dev/null
		SET LOCAL other.command = 'INSERT INTO nats_outbox (subject) VALUES (''c.outbox'')'; COMMIT));
	is(value('SELECT subject FROM nats_outbox'), 'c.outbox', 'another library can still write into the outbox');
}

# Loaded by the callback itself, it is too late to be asked: that can only be told
{
	clean();
	my $session = session();
	my $result = $session->run("LOAD '$dir/other.so'; SET other.event = 'pre_commit';"
		  . q(BEGIN; SET LOCAL other.command = 'SELECT nats_publish_on_commit(''c.late'', '''')'; INSERT INTO t VALUES (1); COMMIT));
	like($result->{error}, qr/^WARNING:  25000: the transaction has committed without its messages/m, 'loaded too late: a warning');
	like($result->{error}, qr/session_preload_libraries/, 'with a hint');
	$session->close;
	my $preloaded = session(session_preload_libraries => 'nats_publish');
	clean();
	$result = $preloaded->run("LOAD '$dir/other.so'; SET other.event = 'pre_commit';"
		  . q(BEGIN; SET LOCAL other.command = 'SELECT nats_publish_on_commit(''c.late'', '''')'; INSERT INTO t VALUES (1); COMMIT));
	is_all_or_nothing($preloaded, $result, 'which helps');
}

# Subtransactions. What is published when one begins or is about to end is its own.

foreach my $order (sort keys %orders)
{
	my $session = session();
	$session->value($orders{$order});
	my $late = q(SET LOCAL other.command = 'SELECT nats_publish_on_commit(''c.late'', '''')';);
	foreach my $event ('start_sub', 'pre_commit_sub')
	{
		clean();
		$session->value("BEGIN; $late SET LOCAL other.event = '$event'; SAVEPOINT s; $hold RELEASE s; COMMIT");
		is(join(' ', sort(stored())), 'c.held c.late', "$event, loaded $order: published with the subtransaction");
	}
	clean();
	$session->value("BEGIN; $hold $late SET LOCAL other.event = 'start_sub'; SAVEPOINT s; ROLLBACK TO s; COMMIT");
	is(join(' ', grep { $_ ne 'c.late' } stored()), 'c.held', 'or rolled back with it');

	# PostgreSQL's assertions forbid it
	next if value('SHOW debug_assertions') eq 'on';
	clean();
	$session->value("BEGIN; SET LOCAL other.event = 'commit_sub'; SAVEPOINT s; $late RELEASE s;
		SET LOCAL other.event = ''; SAVEPOINT s2; $hold ROLLBACK TO s2; COMMIT");
	is(join(' ', stored()), 'c.late', 'what is published when one has committed is not of the next one');

	# another library's failure
	clean();
	$session->value("BEGIN; $hold SET LOCAL other.event = 'pre_commit_sub';" . <<'END');
DO $$BEGIN
	BEGIN
		INSERT INTO t VALUES (1);
		PERFORM nats_publish_on_commit('c.rolled_back', '');
		SET LOCAL other.command = 'fail';
	EXCEPTION WHEN OTHERS THEN
		SET LOCAL other.command = '';
	END;
END$$;
COMMIT;
END
	is(join(' ', stored()) . ' ' . rows(), 'c.held 0 0', 'when one can not commit, what it has published is not sent');
	is($session->value(q(SELECT nats_publish_on_commit('c.after', '') \g /dev/null
		SELECT 1)), '1', 'the session goes on');
}

# A serialization failure is asked for before anything held is sent

foreach my $batch ('pipelined', 'atomic')
{
	foreach my $end ('COMMIT', q(PREPARE TRANSACTION 'p'))
	{
		my $is_prepared = $end ne 'COMMIT';
		next if $is_prepared && $batch eq 'atomic';
		clean();
		my @sessions = map { session('nats_publish.commit_batch' => $batch) } 1, 2;
		foreach my $i (0, 1)
		{
			$sessions[$i]->value('BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t SELECT count(*) FROM t');
			# 2.9 knows no batch: only the one that fails has a message then
			$sessions[$i]->value(qq(SELECT nats_publish_on_commit('c.$i', '') \\g /dev/null
				)) unless $is_prepared || ($batch eq 'atomic' && $i == 0);
			$sessions[$i]->value(qq(SELECT nats_publish_async('c.$i', '') \\g /dev/null
				)) if $is_prepared;
		}
		$sessions[0]->value('COMMIT');
		is($sessions[1]->sqlstate($end), '40001', "$batch, $end: a serialization failure");
		is(rows(), '1 0', 'its row is not there');
		is_deeply([ stored() ], $batch eq 'atomic' ? [] : $is_prepared ? [ 'c.0', 'c.1' ] : ['c.0'],
			$is_prepared ? 'what was sent stays' : 'and its message was not sent');
	}
}

# ... also while the other one is still in its COMMIT, which then wins; and which loses if NATS fails it
foreach my $fails (0, 1)
{
	clean();
	# without an id, a message is not sent again on another connection
	my $box = SilentProxy->new($nats);
	my @sessions = (session('nats_publish.url' => $box->url, 'nats_publish.auto_msg_id' => $fails ? 'off' : 'on', 'nats_publish.commit_timeout' => '60s'),
		session('nats_publish.commit_timeout' => '60s'));
	foreach my $i (0, 1)
	{
		$sessions[$i]->value($warm);
		$sessions[$i]->value('BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t SELECT count(*) FROM t');
		$sessions[$i]->value(qq(SELECT nats_publish_on_commit('c.$i', '') \\g /dev/null
			));
	}
	$nats->stall;
	$sessions[0]->begin('COMMIT');
	$sessions[0]->wait_until_waiting;
	is($sessions[1]->sqlstate('COMMIT'), '40001', 'the other one waits for its message');
	$box->cut if $fails;
	$nats->resume;
	is($sessions[0]->finish->{sqlstate}, $fails ? '58030' : '', 'and has ' . ($fails ? 'failed' : 'committed'));
	is(rows(), $fails ? '0 0' : '1 0', 'as its row');
	is((grep { $_ eq 'c.1' } stored()), 0, 'nothing of the one that has failed');
	is($sessions[1]->sqlstate(q(ROLLBACK; BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t SELECT count(*) FROM t;
		SELECT nats_publish_on_commit('c.again', '') \g /dev/null
		COMMIT)), '', 'which can be tried again');
}

# A cancel is heard by a COMMIT that need not wait, before anything is sent

$node->safe_psql('postgres', <<"END");
CREATE FUNCTION cancel() RETURNS trigger LANGUAGE c AS '$dir/other.so', 'cancel';
CREATE TABLE cancels (i int);
CREATE CONSTRAINT TRIGGER cancel AFTER INSERT ON cancels DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cancel();
END
{
	clean();
	my $session = session();
	$session->value($warm);
	clean();
	is($session->sqlstate(q(BEGIN; INSERT INTO cancels VALUES (1);
		SELECT count(nats_publish_on_commit('c.many', '')) FROM generate_series(1, 1000) \g /dev/null
		COMMIT)), '57014', 'a cancel that comes before anything is sent');
	$session->value($warm);
	is(join(' ', stored()), 'c.warm', 'nothing is');
}

# Futures that are complete are found, in whatever order, with a search for each that takes no longer for many; also in a file.
# It is the backend's own time that counts: it was 9 s for 30,000.

foreach my $work_mem ('64MB', '64kB')
{
	clean();
	my $session = session(work_mem => $work_mem);
	my $count = 30_000;
	$session->value(qq(CREATE TEMP TABLE futures AS SELECT i, NULL::bigint AS future FROM generate_series(1, $count) i; BEGIN;
		SELECT nats_publish('c.before', '') \\g /dev/null
		SAVEPOINT s; SELECT nats_publish_async('c.none', '') \\g /dev/null
		SELECT nats_flush() \\g /dev/null
		ROLLBACK TO s; UPDATE futures SET future = nats_publish_async('c.' || i, ''); SELECT nats_flush() \\g /dev/null
		SELECT nats_publish('c.between', '') \\g /dev/null
	));
	is($session->value('SELECT count(*) > 0 FROM pg_ls_tmpdir()'), $work_mem eq '64kB' ? 't' : 'f', "$work_mem: in memory or in a file");
	my $ticks = process_ticks($session->pid);
	is($session->value(q(SELECT count(*), count(DISTINCT seq) FROM (SELECT (nats_await(future)).seq FROM (SELECT * FROM futures ORDER BY md5(i::text)) f) a)),
		"$count|$count", 'awaited in any order');
	cmp_ok(process_ticks($session->pid) - $ticks, '<', 400, 'in no time');
	is($session->value(q(SELECT count(*) FROM futures JOIN nats_futures() n USING (future) WHERE subject = 'c.' || i
		AND seq = (SELECT min(seq) FROM nats_futures()) + i - 1 AND NOT duplicate AND stream = 'C' AND msg_id <> '' AND sqlstate IS NULL)), $count, 'each is its own');
	# one that comes to its end when others have been asked for, and one that has failed
	$session->value(q(CREATE TEMP TABLE late AS SELECT nats_publish_async('c.late', '') AS future, nats_publish_async('full', '') AS failed;
		SELECT (nats_await(future)).seq FROM late \g /dev/null
		));
	is($session->value(q(SELECT (nats_await(future)).stream FROM late)), 'C', 'a late one');
	like($session->error('SAVEPOINT s; SELECT nats_await(failed) FROM late'), qr/53400: .*full/, 'one that has failed');
	like($session->error('ROLLBACK TO s; SELECT nats_await(failed) FROM late'), qr/53400: .*full/, 'asked again');
	is($session->sqlstate('ROLLBACK TO s; SELECT nats_await(1000000000)'), '22023', 'one that was never there');
	is($session->sqlstate('ROLLBACK TO s; SELECT nats_await((SELECT min(future) - 1 FROM futures))'), '22023', 'nor is one that was rolled back');
	$session->value('ROLLBACK');
	is($session->value('SELECT count(*) FROM nats_futures()'), '0', 'all are gone');
}

# More may be pending than fit into the window's memory for long, which is given back

{
	clean();
	my $session = session('nats_publish.max_pending' => 1_000_000, 'nats_publish.max_pending_bytes' => '1GB', 'nats_publish.on_full' => 'error',
		'nats_publish.ack_timeout' => '100s', 'nats_publish.commit_timeout' => '100s');
	$session->value($warm);
	my $before = process_memory($session->pid);
	$nats->stall;
	is($session->sqlstate(q(BEGIN; SELECT count(nats_publish_async('c.many', '')) FROM generate_series(1, 300000) \g /dev/null
		)), '', 'max_pending is more than 262,144');
	cmp_ok(process_memory($session->pid) - $before, '>', 50_000, 'which takes memory');
	$session->value('ROLLBACK');
	# with all that is in its memory
	$nats->restart(stop => 'kill9');
	$client = NatsClient->new(url => $nats->url);
	$client->create_stream('C', ['c.>']);
	$session->value($warm) foreach 1, 2;
	cmp_ok(process_memory($session->pid) - $before, '<', 20_000, 'that is given back');
	is($session->value(q(SELECT count(nats_publish_async('c.more', '')) FROM generate_series(1, 1000))), '1000', 'and the next ones have room');
	is($client->stream_info('C')->{state}{messages}, 1002, 'all are stored');
}

# A name that is no name is not sent: there is nobody to send it to

{
	my $session = session('nats_publish.url' => 'nats://127.0.0.1:1');
	my @names = ('', 'A.B', 'A*', '>', 'A B', "A\tB", "A\r\nB", "A\nPUB c.a 0", "A\x0bB", "A\x0cB", "A\x01", "A\x7f", 'A/B', 'A\\B', 'A' x 5000);
	my @wrong = grep { $_->[1] ne '22023' } map
	{
		my $name = s/'/''/gr;
		map { [ $_, $session->sqlstate($_) ] } ("SELECT nats_create_stream('$name', '{a.b}')", "SELECT nats_stream_info('$name')",
			"SELECT nats_get_message('$name', 1)", "SELECT nats_jetstream('STREAM.INFO.$name')")
	} @names;
	# a request may have dots and what follows from them
	@wrong = grep { $_->[0] !~ m{nats_jetstream\('STREAM\.INFO\.A[.*/\\]} } @wrong;
	is(join("\n", map { "$_->[1] $_->[0]" } @wrong), '', 'names of streams are checked before anything is sent');
	is($session->sqlstate(q(SELECT nats_stream_info('A'))), '58000', 'as a good one is not');
}

# What is pending

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'nats_publish'");
$node->restart;
$admin = session();
{
	clean();
	my $session = session();
	$session->value(q(SELECT nats_publish('c.large', repeat('x', 500000)) \g /dev/null
		));
	is($session->value('SELECT pending, pending_bytes FROM nats_publish_activity WHERE pid = pg_backend_pid()'), '0|0', 'no bytes are pending without a message');
}

done_testing();
