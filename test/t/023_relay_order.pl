
# What the relay promises of order and identity: the messages of a subject in the order of their ids, each one once,
# whatever its size, its number and the time when it becomes visible.

use strict;
use warnings FATAL => 'all';

use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('O', ['o.>'], storage => 'file');
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.ack_timeout' => '2s',
	'log_statement' => 'none',
	'max_connections' => 30,
	'max_prepared_transactions' => 5);
my $session = PsqlSession->new($node);
my $other = PsqlSession->new($node);

sub client { return NatsClient->new(url => $nats->url); }
sub in_stream { return client()->stream_info('O')->{state}{last_seq}; }

# A stream of which nothing is known, with numbers that begin with 1.
sub clean
{
	my (%config) = @_;
	my $client = client();
	$client->delete_stream('O');
	$client->create_stream('O', ['o.>'], storage => 'file', %config);
	return;
}

# Subject and payload of every message, in the order of the stream.
sub all { return map { "$_->{subject} $_->{payload}" } client()->consume('O'); }

# A message that is refused holds up its subject, and only that

{
	my $refusing = client();
	$refusing->create_stream('L', ['l.>'], max_msgs_per_subject => 2, discard => 'new', discard_new_per_subject => JSON::PP::true);
	$session->value(q(SELECT count(nats_publish_outbox('l.' || s, i::text)) FROM generate_series(1, 5) i, unnest('{a,b}'::text[]) s));
	$session->value(q(SELECT count(nats_publish_outbox('o.free', i::text)) FROM generate_series(1, 50) i));
	wait_for('refusals', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts > 0') eq '2' });
	write_to_outbox($session, 'l.a', 6);
	wait_for('the others', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'o.free')) eq '0' });
	is($session->value(q(SELECT string_agg(subject || ' ' || encode(payload, 'escape') || ' ' || (attempts > 0), ', ' ORDER BY subject, id) FROM nats_outbox)),
		'l.a 3 true, l.a 4 false, l.a 5 false, l.a 6 false, l.b 3 true, l.b 4 false, l.b 5 false', 'those behind a refused message wait for it');
	is_deeply([ all() ], [ map { "o.free $_" } 1 .. 50 ], 'those of other subjects do not');
	my $config = $refusing->stream_info('L')->{config};
	$refusing->js('STREAM.UPDATE.L', { %$config, max_msgs_per_subject => -1, discard_new_per_subject => JSON::PP::false });
	wait_until_drained($session);
	my @messages = $refusing->stream_messages('L');
	is_deeply([ map { $_->{payload} } grep { $_->{subject} eq 'l.a' } @messages ], [ 1 .. 6 ], 'when it is taken, it goes first');
	is_deeply([ map { $_->{payload} } grep { $_->{subject} eq 'l.b' } @messages ], [ 1 .. 5 ], 'and so with another subject');
	$refusing->delete_stream('L');
}

