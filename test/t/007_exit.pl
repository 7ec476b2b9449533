
# The end of a session: what it has published still goes out, in bounded time and without noise.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use PsqlSession;
use PublishTest;

my $BOUND = 20;

# A stalled server may keep a backend that exits for about a second; this is for a loaded machine.
my $EXIT_BOUND = 20;

my ($nats, $client) = nats_with_stream('T', ['t.>'], storage => 'file');
$client->create_stream('FULL', ['full.>'], max_msgs => 1, discard => 'new');
my $node = publishing_node('main', 'nats_publish.url' => $nats->url, 'nats_publish.ack_timeout' => '60s');

sub stored { return $client->js('STREAM.INFO.T', { subjects_filter => $_[0] })->{state}{subjects}{ $_[0] } // 0; }

sub log_size { return -s $node->logfile; }

# A backend that exits waits for so long (commit.c EXIT_TIMEOUT): what is not answered then is told as a failure. One that was
# faster has not given up.
my $EXIT_TIMEOUT = 0.5;

# Ends a session in some way and says how long its backend took to go.
sub seconds_to_end
{
	my ($session, $end) = @_;
	my $started = time;
	$end->();
	wait_for('the backend to end', sub { !process_is_there($session->pid) });
	my $seconds = time - $started;
	$session->close;
	return $seconds;
}

# Without critical, nobody has waited

my $session = PsqlSession->new($node);
my $log_start = log_size();
$session->value(q(SELECT count(nats_publish_async('t.a', i::text, critical => false)) FROM generate_series(1, 1000) i));
my $seconds = seconds_to_end($session, sub { $session->close });
cmp_ok($seconds, '<', $EXIT_BOUND, 'the backend ends soon');
is(wait_for('the messages', sub { stored('t.a') >= 1000 && stored('t.a') }), 1000, 'and what it has published arrives');
unlike(slurp_file($node->logfile, $log_start), qr/WARNING|ERROR|FATAL|could not/, 'without a word in the log') if $seconds < $EXIT_TIMEOUT;

foreach my $count (1, 100)
{
	my $subject = "t.count$count";
	my ($code, $output, $error) = $node->psql('postgres',
		"SELECT count(nats_publish_async('$subject', 'x', critical => false)) FROM generate_series(1, $count)");
	is("$code $output $error", "0 $count ", "psql -c with $count messages");
	is(wait_for('the messages', sub { stored($subject) >= $count && stored($subject) }), $count, 'they arrive');
}

# FATAL
$session = PsqlSession->new($node);
$session->value(q(SELECT count(nats_publish_async('t.fatal', 'x', critical => false)) FROM generate_series(1, 100)));
$node->safe_psql('postgres', 'SELECT pg_terminate_backend(' . $session->pid . ')');
cmp_ok(seconds_to_end($session, sub { }), '<', $EXIT_BOUND, 'a terminated backend ends soon');
is(wait_for('the messages', sub { stored('t.fatal') >= 100 && stored('t.fatal') }), 100, 'its messages arrive');

$session = PsqlSession->new($node, settings => { idle_session_timeout => '100ms' });
$session->run(q(SELECT count(nats_publish_async('t.timeout', 'x', critical => false)) FROM generate_series(1, 100)));
seconds_to_end($session, sub { });
is(wait_for('the messages', sub { stored('t.timeout') >= 100 && stored('t.timeout') }), 100, 'idle_session_timeout');

# In a transaction that is never committed: what was published has been sent
foreach my $how ('close', 'terminate', 'idle_in_transaction_session_timeout')
{
	foreach my $count (10, 100, 1000)
	{
		my $subject = "t.$how.$count";
		my $settings = $how =~ /idle/ ? { idle_in_transaction_session_timeout => '200ms' } : {};
		$session = PsqlSession->new($node, settings => $settings);
		$session->value(qq(BEGIN; SELECT count(nats_publish_async('$subject', 'x')) FROM generate_series(1, $count)));
		seconds_to_end($session,
			sub { $how eq 'terminate' ? kill('TERM', $session->pid) : $how eq 'close' ? $session->close : 1 });
		ok(eval { wait_for('the messages', sub { stored($subject) == $count }) },
			"$count messages of an open transaction arrive ($how)") or diag stored($subject) . ' have arrived';
	}
}
foreach my $count (100, 1000, 10000)
{
	$session = PsqlSession->new($node);
	$session->value(qq(BEGIN; SELECT count(nats_publish_async('t.rolledback.$count', 'x')) FROM generate_series(1, $count); ROLLBACK;
		SELECT nats_disconnect()));
	ok(eval { wait_for('the messages', sub { stored("t.rolledback.$count") == $count }) },
		"$count messages of a rolled-back transaction arrive when the session disconnects")
		or diag stored("t.rolledback.$count") . ' have arrived';
}

# Failures that no call has told of are in the log

$session = PsqlSession->new($node);
$session->value(q(SELECT nats_publish('full.a', 'x')));
$log_start = log_size();
my $result = $session->run(q(SELECT count(nats_publish_async('full.a', 'x', critical => false)) FROM generate_series(1, 3)));
my $told = $result->{error};
$seconds = seconds_to_end($session, sub { $session->close });
my $log = slurp_file($node->logfile, $log_start);
if ($told) { like($told, qr/^WARNING:  53400: /m, 'the failure was told'); }
else { like($log, $seconds < $EXIT_TIMEOUT ? qr/LOG: .*could not publish 3 messages.*maximum messages exceeded/ : qr/LOG: .*could not publish 3 messages/, 'the failure is in the log'); }

# A server that is stalled, or gone, when the session ends

foreach my $what ('stalled', 'killed')
{
	foreach my $how ('close', 'terminate', 'close in a transaction')
	{
		$session = PsqlSession->new($node);
		$session->value(q(SELECT nats_publish('t.warm', 'x')));
		$nats->stall;
		$session->value('BEGIN') if $how =~ /transaction/;
		$session->value(q(SELECT count(nats_publish_async('t.lost', repeat('x', 1000), critical => false)) FROM generate_series(1, 100)));
		$log_start = log_size();
		$nats->kill9 if $what eq 'killed';
		$seconds = seconds_to_end($session,
			sub { $how eq 'terminate' ? kill('TERM', $session->pid) : $session->close });
		cmp_ok($seconds, '<', $EXIT_BOUND, "$how, with the server $what");
		$log = slurp_file($node->logfile, $log_start);
		like($log, qr/LOG: .*could not publish 100 messages, the first to "t\.lost"/, 'the failure is in the log');
		unlike($log =~ s/.*terminating connection.*//r, qr/ERROR|WARNING|FATAL|PANIC|signal/, 'and no more');
		if ($what eq 'stalled') { $nats->resume; next; }
		$nats->start;
		$client = NatsClient->new(url => $nats->url);
	}
}

# The socket takes no more
$session = PsqlSession->new($node);
$session->value(q(SELECT nats_publish('t.warm', 'x')));
$nats->stall;
$session->value(q(SELECT count(nats_publish_async('t.lost', repeat('x', 100000), critical => false)) FROM generate_series(1, 200)));
cmp_ok(seconds_to_end($session, sub { $session->close }), '<', $EXIT_BOUND, 'a full socket');
$nats->resume;

# A server that never stops talking
my $talking = FakeServer->new(
	sub
	{
		my ($peer) = @_;
		$peer->handshake;
		while (my $command = $peer->next_command)
		{
			next unless $command->{verb} eq 'PUB';
			1 while $peer->send("PING\r\n" x 1000);
		}
	});
$session = PsqlSession->new($node, settings => { 'nats_publish.url' => $talking->url, 'nats_publish.ack_timeout' => '300ms' });
$session->run(q(SELECT nats_publish_async('t.a', 'x', critical => false)));
cmp_ok(seconds_to_end($session, sub { $session->close }), '<', $EXIT_BOUND, 'a server that talks without end');

# A session that has used nothing, or was refused
$session = PsqlSession->new($node, settings => { 'nats_publish.url' => 'nats://127.0.0.1:' . free_port() });
$session->run(q(SELECT nats_publish('t.a', 'x')));
$session->run(q(SELECT nats_publish_async('t.a', 'x', critical => false)));
cmp_ok(seconds_to_end($session, sub { $session->close }), '<', $EXIT_BOUND, 'a session that never had a connection');

# Many short sessions at once

my $before = stored('t.many');
my @sessions = map { PsqlSession->new($node) } 1 .. 50;
$_->begin(q(SELECT nats_publish('t.many', 'x') \g /dev/null
	SELECT count(nats_publish_async('t.many', 'x')) FROM generate_series(1, 10) \g /dev/null
	SELECT count(nats_publish_async('t.many', 'x', critical => false)) FROM generate_series(1, 10))) foreach @sessions;
is(join('', map { $_->finish->{error} } @sessions), '', '50 sessions at once');
my @pids = map { $_->pid } @sessions;
$_->close foreach @sessions;
is(wait_for('the messages', sub { stored('t.many') - $before >= 50 * 21 && stored('t.many') - $before }), 50 * 21, 'all messages arrive');
ok(wait_for('the backends', sub { !grep { process_is_there($_) } @pids }), 'all backends end');

# A backend's exit while another thread of it still connects
my $silent = FakeServer->new(sub { $_[0]->hold });
foreach my $round (1 .. 5)
{
	$session = PsqlSession->new($node, settings => { 'nats_publish.url' => $silent->url, 'nats_publish.connect_timeout' => '100ms' });
	$session->run(q(SELECT nats_publish('t.a', 'x')));
	cmp_ok(seconds_to_end($session, sub { $session->close }), '<', $EXIT_BOUND, 'exit after a failed connect');
}

# The shutdown of PostgreSQL
$session = PsqlSession->new($node);
$session->value(q(SELECT nats_publish('t.warm', 'x')));
$nats->stall;
$session->value(q(SELECT nats_publish_async('t.a', 'x', critical => false)));
my $started = time;
$node->stop('fast');
cmp_ok(time - $started, '<', $BOUND, 'a shutdown with a stalled server');
$nats->resume;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP/, 'nothing has crashed');

done_testing();
