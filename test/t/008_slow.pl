
# Servers that are slow or stop for a while: the window, the socket's buffer, and what counts as progress.

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

my ($nats, $client) = nats_with_stream('T', ['t.>']);
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.ack_timeout' => '60s',
	'nats_publish.commit_timeout' => '60s');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub session
{
	my (%settings) = @_;
	my $session = publishing_session($node, %settings);
	$session->value(q(SELECT nats_publish('t.warm', 'x')));
	$client->purge('T');
	return $session;
}

sub state_of_stream { return $client->stream_info('T')->{state}; }

# A full window

my $session = session(max_pending => 100);
$nats->stall;
$session->begin(q(BEGIN; INSERT INTO t VALUES (1);
	SELECT count(nats_publish_async('t.' || i, 'x')) FROM generate_series(1, 1000) i; COMMIT));
$session->wait_until_waiting;
sleep 0.3;
ok($session->is_running, 'a call waits while the window is full');
is($session->{output}, '', 'the first one that finds it full');
$nats->resume;
my $result = $session->finish;
is($result->{output} . $result->{error}, '1000', 'and goes on when the server does');
is(state_of_stream()->{messages} . '/' . state_of_stream()->{num_subjects}, '1000/1000', 'every message is stored once');

# a server that is there, and nobody who acknowledges: a subscriber without a stream
my $listener = NatsClient->new(url => $nats->url);
$listener->subscribe('q.>');
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('q.a', 'x')) FROM generate_series(1, 100)));
is($result->{output}, '100', 'as many as max_pending do not wait');
$result = $session->run(q(SET LOCAL nats_publish.ack_timeout = '300ms'; SELECT nats_publish_async('q.a', 'x')));
is($result->{sqlstate}, '58000', 'the next one waits, and not longer than ack_timeout');
like($result->{error}, qr/100 earlier messages/, 'the error says for how many');
$session->run('ROLLBACK');
$result = $session->run(q(SET nats_publish.on_full = 'error'; BEGIN;
	SELECT count(nats_publish_async('q.a', 'x')) FROM generate_series(1, 100); SELECT nats_publish_async('q.a', 'x')));
is($result->{sqlstate}, '53000', 'on_full = error');
like($result->{error}, qr/^HINT: .*max_pending/m, 'with a hint at the setting');
cmp_ok($result->{seconds}, '<', $BOUND, 'without waiting');
$result = $session->run(q(ROLLBACK; BEGIN; SELECT count(nats_publish_async('q.a', 'x', critical => false)) FROM generate_series(1, 101); COMMIT));
is($result->{sqlstate}, '', 'but for critical => false');
like($result->{error}, qr/^WARNING:  53000: /m, 'it is a WARNING');
is($session->value(q(RESET nats_publish.on_full; SET nats_publish.ack_timeout = '1s'; SELECT count(nats_publish_async('t.b', 'x')) FROM generate_series(1, 100);
	SELECT (nats_publish('t.a', 'x')).stream)), "100\nT", 'the session goes on when the window empties');
$session->close;

$session = session(max_pending => 1);
is($session->value(q(BEGIN; SELECT count(nats_publish_async('t.' || i, 'x')) FROM generate_series(1, 1000) i; COMMIT)), '1000', 'max_pending = 1');
is(state_of_stream()->{num_subjects}, 1000, 'every message is stored');
is(join(' ', map { $client->get_message('T', state_of_stream()->{first_seq} + $_ - 1)->{subject} } 1, 500, 1000), 't.1 t.500 t.1000', 'in order');

# A window full of bytes

$session = session(max_pending_bytes => '1MB');
$nats->stall;
$session->begin(q(BEGIN; SELECT count(nats_publish_async('t.' || i, repeat('x', 100000))) FROM generate_series(1, 200) i; COMMIT));
$session->wait_until_waiting;
my $memory = process_memory($session->pid);
cmp_ok($memory, '<', 20 * 1024, 'a window full of bytes keeps the backend small');
$nats->resume;
is($session->finish->{output}, '200', 'it goes on');
is(state_of_stream()->{num_subjects}, 200, 'every message is stored');
is($session->value(q(SET nats_publish.max_pending_bytes = '64kB'; SELECT (nats_publish('t.a', repeat('x', 1000000))).stream)), 'T',
	'one message may be larger than max_pending_bytes');
is($session->value(q(BEGIN; SELECT count(nats_publish_async('t.a', repeat('x', 1000000))) FROM generate_series(1, 10); COMMIT)), '10',
	'also many, one after the other');

# The socket takes no more, and the window more than the socket

$session = session();
$nats->stall;
$result = $session->run(q(BEGIN; INSERT INTO t VALUES (1);
	SELECT count(nats_publish_async('t.' || i, repeat('x', 100000))) FROM generate_series(1, 300) i));