# One that was read between the answer to a failed message and the end of its row goes when that row is gone. Here somebody
# has locked it meanwhile. That this is no look at all rows is known by a row that only such a look finds: those are long
# apart, as so many rows are read by it, but one can come just then.
{
	my $refusing = client();
	$refusing->create_stream('L', ['l.>'], max_msgs_per_subject => 2, discard => 'new', discard_new_per_subject => JSON::PP::true);
	$session->value(q(SELECT count(nats_publish_outbox('l.many', i::text)) FROM generate_series(1, 15000) i));
	wait_for('a refusal', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'l.many' AND attempts > 0)) eq '1' });
	my @order;
	foreach my $try (1 .. 4)
	{
		my $hidden = $session->value(q(SELECT nextval('nats_outbox_id_seq')));
		$session->value("SELECT count(nats_publish_outbox('l.$try', i::text)) FROM generate_series(1, 3) i");
		my $failed = wait_for('a refusal', sub { $session->value(qq(SELECT id FROM nats_outbox WHERE subject = 'l.$try' AND attempts > 0)) });
		$other->value("BEGIN; SELECT FROM nats_outbox WHERE id = $failed FOR UPDATE");
		$refusing->js('STREAM.PURGE.L', { filter => "l.$try" });
		wait_for('the message', sub { grep { $_->{subject} eq "l.$try" } $refusing->stream_messages('L') });
		write_to_outbox($session, "l.$try", 'behind');
		write_to_outbox($session, "o.$try", 'read after it');
		wait_for('that', sub { grep { $_ eq "o.$try read after it" } all() });
		$session->value("INSERT INTO nats_outbox (id, subject, payload) OVERRIDING SYSTEM VALUE VALUES ($hidden, 'l.$try.hidden', '')");
		$other->value('COMMIT');
		wait_for('both', sub { $session->value(q(SELECT NOT EXISTS (SELECT FROM nats_outbox WHERE subject <> 'l.many'))) eq 't' });
		@order = map { "$_->{subject} $_->{payload}" } grep { $_->{subject} =~ /^l[.]$try\b/ } $refusing->stream_messages('L');
		last if $order[1] =~ /behind/;
	}
	like("@order", qr/^l[.](\d) 3 l[.]\1 behind l[.]\1[.]hidden $/, 'one that was read between an answer and the end of the row goes when that is gone');

	# and one with a lower id than a failed one does not wait for that: its transaction has ended late. It is tried, and refused as
	# well, at once, and not when the failed one has been tried again, 3 s later and more.
	my @times;
	my $attempts = sub { $session->value("SELECT count(*) FROM nats_outbox WHERE subject = '$_[0]' AND attempts > 0") };
	foreach my $try (1 .. 3)
	{
		$other->value("BEGIN; SELECT nats_publish_outbox('l.late.$try', 'late')");
		$session->value("SELECT count(nats_publish_outbox('l.late.$try', i::text)) FROM generate_series(1, 3) i");
		wait_for('a refusal', sub { $attempts->("l.late.$try") eq '1' });
		write_to_outbox($session, "l.late.$try", 'behind');
		write_to_outbox($session, "o.late.$try", 'read after it');
		wait_for('that', sub { grep { $_ eq "o.late.$try read after it" } all() });
		$other->value('COMMIT');
		my $committed = time;
		wait_for('an attempt', sub { $attempts->("l.late.$try") eq '2' });
		push @times, time - $committed;
	}
	cmp_ok(min(@times), '<', 2, 'one that comes late, with a lower id than a failed one, does not wait for that');
	$session->value('DELETE FROM nats_outbox');
	$refusing->delete_stream('L');
}

# A random load, and crashes of NATS

