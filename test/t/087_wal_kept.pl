
# What waits in the relay of the WAL for somebody's help, a table that has another name, a message that no table takes or that waits
# for a lock, holds up nothing else: neither what comes behind an error, nor more of it, nor memory; and nothing is lost.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

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
	log_statement => 'none');
my $session = PsqlSession->new($node, settings => { client_min_messages => 'warning' });

# Two calls at a time

{
	my ($first, $second) = map { PsqlSession->new($node) } 1 .. 2;
	$first->run('BEGIN; SELECT nats_wal_enable()');
	$first->run("SELECT nats_publish_outbox('w.first', '')");
	$second->begin('SELECT nats_wal_enable()');
	wait_for('the other one to wait', sub { $session->value(q(SELECT count(*) FROM pg_locks WHERE relation = 'nats_wal'::regclass AND NOT granted)) == 1 });
	$first->value('COMMIT');
	my $result = $second->finish;
	like($result->{error}, qr/published already/, 'a second call waits for the first one');
	ok(eval { wait_for('w.first', sub { grep { $_->{subject} eq 'w.first' } $client->consume('W') }, 40) },
		'and drops nothing of what that one has promised');
}

my $number = 0;

# A message of its own goes through; it is not waited for as long as somebody helps.
sub others_go
{
	my ($what) = @_;
	my $subject = 'w.other' . ++$number;
	$session->value("SELECT nats_publish_outbox('$subject', '')");
	return ok(eval { wait_for($subject, sub { grep { $_->{subject} eq $subject } $client->consume('W') }, 40) }, $what);
}

others_go('a message');
$session->value(<<'END');
CREATE TYPE e AS ENUM ('good', 'memory', 'immortal');
CREATE FUNCTION e_json(e) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
	CASE $1
		WHEN 'memory' THEN RAISE 'out of memory, it says' USING ERRCODE = '53200';
		WHEN 'immortal' THEN LOOP BEGIN LOOP NULL; END LOOP; EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;
		ELSE NULL;
	END CASE;
	RETURN to_json($1::text);
END $$;
CREATE CAST (e AS json) WITH FUNCTION e_json(e);
CREATE TABLE t (id int PRIMARY KEY, v e);
SELECT nats_publish_table('t', subject => 'w.t.{id}', delivery => 'wal');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
END

# The table has another name

{
	my $offset = log_length($node);
	my $slot = $session->value(q(SELECT slot_name || restart_lsn FROM pg_replication_slots));
	$session->value('ALTER TABLE nats_outbox RENAME TO nats_outbox_renamed');
	wait_for('the relays to see it', sub { $session->value(q(SELECT string_agg(state, ' ') FROM (SELECT state FROM nats_relay_status() UNION ALL SELECT state FROM nats_wal_relay_status()) AS s)) eq 'no table no table' }, 20);
	$session->value(q(SELECT nats_publish_outbox('w.unnamed', '')));
	sleep 2;
	is($session->value('SELECT count(*) FROM pg_replication_slots'), 1, 'the slot is left alone');
	like($session->run(q(SELECT string_agg(detail, ' ') FROM nats_check()))->{output}, qr/without the table nats_outbox.*Give nats_outbox its name/, 'the doctor says what to do');
	$session->value('ALTER TABLE nats_outbox_renamed RENAME TO nats_outbox');
	ok(eval { wait_for('the message', sub { grep { $_->{subject} eq 'w.unnamed' } $client->consume('W') }, 20) }, 'what was written meanwhile is published when it has its name again');
	is(scalar(log_lines($node, $offset, qr/dropped replication slot/)), 0, 'and nothing is dropped');
}

# nats_outbox is locked, what is to be moved waits for that, and decoding meets an error

{
	my $holder = PsqlSession->new($node);
	$holder->value('BEGIN; LOCK TABLE nats_outbox IN ACCESS EXCLUSIVE MODE');
	$session->value(q(SELECT nats_publish_outbox('nowhere.locked', '')));
	sleep 2;
	$session->value(q(INSERT INTO t VALUES (1, 'memory')));
	others_go('others do not wait for it behind an error');
	$holder->close;
}

# No table takes a message

$session->value(q(CREATE TRIGGER refuse BEFORE INSERT ON nats_outbox FOR EACH ROW WHEN (new.subject ~ '^(nowhere.forbidden|w.large)') EXECUTE FUNCTION refuse();
	CREATE TRIGGER refuse BEFORE INSERT ON nats_outbox_dead FOR EACH ROW EXECUTE FUNCTION refuse()));
$session->value(q(SELECT nats_publish_outbox('nowhere.forbidden', '1')));
wait_for('it to be refused', sub { $session->value('SELECT last_error FROM nats_wal_relay') =~ /not this one/ });
others_go('nor do they for what no table takes');
$session->value(q(INSERT INTO t VALUES (2, 'memory')));
others_go('nor behind an error');
$session->value(q(INSERT INTO t VALUES (3, 'immortal')));
others_go('nor behind one that ends the process');
$session->value(q(INSERT INTO t VALUES (4, 'immortal')));
others_go('nor behind another one');
$session->value(q(SELECT nats_publish_outbox('w.large', repeat('x', 1100000)) FROM generate_series(1, 10)));
others_go('nor for what is 11 MB');

# What comes in between is not kept in memory for it
{
	my $pid = $session->value(q(SELECT pid FROM nats_wal_relay));
	my $resident = sub { return slurp_file("/proc/$pid/status") =~ /^VmRSS:\s+(\d+) kB/m ? $1 : die "no VmRSS"; };
	my $before = $resident->();
	for (1 .. 150)
	{
		$session->value(q(SELECT nats_publish_outbox('nowhere.forbidden', '2'), nats_publish_outbox('w.between', repeat('x', 250000))));
	}
	others_go('nor for many of them');
	cmp_ok($resident->() - $before, '<', 20_000, 'whose neighbours leave the memory, kB');
}

$session->value('DROP TRIGGER refuse ON nats_outbox_dead');
my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
ok(eval { wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' }, 60) }, 'all of it comes to its end when it can');
# what nats_outbox has taken, its relay moves later
wait_for('all of them', sub { $session->value('SELECT count(*) FROM nats_outbox_dead') == 165 }, 60);
is($session->value(q(SELECT string_agg(subject || ' ' || n, ', ' ORDER BY subject COLLATE "C") FROM (SELECT subject, count(*) AS n FROM nats_outbox_dead GROUP BY subject) AS d)),
	'nowhere.forbidden 151, public.t.insert 2, w.large 10, w.t.1 1, w.t.2 1', 'each once');

# What is known of a change that could not be made a message is not published instead of it

{
	my $id = $session->value(q(SELECT id FROM nats_outbox_dead WHERE subject = 'w.t.2'));
	like($session->value("SELECT last_error FROM nats_outbox_dead WHERE id = $id"), qr/^53200: .* \(of this change there is no message\)$/, 'a change is told from a message');
	is($session->sqlstate("SELECT nats_outbox_retry($id)"), '55000', 'and is not tried again');
	is($session->value("SELECT nats_outbox_retry(1000000)"), 'f', 'unlike one that is not there');
	$session->value(q(DROP TRIGGER refuse ON nats_outbox; DELETE FROM nats_outbox; DELETE FROM nats_outbox_dead WHERE subject = 'w.large'));
	is($session->value('SELECT nats_outbox_retry_all()'), 151, 'nor with all others');
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), 4, 'it stays where it is');
	is(scalar(grep { $_->{subject} =~ /^w\.t\./ } $client->consume('W')), 0, 'none was published');
}

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP/, 'nothing has crashed');
done_testing();