is($result->{output}, '300', '30 MB to a server that reads nothing do not wait');
cmp_ok($result->{seconds}, '<', $BOUND, 'at all');
my $ticks = process_ticks($session->pid);
$session->begin('COMMIT');
$session->wait_until_waiting;
sleep 0.5;
ok($session->is_running, 'COMMIT does');
cmp_ok(process_ticks($session->pid) - $ticks, '<', 30, 'without spinning');
$nats->resume;
is($session->finish->{error}, '', 'and goes on');
is(state_of_stream()->{num_subjects}, 300, 'every message is stored');

$client->purge('T');
$nats->stall;
$session->value(q(BEGIN; SELECT count(nats_publish_async('t.' || i, repeat('x', 100000))) FROM generate_series(1, 100) i; ROLLBACK));
my $started = time;
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('t.' || i, repeat('x', 100000))) FROM generate_series(101, 200) i; ROLLBACK));
is($result->{sqlstate}, '', 'ROLLBACK with a full socket');
cmp_ok($result->{seconds}, '<', $BOUND, 'does not wait');
$nats->resume;
is($session->value(q(SELECT (nats_publish('t.201', 'x')).stream)), 'T', 'the session goes on');
is($session->value('SELECT connections_lost FROM nats_session_stats()'), '0', 'over one connection: no half message was sent');
is(state_of_stream()->{num_subjects}, 201, 'what was rolled back has been sent all the same');

# 100,000 messages in a window, whose acknowledgments wait to be read

$session = session(max_pending => 200000);
is($session->value(q(BEGIN; SELECT count(nats_publish_async('t.' || i, 'x')) FROM generate_series(1, 100000) i)), '100000', '100,000 messages');
# The socket takes a part of them; nobody reads what the server answers to these.
wait_for('a part of them', sub { state_of_stream()->{messages} > 10000 });
sleep 2;
is($session->value('SELECT nats_flush() >= 0; COMMIT; SELECT connections_lost, failed FROM nats_session_stats()'), "t\n0|0",
	'are acknowledged over one connection');
is(state_of_stream()->{num_subjects}, 100000, 'each is stored once');
$client->purge('T');

# What waits for an answer of its own

$session = session();
$session->value(q(SET nats_publish.ack_timeout = '1s'));
$nats->stall;
is($session->sqlstate('SELECT * FROM nats_server_info()'), '58000', 'nats_server_info() waits for ack_timeout');
$nats->resume;
$client->purge('T');

# A server that stops again and again: each acknowledgment is progress

$session = session(commit_timeout => '4s', ack_timeout => '4s');
$nats->stall;
$session->value(q(BEGIN; SELECT count(nats_publish_async('t.' || i, repeat('x', 20000))) FROM generate_series(1, 3000) i));
$session->begin('COMMIT');
my $stops = 0;
foreach (1 .. 12)
{
	sleep 0.4;
	$nats->resume;
	my $before = state_of_stream()->{messages};
	wait_for('an acknowledgment', sub { state_of_stream()->{messages} > $before || !$session->is_running });
	$nats->stall;
	$stops++ if $session->is_running;
}
note("it has stopped $stops times before COMMIT has ended");
$nats->resume;
is($session->finish->{error}, '', 'a server that stops again and again');
is(state_of_stream()->{num_subjects}, 3000, 'every message is stored');

# A server that acknowledges one message after the other, slowly, each before the timeout
my $slow = FakeServer->new(
	sub
	{
		my ($peer) = @_;
		$peer->handshake;
		my $seq = 0;
		my @published;
		while (1)
		{
			my $command = $peer->next_command(0.5);
			push @published, $command if $command && $command->{verb} eq 'PUB';
			next if $command;
			$peer->reply(shift @published, sprintf('{"stream":"T","seq":%d}', ++$seq)) if @published;
		}
	});
$session = PsqlSession->new($node, settings => {
	'nats_publish.url' => $slow->url, 'nats_publish.commit_timeout' => '3s', 'nats_publish.ack_timeout' => '3s',
	'nats_publish.max_pending' => 8 });
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 8); COMMIT));
is($result->{output} . $result->{error}, '8', 'COMMIT of messages that are acknowledged one by one');
cmp_ok($result->{seconds}, '>', 3.1, 'takes longer than commit_timeout');
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 8); SELECT nats_flush(); COMMIT));
is($result->{output} . $result->{error}, "8\n8", 'likewise nats_flush() and ack_timeout');
cmp_ok($result->{seconds}, '>', 3.1, 'takes longer than that');
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 16); COMMIT));
is($result->{output} . $result->{error}, '16', 'likewise a call that finds the window full');
$result = $session->run(q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 8); SELECT nats_flush('700 ms')));
is($result->{sqlstate}, '58030', 'a timeout of a call is for the whole call');
cmp_ok($result->{seconds}, '<', $BOUND, 'and kept');

done_testing();
