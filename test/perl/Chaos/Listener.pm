
=pod

=head1 NAME

Chaos::Listener - a client that hears the messages of a subject and answers none

=head1 SYNOPSIS

  Chaos::Listener::run(url => $url, subject => 'chaos.unheard.>', log => $file, until => sub { ... });

=head1 DESCRIPTION

While it is there, nobody is told that there is no stream for such a message. It comes back when its server does. The
log is empty.

=cut

package Chaos::Listener;

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep);

use NatsClient;

sub run
{
	my (%args) = @_;
	local $SIG{PIPE} = 'IGNORE';
	until ($args{until}->())
	{
		eval { _listen(%args) };
		sleep 0.2;
	}
	return;
}

# For a minute: of a connection that is lost in silence nothing is heard.
sub _listen
{
	my (%args) = @_;
	my $client = NatsClient->new(url => $args{url}, timeout => 1);
	$client->subscribe($args{subject});
	foreach (1 .. 60)
	{
		last if $args{until}->();
		while ($client->next_message(1)) { }
		$client->flush;
	}
	return;
}

1;
