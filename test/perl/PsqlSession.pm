
=pod

=head1 NAME

PsqlSession - a psql that stays connected, whose queries can be left running

=head1 SYNOPSIS

  use PsqlSession;

  my $session = PsqlSession->new($node, settings => { 'nats_publish.url' => $nats->url });
  is($session->value('SELECT 1'), '1');
  is($session->sqlstate('SELECT 1/0'), '22012');

  $session->begin('SELECT pg_sleep(100)');
  $session->interrupt;                # as Ctrl-C does
  like($session->finish->{error}, qr/canceling statement/);

=head1 DESCRIPTION

Errors come in psql's verbose form, with their SQLSTATE. The settings go into the connection, so that no
log of PostgreSQL has them as it would have a SET.

=cut

package PsqlSession;

use strict;
use warnings FATAL => 'all';

use Carp;
use IO::Handle;
use IO::Select;
use POSIX ();
use Scalar::Util qw(weaken);
use Time::HiRes qw(time sleep);

use PostgreSQL::Test::Utils;

my @sessions;

END
{
	my $status = $?;
	$_->kill foreach grep { defined } @sessions;
	$? = $status;
}

=pod

=head1 METHODS

=over

=item PsqlSession->new($node, dbname => ..., user => ..., settings => {...})

Connects.

=item $session->run($sql)

Runs one or more statements (each with its own transaction, as in psql) and returns a hash: C<output> (unaligned,
without the last newline), C<error> (everything on standard error), C<sqlstate> (of the first ERROR or FATAL,
'' without one) and C<seconds>.

=item $session->value($sql)

The output; dies when there was an error. Warnings are no error.

=item $session->error($sql), $session->sqlstate($sql)

What standard error said, and the SQLSTATE of the first error in it.

=item $session->begin($sql), $session->finish, $session->is_running

begin() does not wait; finish() returns what run() would have.

=item $session->wait_until_waiting

Until the backend waits inside of a running query, as pg_stat_activity tells; uses another connection.

=item $session->pid, $session->interrupt, $session->close, $session->kill

pid() is the backend's. interrupt() is SIGINT to psql, which cancels the query and ends, as it does with
a script. close() ends the session and waits for psql, not for
the backend; kill() does not ask.

=back

=cut

sub new
{
	my ($class, $node, %args) = @_;
	my %settings = %{ $args{settings} // {} };
	my $options = join ' ', map { "-c $_=" . ($settings{$_} =~ s/([\\ ])/\\$1/gr) } sort keys %settings;

	my $self = bless { node => $node, count => 0, output => '', error => '' }, $class;
	pipe(my $in_read, $self->{stdin}) or die "pipe: $!";
	pipe($self->{stdout}, my $out_write) or die "pipe: $!";
	pipe($self->{stderr}, my $err_write) or die "pipe: $!";
	$self->{psql} = fork() // die "fork: $!";
	if ($self->{psql} == 0)
	{
		$ENV{PGOPTIONS} = $options;
		open(STDIN, '<&', $in_read);
		open(STDOUT, '>&', $out_write);
		open(STDERR, '>&', $err_write);
		$SIG{$_} = 'DEFAULT' foreach qw(INT TERM PIPE);
		my $target = $node->connstr($args{dbname} // 'postgres') . ($args{user} ? " user=$args{user}" : '');
		{
			no warnings 'exec';
			exec('psql', '-XAtq', '-d', $target, '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never', '-f', '-');
		}
		POSIX::_exit(127);
	}
	# else a psql that has ended, as it could not connect, would not be seen
	CORE::close($_) foreach $in_read, $out_write, $err_write;
	$self->{stdin}->autoflush(1);
	push @sessions, $self;
	weaken($sessions[-1]);

	my $first = $self->run('SELECT pg_backend_pid()');
	($self->{pid}) = $first->{output} =~ /^(\d+)$/ or croak "no session: $first->{error}";
	return $self;
}

sub pid { return $_[0]->{pid}; }

sub begin
{
	my ($self, $sql) = @_;
	croak 'a query is running' if $self->{marker};
	$self->{marker} = sprintf('--- end of query %d ---', ++$self->{count});
	$self->{query} = $sql;
	$self->{started} = time;
	$sql .= ';' unless $sql =~ /;\s*$|\\g(set)?\b[^\n]*$/;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{stdin} } "$sql\n\\echo '$self->{marker}'\n\\warn '$self->{marker}'\n";
	return;
}

sub is_running
{
	my ($self) = @_;
	$self->_read(0) if $self->{marker};
	return defined $self->{marker} && !$self->_complete;
}

sub finish
{
	my ($self, $seconds) = @_;
	croak 'no query is running' unless $self->{marker};
	my $end = time + ($seconds // $PostgreSQL::Test::Utils::timeout_default);
	until ($self->_complete || $self->{eof})
	{
		my $left = $end - time;
		croak "'$self->{query}' did not end in time; so far: $self->{output} $self->{error}" if $left <= 0;
		$self->_read($left);
	}
	my %result = (output => $self->{output}, error => $self->{error}, seconds => time - $self->{started});
	s/(?:^|(?<=\n))\Q$self->{marker}\E\n\z// foreach @result{ 'output', 'error' };
	# psql names the place of each error
	$result{error} =~ s/^psql:<stdin>:\d+: //mg;
	chomp $result{output};
	($result{sqlstate}) = $result{error} =~ /^(?:ERROR|FATAL|PANIC):  (\w{5}):/m;
	$result{sqlstate} //= '';
	@$self{ 'output', 'error' } = ('', '');
	delete $self->{marker};
	return \%result;
}

sub run
{
	my ($self, $sql, $seconds) = @_;
	$self->begin($sql);
	return $self->finish($seconds);
}

sub value
{
	my ($self, $sql, $seconds) = @_;
	my $result = $self->run($sql, $seconds);
	croak "'$sql' failed: $result->{error}" if $result->{sqlstate} || $self->{eof};
	return $result->{output};
}

sub error { return $_[0]->run($_[1])->{error}; }
sub sqlstate { return $_[0]->run($_[1])->{sqlstate}; }

sub wait_until_waiting
{
	my ($self) = @_;
	$self->{node}->poll_query_until('postgres',
		"SELECT state = 'active' AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $self->{pid}")
		or croak "backend $self->{pid} does not wait";
	return;
}

sub interrupt
{
	my ($self) = @_;
	kill 'INT', $self->{psql};
	return;
}

sub close
{
	my ($self) = @_;
	return unless $self->{psql};
	CORE::close($self->{stdin});
	waitpid($self->{psql}, 0);
	delete $self->{psql};
	return;
}

sub kill
{
	my ($self) = @_;
	return unless $self->{psql};
	CORE::kill('KILL', $self->{psql});
	waitpid($self->{psql}, 0);
	delete $self->{psql};
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!, $@);
	$self->kill;
	return;
}

sub _complete
{
	my ($self) = @_;
	my $end = "$self->{marker}\n";
	return !grep { length $_ < length $end || substr($_, -length $end) ne $end } @$self{ 'output', 'error' };
}

sub _read
{
	my ($self, $seconds) = @_;
	my $select = IO::Select->new(@$self{ 'stdout', 'stderr' });
	foreach my $handle ($select->can_read($seconds))
	{
		my $name = $handle == $self->{stdout} ? 'output' : 'error';
		my $read = sysread($handle, $self->{$name}, 65536, length $self->{$name});
		$self->{eof} = 1 unless $read;
	}
	return;
}

1;
