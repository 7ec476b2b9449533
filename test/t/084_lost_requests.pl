
# A request that was on its way when the connection was lost is asked again if that changes nothing, and only then.

use strict;
use warnings FATAL => 'all';

use Test::More;

use FakeServer;
use PsqlSession;
use PublishTest;

my $node = publishing_node('main');

# What servers have read that end the connection for the first request, and what becomes of it.
sub requested
{
	my ($request) = @_;
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command, $number) = @_;
			$peer->note("$number $command->{subject}");
			$peer->close if $number == 1;
			$peer->reply($command, '{"purged":0,"streams":["S"]}');
		});
	my $session = publishing_session($node, url => $fake->url);
	my $result = $session->run("SELECT nats_jetstream('$request')");
	my @read;
	while (defined(my $line = $fake->next_event(1))) { push @read, $line; }
	$session->close;
	return ($result, join ', ', @read);
}

foreach my $request (qw(STREAM.PURGE.INFO STREAM.DELETE.S STREAM.MSG.DELETE.S CONSUMER.DELETE.S.c))
{
	my ($result, $read) = requested($request);
	is($read, "1 \$JS.API.$request", "$request is sent once");
	is($result->{sqlstate}, '58000', '... and fails');
	like($result->{error}, qr/the connection was lost, and the request can't be sent again \(it may have been carried out\)/, '... as it says');
}
foreach my $request (qw(STREAM.INFO.S STREAM.NAMES))
{
	my ($result, $read) = requested($request);
	is($read, "1 \$JS.API.$request, 2 \$JS.API.$request", "$request is sent again");
	is($result->{sqlstate}, '', '... and answered') or diag $result->{error};
}
done_testing();
