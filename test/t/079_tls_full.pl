
# A server with TLS that does not read, until no socket takes any more: messages are cancelled of which a record is made
# and a part of it sent. What it reads when it reads on are whole commands, each message as it was published.

use strict;
use warnings FATAL => 'all';

use List::Util qw(uniqnum);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use Certificates;
use FakeServer;
use PublishTest;

# More than the sockets hold, and each less than a record.
my $MESSAGES = 900;
my $LENGTH = 12000;

my $certificates = Certificates->new;
my $certificate = $certificates->make('server', names => 'DNS:localhost,IP:127.0.0.1');
my $reads = "$PostgreSQL::Test::Utils::tmp_check/reads";
my $fake = FakeServer->new(sub {
	my ($peer) = @_;
	$peer->handshake_with_tls($certificate);
	while (my $command = $peer->next_command)
	{
		next if $command->{verb} =~ /^(SUB|PING)$/;
		return $peer->note("strange $command->{verb}") if $command->{verb} ne 'PUB';
		my ($number, $letters) = $command->{payload} =~ /^(\d+) (x*)$/;
		$peer->note(defined $number && length($letters) == $LENGTH + 3 * $number ? "whole $number" : "broken $command->{subject}");
		$peer->reply($command, '{"stream":"T","seq":1}');
		sleep 0.05 until -e $reads;
	}
});
my $node = publishing_node('main', 'nats_publish.url' => 'tls://localhost:' . $fake->port,
	'nats_publish.tls_ca_file' => $certificates->ca_file);

my $session = publishing_session($node, ack_timeout => '1min');
sub publish { my ($number) = @_; return "SELECT (nats_publish('t.a', '$number ' || repeat('x', $LENGTH + 3 * $number))).stream;\n"; }

is($session->value(publish(0)), 'T', 'the first one is read');
my $result = $session->run("SET statement_timeout = '10ms';\n" . join '', map { publish($_) } 1 .. $MESSAGES);
my $cancelled = () = $result->{error} =~ /57014/g;
is($cancelled, $MESSAGES, 'each is cancelled');
append_to_file($reads, '');
is($session->value("SET statement_timeout = 0;\n" . publish($MESSAGES + 1)), 'T', 'the one behind them is acknowledged');
is($session->value('SELECT tls FROM nats_server_info()'), 't', 'with TLS');
is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '1|0', 'on the same connection');

my @seen;
while (my $event = $fake->next_event(10))
{
	push @seen, $event;
	last if $event eq 'whole ' . ($MESSAGES + 1) || $event !~ /^whole/;
}
my $last = pop @seen;
is($last, 'whole ' . ($MESSAGES + 1), 'which the server has read');
cmp_ok(scalar @seen, '<', $MESSAGES, 'not all that were cancelled have left');
my @numbers = map { /(\d+)/ } @seen;
my @sorted = uniqnum sort { $a <=> $b } @numbers;
is("@numbers", "@sorted", 'those for which there was room have, in their order');
cmp_ok(scalar @seen, '>', 1, 'which are ' . @seen);

done_testing();
