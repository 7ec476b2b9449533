
# The proof of change publishing: a table that is filled from nothing but the stream is equal to the one that was
# published, whatever four clients have done to that at the same time.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use PsqlSession;
use PublishTest;

# The statements of a run are those of the run with the same seed: SEED=... make test T=change_replay. How the
# clients overtake each other is not.
my $SEED = $ENV{SEED} // (time * 1000) % 1_000_000_000;
my $CHANGES = 10_000;
my $KEYS = 100;
srand $SEED;
note("SEED=$SEED");

my ($nats, $client) = nats_with_stream('C', ['c.>']);
my @wal_databases = ('wal_1', 'wal_2');
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	# of the one that is published from the WAL
	'shared_preload_libraries' => 'nats_publish',
	'nats_publish.relay_databases' => join(', ', @wal_databases),
	# a row that gets another key changes its subject: that needs the order of the stream, which strict has from nats-server 2.11.5 on
	'nats_publish.relay_ordering' => 'pipelined',
	'wal_level' => 'logical',
	'log_statement' => 'none',
	# who can roll back may deadlock, and needn't wait for it
	'deadlock_timeout' => '20ms');

# What is in the message is the same, whatever the session shows; and no name needs the search path.
my @SETTINGS = (
	{ TimeZone => 'UTC' },
	{ TimeZone => 'Asia/Kathmandu', DateStyle => 'SQL, DMY', IntervalStyle => 'sql_standard', bytea_output => 'escape',
		extra_float_digits => -10 },
	{ TimeZone => 'America/St_Johns', DateStyle => 'German', IntervalStyle => 'iso_8601', work_mem => '64kB' },
	{ search_path => '' });

# The random changes

# What JSON tells apart: no jsonb null (which is as NULL is), no negative zero (which jsonb doesn't have), no
# lower bounds of arrays.
my %VALUES = (
	txt => sub { pick(q(''), q('O''Brien'), q('a\b"c"%{id}'), qq('two\n\tlines'), q('naïve ☃ 𝄞'), q(U&'\0001\007f'), "'" . int(rand 1000) . "'") },
	n => sub { pick(q('NaN'), '1e40', '0.00', '1.50', '1.5', sprintf('%.*f', rand 6, rand(2e6) - 1e6)) },
	doc => sub { pick(q('[]'), q('"a \u2603"'), q('{"a": 1.50, "b": [null, true, {"c": {}}]}'), sprintf(q('{"k": %d}'), rand 1000)) },
	at => sub { pick(q('infinity'), q('-infinity'), q('0044-03-15 12:00:00.5+00 BC'), q('1850-01-01 00:00+00'),
		sprintf(q('2026-%02d-%02d %02d:30:00.%06d+02'), 1 + rand 12, 1 + rand 28, rand 24, rand 1e6)) },
	during => sub { pick(q('empty'), q('(,)'), sprintf(q('[2026-%02d-01,2027-01-%02d]'), 1 + rand 12, 1 + rand 12)) },
	span => sub { pick(q('1 year -3 days 04:05:06.7'), q('-1 mon'), q('0'), sprintf(q('%d s'), rand 1000)) },
	big => sub { pick('NULL', 'NULL', sprintf(q(repeat('%c', %d)), 97 + rand 26, 2500 + rand 4000)) },
	list => sub { pick(q('{}'), q('{1,NULL,3}'), q('{{1,2},{3,4}}'), sprintf(q('{%d}'), rand 1000)) },
	bytes => sub { pick(q('\x'), q('\x00ff5c27'), sprintf(q('\x%08x'), rand 2**32)) },
	f => sub { pick(q('NaN'), q('-Infinity'), '1e300', '0.1', rand) });
my @COLUMNS = sort keys %VALUES;

sub pick { return $_[rand @_]; }
sub value { my ($column) = @_; return rand() < 0.1 ? 'NULL' : $VALUES{$column}->(); }
sub values_of { return join ', ', map { value($_) } @_; }
sub some_columns { my $share = rand; return grep { rand() < $share } @COLUMNS; }
sub set_list { my @columns = some_columns(); return join ', ', map { "$_ = " . value($_) } @columns ? @columns : 'txt'; }

my $INSERT = 'INSERT INTO public.c (id, ' . join(', ', @COLUMNS) . ')';

# Without rollbacks nothing may fail: locks are taken in the order of the keys, and a new key is one that is new.
# Then $next is where the keys of the following change begin, and undefined in the last one.
my $last_key = 1_000_000;
my @new_keys;

sub new_key
{
	my ($rollbacks) = @_;
	return 1 + int rand $KEYS if $rollbacks;
	push @new_keys, ++$last_key;
	return $last_key;
}

