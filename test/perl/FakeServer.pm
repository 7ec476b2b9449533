
=pod

=head1 NAME

FakeServer - a NATS server that misbehaves, as a test wants it to

=head1 SYNOPSIS

  use FakeServer;

  my $fake = FakeServer->new(sub {
	my ($peer, $number) = @_;
	$peer->handshake;
	while (my $command = $peer->next_command)
	{
		$peer->reply($command, '{"stream":"T","seq":1}') if $command->{verb} eq 'PUB';
	}
  });
  $node->append_conf('postgresql.conf', "nats_publish.url = '" . $fake->url . "'");
  is($fake->next_event, 'what a handler has noted with $peer->note');

=head1 DESCRIPTION

Each connection has a process of its own, which runs the handler and then closes; C<$number> counts the
connections from 1. A handler that wants to be silent returns C<< $peer->hold >>, which waits until the
other side closes.

=cut

package FakeServer;

use strict;
use warnings FATAL => 'all';

use parent 'HelperProcess';

use Carp;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(time sleep);

use PostgreSQL::Test::Utils;

=pod

=head1 METHODS

=over

=item FakeServer->new($handler)

=item FakeServer->answering($on_publish, %info)

One that greets as it should, with these fields of INFO, and calls C<< $on_publish->($peer, $command, $number) >> for
each published message.

=item $fake->url, $fake->port

=item $fake->next_event($timeout)

The next line that any handler has noted, waiting for it; undef at the timeout.

=item $fake->stop

=back

=cut

sub new
{
	my ($class, $handler) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 128, ReuseAddr => 1)
		or die "cannot listen: $!";
	pipe(my $events, my $notes) or die "pipe: $!";
	my $self = bless { port => $listener->sockport, events => $events, input => '' }, $class;
	my $parent = $$;
	$self->{pid} = fork() // die "fork: $!";
	if ($self->{pid} == 0)
	{
		close $events;
		$notes->autoflush(1);
		eval { _accept($listener, $handler, $notes, $parent); 1 } or warn "FakeServer: $@";
		POSIX::_exit(0);
	}
	$self->keep;
	return $self;
}

sub answering
{
	my ($class, $on_publish, %info) = @_;
	return $class->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->handshake(%info);
			while (my $command = $peer->next_command) { $on_publish->($peer, $command, $number) if $command->{verb} eq 'PUB'; }
			return;
		});
}

sub port { return $_[0]->{port}; }
sub url { return "nats://127.0.0.1:$_[0]->{port}"; }

