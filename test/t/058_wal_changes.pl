
# Changes of rows that are read from the WAL: the same messages as a trigger's, and those that no trigger sees; what the WAL
# does not have; what can't be made into a message.

use strict;
use warnings FATAL => 'all';

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('W', ['w.>']);
$client->create_stream('O', ['o.>']);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	wal_level => 'logical',
	log_statement => 'none',
	max_prepared_transactions => 2,
	# a message that is moved to the table and tried there again would hide what happened
	'nats_publish.relay_max_attempts' => 1);
# whatever the session shows, messages do not
my $session = PsqlSession->new($node, settings => { TimeZone => 'America/St_Johns', DateStyle => 'SQL, DMY', IntervalStyle => 'iso_8601',
		bytea_output => 'escape', extra_float_digits => -2, client_min_messages => 'warning' });
my $JSON = JSON::PP->new->canonical;

sub run { return $session->value($_[0]); }

# Until what was committed is published from the WAL, or is where it goes otherwise.
sub wait_for_wal
{
	my $position = run('SELECT pg_current_wal_insert_lsn()');
	wait_for("the WAL up to $position",
		sub { run("SELECT confirmed_flush_lsn >= '$position' FROM pg_replication_slots WHERE slot_name ~ '^nats_publish_'") eq 't' });
	return;
}

