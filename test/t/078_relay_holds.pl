
# A message that has failed holds up its subject also when another one of that subject, which was scheduled before it, has
# come in between. And what waits for its time, or for others, goes when that is over, and not when the relay looks by itself.

use strict;
use warnings FATAL => 'all';

use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use PsqlSession;
use PublishTest;
use RelayTest;

# A server with the stream S, of which the relay is the only writer. The first copy of one message is refused, when another one is
# there that came in between.
my $REFUSAL = '{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"},"stream":"S","seq":0}';
my $INFO = '{"type":"io.nats.jetstream.api.v1.stream_info_response","config":{"name":"S","subjects":["s.>"],"num_replicas":1,"metadata":{"_nats.ver":"2.12.0"}},"state":{}}';
my %copies;
my $sequence = 0;
my $refused;
my $fake = FakeServer->answering(
	sub
	{
		my ($peer, $command) = @_;
		if ($command->{subject} =~ /STREAM\.INFO/) { $peer->reply($command, $INFO); return; }
		return unless $command->{subject} =~ /^s\./;
		my $payload = $command->{payload};
		$peer->note($payload) unless $payload eq 'more';
		if ($payload =~ /failing/ && !$copies{$payload}++)
		{
			$refused = $command;
			return;
		}
		if ($payload =~ /scheduled/)
		{
			$peer->reply($refused, $REFUSAL);
		}
		$sequence++;
		$peer->reply($command, qq({"stream":"S","seq":$sequence}));
	});
my $node = relay_node('main', 'nats_publish.url' => $fake->url, 'nats_publish.ack_timeout' => '15s');
my $session = PsqlSession->new($node);
my $other = PsqlSession->new($node);
$session->value(q(SELECT nats_publish_outbox('s.x', 'first')));
is($fake->next_event, 'first', 'a message, by which the stream is heard of');
$session->value(q(SELECT nats_publish_outbox('s.x', 'second')));
is($fake->next_event, 'second', 'another one, before which it is asked');

# Also when somebody has locked the failed one, so that it can't be written down that it has failed
foreach my $is_locked (0, 1)
{
	my $what = $is_locked ? 'locked ' : '';
	ok(wait_for('it to be shown',
		sub
		{
			$session->value(q(SELECT nats_publish_outbox('s.x', 'more')));
			return wait_until_drained($session) && relay_column($session, 'ordering') eq 'pipelined';
		}), 'its order is kept by a pipeline');
	my $scheduled = $session->value("SELECT nats_publish_outbox('s.x', '${what}scheduled', deliver_at => now() + '1 hour')");
	# what is pipelined only goes behind one that was answered just now
	sleep 0.5;
	$session->value("BEGIN; SELECT nats_publish_outbox('s.x', '${what}failing'), nats_publish_outbox('s.x', '${what}behind'); COMMIT");
	is($fake->next_event, "${what}failing", 'one that is on its way');
	$other->value(q(BEGIN; SELECT FROM nats_outbox WHERE payload = 'locked failing' FOR UPDATE));
	# the other one's time comes
	$session->value("UPDATE nats_outbox SET next_attempt_at = now() WHERE id = $scheduled; SELECT nats_relay_resume()");
	is($fake->next_event, "${what}scheduled", 'the scheduled one goes');
	is($fake->next_event(3), undef, 'and nothing else, as long as the failed one is locked') if $is_locked;
	$other->value('COMMIT');
	is(join(', ', map { $fake->next_event // 'nothing' } 1 .. 2), "${what}failing, ${what}behind", 'what is behind a message that failed waits for it');
	wait_until_drained($session);
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), 0, 'which has gone, too');
}

# A server that has this subroutine answer each message; with a stream that is not pipelined. The relay has looked around
# there, and is at rest for an hour.
sub move_to
{
	my ($answer) = @_;
	my $server = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			if ($command->{subject} =~ /STREAM\.INFO/) { $peer->reply($command, $INFO =~ s/"num_replicas":1/"num_replicas":3/r); return; }
			return unless defined $command->{id};
			$peer->note($command->{payload});
			$answer->($peer, $command);
		});
	reconfigure($node, 'nats_publish.url' => $server->url, 'nats_publish.relay_poll_interval' => '1h');
	$session->value(q(SELECT nats_publish_outbox('s.moved', 'moved')));
	is($server->next_event, 'moved', 'another server, and a message');
	wait_until_drained($session);
	# a look from the lowest entry on is a second behind another one
	sleep 3;
	return $server;
}

# One that has failed, with nothing else to wake the relay
{
	my $is_refused = 0;
	my $server = move_to(
		sub
		{
			my ($peer, $command) = @_;
			my $is_first = $command->{payload} eq 'alone' && !$is_refused++;
			$peer->reply($command, $is_first ? $REFUSAL
				: '{"stream":"S","seq":1}');
		});
	$session->value(q(SELECT nats_publish_outbox('s.alone', 'alone')));
	is($server->next_event, 'alone', 'a message that is refused');
	is($server->next_event(20), 'alone', 'is tried again when it is due');
	ok(eval { wait_until_drained($session, 20) }, 'and stored');
}

# When the order counts no more, those that were passed by behind a failed one go at once
{
	my $server = move_to(
		sub
		{
			my ($peer, $command) = @_;
			$peer->reply($command, $command->{payload} eq 'refused' ? $REFUSAL
				: '{"stream":"S","seq":1}');
		});
	$session->value(q(BEGIN; SELECT nats_publish_outbox('s.passed', 'refused'), nats_publish_outbox('s.passed', 'passed by'); COMMIT));
	is($server->next_event, 'refused', 'a message that is refused');
	wait_for('that to be written', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE attempts > 0)) eq '1' });
	$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '1 hour' WHERE attempts > 0));
	# its time by then; a look for it, and one from the lowest entry on
	sleep 4;
	is($session->value(q(SELECT count(*) FROM nats_outbox)), 2, 'holds up one behind it');
	reconfigure($node, 'nats_publish.relay_ordering' => 'relaxed');
	# the other one can have been tried again before its time was set
	my $event = 'refused';
	$event = $server->next_event(20) // 'nothing' while $event eq 'refused';
	is($event, 'passed by', 'which goes when the order counts no more');
	$session->value('DELETE FROM nats_outbox');
	reconfigure($node, 'nats_publish.relay_ordering' => undef);
}

# Messages whose time has come, which had to give up their place behind one that was not answered for long
{
	my $unanswered;
	my $server = move_to(
		sub
		{
			my ($peer, $command) = @_;
			if ($command->{payload} eq 'slow') { $unanswered = $command; return; }
			if ($command->{payload} eq 'end') { $peer->reply($unanswered, '{"stream":"S","seq":1}'); }
			$peer->reply($command, '{"stream":"S","seq":1}');
		});
	reconfigure($node, 'nats_publish.relay_batch_size' => 2);
	$session->value(q(SELECT nats_publish_outbox('s.slow', 'due ' || i, deliver_at => now() + '3 seconds') FROM generate_series(1, 2) i));
	$session->value(q(SELECT nats_publish_outbox('s.slow', 'slow')));
	is($server->next_event, 'slow', 'one that is not answered');
	# they have come, and gone, and nothing is looked for any more
	sleep 7;
	$session->value(q(SELECT nats_publish_outbox('s.end', 'end')));
	is($server->next_event(20), 'end', 'until one of another subject is');
	is_deeply([ sort map { $server->next_event(20) // 'nothing' } 1 .. 2 ], [ 'due 1', 'due 2' ], 'those whose time has come go when nothing holds them up');
	reconfigure($node, 'nats_publish.relay_batch_size' => undef);
}
done_testing();
