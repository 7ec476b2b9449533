
=pod

=head1 NAME

Chaos::WalWatch - writes down how much WAL is kept for what was not published

=head1 SYNOPSIS

  Chaos::WalWatch::run(log => $file, connection => sub { "dbi:Pg:..." }, until => sub { ... });

=head1 DESCRIPTION

A few times a second, by PostgreSQL's own view of its slots. A line of the log is, with tabs between them, the time when it had the
answer, the database, the position in bytes up to which WAL is written, and up to which the slot is confirmed.

=cut

package Chaos::WalWatch;

use strict;
use warnings FATAL => 'all';

use parent -norequire, 'Chaos::Client';

use Time::HiRes qw(sleep);

use Chaos::Client;

my $EVERY_SECONDS = 0.3;

my $POSITIONS = q(SELECT database, pg_current_wal_flush_lsn() - '0/0', confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_type = 'logical');

sub run
{
	my (%args) = @_;
	my $self = bless { %args, client => 'wal_watch' }, __PACKAGE__;
	open($self->{file}, '>', $self->{log}) or die "$self->{log}: $!";
	$self->{file}->autoflush(1);
	until ($self->{until}->())
	{
		$self->_connect;
		my $rows = $self->_try(sub { $self->{session}->selectall_arrayref($POSITIONS) });
		$self->_note(@$_) foreach @{ $rows // [] };
		sleep $EVERY_SECONDS;
	}
	$self->{session}->disconnect if $self->{session};
	return;
}

# Of Chaos::Client: what takes long is not worth a line.
sub _waited { return; }

1;
