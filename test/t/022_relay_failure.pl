
# The relay when NATS is down, slow or refuses a message: nothing is lost, nothing is there twice, and what can't be
# published ends where it can be seen.

use strict;
use warnings FATAL => 'all';

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use NatsProxy;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $nats = NatsServer->new(jetstream => 1, config => 'max_payload: 100000')->start;
NatsClient->new(url => $nats->url)->create_stream('F', ['f.>'], storage => 'file');
$nats->stop;
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.ack_timeout' => '1s');
my $session = PsqlSession->new($node);

sub client { return NatsClient->new(url => $nats->url); }
sub in_stream { return client()->stream_info('F')->{state}{last_seq}; }

sub stored
{
	my ($stream, $subject) = @_;
	return map { $_->{payload} } grep { $_->{subject} eq $subject } client()->stream_messages($stream);
}

sub write_message
{
	my ($subject, $payload) = @_;
	return $session->value("SELECT nats_publish_outbox('$subject', $payload)");
}

# So many messages, each with a subject of its own: the stream's numbers say whether one is missing or there twice.
sub write_many
{
	my ($name, $count) = @_;
	$session->value("SELECT count(nats_publish_outbox('f.$name.' || i, i::text || repeat(' ', 100))) FROM generate_series(1, $count) i");
	return;
}

# The back-off may have become long; a reload ends it.
sub hurry { $node->reload; return; }

# The columns of the view that tell how it is.
sub health { return relay_column($session, 'state, url IS NOT NULL, backlog, oldest_age IS NOT NULL, last_error'); }

sub every_one_once
{
	my ($name, $count, $what) = @_;
	wait_until_drained($session);
	my $state = client()->js('STREAM.INFO.F', { subjects_filter => "f.$name.*" })->{state};
	my @numbers = values %{ $state->{subjects} };
	is(scalar(@numbers) . ' ' . scalar(grep { $_ != 1 } @numbers), "$count 0", "$what: every message is in the stream exactly once");
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'and none is dead');
	client()->purge('F');
	return;
}

# A dead message: the SQLSTATE and text of its error, and its attempts.
sub dead { my ($id) = @_; return $session->value("SELECT attempts, last_error FROM nats_outbox_dead WHERE id = $id AND died_at > created_at"); }
sub wait_until_dead { my ($id) = @_; return wait_for('a message to be dead', sub { dead($id) }); }

# What has failed waits for long: or else it may be tried, or due, before we say so.
sub pause_and_postpone
{
	$session->value('SELECT nats_relay_pause()');
	wait_for_state($session, 'paused');
	$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '1 hour' WHERE attempts > 0));
	return;
}

# NATS is down

