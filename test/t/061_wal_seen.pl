
# What is seen of the WAL that is published: the view, the doctor, wait events, and how far a large transaction is.

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

my $LONG = 60;

my ($nats, $client) = nats_with_stream('W', ['w.>'], storage => 'file');
my $primary = PostgreSQL::Test::Cluster->new('main');
$primary->init(allows_streaming => 'logical');
$primary->append_conf('postgresql.conf', join "\n", "nats_publish.url = '" . $nats->url . "'", q(shared_preload_libraries = 'nats_publish'),
	q(nats_publish.relay_databases = 'postgres'), '');
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION nats_publish; CREATE ROLE monitor LOGIN IN ROLE pg_monitor; CREATE ROLE nobody LOGIN');
my $version = $primary->pg_version;
my $session = PsqlSession->new($primary);
my $viewer = PsqlSession->new($primary, user => 'monitor');
wake_relay($session);
wait_for_state($session, 'idle');

sub column { return $viewer->value("SELECT $_[0] FROM nats_wal_relay WHERE datname = 'postgres'"); }
sub publish { return $session->value(qq(SET nats_publish.outbox_storage = wal; $_[0]; RESET nats_publish.outbox_storage)); }

sub wait_for_column
{
	my ($expression, $value) = @_;
	return wait_for("$expression = $value", sub { column($expression) eq $value }, $LONG);
}

sub sleeps
{
	my ($what) = @_;
	my $pid = column('pid');
	my $ticks = process_ticks($pid);
	sleep 2;
	cmp_ok(process_ticks($pid) - $ticks, '<', 50, "$what sleeps");
	return;
}

# So that the connection is not asked for whether it is there.
sub publish_fresh
{
	my $before = column('published');
	PsqlSession->new($primary, settings => { 'nats_publish.outbox_storage' => 'wal' })->value(q(SELECT nats_publish_outbox('w.a', 'fresh')));
	return wait_for_column('published', $before + 1);
}

# Of the doctor, the row of the WAL: its status, and that its detail is like that.
sub finds
{
	my ($status, $detail, $name, $on) = @_;
	my ($got, $text) = split /\|/, ($on // $session)->value(q(SELECT status, detail FROM nats_check() WHERE check_name = 'wal')), 2;
	is($got, $status, "the doctor, $name: $status") or diag($text);
	like($text, $detail, "the doctor, $name");
	return;
}

sub wait_until_found
{
	my ($detail) = @_;
	return wait_for("the doctor to say $detail", sub {
		$session->value(q(SELECT detail FROM nats_check() WHERE check_name = 'wal')) =~ $detail;
	}, $LONG);
}

# Off

is(column('count(*)'), '0', 'nothing is seen of a WAL that is not published');
finds('ok', qr/^The WAL of this database is not published, and nothing needs it to be\.$/, 'nothing needs it');
$session->value('SET nats_publish.outbox_storage = wal');
finds('failed', qr/^nats_publish\.outbox_storage is wal, but .* Call nats_wal_enable\(\)\.$/, 'something does');
$session->value('RESET nats_publish.outbox_storage');

# On

$session->value('SELECT nats_wal_enable()');
wait_for_column('state', 'idle');
finds('ok', qr/^The relay of the WAL is idle\. It keeps \d+ MB of WAL\.$/, 'on');
like(column('slot'), qr/^nats_publish_\d+$/, 'the slot');
is(column(q(wal_status || ' ' || (pid IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'nats_publish WAL relay')))), 'reserved true', 'its state, and the process');
is(column('ordering'), 'by subject', 'how order is kept');
is(column('failover'), $version >= 17 ? 't' : '', 'failover is known where there is one');
$session->value(q(CREATE TABLE t (a int PRIMARY KEY, b text); SELECT nats_publish_table('t', 'w.t.{a}', delivery => 'wal')));
publish(q(INSERT INTO t VALUES (1); SELECT nats_publish_outbox('w.a', 'x')));
wait_for_column('published', '2');
is(column('queued + queued_bytes + decoded + diverted + dead + forged'), '0', 'all is done');
is(column('last_success > now() - interval \'1 min\''), 't', 'and when');
my $written = $session->value('SELECT pg_current_wal_insert_lsn()');
$session->value('CHECKPOINT');
wait_for('the position to follow', sub { column("confirmed_lsn >= '$written'") eq 't' }, $LONG);
is(column('behind_bytes >= 0 AND behind_bytes < 100000 AND kept_bytes >= behind_bytes'), 't', 'bytes behind, and kept');
is(column("confirmed_lsn >= (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = slot)"), 't', 'not behind what PostgreSQL knows');
like(PsqlSession->new($primary, user => 'nobody')->error('SELECT FROM nats_wal_relay'), qr/42501: permission denied/, 'not everybody sees it');
is($session->value(q(SELECT a.state FROM nats_publish_activity AS a JOIN nats_wal_relay AS r USING (pid))), 'connected', 'it is among those who publish');

