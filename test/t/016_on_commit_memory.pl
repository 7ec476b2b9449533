
# What a transaction holds takes no more memory than work_mem, however much it is.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;

# Of the issue: work_mem and 64 MB, which is also max_pending_bytes.
my $WORK_MEM = 1024;
my $LIMIT = $WORK_MEM + 64 * 1024;

my $nats = NatsServer->new(jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
# The stream counts all of them and keeps the last ones: it is not the server's memory that this measures.
$client->create_stream('M', ['m.>'], max_msgs => 10_000, duplicate_window => 1_000_000_000);
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	'log_statement' => 'none',
	'work_mem' => "${WORK_MEM}kB");
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub temporary_files { return $node->safe_psql('postgres', 'SELECT count(*) FROM pg_ls_tmpdir()'); }
sub temporary_size { return $node->safe_psql('postgres', 'SELECT coalesce(sum(size), 0) FROM pg_ls_tmpdir()'); }

sub hold { my ($count) = @_; return "SELECT count(nats_publish_on_commit('m.a', lpad(i::text, 128))) FROM generate_series(1, $count) i \\g /dev/null\n"; }

my $session = PsqlSession->new($node);
$session->value('BEGIN; ' . hold(10_000) . ' COMMIT');
my $last = $client->stream_info('M')->{state}{last_seq};
my $before = process_memory($session->pid);

sub report
{
	my ($what, $peak, $seconds) = @_;
	note(sprintf '%s: %d kB more, %.1f s', $what, $peak - $before, $seconds);
	return cmp_ok($peak - $before, '<', $LIMIT, "$what: memory is bounded");
}

# Two million messages

$session->value('BEGIN; INSERT INTO t VALUES (1)');
report('holding 2,000,000 messages', peak_memory($session, hold(2_000_000)));
is($client->stream_info('M')->{state}{last_seq}, $last, 'nothing is sent yet');
cmp_ok(temporary_size(), '>', 2_000_000 * 128, 'they are in a file');
report('COMMIT of 2,000,000 messages', peak_memory($session, 'COMMIT'));
my $state = $client->stream_info('M')->{state};
is($state->{last_seq}, $last + 2_000_000, 'all are stored');
is_deeply([ map { $client->get_message('M', $_)->{payload} =~ s/ //gr } $state->{first_seq}, $state->{last_seq} ], [ 1_990_001, 2_000_000 ], 'in order');
is($session->value('SELECT published - acked, failed, retried, resent FROM nats_session_stats()'), '0|0|0|0', 'once');
is($session->value('SELECT count(*) FROM t'), 1, 'and the row');
is(temporary_files(), 0, 'the file is gone');
my $after = process_memory($session->pid);
cmp_ok($after - $before, '<', 16 * 1024, 'and so is the memory') or note("$after kB");

# A million messages that are rolled back

$last = $state->{last_seq};
$session->value(q(BEGIN; SELECT nats_publish_on_commit('m.a', 'first'); SAVEPOINT s));
report('holding 1,000,000 messages in a savepoint', peak_memory($session, hold(1_000_000)));
report('rolling them back', peak_memory($session, 'ROLLBACK TO s'));
$session->value(q(SELECT nats_publish_on_commit('m.a', 'last')));
report('the COMMIT', peak_memory($session, 'COMMIT'));
is($client->stream_info('M')->{state}{last_seq}, $last + 2, 'they are not sent');
is_deeply([ map { $client->get_message('M', $last + $_)->{payload} } 1, 2 ], [ 'first', 'last' ], 'but what came before and after');
is(temporary_files(), 0, 'the file is gone');

# Savepoints without end

$session->value('BEGIN');
report('100,000 rolled-back and 100,000 released savepoints', peak_memory($session, q(DO $$ BEGIN FOR i IN 1 .. 100000 LOOP
	BEGIN PERFORM nats_publish_on_commit('m.a', 'x'); RAISE 'x'; EXCEPTION WHEN others THEN NULL; END;
	BEGIN PERFORM nats_publish_on_commit('m.a', i::text); EXCEPTION WHEN others THEN NULL; END;
	END LOOP; END $$)));
$last = $client->stream_info('M')->{state}{last_seq};
report('their COMMIT', peak_memory($session, 'COMMIT'));
is($client->stream_info('M')->{state}{last_seq}, $last + 100_000, 'those that were released are sent');

# Large ones

# they are in the window, and a few of them around it
$LIMIT += 8 * 1024;
report('2,000 messages of 500 kB', peak_memory($session, q(BEGIN; SELECT count(nats_publish_on_commit('m.a', repeat('x', 500000))) FROM generate_series(1, 2000) \g /dev/null
	COMMIT)));

# Many transactions

$before = process_memory($session->pid);
$session->value(hold(100) x 500);
$session->value(join '', ('BEGIN; ' . hold(100) . ' ROLLBACK; ') x 500);
$session->value('SET work_mem = 64; ' . hold(1000) x 200);
my $growth = process_memory($session->pid) - $before;
cmp_ok($growth, '<', 4 * 1024, '1,200 transactions leave nothing');

$client->purge('M');
unlike(slurp_file($node->logfile), qr/leak|WARNING/, 'without a word in the log');

done_testing();
