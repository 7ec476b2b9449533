
# A backend that has published much is no larger than one that has published little, whatever went wrong in between.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;

# What malloc keeps and what PostgreSQL caches is no leak: one byte for each of a million messages is 1 MB, and
# a leak is more than a byte.
# Twice work_mem: what a query has used of that can still be with the session, or not.
my $FEW_MB = 8 * 1024;

my $nats = NatsServer->new(jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
# keeps little, so that it is the server's memory neither that this measures
$client->create_stream('T', ['t.>'], max_msgs => 1000, duplicate_window => 1_000_000_000);
$client->create_stream('FULL', ['full.>'], max_msgs => 1, discard => 'new');
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	'log_statement' => 'none',
	'log_min_error_statement' => 'panic',
	'log_min_messages' => 'log');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

my $session;

# How much the session grows by something, in kB.
sub growth
{
	my ($sql) = @_;
	my $before = process_memory($session->pid);
	$session->value($sql, 170);
	return process_memory($session->pid) - $before;
}

sub report
{
	my ($what, $growth) = @_;
	note("$what: $growth kB");
	cmp_ok($growth, '<', $FEW_MB, $what);
	return;
}

# A million messages, in one session

$session = PsqlSession->new($node);
my $publish = q(SELECT count(nats_publish_async('t.a', 'x', headers => '{"A": "1"}')) FROM generate_series(1, %d) \g /dev/null) . "\n";
sub messages { return sprintf($publish, $_[0]); }
$session->value('BEGIN; ' . messages(100_000) . ' COMMIT');
$session->value(messages(1000) x 10);
my $warm = process_memory($session->pid);
report('250,000 messages in transactions of 1,000', growth(messages(1000) x 250));
report('250,000 in one transaction', growth("BEGIN;\n" . messages(1000) x 250 . 'COMMIT'));
report('400,000 in one statement', growth(messages(400_000)));
report('50,000 by a PL/pgSQL loop', growth(q(DO $$ BEGIN FOR i IN 1 .. 50000 LOOP
	PERFORM nats_publish_async('t.b', 'x', msg_id => i || '-' || clock_timestamp()); END LOOP; END $$)));
report('50,000 that are not critical', growth(q(SELECT count(nats_publish_async('t.c', 'x', critical => false))
	FROM generate_series(1, 50000); SELECT nats_flush('60 s'))));
report('20,000 that are waited for', growth(q(SELECT count(nats_publish('t.d', 'x')) FROM generate_series(1, 20000))));
my $large = q(SELECT count(nats_publish_async('t.e', repeat('x', 100000))) FROM generate_series(1, 2000));
$session->value($large);
report('large ones', growth($large));
report('all of that, a million and more', process_memory($session->pid) - $warm);
is($session->value('SELECT published = acked AND published >= 1000000, failed FROM nats_session_stats()'), 't|0', 'all were acknowledged');

# 20,000 failed transactions

$session = PsqlSession->new($node);
$session->value(q(\set VERBOSITY terse) . "\n" . q(SELECT nats_publish('t.a', 'x')));

# Many transactions in one go, of which each fails: the errors are not of interest.
sub failing_growth
{
	my ($count, @transactions) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir('failing') . '/script.sql';
	open(my $script, '>', $file) or die "$file: $!";
	print $script join("\n", @transactions), "\n" for 1 .. $count / @transactions;
	close $script;
	my $before = process_memory($session->pid);
	my $failed = $session->value('SELECT failed FROM nats_session_stats()');
	$session->run("\\i $file", 170);
	return (process_memory($session->pid) - $before, $session->value('SELECT failed FROM nats_session_stats()') - $failed);
}

my @failing = (
	q(SELECT nats_publish('t.a', 'x', expect_last_seq => 1);),
	q(SELECT nats_publish_async('t.a', 'x', expect_last_seq => 1);),
	q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('t.a', 'x', expect_last_subject_seq => 1) \g /dev/null
	COMMIT;),
	q(BEGIN; SELECT nats_publish_async('full.a', 'x') FROM generate_series(1, 3) \g /dev/null
	SELECT nats_flush(); ROLLBACK;));
failing_growth(1000, @failing);
my ($growth, $failed) = failing_growth(12_000, @failing);
report('12,000 failed transactions', $growth);
cmp_ok($failed, '>=', 12_000, 'they have failed');
($growth) = failing_growth(4000,
	q(BEGIN; SELECT nats_publish_async('t.a', 'x') \g /dev/null
	ROLLBACK;),
	q(SELECT nats_publish('t.a b', 'x');),
	q(SELECT nats_publish_async('t.a', 'x', headers => '{"A": null}');),
	q(BEGIN; SELECT nats_publish_async('t.a', 'x') \g /dev/null
	SELECT 1/0; COMMIT;));
report('4,000 transactions that were rolled back or had bad input', $growth);
($growth) = failing_growth(4000,
	q(BEGIN; SAVEPOINT s; SELECT nats_publish_async('full.a', 'x') \g /dev/null
	SELECT nats_publish('full.a', 'x'); ROLLBACK TO s; SAVEPOINT s2; SELECT nats_publish_async('t.a', 'x') \g /dev/null
	RELEASE s2; COMMIT;));
