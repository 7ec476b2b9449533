
=pod

=head1 NAME

SilentProxy - a middle box before a nats-server: it can fall silent, hold, delay, slow down and end what goes through it

=head1 SYNOPSIS

  use SilentProxy;

  my $proxy = SilentProxy->new($nats);
  $session->value("SET nats_publish.url = '" . $proxy->url . "'");
  $proxy->silence;                                  # TCP is acknowledged as ever, and nothing arrives
  $session->begin(q(SELECT nats_publish('t.a', 'x')));
  wait_for('the message', sub { $proxy->dropped('client') });
  $proxy->pass;

=head1 DESCRIPTION

A process that forwards bytes and knows nothing of what they mean, so TLS goes through it, too. It reads no more from one
side than the other one takes, so that a server that is stopped is one to the client.

A connection of which bytes were dropped stays silent in that direction for ever, as with a box that has forgotten it;
pass() is for those of which nothing was lost, and for new ones. Each method returns when what it does has been done.

$side, where there is one, is C<client> or C<server>: the one that sends the bytes, or the one whose connection ends.
Without it both are meant.

=cut

package SilentProxy;

use strict;
use warnings FATAL => 'all';

use parent 'HelperProcess';

use Errno qw(EAGAIN EINTR);
use IO::Select;
use IO::Socket::INET;
use List::Util qw(max min);
use POSIX ();
use Socket qw(inet_aton pack_sockaddr_in AF_UNIX PF_UNSPEC SHUT_WR SOCK_STREAM SOL_SOCKET SO_LINGER SO_RCVBUF SO_SNDBUF);
use Time::HiRes qw(time);

my $AT_ONCE = 65536;

# What may be on its way in a proxy that delays.
my $DELAYED_BYTES = 64 * 1024 * 1024;

my %OTHER = (client => 'server', server => 'client');

=pod

=head1 METHODS

=over

=item SilentProxy->new($nats, host => ..., port => ..., within => [...], buffer => ..., watch => [ qr/.../, $file ])

Before a NatsServer (or what else has a port). Listens at 127.0.0.1 and at a free port if not told otherwise. C<within> is
as of NatsServer; C<buffer> the bytes that the kernel keeps for each socket of the proxy (half of what it does keep), so
that little is on its way. With C<watch>, each match in what clients send (its first group, if the whole is shorter than 100
bytes) is written to the file behind the time when it was read, forwarded or not.

=item $proxy->url($userinfo), $proxy->tls_url($host), $proxy->port

The host of tls_url() is localhost if not said.

=item $proxy->pass

Forwards everything again.

=item $proxy->silence($side)

Goes on reading, and drops it: what $side sends, or what both send. New connections are accepted, and are silent.

=item $proxy->hold($side)

Neither reads nor forwards what $side sends, so that it ends up in the buffers of kernels and then in the sender; nothing
is lost.

=item $proxy->delay($seconds), $proxy->slow($bytes_per_second)

For each direction, until pass() or until it is 0.

=item $proxy->cut($side), $proxy->close($side)

Ends the connections that there are: with a reset, which throws away what was not delivered, or in order behind what was
forwarded. With a $side, the other one is not told: its connection is silent from then on.

=item $proxy->refuse, $proxy->accept

New connections, as when there is no server; connections that there are go on.

=item $proxy->send($bytes)

To all clients, as if the server had sent it. C<< $proxy->send("PING\r\n"); $proxy->close('client'); >> is an end with
something in front of it.

=item $proxy->connections, $proxy->open_connections

How many clients have connected so far, and how many are connected now.

=item $proxy->passed($side), $proxy->dropped($side)

How many bytes of $side were forwarded and dropped so far.

=item $proxy->stop

=back

=cut

