
=pod

=head1 NAME

Chaos::Reader - a session that has the rows of tables published that are there already, again and again

=head1 SYNOPSIS

  Chaos::Reader::run(log => $file, connection => sub { "dbi:Pg:..." }, until => sub { ... });

=head1 DESCRIPTION

Calls C<nats_publish_rows()> for each of the kept tables (Chaos::Plan) in turn; a call that has failed is made again until
it succeeds, and so comes to the end of the run. Once more for each when C<until> returns true.

A line of the log is a time and fields with tabs between them:

  call     delivery                              is about to be called
  told     delivery, "ok"; or SQLSTATE, text; or "lost", SQLSTATE, text

=cut

package Chaos::Reader;

use strict;
use warnings FATAL => 'all';

use parent -norequire, 'Chaos::Client';

use Time::HiRes qw(sleep);

use Chaos::Client;
use Chaos::Plan;

# So that faults come in the middle of a run.
my $CALL = q(CALL nats_publish_rows('kept_%s', batch => 8, pause => '100 ms'));

my $AGAIN_SECONDS = 0.2;

sub run
{
	my (%args) = @_;
	my $self = bless { %args, client => 'reader' }, __PACKAGE__;
	open($self->{file}, '>', $self->{log}) or die "$self->{log}: $!";
	$self->{file}->autoflush(1);
	for (my $number = 0; !$self->{until}->(); $number++)
	{
		$self->_read_rows($Chaos::Plan::KEPT[ $number % @Chaos::Plan::KEPT ]);
	}
	$self->_read_rows($_) foreach @Chaos::Plan::KEPT;
	$self->{session}->disconnect if $self->{session};
	return;
}

sub _read_rows
{
	my ($self, $delivery) = @_;
	until ($self->_call_for($delivery))
	{
		sleep $AGAIN_SECONDS;
	}
	return;
}

sub _call_for
{
	my ($self, $delivery) = @_;
	$self->_connect;
	# NOTICEs of how far it is
	local $SIG{__WARN__} = sub { };
	$self->_note('call', $delivery);
	my $is_done = $self->_do(sprintf $CALL, $delivery);
	$self->_note('told', $delivery, $is_done ? 'ok' : $self->_error);
	return $is_done;
}

# Of Chaos::Client: what takes long is not worth a line.
sub _waited { return; }

1;
