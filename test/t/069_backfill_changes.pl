
# Rows that are published while their table, its key or its publication becomes another one; and what is on its way of a chunk
# that has failed.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use PsqlSession;
use PublishTest;

my ($nats, $client) = nats_with_stream('B', ['b.>'], storage => 'file');
my $node = publishing_node('main', 'nats_publish.url' => $nats->url);
my $session = PsqlSession->new($node);
my $other = PsqlSession->new($node);

# ---- What is on its way when a chunk fails ----

# Then others can change the rows: what was read before must not come behind that. So its connection is closed, with what
# has not arrived.
foreach my $delivery ('on_commit', 'async', 'sync')
{
	$other->value(qq(CREATE TABLE stalled_$delivery (id int PRIMARY KEY); INSERT INTO stalled_$delivery SELECT generate_series(1, 20);
		SELECT nats_publish_table('stalled_$delivery', 'b.stalled', delivery => '$delivery')));
	my $reader = PsqlSession->new($node);
	my $client_id = sub { $reader->value('SELECT client_id FROM nats_server_info()') };
	my $connection = $client_id->();
	$nats->stall;
	$reader->begin("CALL nats_publish_rows('stalled_$delivery')");
	$reader->wait_until_waiting;
	$other->value('SELECT pg_cancel_backend(' . $reader->pid . ')');
	my $call = $reader->finish;
	$nats->resume;
	is($call->{sqlstate}, '57014', "$delivery: a call is cancelled while the server stands still");
	isnt($client_id->(), $connection, 'which ends its connection');
	is($reader->sqlstate("CALL nats_publish_rows('stalled_$delivery')"), '', 'the same call goes on');
	is($reader->value("SELECT rows_published FROM nats_publish_rows_progress WHERE relation = 'stalled_$delivery'::regclass"), 20, 'with all rows');
	$reader->close;
}
is($client->stream_info('B')->{state}{messages}, 60, 'each is stored once');

# ---- What is missing ----

# Which messages are refused is known before a chunk is written down, and COMMIT says what is wrong with them.
{
	$other->value(q(CREATE TABLE missing (id int PRIMARY KEY); INSERT INTO missing SELECT generate_series(1, 20);
		SELECT nats_publish_table('missing', 'b.missing.{id}'); INSERT INTO missing SELECT generate_series(21, 25)));
	my $reader = PsqlSession->new($node);
	$reader->value('SELECT client_id FROM nats_server_info()');
	$nats->stall;
	my $call = $reader->run(q(SET nats_publish.commit_timeout = '500ms'; CALL nats_publish_rows('missing', only_missing => true)));
	$nats->resume;
	$reader->value('RESET nats_publish.commit_timeout');
	is($call->{sqlstate}, '58030', 'a server that stands still ends the call');
	like($call->{error}, qr/could not publish 25 messages of this transaction.*DETAIL: +"b\.missing\.1": /s, 'and its messages are told of, as by any COMMIT');
	like($reader->run(q(CALL nats_publish_rows('missing', only_missing => true, batch => 10)))->{error},
		qr/rows of table "missing": \d+ published, \d+ left out, of 25 read/, 'the same call goes on');
	is($reader->value(q(SELECT rows_published + rows_left_out, rows_left_out >= 5 FROM nats_publish_rows_progress WHERE relation = 'missing'::regclass)), '25|t',
		'each row was published or left out');
	is(scalar(grep { $_->{subject} =~ /^b\.missing\./ } $client->stream_messages('B')), 25, 'and is there once');
	$reader->close;
}

# ---- The table becomes another one ----