sub wait_event { return $session->value(q(SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'nats_publish WAL relay')); }

if ($version >= 17)
{
	ok(wait_for('NatsRelay', sub { wait_event() eq 'NatsRelay' }), 'it waits for something to do');
}

# A message of somebody else

$session->value(q(SELECT pg_logical_emit_message(true, 'nats_publish', 'forged')));
wait_for_column('forged', '1');
finds('warning', qr/1 message in the WAL had the prefix of nats_publish, but was not written by its functions: left out/, 'a forged message');

# A large transaction that publishes nothing: what was committed before it goes out while it is decoded, by what the server says of when.

{
	my $large = PsqlSession->new($primary);
	$session->value('CREATE TABLE quiet (a int)');
	$large->value('BEGIN; INSERT INTO quiet SELECT generate_series(1, 1000000)');
	publish_fresh();
	my $pid = column('pid');
	kill('STOP', $pid) == 1 or die "no relay to stop: $!";
	publish(q(SELECT count(nats_publish_outbox('w.early', i::text)) FROM generate_series(1, 5) AS i));
	$large->value('COMMIT');
	publish(q(SELECT nats_publish_outbox('w.late', '1')));
	my ($count, $begun) = (column('published'), time);
	kill('CONT', $pid) == 1 or die "no relay to continue: $!";
	wait_for_column('published', $count + 6);
	my %stored = map { $_->{subject} => $_->{stored_at} / 1e9 } NatsClient->new(url => $nats->url)->consume('W');
	my ($early, $late) = map { $stored{$_} - $begun } 'w.early', 'w.late';
	diag sprintf 'early: %.3f s, late: %.3f s', $early, $late;
	cmp_ok($early, '<', $late / 2, 'a large transaction that publishes nothing holds up nothing that is before it');
}

# A large transaction

my $xid = $session->value(q(BEGIN; SELECT txid_current() % 4294967296));
$session->value(q(INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(2, 200001) AS i));
# a server that was silent for long is asked whether it is there, and a connection in vain is lost
publish_fresh();
my $before = column('published');
$nats->stall;
$session->value('COMMIT');
ok(wait_for('it to be decoded', sub { column("decoding = '$xid' AND decoded > 1000 AND queued > 1000 AND queued_bytes > 100000") eq 't' }, $LONG),
	'how much of a large transaction is decoded is seen while it is');
is(column('kept_bytes > 20000000'), 't', 'and that the WAL is kept for it');
if ($version >= 17)
{
	ok(wait_for('NatsAck', sub { wait_event() eq 'NatsAck' }, $LONG), 'it waits for NATS');
}
$nats->resume;
wait_for_column('published', $before + 200000);
is(column("decoding IS NULL AND decoded = 0 AND queued = 0"), 't', 'and that it is over');

# Somebody advances the slot, which is free in the pause after an error, while a transaction is half decoded

{
	$session->value(q(BEGIN; UPDATE t SET b = 'y' WHERE a > 1));
	publish_fresh();
	$nats->stall;
	$session->value('COMMIT');
	wait_for_column('decoded > 1000', 't');
	my $pid = column('pid');
	wait_for('the slot to be free', sub {
		$session->value("SELECT pg_cancel_backend($pid)");
		my $end = time + 0.2;
		while (time < $end)
		{
			return 1 if $session->error('SELECT pg_replication_slot_advance(slot, pg_current_wal_flush_lsn()) FROM nats_wal_relay') eq '';
		}
		return 0;
	}, $LONG);
	is(column('queued > 0'), 't', 'a part of it is decoded');
	ok(wait_for_column(q(lost_from < lost_to AND last_error ~ 'was advanced, or made anew, by somebody else'), 't'), 'and that the rest is lost is seen');
	$session->value('UPDATE nats_wal SET lost_from = NULL, lost_to = NULL, lost_at = NULL');
	$nats->resume;
	wait_for_column('queued', 0);
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	publish_fresh();
	ok(wait_for_column("confirmed_lsn > '$lsn'", 't'), 'the position goes on behind it');
}

