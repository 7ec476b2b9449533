
# For SOAK_MINUTES, sessions publish in every way there is, and everything goes wrong that can: nothing that they leave behind
# may add up. They work in turns of some seconds; between two turns all is at rest, and what each process has then is
# looked at.

use strict;
use warnings FATAL => 'all';

use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use List::Util qw(sum min max);
use Test::More;
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Utils;

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;
use SoakLoad;
use SoakSamples;

my $SECONDS = 60 * $ENV{SOAK_MINUTES};
my $SHORT_SESSIONS = min(10_000, 1000 * $ENV{SOAK_MINUTES});
my $BURST = 500;
# When, as a share of the time
my @BURSTS_AT = (0.1, 0.3, 0.5, 0.7);

# One that stays, one that is restarted now and then, and one that has atomic batches.
my %nats = (
	steady => monitored('steady'),
	restarted => monitored('restarted'),
	newer => monitored('newer', binary => $ENV{NATS_SERVER_NEW}));
create_streams($_) foreach values %nats;

# malloc shall give back what is free, always from the same size on, instead of learning how much to keep: at rest there is
# then what is in use.
@ENV{qw(MALLOC_TRIM_THRESHOLD_ MALLOC_MMAP_THRESHOLD_)} = (131072) x 2;

my $node = relay_node('main',
	'nats_publish.url' => $nats{steady}->url,
	'max_connections' => $BURST + 60,
	'max_prepared_transactions' => 20,
	'wal_level' => 'logical',
	'log_statement' => 'none',
	'log_min_error_statement' => 'panic',
	'log_min_messages' => 'log');
{
	my $session = PsqlSession->new($node);
	wait_for_state($session, 'idle');
	$session->value('SELECT nats_wal_enable()');
	$session->close;
}
$node->safe_psql('postgres', load_tables() . "CREATE SERVER newer FOREIGN DATA WRAPPER nats OPTIONS (url '" . $nats{newer}->url . "')");

my $control = PsqlSession->new($node);
my %session = map { $_ => PsqlSession->new($node) } load_kinds();
my $short = PsqlSession->new($node);
my $scripts = PostgreSQL::Test::Utils::tempdir('scripts');

my (%errors, %unexpected);
my ($turns, $short_sessions, $restarts, $cancels, $most_at_once, $most_temporary_files) = (0) x 6;

sub monitored
{
	my ($name, %args) = @_;
	my $port = free_port();
	my $nats = NatsServer->new(name => $name, jetstream => 1, config => qq(http: "127.0.0.1:$port"), %args)->start;
	$nats->{monitoring} = "http://127.0.0.1:$port";
	return $nats;
}

sub monitoring
{
	my ($nats, $path) = @_;
	my $response = HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default)->get("$nats->{monitoring}/$path");
	die "$path: $response->{status} $response->{content}" unless $response->{success};
	return JSON::PP->new->decode($response->{content});
}

# With limits, so that the server's memory has an end too: as to its messages, and to the ids that it remembers.
sub create_streams
{
	my ($nats) = @_;
	my $client = NatsClient->new(url => $nats->url);
	my %limits = (storage => 'file', max_msgs => 10_000, max_bytes => 64 * 1024 * 1024, duplicate_window => 2_000_000_000);
	$client->create_stream('S', ['s.>'], %limits);
	$client->create_stream('FULL', ['full.>'], %limits, max_msgs => 1, discard => 'new');
	$client->js_publish('full.a', 'x');
	$client->create_stream('A', ['a.>'], %limits, allow_atomic => \1) if $nats->{name} eq 'newer';
	$client->close;
	return;
}

sub count_errors
{
	my ($kind, $text) = @_;
	while ($text =~ /(?:ERROR|FATAL|PANIC):  (\w{5}): (.*)/g)
	{
		$errors{$1}{$kind}++;
		$unexpected{"$kind: $1: $2"}++ unless is_expected($kind, $1);
	}
	$unexpected{"$kind: $1"}++ while $text =~ /WARNING:  (\w{5}: .*\bleak.*)/g;
	return;
}

# Where they publish to: the steady one, both, the other one, while it is restarted.
sub disturb
{
	my $phase = $turns % 10;
	my ($steady, $restarted) = map { $nats{$_}->url } qw(steady restarted);
	my %url = (3 => "$restarted,$steady", 5 => $restarted, 6 => $steady);
	reconfigure($node, 'nats_publish.url' => $url{$phase}) if $url{$phase};
	if ($phase == 4 || $phase == 5)
	{
		sleep 0.5;
		$nats{restarted}->restart(stop => $phase == 4 ? 'stop' : 'kill9');
		$restarts++;
	}
	return;
}

