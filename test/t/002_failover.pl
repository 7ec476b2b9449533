
# A server that dies, restarts or stops for a while under a transaction.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use NatsServer;
use PublishTest;

my $BOUND = 20;

my ($nats) = nats_with_stream('F', ['f.>'], storage => 'file');
my $node = publishing_node('main', 'nats_publish.url' => $nats->url);
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub session { return publishing_session($node, @_); }
sub client { return NatsClient->new(url => $nats->url); }

# The payloads that the stream has under a subject, in their order.
sub stored
{
	my ($subject) = @_;
	return map { $_->{payload} } grep { $_->{subject} eq $subject } client()->stream_messages('F');
}

sub rows { return $node->safe_psql('postgres', 'SELECT count(*) FROM t'); }

sub clean
{
	client()->purge('F');
	$node->safe_psql('postgres', 'TRUNCATE t');
	return;
}

# Late acknowledgments are nobody's: this server answers PING, and what is late when the next message is there. The sequence
# is the number in the payload. It goes on beside all that follows: so the timeouts can be long, as a PONG must come in a
# quarter of one, or the connection is lost.

my @late;
my $fake = FakeServer->answering(
	sub
	{
		my ($peer, $command) = @_;
		push @late, $command;
		return unless $command->{payload} =~ /^next/;
		$peer->reply($_, sprintf '{"stream":"F","seq":%d}', $_->{payload} =~ /(\d+)$/) foreach splice @late;
	});
my $late = session(url => $fake->url, ack_timeout => '4s', commit_timeout => '4s');
$late->begin(join('', map { my $round = $_; q(
	SELECT nats_publish('f.late', 'late ROUND001');
	BEGIN; SELECT count(nats_publish_async('f.late', 'rolled back ROUND002')) FROM generate_series(1, 50); ROLLBACK;
	BEGIN; SELECT nats_publish_async('f.late', 'failed ROUND003') \g /dev/null
	COMMIT;
	BEGIN; SELECT nats_publish_async('f.late', 'aborted ROUND004') AS future \gset
	SELECT nats_await(:future, '200 ms'); COMMIT;
	SET nats_publish.ack_timeout = '30s'; SET nats_publish.commit_timeout = '30s';
	SELECT (nats_publish('f.late', 'next ROUND005')).seq;
	BEGIN; SELECT nats_publish_async('f.late', 'next ROUND1' || lpad(i::text, 2, '0')) IS NULL FROM generate_series(1, 20) i \g /dev/null
	SELECT nats_flush() \g /dev/null
	SELECT string_agg(seq::text, ' ' ORDER BY future) FROM nats_futures() WHERE status = 'acked'; COMMIT;
	RESET nats_publish.ack_timeout; RESET nats_publish.commit_timeout;) =~ s/ROUND/$round/gr } 1, 2) . 'SELECT connections_lost FROM nats_session_stats()');

# A commit that rides out a crash: what the stalled server was sent died with it

my $session = session(commit_timeout => '60s');
$session->value(q(SELECT nats_publish('f.warm', '')));
clean();
$nats->stall;
$session->value(q(BEGIN; INSERT INTO t VALUES (1);
	SELECT count(nats_publish_async('f.a', i::text)) FROM generate_series(1, 500) i));
$session->begin('COMMIT');
$session->wait_until_waiting;
$nats->kill9;
sleep 0.3;
ok($session->is_running, 'COMMIT waits while the server is down');
$nats->start;
my $result = $session->finish;
is($result->{error}, '', 'COMMIT rides out a crash and a restart of the server');
is_deeply([ stored('f.a') ], [ 1 .. 500 ], 'every message is in the stream exactly once, in order');
is(rows(), 1, 'and so is the row');
is($session->value('SELECT resent > 0, acked >= 500, failed, connections_lost FROM nats_session_stats()'), 't|t|0|1',
	'the messages were sent again');

# A crash while the server is at work: some are stored, of which some are acknowledged. Each has a subject
# of its own, so that the stream's numbers say whether one is missing or there twice.

$session = session(commit_timeout => '60s', ack_timeout => '60s');
clean();
$session->begin(q(BEGIN; INSERT INTO t VALUES (1);
	SELECT count(nats_publish_async('f.big.' || i, repeat('x', 100))) FROM generate_series(1, 60000) i; COMMIT;));
wait_for('the first messages', sub { client()->stream_info('F')->{state}{messages} > 5000 });
$nats->stall;    # so that some are not acknowledged
$session->wait_until_waiting;
$nats->restart(stop => 'kill9');
$result = $session->finish;
is($result->{output} . $result->{error}, '60000', 'a crash while messages are sent');
my $state = client()->stream_info('F')->{state};
is("$state->{messages} $state->{num_subjects}", '60000 60000', 'every message is in the stream exactly once');
is($session->value('SELECT connections_lost > 0, failed FROM nats_session_stats()'), 't|0', 'over two connections');
$session->close;

