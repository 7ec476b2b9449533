# Faults at random, and whether every promise was kept all the same: a cluster of three nodes with streams of three replicas,
# sessions that publish in every way, and a plan of faults, both decided by the seed (Chaos::Plan); then the checker.
# CHAOS_SECONDS, CHAOS_SEED, CHAOS_STANDBY. Run by test/chaos/run.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PublishTest qw(wait_for);
use SilentProxy;

use Chaos::Checker;
use Chaos::Client;
use Chaos::Editor;
use Chaos::Faults;
use Chaos::Listener;
use Chaos::Network;
use Chaos::Plan;
use Chaos::Probe;
use Chaos::Reader;
use Chaos::WalWatch;

my ($SECONDS, $SEED, $STANDBY) = ($ENV{CHAOS_SECONDS} || 60, $ENV{CHAOS_SEED} || 1, $ENV{CHAOS_STANDBY});

# Where PostgreSQL finds a node, behind its box.
my $BOX_PORT = 4223;

# By the seed too, but not by chance: each is a quarter of the seeds.
my $STRICT = $SEED % 4 != 3;

# So many messages of each stream, by each node, are acknowledged before anything begins.
my $SETTLED_ROUNDS = 20;

# After the last fault: for a session to end its transaction with all its retries, and for the relay, whose pause after
# a long outage is half a minute.
my $END_SECONDS = 180;

# The beginning of a message, as text.
my $PAYLOAD = q(convert_from(substring(payload FOR 60), 'UTF8'));

my $log_dir = $PostgreSQL::Test::Utils::log_path;
$ENV{PGDATABASE} = 'postgres';

