
# What ends a wait for a server that does not answer: a cancel, a terminate, a timeout, a shutdown.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use PsqlSession;
use PublishTest;

# Long before the timeouts, which are of minutes; also for a machine that stands still for a moment.
my $BOUND = 20;

my ($nats, $client) = nats_with_stream('T', ['t.>']);
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.ack_timeout' => '10min',
	'nats_publish.commit_timeout' => '10min');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub session
{
	my $session = PsqlSession->new($node);
	$session->value(q(SELECT nats_publish('t.warm', '')));
	return $session;
}

# Each way to wait: what comes first, while the server answers not, and what waits.
my @waits = (
	[ 'nats_publish()', '', q(SELECT nats_publish('t.a', 'x')) ],
	[ 'nats_publish() in a transaction', 'BEGIN', q(SELECT nats_publish('t.a', 'x')) ],
	[ 'nats_flush()', q(BEGIN; SELECT nats_publish_async('t.a', 'x')), 'SELECT nats_flush()' ],
	[ 'nats_await()', q(BEGIN; SELECT nats_publish_async('t.a', 'x') AS future \gset), 'SELECT nats_await(:future)' ],
	[ 'a full window', 'SET nats_publish.max_pending = 10',
		q(SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 100)) ],
	[ 'a full window of bytes', q(SET nats_publish.max_pending_bytes = '1MB'),
		q(SELECT count(nats_publish_async('t.a', repeat('x', 100000))) FROM generate_series(1, 1000)) ],
	[ 'COMMIT', q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('t.a', 'x')), 'COMMIT' ],
	[ 'COMMIT of a large transaction',
		q(BEGIN; INSERT INTO t VALUES (1); SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 4000)), 'COMMIT' ],
	[ 'a commit without BEGIN', '', q(INSERT INTO t SELECT 1 FROM nats_publish_async('t.a', 'x')) ],
	[ 'PREPARE TRANSACTION', q(BEGIN; SELECT nats_publish_async('t.a', 'x')), q(PREPARE TRANSACTION 'p') ],
	[ 'an exception block', '', q(DO $$ BEGIN PERFORM nats_publish('t.a', 'x'); EXCEPTION WHEN others THEN NULL; END $$) ],
	[ 'nats_stream_info()', '', q(SELECT nats_stream_info('T')) ],
	[ 'nats_server_info()', '', q(SELECT nats_server_info()) ],
	[ 'nats_disconnect()', q(BEGIN; SELECT nats_publish_async('t.a', 'x')), 'SELECT nats_disconnect()' ]);

foreach my $wait (@waits)
{
	my ($name, $before, $sql) = @$wait;
	my $session = session();
	my $pid = $session->pid;
	foreach my $round (1, 2)
	{
		$nats->stall;
		$session->value($before) if $before;
		$session->begin($sql);
		$session->wait_until_waiting;
		my $started = time;
		kill 'INT', $pid;    # as pg_cancel_backend() does
		my $result = $session->finish;
		is($result->{sqlstate}, '57014', "$name: cancelled");
		cmp_ok(time - $started, '<', $BOUND, 'at once');
		$session->run('ROLLBACK; RESET ALL');
		$nats->resume;
		is($session->value(q(SELECT (nats_publish('t.b', 'x')).stream)), 'T', 'and the session goes on');
	}

	$nats->stall;
	$session->value($before) if $before;
	$session->begin($sql);
	$session->wait_until_waiting;
	my $started = time;
	kill 'TERM', $pid;    # as pg_terminate_backend() does
	is($session->finish->{sqlstate}, '57P01', "$name: terminated");
	cmp_ok(time - $started, '<', $BOUND, 'at once');
	wait_for('the backend to end', sub { !process_is_there($pid) });
	cmp_ok(time - $started, '<', $BOUND, 'and the backend is gone soon');
	$nats->resume;
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '0', 'none of these transactions has committed');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'nor was one prepared');

# pg_cancel_backend() and pg_terminate_backend(), from SQL

foreach my $function ('pg_cancel_backend', 'pg_terminate_backend')
{
	my $session = session();
	my $pid = $session->pid;
	$nats->stall;
	$session->begin(q(SELECT nats_publish('t.a', 'x')));
	$session->wait_until_waiting;
	is($node->safe_psql('postgres', "SELECT $function($pid)"), 't', "$function()");
	like($session->finish($BOUND)->{sqlstate}, qr/^57/, 'ends the call');
	$nats->resume;
}

# psql's Ctrl-C

my $session = session();
$nats->stall;
$session->begin(q(SELECT nats_publish('t.a', 'x')));
$session->wait_until_waiting;
my $started = time;
$session->interrupt;
is($session->finish->{sqlstate}, '57014', 'Ctrl-C in psql ends nats_publish()');
cmp_ok(time - $started, '<', $BOUND, 'at once');
$nats->resume;

$session = session();
$nats->stall;
$session->value(q(BEGIN; SELECT nats_publish_async('t.a', 'x')));
$session->begin('COMMIT');
$session->wait_until_waiting;
$started = time;
$session->interrupt;
is($session->finish->{sqlstate}, '57014', 'Ctrl-C in psql ends COMMIT');
cmp_ok(time - $started, '<', $BOUND, 'at once');
$nats->resume;

# A client that vanishes

$session = session();
my $pid = $session->pid;
$session->value(q(SET client_connection_check_interval = '100ms'));
$nats->stall;
$session->begin(q(SELECT nats_publish('t.a', 'x')));
$session->wait_until_waiting;
$session->kill;
ok(wait_for('the backend to end', sub { !process_is_there($pid) }, $BOUND), 'a backend whose client is gone ends');
$nats->resume;

