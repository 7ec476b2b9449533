
# The names of streams that acknowledgments tell: whoever can subscribe to a subject can make them up. They become a part of no
# command unless a stream can be called so.

use strict;
use warnings FATAL => 'all';

use Test::More;

use FakeServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my @answers = (
	'{"stream":"X 0\r\n\r\nPUB injected 0\r\n\r\nPUB y","seq":1}', '{"stream":"X","domain":"D 0\r\n\r\nPUB injected 0\r\n\r\nPUB y","seq":1}',
	'{"stream":"X Y","seq":1}', '{"stream":"X.Y","seq":1}', '{"stream":">","seq":1}', '{"stream":"X\u007f","seq":1}', '{"stream":"known","seq":1}');
my $fake = FakeServer->answering(
	sub
	{
		my ($peer, $command) = @_;
		$peer->note($command->{subject});
		return $peer->reply($command, '{"error":{"code":404,"err_code":10059,"description":"stream not found"}}') if $command->{subject} =~ /^\$JS/;
		$peer->reply($command, $answers[ $command->{subject} =~ s/\D//gr ]) if $command->{subject} =~ /^s\./;
	});
my $node = relay_node('main', 'nats_publish.url' => $fake->url);
my $session = PsqlSession->new($node);

foreach my $i (0 .. $#answers)
{
	$session->value("SELECT nats_publish_outbox('s.$i', 'x')");
	wait_until_drained($session);
}
my @told;
while (defined(my $subject = $fake->next_event(2))) { push @told, $subject; }
is(join(' ', grep { !/^s\./ } @told), '$JS.API.STREAM.INFO.known', 'only a stream that can be there is asked about');
is(scalar(grep { /^s\./ } @told), scalar @answers, 'each message has been sent once');
is($session->value('SELECT count(*) FROM nats_outbox_dead'), 0, 'none is dead');
done_testing();
