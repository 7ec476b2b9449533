
# A primary dies under load, and its standby is promoted: what the stream has then, with a replication slot that standbys keep
# (PostgreSQL 17), and what is said where there is none.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $CLIENTS = 3;
my $LONG = 300;    # seconds: for what is a matter of seconds on an idle machine

my $nats = NatsServer->new(jetstream => 1)->start;

sub client { return NatsClient->new(url => $nats->url); }
sub in_stream { return client()->stream_info('K')->{state}{messages}; }

# Each number is a changed row, and a message of the outbox.
my $SETUP = q(
	CREATE EXTENSION nats_publish;
	CREATE SEQUENCE numbers;
	CREATE TABLE events (client int, number bigint PRIMARY KEY);
	CREATE FUNCTION write(client int, much int) RETURNS bigint LANGUAGE sql AS $$
		WITH new AS (INSERT INTO events SELECT client, nextval('numbers') FROM generate_series(1, much) RETURNING number)
		SELECT count(nats_publish_outbox('k.outbox.' || client, to_jsonb(number))) FROM new $$;
	CREATE PROCEDURE load(client int) LANGUAGE plpgsql AS $$
		BEGIN
			LOOP
				PERFORM write(client, (random() * 30)::int);
				IF random() < 0.2 THEN ROLLBACK; ELSE COMMIT; END IF;
				PERFORM pg_sleep(random() * 0.02);
			END LOOP;
		END $$;
	SELECT pg_create_physical_replication_slot('standby'));

sub begin_load
{
	my ($node) = @_;
	my @clients = map { PsqlSession->new($node) } 1 .. $CLIENTS;
	$clients[ $_ - 1 ]->begin("CALL load($_)") foreach 1 .. $CLIENTS;
	return @clients;
}

sub end_load
{
	my (@clients) = @_;
	$_->interrupt foreach @clients;
	$_->finish($LONG) foreach @clients;
	$_->close foreach @clients;
	return;
}

sub process
{
	my ($node, $type) = @_;
	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
}

sub send_signal
{
	my ($signal, @pids) = @_;
	kill($signal, @pids) == @pids or die "no process to signal: $!";
	return;
}

sub events { return $_[0]->safe_psql('postgres', 'SELECT count(*) FROM events'); }

# A primary, and a standby with these settings.
sub pair
{
	my ($name, %settings) = @_;
	my $primary = PostgreSQL::Test::Cluster->new("${name}_primary");
	$primary->init(allows_streaming => 'logical');
	$primary->append_conf('postgresql.conf', join '', map { "$_\n" } "nats_publish.url = '" . $nats->url . "'", q(shared_preload_libraries = 'nats_publish'),
		q(nats_publish.relay_databases = 'postgres'), q(nats_publish.connect_timeout = '30s'), 'nats_publish.outbox_storage = wal', 'log_statement = none');
	$primary->start;
	$primary->safe_psql('postgres', $SETUP);
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new("${name}_standby");
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$settings{primary_slot_name} = 'standby';
	$settings{primary_conninfo} = $primary->connstr('postgres') . " application_name=standby";
	$standby->append_conf('postgresql.conf', join '', map { "$_ = '" . $settings{$_} =~ s/'/''/gr . "'\n" } sort keys %settings);
	$standby->start;
	return ($primary, $standby);
}

sub enable
{
	my ($node) = @_;
	my $session = PsqlSession->new($node);
	wake_relay($session);
	wait_for_state($session, 'idle');
	my $said = $session->run('SELECT nats_wal_enable()')->{error};
	$session->value(q(SELECT nats_publish_table('events', 'k.change.{client}', delivery => 'wal', events => '{insert}')));
	wait_for('a relay of the WAL', sub { process($node, 'nats_publish WAL relay') ne '' });
	$session->close;
	return $said;
}

# The primary dies: with WAL that is published, WAL that the standby has and that is not, if the relay is hindered, and WAL that
# the standby does not have.  With a slot, the standby knows nothing of how much was published meanwhile.
sub fail_over
{
	my ($primary, $standby, $has_slot) = @_;
	my @clients = begin_load($primary);
	wait_for('messages', sub { in_stream() > 1000 }, $LONG);
	my $relay = process($primary, 'nats_publish WAL relay');
	my $hindered = $has_slot ? process($standby, 'slotsync worker') : $relay;
	send_signal('STOP', $hindered);
	my $published = in_stream();
	my $there = events($primary);
	wait_for('more on the standby', sub { events($standby) > $there + 500 }, $LONG);
	my $receiver = process($standby, 'walreceiver');
	send_signal('STOP', $receiver);
	my $received = $standby->safe_psql('postgres', 'SELECT flushed_lsn FROM pg_stat_wal_receiver');
	wait_for('WAL that it does not have',
		sub { $primary->safe_psql('postgres', "SELECT pg_current_wal_flush_lsn() > '$received'::pg_lsn + 10000") eq 't' }, $LONG);
	sleep 1;
	my @processes = split /\n/, $primary->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()));
	$primary->kill9;
	send_signal('KILL', $relay) unless $has_slot;
	wait_for('the end of all processes', sub { !grep { process_is_there($_) } @processes }, $LONG);
	$_->kill foreach @clients;
	send_signal('CONT', $receiver, $has_slot ? $hindered : ());
	$standby->promote;
	return $published;
}