clean();
$session = session(commit_timeout => '60s', ack_timeout => '60s');
$session->begin(q(BEGIN; INSERT INTO t VALUES (1);
	SELECT count(nats_publish_async('f.big.' || i, repeat('x', 100))) FROM generate_series(1, 60000) i; COMMIT;));
wait_for('the first messages', sub { client()->stream_info('F')->{state}{messages} > 5000 });
$nats->restart;
$result = $session->finish;
if ($result->{sqlstate})
{
	# everything was acknowledged just then: a call that finds no server has nothing to ride out for
	is($result->{sqlstate}, '58000', 'a shutdown while messages are sent: a call fails');
	is(rows(), 0, 'and the transaction with it');
}
else
{
	is($result->{output}, '60000', 'a shutdown while messages are sent');
	$state = client()->stream_info('F')->{state};
	is("$state->{messages} $state->{num_subjects}", '60000 60000', 'every message is in the stream exactly once');
}
$session->close;

# A server that does not come back in time

clean();
$session = session(commit_timeout => '1s');
$session->value(q(SELECT nats_publish('f.warm', '')));
$nats->stall;
$session->value(q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('f.a', '1') > 0;
	SELECT nats_publish_async('f.b', '2') > 0));
$nats->kill9;
$result = $session->run('COMMIT');
is($result->{sqlstate}, '58030', 'COMMIT fails when the server stays down: stored or not, that is unknown');
like($result->{error}, qr/could not publish 2 messages/, 'it counts them');
like($result->{error}, qr/"f\.a".*\n.*"f\.b"/, 'and lists them');
like($result->{error}, qr/^HINT: .*msg_id/m, 'with a hint');
cmp_ok($result->{seconds}, '>=', 0.9, 'after commit_timeout');
cmp_ok($result->{seconds}, '<', $BOUND, 'and not much later');
is(rows(), 0, 'the transaction has left nothing');
is($session->sqlstate(q(SELECT nats_publish('f.a', 'x'))), '58000', 'the session goes on, without a server');
$nats->start;
is($session->value(q(SELECT (nats_publish('f.a', 'x')).stream)), 'F', 'and with one');

# Nothing was sent, for the connection was gone before
$nats->stall;
$session->value(q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('f.a', '1') > 0));
$nats->kill9;
$session->run(q(SET LOCAL nats_publish.ack_timeout = '1s'));
$result = $session->run(q(SELECT nats_publish_async('f.b', '2'); COMMIT));
like($result->{sqlstate}, qr/^580[03]0$/, 'publishing goes on with the connection lost: an error');
is(rows(), 0, 'nothing is left');
$nats->start;

# Uncritical messages do not keep COMMIT
clean();
$session->value(q(SELECT nats_publish('f.warm', '')));
$nats->stall;
$result = $session->run(q(BEGIN; INSERT INTO t VALUES (1);
	SELECT nats_publish_async('f.a', '1', critical => false) > 0; COMMIT));
is($result->{output} . $result->{error}, 't', 'COMMIT does not wait for critical => false');
cmp_ok($result->{seconds}, '<', $BOUND, 'at all');
$nats->kill9;
is($session->sqlstate(q(SET nats_publish.ack_timeout = '500ms'; SELECT nats_flush('700 ms'))), '58030', 'but nats_flush() does');
$result = $session->run(q(SELECT nats_publish_async('f.a', '2', critical => false) > 0));
is($result->{output}, 't', 'another one, without a server');
like($result->{error}, qr/^WARNING:  580[03]0: .*could not publish/m, 'their failure is a WARNING');
is($session->value('SELECT failed_uncritical FROM nats_session_stats()'), '2', 'which is counted');
is(rows(), 1, 'the row is there');
$nats->start;
$session->close;

# nats_publish() through a restart

clean();
$session = session(ack_timeout => '60s');
$session->value(q(SELECT nats_publish('f.warm', '')));
foreach my $how ('kill9', 'stop')
{
	$nats->stall;
	$session->begin(qq(SELECT * FROM nats_publish('f.sync.$how', 'x')));
	$session->wait_until_waiting;
	$nats->restart(stop => $how);
	like($session->finish->{output}, qr/^F\|\d+\|[tf]\|\|$/, "nats_publish() rides out a restart ($how)");
	is(scalar stored("f.sync.$how"), 1, 'the message is there once');
}

# nats_await() and nats_flush() do too
$session->value(q(SELECT nats_publish('f.warm', '')));
$nats->stall;
$session->value(q(BEGIN; SELECT nats_publish_async('f.await', 'x') AS future \gset));
$session->begin('SELECT (nats_await(:future)).stream; SELECT nats_flush(); COMMIT');
$session->wait_until_waiting;
$nats->restart(stop => 'kill9');
is($session->finish->{output}, "F\n0", 'nats_await() rides out a crash');
$session->value(q(BEGIN; SELECT 1 FROM nats_publish_async('f.flush', 'x')));
$nats->restart(stop => 'kill9');
is($session->value('SELECT nats_flush(); COMMIT'), '1', 'so does nats_flush()')
	or diag(join ' ', stored('f.flush'));
