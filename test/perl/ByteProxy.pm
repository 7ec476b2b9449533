
=pod

=head1 NAME

ByteProxy - a TCP proxy before a nats-server that knows nothing of NATS: TLS goes through it, and can stop in mid-record

=head1 SYNOPSIS

  use ByteProxy;

  my $proxy = ByteProxy->new($nats);
  $session->value("SET nats_publish.url = '" . $proxy->tls_url . "'");
  $proxy->stall('server');
  $session->begin(q(SELECT nats_publish('t.a', 'x')));
  $proxy->wait_until_stalled;
  $proxy->resume;

=head1 DESCRIPTION

A L<NatsProxy> that forwards what comes. After stall() it forwards, of the next TLS record, no more than its header and
its first bytes, and then nothing in either direction until resume(). What it stalls at is a record at the start of what
it reads at once, so the connection should be idle before.

=cut

package ByteProxy;

use strict;
use warnings FATAL => 'all';

use parent 'NatsProxy';

use IO::Select;
use POSIX ();
use Time::HiRes qw(sleep);

use PostgreSQL::Test::Utils;
use PublishTest;

# The header of a TLS record has five.
my $STALLED_BYTES = 10;

my %STALLS_AT = (
	handshake => [ 'server', qr/^\x16/ ],
	server => [ 'server', qr/^\x17/ ],
	client => [ 'client', qr/^\x17/ ]);

=pod

=head1 METHODS

=over

=item ByteProxy->new($nats, edit => sub {...}, half_open => 1)

edit is given what the server sends, as it comes, and returns what the client gets instead. With half_open the client's
connection stays open when the server closes its own.

=item $proxy->tls_url($host)

The host is localhost if not said. url(), connections() and stop() are those of NatsProxy. A connection that stalls is
closed by stop().

=item $proxy->stall($at), $proxy->wait_until_stalled, $proxy->resume

$at is C<server> or C<client>, who sends the record, or C<handshake>: the first that the server sends at all.

=item $proxy->client_bytes

Everything that clients have sent so far.

=back

=cut

sub new
{
	my ($class, $nats, %args) = @_;
	my $files = PostgreSQL::Test::Utils::tempdir('byte_proxy');
	return $class->SUPER::new($nats, %args, files => $files);
}

sub tls_url { return 'tls://' . ($_[1] // 'localhost') . ":$_[0]->{port}"; }

sub stall
{
	my ($self, $at) = @_;
	$self->{stalls_before} = $self->_count('stalled');
	# there at once as a whole, for the processes that forward
	symlink($at, "$self->{files}/stall") or die "it stalls already: $!";
	return;
}

sub wait_until_stalled
{
	my ($self) = @_;
	wait_for('the proxy to stall', sub { $self->_count('stalled') > $self->{stalls_before} });
	return;
}

sub resume
{
	my ($self) = @_;
	unlink "$self->{files}/stall";
	return;
}

sub client_bytes
{
	my ($self) = @_;
	my $file = "$self->{files}/client";
	return -e $file ? slurp_file($file) : '';
}

sub _forward
{
	my ($self, $client, $server) = @_;
	my $select = IO::Select->new($client, $server);
	while (my @ready = $select->can_read)
	{
		foreach my $from (@ready)
		{
			my ($side, $to) = $from == $server ? ('server', $client) : ('client', $server);
			if (!sysread($from, my $bytes, 262144))
			{
				return 0 unless $self->{half_open} && $side eq 'server';
				$select->remove($server);
			}
			else
			{
				PostgreSQL::Test::Utils::append_to_file("$self->{files}/client", $bytes) if $side eq 'client';
				$bytes = $self->{edit}->($bytes) if $self->{edit} && $side eq 'server';
				$self->_stop($to, \$bytes) if $self->_stalls($side, $bytes);
				NatsProxy::_write($to, $bytes);
			}
		}
	}
	return 0;
}

sub _stalls
{
	my ($self, $side, $bytes) = @_;
	my $at = readlink("$self->{files}/stall") // return 0;
	my ($stalling_side, $start) = @{ $STALLS_AT{$at} };
	return $side eq $stalling_side && $bytes =~ $start;
}

# Takes the first bytes away, which it forwards.
sub _stop
{
	my ($self, $to, $bytes) = @_;
	my $parent = getppid();
	NatsProxy::_write($to, substr($$bytes, 0, $STALLED_BYTES, ''));
	$self->_note('stalled');
	while (-l "$self->{files}/stall")
	{
		POSIX::_exit(0) if getppid() != $parent;
		sleep 0.01;
	}
	return;
}

1;
