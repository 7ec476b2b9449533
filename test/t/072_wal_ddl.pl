
# Tables that are altered, rewritten, renamed and taken apart between their changes, also in one transaction: what is
# published from the WAL is what a trigger publishes of the same statements, message by message.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('S', ['s.>'], storage => 'file');
my $node = relay_node('main', 'nats_publish.url' => $nats->url, wal_level => 'logical', 'nats_publish.relay_max_attempts' => 1);
my $session = PsqlSession->new($node, settings => { client_min_messages => 'warning' });
$session->value('SELECT nats_wal_enable()');

# The messages of what was done, without what only one of both ways can know.
sub messages
{
	my $end = $session->value('SELECT pg_current_wal_insert_lsn()');
	wait_for("the WAL up to $end", sub {
		$session->value("SELECT confirmed_flush_lsn >= '$end' FROM pg_replication_slots") eq 't' });
	my @messages = sort { $a->{seq} <=> $b->{seq} } $client->consume('S');
	$client->purge('S');
	return map { $_->{payload} =~ s/"(schema|xid|ts)":("[^"]*"|\d+),?//gr } @messages;
}

sub messages_by
{
	my ($delivery, $table, $work) = @_;
	$session->value("CREATE SCHEMA $delivery; SET search_path = $delivery, public");
	$session->value("CREATE TABLE x $table; ALTER TABLE x REPLICA IDENTITY FULL");
	$session->value("SELECT nats_publish_table('x', 's.x', delivery => '$delivery', old => true)");
	$session->value($work);
	my @messages = messages();
	$session->value("RESET search_path; DROP SCHEMA $delivery CASCADE");
	return @messages;
}

sub same
{
	my ($name, $count, $table, $work) = @_;
	my @expected = messages_by('on_commit', $table, $work);
	is(scalar @expected, $count, "$name: messages of a trigger");
	is_deeply([ messages_by('wal', $table, $work) ], \@expected, 'and from the WAL');
	return;
}

my $TABLE = '(id int PRIMARY KEY, a text)';

same('columns that come and go', 6, $TABLE, <<'END');
BEGIN; INSERT INTO x VALUES (1, 'a'); ALTER TABLE x ADD COLUMN b int DEFAULT 7; UPDATE x SET a = 'b'; INSERT INTO x VALUES (2, 'c');
ALTER TABLE x DROP COLUMN a; DELETE FROM x WHERE id = 1; COMMIT; UPDATE x SET b = 8; ALTER TABLE x ADD COLUMN a numeric; DELETE FROM x;
END

same('rows that are there, or not', 4, $TABLE, <<'END');
INSERT INTO x VALUES (1, 'a') ON CONFLICT DO NOTHING; INSERT INTO x VALUES (1, 'b') ON CONFLICT DO NOTHING;
INSERT INTO x VALUES (1, 'c') ON CONFLICT (id) DO UPDATE SET a = excluded.a;
MERGE INTO x USING (VALUES (1), (2)) AS v (i) ON id = i WHEN MATCHED THEN UPDATE SET a = 'm' WHEN NOT MATCHED THEN INSERT VALUES (i, 'n')
END

same('a table that is rewritten', 13, $TABLE, <<'END');
INSERT INTO x SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 5) AS i; ALTER TABLE x ALTER COLUMN id TYPE bigint;
CLUSTER x USING x_pkey; VACUUM FULL x; UPDATE x SET id = id + 10;
BEGIN; INSERT INTO x VALUES (99, 'q'); ALTER TABLE x ALTER COLUMN a TYPE varchar(10000); UPDATE x SET a = 'r' WHERE id = 99; COMMIT;
DELETE FROM x WHERE id = 15
END

same('names that change', 3, $TABLE, <<'END');
BEGIN; INSERT INTO x VALUES (1, 'a'); ALTER TABLE x RENAME COLUMN a TO z; INSERT INTO x VALUES (2, 'b'); ALTER TABLE x RENAME TO y;
INSERT INTO y VALUES (3, 'c'); COMMIT
END

same('a column that is generated no more', 3, '(id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED)', <<'END');
INSERT INTO x VALUES (1, 5); UPDATE x SET a = 6; ALTER TABLE x ALTER COLUMN g DROP EXPRESSION; UPDATE x SET g = 1
END

$session->value(q(CREATE TYPE public.e AS ENUM ('a'); CREATE TYPE public.c AS (p int, q text)));
same('types that are altered', 4, '(id int PRIMARY KEY, e e, c c, j jsonb, t timestamptz, f float8, "we ird"" " int[])', <<'END');
ALTER TYPE e ADD VALUE IF NOT EXISTS 'b'; INSERT INTO x VALUES (1, 'b', (1, 'x'), '{"a": [1, null]}', 'infinity', 'NaN', '{1,2}'); UPDATE x SET c.q = 'y', f = '-Infinity';
ALTER TABLE x ALTER COLUMN e TYPE text; ALTER TABLE x ALTER COLUMN c TYPE text; UPDATE x SET e = 'c'; DELETE FROM x
END

same('partitions that come and go', 5, '(id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k)', <<'END');
CREATE TABLE xa PARTITION OF x FOR VALUES IN (1); CREATE TABLE xb (k int NOT NULL, junk int, id int NOT NULL); ALTER TABLE xb DROP COLUMN junk;
ALTER TABLE x ATTACH PARTITION xb FOR VALUES IN (2); ALTER TABLE xa REPLICA IDENTITY FULL; ALTER TABLE xb REPLICA IDENTITY FULL;
INSERT INTO x VALUES (1, 1), (2, 2); UPDATE x SET k = 2 WHERE id = 1; ALTER TABLE x DETACH PARTITION xb; INSERT INTO xb VALUES (2, 9);
CREATE TABLE xc PARTITION OF x FOR VALUES IN (3); INSERT INTO x VALUES (5, 3)
END

is($session->value('SELECT count(*) FROM nats_outbox_dead'), 0, 'every message could be made');

done_testing();