# Timeouts

$session = session();
$nats->stall;
my $result = $session->run(q(SET statement_timeout = '300ms'; SELECT nats_publish('t.a', 'x')));
is($result->{sqlstate}, '57014', 'statement_timeout ends nats_publish()');
cmp_ok($result->{seconds}, '<', $BOUND, 'in time');
$result = $session->run(q(SELECT nats_publish('t.a', 'x')));
is($result->{sqlstate}, '57014', 'and again');
$nats->resume;

# A server that is there, and nobody who acknowledges: a subscriber without a stream
my $listener = NatsClient->new(url => $nats->url);
$listener->subscribe('q.>');

$result = $session->run(q(RESET statement_timeout; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '100ms';
	SET nats_publish.ack_timeout = '4s'; SELECT nats_publish('q.a', 'x')));
is($result->{sqlstate}, '58030', 'ack_timeout ends nats_publish()');
like($result->{error}, qr/"q\.a".* 4000 ms/, 'which says after what time');
like($result->{error}, qr/^HINT: .*msg_id/m, 'and what can be done');
cmp_ok($result->{seconds}, '>=', 3.9, 'not earlier');
cmp_ok($result->{seconds}, '<', $BOUND, 'nor much later');

is($session->sqlstate(q(SET nats_publish.ack_timeout = '500ms'; BEGIN; SELECT nats_publish_async('q.a', 'x'); SELECT nats_flush())), '58030',
	'ack_timeout ends nats_flush()');
is($session->sqlstate('ROLLBACK; SET nats_publish.max_pending = 2; BEGIN;' .
	q(SELECT nats_publish_async('q.a', 'x') FROM generate_series(1, 3))), '58000', 'and a call with the window full');
$result = $session->run(q(ROLLBACK; RESET nats_publish.max_pending; BEGIN; SELECT nats_publish_async('q.a', 'x') AS future \gset
	SELECT nats_await(:future, '200 ms')));
is($result->{sqlstate}, '58030', 'nats_await() has a timeout');
cmp_ok($result->{seconds}, '<', $BOUND, 'that is kept');
is($session->sqlstate(q(ROLLBACK; BEGIN; SELECT nats_publish_async('q.a', 'x'); SELECT nats_flush('200 ms'))), '58030',
	'nats_flush() too');
is($session->sqlstate(q(ROLLBACK; BEGIN; SELECT nats_publish_async('q.a', 'x'); SELECT nats_flush('0 s'))), '58030',
	'also one of 0');

# A message whose wait was given up is still that of the transaction
$result = $session->run(q(ROLLBACK; BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('q.again', 'x') AS future \gset
	SAVEPOINT s; SELECT nats_await(:future, '100 ms'); ROLLBACK TO s; SELECT status FROM nats_futures()));
is($result->{output}, 'pending', 'a future can be awaited again');
my $message;
do { $message = $listener->next_message or die 'no message'; } until $message->{subject} eq 'q.again';
$listener->publish($message->{reply}, '{"stream":"T","seq":1}');
$listener->flush;
is($session->value('SELECT (nats_await(:future)).stream; COMMIT; SELECT count(*) FROM t'), "T\n1", 'with success');

$result = $session->run(q(SET nats_publish.commit_timeout = '1500ms'; BEGIN; SELECT nats_publish_async('q.a', 'x'); SET LOCAL statement_timeout = '200ms'; COMMIT));
is($result->{sqlstate}, '58030', 'statement_timeout does not apply to COMMIT, commit_timeout does');
cmp_ok($result->{seconds}, '>=', 1.4, 'not earlier');
cmp_ok($result->{seconds}, '<', $BOUND, 'nor much later');
is($session->value(q(SELECT (nats_publish('t.a', 'x')).stream)), 'T', 'the session goes on');

# ROLLBACK does not wait

$nats->stall;
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 1000); ROLLBACK));
is($result->{sqlstate}, '', 'ROLLBACK with a stalled server');
cmp_ok($result->{seconds}, '<', $BOUND, 'does not wait');
$nats->resume;

# Shutdowns while a backend waits

$session = session();
$pid = $session->pid;
$nats->stall;
$session->value(q(BEGIN; SELECT nats_publish_async('t.a', 'x')));
$session->begin('COMMIT');
$session->wait_until_waiting;
$started = time;
$node->stop('fast');
cmp_ok(time - $started, '<', $BOUND, 'a fast shutdown does not wait for NATS');
ok(!process_is_there($pid), 'the backend is gone');
$session->kill;
$node->start;
$nats->resume;

$session = session();
$pid = $session->pid;
$nats->stall;
$session->begin(q(SELECT nats_publish('t.a', 'x')));
$session->wait_until_waiting;
$node->stop('immediate');
ok(wait_for('the backend to end', sub { !process_is_there($pid) }, $BOUND), 'an immediate shutdown ends the backend');
$session->kill;
$node->start;
$nats->resume;

$session = session();
$pid = $session->pid;
$nats->stall;
$session->begin(q(SELECT nats_publish('t.a', 'x')));
$session->wait_until_waiting;
$node->kill9;
ok(wait_for('the backend to end', sub { !process_is_there($pid) }, $BOUND), 'the death of the postmaster ends the backend');
$session->kill;
wait_for('all backends to end', sub { !-e $node->data_dir . '/postmaster.pid' || eval { $node->start; 1 } });
$nats->resume;
$session = session();
is($session->value(q(SELECT (nats_publish('t.a', 'x')).stream)), 'T', 'after a crash everything works');

done_testing();
