
=pod

=head1 NAME

Chaos::Faults - does what the plan says to servers, network and sessions

=head1 SYNOPSIS

  my $faults = Chaos::Faults->new(servers => [...], boxes => [...], node => $postgres, standby => $standby, databases => [...],
      big => $file, create => sub { my ($stream) = @_; ... });
  $faults->act($action);           # of Chaos::Plan::faults; true when there was something to do it to
  $faults->heal;                   # everything whole again
  $faults->node                    # the PostgreSQL that is the primary now
  $faults->old_primary             # the one that was, if a standby was promoted
  $faults->wal_began               # when its WAL was published from then on

=head1 DESCRIPTION

Boxes are a SilentProxy before each of the servers. The file C<big> is there while clients are to hold megabytes. C<create>
makes a stream, and returns whether it could.

=cut

package Chaos::Faults;

use strict;
use warnings FATAL => 'all';

use DBI;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

use Chaos::Network;
use Chaos::Plan;
use NatsClient;
use PublishTest qw(wait_for);

# For the JetStream API to have a leader again
my $API_SECONDS = 60;

# For what a postmaster that was killed has left to end.
my $ORPHANS_SECONDS = 60;

sub new
{
	my ($class, %args) = @_;
	return bless { %args, full => {}, overdue => {}, old => undef, wal_began => undef }, $class;
}

sub node { return $_[0]->{node}; }
sub old_primary { return $_[0]->{old}; }
sub wal_began { return $_[0]->{wal_began}; }

sub act
{
	my ($self, $action) = @_;
	# the API may have had no leader when it was time
	$self->_stream_room({ stream => $_ }) foreach sort keys %{ $self->{overdue} };
	my $method = "_$action->{what}";
	return $self->$method($action);
}

sub heal
{
	my ($self) = @_;
	foreach my $number (1 .. @{ $self->{servers} })
	{
		Chaos::Network::heal($number);
		$self->_server_continue({ node => $number });
		$self->_server_start({ node => $number });
	}
	$self->_commits_end;
	$self->_boxes_accept;
	# one that recovers from a crash is running
	$self->{node}->start unless -e $self->{node}->data_dir . '/postmaster.pid';
	my $end = time + $API_SECONDS;
	while (my ($stream) = sort keys %{ $self->{full} })
	{
		next if $self->_stream_room({ stream => $stream });
		die "stream $stream can't be changed" if time > $end;
	}
	foreach my $stream (@Chaos::Plan::WAYWARD)
	{
		until ($self->_stream_back({ stream => $stream }))
		{
			die "stream $stream can't be brought back" if time > $end;
		}
	}
	return;
}

sub _server { my ($self, $action) = @_; return $self->{servers}[ $action->{node} - 1 ]; }

sub _box { my ($self, $action) = @_; return $self->{boxes}[ $action->{node} - 1 ]; }

sub _server_kill
{
	my ($self, $action) = @_;
	$self->_box($action)->refuse;
	$self->_server($action)->kill9;
	return 1;
}

# Without waiting for it: its network may be cut.
sub _server_start
{
	my ($self, $action) = @_;
	my $server = $self->_server($action);
	return 0 if $server->pid;
	$server->launch;
	$self->_box($action)->accept;
	return 1;
}

