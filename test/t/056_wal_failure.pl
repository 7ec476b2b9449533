
# What the relay of the WAL promises when everything is killed under a load that also rolls back, when NATS is away for long,
# and when its slot is lost.

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

my $CLIENTS = 4;
my $TARGET = 20_000;
my $ENDLESS = 1_000_000;
my $LONG = 300;    # seconds: for what is a matter of seconds on an idle machine

my $nats = NatsServer->new(jetstream => 1)->start;
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.ack_timeout' => '2s',
	'nats_publish.outbox_storage' => 'wal',
	wal_level => 'logical',
	restart_after_crash => 'on',
	log_statement => 'none');
my $session = PsqlSession->new($node);

sub client { return NatsClient->new(url => $nats->url); }
sub in_stream { return client()->stream_info('K')->{state}{messages}; }

sub wal_pid
{
	return $session->value(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'nats_publish WAL relay'));
}

sub slot_column { return $session->value("SELECT $_[0] FROM pg_replication_slots WHERE slot_name LIKE 'nats_publish%'"); }

sub wait_for_progress
{
	my ($count) = @_;
	my $before = in_stream();
	wait_for('messages in the stream', sub { in_stream() > $before + $count }, $LONG);
	return;
}

# Until all that is committed by now is read and has come to its end
sub wait_until_confirmed
{
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	return wait_for('the position', sub { slot_column("confirmed_flush_lsn >= '$lsn'") eq 't' }, $LONG);
}

# Each client has five subjects of its own, and numbers that grow.
$session->value(q(
	CREATE TABLE committed (subject text, payload jsonb);
	CREATE SEQUENCE numbers;
	CREATE FUNCTION write(client int, much int) RETURNS int LANGUAGE plpgsql AS $$
		BEGIN
			WITH new AS MATERIALIZED (SELECT 'k.' || client || '.' || floor(random() * 5) AS subject,
				jsonb_build_array(client, nextval('numbers')) AS payload FROM generate_series(1, (random() * much)::int)),
			sent AS MATERIALIZED (SELECT nats_publish_outbox(subject, payload), subject, payload FROM new)
			INSERT INTO committed SELECT subject, payload FROM sent;
			RETURN much;
		END $$;
	CREATE PROCEDURE load(client int, target int) LANGUAGE plpgsql AS $$
		DECLARE
			mine int := count(*) FROM committed AS c WHERE c.payload->0 = to_jsonb(client);
		BEGIN
			WHILE mine < target LOOP
				PERFORM write(client, CASE WHEN random() < 0.02 THEN 1000 ELSE 30 END);
				IF random() < 0.3 THEN
					BEGIN
						PERFORM write(client, 30);
						RAISE EXCEPTION 'to the savepoint';
					EXCEPTION WHEN raise_exception THEN
						NULL;
					END;
				END IF;
				IF random() < 0.2 THEN
					ROLLBACK;
				ELSE
					COMMIT;
				END IF;
				mine := count(*) FROM committed AS c WHERE c.payload->0 = to_jsonb(client);
				PERFORM pg_sleep(random() * 0.04);
			END LOOP;
		END $$;
	CREATE INDEX ON committed ((payload->0))));

sub begin_load
{
	my ($target) = @_;
	my @clients = map { PsqlSession->new($node) } 1 .. $CLIENTS;
	$clients[ $_ - 1 ]->begin("CALL load($_, $target)") foreach 1 .. $CLIENTS;
	return @clients;
}

sub finish_load
{
	my (@clients) = @_;
	is_deeply([ map { $_->finish($LONG)->{error} } @clients ], [ ('') x $CLIENTS ], 'the clients come to their end');
	$_->close foreach @clients;
	return;
}

sub lose_clients
{
	my ($what, @clients) = @_;
	my @survivors = grep { $_->finish($LONG)->{error} eq '' } @clients;
	is(scalar @survivors, 0, "$what: every client has lost its connection");
	$_->kill foreach @clients;
	$session->kill;
	return;
}

sub check
{
	my ($what) = @_;
	wait_until_confirmed();
	wait_until_drained($session, $LONG);
	$session->value('DROP TABLE IF EXISTS stream');
	stream_to_table(client(), 'K', $node, 'postgres', 'stream');
	$session->value('ANALYZE stream, committed');
	cmp_ok($session->value('SELECT count(*) FROM committed'), '>', 0, "$what: something was committed");
	my ($these, $those) = map { "SELECT subject, payload FROM $_" } 'committed', 'stream';
	is($session->value("SELECT count(*) FROM ($these EXCEPT ALL $those) AS lost"), '0', 'every message is in the stream');
	is($session->value("SELECT count(*) FROM ($those EXCEPT ALL $these) AS surplus"), '0', 'once, and nothing else is');
	is($session->value(q(SELECT count(*) FROM (SELECT payload->1 < lag(payload->1) OVER (PARTITION BY subject ORDER BY seq) AS is_late
		FROM stream) AS messages WHERE is_late)), '0', 'those of a subject are in the order of the commits');
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'none is dead');
	return;
}

