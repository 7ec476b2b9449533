
# One transaction of a million messages in the WAL: in bounded memory, each once and in order, also when its decoding is
# interrupted or NATS goes away in the middle.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $LONG = 600;    # seconds: for what is a matter of seconds on an idle machine
my $COUNT = 1_000_000;
my $WORK_MEM = 16;    # MB

my ($nats, $client) = nats_with_stream('L', ['l.>'], storage => 'file', duplicate_window => 20 * 60 * 1_000_000_000);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.outbox_storage' => 'wal',
	'nats_publish.relay_ordering' => 'relaxed',
	wal_level => 'logical',
	logical_decoding_work_mem => "${WORK_MEM}MB",
	# for the sessions; what the relay reads ahead is not limited by it
	temp_file_limit => '50MB',
	max_wal_size => '4GB');
my $session = PsqlSession->new($node);

sub wal_pid
{
	return $session->value(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'nats_publish WAL relay'));
}

sub in_stream { return $client->stream_info('L')->{state}{messages}; }

# The largest memory that it has had, without what is shared, is not told: the largest of all, less what is shared now.
sub peak
{
	my ($pid) = @_;
	my %of = slurp_file("/proc/$pid/status") =~ /^(VmHWM|RssShmem|RssFile):\s+(\d+) kB/mg;
	return int(($of{VmHWM} - $of{RssShmem} - $of{RssFile}) / 1024);
}

sub temporary_files
{
	my @files = (glob($node->data_dir . '/base/pgsql_tmp/*'), glob($node->data_dir . '/pg_replslot/*/*.spill'));
	return scalar @files;
}

sub write_messages
{
	my ($from, $to, $subjects) = @_;
	return $session->run("SELECT count(nats_publish_outbox('l.' || i % $subjects, to_jsonb(i) || to_jsonb(repeat('x', 100)))) FROM generate_series($from, $to) i")->{seconds};
}

sub check
{
	my ($what, $from, $to) = @_;
	wait_for("$to messages", sub { in_stream() >= $to }, $LONG);
	my $slot = q(SELECT confirmed_flush_lsn >= ) . "'" . $session->value('SELECT pg_current_wal_insert_lsn()') . q(' FROM pg_replication_slots);
	wait_for('the position', sub { $session->value($slot) eq 't' }, $LONG);
	is(in_stream(), $to, "$what: each message is there once");
	is(temporary_files(), 0, 'and no temporary file');
	is($session->value('SELECT count(*) FROM nats_outbox'), 0, 'nothing was moved to the table');
	return;
}

$session->value('SELECT nats_wal_enable()');
wait_for('a relay of the WAL', sub { wal_pid() ne '' });
my $pid = wal_pid();
$session->value(q(SELECT nats_publish_outbox('l.0', '0')));
wait_for('a message', sub { in_stream() == 1 });
my $before = peak($pid);
my $written = write_messages(2, $COUNT, 1000);
diag "written in $written s";
my $begun = time;
check('a million in one transaction', 1, $COUNT);
diag sprintf 'published in %.1f s', time - $begun;
my $grown = peak($pid) - $before;
diag "memory: $before MB before, $grown MB more at the most";
cmp_ok(peak($pid), '<=', 64 + $WORK_MEM, 'the memory of the relay has a bound');

# Paused, with all the memory in use that it may have

my $PAUSED = 100_000;
$session->value('SELECT nats_relay_pause()');
wait_for('the pause', sub { $session->value('SELECT state FROM nats_wal_relay') eq 'paused' });
write_messages($COUNT + 1, $COUNT + $PAUSED, 1000);
wait_for('them to be decoded', sub { $session->value('SELECT queued, decoded FROM nats_wal_relay') eq "$PAUSED|0" }, $LONG);
$session->value('CREATE TABLE wakes_it ()');
my $ticks = process_ticks($pid);
sleep 3;
cmp_ok(process_ticks($pid) - $ticks, '<=', 10, 'a paused relay sleeps');
is(in_stream(), $COUNT, 'and publishes nothing');
$session->value('SELECT nats_relay_resume()');
check('after a pause', $COUNT + 1, $COUNT + $PAUSED);
$COUNT += $PAUSED;

# Interrupted in the middle

{
	my $other = PsqlSession->new($node);
	write_messages($COUNT + 1, $COUNT + 200_000, 1000);
	foreach (1 .. 3)
	{
		my $there = in_stream();
		wait_for('a few more', sub { in_stream() > $there + 5000 || in_stream() == $COUNT + 200_000 }, $LONG);
		$session->value("SELECT pg_cancel_backend($pid)");
	}
	$nats->stall;
	sleep 2;
	$nats->resume;
	check('decoding is interrupted', $COUNT + 1, $COUNT + 200_000);
	is(wal_pid(), $pid, 'by the same process');
	cmp_ok(peak($pid), '<=', 64 + $WORK_MEM, 'in no more memory');
}

is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal/) ], [], 'nothing has crashed');

done_testing();
