
# What is in PostgreSQL's log: every connection at DEBUG1, and at the default level nothing while all is well.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $USER = 'user: "app", password: "Secret"';
my $nats = NatsServer->new(jetstream => 1, config => "authorization { $USER }")->start;
my $address = '127.0.0.1:' . $nats->port;
sub client { return NatsClient->new(url => $nats->url, user => 'app', pass => 'Secret'); }
client()->create_stream('S', ['s.>'], storage => 'file');

my $node = relay_node('main',
	log_statement => 'none',
	'nats_publish.url' => "nats://app:Secret\@$address",
	'nats_publish.ack_timeout' => '60s',
	'nats_publish.commit_timeout' => '60s');
my $session = PsqlSession->new($node);

# What the log has of ours behind the offset.
sub ours { my ($offset) = @_; return log_lines($node, $offset, qr/nats/i); }

# SELECTs whose results are of no interest.
sub calls { return join ' ', map { "SELECT $_ \\g /dev/null\n" } @_; }

# One message in each mode.
sub publish_everything
{
	my ($from) = @_;
	$from->value(calls(q(nats_publish('s.a', 'x')), q(nats_publish_async('s.a', 'x')), q(nats_publish_async('s.a', 'x', critical => false)),
			q(nats_publish_on_commit('s.a', 'x')), q(nats_publish_outbox('s.a', 'x'))));
	wait_until_drained($from);
	return;
}

# All is well

{
	my $offset = log_length($node);
	publish_everything($session);
	$node->reload;
	my @others = map { PsqlSession->new($node) } 1 .. 3;
	foreach my $other (@others)
	{
		publish_everything($other);
		$other->value('BEGIN;' . calls(q(nats_publish_async('s.a', 'x')), q(nats_publish_on_commit('s.a', 'x'))) . 'ROLLBACK');
		$other->value(calls('nats_server_info()', q(nats_stream_info('S')), 'nats_disconnect()'));
		publish_everything($other);
		# a backend that exits does not wait for long (commit.c EXIT_TIMEOUT)
		my $stored = client()->stream_info('S')->{state}{messages};
		$other->value(calls(q(nats_publish_async('s.a', 'x', critical => false))));
		wait_for('the message', sub { client()->stream_info('S')->{state}{messages} > $stored });
		$other->close;
	}
	wait_for('their ends', sub { !grep { process_is_there($_->pid) } @others });
	$session->value('SELECT count(nats_publish_outbox($$s.$$ || i, $$x$$)) FROM generate_series(1, 3000) i');
	wait_until_drained($session);
	$session->value('SELECT nats_relay_pause(); SELECT nats_relay_resume()');
	publish_everything($session);
	is_deeply([ ours($offset) ], [], 'nothing is in the log while all is well');
}

# Sessions, at DEBUG1

sub debug_session { return PsqlSession->new($node, settings => { log_min_messages => 'debug1' }); }

