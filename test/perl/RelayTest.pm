
=pod

=head1 NAME

RelayTest - what the tests of the outbox's relay have in common

=head1 SYNOPSIS

  use RelayTest;

  my $node = relay_node('main', 'nats_publish.url' => $nats->url);
  my $session = PsqlSession->new($node);
  $session->value(q(SELECT nats_publish_outbox('r.a', 'x')));
  wait_until_drained($session);

=cut

package RelayTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use PsqlSession;
use PublishTest;

our @EXPORT = qw(relay_node wake_relay reconfigure write_to_outbox is_written_down relay_column relay_pid launcher_pid wait_for_state wait_until_drained
	outbox_column log_length log_lines none_takes_longer);

=pod

=head1 FUNCTIONS

=over

=item relay_node($name, %settings)

A started PostgreSQL with the library preloaded, and with the extension and a relay in database postgres. Returns when
the relay is idle.

=item wake_relay($session)

So that it need not wait to see that there is an extension.

=item reconfigure($node, %settings)

Writes settings, and reloads. A setting C<undef> is taken back.

=item write_to_outbox($session, $subject, $payload)

A message, with payload C<x> unless there is another one; returns its id.

=item is_written_down($session, $id)

Is that row not in the outbox any more?

=item relay_column($session, $expression, $database), relay_pid($session, $database), launcher_pid($session)

Of the row of nats_relay of the session's database, or of another one: an expression of its columns; the process of the
worker ('' without one).

=item wait_for_state($session, $state, $database)

=item wait_until_drained($session, $seconds)

Until there is no row in the outbox. Returns true.

=item outbox_column($session, $expression, $id)

An expression of the columns of a row of the outbox; '' without that row.

=item log_length($node), log_lines($node, $offset, qr/.../)

The lines of PostgreSQL's log behind the offset that match; not those that show statements.

=item none_takes_longer($seconds, $what, $measure, $again)

A test: none of the times that $measure returns is longer. If one is, all are measured again, twice at most, when $again, if
there is one, has brought about once more what is to hold up nothing: a relay that is held up by it is so each time, and a
machine that is busy is not.

=back

=cut

sub relay_node
{
	my ($name, %settings) = @_;
	my $node = publishing_node($name,
		shared_preload_libraries => 'nats_publish',
		'nats_publish.relay_databases' => 'postgres',
		%settings);
	my $session = PsqlSession->new($node);
	wake_relay($session);
	wait_for_state($session, 'idle');
	$session->close;
	return $node;
}

sub wake_relay
{
	my ($session) = @_;
	$session->value('SELECT nats_relay_resume()');
	return;
}

sub reconfigure
{
	my ($node, %settings) = @_;
	my @commands = map { defined $settings{$_} ? "ALTER SYSTEM SET $_ = '" . ($settings{$_} =~ s/'/''/gr) . "'" : "ALTER SYSTEM RESET $_" } sort keys %settings;
	my $written = $node->safe_psql('postgres', join ";\n", @commands, 'SELECT clock_timestamp()');
	$node->reload;
	# a new session has this from the postmaster, which tells the workers before it starts another process
	$node->poll_query_until('postgres', "SELECT pg_conf_load_time() > '$written'") or die 'the settings are not read';
	# nothing shows that they have heard it
	sleep 0.3;
	return;
}

sub write_to_outbox
{
	my ($session, $subject, $payload) = @_;
	return $session->value("SELECT nats_publish_outbox('$subject', '" . ($payload // 'x') . "')");
}

sub is_written_down
{
	my ($session, $id) = @_;
	return $session->value("SELECT count(*) FROM nats_outbox WHERE id = $id") eq '0';
}

sub relay_column
{
	my ($session, $expression, $database) = @_;
	my $name = defined $database ? "'$database'" : 'current_database()';
	return $session->value("SELECT $expression FROM nats_relay WHERE datname = $name");
}

sub relay_pid
{
	my ($session, $database) = @_;
	return relay_column($session, 'pid', $database);
}

sub launcher_pid
{
	my ($session) = @_;
	return $session->value(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'nats_publish launcher'));
}

sub wait_for_state
{
	my ($session, $state, $database) = @_;
	return wait_for("state $state", sub { relay_column($session, 'state', $database) eq $state });
}

sub wait_until_drained
{
	my ($session, $seconds) = @_;
	return wait_for('the outbox to be empty',
		sub { $session->value('SELECT NOT EXISTS (SELECT FROM nats_outbox)') eq 't' }, $seconds);
}

sub outbox_column
{
	my ($session, $expression, $id) = @_;
	return $session->value("SELECT $expression FROM nats_outbox WHERE id = $id");
}

sub log_length
{
	my ($node) = @_;
	return length slurp_file($node->logfile);
}

sub log_lines
{
	my ($node, $offset, $pattern) = @_;
	# of 19 a node's lines begin with the kind of process, too, and "nats_publish relay" is one
	return grep { $_ =~ $pattern && !/ (statement|execute \S+):|STATEMENT:  / }
		map { s/^(\S+ \S+ \S+) [a-z_ ]+\[/$1 [/r } split /\n/, slurp_file($node->logfile, $offset);
}

sub none_takes_longer
{
	my ($seconds, $what, $measure, $again) = @_;
	my @times;
	foreach my $attempt (1 .. 3)
	{
		$again->() if $attempt > 1 && defined $again;
		@times = $measure->();
		last unless grep { $_ > $seconds } @times;
	}
	return is(scalar(grep { $_ > $seconds } @times), 0, $what) || diag("@times");
}

1;
