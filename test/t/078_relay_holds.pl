
# A message that has failed holds up its subject also when another one of that subject, which was scheduled before it, has
# come in between.

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
		$peer->note($payload);
		if ($payload eq 'failing' && !$copies{$payload}++)
		{
			$refused = $command;
			return;
		}
		if ($payload eq 'scheduled')
		{
			$peer->reply($refused, '{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"},"stream":"S","seq":0}');
		}
		$sequence++;
		$peer->reply($command, qq({"stream":"S","seq":$sequence}));
	});
my $node = relay_node('main', 'nats_publish.url' => $fake->url, 'nats_publish.ack_timeout' => '30s');
my $session = PsqlSession->new($node);
$session->value(q(SELECT nats_publish_outbox('s.x', 'first')));
is($fake->next_event, 'first', 'a message, by which the stream is heard of');
$session->value(q(SELECT nats_publish_outbox('s.x', 'second')));
is($fake->next_event, 'second', 'another one, before which it is asked');
ok(wait_for('it to be shown', sub { relay_column($session, 'ordering') eq 'pipelined' }), 'its order is kept by a pipeline');
wait_until_drained($session);
my $scheduled = $session->value(q(SELECT nats_publish_outbox('s.x', 'scheduled', deliver_at => now() + '1 hour')));
# what is pipelined only goes behind one that was answered just now
sleep 0.5;
$session->value(q(BEGIN; SELECT nats_publish_outbox('s.x', 'failing'), nats_publish_outbox('s.x', 'behind'); COMMIT));
is($fake->next_event, 'failing', 'one that is on its way');
# the other one's time comes
$session->value("UPDATE nats_outbox SET next_attempt_at = now() WHERE id = $scheduled; SELECT nats_relay_resume()");
is(join(' ', map { $fake->next_event // 'nothing' } 1 .. 3), 'scheduled failing behind', 'what is behind a message that failed waits for it');
is($session->value('SELECT count(*) FROM nats_outbox_dead'), 0, 'which has gone, too');
done_testing();
