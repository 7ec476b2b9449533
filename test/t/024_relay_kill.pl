
# What the relay promises when everything is killed, again and again, under a load of many clients that also roll back:
# the stream has what was committed, each message once, those of a subject in the order of their ids.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $CLIENTS = 8;
my $LONG = 300;    # seconds: for what is a matter of seconds on an idle machine

my $nats = NatsServer->new(jetstream => 1)->start;
my %settings = (
	'nats_publish.url' => $nats->url,
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.ack_timeout' => '2s',
	'log_statement' => 'none',
	'max_connections' => 30);

sub client { return NatsClient->new(url => $nats->url); }
sub in_stream { return client()->stream_info('K')->{state}{last_seq}; }

# What is published twice, because of a crash before it was deleted, is known to the stream for all of the test.
sub create_stream
{
	client()->create_stream('K', ['k.>'], storage => 'file', duplicate_window => 20 * 60 * 1_000_000_000);
	return;
}

sub wait_for_progress
{
	my ($count) = @_;
	my $before = in_stream();
	wait_for('messages in the stream', sub { in_stream() > $before + $count }, $LONG);
	return;
}

# The table says what was committed. Each client has 12 or 13 subjects of its own, 100 in all. A client works until it has
# committed so many messages; an endless one goes on, slowly.
my $SETUP = q(
	CREATE TABLE committed (id bigint PRIMARY KEY, client int, subject text, payload jsonb);
	CREATE SEQUENCE transactions;
	CREATE FUNCTION write(client int) RETURNS int LANGUAGE plpgsql AS $$
		DECLARE
			number bigint := nextval('transactions');
			written int;
		BEGIN
			INSERT INTO committed
				SELECT nats_publish_outbox(subject, payload), client, subject, payload FROM
					(SELECT 'k.' || client || '.' || floor(random() * (12 + client % 2)), jsonb_build_array(client, number, i)
					FROM generate_series(1, 20 + (random() * 30)::int) i) AS new (subject, payload);
			GET DIAGNOSTICS written = ROW_COUNT;
			RETURN written;
		END $$;
	CREATE PROCEDURE load(client int, target int, endless bool) LANGUAGE plpgsql AS $$
		DECLARE
			written int;
			mine int := count(*) FROM committed AS c WHERE c.client = load.client;
		BEGIN
			WHILE mine < target OR endless LOOP
				written := write(client);
				IF random() < 0.2 THEN
					BEGIN
						PERFORM write(client);
						RAISE EXCEPTION 'to the savepoint';
					EXCEPTION WHEN raise_exception THEN
						NULL;
					END;
				END IF;
				IF random() < 0.2 THEN
					written := written + write(client);
				END IF;
				IF random() < 0.2 THEN
					ROLLBACK;
				ELSE
					COMMIT;
					mine := mine + written;
				END IF;
				PERFORM pg_sleep(CASE WHEN mine < target THEN random() * 0.04 ELSE 0.5 END);
			END LOOP;
		END $$);

sub begin_load
{
	my ($node, $target, $endless) = @_;
	my @clients = map { PsqlSession->new($node) } 1 .. $CLIENTS;
	$clients[ $_ - 1 ]->begin("CALL load($_, $target, $endless)") foreach 1 .. $CLIENTS;
	return @clients;
}

sub load_to_the_end
{
	my ($node, $target) = @_;
	my @clients = begin_load($node, $target, 'false');
	is_deeply([ map { $_->finish($LONG)->{error} } @clients ], [ ('') x $CLIENTS ], 'the clients come to their end');
	$_->close foreach @clients;
	return;
}

# The clients of a server that was killed
sub finish_all
{
	my ($what, @clients) = @_;
	my @survivors = grep { $_->finish($LONG)->{error} eq '' } @clients;
	is(scalar @survivors, 0, "$what: every client has lost its connection");
	$_->kill foreach @clients;
	return;
}

sub wait_for_relay
{
	my ($session, $old) = @_;
	return wait_for('a relay', sub { my $pid = relay_pid($session); $pid ne '' && $pid ne $old && $pid }, $LONG);
}

sub processes
{
	my ($node) = @_;
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @children;
	foreach my $path (glob '/proc/[0-9]*/stat')
	{
		open(my $file, '<', $path) or next;    # it has ended
		my $stat = readline($file) // next;
		push @children, $stat =~ /^(\d+)/ if $stat =~ /\) \S (\d+)/ && $1 == $postmaster;
	}
	return ($postmaster, @children);
}

sub wait_until_gone
{
	my (@processes) = @_;
	wait_for('the end of all processes', sub { !grep { process_is_there($_) } @processes });
	return;
}