# Without NATS

$nats->stop;
publish(q(SELECT nats_publish_outbox('w.a', 'x')));
wait_for_column('state', 'waiting');
finds('warning', qr/^The relay of the WAL is waiting\. Check that NATS runs.*Its last error: /, 'without NATS');
ok(wait_for_column(q(last_error <> '' AND last_error_at > now() - interval '1 min' AND queued = 1), 't'), 'its error, and what waits');
reconfigure($primary, 'nats_publish.wal_divert_after' => '1s');
wait_for_column('state', 'diverting');
wait_for_column('diverted', '1');
finds('warning', qr/^The relay of the WAL is diverting\. It could not publish in time, and moves what it reads to nats_outbox\./, 'diverting');
$nats->start;
wait_until_drained($session, $LONG);
reconfigure($primary, 'nats_publish.wal_divert_after' => undef);
wait_for_column('state', 'idle');

# A standby

$session->value(q(CREATE TABLE seen (id int PRIMARY KEY); SELECT nats_publish_table('seen', delivery => 'wal')));
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);
finds('warning', qr/^This is a standby without the replication slot: .*[Cc]all nats_wal_enable\(\) here once it is promoted\.$/, 'on a standby', PsqlSession->new($standby));
is(PsqlSession->new($standby)->value(q(SELECT status FROM nats_check() WHERE check_name = 'changes')), 'ok', 'its published tables lack nothing');
$session->value('DROP TABLE seen');
is(PsqlSession->new($standby)->value('SELECT state FROM nats_wal_relay'), 'standby', 'the view there');
$standby->stop;
$session->value(q(SELECT pg_create_physical_replication_slot('standby')));
if ($version >= 17)
{
	finds('warning', qr/There are standbys, and none is waited for: .*Name their slots in synchronized_standby_slots\./, 'with a standby');
	reconfigure($primary, synchronized_standby_slots => 'standby');
	# a session sees that at its next statement
	wait_for('the setting', sub { $session->value('SHOW synchronized_standby_slots') eq 'standby' });
	# a warning all the same, for the message that was forged above
	finds('warning', qr/It keeps \d+ MB of WAL\. Standbys keep it\.$/, 'with a standby that is waited for');
	reconfigure($primary, synchronized_standby_slots => undef);
}
else
{
	finds('warning', qr/There are standbys, and they do not have the replication slot: .*PostgreSQL 17 and later keep slots on standbys\./, 'with a standby');
}
$session->value(q(SELECT pg_drop_replication_slot('standby')));

# WAL that is kept

sub write_wal { $session->value(qq(SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, $_[0]))); return; }

my $open = PsqlSession->new($primary);
$open->value('BEGIN; SELECT txid_current()');
reconfigure($primary, max_slot_wal_keep_size => '64MB');
write_wal(48);
wait_until_found(qr/It keeps [3-9]\d MB of WAL, and is lost beyond the 64 MB of max_slot_wal_keep_size\./);
is(column(q(kept_bytes BETWEEN 40000000 AND 90000000 AND safe_bytes > 0)), 't', 'so much is kept, and how much more can be');
$open->value('COMMIT');

# A relay that does not run, and a slot that has lost WAL

reconfigure($primary, 'nats_publish.relay_databases' => '');
wait_for_column('state', 'no relay');
finds('failed', qr/^There is a replication slot, but no relay reads it, so WAL is kept for nothing\./, 'without a relay');
reconfigure($primary, max_slot_wal_keep_size => '1MB');
wait_for('the slot to be lost', sub {
	write_wal(20);
	$session->value('SELECT pg_switch_wal(); CHECKPOINT');
	column('wal_status') eq 'lost';
}, $LONG);
finds('failed', qr/^Replication slot "nats_publish_\d+" has lost WAL: .* 1 table of delivery wal is not published\. Call nats_wal_enable\(\)\.$/, 'WAL is lost');
is(column('invalidation_reason'), $version >= 17 ? 'wal_removed' : '', 'why is known since 17');
reconfigure($primary, 'nats_publish.relay_databases' => 'postgres', max_slot_wal_keep_size => undef);
wait_for_column('state', 'no slot');
# it was woken before this worker began
sleeps('a relay without a slot');
like($session->error('SELECT nats_wal_enable()'), qr/WARNING: .*changes and messages in the WAL were lost/, 'it begins anew');
wait_for_column('state', 'idle');
is(column('lost_from < lost_to AND lost_at > now() - interval \'1 min\''), 't', 'what was lost is seen');
finds('warning', qr{What was committed between [0-9A-F]+/[0-9A-F]+ and [0-9A-F]+/[0-9A-F]+ and not published before was lost: see nats_wal_relay\.$}, 'afterwards');