# All messages of a stream, by their subjects: a message waits for the one before it of its subject, and not those of others.
sub taken_from
{
	my ($stream) = @_;
	my @messages = $client->consume($stream);
	$client->purge($stream);
	return sort { $a->{subject} =~ s/^.\.//r cmp $b->{subject} =~ s/^.\.//r || $a->{seq} <=> $b->{seq} } @messages;
}

sub from_wal
{
	wait_for_wal();
	return taken_from('W');
}

sub lines { return join "\n", map { "$_->{subject} " . ($_->{payload} =~ s/,?"(xid|ts)":("[^"]*"|\d+)//gr) } @_; }

# And what was buried.
sub dead
{
	my $rows = run(q(SELECT subject || ' ' || regexp_replace(convert_from(payload, 'UTF8'), ',"(xid|ts)":("[^"]*"|\d+)', '', 'g') || ' ' || replace(last_error, ' (of this change there is no message)', '')
		FROM nats_outbox_dead ORDER BY id));
	run('DELETE FROM nats_outbox_dead');
	return $rows;
}

# As they are, but for the position and the time, which only one of both knows.
sub comparable
{
	my ($message) = @_;
	my %headers = %{ $message->{headers} };
	delete @headers{ 'Nats-Msg-Id', 'ce-id', 'ce-time', 'Nats-Expected-Last-Msg-Id' };
	my $payload = $message->{payload} =~ s/"ts":"[^"]*"\}\z/"ts"}/r;
	$payload =~ s/"(lsn|ts_ms)":\d+/"$1"/g;
	$payload =~ s/"id":"(\d+):\d+"/"id":"$1"/;
	my $text = join ' ', $message->{subject} =~ s/^[ow]\.//r, $JSON->encode(\%headers), $payload;
	return $text =~ s/((?:big){10,})/length($1) . ' bytes'/ger;
}

# The same options for a trigger, and for one that fires and goes through the outbox.
sub twins
{
	my ($table, $options) = @_;
	run("SELECT nats_publish_table('$table', delivery => 'wal', $options)");
	run(qq(DO \$\$ DECLARE t record; BEGIN
		FOR t IN SELECT tgname, tgname LIKE 'z\\_%' AS is_twin, pg_get_triggerdef(oid) AS definition FROM pg_trigger
			WHERE tgrelid = '$table'::regclass AND tgname LIKE '%nats\\_publish\\_%' AND tgparentid = 0 ORDER BY 2 DESC LOOP
			IF t.is_twin THEN
				EXECUTE format('DROP TRIGGER %I ON $table', t.tgname);
			ELSE
				EXECUTE replace(replace(replace(replace(t.definition, 'TRIGGER ', 'TRIGGER z_'), 'delivery=wal', 'delivery=outbox'), '=w.', '=o.'),
					'z_z_', 'z_');
			END IF;
		END LOOP;
	END \$\$));
	return;
}

sub compare
{
	my ($what, $at_least, $known) = @_;
	wait_until_drained($session);
	my @wal = map { comparable($_) } from_wal();
	my @outbox = map { comparable($_) } taken_from('O');
	@outbox = map { $known->($_) } @outbox if $known;
	cmp_ok(scalar @outbox, '>=', $at_least, "$what: the trigger has published");
	is(join("\n", @wal), join("\n", @outbox), "$what: the same comes from the WAL");
	return;
}

# Without a slot

run('CREATE TABLE early (id int PRIMARY KEY)');
like($session->error(q(SELECT nats_publish_table('early', delivery => 'wal'))),
	qr/ERROR:  55000: the WAL of this database is not published\nHINT:  Call nats_wal_enable\(\)\./, 'without a slot no table is published from the WAL');
run('SELECT nats_wal_enable()');
run(q(SELECT nats_publish_table('early', subject => 'w.early.{id}', delivery => 'wal')));
is(run(q(SELECT string_agg(DISTINCT delivery || ' ' || enabled || coalesce(error, ''), ',') FROM nats_published_tables)), 'wal disabled',
	'then it is, by triggers that are disabled');
is(run(q(SELECT nats_unpublish_table('early'))), 't', 'nats_unpublish_table() drops them');
is(run('SELECT count(*) FROM nats_published_tables'), 0, 'all');

# The same messages as a trigger's

run(<<'END');
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE TABLE every (id int PRIMARY KEY, gone int, i2 int2, i8 int8, n numeric, f4 float4, f8 float8, b bool, txt text, vc varchar(10), ch char(5), u uuid,
	d date, ts timestamp, tz timestamptz, ti time, tt timetz, iv interval, by bytea, j json, jb jsonb, m money, mood mood, pair pair, small small,
	ia int[], ta text[], r int4range, mr int4multirange, tzr tstzrange, inet inet, oid oid, rc regclass, pt point, big text,
	gen int GENERATED ALWAYS AS (id * 2) STORED);
ALTER TABLE every DROP gone, ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE FUNCTION statements() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO every (id, i2, i8, n, f4, f8, b, txt, vc, ch, u, d, ts, tz, ti, tt, iv, by, j, jb, m, mood, pair, small, ia, ta, r, mr, tzr, inet, oid, rc, pt, big)
	VALUES (1, 2, 3, 4.50, 0.1, 1e-5, true, E'x"\n\u00e9', 'v', 'c', '00000000-0000-0000-0000-000000000001', '2020-02-29', '2020-02-29 12:00:00.123',
		'2020-02-29 12:00:00.123+05', '12:00', '12:00:00+02', 'P1M2DT3H4M5S', '\xdeadbeef', '{"a" : 1}', '{"b": [1,2]}', 12.34, 'ok', (1, 'q'), 7,
		'{1,2}', '{a,"b c"}', '[1,3)', '{[1,2)}', '[2020-01-01 00:00+01,)', '10.0.0.1', 5, 'pg_class', '(1,2)', repeat('big', 2000));
	UPDATE every SET n = 5;
	UPDATE every SET n = n;
	UPDATE every SET big = big || '!';
	UPDATE every SET id = 2;
	UPDATE every SET id = 3, txt = NULL, j = '{}';
	INSERT INTO every (id) VALUES (4);
	UPDATE every SET txt = 'a' WHERE id = 4;
	INSERT INTO every (id) VALUES (4) ON CONFLICT (id) DO UPDATE SET txt = 'conflict';
	BEGIN
		INSERT INTO every (id) VALUES (99);
		RAISE 'rolled back';
	EXCEPTION WHEN raise_exception THEN
		NULL;
	END;
	INSERT INTO every (id) SELECT generate_series(10, 15);
	MERGE INTO every USING generate_series(14, 16) s (k) ON id = k WHEN MATCHED AND k = 14 THEN DELETE WHEN MATCHED THEN UPDATE SET txt = 'm'
		WHEN NOT MATCHED THEN INSERT (id) VALUES (k);
	DELETE FROM every WHERE id < 15;
	TRUNCATE every;
END $$;
END

foreach my $case (
	['json', q(subject => 'w.{id}.{mood}.{pair}.{tz}.{j}.{op}', headers => '{"A": "{n}", "B": "{xid} {op} {big}"}', old => true)],
	['cloudevents', q(subject => 'w.{op}', format => 'cloudevents', columns => '{txt,n}', ignore => '{n}')],
	['debezium', q(subject => 'w.{op}', format => 'debezium', value_encoding => 'debezium', old => true)],
	['transactions', q(subject => 'w.{op}', transaction => true, transaction_end => 'w.end')],
	['transactions of debezium', q(subject => 'w.{op}', format => 'debezium', transaction => true, transaction_end => 'w.end')],
	['a column', q(subject => 'w.{op}', payload => 'jb', key => '{txt}')])
{
	my ($what, $options) = @$case;
	twins('every', $options);
	run('SELECT statements()');
	compare($what, 20);
}
run('DROP TABLE every');

# Partitions, of which one has its columns in other places, and which have keys alone

run(<<'END');
CREATE TABLE p (id int, k text, v text, g text GENERATED ALWAYS AS (k || v) STORED, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE p1 (v text, gone int, k text NOT NULL, id int NOT NULL, g text GENERATED ALWAYS AS (k || v) STORED);
ALTER TABLE p1 DROP gone;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN ('a');
CREATE TABLE p2 PARTITION OF p FOR VALUES IN ('b') PARTITION BY RANGE (id);
CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (0) TO (100);
END
twins('p', q(subject => 'w.{k}.{id}'));
my $PARTITIONS = <<'END';
INSERT INTO p VALUES (1, 'a', 'x'), (2, 'b', 'y'), (3, 'c', 'z'), (4, 'a', 'w');
UPDATE p SET k = 'b' WHERE id = 1;
UPDATE p SET k = 'c' WHERE id = 2;
UPDATE p SET v = 'new' WHERE id = 4;
UPDATE p SET id = 5 WHERE id = 4;
DELETE FROM p WHERE id = 3;
INSERT INTO p3 VALUES (7, 'c', 'd');
DELETE FROM p;
TRUNCATE p;
TRUNCATE p3;
END
run('CREATE TABLE p3 PARTITION OF p FOR VALUES IN (\'c\')');
is(run(q(SELECT count(*) || ' ' || string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgname = 'nats_publish_row')), '5 D',
	'the triggers of partitions are disabled, also of one that is attached later');
run($PARTITIONS);
# what has changed is known of who has old rows
compare('partitions', 14, sub { return $_[0] =~ s/,"changed":\[[^]]*\]//r });
run("ALTER TABLE $_ REPLICA IDENTITY FULL") foreach qw(p1 p21 p3);
run($PARTITIONS);
compare('partitions with whole old rows', 14);
run(q(ALTER TABLE p DETACH PARTITION p3; INSERT INTO p3 VALUES (9, 'c')));
compare('a detached partition', 0);
run('ALTER TABLE p21 REPLICA IDENTITY NOTHING');
like(run(q(SELECT error FROM nats_published_tables WHERE relation = 'p'::regclass AND trigger_name = 'nats_publish_row')),
	qr/^updates cannot be published from the WAL: the replica identity of table p21 does not have its key$/, 'what a partition lacks is told of the table');
like(run(q(SELECT status || ' ' || detail FROM nats_check() WHERE check_name = 'changes')),
	qr/^failed Changes of p are not all published because of trigger "nats_publish_row": updates cannot/, 'by nats_check(), too');
run('DROP TABLE p, p3');

# A partition that is created later has the replica identity that it has

run('SET client_min_messages = notice; CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id)');
my $NOTICE = qr/NOTICE:  \w+: partitions of table "p" that are created later need REPLICA IDENTITY FULL, too/;
like($session->error("SELECT nats_publish_table('p', delivery => 'wal', $_)"), $NOTICE, "nats_publish_table() says so: $_")
	foreach q(old => true), q(ignore => '{v}'), q(subject => 'w.{v}'), q(msg_id => '{v}'), q(key => '{v}');
unlike($session->error("SELECT nats_publish_table('p', delivery => 'wal', $_)"), qr/NOTICE/, "what needs no more than the key needs no word: $_")
	foreach q(subject => 'w.p.{id}'), q(subject => 'w.{v}', events => '{insert,update}'), q(subject => 'w.p.{id}', old => true, events => '{insert}');
run(q(RESET client_min_messages; SET client_min_messages = warning; SELECT nats_publish_table('p', subject => 'w.p.{id}', delivery => 'wal', old => true)));
run('CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); INSERT INTO p VALUES (1); UPDATE p SET v = 1; ALTER TABLE p1 REPLICA IDENTITY FULL; UPDATE p SET v = 2');
is(scalar(() = from_wal()), 2, 'it publishes its updates once that is FULL');
like(dead(), qr/ 0A000: updates cannot be published from the WAL: option old needs the whole old row, which the replica identity of table p1 does not have$/, 'and those before are buried');
run('DROP TABLE p');

# What the WAL does not have

run(q(CREATE TABLE t (id int PRIMARY KEY, a text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
	SELECT nats_publish_table('t', subject => 'w.{id}', delivery => 'wal', headers => '{"At": "{commit_ts}", "Lsn": "{lsn}"}')));
run(q(INSERT INTO t VALUES (1, 'x', repeat('y', 3000)); UPDATE t SET a = 'z'; UPDATE t SET a = a; UPDATE t SET id = 2; UPDATE t SET big = 'short'; DELETE FROM t));
my @messages = from_wal();
is(lines(@messages[ 1 .. 5 ]), <<'END' =~ s/\n\z//r, 'a value that is out of line is named when it was not changed, and what changed is not known without a whole old row');
w.1 {"op":"update","schema":"public","table":"t","key":{"id":1},"new":{"id":1,"a":"z"},"unchanged":["big"]}
w.1 {"op":"update","schema":"public","table":"t","key":{"id":1},"new":{"id":1,"a":"z"},"unchanged":["big"]}
w.2 {"op":"update","schema":"public","table":"t","key":{"id":2},"new":{"id":2,"a":"z"},"old":{"id":1},"unchanged":["big"]}
w.2 {"op":"update","schema":"public","table":"t","key":{"id":2},"new":{"id":2,"a":"z","big":"short"}}
w.2 {"op":"delete","schema":"public","table":"t","key":{"id":2}}
END
is(scalar(grep { $_->{payload} =~ /"ts":"\Q$_->{headers}{At}[0]\E"/ && $_->{headers}{Lsn}[0] =~ m{^[0-9A-F]+/[0-9A-F]+$} } @messages), 6,
	'{commit_ts} is the time of a message, and {lsn} where its transaction was committed');
run(q(SELECT nats_publish_table('t', subject => 'w.{op}', delivery => 'wal', format => 'debezium');
	INSERT INTO t VALUES (1, 'x', repeat('y', 3000)); UPDATE t SET a = 'z'; UPDATE t SET id = 2));
is(join("\n", map { $_->{payload} =~ /"before":(.*?),"after":(.*?),"source"/; "$_->{subject} $1 $2" } grep { $_->{payload} !~ /yyy/ } from_wal()),
	<<'END' =~ s/\n\z//r, 'Debezium has a placeholder');
w.delete {"id":1} null
w.insert null {"id":2,"a":"z","big":"__debezium_unavailable_value"}
w.update null {"id":1,"a":"z","big":"__debezium_unavailable_value"}
END
run(q(SELECT nats_publish_table('t', subject => 'w.t', columns => '{id,a}', events => '{update}', delivery => 'wal'); UPDATE t SET a = 'p'));
is(lines(from_wal()), 'w.t {"op":"update","schema":"public","table":"t","key":{"id":2},"new":{"id":2,"a":"p"}}', 'nothing is said of one that is not published');
run(q(SELECT nats_publish_table('t', subject => 'w.{big}', events => '{update}', delivery => 'wal'); UPDATE t SET a = 'q'));
is(lines(from_wal()), '', 'a subject can not be made of such a value');
is(dead(), 'public.t.update {"op":"update","schema":"public","table":"t","key":{"id":2}} 0A000: the value of column "big" is not in the WAL: it is stored out of line and was not changed',
	'and what can not be made is buried, with its table and key');

foreach my $case (
	[q('t', old => true), 'updates cannot be published from the WAL: option old needs the whole old row'],
	[q('t', ignore => '{a}'), 'updates cannot be published from the WAL: option ignore needs the whole old row'],
	[q('t', subject => 'w.{a}'), 'deletes cannot be published from the WAL: the replica identity of table t does not have all columns that messages of deleted rows'],
	[q('t', key => '{a}'), 'updates cannot be published from the WAL: the replica identity of table t does not have its key'],
	[q('t', level => 'statement'), 'inserts cannot be published from the WAL: the WAL has rows, not statements'],
	[q('fast'), 'inserts cannot be published from the WAL: unlogged table fast has no changes in the WAL'])
{
	run('CREATE UNLOGGED TABLE IF NOT EXISTS fast (id int PRIMARY KEY)');
	like($session->error("SELECT nats_publish_table($case->[0], delivery => 'wal')"), qr/ERROR:  0A000: \Q$case->[1]\E/, "nats_publish_table($case->[0])");
}
run(q(SELECT nats_publish_table('t', subject => 'w.{a}', delivery => 'wal', events => '{insert,update,truncate}')));
run('ALTER TABLE t REPLICA IDENTITY FULL');
run(q(SELECT nats_publish_table('t', subject => 'w.{a}', delivery => 'wal', old => true, ignore => '{big}')));
pass('with its events alone, or with REPLICA IDENTITY FULL, it can');
run(q(ALTER TABLE t REPLICA IDENTITY NOTHING; INSERT INTO t VALUES (5, 'i', 'x'); UPDATE t SET a = 'u' WHERE id = 5; DELETE FROM t WHERE id = 5));
is(lines(from_wal()), 'w.i {"op":"insert","schema":"public","table":"t","key":{"id":5},"new":{"id":5,"a":"i","big":"x"}}',
	'without its identity inserts go on');
is(join("\n", sort { $b cmp $a } split /\n/, dead()), <<'END' =~ s/\n\z//r, 'and the rest is buried');
w.u {"op":"update","schema":"public","table":"t","key":{"id":5}} 0A000: updates cannot be published from the WAL: option old needs the whole old row, which the replica identity of table t does not have
public.t.delete {"op":"delete","schema":"public","table":"t","key":null} 0A000: deletes cannot be published from the WAL: option old needs the whole old row, which the replica identity of table t does not have
END
run('DROP TABLE t');

# WHEN

run(<<'END');
CREATE TABLE f (id int PRIMARY KEY, n int, t text);
CREATE TRIGGER wi AFTER INSERT ON f FOR EACH ROW WHEN (new.n > 10 AND new.t IS DISTINCT FROM 'no') EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.insert');
CREATE TRIGGER wu AFTER UPDATE ON f FOR EACH ROW WHEN (new.n > 10) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.update');
CREATE TRIGGER wk AFTER UPDATE ON f FOR EACH ROW WHEN (old.id <> new.id AND 10 / new.n > 0) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.key');
CREATE TRIGGER wl AFTER UPDATE ON f FOR EACH ROW WHEN (old.n > 10 AND new.n <= 10) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.leaves');
CREATE TRIGGER wd AFTER DELETE ON f FOR EACH ROW WHEN (old.id > 2) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.delete');
CREATE TRIGGER wx AFTER INSERT ON f FOR EACH ROW WHEN (pg_trigger_depth() > 5) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.depth');
CREATE TRIGGER wy AFTER UPDATE OF n ON f FOR EACH ROW EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.of');
CREATE TRIGGER wz BEFORE DELETE ON f FOR EACH ROW EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.before');
ALTER TABLE f DISABLE TRIGGER ALL;
END
is(run(q(SELECT string_agg(trigger_name || ': ' || error, E'\n' ORDER BY trigger_name) FROM nats_published_tables WHERE error IS NOT NULL)),
	<<'END' =~ s/\n\z//r, 'what triggers of one\'s own can not do is told');
wl: updates cannot be published from the WAL: WHEN needs columns of the old row, which the replica identity of table f does not have
wx: inserts cannot be published from the WAL: WHEN contains a function or operator that is not immutable, or not PostgreSQL's own
wy: updates cannot be published from the WAL: the WAL does not say which columns an UPDATE has set
wz: deletes cannot be published from the WAL: it is not an AFTER trigger
END
run('DROP TRIGGER wx ON f; DROP TRIGGER wy ON f; DROP TRIGGER wz ON f; ALTER TABLE f REPLICA IDENTITY FULL');
run(q(INSERT INTO f VALUES (1, 5, 'a'), (2, 11, 'b'), (3, 12, 'no'); UPDATE f SET n = 20 WHERE id = 1; UPDATE f SET n = 5 WHERE id = 1;
	UPDATE f SET id = 7, n = 5 WHERE id = 2; UPDATE f SET id = 8, n = 0 WHERE id = 7; DELETE FROM f));
is(join(' ', map { $_->{payload} =~ /"key":\{"id":(\d)/; "$_->{subject}/$1" } from_wal()),
	'w.delete/3 w.delete/8 w.insert/2 w.key/7 w.leaves/1 w.leaves/7 w.update/1',
	'WHEN is a filter of changes as they are: what enters is an update, and what leaves needs a trigger of its own');
like(dead(), qr/^w\.key .*"key":\{"id":8\}\} 22012: division by zero$/, 'and when it fails, the message is buried');
run('DROP TABLE f');

# What triggers do not see

run(q(CREATE TABLE r (id int PRIMARY KEY, v text); SELECT nats_publish_table('r', subject => 'w.{id}', delivery => 'wal'); ALTER TABLE r ENABLE TRIGGER ALL));
run(q(INSERT INTO r VALUES (1)));
run(q(SET session_replication_role = replica; INSERT INTO r VALUES (2); RESET session_replication_role));
run(qq(BEGIN; CREATE TABLE frozen (LIKE r INCLUDING ALL); SELECT nats_publish_table('frozen', subject => 'w.{id}', delivery => 'wal');
	COPY frozen FROM PROGRAM 'printf "3\\\\tx\\\\n4\\\\ty\\\\n"' (FREEZE); COMMIT));
run('SELECT pg_replication_origin_create(\'elsewhere\')');
run(q(SELECT pg_replication_origin_session_setup('elsewhere'); INSERT INTO r VALUES (5); SELECT pg_replication_origin_session_reset()));
is(join(' ', map { $_->{subject} } from_wal()), 'w.1 w.2 w.3 w.4 w.5',
	'once, though its trigger is enabled; of a replica, COPY FREEZE, and replication');
is(run('SELECT count(*) FROM nats_outbox'), 0, 'and nothing by the trigger');
reconfigure($node, 'nats_publish.wal_origin' => 'none');
run(q(SELECT pg_replication_origin_session_setup('elsewhere'); INSERT INTO r VALUES (6); SELECT pg_replication_origin_session_reset(); INSERT INTO r VALUES (7)));
is(join(' ', map { $_->{subject} } from_wal()), 'w.7', 'wal_origin = none leaves out what comes from elsewhere');
reconfigure($node, 'nats_publish.wal_origin' => undef);

# Transactions

run(q(BEGIN; INSERT INTO r VALUES (11); SAVEPOINT a; INSERT INTO r VALUES (12); ROLLBACK TO a; INSERT INTO r VALUES (13); RELEASE a; COMMIT));
run(q(BEGIN; INSERT INTO r VALUES (14); ROLLBACK));
run(q(BEGIN; INSERT INTO r VALUES (15); PREPARE TRANSACTION 'p'));
run(q(INSERT INTO r VALUES (16); COMMIT PREPARED 'p'));
run(q(DO $$ BEGIN FOR i IN 1 .. 3000 LOOP BEGIN INSERT INTO r VALUES (1000 + i); IF i % 2 = 0 THEN RAISE 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$));
@messages = sort { $a->{seq} <=> $b->{seq} } from_wal();
is(join(' ', map { $_->{subject} } @messages[ 0 .. 3 ]), 'w.11 w.13 w.16 w.15', 'in the order of the commits, without what was rolled back');
is(scalar @messages, 4 + 1500, 'and so with subtransactions');
my %ids = map { $_->{headers}{'Nats-Msg-Id'}[0] => 1 } @messages;
is(scalar keys %ids, scalar @messages, 'each message has its id');

# Annotations

run(q(BEGIN; SELECT nats_annotate('{"Actor": "ann"}'); INSERT INTO r VALUES (31); SAVEPOINT a; SELECT nats_annotate('{"Actor": "bob"}'); INSERT INTO r VALUES (32);
	ROLLBACK TO a; INSERT INTO r VALUES (33); SELECT nats_annotate('{"Request": 7}'); INSERT INTO r VALUES (34); SELECT nats_annotate(NULL); INSERT INTO r VALUES (35); COMMIT));
run(q(INSERT INTO r VALUES (36)));
run(qq(BEGIN; SELECT pg_logical_emit_message(true, 'nats_publish.annotations', '$_'); INSERT INTO r VALUES (37); DELETE FROM r WHERE id = 37; COMMIT))
	foreach '{"Pg-Op": "x"}', 'no object', '{"A": "x\ny"}', '{';
is(join(' ', map { join '/', $_->{subject}, map { $_ ? @$_ : '' } @{ $_->{headers} }{ 'Actor', 'Request' } } from_wal()),
	join(' ', 'w.31/ann/', 'w.33/ann/', 'w.34/ann/7', 'w.35//', 'w.36//', ('w.37//') x 8), 'messages have the annotations that were made before them');

# The table is not what it was

run(<<'END');
ALTER TABLE r ADD m int DEFAULT 7;
UPDATE r SET v = 'missing' WHERE id = 1;
BEGIN;
INSERT INTO r VALUES (21, 'before');
ALTER TABLE r RENAME v TO w;
INSERT INTO r VALUES (22, 'after');
ALTER TABLE r ALTER m TYPE text;
INSERT INTO r VALUES (23, 'rewritten', 'm');
ALTER TABLE r RENAME TO renamed;
ALTER TABLE renamed DROP w;
SELECT nats_publish_table('renamed', subject => 'w.x{id}', delivery => 'wal');
INSERT INTO renamed VALUES (24);
COMMIT;
ALTER TABLE renamed REPLICA IDENTITY FULL;
UPDATE renamed SET m = 'first' WHERE id = 2;
DELETE FROM renamed WHERE id < 20;
INSERT INTO renamed VALUES (25);
SELECT nats_unpublish_table('renamed');
INSERT INTO renamed VALUES (26);
DROP TABLE renamed;
END
is(lines(grep { $_->{payload} !~ /"delete"/ } from_wal()), <<'END' =~ s/\n\z//r, 'rows are told as their table was when they were changed');
w.1 {"op":"update","schema":"public","table":"r","key":{"id":1},"new":{"id":1,"v":"missing","m":7}}
w.21 {"op":"insert","schema":"public","table":"r","key":{"id":21},"new":{"id":21,"v":"before","m":7}}
w.22 {"op":"insert","schema":"public","table":"r","key":{"id":22},"new":{"id":22,"w":"after","m":7}}
w.23 {"op":"insert","schema":"public","table":"r","key":{"id":23},"new":{"id":23,"w":"rewritten","m":"m"}}
w.x2 {"op":"update","schema":"public","table":"renamed","key":{"id":2},"new":{"id":2,"m":"first"},"changed":["m"]}
w.x24 {"op":"insert","schema":"public","table":"renamed","key":{"id":24},"new":{"id":24,"m":"7"}}
w.x25 {"op":"insert","schema":"public","table":"renamed","key":{"id":25},"new":{"id":25,"m":"7"}}
END

# Others' code: as the table's owner, and nothing that it does stops what comes after it

run(<<'END');
CREATE ROLE bounded LOGIN;
GRANT CREATE ON SCHEMA public TO bounded;
SELECT nats_grant('bounded', 'publish tables');
CREATE TABLE other (n int);
CREATE TYPE u AS RANGE (subtype = int8);
CREATE TYPE v AS RANGE (subtype = float8);
CREATE FUNCTION u_json(u) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
	CASE lower($1)
		WHEN 2 THEN RAISE 'unlucky' USING ERRCODE = '22023';
		WHEN 3 THEN RAISE 'internal' USING ERRCODE = 'XX000';
		WHEN 4 THEN RAISE 'out of memory, it says' USING ERRCODE = '53200';
		WHEN 5 THEN PERFORM count(*) FROM public.other;
		WHEN 6 THEN INSERT INTO public.other VALUES (1);
		WHEN 7 THEN PERFORM 'nothing'::regclass;
		WHEN 8 THEN RETURN to_json(current_user);
		ELSE RETURN to_json(lower($1));
	END CASE;
END $$;
CREATE CAST (u AS json) WITH FUNCTION u_json(u);
CREATE FUNCTION v_json(v) RETURNS json STABLE LANGUAGE sql AS 'SELECT to_json(lower($1))';
CREATE CAST (v AS json) WITH FUNCTION v_json(v);
CREATE TABLE c (id int PRIMARY KEY, u u);
CREATE TABLE d (id int PRIMARY KEY, v v);
SELECT nats_publish_table('c', subject => 'w.c', delivery => 'wal', transaction => true, transaction_end => 'w.end');
ALTER TABLE c OWNER TO bounded;
INSERT INTO c SELECT i, format('[%s,)', i)::u FROM generate_series(1, 9) i;
INSERT INTO c VALUES (10, '[10,)');
END
like($session->error(q(SELECT nats_publish_table('d', delivery => 'wal'))), qr/a column of table d is converted to text by a function that is not immutable/,
	'a cast to json that may look into tables is refused');
is(lines(from_wal()), <<'END' =~ s/\n\z//r, 'a cast to json that can be made is, and counted');
w.c {"op":"insert","schema":"public","table":"c","key":{"id":1},"new":{"id":1,"u":1},"tx":{"n":1}}
w.c {"op":"insert","schema":"public","table":"c","key":{"id":8},"new":{"id":8,"u":"bounded"},"tx":{"n":2}}
w.c {"op":"insert","schema":"public","table":"c","key":{"id":9},"new":{"id":9,"u":9},"tx":{"n":3}}
w.c {"op":"insert","schema":"public","table":"c","key":{"id":10},"new":{"id":10,"u":10},"tx":{"n":1}}
w.end {"op":"commit","n":3,"tables":[{"schema":"public","table":"c","n":3}]}
w.end {"op":"commit","n":1,"tables":[{"schema":"public","table":"c","n":1}]}
END
my $failed = 'w.c {"op":"insert","schema":"public","table":"c","key":{"id":%d}} %s';
is(dead(), join("\n", map { sprintf $failed, @$_ } [2, '22023: unlucky'], [3, 'XX000: internal'], [4, '53200: out of memory, it says'],
		[5, '42501: permission denied for table other'], [6, '0A000: INSERT is not allowed in a non-volatile function'],
		[7, '42P01: relation "nothing" does not exist']), 'what can not be made is buried, one by one');
is(run('SELECT count(*) FROM other'), 0, 'it has done nothing');

# that appears while changes are decoded: before it, they have been made without
run(<<'END');
CREATE TYPE later AS ENUM ('x');
CREATE TYPE latest AS (a int);
CREATE TABLE l (id int PRIMARY KEY, v later);
CREATE TABLE m (id int PRIMARY KEY, v latest);
SELECT nats_publish_table(t::regclass, subject => 'w.{table}.{id}', delivery => 'wal') FROM unnest('{l, m}'::text[]) t;
ALTER TABLE l OWNER TO bounded;
ALTER TABLE m OWNER TO bounded;
BEGIN;
INSERT INTO l VALUES (1, 'x');
INSERT INTO m VALUES (1, '(1)');
CREATE FUNCTION later_json(later) RETURNS json IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN to_json(current_user); END';
CREATE CAST (later AS json) WITH FUNCTION later_json(later);
INSERT INTO l VALUES (2, 'x');
ALTER TYPE latest ADD ATTRIBUTE b later;
INSERT INTO m VALUES (2, '(2,x)');
ALTER FUNCTION later_json VOLATILE;
INSERT INTO l VALUES (3, 'x');
INSERT INTO m VALUES (3, '(3,x)');
DROP CAST (later AS json);
INSERT INTO l VALUES (4, 'x');
INSERT INTO m VALUES (4, '(4,x)');
ALTER TYPE latest DROP ATTRIBUTE b;
CREATE CAST (later AS json) WITH FUNCTION later_json(later);
INSERT INTO m VALUES (5, '(5)');
COMMIT;
END
is(join(' ', map { $_->{payload} =~ /"v":(.*)\},"xid"/; "$_->{subject}=$1" } from_wal()),
	'w.l.1="x" w.l.2="bounded" w.l.4="x" w.m.1={"a":1} w.m.2={"a":2,"b":"bounded"} w.m.4={"a":4,"b":"x"} w.m.5={"a":5}',
	'whether it is there is known of each change');
is(dead() =~ s/ \{.*?\}\}/:/gr, join("\n", map { "w.$_.3: 0A000: inserts cannot be published from the WAL: a column of table $_ is converted to text by a function that is not immutable" } qw(l m)),
	'and what it may do');

# Others' locks are nobody's fault: what is read from catalogs is waited for, for longer than a change is tried

{
	my $locker = PsqlSession->new($node);
	run(<<'END');
CREATE TABLE held (id int PRIMARY KEY, v text);
CREATE TABLE held_u (id int PRIMARY KEY, u u);
SELECT nats_publish_table(t::regclass, subject => 'w.held', delivery => 'wal') FROM unnest('{held, held_u}'::text[]) t;
END
	foreach (['pg_constraint', q{held VALUES (1, 'a')}], ['pg_constraint', q{held_u VALUES (2, '[10,)')}], ['pg_db_role_setting', q{held_u VALUES (3, '[11,)')}])
	{
		my ($catalog, $row) = @$_;
		# what the relay knows of the tables is made anew
		run('ALTER TABLE held SET (fillfactor = 90); ALTER TABLE held_u SET (fillfactor = 90)');
		wait_for_wal();
		# what this session knows of them is not: from 18 on, it is in pg_constraint, too
		run('SELECT FROM held, held_u, nats_wal_relay');
		$locker->value("BEGIN; LOCK TABLE $catalog");
		run("INSERT INTO $row");
		sleep 4;
		is(run(q(SELECT state FROM nats_wal_relay)), "blocked", "while $catalog is locked, decoding waits");
		$locker->value('COMMIT');
		wait_for_wal();
	}
	is(lines(from_wal()), <<'END' =~ s/\n\z//r, 'then the changes are published');
w.held {"op":"insert","schema":"public","table":"held","key":{"id":1},"new":{"id":1,"v":"a"}}
w.held {"op":"insert","schema":"public","table":"held_u","key":{"id":2},"new":{"id":2,"u":10}}
w.held {"op":"insert","schema":"public","table":"held_u","key":{"id":3},"new":{"id":3,"u":11}}
END
	is(dead(), '', 'and none is dead');
	is(scalar log_lines($node, 0, qr/WAL relay cannot publish: canceling statement due to lock timeout/), 3, 'each lock is in the log once');
}

# Who may publish where

run(q(ALTER ROLE bounded SET nats_publish.allowed_subjects = 'w.ok.>,w.*.insert'));
my $bounded = PsqlSession->new($node, user => 'bounded');
$bounded->value('CREATE TABLE own (id int PRIMARY KEY, v text)');
like($bounded->error("SELECT nats_publish_table('own', subject => '$_', delivery => 'wal', events => '{insert}')"),
	qr/ERROR:  42501: permission denied for the subjects "\Q$_\E"/, "a role with bounds can't publish to $_") foreach 'w.no.{v}', 'w.{v}.{op}', 'w.{v}';
$bounded->value(q(SELECT nats_publish_table('own', subject => 'w.ok.{v}', delivery => 'wal', events => '{insert}')));
$bounded->value(q(CREATE TRIGGER mine AFTER INSERT OR UPDATE ON own FOR EACH ROW EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.{id}.{op}'); ALTER TABLE own DISABLE TRIGGER mine));
$bounded->value(q(INSERT INTO own VALUES (1, 'x'); UPDATE own SET v = 'y'));
is(join(' ', map { $_->{subject} } from_wal()), 'w.1.insert w.ok.x', 'a trigger of one\'s own does not reach beyond them');
like(dead(), qr/^w\.1\.update .* 42501: permission denied for subject "w\.1\.update"$/, 'and what was to go there is buried');

# What counts is what a session of the owner would begin with

run('CREATE ROLE unset LOGIN; GRANT CREATE ON SCHEMA public TO unset');
run(q(SELECT nats_grant('unset', 'publish tables')));
my $unset = PsqlSession->new($node, user => 'unset');
$unset->value(q(CREATE TABLE theirs (id serial PRIMARY KEY);
	CREATE TRIGGER mine AFTER INSERT ON theirs FOR EACH ROW EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=w.secret.{id}')));
sub becomes
{
	my ($expected, $name) = @_;
	# what the relay knows of the table, and of its owner, is made anew
	$unset->value('ALTER TABLE theirs SET (fillfactor = 90)');
	$unset->value('INSERT INTO theirs DEFAULT VALUES');
	my $published = join ' ', map { $_->{subject} } from_wal();
	my ($error) = dead() =~ / (\d{5}: .*)/;
	return like($published . ($error // ''), $expected, $name);
}
my $DENIED = qr/^42501: permission denied for subject "w\.secret\.\d+"$/;
my $PUBLISHED = qr/^w\.secret\.\d+$/;
becomes($PUBLISHED, 'without bounds, it is published');
foreach my $bounds ([ 'ROLE ALL', 'of all' ], [ 'DATABASE postgres', 'of the database' ], [ 'ROLE unset', 'of the role' ], [ 'ROLE unset IN DATABASE postgres', 'of the role there' ])
{
	# each goes before those that were set before
	run("ALTER $bounds->[0] SET nats_publish.allowed_subjects = 'w.app.>'");
	becomes($DENIED, "the bounds $bounds->[1] count");
	run("ALTER $bounds->[0] SET nats_publish.allowed_subjects = 'w.secret.>'");
	becomes($PUBLISHED, "and are asked as they are then, $bounds->[1]");
}
run("ALTER $_ RESET nats_publish.allowed_subjects") foreach 'ROLE unset IN DATABASE postgres', 'ROLE unset', 'ROLE ALL';
run('SELECT pg_terminate_backend(pid) FROM nats_wal_relay');
becomes($PUBLISHED, 'a relay that begins with the bounds of the database');
reconfigure($node, 'nats_publish.allowed_subjects' => 'w.app.>');
becomes($PUBLISHED, 'which go before those of the server');
run('ALTER DATABASE postgres RESET nats_publish.allowed_subjects');
becomes($DENIED, 'knows those of the server, too, when there are no others');
reconfigure($node, 'nats_publish.allowed_subjects' => undef);
becomes($PUBLISHED, 'and that these are gone');
run('ALTER ROLE unset SET nats_publish.server_required = on');
becomes(qr/^42501: permission denied for the outbox$/, 'the outbox is not for who has to publish as itself, nor is what is read from the WAL');
run('ALTER ROLE unset SET nats_publish.server_required = off');
becomes($PUBLISHED, 'unless that is off');
run('ALTER ROLE unset RESET nats_publish.server_required');
# it would be for the relay, too
run('ALTER ROLE CURRENT_USER SET nats_publish.server_required = off; SELECT pg_terminate_backend(pid) FROM nats_wal_relay');
becomes($PUBLISHED, 'a relay for which it is off');
reconfigure($node, 'nats_publish.server_required' => 'on');
becomes(qr/^42501: permission denied for the outbox$/, 'knows that it is on for others');
reconfigure($node, 'nats_publish.server_required' => undef);
becomes($PUBLISHED, 'and that it is not any more');
run('ALTER ROLE CURRENT_USER RESET nats_publish.server_required');

# Bounds that were narrowed while nothing was read: all of it is read within a second

reconfigure($node, 'nats_publish.relay_databases' => '');
$unset->value('INSERT INTO theirs DEFAULT VALUES');
sleep 10.5;
run(q(ALTER ROLE unset SET nats_publish.allowed_subjects = 'w.app.>'));
$unset->value('INSERT INTO theirs DEFAULT VALUES');
reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
is(scalar(() = from_wal()), 1, 'what was committed before is published');
like(dead(), qr/^w\.secret\.\d+ [^\n]* 42501: permission denied for subject "w\.secret\.\d+"$/, 'and what was committed later is not, when both are read at once');
$unset->close;

# Rows that are there already: they are written into the WAL as messages, and their place in it is not known before
{
	run('CREATE TABLE there (id int PRIMARY KEY)');
	run('INSERT INTO there VALUES (1)');
	run(q(SELECT nats_publish_table('there', 'w.{lsn}', delivery => 'wal', headers => '{"Lsn": "{lsn}", "At": "{commit_ts}", "Key": "{id}"}')));
	is($session->sqlstate(q(CALL nats_publish_rows('there'))), '22023', 'a row that is read has no {lsn} for its subject');
	is($session->sqlstate(q(CALL nats_publish_rows('there', subject => 'w.there', only_missing => true))), '22023',
		'who publishes from the WAL is not told that a message is there');
	run(q(CALL nats_publish_rows('there', subject => 'w.there')));
	my @messages = from_wal();
	is(lines(@messages), 'w.there {"op":"read","schema":"public","table":"there","key":{"id":1},"new":{"id":1}}', 'it is published from the WAL');
	is_deeply([ map { $_->{headers}{Key}, $_->{headers}{Lsn}, $_->{headers}{At} } @messages ], [ ['1'], undef, undef ],
		'without the headers that are made of its place');
}

# The extension is created anew, in the middle of a transaction; and a table that is gone when it is read

run(<<'END');
SELECT nats_relay_pause();
CREATE TABLE x (id int PRIMARY KEY);
SELECT nats_publish_table('x', subject => 'w.x.{id}', delivery => 'wal');
INSERT INTO x VALUES (1);
SELECT nats_relay_resume();
END
is(join(' ', map { $_->{subject} } from_wal()), 'w.x.1', 'what was written in a pause comes after it');
run(<<'END');
BEGIN;
INSERT INTO x VALUES (2);
DROP EXTENSION nats_publish CASCADE;
INSERT INTO x VALUES (3);
CREATE SCHEMA elsewhere;
CREATE EXTENSION nats_publish SCHEMA elsewhere;
SELECT elsewhere.nats_publish_table('x', subject => 'w.new.{id}', delivery => 'wal');
INSERT INTO x VALUES (4);
COMMIT;
DROP TABLE x;
END
is(join(' ', map { $_->{subject} } from_wal()), 'w.new.4 w.x.2', 'by the trigger that a row had, whichever extension it was of');

# The same ids, when it is read again; the new extension is told that it has a slot

run('SELECT elsewhere.nats_wal_enable()');
run(q(CREATE TABLE again (id serial PRIMARY KEY); SELECT elsewhere.nats_publish_table('again', subject => 'w.again.{id}', delivery => 'wal')));
my ($rows, $was_read_again) = (0, 0);
# the position may have been saved just before the crash
for (my $try = 0; $try < 10 && !$was_read_again; $try++)
{
	my $before = run('SELECT pg_current_wal_insert_lsn()');
	run('INSERT INTO again SELECT FROM generate_series(1, 100)');
	$rows += 100;
	wait_for('the messages', sub { $client->stream_info('W')->{state}{messages} >= $rows });
	my $offset = log_length($node);
	$session->close;
	$node->stop('immediate');
	$node->start;
	$session = PsqlSession->new($node);
	wait_for_wal();
	my ($position) = join('', log_lines($node, $offset, qr/Streaming transactions committing after/)) =~ /committing after ([0-9A-F\/]+),/;
	$was_read_again = run("SELECT '$position'::pg_lsn <= '$before'") eq 't';
}
ok($was_read_again, 'after a crash it is read again');
is($client->stream_info('W')->{state}{messages}, $rows, 'and is stored once');

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP|leak/, 'nothing else has happened');

done_testing();