# What it is all about
sub check
{
	my ($what, $node, $session, $count) = @_;
	wait_until_drained($session, $LONG);
	wait_for_state($session, 'idle');
	stream_to_table(client(), 'K', $node, 'postgres', 'stream');
	$session->value('ANALYZE stream, committed');
	my $committed = $session->value('SELECT count(*) FROM committed');
	cmp_ok($committed, '>=', $count, "$what: $committed messages were committed");
	my ($these, $those) = map { "SELECT subject, payload FROM $_" } 'committed', 'stream';
	is($session->value("SELECT count(*) FROM ($these EXCEPT ALL $those) AS lost"), '0', 'every one is in the stream');
	is($session->value("SELECT count(*) FROM ($those EXCEPT ALL $these) AS surplus"), '0', 'once, and nothing else is');
	is($session->value(q(SELECT count(*) FROM (SELECT id < lag(id) OVER (PARTITION BY subject ORDER BY seq) AS is_late
		FROM stream JOIN committed USING (subject, payload)) AS messages WHERE is_late)), '0', 'those of a subject are in the order of their ids');
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'none is dead');
	return;
}

# One server, whose processes are killed, and NATS

{
	create_stream();
	my $node = relay_node('main', %settings, 'restart_after_crash' => 'on');
	$node->safe_psql('postgres', $SETUP);
	my $target = 100_000 / $CLIENTS;
	my $session = PsqlSession->new($node);
	my @clients = begin_load($node, $target, 'true');

	foreach my $round (1 .. 3)
	{
		wait_for_progress(1000);
		my $worker = relay_pid($session);
		$session->value("SELECT pg_terminate_backend($worker)");
		wait_for_relay($session, $worker);
		wait_for_progress(1000);
		$nats->kill9;
		sleep 0.3;
		$nats->start;
		$node->reload;
	}

	foreach my $round (1 .. 2)
	{
		wait_for_progress(1000);
		kill('KILL', wait_for_relay($session, '')) == 1 or die "no relay to kill: $!";
		finish_all('the relay is killed', @clients);
		$session->kill;
		wait_until_back($node);
		$session = PsqlSession->new($node);
		@clients = begin_load($node, $target, 'true');
	}

	wait_for_progress(1000);
	my @processes = processes($node);
	$node->kill9;
	wait_until_gone(@processes);
	pass('no process of PostgreSQL, and no relay, outlives the postmaster');
	finish_all('the postmaster is killed', @clients);
	$session->kill;
	$node->start;
	load_to_the_end($node, $target);
	$session = PsqlSession->new($node);
	check('processes are killed', $node, $session, 100_000);
	is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal (?!9)/) ], [], 'nothing has crashed by itself');
	$session->close;
	$node->stop;
}

# A standby takes the place of a server that is killed as if its machine had lost power

{
	client()->delete_stream('K');
	create_stream();
	my $primary = PostgreSQL::Test::Cluster->new('primary');
	$primary->init(allows_streaming => 1);
	my %all = (%settings, shared_preload_libraries => 'nats_publish', 'nats_publish.relay_databases' => 'postgres');
	$primary->append_conf('postgresql.conf', join '', map { "$_ = '$all{$_}'\n" } sort keys %all);
	$primary->start;
	$primary->safe_psql('postgres', "CREATE EXTENSION nats_publish; $SETUP");
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->start;
	reconfigure($primary, synchronous_standby_names => '*');
	my $session = PsqlSession->new($primary);
	wait_for('a synchronous standby', sub { $session->value('SELECT sync_state FROM pg_stat_replication') eq 'sync' });
	wake_relay($session);
	wait_for_state($session, 'idle');

	# a backlog, of which a part is published
	my $target = 20_000 / $CLIENTS;
	$nats->kill9;
	my @clients = begin_load($primary, $target, 'true');
	wait_for('a backlog', sub { $session->value('SELECT count(*) FROM committed') > 10_000 }, $LONG);
	$nats->start;
	$primary->reload;
	wait_for_progress(1000);

	# Stopped first: a commit that sees the end of the postmaster does not wait for the standby any more.
	my @processes = processes($primary);
	kill 'STOP', @processes;
	kill 'KILL', @processes;
	$primary->kill9;
	wait_until_gone(@processes);
	finish_all('the primary is killed', @clients);
	$session->kill;

	$standby->promote;
	$session = PsqlSession->new($standby);
	wait_for_relay($session, '');
	pass('the relay begins on the new primary');
	load_to_the_end($standby, $target);
	check('a standby is promoted', $standby, $session, 20_000);
	is_deeply([ log_lines($standby, 0, qr/PANIC|terminated by signal/) ], [], 'nothing has crashed');
}

done_testing();