{
	clean();
	reconfigure($node, 'nats_publish.relay_batch_size' => 300);
	$session->value(q(CREATE TABLE written (id bigint PRIMARY KEY, client int, subject text, msg_id text)));
	$session->value(q(CREATE PROCEDURE load(client int, transactions int) LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM setseed(client / 10.0);
			FOR i IN 1 .. transactions LOOP
				WITH new AS (INSERT INTO nats_outbox (subject, payload)
					SELECT 'o.' || client % 2 || '.' || (random() * 24)::int, convert_to(client || ' ' || i, 'UTF8') FROM generate_series(1, (1 + random() * 20)::int)
					RETURNING id, subject, msg_id)
				INSERT INTO written SELECT id, client, subject, msg_id FROM new;
				IF random() < 0.2 THEN
					ROLLBACK;
				ELSE
					COMMIT;
				END IF;
				PERFORM pg_sleep(random() * 0.002);
			END LOOP;
		END $$));
	my @clients = map { PsqlSession->new($node) } 1 .. 4;
	foreach my $number (1 .. 4) { $clients[ $number - 1 ]->begin("CALL load($number, 700)"); }
	foreach my $round (1 .. 3)
	{
		my $before = in_stream();
		wait_for('more messages', sub { in_stream() > $before + 1000 || !grep { $_->is_running } @clients });
		$nats->kill9;
		sleep 0.3;
		$nats->start;
		$node->reload;
	}
	is($_->finish->{error}, '', 'a client under load') foreach @clients;
	wait_until_drained($session);

	my @rows = map { [ split /\|/ ] } split /\n/, $session->value('SELECT id, client, subject, msg_id FROM written ORDER BY id');
	my %row_of = map { $_->[3] => $_ } @rows;
	my @published = map { $_->{headers}{'Nats-Msg-Id'}[0] } client()->consume('O');
	cmp_ok(scalar @rows, '>', 10_000, scalar(@rows) . ' messages were written');
	is_deeply([ sort @published ], [ sort keys %row_of ], 'every message that was committed is in the stream exactly once, and no other one');
	my %last;
	my @disorder = grep {
		my ($id, $from, $subject) = @$_;
		my $late = ($last{"$from $subject"} // 0) > $id;
		$last{"$from $subject"} = $id;
		$late
	} map { $row_of{$_} } @published;
	is(scalar @disorder, 0, 'those of a client and a subject are in the order of their ids');
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'none is dead');
	$_->close foreach @clients;
	reconfigure($node, 'nats_publish.relay_batch_size' => undef);
}

# Rows that become visible late

foreach my $ordering ('strict', 'relaxed')
{
	clean();
	reconfigure($node, 'nats_publish.relay_ordering' => $ordering, 'nats_publish.relay_batch_size' => 20,
		'nats_publish.relay_poll_interval' => '20ms');
	$session->value('BEGIN');
	my $late = write_to_outbox($session, 'o.late', 1);
	cmp_ok($late, '<', write_to_outbox($other, 'o.late', 2), "$ordering: a transaction that commits first, with a higher id");
	wait_until_drained($other);
	is_deeply([ all() ], ['o.late 2'], 'is published first');
	$session->value('COMMIT');
	wait_until_drained($other);
	is_deeply([ all() ], [ 'o.late 2', 'o.late 1' ], 'and the other one when it commits');

	# in the middle of a long backlog, of which the rows before it are gone
	$session->value('BEGIN');
	write_to_outbox($session, 'o.late', 3);
	$other->value(q(SELECT count(nats_publish_outbox('o.backlog.' || i % 7, i::text)) FROM generate_series(1, 30000) i));
	wait_for('a part of the backlog', sub { in_stream() > 2000 });
	$nats->stall;    # so that the rest does not become shorter meanwhile
	$session->value('COMMIT');
	$nats->resume;
	wait_for('the late one', sub { $other->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'o.late')) eq '0' });
	reconfigure($node, 'nats_publish.relay_batch_size' => 1000, 'nats_publish.relay_poll_interval' => undef);
	wait_until_drained($other);
	my @all = all();
	my @places = grep { $all[$_] eq 'o.late 3' } 0 .. $#all;
	is(scalar @places, 1, 'one that becomes visible in a long backlog is published once');
	cmp_ok($places[0], '<', $#all, 'and not left for its end');
	is(scalar @all, 30_003, 'and so are the others');
}

# What a session writes after such a transaction does not overtake it, in a backlog neither: the relay, which has read
# beyond the ids of the first one, comes back for them. nats-server stands still until everything is there.
{
	clean();
	reconfigure($node, 'nats_publish.relay_ordering' => undef, 'nats_publish.relay_batch_size' => 20,
		'nats_publish.relay_poll_interval' => '1min');
	$session->value('BEGIN');
	write_to_outbox($session, 'o.session', 1);
	$nats->stall;
	$other->value(q(SELECT count(nats_publish_outbox('o.backlog.' || i % 7, i::text)) FROM generate_series(1, 500) i));
	wait_for_state($other, 'publishing');
	$session->value('COMMIT');
	write_to_outbox($session, 'o.session', 2);
	$nats->resume;
	wait_until_drained($session);
	is_deeply([ grep { /session/ } all() ], [ 'o.session 1', 'o.session 2' ], 'strict: a session does not overtake itself in a backlog');
	reconfigure($node, 'nats_publish.relay_batch_size' => undef, 'nats_publish.relay_poll_interval' => undef);
}