# A slot that is advanced, or made anew, while the relay does not run

sub while_off
{
	my ($sql) = @_;
	reconfigure($primary, 'nats_publish.relay_databases' => '');
	wait_for_column('state', 'no relay');
	my $offset = log_length($primary);
	$session->value('UPDATE nats_wal SET lost_from = NULL, lost_to = NULL, lost_at = NULL');
	write_wal(1);
	$session->value($sql) if $sql ne '';
	reconfigure($primary, 'nats_publish.relay_databases' => 'postgres');
	wait_for_column('state', 'idle');
	return join ' ', scalar(log_lines($primary, $offset, qr/WARNING: +\w*:? *replication slot "nats_publish_\d+" was advanced, or made anew, by somebody else/)),
		column(q(coalesce(lost_from < lost_to AND lost_at > now() - interval '1 min', false))), column(q(coalesce(last_error ~ 'by somebody else', false)));
}
my $slot = column('slot');
is(while_off(''), '0 f f', 'a slot that is where it was left is not worth a word');
is(while_off("SELECT pg_replication_slot_advance('$slot', pg_current_wal_lsn())"), '1 t t', 'one that was advanced is');
is(while_off("SELECT pg_drop_replication_slot('$slot'), pg_create_logical_replication_slot('$slot', 'pgoutput')"), '1 t t', 'and so is another one of that name');
$session->value('SELECT nats_wal_disable(); SELECT nats_wal_enable()');
# one that has not begun yet would not be ended below
wait_for_column('state', 'idle');
my $launcher = launcher_pid($session);
kill('STOP', $launcher) == 1 or die "no launcher to stop: $!";
$session->value('SELECT pg_terminate_backend(pid, 10000) FROM nats_wal_relay');
write_wal(1);
$session->value("SELECT pg_replication_slot_advance('$slot', pg_current_wal_lsn())");
write_wal(1);
$session->begin('SELECT nats_wal_disable()');
sleep 0.5;
kill('CONT', $launcher) == 1 or die "no launcher to continue: $!";
is($session->finish($LONG)->{error}, '', 'who switches it off then waits for a relay that does not wait for that');
$session->value('SELECT nats_wal_enable()');
is(while_off(''), '0 f f', 'but not what is switched off and on');
$session->value('SELECT nats_wal_disable()');
write_wal(1);
$session->value('BEGIN; SELECT nats_wal_enable(); ROLLBACK');
write_wal(1);
$session->value('SELECT nats_wal_enable()');
is(while_off(''), '0 f f', 'nor what was made by a call that was rolled back');

# A slot that is dropped behind our back

reconfigure($primary, 'nats_publish.relay_databases' => '');
wait_for_column('state', 'no relay');
$session->value('SELECT pg_drop_replication_slot(slot) FROM nats_wal_relay');
is(column('state'), 'no slot', 'without its slot, it is still seen');
finds('failed', qr/^Replication slot "nats_publish_\d+", which nats_wal_enable\(\) has made, is gone: /, 'the slot was dropped');
reconfigure($primary, 'nats_publish.relay_databases' => 'postgres');
wait_for_state($session, 'idle');
$session->value('SELECT nats_wal_disable()');
finds('failed', qr/^1 table of delivery wal is not published\. Call nats_wal_enable\(\)\./, 'off, and still needed');
ok(wait_for_column('count(*)', '0'), 'no more, when it is switched off');

# One that is not ours

$session->value(q(SELECT pg_create_logical_replication_slot('nats_publish_' || oid, 'pgoutput') FROM pg_database WHERE datname = current_database()));
wait_until_found(qr/^Replication slot "nats_publish_\d+" was not made by nats_wal_enable\(\) of this extension, and keeps WAL\./);
pass('a slot that nats_wal_enable() did not make');

done_testing();