sub new
{
	my ($class, $nats, %args) = @_;
	my $host = $args{host} // '127.0.0.1';
	socketpair(my $ours, my $its, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
	$ours->autoflush(1);
	my @command = (@{ $args{within} // [] }, $^X, (map { "-I$_" } @INC), __FILE__,
		$$, $host, $args{port} // 0, $nats->{host} // '127.0.0.1', $nats->port, $args{buffer} // 0, @{ $args{watch} // [] });
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<&', $its) && open(STDOUT, '>&', $its) && exec @command;
		# not exit(): the parent's END blocks are here too
		POSIX::_exit(127);
	}
	CORE::close($its);
	my $self = bless { pid => $pid, stop_signal => 'KILL', control => $ours, host => $host }, $class;
	$self->keep;
	$self->{port} = $self->_ask('port');
	return $self;
}

sub port { return $_[0]->{port}; }
sub tls_url { return 'tls://' . ($_[1] // 'localhost') . ":$_[0]->{port}"; }

sub url
{
	my ($self, $userinfo) = @_;
	return 'nats://' . (defined $userinfo ? "$userinfo\@" : '') . "$self->{host}:$self->{port}";
}

sub pass { return $_[0]->_ask('pass'); }
sub silence { return $_[0]->_ask('silence', _side($_[1])); }
sub hold { return $_[0]->_ask('hold', _side($_[1])); }
sub delay { return $_[0]->_ask('delay', $_[1]); }
sub slow { return $_[0]->_ask('slow', $_[1]); }
sub cut { return $_[0]->_ask('cut', _side($_[1])); }
sub close { return $_[0]->_ask('close', _side($_[1])); }
sub refuse { return $_[0]->_ask('refuse'); }
sub accept { return $_[0]->_ask('accept'); }
sub send { return $_[0]->_ask('send', unpack 'H*', $_[1]); }
sub connections { return $_[0]->_ask('connections'); }
sub open_connections { return $_[0]->_ask('open_connections'); }
sub passed { return $_[0]->_ask('passed', _side($_[1])); }
sub dropped { return $_[0]->_ask('dropped', _side($_[1])); }

sub _side
{
	my ($side) = @_;
	die "no side: $side" if defined $side && !$OTHER{$side};
	return $side // 'both';
}

sub _ask
{
	my ($self, @words) = @_;
	my $control = $self->{control};
	print $control "@words\n";
	my $answer = readline($control) // die 'the proxy has ended';
	chomp $answer;
	return $answer;
}

# From here on, the process.

sub _run
{
	my ($parent, $host, $port, $to_host, $to_port, $buffer, $watch, $watch_file) = @_;
	$SIG{PIPE} = 'IGNORE';
	STDOUT->autoflush(1);
	my $self = bless { at => [ $host, $port ], to => [ $to_host, $to_port ], buffer => $buffer, watch => $watch,
		pipes => [], connections => 0, delay => 0, slow => 0, map { ($_ => { client => 0, server => 0 }) } qw(silent held passed dropped) }, __PACKAGE__;
	$self->_open_watch($watch_file) if $watch;
	$self->_do_accept;
	$self->_turn while getppid() == $parent;
	return;
}

sub _open_watch
{
	my ($self, $path) = @_;
	open($self->{watch_file}, '>>', $path) or die "$path: $!";
	$self->{watch_file}->autoflush(1);
	return;
}

# Accepted sockets have the buffers of their listener.
sub _do_accept
{
	my ($self) = @_;
	return if $self->{listener};
	my ($host, $port) = @{ $self->{at} };
	my $listener = IO::Socket::INET->new(LocalAddr => $host, LocalPort => $port, Listen => 128, ReuseAddr => 1) or die "cannot listen at $host:$port: $@";
	$self->{at}[1] = $listener->sockport;
	$self->_limit_buffers($listener);
	$self->{listener} = $listener;
	return;
}

sub _do_refuse { delete $_[0]->{listener}; return; }
sub _do_port { return $_[0]->{at}[1]; }

sub _limit_buffers
{
	my ($self, $socket) = @_;
	return unless $self->{buffer};
	setsockopt($socket, SOL_SOCKET, $_, pack('i', $self->{buffer})) foreach SO_RCVBUF, SO_SNDBUF;
	return;
}

# Each direction of a connection is a pipe: a hash of from (its side), source and target (sockets; no source when it has
# ended, no target when that is gone), queue (of a time and bytes), queued, lost, next_read, twin (the other direction).
sub _turn
{
	my ($self) = @_;
	my $now = time;
	my @readers = grep { $self->_reads($_, $now) } @{ $self->{pipes} };
	my @writers = grep { $self->_writes($_, $now) } @{ $self->{pipes} };
	my ($readable, $writable) = IO::Select::select(IO::Select->new(\*STDIN, $self->{listener} // (), map { $_->{source} } @readers),
		@writers ? IO::Select->new(map { $_->{target} } @writers) : undef, undef, $self->_pause($now));
	my %ready = map { ($_ => 1) } @{ $readable // [] };
	my %takes = map { ($_ => 1) } @{ $writable // [] };
	# one may be the end of others
	foreach my $pipe (@writers) { $self->_forward($pipe) if $pipe->{target} && $takes{ $pipe->{target} }; }
	foreach my $pipe (@readers) { $self->_read($pipe) if $pipe->{source} && $ready{ $pipe->{source} }; }
	$self->_accept if $self->{listener} && $ready{ $self->{listener} };
	$self->_command if $ready{ \*STDIN };
	$self->{pipes} = [ grep { !$self->_is_over($_) } @{ $self->{pipes} } ];
	return;
}

sub _is_silent { my ($self, $pipe) = @_; return $pipe->{lost} || $self->{silent}{ $pipe->{from} }; }

sub _reads
{
	my ($self, $pipe, $now) = @_;
	return 0 unless $pipe->{source};
	return 1 if $self->_is_silent($pipe);
	return 0 if $self->{held}{ $pipe->{from} } || ($pipe->{next_read} // 0) > $now;
	return $pipe->{queued} == 0 || ($self->{delay} && $pipe->{queued} < $DELAYED_BYTES);
}

sub _writes
{
	my ($self, $pipe, $now) = @_;
	return $pipe->{target} && @{ $pipe->{queue} } && !$self->{held}{ $pipe->{from} } && $pipe->{queue}[0][0] <= $now;
}

# Until the next time that something is due.
sub _pause
{
	my ($self, $now) = @_;
	my @due = grep { $_ > $now } map { ($_->{next_read} // 0, map { $_->[0] } $_->{queue}[0] // ()) } @{ $self->{pipes} };
	return min(1, map { $_ - $now } @due);
}

sub _accept
{
	my ($self) = @_;
	my $client = $self->{listener}->accept or return;
	$self->{connections}++;
	# before it is connected, for what it tells of its window
	my $server = IO::Socket::INET->new(Proto => 'tcp') or die "socket: $!";
	$self->_limit_buffers($server);
	return _reset($client) unless $server->connect(pack_sockaddr_in($self->{to}[1], inet_aton($self->{to}[0])));
	$_->blocking(0) foreach $client, $server;
	my @both = map { +{ queue => [], queued => 0 } } 0, 1;
	@{ $both[0] }{qw(from source target twin)} = ('client', $client, $server, $both[1]);
	@{ $both[1] }{qw(from source target twin)} = ('server', $server, $client, $both[0]);
	push @{ $self->{pipes} }, @both;
	return;
}

sub _read
{
	my ($self, $pipe) = @_;
	my $count = sysread($pipe->{source}, my $bytes, $self->{slow} ? min($AT_ONCE, 1 + int($self->{slow} / 20)) : $AT_ONCE);
	return if !defined $count && ($! == EAGAIN || $! == EINTR);
	return $self->_source_has_ended($pipe, !defined $count) unless $count;
	$self->_watch($pipe, $bytes) if $self->{watch} && $pipe->{from} eq 'client';
	if ($self->_is_silent($pipe)) { $self->_drop($pipe, $count); }
	else
	{
		push @{ $pipe->{queue} }, [ time + $self->{delay}, $bytes ];
		$pipe->{queued} += $count;
		# what came late is made up for, or each chunk would add to it; but not a long pause of the sender
		$pipe->{next_read} = max($pipe->{next_read} // time, time - 0.5) + $count / $self->{slow} if $self->{slow};
	}
	return;
}

# What may be the beginning of a match is kept for the next time.
sub _watch
{
	my ($self, $pipe, $bytes) = @_;
	my $seen = ($pipe->{unmatched} // '') . $bytes;
	my ($now, $end, $lines) = (sprintf('%.3f', time), 0, '');
	while ($seen =~ /$self->{watch}/g)
	{
		$lines .= "$now\t$1\n";
		$end = pos $seen;
	}
	$pipe->{unmatched} = substr $seen, max($end, length($seen) - 100);
	$self->{watch_file}->print($lines);
	return;
}

sub _drop
{
	my ($self, $pipe, $count) = @_;
	$pipe->{lost} = 1;
	$self->{dropped}{ $pipe->{from} } += $count;
	return;
}

# Of a box that is silent nobody hears it.
sub _source_has_ended
{
	my ($self, $pipe, $was_reset) = @_;
	delete $pipe->{source};
	return $pipe->{lost} = 1 if $self->_is_silent($pipe);
	return $self->_end_pair($pipe, \&_reset) if $was_reset;
	push @{ $pipe->{queue} }, [ time + $self->{delay}, undef ];
	return;
}

# undef in the queue is the end.
sub _forward
{
	my ($self, $pipe) = @_;
	my $bytes = $pipe->{queue}[0][1];
	if (!defined $bytes)
	{
		shutdown($pipe->{target}, SHUT_WR);
		shift @{ $pipe->{queue} };
		delete $pipe->{target};
		return;
	}
	my $sent = syswrite($pipe->{target}, $bytes);
	return if !defined $sent && ($! == EAGAIN || $! == EINTR);
	return $self->_end_pair($pipe, \&_reset) unless defined $sent;
	$self->{passed}{ $pipe->{from} } += $sent;
	$pipe->{queued} -= $sent;
	substr($pipe->{queue}[0][1], 0, $sent, '');
	shift @{ $pipe->{queue} } if $pipe->{queue}[0][1] eq '';
	return;
}

# Ends what goes on of a connection, by a function of the socket.
sub _end_pair
{
	my ($self, $pipe, $end) = @_;
	$self->_end_side($_, $end) foreach $pipe, $pipe->{twin};
	return;
}

# The connection to a pipe's source, which is the target of its twin. What is left of the two is silent.
sub _end_side
{
	my ($self, $pipe, $end) = @_;
	my $socket = delete $pipe->{source};
	$socket = delete $pipe->{twin}{target} // $socket;
	$end->($socket) if $socket;
	foreach my $direction ($pipe, $pipe->{twin})
	{
		@$direction{ 'queue', 'queued', 'lost' } = ([], 0, 1);
	}
	return;
}

sub _reset
{
	my ($socket) = @_;
	setsockopt($socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
	CORE::close($socket);
	return;
}

# What is unread would make it a reset.
sub _finish
{
	my ($socket) = @_;
	1 while sysread($socket, my $bytes, $AT_ONCE);
	CORE::close($socket);
	return;
}

sub _is_over
{
	my ($self, $pipe) = @_;
	my $twin = $pipe->{twin};
	return 0 if $pipe->{source} || $twin->{source};
	return 0 if grep { $_->{target} && @{ $_->{queue} } } $pipe, $twin;
	# they refer to each other
	$twin->{twin} = { queue => [] };
	return 1;
}

sub _command
{
	my ($self) = @_;
	my $count = sysread(STDIN, $self->{input}, 65536, length($self->{input} // ''));
	POSIX::_exit(0) unless $count;
	while ($self->{input} =~ s/^(.*)\n//)
	{
		my ($what, @words) = split / /, $1;
		my $method = "_do_$what";
		print $self->$method(@words) // 'ok', "\n";
	}
	return;
}

sub _sides { return $_[0] eq 'both' ? qw(client server) : $_[0]; }

sub _do_connections { return $_[0]->{connections}; }
sub _do_open_connections { return scalar grep { $_->{from} eq 'client' && $_->{source} } @{ $_[0]->{pipes} }; }
sub _do_delay { $_[0]->{delay} = $_[1]; return; }
sub _do_slow { $_[0]->{slow} = $_[1]; return; }
sub _do_hold { my ($self, $side) = @_; $self->{held}{$_} = 1 foreach _sides($side); return; }
sub _do_passed { return $_[0]->_sum('passed', $_[1]); }
sub _do_dropped { return $_[0]->_sum('dropped', $_[1]); }

sub _sum
{
	my ($self, $what, $side) = @_;
	my $sum = 0;
	$sum += $self->{$what}{$_} foreach _sides($side);
	return $sum;
}

sub _do_pass
{
	my ($self) = @_;
	$self->{$_} = { client => 0, server => 0 } foreach qw(silent held);
	@$self{ 'delay', 'slow' } = (0, 0);
	delete $_->{next_read} foreach @{ $self->{pipes} };
	return;
}

# What it has read, and not forwarded, is lost too.
sub _do_silence
{
	my ($self, $side) = @_;
	foreach my $from (_sides($side))
	{
		$self->{silent}{$from} = 1;
		foreach my $pipe (grep { $_->{from} eq $from && @{ $_->{queue} } } @{ $self->{pipes} })
		{
			$self->_drop($pipe, $pipe->{queued});
			@$pipe{ 'queue', 'queued' } = ([], 0);
		}
	}
	return;
}

sub _do_cut { my ($self, $side) = @_; return $self->_end_all($side, \&_reset); }

sub _do_close
{
	my ($self, $side) = @_;
	foreach my $pipe (@{ $self->{pipes} })
	{
		$self->_forward($pipe) while $self->_writes($pipe, time) && _takes($pipe);
	}
	return $self->_end_all($side, \&_finish);
}

sub _takes { my ($pipe) = @_; return IO::Select->new($pipe->{target})->can_write(0); }

sub _end_all
{
	my ($self, $side, $end) = @_;
	foreach my $from (_sides($side))
	{
		$self->_end_side($_, $end) foreach grep { $_->{from} eq $from } @{ $self->{pipes} };
	}
	return;
}

sub _do_send
{
	my ($self, $hex) = @_;
	my $bytes = pack 'H*', $hex;
	foreach my $pipe (grep { $_->{from} eq 'server' && $_->{target} } @{ $self->{pipes} })
	{
		syswrite($pipe->{target}, $bytes);
	}
	return;
}

_run(@ARGV) unless caller;

1;
