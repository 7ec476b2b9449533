
=pod

=head1 NAME

NatsServer - a real nats-server under the control of a test

=head1 SYNOPSIS

  use NatsServer;

  my $nats = NatsServer->new(jetstream => 1)->start;
  $node->append_conf('postgresql.conf', "nats_publish.url = '" . $nats->url . "'");

  $nats->stall;      # it keeps its connections and answers nothing
  $nats->resume;
  $nats->kill9;      # as in a crash
  $nats->restart;    # the same port, the same store

=head1 DESCRIPTION

Every server listens on 127.0.0.1, if not told otherwise, on a port that it keeps through restarts, has its files in a
directory of the test, and is gone when the test ends. The log goes to tmp_check/log, over all restarts.

=cut

package NatsServer;

use strict;
use warnings FATAL => 'all';

use Carp;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Scalar::Util qw(weaken);
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

# Generous: a loaded machine, not a slow server, is what takes long.
my $START_SECONDS = 60;
my $STOP_SECONDS = 30;

my @servers;

# A test that dies, or is interrupted, leaves no server behind: this one's, nor PostgreSQL's, whose END
# blocks a plain signal would skip too.
$SIG{INT} = $SIG{TERM} = sub { die "interrupted\n" };

# PostgreSQL::Test::Utils since 17 handles SIGCHLD, if nothing is set here, for the sake of an old IPC::Run. Each psql that
# ends and each nats-server that is resumed would then cut short a sleep or a wait for an answer.
$SIG{CHLD} = 'DEFAULT';

END
{
	my $status = $?;
	$_->kill9 foreach grep { defined } @servers;
	$? = $status;
}

=pod

=head1 METHODS

=over

=item NatsServer->new(%args)

Chooses the port and writes the configuration; does not start the server. All arguments are optional:

  name        of the server and of its log file
  jetstream   1 switches JetStream on
  tls         a hash of what its tls block has: cert_file and key_file as of Certificates.pm, ca_file, verify => 'true'
  config      more text for the configuration file
  host        to listen at; otherwise 127.0.0.1
  port        otherwise a free one
  within      the words of a command that runs it, in a network namespace for instance
  store_dir   of JetStream; otherwise a new one, which restarts share
  binary      of another nats-server than the tests use
  handshake   0 when the server does not greet with INFO, as with handshake_first in tls: start() then waits for the
              port only

=cut

sub new
{
	my ($class, %args) = @_;

	my $self = bless {
		name => $args{name} // 'nats' . (@servers + 1),
		host => $args{host} // '127.0.0.1',
		port => $args{port} // PostgreSQL::Test::Cluster::get_free_port(),
		within => $args{within} // [],
		jetstream => $args{jetstream},
		tls => $args{tls},
		config => $args{config} // '',
		handshake => $args{handshake} // 1,
		binary => $args{binary},
		dir => PostgreSQL::Test::Utils::tempdir('nats'),
	}, $class;
	$self->{store_dir} = $args{store_dir} // "$self->{dir}/store";

	# Two test files may use the same name.
	my ($test) = $0 =~ m{([^/]+?)(?:\.pl)?$};
	$self->{log} = "$PostgreSQL::Test::Utils::log_path/${test}_$self->{name}.log";

	push @servers, $self;
	weaken($servers[-1]);
	return $self;
}

=pod

=item $nats->start, $nats->launch, $nats->stop, $nats->kill9, $nats->restart

start() returns the server, when it accepts connections; launch() does not wait for that. stop() is graceful (SIGTERM), kill9() a crash.
restart(stop => 'kill9') crashes and starts again.

=item $nats->stall, $nats->resume

SIGSTOP and SIGCONT: connections stay open, new ones are accepted by the kernel, nothing is answered.

=item $nats->set_config($text)

Replaces the C<config> text; the next start uses it. With C<< reload => 1 >>, the running server does.

=back

=cut

sub start
{
	my ($self) = @_;
	$self->launch;
	$self->_wait_until_it_accepts;
	return $self;
}

sub launch
{
	my ($self) = @_;
	croak "$self->{name} is running" if $self->{pid};

	$self->_write_config;
	my $binary = $self->{binary} // _binary();
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', $self->{log});
		open(STDERR, '>&', \*STDOUT);
		{ no warnings 'exec'; exec(@{ $self->{within} }, $binary, '-c', "$self->{dir}/nats.conf"); }
		# not exit(): the parent's END blocks are here too
		POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	return;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	kill 'CONT', $self->{pid};
	kill 'TERM', $self->{pid};
	my $end = time + $STOP_SECONDS;
	while (!$self->_reaped)
	{
		if (time > $end)
		{
			$self->kill9;
			die "$self->{name} did not stop in $STOP_SECONDS s";
		}
		sleep 0.01;
	}
	return;
}