report('4,000 with a rolled-back savepoint', $growth);
report('10,000 exceptions in one transaction', growth(q(DO $$ BEGIN FOR i IN 1 .. 5000 LOOP
	BEGIN PERFORM nats_publish('full.a', 'x'); EXCEPTION WHEN others THEN NULL; END;
	BEGIN PERFORM nats_publish_async('full.a', 'x'); RAISE 'x'; EXCEPTION WHEN others THEN NULL; END;
	END LOOP; END $$)));
report('5,000 uncritical failures', growth(q(SET client_min_messages = error;
	SELECT count(nats_publish_async('full.a', 'x', critical => false)) FROM generate_series(1, 5000); SELECT nats_flush('60 s'))));
report('2,000 requests', growth(q(SELECT count(nats_stream_info('T')) FROM generate_series(1, 2000))));
is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '1|0', 'all over one connection');

# Connections

my $reconnects = q(SELECT nats_disconnect() \g /dev/null
	SELECT nats_publish('t.a', 'x') \g /dev/null
	SELECT nats_publish_async('t.a', 'x') \g /dev/null
	);
$session->value($reconnects x 20);
# the library is open only while a backend connects, and its threads end with it
my $threads = 1;
ok(wait_for('threads to end', sub { process_threads($session->pid) == $threads }), 'a connected backend has one thread');
my $files = process_files($session->pid);
report('300 reconnects', growth($reconnects x 300));
ok(wait_for('threads to end', sub { process_threads($session->pid) <= $threads }), 'no thread is left');
ok(wait_for('descriptors to be closed', sub { process_files($session->pid) <= $files }), 'no descriptor is left');
is($session->value('SELECT connects >= 320, connections_lost FROM nats_session_stats()'), 't|0', 'they were reconnects');

my $refused = q(SET nats_publish.url = 'nats://127.0.0.1:1,nats://127.0.0.1:2'; SELECT nats_publish('t.a', 'x') \g /dev/null
	RESET nats_publish.url; SELECT nats_publish('t.a', 'x') \g /dev/null
	);
$session->run($refused x 20);
my $before = process_memory($session->pid);
$session->run($refused x 200);
report('400 refused connections', process_memory($session->pid) - $before);
ok(wait_for('threads to end', sub { process_threads($session->pid) <= $threads }), 'no thread is left');
ok(wait_for('descriptors to be closed', sub { process_files($session->pid) <= $files }), 'no descriptor is left');
report('100 looks at the server', growth(q(SELECT nats_server_info(); ) x 100));
ok(wait_for('descriptors to be closed', sub { process_files($session->pid) <= $files }), 'no descriptor is left');
$session->close;

# Futures beyond work_mem go to a temporary file, which ends with the transaction

sub temporary_files { return $node->safe_psql('postgres', 'SELECT count(*) FROM pg_ls_tmpdir()'); }

$session = PsqlSession->new($node, settings => { work_mem => '64kB' });
my $log_start = -s $node->logfile;
$session->value(messages(1000));
$before = process_memory($session->pid);
foreach my $end ('COMMIT', 'ROLLBACK', 'error', 'failure', 'PREPARE', 'subtransaction', 'exit')
{
	$session->value('BEGIN; SAVEPOINT s; ' . messages(200_000) . ' SELECT nats_flush()') if $end =~ /^(COMMIT|exit)$/;
	$session->value('BEGIN; SAVEPOINT s; ' . messages(20_000) . ' SELECT nats_flush()') unless $end =~ /^(COMMIT|exit)$/;
	cmp_ok(temporary_files(), '>', 0, "$end: futures were spilled");
	is($session->value('SELECT count(*), count(seq), count(DISTINCT seq) = count(*) FROM nats_futures()'),
		$end =~ /^(COMMIT|exit)$/ ? '200000|200000|t' : '20000|20000|t', 'and are all there');
	if ($end eq 'error') { $session->run('SELECT 1/0; COMMIT'); }
	elsif ($end eq 'failure') { is($session->sqlstate(q(SELECT nats_publish_async('full.a', 'x') FROM generate_series(1, 2); COMMIT)), '53400', 'COMMIT fails'); }
	elsif ($end eq 'PREPARE') { $session->run(q(PREPARE TRANSACTION 'p'; ROLLBACK)); }
	elsif ($end eq 'subtransaction') { $session->value('ROLLBACK TO s; SELECT count(*) FROM nats_futures(); COMMIT'); }
	elsif ($end eq 'exit') { $session->close; wait_for('the backend', sub { !process_is_there($session->pid) }); }
	else { $session->value($end); }
	is(temporary_files(), '0', 'the temporary file is gone');
	report('the session has not grown', process_memory($session->pid) - $before) if $end eq 'COMMIT';
}
unlike(slurp_file($node->logfile, $log_start), qr/leak|WARNING/, 'without a word in the log');

done_testing();