sub change
{
	my ($key, $next, $rollbacks) = @_;
	my $to = $rollbacks ? $key + 3 : $key > $KEYS ? $key : defined $next && $next < $key + 4 ? $next - 1 : $key + 3;
	my $ordered = "FROM (SELECT id AS key FROM public.c WHERE id BETWEEN $key AND $to ORDER BY id FOR UPDATE) AS s WHERE id = key";
	my $may_move = $rollbacks || !defined $next;
	# a new key is not inserted again
	my $kind = !$rollbacks && $key > $KEYS ? 45 + rand 55 : rand 100;
	if ($kind < 30) { return "$INSERT VALUES ($key, " . values_of(@COLUMNS) . ') ON CONFLICT DO NOTHING'; }
	if ($kind < 38) { return "$INSERT SELECT i, " . values_of(@COLUMNS) . " FROM generate_series($key, $to) i ON CONFLICT DO NOTHING"; }
	if ($kind < 45) { return "$INSERT VALUES ($key, " . values_of(@COLUMNS) . ') ON CONFLICT (id) DO UPDATE SET ' . set_list(); }
	if ($kind < 62) { return 'UPDATE public.c SET ' . set_list() . " WHERE id = $key"; }
	if ($kind < 67) { return 'UPDATE public.c SET ' . set_list() . " $ordered"; }
	if ($kind < 71) { return "UPDATE public.c SET big = big, n = n WHERE id = $key"; }
	if ($kind < 77 && $may_move) { return 'UPDATE public.c SET id = ' . new_key($rollbacks) . " WHERE id = $key"; }
	if ($kind < 80 && $may_move) { return 'UPDATE public.c SET id = ' . new_key($rollbacks) . ', ' . set_list() . " WHERE id = $key"; }
	if ($kind < 84 && $may_move)
	{
		# another way to move a row
		return "WITH gone AS (DELETE FROM public.c WHERE id = $key RETURNING *) $INSERT SELECT "
			. join(', ', new_key($rollbacks), @COLUMNS) . ' FROM gone';
	}
	if ($kind < 88 && $rollbacks)
	{
		return "MERGE INTO public.c USING generate_series($key, $to) AS s (key) ON id = key WHEN MATCHED AND n < 0 THEN DELETE"
			. ' WHEN MATCHED THEN UPDATE SET ' . set_list() . ' WHEN NOT MATCHED THEN INSERT (id, txt) VALUES (key, ' . value('txt') . ')';
	}
	if ($kind < 97) { return "DELETE FROM public.c WHERE id = $key"; }
	return "DELETE FROM public.c USING (SELECT id AS key FROM public.c WHERE id BETWEEN $key AND $to ORDER BY id FOR UPDATE) AS s WHERE id = key";
}

sub random_key { return @new_keys && rand() < 0.2 ? pick(@new_keys) : 1 + int rand $KEYS; }

# One transaction of so many changes; with rollbacks, of savepoints, and of the whole.
sub transaction
{
	my ($count, $rollbacks) = @_;
	my @keys = map { random_key() } 1 .. $count;
	@keys = sort { $a <=> $b } @keys unless $rollbacks;
	my @changes = map { change($keys[$_], $keys[ $_ + 1 ], $rollbacks) } 0 .. $#keys;
	return @changes if $count == 1 && rand() < 0.8;
	return ('BEGIN', @changes, 'COMMIT') unless $rollbacks;

	my @statements = (rand() < 0.1 ? 'BEGIN ISOLATION LEVEL REPEATABLE READ' : 'BEGIN');
	my $open = 0;
	foreach my $change (@changes)
	{
		push @statements, 'SAVEPOINT s' . ++$open if rand() < 0.3;
		push @statements, $change;
		push @statements, "ROLLBACK TO s$open" if $open && rand() < 0.2;
		push @statements, 'RELEASE s' . $open-- if $open && rand() < 0.2;
	}
	return (@statements, rand() < 0.15 ? 'ROLLBACK' : 'COMMIT');
}

# The changes of one client, as a script for psql.
sub script
{
	my ($changes, $rollbacks, $truncates) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir('changes') . '/script.sql';
	open(my $file, '>', $path) or die "$path: $!";
	my $done = 0;
	while ($done < $changes)
	{
		my $count = 1 + int rand 6;
		print $file "$_;\n" foreach transaction($count, $rollbacks);
		if ($truncates && $done < $changes / 2 && $done + $count >= $changes / 2)
		{
			print $file "TRUNCATE public.c;\n";
			print $file "BEGIN;\nTRUNCATE public.c;\n$_;\nROLLBACK;\nBEGIN;\n$_;\nTRUNCATE public.c;\n$_;\nCOMMIT;\n"
				foreach $rollbacks ? "$INSERT VALUES (1, " . values_of(@COLUMNS) . ')' : ();
		}
		$done += $count;
	}
	close $file or die "$path: $!";
	return $path;
}

