
# The relay as the only writer of a stream: all messages of the stream are stored in the outbox's order, each one once,
# whatever fails, and they are pipelined. With the expectations that pipeline them, each is stored right behind the one
# before it, so what is asked here is the order of whole streams.

use strict;
use warnings FATAL => 'all';

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsProxy;
use NatsServer;
use OrderTest;
use PsqlSession;
use PublishTest;
use RelayTest;

my $CHAINED = 'Nats-Expected-Last-Msg-Id';
my $LONG = 300;    # seconds: for what is a matter of seconds on an idle machine

# what is published again, after a crash, is known to the streams for all of the test
my %CONFIG = (storage => 'file', duplicate_window => 20 * 60 * 1_000_000_000);
my $nats = NatsServer->new(jetstream => 1)->start;
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.relay_ordering' => 'pipelined',
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.ack_timeout' => '60s',
	'log_statement' => 'none',
	'restart_after_crash' => 'on',
	'max_connections' => 30);
my $session = PsqlSession->new($node);
my $version = client()->info->{version};
my $strips_copies = $version !~ /^2\.(?:9|10)\./;

sub client { return NatsClient->new(url => $nats->url); }
sub in_stream { my ($stream) = @_; return client()->stream_info($stream // 'O')->{state}{last_seq}; }

# Streams of which nothing is known, with numbers that begin with 1.
sub clean
{
	my %streams = @_;
	my $client = client();
	foreach my $stream (sort keys %streams)
	{
		eval { $client->delete_stream($stream) };
		$client->create_stream($stream, $streams{$stream}, %CONFIG);
	}
	$session->value('TRUNCATE nats_outbox_dead');
	return;
}

# So many messages, over so many subjects under a first token, with numbers from 1 on as payloads.
sub write_messages
{
	my ($token, $count, $subjects, $from) = @_;
	$from //= 1;
	my $to = $from + $count - 1;
	return $session->value("SELECT count(nats_publish_outbox('$token.' || i % $subjects, i::text)) FROM generate_series($from, $to) AS i");
}

# The relay knows the stream, and has nothing else to do.
sub make_known
{
	my ($stream, $subject) = @_;
	my $before = in_stream($stream);
	$session->value("SELECT nats_publish_outbox('$subject', '0')");
	wait_for('the first message', sub { in_stream($stream) > $before });
	wait_until_drained($session);
	wait_for('the stream to be known', sub { relay_column($session, 'ordering') eq 'pipelined' });
	return;
}

# Returns how many of the messages of the stream were chained.
sub has_in_order
{
	my ($what, $stream, @expected) = @_;
	return stream_is_in_order($what, [ client()->consume($stream) ], @expected);
}

sub is_pipelined
{
	my ($chained, $count) = @_;
	return cmp_ok($chained, '>', $count / 2, 'pipelined');
}

# ---- The order of a stream

foreach my $subjects (1, 100, 10_000)
{
	clean(O => ['o.>']);
	make_known('O', 'o.first');
	write_messages('o', 20_000, $subjects);
	wait_until_drained($session, $LONG);
	is_pipelined(has_in_order("$subjects subjects: all are in the order of the outbox", 'O', 0 .. 20_000), 20_000);
}
is(relay_column($session, 'shared_stream'), '', 'nobody else writes');

# A stream that is not known when its backlog is read.
{
	client()->create_stream('U', ['u.>'], %CONFIG);
	write_messages('u', 20_000, 1);
	wait_until_drained($session, $LONG);
	is_pipelined(has_in_order('a backlog of a stream that is not known', 'U', 1 .. 20_000), 20_000);
}

# Two streams, and what no stream takes

{
	clean(O => ['o.>'], P => ['p.>']);
	make_known('O', 'o.first');
	make_known('P', 'p.first');
	$session->value(q(SELECT count(nats_publish_outbox(CASE WHEN i % 100 = 0 THEN 'nowhere.' WHEN i % 2 = 0 THEN 'o.' ELSE 'p.' END || i % 7, i::text))
		FROM generate_series(1, 10000) AS i));
	wait_for('all that are taken', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '100' }, $LONG);
	is_pipelined(has_in_order('two streams: one', 'O', 0, grep { $_ % 2 == 0 && $_ % 100 } 1 .. 10_000), 4900);
	is_pipelined(has_in_order('and the other', 'P', 0, grep { $_ % 2 == 1 } 1 .. 10_000), 5000);
	$session->value('TRUNCATE nats_outbox');
}

# ---- Rows that break a chain

{
	my $client = client();
	clean(O => ['o.>']);
	$client->js('STREAM.UPDATE.O', { %{ $client->stream_info('O')->{config} }, max_msg_size => 1000 });
	make_known('O', 'o.first');
	my $max_payload = $client->info->{max_payload};
	# too large for the stream, for the server, or with what is added alone
	$session->value(qq(SELECT count(nats_publish_outbox('o.' || i % 10, CASE i % 500 WHEN 100 THEN repeat('x', 2000) WHEN 200 THEN repeat('x', $max_payload)
		WHEN 300 THEN repeat('y', 900) ELSE i::text END)) FROM generate_series(1, 5000) AS i));
	wait_until_drained($session, $LONG);
	is_pipelined(has_in_order('messages that are too large: the others are in order', 'O', 0,
			map { $_ % 500 == 300 ? 'y' x 900 : $_ } grep { $_ % 500 != 100 && $_ % 500 != 200 } 1 .. 5000), 4980);
	is($session->value('SELECT count(*), sum(attempts) FROM nats_outbox_dead'), '20|20', 'those that are too large are dead, after one attempt');
	is($session->value('SELECT count(*) FROM nats_outbox_dead WHERE last_error LIKE $$%expected%$$ OR last_error LIKE $$%wrong last%$$'), '0',
		'for no other reason');
}

# What has expectations of its own
{
	clean(O => ['o.>']);
	make_known('O', 'o.first');
	$session->value(q(SELECT count(nats_publish_outbox('o.' || i, i::text,
			CASE WHEN i % 500 = 250 THEN '{"Nats-Expected-Last-Subject-Sequence": "0"}'::jsonb END)) FROM generate_series(1, 3000) AS i));
	wait_until_drained($session, $LONG);
	has_in_order('expectations of the user', 'O', 0 .. 3000);
	my %headers = map { $_->{payload} => $_->{headers} } client()->consume('O');
	is_deeply([ map { $headers{$_}{'Nats-Expected-Last-Subject-Sequence'} } 250, 750 ], [ ['0'], ['0'] ], 'they are as he gave them');
	is($headers{250}{$CHAINED}, undef, 'and nothing is added to them');
}

# A subject that is refused waits, and others do not
{
	my $client = client();
	clean(O => ['o.>']);
	make_known('O', 'o.first');
	$client->js('STREAM.UPDATE.O',
		{ %{ $client->stream_info('O')->{config} }, max_msgs_per_subject => 400, discard => 'new', discard_new_per_subject => JSON::PP::true });
	$session->value(q(SELECT count(nats_publish_outbox(CASE WHEN i % 10 = 0 THEN 'o.full' ELSE 'o.' || i % 100 END, i::text)) FROM generate_series(1, 6000) AS i));
	wait_for('the others', sub { $session->value(q(SELECT count(*) FROM nats_outbox)) eq '200' }, $LONG);
	has_in_order('a subject that is full', 'O', 0, grep { $_ % 10 || $_ <= 4000 } 1 .. 6000);
	is($session->value('SELECT count(*) FROM nats_outbox WHERE attempts > 0'), '1', 'one message of it is tried');
	$client->js('STREAM.UPDATE.O', { %{ $client->stream_info('O')->{config} }, max_msgs_per_subject => -1, discard_new_per_subject => JSON::PP::false });
	wait_until_drained($session, $LONG);
	has_in_order('and its messages follow in their order', 'O', 0, (grep { $_ % 10 || $_ <= 4000 } 1 .. 6000), grep { $_ % 10 == 0 && $_ > 4000 } 1 .. 6000);
}

# Messages that are stored already
{
	clean(O => ['o.>']);
	make_known('O', 'o.first');
	my $client = client();
	$client->js_publish('o.before', "before $_", headers => { 'Nats-Msg-Id' => "known $_" }) foreach 1 .. 10;
	$session->value(q(SELECT count(nats_publish_outbox('o.' || i % 10, i::text, msg_id => CASE WHEN i % 500 = 0 THEN 'known ' || i / 500 END))
		FROM generate_series(1, 5000) AS i));
	wait_until_drained($session, $LONG);
	is_pipelined(has_in_order('duplicates are stored once, the others in order', 'O', 0, (map { "before $_" } 1 .. 10), grep { $_ % 500 } 1 .. 5000), 4990);
}

# Ids that a header could be found in, or that are too long to be repeated
{
	clean(O => ['o.>']);
	make_known('O', 'o.first');
	$session->value(q(SELECT count(nats_publish_outbox('o.' || i % 10, i::text, msg_id => CASE i % 10 WHEN 1 THEN 'Nats-Msg-Id: ' || i WHEN 2 THEN 'ü ' || i
		WHEN 3 THEN repeat('x', 300) || i ELSE 'id ' || i END)) FROM generate_series(1, 2000) AS i));
	wait_until_drained($session, $LONG);
	has_in_order('ids of all kinds', 'O', 0 .. 2000);
}

# ---- What ends connections

# The server is killed in the middle
{
	clean(O => ['o.>']);
	make_known('O', 'o.first');
	foreach my $round (0 .. 3)
	{
		write_messages('o', 30_000, 100, $round * 30_000 + 1);
		wait_for('some', sub { in_stream() > $round * 30_000 + 3000 }, $LONG);
		$nats->restart(stop => 'kill9');
		wait_until_drained($session, $LONG);
	}
	has_in_order('the server is killed four times', 'O', 0 .. 120_000);
}

# Connections are cut, and what was on its way is in doubt
{
	clean(O => ['o.>']);
	my $proxy = NatsProxy->new($nats, break => 'puback', times => 0);
	make_known('O', 'o.first');
	$proxy->stop;
	foreach my $round (0 .. 9)
	{
		$proxy = NatsProxy->new($nats, break => 'puback', times => 5);
		reconfigure($node, 'nats_publish.url' => $proxy->url);
		write_messages('o', 2000, 50, $round * 2000 + 1);
		wait_until_drained($session, $LONG);
		is($proxy->broken, 5, 'connections were cut');
		reconfigure($node, 'nats_publish.url' => $nats->url);
		$proxy->stop;
	}
	has_in_order('connections are cut again and again', 'O', 0 .. 20_000);
}

# The relay is ended, and killed
{
	clean(O => ['o.>']);
	make_known('O', 'o.first');
	my $last = 0;
	foreach my $signal (qw(TERM KILL TERM KILL))
	{
		write_messages('o', 40_000, 100, $last + 1);
		wait_for('some', sub { in_stream() > $last + 5000 }, $LONG);
		my $pid = relay_pid($session);
		kill $signal, $pid;
		wait_for('its end', sub { !process_is_there($pid) });
		wait_until_back($node);
		$session->kill;
		$session = PsqlSession->new($node);
		wait_until_drained($session, $LONG);
		$last += 40_000;
	}
	has_in_order('the relay is ended and killed', 'O', 0 .. $last);
}

# A relay that begins knows no stream yet, and nats-server hangs again and again for longer than subjects are waited for.
{
	clean(O => ['o.>']);
	make_known('O', 'o.first');
	$session->value('SELECT nats_relay_pause()');
	write_messages('o', 3000, 100);
	my $pid = relay_pid($session);
	kill 'TERM', $pid;
	wait_for('its end', sub { !process_is_there($pid) });
	wait_until_back($node);
	my $stutter = fork() // die "fork: $!";
	if ($stutter == 0)
	{
		foreach (1 .. 20)
		{
			$nats->stall;
			sleep 0.3;
			$nats->resume;
			sleep 0.004;
		}
		POSIX::_exit(0);
	}
	$session->value('SELECT nats_relay_resume()');
	waitpid $stutter, 0;
	wait_until_drained($session, $LONG);
	has_in_order('nats-server hangs while a relay begins', 'O', 0 .. 3000);
}

# ---- Other servers' copies of the stream

{
	my $client = client();
	reconfigure($node, 'nats_publish.relay_ordering' => 'strict');
	clean(O => ['o.>']);
	$client->js('STREAM.CREATE.MIRROR', { name => 'MIRROR', storage => 'memory', mirror => { name => 'O' } });
	$client->js('STREAM.CREATE.COPY', { name => 'COPY', storage => 'memory', sources => [ { name => 'O', filter_subject => 'o.1' } ] });
	write_messages('o', 10_000, 10);
	wait_until_drained($session, $LONG);
	is(relay_column($session, 'ordering'), $strips_copies ? 'pipelined' : 'by subject', "strict, with nats-server $version");
	my $count = sub { return client()->stream_info($_[0])->{state}{messages}; };
	ok(eval { wait_for('all in the mirror', sub { $count->('MIRROR') == 10_000 }) }, 'a mirror gets all') or diag($count->('MIRROR'));
	ok(eval { wait_for('all in the copy', sub { $count->('COPY') == 1000 }) }, 'and so does a stream that has it as a source') or diag($count->('COPY'));
	reconfigure($node, 'nats_publish.relay_ordering' => 'relaxed');
	write_messages('o', 10, 10);
	wait_until_drained($session);
	is(relay_column($session, 'ordering'), 'relaxed', 'relaxed');
}

done_testing();