sub _server_hang { return $_[0]->_server_stop($_[1]); }
sub _server_stop { return kill 'STOP', $_[0]->_server($_[1])->pid // return 0; }
sub _server_continue { return kill 'CONT', $_[0]->_server($_[1])->pid // return 0; }

# To the node: what the client sends.
sub _side { return { in => 'client', out => 'server' }->{ $_[0]{direction} }; }

sub _box_hang { return $_[0]->_box_silence($_[1]); }
sub _box_silence { $_[0]->_box($_[1])->silence(_side($_[1])); return 1; }
sub _box_hold { $_[0]->_box($_[1])->hold(_side($_[1])); return 1; }
sub _box_pass { $_[0]->_box($_[1])->pass; return 1; }

# Returns whether there was a connection.
sub _box_cut
{
	my ($self, $action) = @_;
	my $open = $self->_box($action)->open_connections;
	$self->_box($action)->cut(_side($action));
	return $open;
}

sub _boxes_cut { $_->cut foreach @{ $_[0]{boxes} }; return 1; }
sub _boxes_refuse { $_->refuse foreach @{ $_[0]{boxes} }; return _boxes_cut(@_); }
sub _boxes_accept { $_->accept foreach @{ $_[0]{boxes} }; return 1; }

# As from the server, and with something in front of it that wants an answer.
sub _box_end
{
	my ($self, $action) = @_;
	my $open = $self->_box($action)->open_connections;
	$self->_box($action)->send("PING\r\n");
	$self->_box($action)->close('client');
	return $open;
}

sub _commits_begin { PostgreSQL::Test::Utils::append_to_file($_[0]{big}, ''); return 1; }

sub _commits_stall
{
	my ($self, $action) = @_;
	foreach my $box (@{ $self->{boxes} })
	{
		$action->{rate} ? $box->slow($action->{rate}) : $box->hold('client');
	}
	return 1;
}

# Returns how many there were.
sub _commits_cancel
{
	my ($self, $action) = @_;
	my $pids = eval { $self->_session->selectcol_arrayref(q(SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query ~* '^commit')) };
	return kill $action->{signal}, @{ $pids // [] };
}

sub _commits_end
{
	my ($self) = @_;
	unlink $self->{big};
	$_->pass foreach @{ $self->{boxes} };
	return 1;
}

sub _network_cut { Chaos::Network::cut(@{ $_[1] }{ 'node', 'direction' }); return 1; }
sub _network_slow { Chaos::Network::slow(@{ $_[1] }{ 'node', 'kilobits' }); return 1; }
sub _network_heal { Chaos::Network::heal($_[1]->{node}); return 1; }

sub _step_down { return defined $_[0]->_api("STREAM.LEADER.STEPDOWN.CHAOS_\U$_[1]->{stream}"); }

sub _stream_full
{
	my ($self, $action) = @_;
	my $info = $self->_api("STREAM.INFO.CHAOS_\U$action->{stream}") or return 0;
	$self->{full}{ $action->{stream} } = 1;
	return $self->_limit($action->{stream}, $info->{state}{messages} || 1);
}

sub _stream_room
{
	my ($self, $action) = @_;
	my $stream = $action->{stream};
	return 0 unless $self->{full}{$stream};
	$self->{overdue}{$stream} = 1;
	return 0 unless $self->_limit($stream, -1);
	delete $self->{$_}{$stream} foreach qw(full overdue);
	return 1;
}

sub _limit
{
	my ($self, $stream, $messages) = @_;
	my $info = $self->_api("STREAM.INFO.CHAOS_\U$stream") or return 0;
	return defined $self->_api("STREAM.UPDATE.CHAOS_\U$stream", { %{ $info->{config} }, max_msgs => $messages });
}

# It keeps what it has; but takes nothing more, or does not tell.
sub _stream_away
{
	my ($self, $action) = @_;
	my $info = $self->_api("STREAM.INFO.CHAOS_\U$action->{stream}") or return 0;
	my %change = $action->{stream} eq 'noack' ? (no_ack => JSON::PP::true) : (subjects => ["gone.$action->{stream}.>"]);
	return defined $self->_api("STREAM.UPDATE.CHAOS_\U$action->{stream}", { %{ $info->{config} }, %change });
}

# The first time it is made.
sub _stream_back
{
	my ($self, $action) = @_;
	my $info = $self->_api("STREAM.INFO.CHAOS_\U$action->{stream}");
	return $self->{create}->($action->{stream}) unless $info;
	return defined $self->_api("STREAM.UPDATE.CHAOS_\U$action->{stream}",
		{ %{ $info->{config} }, no_ack => JSON::PP::false, subjects => ["chaos.$action->{stream}.>"] });
}

# Nothing is done at these.
sub _calm_begin { return 1; }
sub _calm_end { return 1; }

# Of the first server that answers.
sub _api
{
	my ($self, $api, $request) = @_;
	foreach my $server (@{ $self->{servers} })
	{
		my $answer = eval { NatsClient->new(url => $server->url, timeout => 1)->js($api, $request) };
		return $answer if $answer;
	}
	return;
}

sub _backend_terminate { return $_[0]->_signal('TERM', "application_name = 'chaos_$_[1]->{client}'"); }
sub _backend_cancel { return $_[0]->_signal('INT', "application_name = 'chaos_$_[1]->{client}'"); }
sub _backend_kill { return $_[0]->_signal('KILL', "application_name = 'chaos_$_[1]->{client}'"); }
# One of them.
sub _relay_terminate { return $_[0]->_signal('TERM', q(backend_type = 'nats_publish relay')); }
sub _relay_cancel { return $_[0]->_signal('INT', q(backend_type = 'nats_publish relay')); }
sub _relay_kill { return $_[0]->_signal('KILL', q(backend_type = 'nats_publish relay')); }

sub _postgres_crash { return $_[0]->_restart('immediate'); }
sub _postgres_restart { return $_[0]->_restart('fast'); }

sub _restart
{
	my ($self, $mode) = @_;
	$self->{node}->stop($mode, fail_ok => 1);
	$self->{node}->start(fail_ok => 1);
	return 1;
}

# The postmaster is killed, and its children find that out for themselves.
sub _postgres_kill
{
	my ($self) = @_;
	my $node = $self->{node};
	$node->kill9;
	my $end = time + $ORPHANS_SECONDS;
	until ($node->start(fail_ok => 1))
	{
		die 'processes of a postmaster that was killed are still there' if time > $end;
		sleep 0.2;
	}
	return 1;
}

# The primary is lost, and with it the slots from which its WAL was published.
sub _promote
{
	my ($self) = @_;
	$self->{node}->stop('immediate', fail_ok => 1);
	$self->{standby}->promote;
	@$self{ 'old', 'node' } = ($self->{node}, $self->{standby});
	enable_wal(@$self{ 'node', 'databases' });
	$self->{wal_began} = time;
	return 1;
}

# When each database has its relay.
sub enable_wal
{
	my ($node, $databases) = @_;
	foreach my $database (@$databases)
	{
		wait_for("the WAL of $database", sub { $node->psql($database, 'SELECT nats_wal_enable()') == 0 });
	}
	return;
}

# Nobody writes to it; but its relays go on where they were.
sub _old_primary_returns { return $_[0]{old}->start(fail_ok => 1); }

sub _signal
{
	my ($self, $signal, $which) = @_;
	my ($pid) = eval { $self->_session->selectrow_array("SELECT pid FROM pg_stat_activity WHERE $which ORDER BY random() LIMIT 1") };
	return defined $pid && kill $signal, $pid;
}

sub _session
{
	my ($self) = @_;
	return DBI->connect($self->dsn, '', '', { RaiseError => 1, PrintError => 0 });
}

sub dsn { my ($self, $database) = @_; return 'dbi:Pg:' . $self->{node}->connstr($database // 'postgres') =~ s/ /;/gr; }

1;