# Messages behind one that waits to be tried again are passed by in a backlog; when it waits no more, they come before
# what was written later. By a look for what is due, and by hand.
foreach my $end ('its time comes', 'it is deleted')
{
	clean();
	reconfigure($node, 'nats_publish.relay_batch_size' => 20, 'nats_publish.relay_poll_interval' => '1min');
	$session->value('SELECT nats_relay_pause()');
	my $write_many = sub { $session->value("SELECT count(nats_publish_outbox('o.backlog.' || i % 7, i::text)) FROM generate_series(1, $_[0]) i") };
	$write_many->(100);
	my $first = write_to_outbox($session, 'o.behind', 1);
	my $wait = $end =~ /deleted/ ? '1 h' : '0';
	$session->value("UPDATE nats_outbox SET attempts = 1, next_attempt_at = now() + interval '$wait' WHERE id = $first");
	$write_many->(19);
	write_to_outbox($session, 'o.behind', 2);
	$write_many->($end =~ /deleted/ ? 6_000 : 20);
	write_to_outbox($session, 'o.behind', 3);
	$write_many->(100);
	$session->value('SELECT nats_relay_resume()');
	if ($end =~ /deleted/)
	{
		wait_for('a part of the backlog', sub { in_stream() > 1000 });
		$session->value("DELETE FROM nats_outbox WHERE id = $first");
	}
	# what waits for a deleted one is found by such a look
	wait_for('the others', sub { $session->value(q(SELECT NOT EXISTS (SELECT FROM nats_outbox WHERE subject <> 'o.behind'))) eq 't' });
	reconfigure($node, 'nats_publish.relay_poll_interval' => undef);
	wait_until_drained($session);
	is_deeply([ grep { /behind/ } all() ], [ map { "o.behind $_" } $end =~ /deleted/ ? (2, 3) : (1 .. 3) ], "strict: in order when $end");
	reconfigure($node, 'nats_publish.relay_batch_size' => undef, 'nats_publish.relay_poll_interval' => undef);
}

# relaxed, one subject: in order all the same while nothing fails
clean();
$session->value(q(SELECT count(nats_publish_outbox('o.one', i::text)) FROM generate_series(1, 3000) i));
wait_until_drained($session);
is_deeply([ all() ], [ map { "o.one $_" } 1 .. 3000 ], 'relaxed: messages of a subject go in the order of their ids');

# The extremes of relay_batch_size

foreach my $size (1, 100_000)
{
	clean();
	reconfigure($node, 'nats_publish.relay_ordering' => undef, 'nats_publish.relay_batch_size' => $size);
	my $count = $size == 1 ? 500 : 20_000;
	$session->value("SELECT count(nats_publish_outbox('o.' || i % 10, i::text)) FROM generate_series(1, $count) i");
	wait_until_drained($session);
	my %of;
	push @{ $of{ $_->{subject} } }, $_->{payload} foreach client()->consume('O');
	is_deeply(\%of, { map { my $rest = $_; "o.$rest" => [ grep { $_ % 10 == $rest } 1 .. $count ] } 0 .. 9 },
		"relay_batch_size = $size: each message once, those of a subject in order");
}
reconfigure($node, 'nats_publish.relay_batch_size' => undef);

# Ids

clean();
$session->value(q(SELECT nats_publish_outbox('o.id', i::text, msg_id => 'the same') FROM generate_series(1, 3) i;
	SELECT nats_publish_outbox('o.id', '4', msg_id => 'ä "quoted" id')));
