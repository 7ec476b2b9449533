
=pod

=head1 NAME

HelperProcess - a process that a test has started, and that ends with it

=head1 SYNOPSIS

  package FakeServer;
  use parent 'HelperProcess';

  my $self = bless { pid => $pid }, $class;
  $self->keep;

=head1 METHODS

=over

=item $process->keep

From now on C<< $process->{pid} >> is ended at the end of the test, or when the object goes.

=item $process->stop

Ends it, with C<< $process->{stop_signal} >> or else SIGTERM, and waits for that.

=back

=cut

package HelperProcess;

use strict;
use warnings FATAL => 'all';

use Scalar::Util qw(weaken);

my @processes;

END
{
	my $status = $?;
	$_->stop foreach grep { defined } @processes;
	$? = $status;
}

sub keep
{
	my ($self) = @_;
	push @processes, $self;
	weaken($processes[-1]);
	return;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	kill $self->{stop_signal} // 'TERM', $self->{pid};
	waitpid($self->{pid}, 0);
	delete $self->{pid};
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	$self->stop;
	return;
}

1;