client()->create_stream('K', ['k.>'], storage => 'file', duplicate_window => 20 * 60 * 1_000_000_000);
$session->value('SELECT nats_wal_enable()');
wait_for('a relay of the WAL', sub { wal_pid() ne '' });

# Everything is killed

{
	my @clients = begin_load($ENDLESS);
	foreach my $round (1 .. 2)
	{
		wait_for_progress(300);
		my $pid = wal_pid();
		$session->value("SELECT pg_terminate_backend($pid)");
		wait_for('another relay', sub { my $new = wal_pid(); $new ne '' && $new ne $pid }, $LONG);
		wait_for_progress(300);
		$session->value('SELECT pg_cancel_backend(' . wal_pid() . ')');
		wait_for_progress(300);
		$nats->kill9;
		sleep 0.3;
		$nats->start;
		$node->reload;
	}
	wait_for_progress(300);
	kill('KILL', wal_pid()) == 1 or die "no relay to kill: $!";
	lose_clients('the relay is killed', @clients);
	wait_until_back($node);
	$session = PsqlSession->new($node);
	@clients = begin_load($ENDLESS);
	wait_for_progress(300);
	my @processes = split /\n/, $session->value('SELECT pid FROM pg_stat_activity');
	$node->kill9;
	wait_for('the end of all processes', sub { !grep { process_is_there($_) } @processes });
	lose_clients('the postmaster is killed', @clients);
	$node->start;
	$session = PsqlSession->new($node);
	finish_load(begin_load($TARGET / $CLIENTS));
	check('processes are killed');
}

# A restart in order: what was confirmed is not read again

{
	wait_until_confirmed();
	my $before = slot_column('confirmed_flush_lsn');
	$session->close;
	$node->restart;
	$session = PsqlSession->new($node);
	wait_for('a relay', sub { wal_pid() ne '' });
	is(slot_column("confirmed_flush_lsn >= '$before'"), 't', 'the position is written down at the end');
	my ($table, $wal) = map { $session->value("SELECT extract(epoch FROM backend_start) FROM pg_stat_activity WHERE backend_type = '$_'") }
		'nats_publish relay', 'nats_publish WAL relay';
	# the launcher looks every five seconds unasked
	cmp_ok($wal - $table, '<', 4, 'that of the WAL begins with that of the table');
}

# NATS is away for long

{
	reconfigure($node, 'nats_publish.wal_divert_after' => '1s');
	$session->value('TRUNCATE committed');
	client()->purge('K');
	my @clients = begin_load(3000);
	wait_for_progress(100);
	$nats->kill9;
	wait_for('messages to be moved', sub { $session->value('SELECT count(*) FROM nats_outbox') > 1000 }, $LONG);
	finish_load(@clients);
	wait_until_confirmed();
	pass('the position goes on without NATS');
	$nats->start;
	check('NATS was away');
	my $last = $session->value('SELECT last_value FROM nats_outbox_id_seq');
	wait_for('the way by the table to be left', sub {
		my $before = $session->value('SELECT last_value FROM nats_outbox_id_seq');
		my $there = in_stream();
		$session->value(q(SELECT nats_publish_outbox('k.direct', '{}'::jsonb)));
		wait_for('the message', sub { in_stream() > $there });
		return $session->value('SELECT last_value FROM nats_outbox_id_seq') == $before;
	});
	reconfigure($node, 'nats_publish.wal_divert_after' => undef);
}

# All at once, though it is not tried so often to publish by then

{
	reconfigure($node, 'nats_publish.wal_divert_after' => '6s');
	$nats->kill9;
	my $began = time;
	$session->value(q(SELECT count(nats_publish_outbox('k.moved', to_jsonb(i))) FROM generate_series(1, 10000) i));
	wait_until_confirmed();
	my $seconds = time - $began;
	is($session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'k.moved')), '10000', 'ten thousand messages are moved');
	cmp_ok($seconds, '>', 6, 'when it is time');
	cmp_ok($seconds, '<', 25, 'and without a pause between any two of them');
	$nats->start;
	wait_until_drained($session, $LONG);
	reconfigure($node, 'nats_publish.wal_divert_after' => undef);
}