wait_until_drained($session);
is_deeply([ map { "$_->{payload} $_->{headers}{'Nats-Msg-Id'}[0]" } client()->stream_messages('O') ],
	[ '1 the same', "4 \xc3\xa4 \"quoted\" id" ], 'ids that were given are kept, and the stream keeps the first of a duplicate');

{
	# who listens to the subject sees what no stream takes
	my $observer = client();
	$observer->subscribe('o.again');
	$client = client();
	$client->delete_stream('O');
	my $id = write_to_outbox($session, 'o.again', 'x');
	my $msg_id = outbox_column($session, 'msg_id', $id);
	my @attempts = map { $observer->next_message->{headers}{'Nats-Msg-Id'}[0] } 1 .. 3;
	$client->create_stream('O', ['o.>'], storage => 'file');
	$node->reload;
	wait_until_drained($session);
	is_deeply(\@attempts, [ ($msg_id) x 3 ], 'a message is sent again and again with the id of its row');
	is_deeply([ map { $_->{headers}{'Nats-Msg-Id'}[0] } $client->stream_messages('O') ], [$msg_id], 'until there is a stream that takes it');
}

# What wakes it: the poll interval is a minute, and every one of these takes much less

$session->value(q(CREATE ROLE writer LOGIN; GRANT INSERT (subject, payload, headers, msg_id) ON nats_outbox TO writer;
	GRANT SELECT (id) ON nats_outbox TO writer;
	CREATE TABLE changed (i int PRIMARY KEY)));
$session->value(q(SELECT nats_publish_table('changed', 'o.changed', delivery => 'outbox')));
my $writer = PsqlSession->new($node, user => 'writer');
clean();
my $last = 0;
foreach my $poll ('60s', '300ms')
{
	reconfigure($node, 'nats_publish.relay_poll_interval' => $poll);
	write_to_outbox($session, 'o.settings', 'x');
	wait_until_drained($session);
	wait_for_state($session, 'idle');
	$last = in_stream();
	if ($poll eq '60s')
	{
		my %ways = (
			'nats_publish_outbox()' => [ $session, q(SELECT nats_publish_outbox('o.wake', 'x')) ],
			'an INSERT of a role that was granted it' => [ $writer, q(INSERT INTO nats_outbox (subject, payload) VALUES ('o.wake', 'x')) ],
			'a published table' => [ $session, 'INSERT INTO changed VALUES (1)' ],
			'a function at the end of a transaction' => [ $session, q(BEGIN; SELECT nats_publish_outbox('o.wake', 'x'); SAVEPOINT s; SELECT 1; ROLLBACK TO s; COMMIT) ],
			'COPY' => [ $session, q(COPY nats_outbox (subject) FROM PROGRAM 'echo o.wake') ],
			'nats_relay_resume()' => [ $session, 'SELECT nats_relay_resume()' ]);
		foreach my $way (sort keys %ways)
		{
			my ($from, $sql) = @{ $ways{$way} };
			if ($way =~ /resume/)
			{
				$session->value('SELECT nats_relay_pause()');
				wait_for_state($session, 'paused');
				write_to_outbox($session, 'o.wake', 'x');
				sleep 0.2;
				is(in_stream(), $last, 'nothing is published while the relay is paused');
			}
			my $started = time;
			is($from->run($sql)->{error}, '', "$way wakes the relay");
			wait_until_drained($session);
			wait_for('the message', sub { in_stream() == $last + 1 });
			$last++;
			cmp_ok(time - $started, '<', 20, 'long before it looks by itself');
		}
	}
	else
	{
		$session->value(q(BEGIN; SELECT nats_publish_outbox('o.prepared', 'x'); PREPARE TRANSACTION 'p'));
		sleep 0.5;
		is(in_stream(), $last, 'nothing is published of a prepared transaction');
		$other->value(q(COMMIT PREPARED 'p'));
		wait_until_drained($session);
		is(in_stream(), $last + 1, 'COMMIT PREPARED is found by looking');
		$session->value(q(BEGIN; SELECT nats_publish_outbox('o.prepared', 'x'); PREPARE TRANSACTION 'p'));
		$other->value(q(ROLLBACK PREPARED 'p'));
		sleep 0.5;
		is(in_stream(), $last + 1, 'and of ROLLBACK PREPARED there is nothing');
	}
}
is($writer->sqlstate(q(INSERT INTO nats_outbox (subject) VALUES ('o.*'))), '22023', 'the rows of a granted role are checked');
is($writer->sqlstate(q(INSERT INTO nats_outbox (subject, attempts) VALUES ('o.a', 1))), '42501', 'and it writes no other columns');

