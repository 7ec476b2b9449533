
# What a message costs the relay, counted and not timed: the statements that are executed for it, and planned.

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

my $sharedir = qx(pg_config --sharedir) =~ s/\s+$//r;
plan skip_all => 'pg_stat_statements is not installed' if !-e "$sharedir/extension/pg_stat_statements.control";

my $nats = NatsServer->new(jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
$client->create_stream('C', ['c.>']);
my $node = relay_node('main',
	shared_preload_libraries => 'pg_stat_statements, nats_publish',
	'pg_stat_statements.track' => 'all',
	'pg_stat_statements.track_planning' => 'on',
	'nats_publish.url' => $nats->url,
	# it looks when it is woken, and not by itself
	'nats_publish.relay_poll_interval' => '1h',
	# else what it has found has plans made anew
	autovacuum => 'off');
# which looks at the outbox by none of the indexes whose entries are counted
my $session = PsqlSession->new($node, settings => { enable_indexscan => 'off', enable_indexonlyscan => 'off', enable_bitmapscan => 'off' });

# The relay executes its statements as the owner of the tables, by whom they are told from all others.
$session->value(q(CREATE EXTENSION pg_stat_statements; CREATE ROLE relay; GRANT USAGE ON SCHEMA public TO relay;
	ALTER TABLE nats_outbox OWNER TO relay; ALTER TABLE nats_outbox_dead OWNER TO relay; GRANT SELECT ON nats_control TO relay));

sub publish_one
{
	my ($subject) = @_;
	my $id = $session->value("SELECT nats_publish_outbox('$subject', 'x')");
	wait_for('a message to be published', sub { $session->value("SELECT count(*) FROM nats_outbox WHERE id = $id") eq '0' });
	return;
}

# Statements executed, and planned, since the last reset; nats_publish_outbox() inserts as the owner, too.
sub statements
{
	my ($columns) = @_;
	return $session->value("SELECT $columns FROM pg_stat_statements JOIN pg_roles ON pg_roles.oid = userid WHERE rolname = 'relay' AND query !~ '^INSERT'");
}

# The looks into the outbox, one more in a second than it is woken for; the other statements; those that are planned.
sub count_for
{
	my ($messages, $subject) = @_;
	$session->value('SELECT pg_stat_statements_reset()');
	publish_one($subject) foreach 1 .. $messages;
	wait_for_state($session, 'idle');
	# what an array of rows is looked up by is planned for the table as it is then
	return split /\|/, statements(q(coalesce(sum(calls) FILTER (WHERE query ~ 'o\.id > \$1'), 0), coalesce(sum(calls) FILTER (WHERE query !~ 'o\.id > \$1'), 0),
		coalesce(sum(plans) FILTER (WHERE query !~ '^DELETE'), 0)));
}

sub check_cost
{
	my ($messages, $what) = @_;
	my $begun = time;
	my ($looks, $executed, $planned) = count_for($messages, 'c.a');
	my $seconds = time - $begun + 2;
	cmp_ok($looks, '>=', $messages, "$what: a look for each message") or diag(statements('calls, query'));
	cmp_ok($looks, '<=', $messages + $seconds, '... and seldom another one') or diag(statements('calls, query'));
	# what it asks else comes from indexes, and the end of a row needs none
	is($executed, 0, '... of one statement') or diag(statements('calls, query'));
	is($planned, 0, '... that are not planned again') or diag(statements('plans, query'));
	return $seconds;
}

# plans are kept from the sixth time on
publish_one('c.a') foreach 1 .. 6;
check_cost(20, 'an outbox that is empty');

# So it is while a message waits for its stream.
$session->value(q(SELECT nats_publish_outbox('missing.a', 'x')));
wait_for('an attempt', sub { $session->value('SELECT max(attempts) FROM nats_outbox') >= 1 });
# not for so long that it is probed
$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '28 s'));
publish_one('c.a') foreach 1 .. 6;
my $before = $session->value('SELECT attempts FROM nats_outbox');
check_cost(5, 'while a message waits');
is($session->value('SELECT attempts FROM nats_outbox'), $before, 'which is not tried before its time');

is(scalar(@{ [ $client->stream_messages('C') ] }), 37, 'each was published once');

# ---- Many that wait, behind which others do

my $WAITING = 200;
$session->value("SELECT count(nats_publish_outbox('missing.' || i % $WAITING, 'x')) FROM generate_series(1, 10 * $WAITING) AS i");
wait_for('each subject to be tried', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts > 0') >= $WAITING });
$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '28 s' WHERE next_attempt_at IS NOT NULL; ANALYZE nats_outbox));
publish_one('c.a') foreach 1 .. 6;