sub wait_until_confirmed
{
	my ($node) = @_;
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	return wait_for('the position', sub {
		$node->safe_psql('postgres', "SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE slot_name LIKE 'nats_publish%'") eq 't';
	}, $LONG);
}

# What is in the stream, and what is to be.
sub read_stream
{
	my ($node) = @_;
	wait_until_confirmed($node);
	stream_to_table(client(), 'K', $node, 'postgres', 'stream');
	$node->safe_psql('postgres', q(
		CREATE VIEW stored AS SELECT seq, subject, coalesce(payload #>> '{new,number}', payload #>> '{}')::bigint AS number FROM stream;
		CREATE VIEW expected AS SELECT 'k.' || kind || '.' || client AS subject, number FROM events, (VALUES ('change'), ('outbox')) AS kinds (kind)));
	return;
}

sub check_stream
{
	my ($node, $what) = @_;
	my ($these, $those) = map { "SELECT subject, number FROM $_" } 'stored', 'expected';
	is($node->safe_psql('postgres', "SELECT count(*) FROM ($these EXCEPT ALL $those) AS surplus"), '0', "$what: nothing is in the stream twice, or was never committed");
	is($node->safe_psql('postgres', q(SELECT count(*) FROM (SELECT number < lag(number) OVER (PARTITION BY subject ORDER BY seq) AS is_late
		FROM stored) AS messages WHERE is_late)), '0', 'those of a subject are in the order of the commits');
	return;
}

# A load goes on for so many messages.
sub load_more
{
	my ($node, $count) = @_;
	my $before = in_stream();
	my @clients = begin_load($node);
	wait_for('messages', sub { in_stream() > $before + $count }, $LONG);
	end_load(@clients);
	return;
}

sub new_stream
{
	my $client = client();
	eval { $client->delete_stream('K') };
	$client->create_stream('K', ['k.>'], storage => 'file', duplicate_window => 20 * 60 * 1_000_000_000);
	return;
}

sub doctor { return $_[0]->value(q(SELECT status || ' ' || detail FROM nats_check() WHERE check_name = 'wal')); }

# ---- Without a slot

new_stream();
my ($primary, $standby) = pair('without');
my ($version) = $primary->pg_version =~ /^(\d+)/;
reconfigure($primary, synchronous_standby_names => '*');
my $said = enable($primary);
if ($version < 17)
{
	like($said, qr/WARNING: .*a standby that is promoted does not have the replication slot/, 'when it is switched on, it is said what becomes of it');
}
# it reads what nats_wal_enable() has written
$primary->wait_for_catchup('standby');
like(doctor(PsqlSession->new($standby)), qr/^warning This is a standby without the replication slot/, 'the doctor says it on the standby');
my ($exported) = slurp_file("$FindBin::RealBin/../../doc/nats_publish_exporter.yaml") =~ /(SELECT [^%\$]*AS usable,[^%]*FROM) %1\$I\.nats_wal_relay/;
is($standby->safe_psql('postgres', "SELECT running IS NULL, usable IS NULL FROM ($exported nats_wal_relay) AS exported"), 't|t', 'and no alert comes of it');

# A message is refused, and moved to nats_outbox when the standby has its transaction and does not have that
{
	my ($holder, $writer) = map { PsqlSession->new($primary) } 1 .. 2;
	my $confirmed = sub { $writer->value("SELECT confirmed_flush_lsn >= '$_[0]' FROM pg_replication_slots WHERE slot_name LIKE 'nats_publish%'") };
	$holder->value('BEGIN; LOCK TABLE nats_outbox IN SHARE MODE');
	$writer->value(q(SELECT nats_publish_outbox('k.refused', '1', '{"Nats-Expected-Stream": "OTHER"}')));
	my $lsn = $writer->value('SELECT pg_current_wal_insert_lsn()');
	$primary->wait_for_catchup('standby', 'flush', $lsn);
	wait_for('an attempt to move it', sub { $writer->value(q(SELECT count(*) FROM pg_locks WHERE relation = 'nats_outbox'::regclass AND NOT granted)) > 0 });
	my $receiver = process($standby, 'walreceiver');
	send_signal('STOP', $receiver);
	$holder->value('ROLLBACK');
	wait_for('it to be moved', sub { $writer->value('SELECT count(*) FROM nats_outbox') == 1 });
	sleep 2;
	is($confirmed->($lsn), 'f', 'what is moved is not confirmed before the standby has it');
	send_signal('CONT', $receiver);
	ok(wait_for('the position', sub { $confirmed->($lsn) eq 't' }), 'and then is');
	$writer->value('DELETE FROM nats_outbox');
}

my $offset = log_length($standby);
my $published = fail_over($primary, $standby, 0);
my $session = PsqlSession->new($standby);
wait_for('a line in the log', sub { log_lines($standby, $offset, qr/LOG:  nats_publish relay cannot read the WAL: there is no replication slot "nats_publish_\d+"/) }, $LONG);
pass('once it is promoted, the log says that the slot is missed');
is($session->value(q(SELECT state FROM nats_wal_relay)), 'no slot', 'so does the view');
like(doctor($session), qr/^failed Replication slot "nats_publish_\d+", which nats_wal_enable\(\) has made, is gone/, 'and the doctor');
like($session->error('SELECT write(0, 1)'), qr/55000: cannot write to the outbox in the WAL.*There is no replication slot/s, 'a message of the outbox is an error');
like($session->error('SELECT nats_wal_enable()'), qr{WARNING: .*changes and messages in the WAL were lost.*committed before [0-9A-F]+/[0-9A-F]+ and not published will not be published}s,
	'it begins anew, and says that something is lost');
is($session->value('SELECT lost_to IS NOT NULL FROM nats_wal_relay'), 't', 'which is kept');
my $lost_to = $session->value('SELECT max(number) FROM events');
load_more($standby, 1000);
read_stream($standby);
check_stream($standby, 'without a slot');
$session->value('CREATE VIEW missing AS SELECT subject, number FROM expected EXCEPT SELECT subject, number FROM stored');
cmp_ok($session->value('SELECT count(*) FROM missing'), '>=', 1000, 'what was not published yet is lost');
cmp_ok(in_stream(), '>=', $published + 1000, 'what was published is not');
is($session->value("SELECT count(*) FROM missing WHERE number > $lost_to"), '0', 'and all of what was committed behind that is published');
is($session->value("SELECT count(*) FROM stored JOIN missing AS m USING (subject) WHERE m.number < stored.number AND stored.number <= $lost_to"), '0',
	'of a subject, nothing is left out but the end');
$session->close;
$standby->stop;

# ---- With a slot that standbys keep

sub is_synchronized
{
	return $_[0]->safe_psql('postgres', q(SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary AND invalidation_reason IS NULL
		AND slot_name LIKE 'nats_publish%')) eq '1';
}

SKIP:
{
	skip 'PostgreSQL keeps slots on standbys from 17 on', 1 if $version < 17;
	new_stream();
	# standbys that the new primary does not have, as in the old one's configuration
	my ($primary, $standby) = pair('kept', sync_replication_slots => 'on', hot_standby_feedback => 'on', synchronized_standby_slots => 'standby');
	reconfigure($primary, synchronized_standby_slots => 'standby');
	is(enable($primary), '', 'switched on without a warning');
	wait_for('the slot on the standby', sub { is_synchronized($standby) }, $LONG);
	$primary->wait_for_catchup('standby');
	like(doctor(PsqlSession->new($standby)), qr/^ok This is a standby, and has the replication slot/, 'the doctor says it on the standby');
	my $offset = log_length($standby);
	fail_over($primary, $standby, 1);
	my $session = PsqlSession->new($standby);
	$session->value('SELECT write(1, 1)');
	wait_for('its state', sub { $session->value('SELECT state FROM nats_wal_relay') eq 'waiting for standbys' }, $LONG);
	pass('a primary without the standbys that it is to wait for says so');
	like(doctor($session), qr/^warning The relay of the WAL is waiting for standbys\. /, 'so does the doctor');
	is(scalar(log_lines($standby, $offset, qr/nats_publish WAL relay waits for standbys/)), 1, 'and, once, the log');
	reconfigure($standby, synchronized_standby_slots => '');
	load_more($standby, 1000);
	read_stream($standby);
	check_stream($standby, 'with a slot');
	is($session->value('SELECT count(*) FROM (SELECT subject, number FROM expected EXCEPT ALL SELECT subject, number FROM stored) AS missing'), '0',
		'all that the new primary has is in the stream, once');
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'none is dead');
	$session->close;
	is_deeply([ log_lines($standby, 0, qr/PANIC|terminated by signal/) ], [], 'nothing has crashed');
}

done_testing();