# Something happens between two chunks; what the call ends with, and what another one like it. The chunk before it waits for a
# row, and what locks the table waits for that chunk, and goes before the next one.
sub in_the_middle
{
	my ($what, $change, $state, $again, $count) = @_;
	$client->purge('B');
	$other->value(q(DROP TABLE IF EXISTS t; DELETE FROM nats_publish_rows_runs; CREATE TABLE t (id int PRIMARY KEY, v text DEFAULT 'x' NOT NULL, w text);
		INSERT INTO t SELECT generate_series(1, 100); SELECT nats_publish_table('t', 'b.t', msg_id => NULL)));
	my $holder = PsqlSession->new($node);
	$holder->value('BEGIN; SELECT FROM t WHERE id = 60 FOR UPDATE');
	$session->begin(q(CALL nats_publish_rows('t', batch => 10)));
	wait_for('some chunks', sub { $holder->value('SELECT rows_read FROM nats_publish_rows_progress') eq '50' });
	$other->begin($change);
	my $waits = 'SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ' . $other->pid;
	wait_for('the change, or it to wait', sub { !$other->is_running || $holder->value($waits) eq '1' });
	$holder->value('COMMIT');
	is($other->finish->{sqlstate}, '', "$what: it happens");
	$holder->close;
	my $call = $session->finish;
	is($call->{sqlstate}, $state, 'the call ends as it should') or diag($call->{error});
	is($other->value('SELECT left(error, 5) FROM nats_publish_rows_progress'), $state eq '57014' ? '' : $state, 'which is seen');
	is($session->sqlstate(q(CALL nats_publish_rows('t', batch => 10))), $again, 'the same call ends in its way');
	return if $again ne '';
	my %seen;
	$seen{ $_->{payload} =~ /"(?:id|key)":"?(\d+)/ ? $1 : '' }++ foreach $client->stream_messages('B');
	is(join(' ', grep { !$seen{$_} } 1 .. 100), '', 'and each row was published');
	return $call;
}

in_the_middle('dropped', 'DROP TABLE t', '42809', '42P01');
in_the_middle('unpublished', q(SELECT nats_unpublish_table('t')), '22023', '22023');
in_the_middle('without a key', 'ALTER TABLE t DROP CONSTRAINT t_pkey', '22023', '22023');
in_the_middle('a key of another type', 'ALTER TABLE t ALTER id TYPE text', '55006', '55006');
in_the_middle('another key', 'ALTER TABLE t DROP CONSTRAINT t_pkey, ALTER v DROP DEFAULT, ALTER v TYPE int USING 1000 - id, ADD PRIMARY KEY (v)', '55006', '55006');
in_the_middle('a longer key', 'ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, v)', '55006', '55006');
in_the_middle('the key has another name', 'ALTER TABLE t RENAME id TO key', '', '');
in_the_middle('other columns', 'ALTER TABLE t DROP v, ADD n int DEFAULT 5', '', '');
in_the_middle('written anew', 'VACUUM FULL t', '', '');
in_the_middle('other options', q(SELECT nats_publish_table('t', 'b.{table}.{id}', format => 'debezium', delivery => 'async')), '', '');
in_the_middle('made once more', q(DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100); SELECT nats_publish_table('t', 'b.t')), '42809', '');
my $stopped = in_the_middle('stopped', q(SELECT nats_publish_rows_stop('t')), '57014', '');
like($stopped->{error}, qr/HINT:  Repeat the same call to go on where this one ended/, 'it says how to go on');
is($client->stream_info('B')->{state}{messages}, 100, 'where it was');
my $forgotten = in_the_middle('forgotten', q(SELECT nats_publish_rows_stop('t', forget => true)), '57014', '');
like($forgotten->{error}, qr/HINT:  The same call begins with the first row again/, 'or that it does not');
is($client->stream_info('B')->{state}{messages}, 60 + 100, 'it does not');

# ---- Chunks leave nothing behind ----

{
	$other->value(q(CREATE TABLE keys (k text PRIMARY KEY); INSERT INTO keys SELECT i || repeat('k', 1000) FROM generate_series(1, 2000) AS i;
		SELECT nats_publish_table('keys', 'b.keys')));
	$session->value(q(SET client_min_messages = warning; CALL nats_publish_rows('keys', 'false', batch => 100)));
	my $before = process_memory($session->pid);
	my ($peak) = peak_memory($session, q(CALL nats_publish_rows('keys', 'false', batch => 1)));
	note("memory grows by @{[ $peak - $before ]} kB");
	cmp_ok($peak - $before, '<', 1500, '2000 keys are not kept');
}

$_->close foreach $session, $other;
unlike(slurp_file($node->logfile), qr/PANIC|leak|XX000/, 'nothing else has happened');

done_testing();
