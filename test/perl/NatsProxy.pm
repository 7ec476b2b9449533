
=pod

=head1 NAME

NatsProxy - a TCP proxy before a nats-server, which breaks the connection at a chosen place

=head1 SYNOPSIS

  use NatsProxy;

  my $proxy = NatsProxy->new($nats, break => 'acknowledged', times => 1);
  $session->value("SET nats_publish.url = '" . $proxy->url . "'");
  is($proxy->broken, 1);

=head1 DESCRIPTION

What breaks:

  acknowledged   the batch's last member is forwarded, its acknowledgment (or refusal) comes from the server
                 and is thrown away: the batch is stored, and the client can't know
  commit         everything before the last member is forwarded, and nothing of that: the batch is not stored
  half           as commit, but the first bytes of the last member are forwarded
  puback         everything is forwarded, and the first acknowledgment of any message is thrown away

Then both connections are closed, and C<on_break> is called in the process of the proxy. After C<times>
breaks (1 unless said) everything is forwarded, or with C<then_close> no connection is accepted any more.

=cut

package NatsProxy;

use strict;
use warnings FATAL => 'all';

use parent 'HelperProcess';

use IO::Select;
use IO::Socket::INET;
use POSIX ();

use PostgreSQL::Test::Utils;

=pod

=head1 METHODS

=over

=item NatsProxy->new($nats, break => ..., times => ..., on_break => sub {...}, then_close => 1)

=item $proxy->url($userinfo), $proxy->broken, $proxy->connections

The address, and how often it has broken a connection, and how many there were.

=item $proxy->stop

=back

=cut

sub new
{
	my ($class, $nats, %args) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 128, ReuseAddr => 1)
		or die "cannot listen: $!";
	my $self = bless {
		%args,
		stop_signal => 'KILL',
		port => $listener->sockport,
		notes => PostgreSQL::Test::Utils::tempdir('proxy') . '/notes',
		upstream => $nats->port,
		times => $args{times} // 1,
		on_break => $args{on_break} // sub { }
	}, $class;
	my $parent = $$;
	$self->{pid} = fork() // die "fork: $!";
	if ($self->{pid} == 0)
	{
		local $SIG{TERM} = 'DEFAULT';
		local $SIG{PIPE} = 'IGNORE';
		eval { $self->_serve($listener, $parent); 1 } or warn "NatsProxy: $@";
		POSIX::_exit(0);
	}
	close $listener;
	$self->keep;
	return $self;
}

sub url
{
	my ($self, $userinfo) = @_;
	return 'nats://' . (defined $userinfo ? "$userinfo\@" : '') . "127.0.0.1:$self->{port}";
}

sub broken { return $_[0]->_count('broken'); }
sub connections { return $_[0]->_count('connection'); }

sub _count
{
	my ($self, $what) = @_;
	return 0 unless -e $self->{notes};
	return scalar grep { $_ eq $what } split /\n/, slurp_file($self->{notes});
}

sub _note
{
	my ($self, $what) = @_;
	open(my $file, '>>', $self->{notes}) or die "$self->{notes}: $!";
	print $file "$what\n";
	close $file;
	return;
}

# Each connection has a process; ends when the test is gone, or after the last break if there are to be no more
# connections then.
sub _serve
{
	my ($self, $listener, $parent) = @_;
	local $SIG{CHLD} = 'IGNORE';
	while (getppid() == $parent && !($self->{then_close} && $self->_left <= 0))
	{
		next unless IO::Select->new($listener)->can_read(0.02);
		my $client = $listener->accept or next;
		$self->_note('connection');
		my $pid = fork() // die "fork: $!";
		if ($pid == 0)
		{
			close $listener;
			eval { $self->_connection($client); 1 } or warn "NatsProxy: $@";
			POSIX::_exit(0);
		}
		close $client;
	}
	return;
}

sub _left { my ($self) = @_; return $self->{times} - $self->broken; }

sub _connection
{
	my ($self, $client) = @_;
	my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{upstream}) or return;
	if ($self->_forward($client, $server))
	{
		$self->_note('broken');
		# the listener must have seen it before the client tries again
		select(undef, undef, undef, 0.1) if $self->{then_close};
		$self->{on_break}->();
	}
	# the server's first: it shall have read everything before the client comes again
	close $server;
	close $client;
	return;
}

# Until one side closes, or it is time to break the connection: then true.
sub _forward
{
	my ($self, $client, $server) = @_;
	my $select = IO::Select->new($client, $server);
	my $held = '';
	my $committed = 0;
	my $answers = '';
	while (1)
	{
		foreach my $socket ($select->can_read)
		{
			sysread($socket, my $bytes, 262144) or return 0;
			if ($socket == $server)
			{
				return 1 if $self->{break} eq 'puback' && $bytes =~ /"seq":/ && $self->_left > 0;
				if (!$committed) { _write($client, $bytes); next; }
				$answers .= $bytes;
				return 1 if $answers =~ /"(batch|error)":/;
			}
			elsif ($self->{break} eq 'puback' || $self->_left <= 0) { _write($server, $bytes); }
			else
			{
				$held .= $bytes;
				# the last member is looked for in whole commands
				my $place = index($held, 'Nats-Batch-Commit: 1');
				if ($place < 0)
				{
					my $whole = rindex($held, 'HPUB ');
					$whole = length $held if $whole < 0;
					_write($server, substr($held, 0, $whole, ''));
					if ($held =~ /\015\012\015\012/ && $held !~ /Nats-Batch-Id/) { _write($server, $held); $held = ''; }
					next;
				}
				if ($self->{break} eq 'acknowledged') { _write($server, $held); $held = ''; $committed = 1; next; }
				my $start = rindex($held, 'HPUB ', $place);
				die 'the last member came in pieces' if $start < 0;
				_write($server, substr($held, 0, $start + ($self->{break} eq 'half' ? 20 : 0)));
				# as for what the server has said of the other members
				select(undef, undef, undef, 0.1);
				sysread($server, my $ignored, 262144) if IO::Select->new($server)->can_read(0);
				return 1;
			}
		}
	}
	return 0;
}

sub _write
{
	my ($socket, $bytes) = @_;
	while (length $bytes)
	{
		my $sent = syswrite($socket, $bytes) // return;
		substr($bytes, 0, $sent, '');
	}
	return;
}

1;