# The session's lines behind the offset are these, in their order. How often it could not connect to a server that was
# being started is a matter of chance, and so is whether the relay tells of it.
sub logged
{
	my ($what, $from, $offset, @expected) = @_;
	my $pid = $from->pid;
	my @lines = grep { /\[$pid\]/ && !/could not connect: .*refused/ } ours($offset);
	is(scalar @lines, scalar @expected, "$what: so many lines") or diag(join "\n", @lines);
	foreach my $i (0 .. $#expected) { like($lines[$i] // '', $expected[$i], $what); }
	unlike(join("\n", @lines), qr/Secret/, 'without credentials');
	return;
}

my $CONNECTED = qr/DEBUG: .* connected to .*$address/;
my $LOST = qr/DEBUG: .* lost .*$address: \S/;
my $DRAINS = qr/DEBUG: .* drains .*$address/;
my $CONNECTED_AGAIN = qr/DEBUG: .* connected again, to .*$address/;

foreach my $count (1, 10)
{
	my $debugged = debug_session();
	my $offset = log_length($node);
	$debugged->value(calls(q(nats_publish('s.a', 'x'))));
	logged('the first message', $debugged, $offset, $CONNECTED);
	$offset = log_length($node);
	$debugged->value(calls(q(nats_publish('s.a', 'x'))));
	logged('the second message', $debugged, $offset);
	$nats->stall;
	$debugged->begin("SELECT nats_publish_async('s.a', 'x') FROM generate_series(1, $count) \\g /dev/null\n");
	$debugged->wait_until_waiting;
	$nats->restart(stop => 'kill9');
	is($debugged->finish->{error}, '', 'a server that is killed');
	logged("a lost connection, and $count in flight", $debugged, $offset, $LOST, $CONNECTED_AGAIN, qr/DEBUG: .*sent $count messages? again/);
	$offset = log_length($node);
	$debugged->value(calls('nats_disconnect()'));
	logged('nats_disconnect()', $debugged, $offset, $DRAINS);
	$offset = log_length($node);
	$debugged->value(calls(q(nats_publish('s.a', 'x'))));
	logged('a message behind it', $debugged, $offset, $CONNECTED);
	$nats->stall;
	$debugged->value(calls(q(nats_publish_async('s.a', 'x', critical => false))));
	$offset = log_length($node);
	$debugged->close;
	wait_for('the end', sub { !process_is_there($debugged->pid) });
	# whether it gives the server up before its own time is over is a matter of chance
	my $pid = $debugged->pid;
	my $lines = join "\n", log_lines($node, $offset, qr/\[$pid\].*(?:nats|could not publish)/);
	like($lines, qr/^.*$DRAINS.*\n(?:.*$LOST.*\n)?.*LOG: .*could not publish to "s\.a".*(?:\n.*DETAIL: .*)?$/, 'a session that ends with a message that is not acknowledged');
	unlike($lines, qr/Secret/, 'without credentials');
	$nats->resume;
}
{
	# one that is lost while nobody looks
	my $debugged = debug_session();
	$debugged->value(calls(q(nats_publish('s.a', 'x'))));
	$nats->restart;
	my $offset = log_length($node);
	$debugged->value(calls(q(nats_publish('s.a', 'x'))));
	logged('a server that was restarted', $debugged, $offset, $LOST, $CONNECTED_AGAIN);
}
{
	my $nowhere = '127.0.0.1:' . free_port();
	my $debugged = PsqlSession->new($node, settings => { log_min_messages => 'debug1', 'nats_publish.url' => "nats://app:Secret\@$nowhere" });
	my $offset = log_length($node);
	is($debugged->sqlstate(q(SELECT nats_publish('s.a', 'x'))), '58000', 'no server');
	my @lines = grep { /DEBUG: / } ours($offset);
	is(scalar @lines, 1, 'one line');
	like($lines[0], qr/could not connect: .*$nowhere.*refused/, 'tells of it');
	unlike(join("\n", ours($offset)), qr/Secret/, 'without credentials');
}

# The relay

publish_everything($session);
my $relay = relay_pid($session);
sub of_relay { my ($offset) = @_; return grep { /\[$relay\]/ } ours($offset); }
sub wait_for_lines { my ($offset, $count) = @_; return wait_for("$count lines", sub { my @lines = of_relay($offset); @lines >= $count }); }

{
	my $offset = log_length($node);
	foreach my $round (1, 2)
	{
		$nats->stall;
		$session->value(q(SELECT count(nats_publish_outbox('s.' || i, 'x')) FROM generate_series(1, 100) i));
		wait_for('the relay to wait',
			sub { $session->value("SELECT state = 'active' AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $relay") eq 't' });
		$nats->kill9;
		wait_for_lines($offset, 2 * $round - 1);
		sleep 1.5;
		is(scalar(my @lines = of_relay($offset)), 2 * $round - 1, "round $round: one line, however long it takes");
		like($lines[-1], qr/LOG: .* lost .*$address: \S/, 'the connection is lost');
		$nats->start;
		$node->reload;
		wait_until_drained($session);
		wait_for_lines($offset, 2 * $round);
		is(scalar(@lines = of_relay($offset)), 2 * $round, 'one line');
		like($lines[-1], qr/LOG: .* again/, 'it is there again');
	}
	is_deeply([ ours($offset) ], [ of_relay($offset) ], 'and no other line');
	unlike(join("\n", ours($offset)), qr/Secret/, 'without credentials');
}

# With nothing to publish, too
{
	my $offset = log_length($node);
	$nats->kill9;
	wait_for_lines($offset, 1);
	$session->value(q(SELECT count(nats_publish_outbox('s.' || i, 'x')) FROM generate_series(1, 100) i));
	sleep 1.5;
	is(scalar(my @lines = of_relay($offset)), 1, 'an idle relay: one line');
	like($lines[0], qr/LOG: .* lost .*$address: \S/, 'the connection is lost');
	$nats->start;
	$node->reload;
	wait_until_drained($session);
	wait_for_lines($offset, 2);
	is(scalar(@lines = of_relay($offset)), 2, 'one line');
	like($lines[1], qr/LOG: .* again/, 'it is there again');
	$nats->restart;
	wait_for_lines($offset, 4);
	is(scalar(@lines = of_relay($offset)), 4, 'a restart: one of each');
	like("@lines[ 2, 3 ]", qr/LOG: .* lost .*LOG: .* again/, 'in this order');
}

# Wrong credentials
{
	my $offset = log_length($node);
	reconfigure($node, 'nats_publish.url' => "nats://app:Secret2\@$address");
	$session->value(q(SELECT count(nats_publish_outbox('s.' || i, 'x')) FROM generate_series(1, 100) i));
	wait_for_lines($offset, 1);
	sleep 1.5;
	is(scalar(my @lines = of_relay($offset)), 1, 'wrong credentials: one line');
	like($lines[0], qr/LOG:  nats_publish relay cannot publish: .*\S/, 'it cannot publish');
	reconfigure($node, 'nats_publish.url' => "nats://app:Secret\@$address");
	wait_until_drained($session);
	wait_for_lines($offset, 2);
	is(scalar(@lines = of_relay($offset)), 2, 'one more line');
	like($lines[1], qr/LOG:  nats_publish relay .*again/, 'it publishes again');
	unlike(join("\n", of_relay($offset)), qr/Secret/, 'without credentials');
}

# Messages that no stream takes are no lines of their own
{
	my $offset = log_length($node);
	$session->value(q(SELECT count(nats_publish_outbox('nowhere.' || i, 'x')) FROM generate_series(1, 100) i));
	wait_for('attempts', sub { $session->value('SELECT min(attempts) FROM nats_outbox') >= 2 });
	my @lines = of_relay($offset);
	cmp_ok(scalar @lines, '<=', 1, '100 messages and no stream: one line at most') or diag(join "\n", @lines);
	client()->create_stream('N', ['nowhere.>']);
	$session->value('SELECT nats_outbox_retry_all()');
	wait_until_drained($session);
	cmp_ok(scalar(@lines = of_relay($offset)), '<=', 2, 'and one when there is one');
}

# The relay at DEBUG1
{
	my $offset = log_length($node);
	reconfigure($node, log_min_messages => 'debug1');
	$nats->restart;
	publish_everything($session);
	is(scalar(grep { $_ =~ /connected again, to .*$address/ } of_relay($offset)), 1, 'at DEBUG1, the relay');
	unlike(join("\n", ours($offset)), qr/Secret/, 'without credentials');
	$offset = log_length($node);
	$session->value(q(SELECT count(nats_publish_outbox('s.' || i, 'x')) FROM generate_series(1, 100) i));
	wait_until_drained($session);
	# it may ask about the stream again just now
	is_deeply([ grep { $_ !~ /is not pipelined$/ } of_relay($offset) ], [], 'no line per message there, either');
}
is(relay_pid($session), $relay, 'all by one worker');

done_testing();