# The table, what an ordinary trigger writes down of its changes, and how to replay it

my $COLUMNS = 'id int PRIMARY KEY, txt text, n numeric, doc jsonb, at timestamptz, during daterange, span interval, big text, list int[], bytes bytea, f float8';
my $TABLE = 'CREATE TABLE c (gone int, ' . $COLUMNS . ', more text); ALTER TABLE c DROP COLUMN gone, DROP COLUMN more, ALTER big SET STORAGE EXTERNAL';
# of which a part has its columns in another order
my $PARTITIONED = "CREATE TABLE c ($COLUMNS) PARTITION BY RANGE (id); ALTER TABLE c ALTER big SET STORAGE EXTERNAL;
	CREATE TABLE c_1 PARTITION OF c FOR VALUES FROM (1) TO (40);
	CREATE TABLE c_2 (" . join(', ', 'gone int', reverse(split /, /, $COLUMNS)) . '); ALTER TABLE c_2 DROP COLUMN gone, ALTER id SET NOT NULL;
	ALTER TABLE c ATTACH PARTITION c_2 FOR VALUES FROM (40) TO (80);
	CREATE TABLE c_3 PARTITION OF c DEFAULT';
# and of which the parts have keys of their own, or none
my $OTHER_KEYS = $PARTITIONED =~ s/int PRIMARY KEY/int NOT NULL/gr . '; CREATE UNIQUE INDEX c_id ON c (id);
	ALTER TABLE c REPLICA IDENTITY USING INDEX c_id; ALTER TABLE c_2 REPLICA IDENTITY FULL; ALTER TABLE c_3 ADD PRIMARY KEY (id)';

my $AUDIT = <<'END';
CREATE TABLE audit (xid bigint, op text, id int);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	-- so does Debezium
	IF TG_OP = 'UPDATE' AND TG_ARGV[0] = 'debezium' AND NEW.id <> OLD.id THEN
		INSERT INTO public.audit VALUES (pg_current_xact_id()::text::bigint, 'delete', OLD.id), (pg_current_xact_id()::text::bigint, 'insert', NEW.id);
		RETURN NULL;
	END IF;
	INSERT INTO public.audit VALUES (pg_current_xact_id()::text::bigint, lower(TG_OP),
		CASE TG_OP WHEN 'DELETE' THEN OLD.id WHEN 'TRUNCATE' THEN NULL ELSE NEW.id END);
	RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR DELETE ON c FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER audit_update AFTER UPDATE ON c FOR EACH ROW WHEN (OLD.* *<> NEW.*) EXECUTE FUNCTION audit(FORMAT);
CREATE TRIGGER audit_truncate AFTER TRUNCATE ON c EXECUTE FUNCTION audit();
END

# Any format as the same columns: key is the one after the change, and was the one before it.
my %CHANGE = (json => <<'END', debezium => <<'END');
	SELECT seq, subject, headers, payload, payload ->> 'op' AS op, (payload ->> 'xid')::bigint AS xid,
		(payload -> 'key' ->> 'id')::int AS key, coalesce(payload -> 'old' -> 'id', payload -> 'key' -> 'id')::int AS was,
		payload -> 'new' AS new, payload -> 'old' AS old
	FROM message
END
	SELECT seq, subject, headers, payload, CASE payload ->> 'op' WHEN 'c' THEN 'insert' WHEN 'u' THEN 'update' WHEN 'd' THEN 'delete'
			WHEN 't' THEN 'truncate' END AS op, (payload -> 'source' ->> 'txId')::bigint AS xid,
		coalesce(nullif(payload -> 'after', 'null'), nullif(payload -> 'before', 'null')) ->> 'id' AS key,
		coalesce(nullif(payload -> 'before', 'null'), nullif(payload -> 'after', 'null')) ->> 'id' AS was,
		nullif(payload -> 'after', 'null') AS new, nullif(payload -> 'before', 'null') AS old
	FROM message
END
$CHANGE{debezium} =~ s/^\t\tcoalesce(.*) ->> 'id' AS/\t\t(coalesce$1 ->> 'id')::int AS/mg;

# Strict: a row that is changed must be there, and be as the message says that it was; one that is inserted must not.
my $REPLAY = <<'END';
CREATE FUNCTION replay(whole_old boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	m record;
	before copy;
BEGIN
	FOR m IN SELECT * FROM change ORDER BY seq LOOP
		IF m.op = 'truncate' THEN
			DELETE FROM copy;
		ELSIF m.op IN ('update', 'delete') THEN
			DELETE FROM copy WHERE id = m.was RETURNING * INTO before;
			IF before.id IS NULL THEN
				RAISE 'message %: no row for %', m.seq, m.payload;
			ELSIF whole_old AND before *<> jsonb_populate_record(NULL::copy, m.old) THEN
				RAISE 'message %: the row before was %, not as in %', m.seq, before, m.payload;
			END IF;
		END IF;
		IF m.op IN ('insert', 'update') THEN
			INSERT INTO copy SELECT * FROM jsonb_populate_record(NULL::copy, m.new);
		END IF;
	END LOOP;
END $$;
END

my $number = 0;

# The messages of the outbox, as stream_to_table() has those of a stream.
my $OUTBOX = q(CREATE TABLE message AS SELECT id AS seq, subject, convert_from(payload, 'UTF8')::jsonb AS payload,
	(SELECT jsonb_object_agg(key, jsonb_build_array(value)) FROM jsonb_each(headers)) AS headers FROM nats_outbox);

# A database with the table, of which four clients make so many random changes: what they are replayed to.
sub replay
{
	my ($what, %case) = @_;
	my $is_from_wal = $case{delivery} eq 'wal';
	my $db = publishing_database($node, $is_from_wal ? shift @wal_databases : 'replay_' . ++$number);
	my $sql = sub { return $node->safe_psql($db, $_[0]); };
	my ($format, $old) = ($case{format} // 'json', $case{old} // 'false');
	$client->purge('C');
	if ($is_from_wal)
	{
		# its relay may not have seen yet that it is there
		$sql->('SELECT nats_relay_resume()');
		wait_for('the relay', sub { $sql->(q(SELECT state FROM nats_relay WHERE datname = current_database())) eq 'idle' });
		$sql->('SELECT nats_wal_enable()');
	}
	$sql->(($case{table} // $TABLE) . '; ' . ($AUDIT =~ s/FORMAT/'$format'/r) . ";
		SELECT nats_publish_table('c', subject => 'c.row.{id}', level => '$case{level}', delivery => '$case{delivery}',
			format => '$format', old => $old, headers => '{\"Key\": \"{id}\", \"At\": \"{at}\"}')");

	my $rollbacks = $case{delivery} ne 'async' && $case{delivery} ne 'sync';
	@new_keys = ();
	my @scripts = map { script($CHANGES / @SETTINGS, $rollbacks, $_ == 1) } 0 .. $#SETTINGS;
	my @sessions = map { PsqlSession->new($node, dbname => $db, settings => $_) } @SETTINGS;
	my $started = time;
	$sessions[$_]->begin("\\i $scripts[$_]\n") foreach 0 .. $#sessions;
	# of all at once: who can't write its errors holds its locks
	wait_for('the clients', sub { !grep { $_->is_running } @sessions });
	my $said = join '', map { $_->finish->{error} } @sessions;
	my $seconds = time - $started;
	$_->close foreach @sessions;

	# with rollbacks: a key that is there, a deadlock, a row changed since the snapshot; and what comes after them, in a
	# transaction that has failed
	my %errors;
	$errors{$_}++ foreach $said =~ /(?:ERROR|FATAL|PANIC|WARNING):  (\w{5}):/g;
	my $allowed = $rollbacks ? qr/^(23505|40P01|40001|25P02|3B001)$/ : qr/^$/;
	is(join(' ', grep { $_ !~ $allowed } sort keys %errors), '', "$what: no error but those of the changes") or diag(substr $said, 0, 5000);

	if ($is_from_wal)
	{
		my $position = $sql->('SELECT pg_current_wal_insert_lsn()');
		wait_for("the WAL up to $position", sub { $sql->("SELECT confirmed_flush_lsn >= '$position' FROM pg_replication_slots WHERE database = current_database()") eq 't' });
	}
	if ($case{delivery} eq 'outbox') { $sql->($OUTBOX); }
	else { stream_to_table($client, 'C', $node, $db, 'message'); }
	$sql->("CREATE VIEW change AS $CHANGE{ $format eq 'debezium' ? 'debezium' : 'json' };
		CREATE TABLE copy (LIKE c); ALTER TABLE copy ADD PRIMARY KEY (id); $REPLAY");
	my ($status, undef, $error) = $node->psql($db, "SELECT replay($old)");
	is($error, '', 'every message can be applied, one after the other');
	is($sql->('SELECT count(*) FROM c'), $sql->('SELECT count(*) FROM copy'), 'there are as many rows');
	is($sql->('SELECT count(*) FROM ((TABLE c EXCEPT TABLE copy) UNION ALL (TABLE copy EXCEPT TABLE c)) AS different'), 0, 'they are equal');
	is($sql->('SELECT count(*) FROM c JOIN copy ON c.id = copy.id WHERE c.* *<> copy.*'), 0, 'to the last bit');

	my ($published, $made) = ('SELECT xid, op, key FROM change', 'SELECT xid, op, id FROM audit');
	is($sql->("SELECT * FROM ($published EXCEPT ALL $made) AS rest LIMIT 10"), '', 'no message but of a change');
	is($sql->("SELECT * FROM ($made EXCEPT ALL $published) AS rest LIMIT 10"), '', 'no change without its message');
	is($sql->(q(SELECT seq, left(payload::text, 500) FROM change WHERE (subject, headers -> 'Pg-Op', headers -> 'Pg-Table', headers -> 'Pg-Xid')
			IS DISTINCT FROM ('c.row.' || coalesce(key::text, '%00'), jsonb_build_array(op), '["public.c"]', jsonb_build_array(xid::text))
			OR headers -> 'Key' IS DISTINCT FROM jsonb_build_array(key::text) AND key IS NOT NULL LIMIT 10)),
		'', 'subjects and headers are those of the rows');
	is($sql->(q(SELECT seq, headers -> 'At', new FROM change WHERE new IS NOT NULL
			AND headers -> 'At' ->> 0 IS DISTINCT FROM replace(new ->> 'at', ' ', '%20') LIMIT 10)),
		'', 'and a time is that of UTC, whoever wrote it');
	is($sql->(q(SELECT seq, new FROM change WHERE new ->> 'at' !~ '\+00:00( BC)?$|infinity$' LIMIT 10)), '', 'in the row, too');
	is($sql->("SELECT seq, payload -> 'changed' FROM change WHERE op = 'update' AND payload -> 'changed' IS DISTINCT FROM (SELECT jsonb_agg(attname ORDER BY attnum)
			FROM pg_attribute WHERE attrelid = 'c'::regclass AND attnum > 0 AND NOT attisdropped
			AND (old -> attname)::text IS DISTINCT FROM (new -> attname)::text) LIMIT 10"),
		'', 'updates name what has changed') if $old eq 'true' && $format ne 'debezium';

	my %counts = map { split / / } split /\n/, $sql->(q(SELECT op || ' ' || count(*) FROM change GROUP BY op));
	note(join ', ', sprintf('%.1f s', $seconds), map { "$_ $counts{$_}" } sort keys %counts);
	note('errors: ' . join ', ', map { "$_ $errors{$_}" } sort keys %errors) if %errors;
	cmp_ok($counts{$_} // 0, '>=', 500, "there were hundreds of each: $_") foreach 'insert', 'update', 'delete';
	cmp_ok($counts{truncate} // 0, '>=', 1, 'and a TRUNCATE');
	return;
}

replay('rows, held for COMMIT', level => 'row', delivery => 'on_commit');
replay('statements, held for COMMIT', level => 'statement', delivery => 'on_commit', old => 'true');
replay('rows, without waiting', level => 'row', delivery => 'async', old => 'true');
replay('statements, without waiting', level => 'statement', delivery => 'async', format => 'debezium');
replay('rows, one round trip each', level => 'row', delivery => 'sync', format => 'debezium', old => 'true');
replay('statements, one round trip each', level => 'statement', delivery => 'sync', format => 'cloudevents');
replay('rows, through the outbox', level => 'row', delivery => 'outbox', format => 'cloudevents');
replay('rows of partitions', level => 'row', delivery => 'on_commit', table => $PARTITIONED, old => 'true');
replay('rows of partitions with other keys', level => 'row', delivery => 'on_commit', table => $OTHER_KEYS, format => 'debezium');
# without a whole old row an update that changes nothing is published, too, and a large value that was not changed is not
replay('from the WAL', level => 'row', delivery => 'wal', table => "$TABLE; ALTER TABLE c REPLICA IDENTITY FULL", old => 'true');
replay('partitions, from the WAL', level => 'row', delivery => 'wal', format => 'debezium',
	table => join(';', $PARTITIONED, map { "ALTER TABLE $_ REPLICA IDENTITY FULL" } 'c_1', 'c_2', 'c_3'));

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|leak/, 'nothing else has happened');

done_testing();