my @servers = start_servers();
my @boxes = map { start_box($_) } 1 .. @servers;
my $ATOMIC = (NatsClient->new(url => $servers[0]->url)->info->{api_lvl} // 0) >= 2;
my @STREAMS = grep { $ATOMIC || $_ ne 'atomic' } @Chaos::Plan::STREAMS;
my @DATABASES = qw(postgres second);
create_streams();
wait_until_settled();
my $node = start_postgres();
my $standby = $STANDBY ? start_standby($node) : undef;
my $faults = Chaos::Faults->new(servers => \@servers, boxes => \@boxes, big => "$log_dir/big", node => $node, standby => $standby, databases => \@DATABASES, create => \&create_stream);

my @plan = Chaos::Plan::faults($SEED, $SECONDS, standby => $STANDBY);
write_plan(@plan);
my %done = run_plan(@plan);
check_postgres_log();
check_promises();
done_testing;

sub start_servers
{
	my $routes = join ', ', map { 'nats://' . Chaos::Network::address($_) . ':6222' } 1 .. $Chaos::Plan::NODES;
	my @started = map { NatsServer->new(name => "node$_", jetstream => 1, host => Chaos::Network::address($_), port => 4222,
		within => [ Chaos::Network::within($_) ],
		config => "max_payload: $Chaos::Plan::MAX_PAYLOAD\n" . 'client_advertise: "' . Chaos::Network::address($_) . qq(:$BOX_PORT"\n) . 'cluster { name: CHAOS, listen: "' . Chaos::Network::address($_) . qq(:6222", routes: [ $routes ] })) }
		1 .. $Chaos::Plan::NODES;
	$_->start foreach @started;
	return @started;
}

# At the node, and with small buffers of the kernel, so that what PostgreSQL has sent is known. It writes down which message
# it sees when.
sub start_box
{
	my ($number) = @_;
	return SilentProxy->new($servers[ $number - 1 ], host => Chaos::Network::address($number), port => $BOX_PORT,
		within => [ Chaos::Network::within($number) ], buffer => $Chaos::Checker::BOX_BYTES / 2,
		watch => [ qr/(\d+\.\d+\.\d+(?:~\w+)?)\|\d+\|/, "$log_dir/box_$number" ]);
}

# The nodes find each other in seconds; until then there is no answer, or one that it can't be done.
sub create_streams
{
	foreach my $name (@STREAMS, $Chaos::Plan::WAL_STREAM, 'noack')
	{
		wait_for("stream $name", sub { create_stream($name) });
	}
	return;
}

# The duplicate window is longer than any message may be on its way.
sub create_stream
{
	my ($name) = @_;
	my %config = (storage => 'file', num_replicas => 3, duplicate_window => 3600e9, discard => 'new');
	$config{allow_atomic} = JSON::PP::true() if $name eq 'atomic';
	$config{no_ack} = JSON::PP::true() if $name eq 'noack';
	my $client = eval { NatsClient->new(url => $servers[0]->url, timeout => 2) };
	return $client && eval { $client->create_stream("CHAOS_\U$name", ["chaos.$name.>"], %config) } || (note($@), 0)[1];
}

# Nodes that have just found each other do not take every message yet.
sub wait_until_settled
{
	my $rounds = 0;
	wait_for('the streams to settle', sub {
		$rounds = (grep { !Chaos::Probe::is_well($_->url, \@STREAMS) } @boxes) ? 0 : $rounds + 1;
		return $rounds == $SETTLED_ROUNDS;
	});
	return;
}

sub start_postgres
{
	my $postgres = PostgreSQL::Test::Cluster->new('chaos');
	$postgres->init(allows_streaming => $STANDBY ? 1 : 0);
	my $urls = join ',', map { $_->url } @boxes;
	$postgres->append_conf('postgresql.conf', <<"END");
restart_after_crash = on
wal_level = logical
max_connections = 50
log_line_prefix = '%m [%p] %e %q%a '
log_statement = none
log_min_messages = debug1
work_mem = '64kB'
shared_preload_libraries = 'nats_publish'
nats_publish.url = '$urls'
nats_publish.randomize = on
nats_publish.connect_timeout = '500ms'
nats_publish.ack_timeout = '${Chaos::Plan::ACK_TIMEOUT}s'
nats_publish.commit_timeout = '${Chaos::Plan::COMMIT_TIMEOUT}s'
nats_publish.relay_databases = '@{[ join ',', @DATABASES ]}'
nats_publish.relay_ordering = '@{[ $STRICT ? 'strict' : 'relaxed' ]}'
nats_publish.wal_divert_after = '${Chaos::Plan::DIVERT_SECONDS}s'
nats_publish.wal_divert_size = '@{[ $Chaos::Plan::DIVERT_BYTES / 1024 / 1024 ]}MB'
END
	$postgres->start;
	$postgres->safe_psql('postgres', "CREATE DATABASE $_") foreach grep { $_ ne 'postgres' } @DATABASES;
	foreach my $database (@DATABASES)
	{
		$postgres->safe_psql($database, <<'END');
CREATE EXTENSION nats_publish;
CREATE TABLE ledger (attempt text PRIMARY KEY);
CREATE FUNCTION publish_through_wal(subject text, payload text, msg_id text) RETURNS bigint LANGUAGE sql SET nats_publish.outbox_storage = wal
	AS 'SELECT nats_publish_outbox(subject, payload, msg_id => msg_id)';
END
	}
	Chaos::Faults::enable_wal($postgres, \@DATABASES);
	create_tables($postgres);
	return $postgres;
}

sub create_tables
{
	my ($postgres) = @_;
	$postgres->safe_psql('postgres', <<"END");
CREATE TABLE change_on_commit (message text PRIMARY KEY, client int, body text);
CREATE TABLE change_async (LIKE change_on_commit INCLUDING ALL);
CREATE TABLE change_sync (LIKE change_on_commit INCLUDING ALL);
CREATE TABLE change_outbox (LIKE change_on_commit INCLUDING ALL);
SELECT nats_publish_table('change_' || delivery, 'chaos.change.' || delivery || '.{client}', delivery => delivery,
	level => level, payload => 'body', msg_id => '{message}')
FROM (VALUES ('on_commit', 'row'), ('async', 'statement'), ('sync', 'row'), ('outbox', 'statement')) AS t (delivery, level);
CREATE TABLE change_wal (LIKE change_on_commit INCLUDING ALL, lane int GENERATED ALWAYS AS (client % $Chaos::Plan::LANES) STORED);
ALTER TABLE change_wal REPLICA IDENTITY FULL;
SELECT nats_publish_table('change_wal', 'chaos.wal.{lane}', delivery => 'wal', payload => 'body');
END
	foreach my $delivery (@Chaos::Plan::KEPT)
	{
		$postgres->safe_psql('postgres', <<"END");
CREATE TABLE kept_$delivery (key int PRIMARY KEY, version int NOT NULL DEFAULT 0, attempt text, message text);
INSERT INTO kept_$delivery SELECT generate_series(1, $Chaos::Plan::KEYS);
SELECT nats_publish_table('kept_$delivery', 'chaos.kept.$delivery.{key}', delivery => '$delivery');
END
	}
	return;
}

# What is committed on the primary is on the standby, or nobody was told.
sub start_standby
{
	my ($primary) = @_;
	$primary->backup('base');
	my $copy = PostgreSQL::Test::Cluster->new('standby');
	$copy->init_from_backup($primary, 'base', has_streaming => 1);
	$copy->start;
	$primary->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
	$primary->reload;
	wait_for('the standby', sub { $primary->safe_psql('postgres', 'SELECT sync_state FROM pg_stat_replication') eq 'sync' });
	return $copy;
}

sub write_plan
{
	my (@actions) = @_;
	open(my $file, '>', "$log_dir/plan") or die "$log_dir/plan: $!";
	foreach my $action (@actions)
	{
		my %more = %$action;
		delete @more{ 'at', 'what' };
		printf $file "%8.3f %s %s\n", $action->{at}, $action->{what}, join(' ', map { "$_=$more{$_}" } sort keys %more);
	}
	close $file;
	return;
}

# Returns how often each fault found something to happen to.
sub run_plan
{
	my (@actions) = @_;
	my @others = map { (start_probe($_), start_listener($_)) } 1 .. @servers;
	my @clients = ((map { start_client($_) } @Chaos::Plan::CLIENTS), (map { start_editor($_) } 1 .. $Chaos::Plan::EDITORS), start_reader());
	push @others, start_wal_watch();
	my $began = time;
	my %count;
	open(my $file, '>', "$log_dir/faults") or die "$log_dir/faults: $!";
	$file->autoflush(1);
	foreach my $action (@actions)
	{
		my $wait = $began + $action->{at} - time;
		sleep $wait if $wait > 0;
		note(sprintf '%8.3f %s', time - $began, join ' ', map { "$_=$action->{$_}" } sort grep { $_ ne 'at' } keys %$action);
		print $file join("\t", sprintf('%.3f', time), $action->{what}, $action->{node} // ''), "\n";
		$count{ $action->{what} }++ if $faults->act($action);
		write_connection();
	}
	$faults->heal;
	unlink "$log_dir/${_}_goes_on" foreach qw(client editor reader);
	ok(have_ended(@clients), 'every session has ended, when all was whole again');
	unlink "$log_dir/${_}_goes_on" foreach qw(probe listener wal_watch);
	ok(have_ended(@others), 'and who has looked on');
	ok(wal_is_published($faults->node), 'the WAL is published');
	ok(relays_have_drained($_), 'the outbox is empty: ' . $_->name) foreach grep { defined } $faults->node, $faults->old_primary;
	return %count;
}

sub start_client
{
	my ($number) = @_;
	write_connection();
	my $database = (grep { $_ == $number } @Chaos::Plan::SECOND) ? 'second' : 'postgres';
	return start_process('client', $number, sub { Chaos::Client::run(seed => $SEED, client => $number, atomic => $ATOMIC,
		connection => sub { slurp_file("$log_dir/connection_$database") }, big => sub { -e "$log_dir/big" }, @_) });
}

sub start_editor
{
	my ($number) = @_;
	return start_process('editor', $number, sub { Chaos::Editor::run(seed => $SEED, editor => $number,
		connection => sub { slurp_file("$log_dir/connection_postgres") }, @_) });
}

sub start_reader
{
	return start_process('reader', 1, sub { Chaos::Reader::run(connection => sub { slurp_file("$log_dir/connection_postgres") }, @_) });
}

sub start_wal_watch
{
	return start_process('wal_watch', 1, sub { Chaos::WalWatch::run(connection => sub { slurp_file("$log_dir/connection_postgres") }, @_) });
}

sub start_listener
{
	my ($number) = @_;
	return start_process('listener', $number, sub { Chaos::Listener::run(url => $servers[ $number - 1 ]->url, subject => 'chaos.unheard.>', @_) });
}

sub start_probe
{
	my ($number) = @_;
	return start_process('probe', $number, sub { Chaos::Probe::run(url => $boxes[ $number - 1 ]->url, streams => \@STREAMS, @_) });
}

# It goes on as long as there is the file, and who has made it.
sub start_process
{
	my ($kind, $number, $run) = @_;
	my ($name, $goes_on) = ("${kind}_$number", "$log_dir/${kind}_goes_on");
	my $parent = $$;
	append_to_file($goes_on, '');
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	eval { $run->(log => "$log_dir/$name", until => sub { !-e $goes_on || getppid() != $parent }); 1 } or append_to_file("$log_dir/$name.error", $@);
	# not exit(): the parent's END blocks are here too
	POSIX::_exit($@ ? 1 : 0);
}

sub write_connection
{
	foreach my $database (@DATABASES)
	{
		append_to_file("$log_dir/connection.new", $faults->dsn($database));
		rename "$log_dir/connection.new", "$log_dir/connection_$database";
	}
	return;
}

sub have_ended
{
	my (@pids) = @_;
	my $end = time + $END_SECONDS;
	my $failed = 0;
	foreach my $pid (@pids)
	{
		while (waitpid($pid, POSIX::WNOHANG()) == 0)
		{
			if (time > $end)
			{
				diag($faults->node->safe_psql('postgres', 'SELECT * FROM pg_stat_activity WHERE application_name ~ $$^chaos_$$'));
				kill 'KILL', @pids;
				return 0;
			}
			sleep 0.1;
		}
		$failed++ if $?;
	}
	diag(slurp_file($_)) foreach glob "$log_dir/*.error";
	return $failed == 0;
}

# Or moved to the outbox.
sub wal_is_published
{
	my ($postgres) = @_;
	my $position = $postgres->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	return eval { wait_for('the WAL to be published', sub {
		@DATABASES == $postgres->safe_psql('postgres', "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn >= '$position'") }, $END_SECONDS) };
}

sub relays_have_drained
{
	my ($postgres) = @_;
	return eval { wait_for('the outbox to be empty',
		sub { !grep { $postgres->safe_psql($_, 'SELECT EXISTS (SELECT FROM nats_outbox)') eq 't' } @DATABASES }, $END_SECONDS) };
}

sub check_postgres_log
{
	foreach my $postgres (grep { defined } $node, $standby)
	{
		my @bad = grep { /PANIC|TRAP:|terminated by signal (?!9:)\d+| XX\w{3} / } split /\n/, slurp_file($postgres->logfile);
		is(join("\n", @bad), '', 'nothing in the log of ' . $postgres->name . ' that must never be there');
	}
	return;
}

sub check_promises
{
	my $run = gather();
	foreach my $rule ($run->rules)
	{
		my ($checked, @violations) = $run->check($rule);
		is(scalar @violations, 0, "$rule ($checked)");
		diag(join "\n", splice(@violations, 0, 20)) if @violations;
	}
	my %count = ($run->counts, map { ("fault $_" => $done{$_}) } keys %done);
	diag(join "\n", "seed $SEED, $SECONDS s" . ($STANDBY ? ', with a standby' : '') . ', the relay ' . ($STRICT ? 'strict' : 'relaxed') . ':',
		map { sprintf '%8d %s', $count{$_}, $_ } sort keys %count);
	ok($count{"stored in CHAOS_\U$_"}, "there is something in the stream of $_") foreach @STREAMS, $Chaos::Plan::WAL_STREAM, @Chaos::Plan::WAYWARD;
	return;
}

# A cluster that has just been healed may be looking for a leader, or lose one.
sub messages_of
{
	my ($name) = @_;
	my @messages;
	wait_for("the messages of $name", sub {
		eval { @messages = NatsClient->new(url => $servers[0]->url, timeout => 60)->consume($name); 1 } || (diag($@), 0)[1];
	}, 300);
	return @messages;
}

sub gather
{
	my $run = Chaos::Checker->new(strict => $STRICT, canary => $Chaos::Plan::CANARY, wal_began => $faults->wal_began);
	$run->read_log("$log_dir/client_$_") foreach @Chaos::Plan::CLIENTS;
	$run->read_edits("$log_dir/editor_$_") foreach 1 .. $Chaos::Plan::EDITORS;
	$run->read_boxes(map { "$log_dir/box_$_" } 1 .. @boxes);
	$run->read_probes($_, "$log_dir/probe_$_") foreach 1 .. @servers;
	$run->read_faults("$log_dir/faults");
	$run->read_reader("$log_dir/reader_1");
	$run->read_wal("$log_dir/wal_watch_1");
	foreach my $database (@DATABASES)
	{
		my $column = sub { my ($postgres, $sql) = @_; split /\n/, $postgres->safe_psql($database, $sql) };
		$run->committed($column->($faults->node, 'SELECT attempt FROM ledger'));
		$run->committed_elsewhere($column->($faults->old_primary, 'SELECT attempt FROM ledger')) if $faults->old_primary;
		$run->waiting($column->($faults->node, "SELECT $PAYLOAD FROM nats_outbox"));
		$run->dead($column->($faults->node, "SELECT $PAYLOAD FROM nats_outbox_dead"));
		# for whoever looks for the reason of a violation
		append_to_file("$log_dir/dead", $faults->node->safe_psql($database, "SELECT $PAYLOAD, subject, attempts, died_at, last_error FROM nats_outbox_dead"));
	}
	foreach my $delivery (@Chaos::Plan::KEPT)
	{
		$run->kept_row($delivery, split /\|/) foreach split /\n/, $faults->node->safe_psql('postgres', "SELECT key, version FROM kept_$delivery");
	}
	open(my $file, '>', "$log_dir/stored") or die "$log_dir/stored: $!";
	foreach my $name (map { "CHAOS_\U$_" } @STREAMS, $Chaos::Plan::WAL_STREAM, @Chaos::Plan::WAYWARD)
	{
		foreach my $message (grep { $_->{subject} !~ /\.probe$/ } messages_of($name))
		{
			my @message = (@$message{qw(seq subject payload)}, $message->{stored_at} / 1e9);
			if ($name eq 'CHAOS_KEPT') { $run->kept(@message); }
			else { $run->stored($name, @message); }
			print $file join("\t", $name, @$message{qw(seq subject)}, sprintf('%.3f', $message->{stored_at} / 1e9), substr($message->{payload}, 0, 30)), "\n";
		}
	}
	close $file;
	return $run;
}
