
# WHEN of triggers whose changes are read from the WAL, beyond what 058_wal_changes has of it; and partitions that have never had
# the columns that their table has lost.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('S', ['s.>']);
my $node = relay_node('main', 'nats_publish.url' => $nats->url, wal_level => 'logical', 'nats_publish.relay_max_attempts' => 1);
my $session = PsqlSession->new($node, settings => { client_min_messages => 'warning' });
my $has_virtual = $session->value(q(SELECT current_setting('server_version_num')::int >= 180000)) eq 't';
$session->value('SELECT nats_wal_enable()');

sub run { return $session->value($_[0]); }

# What was published of what was done until now, by subject.
sub published
{
	my $end = run('SELECT pg_current_wal_insert_lsn()');
	wait_for("the WAL up to $end", sub { run("SELECT confirmed_flush_lsn >= '$end' FROM pg_replication_slots") eq 't' });
	my @messages = $client->consume('S');
	$client->purge('S');
	return join "\n", sort map { "$_->{subject} " . ($_->{payload} =~ s/,?"(schema|xid|ts)":("[^"]*"|\d+)//gr) } @messages;
}

# And what was buried.
sub dead
{
	my $rows = run(q(SELECT string_agg(subject || ' ' || replace(last_error, ' (of this change there is no message)', ''), E'\n' ORDER BY id) FROM nats_outbox_dead));
	run('DELETE FROM nats_outbox_dead');
	return $rows;
}

sub errors
{
	return run(q(SELECT string_agg(trigger_name || ': ' || error, E'\n' ORDER BY trigger_name) FROM nats_published_tables WHERE error IS NOT NULL));
}

# TRUNCATE

run(<<'END');
CREATE TABLE t (id int PRIMARY KEY);
CREATE TRIGGER tt AFTER TRUNCATE ON t FOR EACH STATEMENT WHEN (true) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.true');
CREATE TRIGGER tc AFTER TRUNCATE ON t FOR EACH STATEMENT WHEN (length('abc') = 3) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.computed');
CREATE TRIGGER tf AFTER TRUNCATE ON t FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.false');
CREATE TRIGGER tn AFTER TRUNCATE ON t FOR EACH STATEMENT WHEN (NULL) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.null');
ALTER TABLE t DISABLE TRIGGER ALL;
END
is(errors(), '', 'a TRUNCATE can have a condition');
run('TRUNCATE t');
is(published(), qq(s.computed {"op":"truncate","table":"t"}\ns.true {"op":"truncate","table":"t"}), 'which is a filter of it');
is(dead(), '', 'that always has a result');

run(<<'END');
CREATE TRIGGER ts AFTER TRUNCATE ON t FOR EACH STATEMENT WHEN (current_setting('application_name') = 'x')
	EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.setting');
ALTER TABLE t DISABLE TRIGGER ALL;
TRUNCATE t;
END
my $problem = 'truncates cannot be published from the WAL: WHEN contains a function or operator that is not immutable, or not PostgreSQL\'s own';
is(errors(), "ts: $problem", 'what is not known later is told of a TRUNCATE, too');
is(published(), qq(s.computed {"op":"truncate","table":"t"}\ns.true {"op":"truncate","table":"t"}), 'and is not published');
is(dead(), "s.setting 0A000: $problem", 'but buried');
run('DROP TABLE t');

# Generated columns

sub generated
{
	my ($kind) = @_;
	run(<<"END");
CREATE TABLE g (id int PRIMARY KEY, a int, d int GENERATED ALWAYS AS (a * 2) $kind);
CREATE TRIGGER gi AFTER INSERT ON g FOR EACH ROW WHEN (new.d > 10) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.g', 'columns=a');
CREATE TRIGGER gd AFTER DELETE ON g FOR EACH ROW WHEN (old.d > 10) EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.g');
ALTER TABLE g DISABLE TRIGGER ALL;
ALTER TABLE g REPLICA IDENTITY FULL;
INSERT INTO g VALUES (1, 5), (2, 6);
DELETE FROM g;
END
	my @found = (errors(), published(), dead());
	run('DROP TABLE g');
	return \@found;
}

is_deeply(generated('STORED'), [ '', qq(s.g {"op":"delete","table":"g","key":{"id":2}}\ns.g {"op":"insert","table":"g","key":{"id":2},"new":{"a":6}}), '' ],
	'a condition can be about a generated column that is stored');
SKIP:
{
	skip 'generated columns are virtual from 18 on', 1 unless $has_virtual;
	my ($inserts, $deletes) = map { "$_ cannot be published from the WAL: WHEN contains a virtual generated column" } qw(inserts deletes);
	is_deeply(generated('VIRTUAL'), [ "gd: $deletes\ngi: $inserts", '', join "\n", ("s.g 0A000: $inserts") x 2, ("s.g 0A000: $deletes") x 2 ],
		'and not about one that is not: nothing is left out unsaid');
}

# What is left out may lack what a message would be made of: it is stored out of line, and was not changed

run(<<'END');
CREATE TABLE o (id int PRIMARY KEY, n int, published bool, body text, page text);
ALTER TABLE o ALTER body SET STORAGE EXTERNAL, ALTER page SET STORAGE EXTERNAL;
CREATE TRIGGER op AFTER INSERT OR UPDATE ON o FOR EACH ROW WHEN (new.published)
	EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.o.{id}.{op}', 'payload=body');
CREATE TRIGGER ow AFTER UPDATE ON o FOR EACH ROW WHEN (new.page LIKE 'y%') EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.w.{id}');
ALTER TABLE o DISABLE TRIGGER ALL;
INSERT INTO o VALUES (1, 1, false, repeat('x', 5000), 'n'), (2, 1, true, repeat('x', 5000), 'n'), (3, 1, false, repeat('x', 5000), repeat('z', 5000));
UPDATE o SET n = 2;
END
is(published() =~ s/(x{5000})/5000 x/gr, 's.o.2.insert 5000 x', 'what WHEN leaves out is left out, whatever is not known of it');
is(dead(), join("\n", map { sprintf '%s 0A000: the value of column "%s" is not in the WAL: it is stored out of line and was not changed', @$_ }
		['public.o.update', 'body'], ['s.w.3', 'page']), 'and buried is what it does not leave out, and of what it does not know');

# Partitions with fewer columns: the more are gone, and the more partitions there are, the likelier it is that a look at what is not there is seen

run(<<'END');
DO $$ BEGIN
	EXECUTE (SELECT 'CREATE TABLE p (id int, ' || string_agg('c' || i || ' text', ', ') || ', big text, PRIMARY KEY (id)) PARTITION BY RANGE (id)'
		FROM generate_series(1, 1500) AS i);
	EXECUTE (SELECT 'ALTER TABLE p ' || string_agg('DROP c' || i, ', ') FROM generate_series(1, 1500) AS i);
	ALTER TABLE p ALTER big SET STORAGE EXTERNAL, ADD n int;
	FOR i IN 0 .. 39 LOOP
		EXECUTE format('CREATE TABLE p%s PARTITION OF p FOR VALUES FROM (%s) TO (%s)', i, i * 100, i * 100 + 100);
	END LOOP;
END $$;
SELECT nats_publish_table('p', 's.p.{id}', delivery => 'wal');
INSERT INTO p SELECT i * 100 + 1, repeat('x', 5000), 1 FROM generate_series(0, 39) AS i;
UPDATE p SET n = 2;
ALTER TABLE p0 REPLICA IDENTITY FULL;
UPDATE p SET n = 3 WHERE id = 1;
DELETE FROM p WHERE id = 1;
END
my @of_partitions = split /\n/, published() =~ s/(x{5000})/5000 x/gr;
is(scalar(@of_partitions), 82, 'columns that a table has lost are none of a new partition');
is(join("\n", grep { /^s\.p\.1 / } @of_partitions), <<'END' =~ s/\n\z//r, 'whose messages have what is there');
s.p.1 {"op":"delete","table":"p","key":{"id":1}}
s.p.1 {"op":"insert","table":"p","key":{"id":1},"new":{"id":1,"big":"5000 x","n":1}}
s.p.1 {"op":"update","table":"p","key":{"id":1},"new":{"id":1,"big":"5000 x","n":3},"changed":["n"]}
s.p.1 {"op":"update","table":"p","key":{"id":1},"new":{"id":1,"n":2},"unchanged":["big"]}
END
is(dead(), '', 'and nothing is wrong with them');

# A condition that raises for each row

run(<<'END');
CREATE TABLE raises (id int PRIMARY KEY, body text);
CREATE TRIGGER raises AFTER INSERT ON raises FOR EACH ROW WHEN (repeat(NEW.body, 100) LIKE '%x' AND 10 / (NEW.id - NEW.id) > 0)
	EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=s.raises');
ALTER TABLE raises DISABLE TRIGGER ALL;
END
{
	my $pid = run('SELECT pid FROM nats_wal_relay');
	my $before = process_memory($pid);
	run(q(INSERT INTO raises SELECT i, repeat('x', 1000) FROM generate_series(1, 2000) AS i));
	is(published(), '', 'what a condition raises for is not published');
	cmp_ok(process_memory($pid) - $before, '<', 100_000, 'and leaves no memory behind, kB');
	is(run('SELECT count(*) FROM nats_outbox_dead'), 2000, 'but is dead');
}

unlike(slurp_file($node->logfile), qr/terminated by signal/, 'the relay has survived it');

done_testing();
