
=pod

=head1 NAME

Chaos::Probe - asks one node again and again whether it stores messages

=head1 SYNOPSIS

  Chaos::Probe::run(url => $url, streams => ['sync', ...], log => $file, until => sub { ... });
  Chaos::Probe::is_well($url, ['sync', ...])       # once

=head1 DESCRIPTION

A client of another make than the extension, on the same way as PostgreSQL's. A few times a second it publishes a message
of chaos.NAME.probe for each stream. A line of the log is, with tabs between them, the time when one was sent, the stream's
name and after how many seconds it was acknowledged, nothing if it was not in time.

=cut

package Chaos::Probe;

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep time);

use NatsClient;

my $EVERY_SECONDS = 0.25;

# A node that takes longer is not one of which anything is expected.
my $PATIENCE_SECONDS = 0.7;

sub run
{
	my (%args) = @_;
	my $self = bless {%args}, __PACKAGE__;
	local $SIG{PIPE} = 'IGNORE';
	open($self->{file}, '>', $self->{log}) or die "$self->{log}: $!";
	$self->{file}->autoflush(1);
	until ($self->{until}->())
	{
		my $began = time;
		# nothing, if it can't be asked; with another client next time, as what is still to come is of no use
		my $answers = eval { $self->_ask } // {};
		$self->{file}->print(join("\t", sprintf('%.3f', $began), $_, $answers->{$_} // ''), "\n") foreach @{ $self->{streams} };
		delete $self->{client} if keys %$answers < @{ $self->{streams} };
		my $left = $began + $EVERY_SECONDS - time;
		sleep $left if $left > 0;
	}
	return;
}

sub is_well
{
	my ($url, $streams) = @_;
	my $self = bless { url => $url, streams => $streams }, __PACKAGE__;
	my $answers = eval { $self->_ask } // {};
	return @$streams == grep { defined } values %$answers;
}

# Returns after how many seconds each stream has acknowledged; of one that has refused it is nothing. What is still to come
# of another round, or for another probe, is no answer.
sub _ask
{
	my ($self) = @_;
	$self->_connect unless $self->{client};
	my ($client, $inbox, $began, %answers) = ($self->{client}, "$self->{inbox}." . ++$self->{round}, time);
	$client->publish("chaos.$_.probe", 'probe', reply => "$inbox.$_") foreach @{ $self->{streams} };
	while (keys %answers < @{ $self->{streams} })
	{
		my $left = $began + $PATIENCE_SECONDS - time;
		my $message = $left > 0 && $client->next_message($left) or last;
		my ($stream) = $message->{subject} =~ /^\Q$inbox\E\.(\w+)$/ or next;
		$answers{$stream} = $message->{payload} =~ /"seq":/ ? sprintf '%.3f', time - $began : undef;
	}
	return \%answers;
}

sub _connect
{
	my ($self) = @_;
	my $client = NatsClient->new(url => $self->{url}, timeout => $PATIENCE_SECONDS);
	$self->{inbox} = "answer.$$." . int(rand(1e9));
	$client->subscribe("$self->{inbox}.>");
	$self->{client} = $client;
	return;
}

1;
