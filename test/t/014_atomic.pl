
# Atomic commits: what a transaction holds is in the stream completely, or not at all. NATS_SERVER_NEW names the
# binary of a nats-server that has them (2.12 or later).

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;

plan skip_all => 'NATS_SERVER_NEW does not name a newer nats-server' unless $ENV{NATS_SERVER_NEW};

my $nats = NatsServer->new(name => 'new', jetstream => 1, binary => $ENV{NATS_SERVER_NEW})->start;
my $old = NatsServer->new(name => 'old', jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.commit_batch' => 'atomic',
	'nats_publish.commit_timeout' => '60s',
	'restart_after_crash' => 'on');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');
my $session = PsqlSession->new($node);

is($session->value(q(SELECT nats_create_stream('A', '{a.>}', '{"allow_atomic": true, "storage": "memory"}') #>> '{config,allow_atomic}')),
	'true', 'nats_create_stream() makes a stream that allows it');
$client->create_stream('B', ['b.>'], allow_atomic => \1);
$client->create_stream('PLAIN', ['plain.>']);
$client->create_stream('SMALL', ['small.>'], allow_atomic => \1, max_msgs => 10, discard => 'new');
$client->create_stream('SIZED', ['sized.>'], allow_atomic => \1, max_msg_size => 1000);

sub stored { my ($stream) = @_; return $client->stream_info($stream // 'A')->{state}{messages}; }
sub rows { return $node->safe_psql('postgres', 'SELECT count(*) FROM t'); }
sub payloads { my ($stream) = @_; return map { $_->{payload} } $client->stream_messages($stream // 'A'); }

sub clean
{
	# a new stream, which knows no id
	$client->delete_stream('A');
	$client->create_stream('A', ['a.>'], allow_atomic => \1, @_);
	$client->purge($_) foreach qw(B PLAIN SMALL SIZED);
	$node->safe_psql('postgres', 'TRUNCATE t');
	return;
}

# Runs a transaction of a row and of these calls, to its COMMIT. A call is its arguments, or a number and arguments with i.
sub commit
{
	my (@calls) = @_;
	my $held = join ' ', map {
		my ($count, $arguments) = ref $_ ? @$_ : (1, $_);
		"SELECT count(nats_publish_on_commit($arguments)) FROM generate_series(1, $count) i \\g /dev/null\n" } @calls;
	my $result = $session->run("BEGIN; INSERT INTO t VALUES (1);\n${held}COMMIT");
	$session->run('ROLLBACK');
	return $result;
}

# A COMMIT that fails: with what, and that nothing is left of it anywhere.
sub fails
{
	my ($what, $sqlstate, $regexp, @calls) = @_;
	my $before = join ' ', map { stored($_) } qw(A B PLAIN SMALL SIZED);
	my $rows = rows();
	my $result = commit(@calls);
	is($result->{sqlstate}, $sqlstate, $what) or diag($result->{error});
	like($result->{error}, $regexp, 'it says why');
	is(join(' ', map { stored($_) } qw(A B PLAIN SMALL SIZED)), $before, 'nothing is stored');
	is(rows(), $rows, 'no row');
	return $result;
}

# All of it

foreach my $count (1, 2, 10, 999, 1000)
{
	clean();
	my $result = commit([ $count, q('a.b', i::text) ]);
	is($result->{error}, '', "$count messages");
	is_deeply([ payloads() ], [ 1 .. $count ], 'are in the stream, in order');
	is(rows(), 1, 'and the row');
}
is_deeply([ map { $_->{headers}{'Nats-Batch-Sequence'}[0] } $client->stream_messages('A') ], [ 1 .. 1000 ], 'as one batch');
is($session->value('SELECT published, acked, failed FROM nats_session_stats()'), '2012|2012|0', 'they are counted');
clean();
is(commit(q('a.1', 'x', '{"A": "1"}'), q('a.2', NULL::text), q('a.3', ''), q('a.4', '\x00ff0a'::bytea), q('a.5', '{"a": 1}'::jsonb),
	q('a.6', repeat('x', 900000), msg_id => 'my id'), q('a.7', 'x', expect_stream => 'A'))->{error}, '', 'all kinds of messages');
is_deeply([ map { $_->{subject} . ' ' . length $_->{payload} } $client->stream_messages('A') ],
	[ 'a.1 1', 'a.2 0', 'a.3 0', 'a.4 3', 'a.5 8', 'a.6 900000', 'a.7 1' ], 'are stored as they are');
is_deeply($client->get_message('A', 1)->{headers}{A}, ['1'], 'with their headers');
is_deeply($client->get_message('A', 6)->{headers}{'Nats-Msg-Id'}, ['my id'], 'and ids');
is($client->get_message('A', 4)->{payload}, "\x00\xff\x0a", 'byte by byte');
clean();
is($session->value(q(SET nats_publish.auto_msg_id = off; SET nats_publish.max_pending = 1; SET work_mem = '64kB';
	SELECT count(nats_publish_on_commit('a.b', repeat('x', 1000) || i)) FROM generate_series(1, 1000) i;
	RESET nats_publish.auto_msg_id; RESET nats_publish.max_pending; RESET work_mem)), '1000', 'without ids, from a file');
is(stored(), 1000, 'all');
$session->value(q(BEGIN; SELECT nats_publish_on_commit('a.c', '1'); SAVEPOINT s;
	SELECT count(nats_publish_on_commit('a.c', 'x')) FROM generate_series(1, 2000); ROLLBACK TO s;
	SELECT nats_publish_on_commit('a.c', '2'); COMMIT));
is_deeply([ (payloads())[ 1000, 1001 ] ], [ 1, 2 ], 'without what was rolled back');

# What can be told before anything is sent

clean();
fails('1,001 messages', '54000', qr/1001 messages, the limit is 1000.*HINT/s, [ 1001, q('a.b', i::text) ]);
fails('an id twice', '22023', qr/"twice"/, q('a.b', '1', msg_id => 'twice'), q('a.b', '2', msg_id => 'once'), q('a.b', '3', msg_id => 'twice'));
fails('an id twice, once as a header', '22023', qr/"twice"/, q('a.b', '1', msg_id => 'twice'), q('a.b', '2', '{"nats-msg-id": "twice"}'));
fails('expect_last_seq of the second message', '22023', qr/expect_last_seq/, q('a.b', '1'), q('a.b', '2', expect_last_seq => 0));
fails('expect_last_subject_seq of a subject that the batch has', '22023', qr/expect_last_subject_seq.*"a\.b"/,
	q('a.b', '1'), q('a.c', '1', expect_last_subject_seq => 0), q('a.b', '2', expect_last_subject_seq => 0));
fails('a message that is too large', '54000', qr/max_payload/, q('a.b', '1'), q('a.b', repeat('x', 1048500)));

# What the server refuses

fails('two streams', '0A000', qr/could not publish the transaction's messages as one batch/, q('a.b', '1'), q('b.b', '1'));
fails('two streams, alternating', '0A000', qr/one batch/, [ 20, q((CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END) || '.b', '1') ]);
fails('a stream that does not allow it', '0A000', qr/HINT: .*allow_atomic/s, q('plain.b', '1'), q('plain.b', '2'));
fails('one message to a stream that does not allow it', '0A000', qr/HINT: .*allow_atomic/s, q('plain.b', '1'));
fails('no stream', '42704', qr/HINT: .*nats_create_stream/s, q('nowhere.b', '1'), q('nowhere.b', '2'));
fails('no stream for the last one', '42704', qr/stream/, q('a.b', '1'), q('nowhere.b', '2'));
fails('no stream for the first one', '42704', qr/stream/, q('nowhere.b', '1'), q('a.b', '2'));
fails('more than the stream may have', '53400', qr/maximum messages/, [ 11, q('small.b', i::text) ]);
is(commit([ 10, q('small.b', i::text) ])->{error}, '', 'as many as it may');
fails('a message that is larger than the stream allows', '54000', qr/batch/, q('sized.b', '1'), q('sized.b', repeat('x', 1001)));
fails('another stream than the expected one', '40001', qr/batch/, q('a.b', '1', expect_stream => 'B'));

is($session->value(q(SET nats_publish.commit_batch = pipelined; SELECT nats_publish_on_commit('a.b', '0', msg_id => 'known'); RESET nats_publish.commit_batch)),
	'', 'an id is stored');
fails('an id that is stored already', '23505', qr/duplicate/, q('a.b', '1'), q('a.b', '2', msg_id => 'known'), q('a.b', '3'));
fails('as the only one', '23505', qr/duplicate/, q('a.b', '2', msg_id => 'known'));

# Optimistic concurrency

clean();
is(commit(q('a.account', '1', expect_last_subject_seq => 0), q('a.log', '2'))->{error}, '', 'expect_last_subject_seq => 0');
fails('that is not so any more', '40001', qr/wrong last sequence/, q('a.account', '3', expect_last_subject_seq => 0), q('a.log', '4'));
fails('also in the middle of the batch', '40001', qr/wrong last sequence/, q('a.log', '3'), q('a.account', '4', expect_last_subject_seq => 0), q('a.log', '5'));
fails('a wrong expect_last_seq', '40001', qr/wrong last sequence/, q('a.account', '3', expect_last_seq => 1), q('a.log', '4'));
is(commit(q('a.account', '3', expect_last_subject_seq => 1), q('a.log', '4', expect_last_subject_seq => 2))->{error}, '', 'the right ones');
is(commit(q('a.account', '5', expect_last_seq => 4, expect_last_subject_seq => 3), q('a.log', '6'))->{error}, '', 'both');
is_deeply([ payloads() ], [ 1 .. 6 ], 'six messages');

my $other = PsqlSession->new($node);
foreach my $round (1 .. 5)
{
	my $last = (grep { $_->{subject} eq 'a.account' } $client->stream_messages('A'))[-1]{seq};
	my $hold = qq(BEGIN; SELECT nats_publish_on_commit('a.account', 'x', expect_last_subject_seq => $last), nats_publish_on_commit('a.log', 'x'));
	my $before = stored();
	$_->value($hold) foreach $session, $other;
	$_->begin('COMMIT') foreach $session, $other;
	is(join(' ', sort map { $_->finish->{sqlstate} } $session, $other), ' 40001', 'of two sessions that expect the same, one commits');
	is(stored(), $before + 2, 'and is in the stream');
}

# What others see: who can read the first message can read the last one too. (The counters of STREAM.INFO move while
# the server stores the batch, but no message of it can be read.)

clean();
{
	my ($looks, $first_seen, $parts) = (0, 0, 0);
	foreach my $round (1 .. 10)
	{
		$session->value(q(BEGIN; SELECT count(nats_publish_on_commit('a.b', repeat('x', 1000))) FROM generate_series(1, 1000)));
		$parts++ if $client->get_message('A', $round * 1000 - 999);
		$session->begin('COMMIT');
		while ($session->is_running)
		{
			$looks++;
			$client->get_message('A', $round * 1000 - 999) or next;
			$first_seen++;
			$parts++ unless $client->get_message('A', $round * 1000);
		}
		$session->finish;
		$parts++ unless $client->get_message('A', $round * 1000);
	}
	note("$looks looks, $first_seen of which saw the first message");
	cmp_ok($looks, '>', 0, 'others look during COMMIT');
	is($parts, 0, 'nobody sees a part of a batch');
	is(stored(), 10_000, 'all are stored in the end');
}

# With messages that are sent at once: a failure keeps the batch from being sent

clean();
commit([ 10, q('small.b', i::text) ]);
is($session->sqlstate(q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('small.b', 'x'); SELECT nats_publish_on_commit('a.b', 'x'); COMMIT)),
	'53400', 'an asynchronous message that failed');
is(stored(), 0, 'the batch is not sent');
is($session->value(q(BEGIN; SELECT nats_publish_async('a.b', '1') > 0; SELECT nats_publish_on_commit('a.b', '3'); SELECT (nats_publish('b.b', 'x')).stream;
	SELECT nats_publish_async('a.b', '2') > 0; COMMIT)), "t\n\nB\nt", 'good ones');
is_deeply([ payloads() ], [ 1 .. 3 ], 'come first');
is($session->value(q(BEGIN; SELECT nats_publish_async('small.b', 'x') > 0; SAVEPOINT s; ROLLBACK TO s; ROLLBACK; BEGIN; COMMIT)), 't', 'nothing held is no batch');

# A server that does not have it

$client = NatsClient->new(url => $old->url);
SKIP:
{
	skip 'the installed nats-server is a newer one', 10 if $client->info->{version} !~ /^2\.(9|1[01])\./;
	$client->create_stream($_, [ lc($_) . '.>' ]) foreach qw(A B PLAIN SMALL SIZED);
	my $new_session = $session;
	$session = PsqlSession->new($node, settings => { 'nats_publish.url' => $old->url });
	fails('an older server', '0A000', qr/2\.12/, q('a.b', '1'), q('a.b', '2'));
	fails('one message', '0A000', qr/2\.12/, q('a.b', '1'));
	is($session->value(q(SET nats_publish.commit_batch = pipelined; SELECT nats_publish_on_commit('a.b', '1'))), '', 'pipelined it goes');
	is(stored(), 1, 'to the stream');
	$session = $new_session;
	is($session->error(q(SET nats_publish.url = ') . $old->url . q('; SELECT nats_publish_on_commit('a.b', '1'))) =~ /0A000/, 1,
		'also when the session knew a newer one');
	$session->close;
}
$client = NatsClient->new(url => $nats->url);

# A backend that is killed in COMMIT: the stalled server has got a part of the batch, or all of it. What it has got
# of a connection that is reset it may read to the end or not, so all of it can still be none.

foreach my $case ([ 'a part of the batch is sent', 900_000, qr/^0$/ ], [ 'all of the batch is sent', 10, qr/^(0|100)$/ ])
{
	my ($what, $size, $expected) = @$case;
	clean();
	my $killed = PsqlSession->new($node);
	$killed->value(q(SELECT nats_publish_on_commit('b.warm', '')));
	$killed->value("BEGIN; INSERT INTO t VALUES (1); SELECT count(nats_publish_on_commit('a.b', repeat('x', $size))) FROM generate_series(1, 100)");
	$nats->stall;
	$killed->begin('COMMIT');
	$killed->wait_until_waiting;
	kill 'KILL', $killed->pid;
	wait_for('the backend to end', sub { !process_is_there($killed->pid) });
	$killed->kill;
	$nats->resume;
	wait_until_back($node);
	sleep 1;
	like(stored(), $expected, "killed when $what: all or none");
	is(rows(), 0, 'no row');
}

# The same, whenever it happens to be

{
	my %seen;
	foreach my $round (1 .. 6)
	{
		clean(storage => 'file');
		my $killed = PsqlSession->new($node);
		$killed->value("SELECT nats_publish_on_commit('b.warm', ''); BEGIN; SELECT count(nats_publish_on_commit('a.b', repeat('x', 10000))) FROM generate_series(1, 1000)");
		$killed->begin('COMMIT');
		sleep 0.004 * $round;
		kill 'KILL', $killed->pid;
		wait_for('the backend to end', sub { !process_is_there($killed->pid) });
		$killed->kill;
		wait_until_back($node);
		sleep 0.2;
		$seen{ stored() }++;
	}
	note('stored: ' . join ', ', map { "$_ ($seen{$_} times)" } sort keys %seen);
	is(scalar(grep { $_ != 0 && $_ != 1000 } keys %seen), 0, 'killed at any time: all or none');
}

# A max_payload that is lowered when messages are held

{
	clean();
	my $held = PsqlSession->new($node);
	$held->value(q(SELECT nats_publish_on_commit('b.warm', '')));
	$held->value(q(BEGIN; INSERT INTO t VALUES (1); SELECT count(nats_publish_on_commit('a.b', repeat('x', 5000))) FROM generate_series(1, 3)));
	$nats->set_config('max_payload: 2000', reload => 1);
	my $result = $held->run('COMMIT');
	is($result->{sqlstate}, '58030', 'a max_payload that is lowered before COMMIT ends the connection that the batch is sent on');
	like($result->{error}, qr/the next server can't take it/, 'which then does not take it again');
	$nats->set_config('', reload => 1);
	is(stored() . ' ' . rows(), '0 0', 'nothing is stored');
}

# Cancel and terminate

foreach my $signal ('INT', 'TERM')
{
	clean();
	my $ended = PsqlSession->new($node);
	$ended->value(q(SELECT nats_publish_on_commit('b.warm', '')));
	$ended->value(q(BEGIN; INSERT INTO t VALUES (1); SELECT count(nats_publish_on_commit('a.b', repeat('x', 900000))) FROM generate_series(1, 50)));
	$nats->stall;
	$ended->begin('COMMIT');
	$ended->wait_until_waiting;
	kill $signal, $ended->pid;
	my $started = time;
	is($ended->finish->{sqlstate}, $signal eq 'INT' ? '57014' : '57P01', "SIG$signal ends COMMIT");
	cmp_ok(time - $started, '<', 20, 'at once');
	$nats->resume;
	is(rows(), 0, 'no row');
	next if $signal eq 'TERM';
	$ended->value(q(SELECT nats_publish_on_commit('a.b', 'after')));
	is($client->get_message('A', stored())->{payload}, 'after', 'the session goes on');
	like(stored(), qr/^(1|51)$/, 'and the batch is there completely, or not at all');
}

# A server that does not answer in time

{
	clean();
	my $bounded = PsqlSession->new($node, settings => { 'nats_publish.commit_timeout' => '1s' });
	$bounded->value(q(SELECT nats_publish_on_commit('b.warm', '')));
	$bounded->value(q(BEGIN; INSERT INTO t VALUES (1); SELECT count(nats_publish_on_commit('a.b', 'x')) FROM generate_series(1, 3)));
	$nats->stall;
	my $result = $bounded->run('COMMIT');
	is($result->{sqlstate}, '58030', 'a server that does not answer in time');
	like($result->{error}, qr/no acknowledgment arrived within 1000 ms.*HINT:  Read the stream/s, 'the error tells where to look');
	$nats->resume;
	is(rows(), 0, 'no row');
	like(stored(), qr/^[03]$/, 'all of the batch is stored, or nothing');
}

# A subject that the NATS user may not publish to

{
	clean();
	$nats->set_config('authorization { users: [ { user: app, password: secret, permissions: { publish: { deny: ["b.>"] } } } ] }', reload => 1);
	my $denied = PsqlSession->new($node, settings => { 'nats_publish.url' => $nats->url =~ s{//}{//app:secret@}r });
	is($denied->sqlstate(q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_on_commit('a.b', 'x'); SELECT nats_publish_on_commit('b.b', 'x'); COMMIT)),
		'42501', 'a message of the batch that is not permitted');
	$nats->set_config('', reload => 1);
	$client = NatsClient->new(url => $nats->url);
	is(stored() . ' ' . stored('B') . ' ' . rows(), '0 0 0', 'none is stored');
}

done_testing();