sub entries_of
{
	my ($which) = @_;
	return $session->value("SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE indexrelname ~ '$which'");
}
$before = entries_of('nats_outbox');
check_cost(20, 'while many wait');
# the first and the last one of those that wait, and the new one; the others wait for none
cmp_ok(entries_of('nats_outbox') - $before, '<=', 20 * 20, '... each of which reads a few entries of indexes');

# ---- Plans that are made when there is next to nothing, and kept

{
	my ($few, $many) = (20, 3000);
	# a page that is there, and empty, as autovacuum may find it
	$session->value('DELETE FROM nats_outbox');
	$session->value('VACUUM FULL nats_outbox');
	publish_one('c.a') foreach 1 .. 3;
	$session->value('ANALYZE nats_outbox');
	$session->value("SELECT count(nats_publish_outbox('missing.few.' || i, 'x')) FROM generate_series(1, $few) AS i");
	my $attempts = sub { $session->value('SELECT sum(attempts) FROM nats_outbox') };
	wait_for('each to be tried', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts > 0') eq $few });
	$session->value("SELECT count(nats_publish_outbox('missing.few.1', 'x')) FROM generate_series(1, $many) AS i");
	my ($entries, $tried) = (entries_of('nats_outbox'), $attempts->());
	$session->value('SELECT nats_outbox_retry_all()');
	wait_for('each to be tried again', sub { $attempts->() >= $tried + $few });
	# those behind the first one are looked through once or twice
	cmp_ok(entries_of('nats_outbox') - $entries, '<', 10 * $many, 'what has become of rows is written down by the index when there are many more');
}

# The same for rows that are looked up among those that have failed
{
	my $lots = 1000;
	my $await_attempts = sub { wait_for('each to be tried', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts = 0') eq '0' }) };
	$session->value('DELETE FROM nats_outbox');
	$session->value('VACUUM FULL nats_outbox');
	publish_one('c.a') foreach 1 .. 3;
	$session->value('ANALYZE nats_outbox');
	# new, and due, which have their plans now
	$session->value(q(SELECT nats_publish_outbox('missing.one', 'x')));
	$await_attempts->();
	$session->value('SELECT nats_outbox_retry_all()');
	$await_attempts->();
	my $entries = entries_of('nats_outbox');
	$session->value("SELECT count(nats_publish_outbox('missing.lots.' || i, 'x')) FROM generate_series(1, $lots) AS i");
	$await_attempts->();
	$session->value('SELECT nats_outbox_retry_all()');
	$await_attempts->();
	cmp_ok(entries_of('nats_outbox') - $entries, '<', 50 * $lots, 'rows are looked up by their subject among those that have failed');
	# what is dead is counted below
	$session->value('DELETE FROM nats_outbox');
	$session->value('VACUUM nats_outbox');
}

# Rows whose time has come, and which wait for another one of their subject that is tried again
{
	my $lots = 10_000;
	my $count = 20;
	$session->value(q(SELECT nats_publish_outbox('held.one', '0')));
	wait_for('it to be tried', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts > 0') eq '1' });
	$session->value("SELECT count(nats_publish_outbox('held.one', i::text, deliver_at => clock_timestamp() + interval '1 s')) FROM generate_series(1, $lots) AS i");
	sleep 2;
	publish_one('c.a') foreach 1 .. 6;
	my $entries = entries_of('nats_outbox_due');
	publish_one('c.a') foreach 1 .. $count;
	cmp_ok(entries_of('nats_outbox_due') - $entries, '<', $count * $lots / 2, 'these are not walked for each message');
	$client->create_stream('HELD', ['held.>']);
	wait_for('an outbox that is empty', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '0' }, 120);
	is(join(' ', map { $_->{payload} } $client->consume('HELD')), join(' ', 0 .. $lots), 'and they go when it has, in order');
	$client->delete_stream('HELD');
	$session->value('VACUUM nats_outbox');
}

# So many that all become due at one time, which the relay does not walk at once, hold up nothing of others.
{
	my $lots = 200_000;
	$session->value(q(INSERT INTO nats_outbox (subject, payload, attempts, next_attempt_at, last_error) VALUES ('c.first', 'x', 1, now() + interval '4 min', 'x')));
	$session->value("INSERT INTO nats_outbox (subject, payload, next_attempt_at) SELECT 'c.first', 'x', now() FROM generate_series(1, $lots)");
	my $id = $session->value(q(INSERT INTO nats_outbox (subject, payload, next_attempt_at) VALUES ('c.other', 'x', now() + interval '1 s') RETURNING id));
	wait_for('what becomes due behind them', sub { $session->value("SELECT count(*) FROM nats_outbox WHERE id = $id") eq '0' });
	is($session->value('SELECT count(*) FROM nats_outbox'), $lots + 1, 'what becomes due behind very many that are held up goes');
	$session->value('DELETE FROM nats_outbox');
	$session->value('VACUUM nats_outbox');
}

# All that has failed of a subject, which nats_outbox_retry_all() makes due at one time: each is behind all others.
{
	my $lots = 50_000;
	my $snapshot = PsqlSession->new($node);
	$snapshot->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
	my $place = $client->stream_info('C')->{state}{last_seq};
	my $entries = entries_of('nats_outbox_waiting');
	$session->value("INSERT INTO nats_outbox_dead (id, subject, payload, msg_id, created_at, attempts, last_error)
		SELECT nextval('nats_outbox_id_seq'), 'c.dead', i::text::bytea, gen_random_uuid(), now(), 1, 'x' FROM generate_series(1, $lots) AS i");
	$session->value('SELECT nats_outbox_retry_all()');
	wait_for('an outbox that is empty', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '0' });
	# once a look, the first one may have to walk what the snapshot keeps of those before it; each would be half of the square
	cmp_ok(entries_of('nats_outbox_waiting') - $entries, '<', $lots * $lots / 20, 'that one waits for another one is not looked up among all');
	my @payloads = map { $_->{payload} } $client->stream_messages('C', $place);
	is(join(' ', @payloads), join(' ', 1 .. $lots), 'and they go in order');
	$snapshot->value('COMMIT');
	$snapshot->close;
	$session->value('VACUUM nats_outbox, nats_outbox_dead');
}

# ---- What VACUUM may not remove

my $DEAD = 5000;
my $COUNT = 50;
my $old = PsqlSession->new($node);
$old->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
$session->value(q(DELETE FROM nats_outbox; SELECT nats_relay_pause()));
# due for long, and so at the low end of the index; and new, as the statistics go on to say
$session->value("INSERT INTO nats_outbox (subject, payload, next_attempt_at) SELECT 'c.b', 'x', now() - interval '1 hour' FROM generate_series(1, $DEAD)");
$session->value("SELECT count(nats_publish_outbox('c.b', 'x')) FROM generate_series(1, $DEAD)");
$session->value('ANALYZE nats_outbox');
$session->value('SELECT nats_relay_resume()');
wait_for('an outbox that is empty', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '0' });
publish_one('c.a') foreach 1 .. 6;
$before = entries_of('nats_outbox_due');
my $seconds = check_cost($COUNT, 'behind dead rows');
cmp_ok(entries_of('nats_outbox_due') - $before, '<=', 2 * $seconds * $DEAD, 'what was due is walked each second, and not for each message');
cmp_ok(2 * $seconds * $DEAD, '<', $COUNT * $DEAD, '... which are more than seconds') or diag("$seconds seconds");

# The same of times that have not come, of what has waited for a stream and does not any more.
{
	my $times = 20 * $DEAD;
	$session->value("INSERT INTO nats_outbox (subject, attempts, last_error, next_attempt_at)
		SELECT 'c.b', 1, '42704: no stream', now() + interval '1 hour' + i * interval '1 s' FROM generate_series(1, $times) i");
	$session->value('DELETE FROM nats_outbox');
	publish_one('c.a') foreach 1 .. 6;
	my $entries = entries_of('nats_outbox_(due|failed)');
	check_cost($COUNT, 'before dead rows');
	# else each look goes through each of both indexes
	cmp_ok(entries_of('nats_outbox_(due|failed)') - $entries, '<', $COUNT * $times, 'what was to be tried later is not walked for each message');
}

# What is committed long after the time that it says is found.
my $late = PsqlSession->new($node);
$late->value('BEGIN');
my $id = $late->value(q(SELECT nats_publish_outbox('c.late', 'x', deliver_at => now() + interval '100 ms')));
publish_one('c.a') foreach 1 .. 6;
sleep 3;
publish_one('c.a');
$late->value('COMMIT');
wait_for('a message that is late', sub { $session->value("SELECT count(*) FROM nats_outbox WHERE id = $id") eq '0' }, 15);
pass('a message that is committed long after its time is published, too');
$old->value('COMMIT');
$_->close foreach $old, $late;

# What many rows have taken is given back when they are gone; larger ones than these have memory of their own

$session->value(q(SELECT count(nats_publish_outbox('c.many', repeat('x', 5000))) FROM generate_series(1, 2000)));
wait_until_drained($session);
wait_for_state($session, 'idle');
my $offset = log_length($node);
$session->value('SELECT pg_log_backend_memory_contexts(' . relay_pid($session) . ')');
my ($line) = wait_for('the memory contexts', sub { [ log_lines($node, $offset, qr/nats_publish relay rows: \d+ total/) ]->[0] });
my ($total) = $line =~ /rows: (\d+) total/;
cmp_ok($total, '<', 2_500_000, 'the memory of rows is given back');

# ---- Where only a statement may ask

# What was rolled back beside one long transaction may be that one's: it is looked for there once, and when that has ended.
{
	my $long = PsqlSession->new($node);
	my $short = PsqlSession->new($node);
	my $place = $client->stream_info('C')->{state}{last_seq};
	$long->value(q(BEGIN; SELECT nats_publish_outbox('c.long', 'x')));
	for (1 .. 300)
	{
		$short->value(q(BEGIN; SELECT nats_publish_outbox('c.never', 'x'); ROLLBACK));
		$short->value(q(SELECT nats_publish_outbox('c.a', 'x')));
	}
	wait_for('all but one', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '0' });
	my $scans = sub { $session->value(q(SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relname = 'nats_outbox')) };
	# the relay tells of them at most once a second, when it has written
	my $tell = sub { sleep 1.5; publish_one('c.a'); };
	$tell->();
	my $before = $scans->();
	for (1 .. 50)
	{
		$short->value(q(BEGIN; SELECT nats_publish_outbox('c.short', 'x')));
		publish_one('c.a');
		$short->value('COMMIT');
	}
	$tell->();
	cmp_ok($scans->() - $before, '<', 52 * 20, 'a long writer costs the short ones little');
	$long->value('COMMIT');
	wait_for('the long one', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '0' });
	is(scalar(grep { $_->{subject} eq 'c.long' } $client->stream_messages('C', $place)), 1, 'and is published when it ends');
}

# A row waits for its time, and another one for a row of its subject: once tried, the first one is as if it had failed.
sub check_order
{
	my ($what) = @_;
	my $place = $client->stream_info('C')->{state}{last_seq};
	$session->value(q(INSERT INTO nats_outbox (subject, payload, attempts, next_attempt_at, last_error)
		VALUES ('c.held', 'first', 1, now() + interval '28 s', 'x')));
	$session->value(q(SELECT nats_publish_outbox('c.held', 'second'), nats_publish_outbox('c.a', 'other')));
	wait_for('the other one to go', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '2' });
	$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '1 s' WHERE last_error = 'x'; SELECT nats_relay_resume()));
	wait_for('an outbox that is empty', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '0' }, 15);
	my @payloads = map { $_->{payload} } $client->stream_messages('C', $place);
	is("@payloads", 'other first second', "$what: one row waits for another one, which waits for its time, and others go");
	return;
}
$session->value('DELETE FROM nats_outbox');
check_order('by its indexes');
$session->value(q(ALTER TABLE nats_outbox FORCE ROW LEVEL SECURITY; ALTER TABLE nats_outbox ENABLE ROW LEVEL SECURITY;
	CREATE POLICY p ON nats_outbox USING (true)));
check_order('with policies of the table');
$session->value(q(DROP POLICY p ON nats_outbox; ALTER TABLE nats_outbox NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY));
$session->value('DROP INDEX nats_outbox_waiting; CREATE INDEX nats_outbox_waiting ON nats_outbox (subject, id)');
check_order('with another index');
$session->value('DROP INDEX nats_outbox_waiting, nats_outbox_due, nats_outbox_failed');
check_order('without them');
# what is asked without a statement is asked by right all the same
$session->value('ALTER TABLE nats_control OWNER TO relay; REVOKE SELECT ON nats_control FROM relay; DROP POLICY IF EXISTS p ON nats_outbox');
$session->value(q(SELECT nats_publish_outbox('c.a', 'x')));
wait_for_state($session, 'no rights');
$session->value('GRANT SELECT ON nats_control TO relay');
wait_for('an outbox that is empty', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '0' }, 15);
pass('no more than its owner may read is read');

done_testing();