sub cancel_one
{
	my @running = grep { $session{$_}->is_running } keys %session;
	return unless @running;
	$control->value('SELECT pg_cancel_backend(' . $session{ $running[ rand @running ] }->pid . ')');
	$cancels++;
	return;
}

# Sessions that are all there at once, and have all published, before the first one ends. Hundreds that connect at the same
# moment may take long.
sub burst
{
	my $gate = PsqlSession->new($node);
	$gate->value('SELECT pg_advisory_lock(1)');
	my $script = "$scripts/burst.sql";
	PostgreSQL::Test::Utils::append_to_file($script, <<'END') unless -e $script;
SET nats_publish.connect_timeout = '60s';
SET nats_publish.ack_timeout = '60s';
SELECT nats_publish('s.burst', 'x');
SELECT pg_advisory_lock_shared(1);
SELECT nats_publish_async('s.burst', 'y');
END
	my $output = '';
	my $pgbench = IPC::Run::start(
		[ 'pgbench', '-n', '-c', $BURST, '-t', 1, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'<', \undef, '>', \$output, '2>&1');
	wait_for("$BURST sessions at once", sub {
		$pgbench->pump_nb;
		die "pgbench: $output" if $output =~ /aborted/;
		$control->value(q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)) >= $BURST });
	$most_at_once = max($most_at_once, monitoring($nats{steady}, 'connz')->{num_connections});
	$gate->close;
	$pgbench->finish or die "pgbench: $output";
	return;
}

# As many as are due at the end of a turn that takes no longer than the last one.
sub begin_short_sessions
{
	my ($progress, $last_turn) = @_;
	my $due = $SHORT_SESSIONS * min(1, $progress + 1.5 * $last_turn) - $short_sessions;
	my $count = $due < 1 ? 1 : int($due);
	$short->begin('\i ' . short_sessions_script($scripts, $count));
	$short_sessions += $count;
	return;
}

sub turn
{
	my ($progress, $last_turn) = @_;
	begin_short_sessions($progress, $last_turn);
	$session{$_}->begin('\i ' . load_script($_, $scripts, $nats{steady}->url)) foreach load_kinds();
	disturb();
	if (@BURSTS_AT && $progress >= $BURSTS_AT[0] && $turns % 10 == 0)
	{
		shift @BURSTS_AT;
		burst();
	}
	my $next_cancel = time;
	while (grep { $_->is_running } $short, values %session)
	{
		cancel_one() if time >= $next_cancel;
		$next_cancel = time + 0.5 if time >= $next_cancel;
		sleep 0.02;
	}
	count_errors($_, $session{$_}->finish->{error}) foreach load_kinds();
	count_errors('short', $short->finish->{error});
	$turns++;
	return;
}

# What PostgreSQL has given out of the memory of a process that can't be asked by SQL, in kB.
sub logged_contexts
{
	my ($pid) = @_;
	my $offset = log_length($node);
	$control->value("SELECT pg_log_backend_memory_contexts($pid)");
	my ($line) = wait_for("the memory contexts of $pid", sub { [ log_lines($node, $offset, qr/\[$pid\].*Grand total:/) ]->[0] });
	return $line =~ /(\d+) used/ ? $1 / 1024 : die $line;
}

# Its connections beyond those of sessions, which may just be at another server; and its subscriptions beyond one for each connection.
sub sample_server
{
	my ($samples, $name, $messages) = @_;
	my $url = $nats{$name}->url;
	my $connections = monitoring($nats{$name}, 'connz')->{num_connections};
	$samples->add("nats-server $name", pid => $nats{$name}->pid, messages => $messages,
		connections => max(0, $connections - $control->value("SELECT count(*) FROM nats_publish_activity WHERE url = '$url'")),
		subscriptions => monitoring($nats{$name}, 'subsz')->{num_subscriptions} - $connections);
	return;
}