my $offset = log_length($node);
is(health(), 'idle|f|0|f|', 'NATS is down, and the relay has not noticed');
$session->value(q(SELECT count(nats_publish_outbox('f.down.' || i % 3, i::text)) FROM generate_series(1, 300) i));
wait_for_state($session, 'waiting');
like(health(), qr/^waiting\|f\|300\|t\|\S/, 'messages wait, and the relay');
sleep 1.5;
is($session->value('SELECT max(attempts), max(next_attempt_at), max(last_error) FROM nats_outbox'), '0||', 'which is no fault of theirs');
is($session->value('SELECT failed, dead, last_error_at > now() - interval $$1 min$$ FROM nats_relay'), '0|0|t', 'but of NATS');
my @lines = log_lines($node, $offset, qr/nats_publish relay|WARNING|ERROR|FATAL/);
is(scalar @lines, 1, 'one line in the log');
like($lines[0] // '', qr/LOG:  nats_publish relay cannot publish: .*\S/, 'tells of it');
# between its attempts
ok(wait_for('no transaction', sub { $session->value('SELECT state, xact_start, backend_xmin FROM pg_stat_activity
	WHERE pid = (SELECT pid FROM nats_relay)') eq 'idle||' }), 'no transaction is open while it waits');
$nats->start;
hurry();
wait_until_drained($session);
foreach my $rest (0 .. 2)
{
	is_deeply([ stored('F', "f.down.$rest") ], [ grep { $_ % 3 == $rest } 1 .. 300 ], "when NATS is back, messages are published in order ($rest)");
}
wait_for_state($session, 'idle');
like(health(), qr/^idle\|t\|0\|f\|/, 'the relay is well again');
is(scalar(@lines = log_lines($node, $offset, qr/nats_publish relay/)), 2, 'and one more line');
like($lines[1] // '', qr/LOG:  nats_publish relay publishes again$/, 'tells of it');

# NATS stalls in the middle of a backlog

$offset = log_length($node);
# the relay says why it waits until another attempt has failed, which is not to be so soon that we do not see the first
reconfigure($node, 'nats_publish.connect_timeout' => '30s');
write_many('stall', 20_000);
wait_for('the first messages', sub { in_stream() > 300 + 2000 });
$nats->stall;
my $worker = relay_pid($session);
wait_for('the worker to wait',
	sub { $session->value("SELECT wait_event_type = 'Extension' AND state = 'active' FROM pg_stat_activity WHERE pid = $worker") eq 't' });
# what it has noted when it gives up is a short one
my $transactions = 0;
my $end = time + 3;
while (time < $end)
{
	$transactions += $session->value("SELECT count(*) FROM pg_stat_activity
		WHERE pid = $worker AND wait_event_type = 'Extension' AND state = 'active' AND xact_start < clock_timestamp() - interval '500 ms'");
	sleep 0.01;
	last if relay_column($session, 'state') eq 'waiting';
}
is($transactions, 0, 'the worker waits while NATS is stalled, and has no transaction open');
wait_for_state($session, 'waiting');
like(health(), qr/^waiting\|[tf]\|\d+\|t\|the connection was lost before an acknowledgment arrived \(the server does not answer\)/, 'the relay gives up for a while');
is($session->value('SELECT count(*) FROM nats_outbox WHERE attempts > 0'), '0', 'no message has failed');
is(relay_column($session, 'state'), 'waiting', 'and it still waits while it tries to connect');
$nats->resume;
reconfigure($node, 'nats_publish.connect_timeout' => undef);
# on a loaded machine, acknowledgments take longer than the answer to a PING
reconfigure($node, 'nats_publish.ack_timeout' => '60s');
every_one_once('stall', 20_000, 'a stalled server');
is(relay_pid($session), $worker, 'by the same worker');

# NATS crashes in the middle of a backlog, again and again

foreach my $round (1 .. 3)
{
	my $before = in_stream();
	write_many("crash$round", 30_000);
	wait_for('more messages', sub { in_stream() > $before + 1500 });
	$nats->stall if $round == 2;
	sleep 0.1;
	$nats->kill9;
	sleep 0.1;
	$nats->start;
	hurry();
	every_one_once("crash$round", 30_000, 'a server that crashes');
}
is(relay_pid($session), $worker, 'by the same worker');
is($session->value('SELECT failed, dead FROM nats_relay'), '0|0', 'which has not taken it for faults of messages');
reconfigure($node, 'nats_publish.ack_timeout' => undef);

# Acknowledgments are lost

foreach my $ordering ('strict', 'relaxed')
{
	my $proxy = NatsProxy->new($nats, break => 'puback', times => 5);
	reconfigure($node, 'nats_publish.url' => $proxy->url, 'nats_publish.relay_ordering' => $ordering);
	write_many("ack_$ordering", 3000);
	every_one_once("ack_$ordering", 3000, "lost acknowledgments ($ordering)");
	is($proxy->broken, 5, 'they were lost');
	reconfigure($node, 'nats_publish.url' => $nats->url, 'nats_publish.relay_ordering' => undef);
	write_many("proxy_$ordering", 1);
	wait_until_drained($session);
	$proxy->stop;
}

# A missing stream

reconfigure($node, 'nats_publish.relay_max_attempts' => 2);
write_many('reloaded', 1);
wait_until_drained($session);
my ($first, $second) = split /\n/, $session->value(q(SELECT nats_publish_outbox('m.a', '1'); SELECT nats_publish_outbox('m.a', '2')));
$session->value(q(SELECT count(nats_publish_outbox('f.meanwhile', i::text)) FROM generate_series(1, 10) i));
wait_for('other messages', sub { stored('F', 'f.meanwhile') == 10 });
pass('a missing stream does not hold up other subjects');
wait_for('an attempt', sub { outbox_column($session, 'attempts', $first) >= 1 });
my ($attempts, $in_time, $error) = split /\|/,
	outbox_column($session, q(attempts, next_attempt_at BETWEEN now() - interval '1 s' AND now() + interval '30 s', last_error), $first);
is($in_time, 't', 'the message has a next attempt');
like($error, qr/^42704: no stream takes this subject/, 'and an error');
is(outbox_column($session, 'attempts, next_attempt_at, last_error', $second), '0||', 'the one behind it waits for it');
# what is stored in a backlog is deleted a little later
wait_for('the two to be alone', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '2' });
like(health(), qr/^(idle|publishing)\|t\|2\|t\|no stream takes/, 'the relay is well, and shows the error');
wait_for('more attempts than are allowed', sub { outbox_column($session, 'attempts', $first) >= 3 });
is(outbox_column($session, q(next_attempt_at - clock_timestamp() <= 2 ^ (attempts - 1) * interval '1 s'), $first), 't',
	'a missing stream is waited for, longer and longer')
	or diag(outbox_column($session, 'attempts, next_attempt_at - clock_timestamp()', $first));
pause_and_postpone();
client()->create_stream('M', ['m.>'], max_msgs => 3, discard => 'new');
is($session->value("SELECT nats_outbox_retry($first)"), 't', 'nats_outbox_retry() finds a waiting message');
$session->value('SELECT nats_relay_resume()');
wait_until_drained($session);
is_deeply([ stored('M', 'm.a') ], [ 1, 2 ], 'when the stream is there, it is published, and what was behind it');

# A full stream

$session->value(q(SELECT count(nats_publish_outbox('m.a', i::text)) FROM generate_series(3, 5) i; SELECT nats_publish_outbox('m.b', 'b')));
wait_for('an attempt', sub { $session->value(q(SELECT count(*) FILTER (WHERE attempts > 0) || ' ' || count(*) FROM nats_outbox)) eq '2 3' });
like($session->value('SELECT last_error FROM nats_outbox WHERE attempts > 0 AND subject = $$m.a$$'), qr/^53400: /, 'a full stream');
write_message('f.meanwhile', q('11'));
wait_for('other messages', sub { stored('F', 'f.meanwhile') == 11 });
pass('does not hold up other streams');
wait_for('more attempts than are allowed', sub { $session->value('SELECT min(attempts) FROM nats_outbox WHERE attempts > 0') >= 2 });
my @kept = stored('M', 'm.a');
pause_and_postpone();
client()->purge('M');
is($session->value('SELECT nats_outbox_retry_all()'), '2', 'nats_outbox_retry_all() counts those that have failed');
$session->value('SELECT nats_relay_resume()');
wait_until_drained($session);
is_deeply([ @kept, stored('M', 'm.a') ], [ 1 .. 5 ], 'after a purge they are published, in order');

# Messages that are too large

client()->create_stream('S', ['s.>'], max_msg_size => 1000);
my @ids = split /\n/, $session->value(q(SELECT nats_publish_outbox('s.a', '1'); SELECT nats_publish_outbox('s.a', repeat('x', 2000));
	SELECT nats_publish_outbox('s.a', '2'); SELECT nats_publish_outbox('s.a', repeat('x', 200000), msg_id => 'large');
	SELECT nats_publish_outbox('s.a', '3'); SELECT nats_publish_outbox('f.size', repeat('x', 200000)); SELECT nats_publish_outbox('f.size', '4')));
wait_until_drained($session);
is_deeply([ stored('S', 's.a') ], [ 1, 2, 3 ], 'messages behind those that are too large for stream or server are published');
is_deeply([ stored('F', 'f.size') ], [4], 'also of a stream that takes any size');
like(dead($ids[1]), qr/^1\|54000: .*size/, 'one too large for the stream is dead at once');
like(dead($ids[3]), qr/^1\|54000: .*max_payload/, 'and one too large for the server');
is($session->value("SELECT subject, length(payload), headers, msg_id, attempts, created_at <= died_at FROM nats_outbox_dead WHERE id = $ids[3]"),
	's.a|200000||large|1|t', 'with all that it was');
is($session->value('SELECT dead FROM nats_relay'), '3', 'the view counts them');
like(relay_column($session, 'last_error'), qr/size|max_payload/, 'and shows an error');

# One that is made smaller while it is about to be buried unread

{
	my $editor = PsqlSession->new($node);
	$session->value('TRUNCATE nats_outbox_dead; SELECT nats_relay_pause()');
	$session->value(q(SELECT nats_publish_outbox('f.shrinks', repeat('x', 200000))));
	$editor->value(q(BEGIN; UPDATE nats_outbox SET payload = 'small' WHERE subject = 'f.shrinks'));
	$session->value('SELECT nats_relay_resume()');
	wait_for('the relay to wait', sub { $session->value(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'nats_publish relay' AND wait_event_type = 'Lock')) });
	$editor->value('COMMIT');
	wait_until_drained($session);
	is_deeply([ stored('F', 'f.shrinks') ], ['small'], 'a message that was made smaller meanwhile is published');
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'and not buried');
	$editor->close;
}

# Messages that should not be there

$session->value(q(TRUNCATE nats_outbox_dead; SET session_replication_role = replica));
my %bad = (
	'a header\'s name' => q('f.bad', 'x', '{"a b": "1"}', 'bad 1'),
	'a header\'s value' => q('f.bad', 'x', '{"a": "1\n2"}', 'bad 2'),
	'headers that are no object' => q('f.bad', 'x', '[1]', 'bad 3'),
	'a null header' => q('f.bad', 'x', '{"a": {"b": 1}}', 'bad 4'),
	'a header that is reserved' => q('f.bad', 'x', '{"Nats-Batch-Id": "1"}', 'bad 5'),
	'a subject with a space' => q('f.bad bad', 'x', NULL, 'bad 6'),
	'a wildcard' => q('f.bad.*', 'x', NULL, 'bad 7'),
	'an empty subject' => q('', 'x', NULL, 'bad 8'),
	'a subject of the API' => q('$JS.API.INFO', 'x', NULL, 'bad 9'),
	'a long subject' => q('f.' || repeat('x', 5000), 'x', NULL, 'bad 10'),
	'a line feed in the id' => qq('f.bad', 'x', NULL, E'bad\\n11'));
foreach my $what (sort keys %bad)
{
	my $id = $session->value("INSERT INTO nats_outbox (subject, payload, headers, msg_id) VALUES ($bad{$what}) RETURNING id");
	wait_until_dead($id);
	like(dead($id), qr/^1\|22\w{3}: \S/, "$what is dead at once");
}
$session->value('SET session_replication_role = origin');
write_message('f.bad', q('good'));
wait_until_drained($session);
is_deeply([ stored('F', 'f.bad') ], ['good'], 'what comes later is published');
is($session->value('SELECT nats_outbox_retry_all()'), scalar(keys %bad), 'such messages can be brought back');
wait_until_drained($session);
is($session->value('SELECT count(*), max(attempts) FROM nats_outbox_dead'), scalar(keys %bad) . '|1', 'and are dead again');
$session->value('TRUNCATE nats_outbox_dead');

# Refused without an end

$session->value(q(SELECT nats_relay_pause()));
my $client = client();
$client->create_stream('E', ['e.>']);
my $config = $client->stream_info('E')->{config};
$client->js('STREAM.UPDATE.E', { %$config, sealed => JSON::PP::true });
@ids = split /\n/, $session->value(q(SELECT nats_publish_outbox('e.a', i::text) FROM generate_series(1, 3) i; SELECT nats_publish_outbox('e.b', 'b', msg_id => 'same');
	SELECT nats_relay_resume() WHERE false));
$session->value('SELECT nats_relay_resume()');
wait_for('one attempt', sub { outbox_column($session, 'attempts', $ids[0]) eq '1' });
like(outbox_column($session, q(last_error), $ids[0]), qr/^38000: .*sealed/, 'a sealed stream');
is(outbox_column($session, 'attempts', $ids[1]), '0', 'a message that is to be tried again holds up the next one');
wait_until_drained($session);
like(dead($ids[$_]), qr/^2\|38000: .*sealed/, 'after as many attempts as are allowed a message is dead') foreach 0 .. 3;
is($session->value('SELECT count(*) FROM nats_outbox_dead'), '4', 'all are');
$client->delete_stream('E');
$client->create_stream('E', ['e.>']);
is($session->value("SELECT nats_outbox_retry($ids[3])"), 't', 'nats_outbox_retry() finds a dead message');
is($session->value("SELECT nats_outbox_retry($ids[3] + 1000)"), 'f', 'but none that is not there');
wait_until_drained($session);
is_deeply([ map { [ @$_{ 'subject', 'payload' }, $_->{headers}{'Nats-Msg-Id'} ] } $client->stream_messages('E') ], [ [ 'e.b', 'b', ['same'] ] ],
	'it is published, with its id');
is($session->value('SELECT nats_outbox_retry_all()'), '3', 'nats_outbox_retry_all() finds the others');
wait_until_drained($session);
is_deeply([ stored('E', 'e.a') ], [ 1 .. 3 ], 'they are published, in order');
is($session->value('SELECT count(*) FROM nats_outbox_dead'), '0', 'none is dead any more');
is($session->value('SELECT nats_outbox_retry_all()'), '0', 'there is nothing more to be brought back');

# Brought back while it fails: attempts begin anew
$client->js('STREAM.UPDATE.E', { %$config, sealed => JSON::PP::true });
my $id = write_message('e.c', q('x'));
wait_until_dead($id);
$session->value("SELECT nats_outbox_retry($id)");
wait_until_dead($id);
like(dead($id), qr/^2\|38000: /, 'a message that is brought back has as many attempts as before');
$session->value('TRUNCATE nats_outbox_dead');

# What the NATS user may do, and who it is

sub authorization
{
	my ($password, $deny) = @_;
	return qq(authorization { users: [ { user: "app", password: "$password", permissions: { publish: { deny: ["$deny"] } } }, { user: "test", password: "test" } ] });
}
my $strict = NatsServer->new(name => 'strict', jetstream => 1, config => authorization('secret', 'p.no'))->start;
my $strict_client = NatsClient->new(url => $strict->url, user => 'test', pass => 'test');
$strict_client->create_stream('P', ['p.>']);
my $address = '127.0.0.1:' . $strict->port;

$offset = log_length($node);
reconfigure($node, 'nats_publish.url' => "nats://app:wrong\@$address");
write_message('p.yes', q('1'));
wait_for_state($session, 'waiting');
like(health(), qr/^waiting\|[tf]\|1\|t\|\S/, 'wrong credentials: the relay waits');
is($session->value('SELECT max(attempts) FROM nats_outbox'), '0', 'which is no fault of the message');
unlike(relay_column($session, 'last_error'), qr/wrong/, 'the password is not to be seen in the view');
is(scalar(@lines = log_lines($node, $offset, qr/nats_publish relay/)), 1, 'one line in the log');
unlike($lines[0], qr/wrong\@/, 'nor there');
reconfigure($node, 'nats_publish.url' => "nats://app:secret\@$address");
wait_until_drained($session);
is($strict_client->stream_info('P')->{state}{messages}, 1, 'a reload with the right ones lets it publish');
wait_for_state($session, 'idle');
ok(wait_for('its url', sub { relay_column($session, 'url') eq "nats://$address" }), 'the view shows the address without credentials');

$session->value(q(SELECT nats_publish_outbox('p.no', '1'); SELECT nats_publish_outbox('p.no', '2'); SELECT nats_publish_outbox('p.yes', '2')));
wait_for('three attempts', sub { $session->value('SELECT max(attempts) FROM nats_outbox') >= 3 });
is($session->value('SELECT count(*), count(*) FILTER (WHERE attempts > 0), max(left(last_error, 6)) FROM nats_outbox'), '2|1|42501:',
	'a missing permission: the message waits');
is_deeply([ map { $_->{payload} } $strict_client->stream_messages('P') ], [ 1, 2 ], 'other subjects do not');
like(relay_column($session, 'state'), qr/^(idle|publishing)$/, 'nor does the relay');
$strict->set_config(authorization('secret', 'p.nothing'), reload => 1);
$session->value('SELECT nats_outbox_retry_all()');
wait_until_drained($session);
is_deeply([ map { "$_->{subject} $_->{payload}" } $strict_client->stream_messages('P') ], [ 'p.yes 1', 'p.yes 2', 'p.no 1', 'p.no 2' ],
	'with the permission it is published');

# A subject that no stream takes, and to which somebody listens: nobody refuses the message, and nobody acknowledges it

{
	my $listener = client();
	$listener->subscribe('unanswered');
	reconfigure($node, 'nats_publish.url' => $nats->url, 'nats_publish.ack_timeout' => '500ms');
	write_message('unanswered', q('1'));
	wait_for('an attempt', sub { $listener->next_message(1) });
	my $started = time;
	ok(eval {
			wait_for('other messages', sub {
					write_message('f.answered', q('1'));
					wait_for('one', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'f.answered')) eq '0' }, 10);
					stored('F', 'f.answered') >= 8 }, 30);
		}, 'a message that is never answered does not hold up other subjects for long')
		or diag(sprintf '%d messages in %.1f s; %s', scalar(stored('F', 'f.answered')), time - $started, health());
	$session->value(q(DELETE FROM nats_outbox));
	reconfigure($node, 'nats_publish.url' => "nats://app:secret\@$address", 'nats_publish.ack_timeout' => undef);
}

# A refusal says nothing of a first copy, which was sent on a connection that was lost

{
	# each connection has a process of its own
	my $copies = PostgreSQL::Test::Utils::tempdir() . '/copies';
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			# what the relay asks of a stream that it has known is no message
			return $peer->reply($command, '{}') if $command->{subject} =~ /^\$JS[.]API[.]/;
			append_to_file($copies, '.');
			POSIX::_exit(0) if -s $copies == 1;
			return $peer->reply($command, -s $copies > 2 ? '{"stream":"F","seq":1}' : '{"error":{"code":400,"err_code":1,"description":"refused"}}');
		});
	# the message that was never answered can be on its way still, and then fails
	wait_for_state($session, 'idle');
	my $failed = relay_column($session, 'failed');
	# no connection is to be given up, on a loaded machine, before the message is answered
	reconfigure($node, 'nats_publish.url' => $fake->url, 'nats_publish.connect_timeout' => '30s', 'nats_publish.ack_timeout' => '20s');
	write_message('f.doubt', q('1'));
	wait_until_drained($session);
	is(relay_column($session, 'failed'), $failed, 'a message that may be stored has not failed, and is published again');
	like(relay_column($session, 'last_error'), qr/^refused.*; it was sent before, and may be stored/, 'as the view tells');
	reconfigure($node, 'nats_publish.url' => "nats://app:secret\@$address", 'nats_publish.connect_timeout' => undef, 'nats_publish.ack_timeout' => undef);
}

