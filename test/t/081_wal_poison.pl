
# What is wrong with one change, and is wrong each time it is decoded, holds up nothing: neither other changes nor the slot.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('W', ['w.>']);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	wal_level => 'logical',
	'nats_publish.outbox_storage' => 'wal',
	# a message that is moved to the table and tried there again would hide what happened
	'nats_publish.relay_max_attempts' => 1);
my $session = PsqlSession->new($node, settings => { client_min_messages => 'warning' });
$session->value('SELECT nats_wal_enable()');

sub wait_for_wal
{
	my $position = $session->value('SELECT pg_current_wal_insert_lsn()');
	return ok(eval { wait_for("the WAL up to $position",
		sub { $session->value("SELECT confirmed_flush_lsn >= '$position' FROM pg_replication_slots WHERE slot_name ~ '^nats_publish_'") eq 't' }, 60) }, $_[0]);
}

sub stored_subjects { return join ' ', map { $_->{subject} } $client->consume('W'); }

# Not while more may come: what comes in between is purged unseen.
sub subjects { my $subjects = stored_subjects(); $client->purge('W'); return $subjects; }

# In kB, since it began.
sub most_memory { return slurp_file("/proc/$_[0]/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 : die "no VmHWM"; }

sub dead
{
	my $rows = $session->value(q(SELECT string_agg(subject || ' ' || left(last_error, 5), ', ' ORDER BY id) FROM nats_outbox_dead));
	$session->value('DELETE FROM nats_outbox_dead');
	return $rows;
}

# Others' code that fails as the server does, of several rows, and of several transactions; and that does not come to an end.
$session->value(<<'END');
CREATE SEQUENCE numbers;
CREATE TYPE e AS ENUM ('good', 'memory', 'internal', 'endless', 'immortal', 'at first', 'later', 'conflict', 'locked', 'writes', 'takes an id', 'slow');
CREATE FUNCTION is_later() RETURNS bool LANGUAGE sql AS $$ SELECT EXISTS (SELECT FROM pg_lock_status() WHERE locktype = 'advisory' AND objid = 81) $$;
CREATE FUNCTION e_json(e) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
	CASE $1
		WHEN 'memory' THEN RAISE 'out of memory, it says' USING ERRCODE = '53200';
		WHEN 'conflict' THEN RAISE 'conflict, it says' USING ERRCODE = '40001';
		WHEN 'locked' THEN RAISE 'locked, it says' USING ERRCODE = '55P03';
		WHEN 'writes' THEN PERFORM nextval('public.numbers');
		WHEN 'takes an id' THEN PERFORM pg_current_xact_id();
		WHEN 'slow' THEN PERFORM pg_sleep(8);
		WHEN 'internal' THEN RAISE 'internal' USING ERRCODE = 'XX000';
		WHEN 'endless' THEN LOOP NULL; END LOOP;
		WHEN 'immortal' THEN LOOP BEGIN LOOP NULL; END LOOP; EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;
		-- a lock of the session's outlives the transaction that is decoded
		WHEN 'at first' THEN IF public.is_later() THEN RAISE 'later' USING ERRCODE = '22023'; END IF;
		WHEN 'later' THEN IF NOT public.is_later() THEN PERFORM pg_advisory_lock(81); RAISE 'at first' USING ERRCODE = '53200'; END IF;
		ELSE NULL;
	END CASE;
	RETURN to_json($1::text);
END $$;
CREATE CAST (e AS json) WITH FUNCTION e_json(e);
CREATE TABLE t (id int PRIMARY KEY, v e);
SELECT nats_publish_table('t', subject => 'w.t.{id}', delivery => 'wal');
END
$session->value(q(INSERT INTO t VALUES (1, 'memory'), (2, 'good'), (3, 'memory'), (4, 'internal'), (5, 'good')));
$session->value(qq(INSERT INTO t VALUES ($_, 'memory'))) foreach 6 .. 8;
$session->value(q(INSERT INTO t VALUES (9, 'good')));
wait_for_wal('changes of which others\' code says that the server is to blame');
is(subjects(), 'w.t.2 w.t.5 w.t.9', 'the others are published');
is(dead(), 'w.t.1 53200, w.t.3 53200, w.t.4 XX000, w.t.6 53200, w.t.7 53200, w.t.8 53200', 'those are dead');

$session->value(q(INSERT INTO t VALUES (10, 'endless'), (11, 'good')));
wait_for_wal('a change of which others\' code does not come to an end');
is(subjects(), 'w.t.11', 'another one is published');
is(dead(), 'w.t.10 57014', 'it is dead');

# Decoding begins again behind two messages of a change of which there are none the next time: what follows is not taken for them
$session->value(q(CREATE TABLE d (id int PRIMARY KEY, v e); SELECT nats_publish_table('d', subject => 'w.d.{id}', delivery => 'wal', format => 'debezium')));
$session->value(q(INSERT INTO d VALUES (1, 'at first')));
wait_for_wal('a change that can be published at first');
subjects();
$session->value(q(BEGIN; UPDATE d SET id = 2; INSERT INTO t VALUES (12, 'later'), (13, 'good'); COMMIT));
wait_for_wal('changes of which others\' code says another thing when they are decoded again');
is(subjects(), 'w.d.1 w.d.2 w.t.12 w.t.13', 'all are published');
is(dead(), '', 'and none is dead');

# Code that catches what cancels it ends with the process, once
$session->value(q(INSERT INTO t VALUES (14, 'immortal'), (15, 'good'), (16, 'immortal')));
$session->value(q(INSERT INTO d VALUES (3, 'good')));
wait_for_wal('a change of which others\' code does not let itself be canceled');
is(subjects(), 'w.d.3', 'other transactions are published');
is(dead(), 'public.t.insert 54000, public.t.insert 54000, public.t.insert 54000', 'those changes of this one are dead that need such code');

# Such a transaction id can't be given back, and ends decoding after all of its changes
$session->value(q(INSERT INTO t VALUES (17, 'writes'), (18, 'good')));
wait_for_wal('a change of which others\' code writes');
is(subjects(), 'w.t.18', 'another one is published');
is(dead(), 'w.t.17 25006', 'it is dead');
$session->value(q(BEGIN; INSERT INTO t VALUES (19, 'takes an id'); INSERT INTO d VALUES (4, 'good'); SELECT nats_publish_outbox('w.outbox', ''); COMMIT));
$session->value(q(INSERT INTO t VALUES (20, 'takes an id')));
$session->value(q(INSERT INTO t VALUES (21, 'good')));
wait_for_wal('changes of which others\' code takes a transaction id');
is(subjects(), 'w.outbox w.t.21', 'what does not need it is published, and other transactions');
is(dead(), 'public.t.insert 25006, public.d.insert 25006, public.t.insert 25006', 'those are dead');

# What others' code says each time that others are in the way
$session->value(qq(INSERT INTO t VALUES ($_, 'conflict'))) foreach 22 .. 24;
$session->value(qq(INSERT INTO t VALUES ($_, 'locked'))) foreach 25 .. 26;
$session->value(q(INSERT INTO t VALUES (27, 'good')));
wait_for_wal('changes of which others\' code says that others are to blame');
is(subjects(), 'w.t.27', 'another one is published');
is(dead(), 'w.t.22 40001, w.t.23 40001, w.t.24 40001, w.t.25 55P03, w.t.26 55P03', 'those are dead');

# There can be many changes for which others' code takes its time: what was committed before does not wait for them
{
	my $pid = $session->value('SELECT pid FROM nats_wal_relay');
	kill('STOP', $pid) == 1 or die "no relay to stop: $!";
	$session->value(q(SELECT nats_publish_outbox('w.before', '')));
	$session->value(q(INSERT INTO t SELECT i, 'slow' FROM generate_series(28, 33) i));
	$session->value(q(INSERT INTO t VALUES (34, 'good')));
	kill('CONT', $pid);
	# all of it takes 32 s
	my $started = time;
	wait_for('a message', sub { stored_subjects() =~ /w\.before/ });
	cmp_ok(time - $started, '<', 4, 'what was committed before does not wait for the first of them');
	ok(eval { wait_for('messages', sub { stored_subjects() =~ /w\.t\.28/ }, 20) }, 'neither does what is decoded wait for the rest');
	wait_for_wal('many changes of which others\' code takes its time');
	is(subjects(), 'w.before w.t.28 w.t.29 w.t.30 w.t.31 w.t.34', 'as far as that is for a transaction, they are published, and another one');
	is(dead(), 'public.t.insert 54000, public.t.insert 54000', 'the rest of them is dead');
}

# Nor does a condition take as long as it likes
$session->value(q(CREATE TABLE f (id int PRIMARY KEY, s text, p text);
	CREATE TRIGGER f AFTER INSERT ON f FOR EACH ROW WHEN (NEW.s ~ NEW.p) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.f.{id}');
	CREATE TABLE g (id int PRIMARY KEY);
	CREATE TRIGGER g AFTER INSERT ON g FOR EACH ROW WHEN (repeat('x', 2000) || 'z' ~ '(.+)(.+)(.+)\3\2\1zz?$') EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.g.{id}');
	ALTER TABLE f DISABLE TRIGGER f; ALTER TABLE g DISABLE TRIGGER g));
$session->value(q(INSERT INTO f VALUES (1, 'xy', '^x.$')));
$session->value(q(INSERT INTO f VALUES (2, repeat('x', 2000) || 'z', '(.+)(.+)(.+)\3\2\1zz?$')));
$session->value(q(INSERT INTO g VALUES (1)));
$session->value(q(INSERT INTO f VALUES (3, 'xz', '^x.$')));
wait_for_wal('conditions that take long');
is(subjects(), 'w.f.1 w.f.3', 'others are published');
is(dead(), 'w.f.2 57014, w.g.1 57014', 'the changes are dead');

# Annotations, and where they go
$session->value(q(CREATE TABLE a (id int PRIMARY KEY); SELECT nats_publish_table('a', subject => 'w.a', delivery => 'wal', transaction => true, transaction_end => 'w.end')));
$session->value(q(BEGIN; INSERT INTO a VALUES (1); SELECT pg_logical_emit_message(true, 'nats_publish.annotations', '{"x": 1e100000}'); COMMIT));
$session->value(qq(BEGIN; INSERT INTO a VALUES (2); SELECT pg_logical_emit_message(true, 'nats_publish.annotations', '{"x": "' || repeat('x', 10000000) || '"}'); COMMIT));
wait_for_wal('annotations that are too long');
is(subjects(), 'w.a w.end w.a w.end', 'are none');
is($session->sqlstate(q(SELECT nats_annotate('{"x": 1e100000}'))), '22023', 'and refused where they can be');
{
	my $pid = $session->value(q(SELECT pid FROM nats_wal_relay));
	my $before = most_memory($pid);
	$session->value(q(DO $$ BEGIN FOR i IN 1 .. 20000 LOOP PERFORM pg_logical_emit_message(true, 'nats_publish.annotations', '{"x": "' || repeat('x', 2000) || i || '"}'); END LOOP; END $$));
	wait_for_wal('annotations for each row');
	cmp_ok(most_memory($pid) - $before, '<', 100_000, 'take no memory for each, kB');
}

# Names by which no message can be described
$session->value(q(CREATE SCHEMA "_INBOX"; CREATE TABLE "_INBOX".t (id int PRIMARY KEY, c text);
	SELECT nats_publish_table('"_INBOX".t', 'w.{c}', delivery => 'wal', events => '{insert}')));
$session->value(q(INSERT INTO "_INBOX".t VALUES (1, repeat('x', 5000)); INSERT INTO "_INBOX".t VALUES (2, 'good')));
wait_for_wal('a change that has no subject, of a table in a schema called as what is reserved');
is(subjects(), 'w.good', 'another one is published');
is(dead(), '%5FINBOX.t.insert 22023', 'it is dead');

# Nor does that of one owner, transaction after transaction
{
	my $number = 100;
	my $late = 0;
	$session->value(q(CREATE ROLE other; CREATE TABLE theirs (LIKE t INCLUDING ALL); ALTER TABLE theirs OWNER TO other; GRANT USAGE ON TYPE e TO other;
		SELECT nats_publish_table('theirs', subject => 'w.theirs.{id}', delivery => 'wal')));
	# 23 s, which a transaction may take; before this others' code has worked for as long already
	for (1 .. 6)
	{
		$session->value(qq(INSERT INTO t SELECT $number + i, 'slow' FROM generate_series(1, 3) i));
		$number += 3;
		wait_for_wal('a transaction of which others\' code takes its time');
		last if $late = $session->value(q(SELECT count(*) FROM nats_outbox_dead WHERE last_error LIKE '54000: % of the table''s owner took too long lately%'));
	}
	cmp_ok($late, '>', 0, 'others\' code of one owner may not take its time again and again');
	$session->value('DELETE FROM nats_outbox_dead');
	$client->purge('W');
	my $started = time;
	$session->value(qq(INSERT INTO t VALUES (200, 'slow'); INSERT INTO theirs VALUES (1, 'good'); INSERT INTO a VALUES (3)));
	wait_for_wal('a change of another one');
	cmp_ok(time - $started, '<', 4, 'others do not wait for it');
	is(dead(), 'public.t.insert 54000', 'what needs it is dead');
	is(subjects(), 'w.theirs.1 w.a w.end', 'and what does not, or is of another owner, is published');
}

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP/, 'nothing has crashed');
done_testing();