sub kill9
{
	my ($self) = @_;
	return unless $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid($self->{pid}, 0);
	delete $self->{pid};
	return;
}

sub restart
{
	my ($self, %args) = @_;
	my $stop = $args{stop} // 'stop';
	$self->$stop;
	return $self->start;
}

sub stall
{
	my ($self) = @_;
	kill('STOP', $self->{pid}) == 1 or die "cannot stop $self->{name}: $!";

	# The signal has been sent; it is stalled when every thread of it has stopped.
	my $end = time + $STOP_SECONDS;
	until (slurp_file("/proc/$self->{pid}/stat") =~ /\) T /)
	{
		die "$self->{name} goes on after SIGSTOP" if time > $end;
		sleep 0.001;
	}
	return;
}

sub resume
{
	my ($self) = @_;
	kill('CONT', $self->{pid}) == 1 or die "cannot resume $self->{name}: $!";
	return;
}

sub set_config
{
	my ($self, $config, %args) = @_;
	$self->{config} = $config;
	return unless $args{reload};

	$self->_write_config;
	my $offset = length $self->log_content;
	kill 'HUP', $self->{pid};
	$self->wait_for_log(qr/Reloaded server configuration/, $offset);
	return;
}

=pod

=over

=item $nats->port, $nats->url, $nats->tls_url($host), $nats->store_dir, $nats->pid, $nats->log, $nats->log_content

log() is the path. pid() is undef while it is down. The host of tls_url() is localhost if not said.

=item $nats->wait_for_log(qr/.../, $offset)

Waits until the log has a match after C<$offset>; returns the length of the log, for the next call.

=back

=cut

sub port { return $_[0]->{port}; }
sub url { return "nats://$_[0]->{host}:$_[0]->{port}"; }
sub tls_url { return 'tls://' . ($_[1] // 'localhost') . ":$_[0]->{port}"; }
sub store_dir { return $_[0]->{store_dir}; }
sub pid { return $_[0]->{pid}; }
sub log { return $_[0]->{log}; }

sub log_content
{
	my ($self) = @_;
	return -e $self->{log} ? slurp_file($self->{log}) : '';
}

sub wait_for_log
{
	my ($self, $regexp, $offset) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (1)
	{
		my $log = $self->log_content;
		return length $log if substr($log, $offset // 0) =~ $regexp;
		die "waited in vain for $regexp in $self->{log}" if time > $end;
		sleep 0.02;
	}
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	$self->kill9;
	return;
}

sub _binary
{
	foreach my $file ($ENV{NATS_SERVER}, map { "$_/nats-server" } (split(/:/, $ENV{PATH}), '/usr/sbin'))
	{
		return $file if defined $file && -f $file && -x $file;
	}
	die "no nats-server: not in PATH, not in /usr/sbin, and NATS_SERVER does not name one";
}

sub _write_config
{
	my ($self) = @_;
	my $jetstream = $self->{jetstream} ? qq(jetstream { store_dir: "$self->{store_dir}" }) : '';
	my $tls = $self->_tls;
	open(my $file, '>', "$self->{dir}/nats.conf") or die "$self->{dir}/nats.conf: $!";
	print $file <<"END";
server_name: "$self->{name}"
listen: "$self->{host}:$self->{port}"
pid_file: "$self->{dir}/nats.pid"
$jetstream
$tls
$self->{config}
END
	close $file or die "$self->{dir}/nats.conf: $!";
	return;
}

# Only paths need quotation marks.
sub _tls
{
	my ($self) = @_;
	my $tls = $self->{tls} or return '';
	return 'tls { ' . join(', ', map { "$_: " . ($tls->{$_} =~ s{(.*/.*)}{"$1"}r) } sort keys %$tls) . ' }';
}

# Until it greets a client; a server that ended instead says why in its log.
sub _wait_until_it_accepts
{
	my ($self) = @_;
	my $end = time + $START_SECONDS;
	until ($self->_greets)
	{
		if ($self->_reaped)
		{
			die "$self->{name} did not start:\n" . $self->log_content;
		}
		if (time > $end)
		{
			$self->kill9;
			die "$self->{name} did not accept a connection in $START_SECONDS s:\n" . $self->log_content;
		}
		sleep 0.01;
	}
	return;
}

sub _greets
{
	my ($self) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => $self->{host}, PeerPort => $self->{port}, Timeout => 1);
	return 0 unless $socket;
	return 1 unless $self->{handshake};
	return 0 unless IO::Select->new($socket)->can_read(1);
	my $greeting = '';
	sysread($socket, $greeting, 4);
	return $greeting eq 'INFO';
}

sub _reaped
{
	my ($self) = @_;
	return 0 if waitpid($self->{pid}, POSIX::WNOHANG()) == 0;
	delete $self->{pid};
	return 1;
}

1;