# A reply that can't be parsed comes while others are being sent, or wait for room: it is no fault of theirs

foreach my $max_pending (undef, 10)
{
	my $DEEP = '{"a":' x 50_000;
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command, $number) = @_;
			# what the relay asks of a stream that it has known is no message
			my $sequence = $command->{subject} =~ /^\$JS[.]API[.]/ ? 0 : ++$peer->{sequence};
			return $peer->reply($command, $number == 1 && $sequence == 1 ? $DEEP : qq({"stream":"F","seq":$sequence}));
		});
	my $counts = 'published, failed, dead';
	my @before = split /\|/, relay_column($session, $counts);
	reconfigure($node, 'nats_publish.url' => $fake->url, 'nats_publish.ack_timeout' => '5s',
		'nats_publish.relay_batch_size' => 100_000, 'nats_publish.max_pending' => $max_pending);
	$session->value(q(SELECT count(nats_publish_outbox('f.deep.' || i % 5000, repeat('x', 1000))) FROM generate_series(1, 10000) i));
	wait_until_drained($session);
	my @after = split /\|/, relay_column($session, $counts);
	is_deeply([ map { $after[$_] - $before[$_] } 0 .. 2 ], [ 10_000, 0, 0 ],
		'a reply that is nested too deeply fails no message' . (defined $max_pending ? ", with max_pending = $max_pending" : ''));
	like(relay_column($session, 'last_error'), qr/the reply is not an acknowledgment of JetStream/, 'as the view tells');
	is(relay_pid($session), $worker, 'and the worker goes on');
}