sub next_event
{
	my ($self, $timeout) = @_;
	my $end = time + ($timeout // 30);
	my $eol;
	while (($eol = index($self->{input}, "\n")) < 0)
	{
		my $left = $end - time;
		return undef unless $left > 0 && IO::Select->new($self->{events})->can_read($left);
		sysread($self->{events}, $self->{input}, 65536, length $self->{input}) or return undef;
	}
	return substr(substr($self->{input}, 0, $eol + 1, ''), 0, -1);
}

# The process that listens: it ends its children, and itself when the test is gone.
sub _accept
{
	my ($listener, $handler, $notes, $parent) = @_;
	my %children;
	my $number = 0;
	my $stop = 0;
	local $SIG{TERM} = sub { $stop = 1; };
	local $SIG{INT} = 'DEFAULT';
	while (!$stop && getppid() == $parent)
	{
		foreach my $pid (keys %children) { delete $children{$pid} if waitpid($pid, POSIX::WNOHANG()) != 0; }
		next unless IO::Select->new($listener)->can_read(0.2);
		my $socket = $listener->accept or next;
		$number++;
		my $pid = fork() // die "fork: $!";
		if ($pid == 0)
		{
			$SIG{TERM} = 'DEFAULT';
			$SIG{PIPE} = 'IGNORE';
			close $listener;
			my $peer = FakeServer::Peer->new($socket, $notes);
			eval { $handler->($peer, $number); 1 } or $peer->note("died: $@");
			POSIX::_exit(0);
		}
		$children{$pid} = 1;
		close $socket;
	}
	kill 'KILL', keys %children if %children;
	return;
}

package FakeServer::Peer;

use strict;
use warnings FATAL => 'all';

use IO::Select;
use Socket qw(IPPROTO_TCP SOL_SOCKET SO_LINGER TCP_CORK TCP_NODELAY);
use Time::HiRes qw(time sleep);

my $CRLF = "\015\012";

=pod

=head1 THE HANDLER'S PEER

=over

=item $peer->handshake(%info)

INFO (C<%info> are more JSON fields, as texts), CONNECT, PING and PONG. Notes nothing.

=item $peer->handshake_with_tls($certificate, %info)

The same, with TLS behind the INFO; the certificate is one of L<Certificates>.

=item $peer->next_command($timeout)

The next command of the client, undef when it has gone or at the timeout: a hash of C<verb>; for PUB and HPUB (both
are called PUB) C<subject>, C<reply>, C<raw_headers>, C<id>, C<payload> and C<batch>, which is a hash of the headers of
an atomic batch: C<id>, C<number> and C<commit>. A PING is answered unless
C<< $peer->{mute} >> is set; only after it is it returned.

=item $peer->send($bytes), $peer->slow($bytes), $peer->reply($command, $payload, $headers)

slow() sends one byte at a time. reply() answers a PUB; C<$headers> are what stands between C<NATS/1.0> and
the payload. All of them are false when the other side has gone.

=item $peer->flood($bytes, $deaf)

Sends the same again and again until the other side has gone, and reads what that sends, unless it is deaf.

=item $peer->{sent}, $peer->{limit}

How many bytes were sent; and if set, behind how many of them the handler ends, and the connection.

=item $peer->note($text), $peer->hold

hold() reads and says nothing until the other side has gone.

=item $peer->close, $peer->abort, $peer->leave($bytes)

Ends the handler, and the connection as usual; with a reset; or with these bytes, so that who has read them need not
wait for the end.

=back

=cut

sub new
{
	my ($class, $socket, $notes) = @_;
	setsockopt($socket, IPPROTO_TCP, TCP_NODELAY, 1);
	return bless { socket => $socket, notes => $notes, input => '', sent => 0 }, $class;
}

sub note
{
	my ($self, $text) = @_;
	$text =~ s/\s+/ /g;
	syswrite($self->{notes}, "$text\n");
	return;
}

sub send
{
	my ($self, $bytes) = @_;
	$bytes = substr($bytes, 0, $self->{limit} - $self->{sent}) if defined $self->{limit};
	while (length $bytes)
	{
		my $sent = syswrite($self->{socket}, $bytes);
		return 0 unless defined $sent;
		$self->{sent} += $sent;
		substr($bytes, 0, $sent, '');
	}
	$self->close if defined $self->{limit} && $self->{sent} >= $self->{limit};
	return 1;
}

sub flood
{
	my ($self, $bytes, $deaf) = @_;
	my $readable = IO::Select->new($self->{socket});
	while ($self->send($bytes))
	{
		next if $deaf;
		while ($readable->can_read(0)) { sysread($self->{socket}, my $ignored, 1 << 20) or return; }
	}
	return;
}

sub close { POSIX::_exit(0); }

sub abort
{
	my ($self) = @_;
	setsockopt($self->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
	$self->close;
	return;
}

sub leave
{
	my ($self, $bytes) = @_;
	setsockopt($self->{socket}, IPPROTO_TCP, TCP_CORK, 1);
	$self->send($bytes);
	$self->close;
	return;
}

sub slow
{
	my ($self, $bytes) = @_;
	foreach my $byte (split //, $bytes)
	{
		$self->send($byte) or return 0;
		sleep 0.001;
	}
	return 1;
}

sub info_line
{
	my ($self, %info) = @_;
	my $host = $self->{socket}->sockhost;
	my $port = $self->{socket}->sockport;
	my %fields = (
		server_id => '"FAKE"', server_name => '"fake"', version => '"2.9.10"', proto => 1, go => '"none"',
		host => qq("$host"), port => $port, headers => 'true', max_payload => 1048576, jetstream => 'true',
		client_id => 1, client_ip => '"127.0.0.1"', %info);
	return 'INFO {' . join(',', map { qq("$_":$fields{$_}) } sort keys %fields) . "}$CRLF";
}

sub handshake
{
	my ($self, %info) = @_;
	$self->send($self->info_line(%info));
	$self->_await_ping;
	return;
}

sub handshake_with_tls
{
	my ($self, $certificate, %info) = @_;
	$self->send($self->info_line(tls_required => 'true', %info));
	require IO::Socket::SSL;
	IO::Socket::SSL->start_SSL($self->{socket}, SSL_server => 1,
		SSL_cert_file => $certificate->{cert_file}, SSL_key_file => $certificate->{key_file})
		or die "no TLS: $IO::Socket::SSL::SSL_ERROR";
	$self->_await_ping;
	return;
}

sub _await_ping
{
	my ($self) = @_;
	while (my $command = $self->next_command)
	{
		return if $command->{verb} eq 'PING';
	}
	return;
}

sub reply
{
	my ($self, $command, $payload, $headers) = @_;
	return $self->send($self->reply_bytes($command, $payload, $headers));
}

sub reply_bytes
{
	my ($self, $command, $payload, $headers) = @_;
	my $subject = ref $command ? $command->{reply} : $command;
	return "MSG $subject 1 " . length($payload) . "$CRLF$payload$CRLF" unless defined $headers;
	my $block = "NATS/1.0$headers$CRLF$CRLF";
	return "HMSG $subject 1 " . length($block) . ' ' . length($block . $payload) . "$CRLF$block$payload$CRLF";
}

sub hold
{
	my ($self) = @_;
	1 while sysread($self->{socket}, my $ignored, 65536);
	return;
}

sub next_command
{
	my ($self, $timeout) = @_;
	my $end = time + ($timeout // 3600);
	my $eol;
	while (($eol = index($self->{input}, $CRLF)) < 0) { $self->_fill($end) or return undef; }
	my ($verb, @args) = split / +/, substr($self->{input}, 0, $eol);
	if ($verb ne 'PUB' && $verb ne 'HPUB')
	{
		substr($self->{input}, 0, $eol + 2, '');
		$self->send("PONG$CRLF") if $verb eq 'PING' && !$self->{mute};
		return { verb => $verb, args => \@args };
	}
	my $size = $args[-1];
	while (length $self->{input} < $eol + 2 + $size + 2) { $self->_fill($end) or return undef; }
	my $bytes = substr($self->{input}, $eol + 2, $size);
	substr($self->{input}, 0, $eol + 2 + $size + 2, '');
	pop @args;
	my $headers = $verb eq 'HPUB' ? substr($bytes, 0, pop @args, '') : '';
	my %value = $headers =~ /^(Nats-.*?): (.*?)\r$/mg;
	my %batch = (id => $value{'Nats-Batch-Id'}, number => $value{'Nats-Batch-Sequence'}, commit => $value{'Nats-Batch-Commit'});
	return {
		verb => 'PUB', subject => $args[0], reply => $args[1], raw_headers => $headers, id => $value{'Nats-Msg-Id'},
		batch => \%batch, payload => $bytes
	};
}

sub _fill
{
	my ($self, $end) = @_;
	my $left = $end - time;
	my $pending = $self->{socket}->isa('IO::Socket::SSL') && $self->{socket}->pending;
	return 0 unless $pending || $left > 0 && IO::Select->new($self->{socket})->can_read($left);
	return sysread($self->{socket}, $self->{input}, 65536, length $self->{input});
}

1;