is(scalar(stored('f.await')) . scalar(stored('f.flush')), '11', 'each message is there once');

# Without an id, a message is not sent again

clean();
$session = session(commit_timeout => '30s', auto_msg_id => 'off');
$session->value(q(SELECT nats_publish('f.warm', '')));
$nats->stall;
$session->value(q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('f.noid', '1') > 0;
	SELECT nats_publish_async('f.id', '2', msg_id => 'mine') > 0));
$session->begin('COMMIT');
$session->wait_until_waiting;
$nats->restart(stop => 'kill9');
$result = $session->finish;
is($result->{sqlstate}, '58030', 'without an id a message is not sent again');
like($result->{error}, qr/"f\.noid"/, 'it is named');
is(rows(), 0, 'and COMMIT fails');
cmp_ok(scalar stored('f.noid'), '<=', 1, 'it is stored once at most');
$nats->stall;
$session->begin(q(SELECT nats_publish('f.noid', '2')));
$session->wait_until_waiting;
$nats->restart(stop => 'kill9');
is($session->finish->{sqlstate}, '58030', 'likewise for nats_publish()');
is($session->value(q(SELECT (nats_publish('f.noid', '3')).stream)), 'F', 'the session goes on');

# Two servers, of which the second takes over

my $second = NatsServer->new(name => 'second', jetstream => 1)->start;
NatsClient->new(url => $second->url)->create_stream('G', ['f.>']);
$session = session(url => $nats->url . ',' . $second->url, commit_timeout => '30s');
is($session->value(q(SELECT (nats_publish('f.two', '')).stream)), 'F', 'the first of two servers');
$nats->stall;
$session->value(q(BEGIN; SELECT count(nats_publish_async('f.two.' || i, '')) FROM generate_series(1, 100) i));
$session->begin('COMMIT');
$session->wait_until_waiting;
$nats->kill9;
is($session->finish->{error}, '', 'COMMIT goes on at the second server');
my $info = NatsClient->new(url => $second->url)->stream_info('G')->{state};
is($info->{messages}, 100, 'which has the messages');
is($session->value('SELECT server_name FROM nats_server_info()'), 'second', 'the session stays there');
$nats->start;
is($session->value(q(SELECT (nats_publish('f.two', '')).stream)), 'G', 'also when the first is back');
$second->stop;
is($session->value(q(SELECT (nats_publish('f.two', '')).stream)), 'F', 'until the second goes');

# A server that does not come back, to a transaction that depends on messages

$session = session();
$session->value(q(SELECT nats_publish('f.gone', 'warm'); SET nats_publish.ack_timeout = '1s'; SET nats_publish.commit_timeout = '1s'));
$nats->stall;
$session->value(q(BEGIN; SELECT nats_publish_async('f.gone', '1') \g /dev/null
	SAVEPOINT s));
$nats->kill9;
like($session->sqlstate(q(SELECT nats_publish('f.gone', '2'))), qr/^580[03]0$/, 'a server that does not come back');
$result = $session->run(q(ROLLBACK TO s; SELECT nats_publish('f.gone', '3')));
is($result->{sqlstate}, '58000', 'is tried again by the next call');
like($result->{error}, qr/"f\.gone".*could not be made again/, 'which says so');
$session->run('ROLLBACK');
$nats->start;

# The next server takes smaller messages only

{
	my $small = NatsServer->new(name => 'small', jetstream => 1, config => 'max_payload: 1000')->start;
	NatsClient->new(url => $small->url)->create_stream('F', ['f.>']);
	$session = session(url => $nats->url . ',' . $small->url);
	is($session->value('SELECT server_name FROM nats_server_info()'), 'nats1', 'two servers');
	$nats->stall;
	$session->value(q(BEGIN; SELECT count(nats_publish_async('f.small', repeat('x', 5000))) FROM generate_series(1, 20)));
	$nats->kill9;
	$result = $session->run('COMMIT');
	is($result->{sqlstate}, '58030', 'messages that were sent, and are too large for the next server');
	like($result->{error}, qr/max_payload.*may be stored/, 'as it says');
	$nats->start;
	$small->stop;
}

# What has gone on beside all that

$result = $late->finish;
is(join(' ', $result->{error} =~ /^ERROR:  (\w{5})/mg), join(' ', ('58030') x 6), 'no acknowledgment in time, a COMMIT that fails and an nats_await(), twice') or diag($result->{error});
is($result->{output}, join("\n", (map { my $round = $_; (50, "${round}005", join ' ', map { sprintf "${round}1%02d", $_ } 1 .. 20) } 1, 2), 0),
	'each time the next messages have their own acknowledgments, all over one connection');

done_testing();