# One that begins knows what was moved before: none passes by an earlier one of its subject

{
	$session->value(q(SELECT nats_publish_outbox('late.x', '1'::jsonb)));
	wait_for('the message to be moved', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'late.x')) == 1 });
	my $holder = PsqlSession->new($node);
	$holder->value(q(BEGIN; SELECT FROM nats_outbox WHERE subject = 'late.x' FOR UPDATE));
	# nor is it one that is for later
	$session->value(q(SELECT nats_publish_outbox('k.other', '{}'::jsonb, deliver_at => now() + interval '1 day')));
	client()->create_stream('LATE', ['late.>'], storage => 'file');
	my $pid = wal_pid();
	$session->value("SELECT pg_terminate_backend($pid)");
	wait_for('another relay', sub { my $new = wal_pid(); $new ne '' && $new ne $pid }, $LONG);
	my $there = in_stream();
	$session->value(q(SELECT nats_publish_outbox('late.x', '2'::jsonb), nats_publish_outbox('k.other', '{}'::jsonb)));
	wait_until_confirmed();
	is($session->value(q(SELECT string_agg(convert_from(payload, 'UTF8'), ' ' ORDER BY id) FROM nats_outbox WHERE subject = 'late.x')), '1 2', 'it follows the one before it');
	is(in_stream(), $there + 1, 'and others do not');
	$holder->close;
	$session->value(q(DELETE FROM nats_outbox WHERE subject = 'k.other'));
	wait_until_drained($session, $LONG);
	is(join(' ', map { $_->{payload} } client()->consume('LATE')), '1 2', 'so they are in order');
	client()->delete_stream('LATE');
}

# So much WAL is kept for NATS, and no more

{
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h', 'nats_publish.wal_divert_size' => '16MB');
	$session->value('TRUNCATE committed');
	client()->purge('K');
	$nats->kill9;
	$session->value('CALL load(1, 50)');
	$session->value(q(SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 4)));
	sleep 1;
	is($session->value('SELECT count(*) FROM nats_outbox'), '0', 'some WAL is kept while NATS is away');
	my @clients = begin_load(3000);
	foreach my $round (1 .. 3)
	{
		$session->value(q(SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 30)));
		wait_until_confirmed();
		# from where on it is needed is known from then on
		$session->value('CHECKPOINT');
		wait_for('WAL to be let go', sub { $session->value('SELECT kept_bytes < 20000000 FROM nats_wal_relay') eq 't' }, $LONG);
		pass("round $round: more is not kept");
	}
	is($session->value('SELECT state FROM nats_wal_relay'), 'diverting', 'messages are moved to the table instead');
	finish_load(@clients);
	$nats->start;
	check('much WAL was kept');
	reconfigure($node, 'nats_publish.wal_divert_after' => undef, 'nats_publish.wal_divert_size' => undef);
}

# Or paused

{
	reconfigure($node, 'nats_publish.wal_divert_after' => '500ms');
	$session->value('SELECT nats_relay_pause()');
	$session->value(q(SELECT count(nats_publish_outbox('k.p', to_jsonb(i))) FROM generate_series(1, 50) i));
	wait_for('messages to be moved', sub { $session->value('SELECT count(*) FROM nats_outbox') == 50 }, $LONG);
	wait_until_confirmed();
	pass('WAL is not kept for a pause');
	$session->value('SELECT nats_relay_resume()');
	wait_until_drained($session, $LONG);
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'and they are published behind it');
	reconfigure($node, 'nats_publish.wal_divert_after' => undef);
}

# The slot is dropped behind our back

sub stop_relays
{
	reconfigure($node, 'nats_publish.relay_databases' => '');
	wait_for('no relay', sub { wal_pid() eq '' });
	return;
}

sub start_relays
{
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
	wait_for_state($session, 'idle');
	return;
}

sub enable_again
{
	my ($what, $loss) = @_;
	my $result = $session->run('SELECT nats_wal_enable()');
	like($result->{error}, qr/WARNING: .*changes and messages in the WAL were lost/, "$what: enabling it again says that messages are lost");
	like($result->{error}, $loss, 'from where to where');
	is($session->value('SELECT lost_to IS NOT NULL AND lost_at IS NOT NULL FROM nats_wal'), 't', 'which is kept');
	my $there = in_stream();
	$session->value(q(SELECT nats_publish_outbox('k.again', '{}'::jsonb)));
	wait_for('a message', sub { in_stream() > $there });
	pass('it goes on');
	return;
}

