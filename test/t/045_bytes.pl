
# What becomes of the bytes of a message that nobody waits for any more, how long one may be sent again, and that nothing is
# judged before what has arrived is read.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use SilentProxy;

my $MB = 1024 * 1024;

my ($nats, $client) = nats_with_stream('T', ['t.>'], storage => 'file');
my ($second, $second_client) = nats_with_stream('T', ['t.>'], storage => 'file');
my $node = publishing_node('main', 'nats_publish.url' => $nats->url, 'nats_publish.ack_timeout' => '60s', 'nats_publish.commit_timeout' => '60s');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');
my $watcher = PsqlSession->new($node);

sub session { return publishing_session($node, @_); }
sub stored { my ($subject, $from) = @_; return map { $_->{payload} } grep { $_->{subject} eq $subject } ($from // $client)->stream_messages('T'); }

# Bytes until they stay the same for a while: all that kernels take.
sub settled
{
	my ($bytes) = @_;
	my ($before, $now) = (-1, 0);
	while ($before != $now) { $before = $now; sleep 0.5; $now = $bytes->(); }
	return $now;
}

# How many bytes the kernel has to send for a backend.
sub unsent_in_kernel
{
	my ($port) = @_;
	my $sum = 0;
	foreach my $line (split /\n/, slurp_file('/proc/net/tcp'))
	{
		my ($remote, $queue) = $line =~ /^\s*\d+: \S+ \w+:(\w{4}) \w\w (\w+):/ or next;
		$sum += hex $queue if hex $remote == $port;
	}
	return $sum;
}

# ---- Held messages of a COMMIT that fails do not arrive after it

# 32 MB to a box that takes nothing, so nearly all of it is in our memory or in our kernel when COMMIT ends
my $HELD = q(BEGIN; INSERT INTO t VALUES (1); SELECT count(nats_publish_on_commit('t.held.%s', repeat('x', 8000))) FROM generate_series(1, 4000));
my %ends = (
	'cancelled' => [ sub { $watcher->value("SELECT pg_cancel_backend($_[0])"); }, '57014' ],
	'terminated' => [ sub { $watcher->value("SELECT pg_terminate_backend($_[0])"); }, '57P01' ],
	'not answered in time' => [ sub { }, '580[03]0' ]);
foreach my $how (sort keys %ends)
{
	my ($end, $sqlstate) = @{ $ends{$how} };
	my $subject = $how =~ s/ /_/gr;
	my $box = SilentProxy->new($nats, buffer => 8192);
	my $session = session(url => $box->url, $how =~ /time/ ? (commit_timeout => '5s') : ());
	$session->value(q(SELECT nats_publish('t.warm', 'x')));
	$box->hold('client');
	$session->value(sprintf $HELD, $subject);
	$session->value(qq(SELECT nats_publish_async('t.uncritical.$subject', 'u', critical => false)));
	my $passed = $box->passed('client');
	$session->begin('COMMIT');
	cmp_ok(settled(sub { unsent_in_kernel($box->port) }), '>', 0, 'the kernel has a part of it') unless $how =~ /time/;
	$end->($session->pid);
	like($session->finish->{sqlstate}, qr/^$sqlstate$/, "COMMIT is $how");
	$box->pass;
	if ($how ne 'terminated')
	{
		is($session->run(q(SELECT (nats_publish('t.after', 'x')).stream))->{output}, 'T', 'the session goes on');
		is(join(' ', stored("t.uncritical.$subject")), 'u', 'and what was not held has been sent once');
	}
	# the connection of the COMMIT has ended, if it had to, and what was on its way has gone through
	wait_for('the box to be empty', sub { $box->open_connections == ($how eq 'terminated' ? 0 : 1) });
	my $arrived = settled(sub { scalar stored("t.held.$subject") });
	cmp_ok($arrived, '<=', 40, 'there is no more than what had left the machine when it ended');
	sleep 1;
	is(scalar stored("t.held.$subject"), $arrived, 'and nothing more arrives');
	is($watcher->value('SELECT count(*) FROM t'), '0', 'and the rows are not there');
}

# An atomic batch of 20 MB, to a server that does not read: it is told where it has come to when it goes on.
foreach my $how ('cancelled', 'terminated')
{
	my ($end, $sqlstate) = @{ $ends{$how} };
	my $go_on = PostgreSQL::Test::Utils::tempdir('batch') . '/go_on';
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->handshake(version => '"2.12.0"');
			my $command;
			do { $command = $peer->next_command; } until !$command || $command->{verb} eq 'PUB' || $command->{verb} eq 'HPUB';
			if ($command)
			{
				$peer->reply($command, '{"stream":"T","seq":1}');
				$peer->note('held up');
				sleep 0.05 until -e $go_on;
				my $members = 0;
				my $commits = 0;
				while ($command = eval { $peer->next_command } // undef)
				{
					next unless $command->{verb} eq 'PUB' || $command->{verb} eq 'HPUB';
					$members++;
					$commits++ if $command->{batch} && $command->{batch}{commit};
				}
				$peer->note("$members members, $commits commits");
			}
			return;
		});
	my $session = session(url => $fake->url, commit_batch => 'atomic');
	$session->value(q(SELECT nats_publish('t.a', 'warm')));
	is($fake->next_event, 'held up', 'a server that knows batches stops reading');
	$session->value(q(BEGIN; SELECT count(nats_publish_on_commit('t.a', repeat('x', 20000))) FROM generate_series(1, 1000)));
	$session->begin('COMMIT');
	settled(sub { unsent_in_kernel($fake->port) });
	$end->($session->pid);
	is($session->finish->{sqlstate}, $sqlstate, "an atomic COMMIT is $how");
	append_to_file($go_on, '');
	like($fake->next_event, qr/^\d{1,3} members, 0 commits$/, 'the server is not sent all of the batch, nor its commit');
}

# ---- What is unsent counts, whoever waits for it

{
	my $session = session(max_pending_bytes => '4MB');
	$session->value(q(SELECT nats_publish('t.warm', 'x')));
	my $before = process_memory($session->pid);
	$nats->stall;
	my %count;
	foreach my $round (1 .. 40)
	{
		my $result = $session->run(q(SET statement_timeout = '100ms'; BEGIN; SELECT nats_publish_async('t.large', repeat('x', 1000000)); ROLLBACK));
		$count{ $result->{sqlstate} }++;
		$session->run('ROLLBACK');
	}
	cmp_ok($count{57014} // 0, '>', 20, 'what was rolled back, and is not sent, is waited for');
	$session->run(q(SELECT nats_publish('t.large', repeat('x', 1000000)))) foreach 1 .. 40;
	cmp_ok((process_memory($session->pid) - $before) / 1024, '<', 16, 'so that memory stays within max_pending_bytes, also with calls that were cancelled');
	$nats->resume;
	is($session->value(q(SET statement_timeout = 0; SELECT (nats_publish('t.after', 'x')).stream)), 'T', 'the session goes on');
	$client->purge('T');
}

# A call that was cancelled before anything of it had left the machine
{
	my $box = SilentProxy->new($nats, buffer => 8192);
	my $session = session(url => $box->url);
	$session->value(q(SELECT nats_publish('t.warm', 'x')));
	$box->hold('client');
	$session->value(q(BEGIN; SELECT count(nats_publish_async('t.before', repeat('x', 900000))) FROM generate_series(1, 12)));
	$session->run(q(SET LOCAL statement_timeout = '200ms'; SELECT nats_publish('t.taken_back', 'x')));
	$session->value('ROLLBACK');
	$box->pass;
	is($session->value(q(SELECT (nats_publish('t.after', 'x')).stream)), 'T', 'a cancelled call behind what is unsent');
	is(scalar stored('t.before') . ' ' . scalar stored('t.taken_back'), '12 0', 'is not sent any more, and what stays is');
	$client->purge('T');
}

# ---- A copy is sent again only while JetStream knows the first one: Max(ack_timeout, commit_timeout) + connect_timeout

sub forgetful
{
	return FakeServer->answering(
		sub
		{
			my ($peer, $command, $number) = @_;
			$peer->note("$number $command->{payload}");
			$peer->close if $number == 1 && $command->{payload} ne 'warm';
			$peer->reply($command, '{"stream":"T","seq":1}');
		});
}

# What was noted, up to the message "end", or to 30 s without a word.
sub events_to_end
{
	my ($fake) = @_;
	my @events;
	while (defined(my $event = $fake->next_event))
	{
		push @events, $event;
		last if $event =~ /end/;
	}
	return @events;
}

foreach my $case ([ 0, '' ], [ 5.5, '58030' ])
{
	my ($seconds, $sqlstate) = @$case;
	my $fake = forgetful();
	my $session = session(url => $fake->url, ack_timeout => '3s', commit_timeout => '3s', connect_timeout => '2s');
	my $result = $session->run(qq(BEGIN; INSERT INTO t VALUES (2); SELECT nats_publish_async('t.a', 'x'); SELECT pg_sleep($seconds); COMMIT));
	is($result->{sqlstate}, $sqlstate, "COMMIT $seconds s after a message whose acknowledgment was lost");
	like($result->{error}, $sqlstate ? qr/can't be sent again \(it was first sent too long ago\)/ : qr/^$/, 'says why') ;
	is($session->run(q(SELECT (nats_publish('t.a', 'end')).stream))->{error}, '', 'what comes next is published');
	my @events = events_to_end($fake);
	is(join(', ', @events), $sqlstate ? '1 x, 2 end' : '1 x, 2 x, 2 end', 'what the servers have seen');
}

{
	my $fake = forgetful();
	my $session = session(url => $fake->url, ack_timeout => '3s', commit_timeout => '3s', connect_timeout => '2s');
	$session->value(q(SELECT nats_publish_async('t.a', 'x', critical => false); SELECT pg_sleep(5.5)));
	my $result = $session->run(q(SELECT nats_publish('t.a', 'end')));
	like($result->{error}, qr/^WARNING:  58030: /m, 'likewise one that nobody waits for');
	is(join(', ', events_to_end($fake)), '1 x, 2 end', 'is not sent again');
}

# ... and only if JetStream sees its id: servers look for a name at its first place, also in another name or in a value
{
	my $session = session();
	my $hides = q('{"A": "Nats-Msg-Id Nats-Expected-Last-Sequence Nats-Expected-Last-Subject-Sequence", "X-Nats-Msg-Id": "y", "-Nats-Msg-Id": "z"}'::jsonb);
	is($session->value("SELECT duplicate FROM nats_publish('t.hidden', 'x', $_); " x 2), "f\nt", "an id that other headers have the name of: $_")
		foreach "msg_id => 'a', headers => $hides", "headers => $hides || '{\"nats-msg-id\": \"b\"}'",
		"msg_id => 'Nats-Msg-Id: c', headers => $hides";
	is($session->sqlstate("SELECT nats_publish('t.hidden', 'x', $_)"), '40001', "what it expects: $_")
		foreach "expect_last_seq => 12345, headers => $hides", "expect_last_subject_seq => 12345, headers => $hides",
		"expect_last_seq => 12345, msg_id => 'Nats-Expected-Last-Sequence'", "expect_last_subject_seq => 12345, msg_id => 'Nats-Expected-Last-Subject-Sequence'",
		q(headers => '{"Nats-Msg-Id": "Nats-Expected-Last-Sequence", "Nats-Expected-Last-Sequence": "12345"}');
	$session->value("SELECT nats_publish('t.automatic', 'x', headers => $hides)");
	my ($automatic) = grep { $_->{subject} eq 't.automatic' } $client->stream_messages('T');
	like($automatic->{raw_headers}, qr{^NATS/1\.0\r\nNats-Msg-Id: \w{22}\r\n}, 'and an automatic id');

	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			my %member = %{ $command->{batch} };
			$peer->note($command->{raw_headers} =~ s/\r\n/|/gr =~ s/(Id: )\w+/$1?/gr);
			$peer->reply($command, $member{commit} ? qq({"stream":"T","seq":2,"batch":"$member{id}","count":2}) : '');
		},
		version => '"2.12.0"');
	$session = session(url => $fake->url, commit_batch => 'atomic', auto_msg_id => 'off');
	$session->value(q(BEGIN; SELECT nats_publish_on_commit('t.a', 'x', headers => '{"A": "Nats-Batch-Id"}'), nats_publish_on_commit('t.a', 'y'); COMMIT));
	is($fake->next_event, 'NATS/1.0|Nats-Batch-Id: ?|Nats-Batch-Sequence: 1|A: Nats-Batch-Id||', 'the members of a batch');
	is($fake->next_event, 'NATS/1.0|Nats-Batch-Id: ?|Nats-Batch-Sequence: 2|Nats-Batch-Commit: 1||', 'and its commit');
}

# ---- What has arrived is read first

{
	my $session = session();
	$session->value(q(SELECT nats_publish('t.warm', 'x'); SET nats_publish.ack_timeout = '500ms'));
	# what is published with the first command is acknowledged, and its time is over, when the second one comes
	my $run = sub
	{
		my ($publish, $then) = @_;
		my $before = () = stored('t.a');
		$session->value($publish);
		wait_for('the message', sub { (() = stored('t.a')) > $before });
		sleep 1;
		return $session->run($then);
	};
	my $uncritical = q(BEGIN; SELECT nats_publish_async('t.a', 'x', critical => false) AS future \gset);
	my $result = $run->($uncritical, 'SELECT status FROM nats_futures()');
	is($result->{output} . $result->{error}, 'acked', 'nats_futures() knows what was acknowledged meanwhile');
	$result = $run->("ROLLBACK; $uncritical", 'COMMIT');
	is($result->{error}, '', 'so does COMMIT');
	$result = $run->($uncritical, q(SELECT (nats_await(:future, '0')).stream));
	is($result->{output} . $result->{error}, 'T', q(so does nats_await(future, '0')));
	$result = $run->("ROLLBACK; $uncritical", q(SELECT nats_flush('0') IS NOT NULL));
	is($result->{output} . $result->{error}, 't', q(so does nats_flush('0')));
	$result = $run->("ROLLBACK; $uncritical", q(SELECT (nats_publish('t.b', 'x')).stream));
	is($result->{output} . $result->{error}, 'T', 'and so does the next call');
	is($session->value('ROLLBACK; SELECT failed FROM nats_session_stats()'), '0', 'nothing has failed');
}

# ---- Another server in the settings

{
	my $session = session(url => 'nats://127.0.0.1:1');
	like($session->error(q(SELECT nats_publish_async('t.a', 'x', critical => false))), qr/^WARNING:  58000/m, 'a server that is not there');
	my $result = $session->run("SET nats_publish.url = '" . $nats->url . q('; SELECT nats_publish_async('t.mended', 'x', critical => false) > 0; SELECT nats_flush() >= 0));
	is($result->{output} . $result->{error}, "t\nt", 'a mended url counts at once');
	is(join(' ', stored('t.mended')), 'x', 'and the message is there');
}

{
	my $first = NatsServer->new(jetstream => 1)->start;
	NatsClient->new(url => $first->url)->create_stream('T', ['t.>'], storage => 'file');
	my $session = session(url => $first->url, commit_timeout => '5s');
	$session->value(q(SELECT nats_publish('t.warm', 'x')));
	$first->stop;
	$session->value(q(BEGIN; SELECT nats_publish_on_commit('t.held', 'for the first')));
	$session->run(qq(SELECT nats_publish_async('t.change', 'for the first', critical => false)));
	$session->value("SET nats_publish.url = '" . $second->url . q('; SELECT nats_publish_async('t.change', 'for the second'); SELECT nats_publish_on_commit('t.held', 'for the second')));
	is($session->sqlstate('COMMIT'), '58000', 'messages held for a server that is away: COMMIT fails');
	is(join(' ', stored('t.change', $second_client), stored('t.held', $second_client)), 'for the second', 'and they do not go to another one');

	$first->start;
	$session = session(url => $first->url, commit_timeout => '30s');
	$session->value(q(SELECT nats_publish('t.warm', 'x')));
	$first->stall;
	$session->value(q(BEGIN; SELECT nats_publish_async('t.both', 'for the first')));
	$session->value("SET nats_publish.url = '" . $second->url . q('; SELECT nats_publish_async('t.both', 'for the second')));
	$session->begin('COMMIT');
	$session->wait_until_waiting;
	$first->resume;
	is($session->finish->{error}, '', 'messages on their way to two servers');
	is(join(' ', stored('t.both', NatsClient->new(url => $first->url)), stored('t.both', $second_client)), 'for the first for the second', 'each gets its own');
	is($session->value(q(SELECT (nats_publish('t.both', 'x')).stream; SELECT nats_disconnect())), "T\nt", 'the session goes on');
	wait_for('no connection to the first server', sub { unsent_in_kernel($first->port) == 0 && slurp_file('/proc/net/tcp') !~ sprintf(':%04X 01 ', $first->port) });
}

# Two that were left end at once: the one of the settings is not mistaken for them
{
	my @boxes = map { SilentProxy->new($nats) } 1 .. 3;
	my $session = session();
	foreach my $box (@boxes)
	{
		$session->value("SET nats_publish.url = '" . $box->url . q('; SELECT nats_publish('t.warm', 'x')));
		$box->hold('server') if $box != $boxes[2];
		$session->value(q(SELECT nats_publish_async('t.left', 'x', critical => false)));
	}
	$_->pass foreach @boxes;
	wait_for('the acknowledgments', sub { $_->passed('server') > 0 }) foreach @boxes;
	wait_for('all messages', sub { (() = stored('t.left')) == 3 });
	$watcher->value("CREATE SERVER second FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $second->url}')");
	$session->value(q(SET nats_publish.server = second; SELECT nats_publish('t.other', 'x'); RESET nats_publish.server; SELECT nats_publish('t.back', 'x')));
	wait_for('the ends', sub { $_->open_connections == 0 }) foreach @boxes[ 0, 1 ];
	is($boxes[2]->connections, 1, 'after two changes of the url, and a foreign server meanwhile: the connection is still in use');
	is(join(' ', stored('t.back')), 'x', 'and works');
}

done_testing;
