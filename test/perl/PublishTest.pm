
=pod

=head1 NAME

PublishTest - what the tests of nats_publish have in common

=head1 SYNOPSIS

  use PublishTest;

  my $node = publishing_node('main', 'nats_publish.url' => $nats->url);
  my $session = PsqlSession->new($node);

=cut

package PublishTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use JSON::PP ();
use Time::HiRes qw(time sleep);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PsqlSession;

our @EXPORT = qw(nats_with_stream publishing_node publishing_database publishing_session stream_to_table wait_for wait_until_back process_threads process_files
	process_ticks process_memory peak_memory process_is_there free_port);

=pod

=head1 FUNCTIONS

=over

=item nats_with_stream($name, \@subjects, %config)

A started nats-server with JetStream, and a client of it that has created this stream there.

=item publishing_node($name, %settings)

A started PostgreSQL with the extension in database postgres, whose C<connect_timeout> is longer than the default.

=item publishing_database($node, $name, $encoding)

One more database with the extension, in UTF8 if not said. Returns its name.

=item publishing_session($node, %settings)

A PsqlSession with these settings, all of them of nats_publish and named without its prefix.

=item stream_to_table($client, $stream, $node, $dbname, $table)

A new table of a stream's messages: C<seq>, C<subject>, C<headers> (the values of each name, in an array) and C<payload>,
both jsonb. Dies when a payload is not JSON of one line.

=item peak_memory($session, $sql)

Runs a command that must not fail: the largest memory of its backend meanwhile (as process_memory), and the time it
took.

=item wait_for($what, sub {...}, $seconds)

Until the function is true; dies when it does not become so. Returns what it returned.

=item wait_until_back($node)

Until a PostgreSQL that has crashed accepts connections again.

=item process_threads($pid), process_files($pid), process_ticks($pid), process_memory($pid)

Of a process: how many threads it has and how many open descriptors, its CPU time in ticks of 10 ms, its own memory
(without what is shared) in kB.

=item process_is_there($pid)

=item free_port()

=back

=cut

my @nodes;

# PostgreSQL's modules end their servers as by a crash, and coverage counts only what ends in order.
END
{
	my $status = $?;
	$_->stop('fast', fail_ok => 1) foreach $ENV{NATS_PUBLISH_COVERAGE} ? @nodes : ();
	$? = $status;
}

sub nats_with_stream
{
	my ($name, $subjects, %config) = @_;
	my $nats = NatsServer->new(jetstream => 1)->start;
	my $client = NatsClient->new(url => $nats->url);
	$client->create_stream($name, $subjects, %config);
	return ($nats, $client);
}

sub publishing_node
{
	my ($name, %settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	push @nodes, $node;
	$node->init;
	# a machine that stands still for a moment is not a server that is away
	$settings{'nats_publish.connect_timeout'} //= '30s';
	# of 19 a node's lines begin with the kind of process, too, which may be "nats_publish relay"
	$settings{log_line_prefix} //= '%m [%p] %q%a ';
	$node->append_conf('postgresql.conf', join '', map { "$_ = '$settings{$_}'\n" } sort keys %settings);
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION nats_publish');
	return $node;
}

sub publishing_database
{
	my ($node, $name, $encoding) = @_;
	$encoding //= 'UTF8';
	$node->safe_psql('postgres', qq(CREATE DATABASE "$name" TEMPLATE template0 ENCODING '$encoding' LOCALE 'C'));
	$node->safe_psql($name, 'CREATE EXTENSION nats_publish');
	return $name;
}

sub publishing_session
{
	my ($node, %settings) = @_;
	return PsqlSession->new($node, settings => { map { ("nats_publish.$_" => $settings{$_}) } keys %settings });
}

sub stream_to_table
{
	my ($client, $stream, $node, $dbname, $table) = @_;
	my $json = JSON::PP->new->utf8->canonical;
	my $path = PostgreSQL::Test::Utils::tempdir('stream') . '/messages';
	open(my $file, '>', $path) or die "$path: $!";
	foreach my $message ($client->consume($stream))
	{
		die "message $message->{seq} is not one line" if $message->{payload} =~ /[\r\n]/;
		my @columns = (@$message{ 'seq', 'subject' }, $json->encode($message->{headers}), $message->{payload});
		print $file join("\t", map { s/\\/\\\\/gr =~ s/\t/\\t/gr } @columns), "\n";
	}
	close $file or die "$path: $!";
	$node->safe_psql($dbname, "CREATE TABLE $table (seq bigint PRIMARY KEY, subject text, headers jsonb, payload jsonb); COPY $table FROM '$path'");
	return;
}

sub peak_memory
{
	my ($session, $sql) = @_;
	my $peak = 0;
	$session->begin($sql);
	while ($session->is_running)
	{
		my $memory = process_memory($session->pid);
		$peak = $memory if $memory > $peak;
		sleep 0.005;
	}
	my $result = $session->finish;
	is($result->{error}, '', $sql =~ s/\s+/ /gr);
	my $memory = process_memory($session->pid);
	return ($memory > $peak ? $memory : $peak, $result->{seconds});
}

sub wait_for
{
	my ($what, $condition, $seconds) = @_;
	my $end = time + ($seconds // $PostgreSQL::Test::Utils::timeout_default);
	while (1)
	{
		my $result = $condition->();
		return $result if $result;
		die "waited in vain for $what" if time > $end;
		sleep 0.01;
	}
}

# Without a query: IPC::Run dies when psql has ended before it has read one.
sub wait_until_back
{
	my ($node) = @_;
	$node->poll_query_until('postgres', undef, '') or die 'PostgreSQL does not come back';
	return;
}

sub process_threads
{
	my ($pid) = @_;
	return scalar(my @tasks = glob "/proc/$pid/task/*");
}

sub process_files
{
	my ($pid) = @_;
	return scalar(my @files = glob "/proc/$pid/fd/*");
}

sub process_ticks
{
	my ($pid) = @_;
	my ($rest) = slurp_file("/proc/$pid/stat") =~ /\) (.*)/;
	my @fields = split / /, $rest;
	return $fields[11] + $fields[12];
}

sub process_memory
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 : die "no RssAnon";
}

sub process_is_there { return -e "/proc/$_[0]"; }

sub free_port { return PostgreSQL::Test::Cluster::get_free_port(); }

1;