{
	wait_until_confirmed();
	stop_relays();
	$session->value(q(SELECT nats_publish_outbox('k.lost', '{}'::jsonb)));
	$session->value(q(SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots));
	my $offset = log_length($node);
	start_relays();
	wait_for('a line in the log', sub { log_lines($node, $offset, qr/LOG:  nats_publish relay cannot read the WAL: there is no replication slot "\w+"/) });
	pass('that the slot is missed is in the log');
	like($session->error(q(SELECT nats_publish_outbox('k.x', 'x'))), qr/55000: .*There is no replication slot/s, 'without its slot, a message is an error');
	enable_again('dropped', qr{committed (between [0-9A-F/]+ and|before) [0-9A-F]+/[0-9A-F]+});
}

# It has lost WAL

{
	wait_until_confirmed();
	stop_relays();
	reconfigure($node, max_slot_wal_keep_size => '1MB');
	$session->value(q(SELECT nats_publish_outbox('k.lost', '{}'::jsonb)));
	wait_for('the slot to be lost', sub {
		$session->value(q(SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 20)));
		$session->value('SELECT pg_switch_wal()');
		$session->value('CHECKPOINT');
		slot_column('wal_status') eq 'lost';
	}, $LONG);
	my $offset = log_length($node);
	start_relays();
	like($session->error(q(SELECT nats_publish_outbox('k.x', 'x'))), qr/55000: .*has lost WAL/s, 'with a slot that has lost WAL, a message is an error');
	wait_for('a line in the log', sub { log_lines($node, $offset, qr/LOG:  nats_publish WAL relay has nothing to read: replication slot "\w+" has lost WAL/) });
	pass('the log says so');
	reconfigure($node, max_slot_wal_keep_size => undef);
	enable_again('lost', qr{committed between [0-9A-F]+/[0-9A-F]+ and [0-9A-F]+/[0-9A-F]+ will not be published});
}

is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal (?!9)/) ], [], 'nothing has crashed by itself');
$session->close;
$node->stop;

# What a standby does not have yet is not published: after a failover, it would never have been

sub is_published_with_standby
{
	my ($what, $primary, $standby) = @_;
	my $writer = PsqlSession->new($primary);
	my $there = in_stream();
	my $receiver = $standby->safe_psql('postgres', q(SELECT pid FROM pg_stat_wal_receiver));
	kill('STOP', $receiver) == 1 or die "no walreceiver to stop: $!";
	$writer->begin(qq(SELECT nats_publish_outbox('k.standby', '"$what"'::jsonb)));
	sleep 2;
	is(in_stream(), $there, "$what: what the standby does not have is not published");
	kill('CONT', $receiver) == 1 or die "no walreceiver to continue: $!";
	is($writer->finish($LONG)->{error}, '', 'it goes on');
	wait_for('the message', sub { in_stream() == $there + 1 }, $LONG);
	pass('and is published then');
	$writer->close;
	return;
}

{
	my $primary = PostgreSQL::Test::Cluster->new('primary');
	my ($version) = $primary->pg_version =~ /^(\d+)/;
	my %settings = (
		shared_preload_libraries => 'nats_publish',
		'nats_publish.relay_databases' => 'postgres',
		'nats_publish.url' => $nats->url,
		'nats_publish.outbox_storage' => 'wal',
		'nats_publish.connect_timeout' => '30s');
	$primary->init(allows_streaming => 'logical');
	$primary->append_conf('postgresql.conf', join '', map { "$_ = '$settings{$_}'\n" } sort keys %settings);
	$primary->start;
	$primary->safe_psql('postgres', q(CREATE EXTENSION nats_publish; SELECT pg_create_physical_replication_slot('standby')));
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "primary_slot_name = 'standby'");
	$standby->start;
	my $on_primary = PsqlSession->new($primary);
	wake_relay($on_primary);
	wait_for_state($on_primary, 'idle');
	$on_primary->value('SELECT nats_wal_enable()');
	like(PsqlSession->new($standby)->error('SELECT nats_wal_enable()'), qr/25006: cannot execute nats_wal_enable\(\) during recovery/, 'not on a standby');
	reconfigure($primary, synchronous_standby_names => '*');
	wait_for('a synchronous standby', sub { $on_primary->value('SELECT sync_state FROM pg_stat_replication') eq 'sync' }, $LONG);
	is_published_with_standby('a synchronous standby', $primary, $standby);
	reconfigure($primary, synchronous_standby_names => '');
	if ($version >= 17)
	{
		reconfigure($primary, synchronized_standby_slots => 'standby');
		is_published_with_standby('synchronized_standby_slots', $primary, $standby);
	}
	$on_primary->close;
}

done_testing();