# Memory

my $LARGE = 64 * 1024;    # max_pending_bytes, kB

sub peak_while_draining
{
	my $worker = relay_pid($session);
	my $before = process_memory($worker);
	my $peak = 0;
	$session->value('SELECT nats_relay_resume()');
	while ($session->value('SELECT NOT EXISTS (SELECT FROM nats_outbox)') eq 'f')
	{
		my $memory = process_memory($worker);
		$peak = $memory if $memory > $peak;
	}
	wait_for_state($session, 'idle');
	my $after = process_memory($worker);
	note("memory of the worker: $before kB, at most $peak kB, then $after kB");
	is(relay_pid($session), $worker, 'it was one worker');
	return ($before, $peak, $after);
}

# A new worker, whose memory is not yet what an earlier backlog has made of it.
sub pause
{
	my $old = relay_pid($session);
	$session->value("SELECT nats_relay_pause(), pg_terminate_backend($old)");
	wait_for('another worker', sub { relay_column($session, "state = 'paused' AND pid <> $old") eq 't' });
	return;
}

clean(max_msgs => 1000, duplicate_window => 1_000_000_000);
pause();
$session->value(q(SELECT count(nats_publish_outbox('o.many.' || i % 1000, repeat('x', 100))) FROM generate_series(1, 200000) i));
my ($before, $peak, $after) = peak_while_draining();
is(in_stream(), 200_000, '200,000 messages are published');
cmp_ok($peak - $before, '<', 20 * 1024, 'the memory of the worker is flat meanwhile');

foreach my $pending (undef, '4MB')
{
	reconfigure($node, 'nats_publish.max_pending_bytes' => $pending);
	clean(max_msgs => 10, duplicate_window => 1_000_000_000);
	pause();
	$session->value(q(SELECT count(nats_publish_outbox('o.large.' || i, repeat('x', 500000))) FROM generate_series(1, 200) i));
	($before, $peak, $after) = peak_while_draining();
	is(in_stream(), 200, '200 messages of 500 kB are published');
	my $limit = defined $pending ? 4096 : $LARGE;
	# rows of a batch, and their commands
	cmp_ok($peak - $before, '<', 2 * $limit + 20 * 1024, 'within twice max_pending_bytes = ' . ($pending // '64MB'));
	cmp_ok($after - $before, '<', 20 * 1024, 'which are given back');
}

{
	reconfigure($node, 'nats_publish.max_pending_bytes' => '4MB');
	clean(max_msgs => 10, duplicate_window => 1_000_000_000);
	pause();
	$session->value(q(SELECT count(nats_publish_outbox('o.headers.' || i, 'x', headers => jsonb_build_object('H', repeat('x', 60000)))) FROM generate_series(1, 1000) i));
	($before, $peak, $after) = peak_while_draining();
	is(in_stream(), 1000, '1,000 messages with headers of 60 kB are published');
	cmp_ok($peak - $before, '<', 2 * 4096 + 20 * 1024, 'within twice max_pending_bytes = 4MB, too');
}

is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal/) ], [], 'nothing has crashed');

done_testing();