# And when it comes each time, it holds up nothing else
{
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, $command->{subject} eq 'f.deep' ? '{"a":' x 50_000 : '{"stream":"F","seq":1}'); });
	reconfigure($node, 'nats_publish.url' => $fake->url, 'nats_publish.max_pending' => undef);
	my $bad = $session->value(q(SELECT nats_publish_outbox('f.deep', 'x')));
	$session->value(q(SELECT count(nats_publish_outbox('f.good', 'x')) FROM generate_series(1, 100)));
	wait_for('the others', sub { $session->value('SELECT min(id) = max(id) FROM nats_outbox') eq 't' }, 60);
	is(outbox_column($session, 'subject', $bad), 'f.deep', 'a message whose reply can never be parsed stays alone');
	is(relay_pid($session), $worker, 'and the worker goes on');
	$session->value('DELETE FROM nats_outbox');
}
reconfigure($node, 'nats_publish.url' => "nats://app:secret\@$address", 'nats_publish.ack_timeout' => undef,
	'nats_publish.relay_batch_size' => undef, 'nats_publish.max_pending' => undef);

# NATS is away, and when it comes back the first message is refused: the relay is not held up by that

$strict->stop;
write_message('nowhere.a', q('1'));
wait_for_state($session, 'waiting');
wait_for('a long back-off', sub { $session->value(q(SELECT clock_timestamp() - last_error_at > interval '2.5 s' FROM nats_relay)) eq 't' });
$strict->start;
hurry();
wait_for('an attempt', sub { $session->value('SELECT max(attempts) FROM nats_outbox') >= 1 });
like(relay_column($session, 'state'), qr/^(idle|publishing)$/, 'NATS is back, and refuses the first message: the relay does not wait for NATS');
my $started = time;
write_message('p.yes', q('3'));
wait_for('another message', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'p.yes' AND attempts = 0)) eq '0' });
note(sprintf 'after %.1f s', time - $started);

is(relay_pid($session), $worker, 'all by the same worker');
is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal/) ], [], 'and nothing has crashed');

done_testing();