sub sample
{
	my ($samples) = @_;
	my $lsn = $control->value('SELECT pg_current_wal_insert_lsn()');
	wait_for('the WAL to be published', sub { $control->value("SELECT confirmed_lsn >= '$lsn' AND queued = 0 FROM nats_wal_relay") eq 't' }, 120);
	wait_until_drained($control, 120);
	sleep 0.3;    # threads of connections that were closed
	my %relayed = (outbox => relay_column($control, 'published'), wal => $control->value('SELECT published FROM nats_wal_relay'));
	foreach my $kind (load_kinds())
	{
		my ($messages, $used) = split /\|/, $session{$kind}->value(
			q(SELECT published, (SELECT sum(used_bytes) FROM pg_backend_memory_contexts) FROM nats_session_stats()));
		$samples->add($kind, pid => $session{$kind}->pid, messages => $relayed{$kind} // $messages,
			contexts => $used / 1024);
	}
	my $total = $control->value('SELECT sum(published) FROM nats_publish_stats');
	my %pid = (relay => relay_pid($control), 'relay of the WAL' => $control->value('SELECT pid FROM nats_wal_relay'), launcher => launcher_pid($control));
	my %messages = (relay => $relayed{outbox}, 'relay of the WAL' => $relayed{wal});
	$samples->add($_, pid => $pid{$_}, contexts => logged_contexts($pid{$_}), messages => $messages{$_} // $total) foreach sort keys %pid;
	$samples->add('postmaster', pid => slurp_file($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr, messages => $total,
		connections => $control->value('SELECT count(*) FROM nats_publish_activity'));
	sample_server($samples, $_, $total) foreach qw(steady newer);
	$most_temporary_files = max($most_temporary_files, $control->value('SELECT count(*) FROM pg_ls_tmpdir()'));
	return;
}

sub connections_end
{
	my ($name) = @_;
	return wait_for("the connections to $name to end", sub { monitoring($nats{$name}, 'connz')->{num_connections} == 0 });
}

sub report
{
	my ($samples) = @_;
	my $text = $samples->table . sprintf "\n%s messages published, %d turns, %d short sessions, %d sessions at once, %d restarts, %d cancels, %d errors:\n",
		$control->value(q(SELECT to_char(sum(published), 'FM999,999,999,999') FROM nats_publish_stats)),
		$turns, $short_sessions, $most_at_once, $restarts, $cancels, sum(map { values %$_ } values %errors);
	foreach my $sqlstate (sort keys %errors)
	{
		$text .= sprintf "%s %9d  %s\n", $sqlstate, sum(values %{ $errors{$sqlstate} }), join ', ', sort keys %{ $errors{$sqlstate} };
	}
	open(my $file, '>', "$ENV{SOAK_OUT}/soak.txt") or die "soak.txt: $!";
	print $file $text;
	close $file or die "soak.txt: $!";
	$samples->write_csv("$ENV{SOAK_OUT}/soak.csv");
	$samples->draw("$ENV{SOAK_OUT}/soak.svg", "$ENV{SOAK_MINUTES} minutes of mixed load, at rest");
	return;
}

my $samples = SoakSamples->new($SECONDS);
my ($progress, $last_turn) = (0, 0.01);
while ($progress < 1)
{
	turn($progress, $last_turn);
	sample($samples);
	($last_turn, $progress) = ($samples->progress - $progress, $samples->progress);
}
begin_short_sessions(1, 0);
count_errors('short', $short->finish->{error});
die "$turns turns are too few on this machine: give it more MINUTES" if min(map { $samples->count_in_fifth($_) } 2, 5) < 3;
report($samples);

foreach my $process ($samples->processes)
{
	ok($samples->is_flat($process, $_), "$process: $_") foreach $samples->figures($process);
}
is($most_temporary_files, 0, 'no temporary file at rest');
is_deeply(\%unexpected, {}, 'no error but those to be expected');
foreach my $kind (load_kinds())
{
	ok($errors{$_}{$kind}, "$kind: error $_ has been seen") foreach expected_failures($kind);
}
cmp_ok($short_sessions, '>=', $SHORT_SESSIONS, 'short sessions');
cmp_ok($most_at_once, '>=', $BURST, 'sessions at once');
cmp_ok($restarts, '>', 0, 'restarts');
is($control->value('SELECT count(*) FROM nats_outbox'), 0, 'the outbox is empty');

$_->close foreach $short, values %session;
$node->safe_psql('postgres', q(ALTER SYSTEM SET nats_publish.relay_databases = ''; SELECT pg_reload_conf()));
$control->close;
ok(connections_end($_), "no connection to $_ is left") foreach sort keys %nats;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing in the log');

done_testing();
