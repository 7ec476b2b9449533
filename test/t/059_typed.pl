
# What is asked of JetStream with typed arguments, over time and failures: messages to be delivered later, by their stream or
# by the outbox, counters, and servers that do not know what is asked. NATS_SERVER_NEW names the binary of one of 2.12 or later.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('T', [ 't.>', 'schedule.t.>' ], allow_rollup_hdrs => \1);
my ($minor) = $client->info->{version} =~ /^2\.(\d+)\./;
my $node = relay_node('main', 'nats_publish.url' => $nats->url, 'nats_publish.relay_poll_interval' => '1h');
my $session = PsqlSession->new($node);

# The payloads of a subject, as somebody else reads them.
sub payloads
{
	my ($from, $stream, $subject) = @_;
	return join ' ', map { $_->{payload} } grep { $_->{subject} eq $subject } $from->stream_messages($stream);
}

# ---- The outbox delivers later, whatever the server is ----

{
	my $later = $session->value(q(SELECT nats_publish_outbox('t.a', 'later', deliver_at => clock_timestamp() + interval '1 hour')));
	$session->value(q(SELECT nats_publish_outbox('t.a', i::text) FROM generate_series(1, 3) AS i));
	ok(wait_for('those behind it', sub { payloads($client, 'T', 't.a') eq '1 2 3' }, 30), 'a message whose time has not come holds up nobody');
	# who reads the stream may see them before that is written down
	ok(wait_for('it alone', sub { $session->value(q(SELECT string_agg(state, ' ') FROM nats_outbox_messages)) eq 'scheduled' }), 'a view says that it waits');
	is(relay_column($session, q(concat_ws(' ', backlog, retrying, scheduled, oldest_age IS NULL))), '0 0 1 t', 'it is no backlog');
	like($session->value(q(SELECT status || ' ' || detail FROM nats_check() WHERE check_name = 'relay')),
		qr/^ok .*No message in nats_outbox is due yet\. 1 message there for later\./, 'and the doctor is not alarmed');
	# the relay looks by itself in an hour
	my $begun = time;
	my $soon = $session->value(q(SELECT nats_publish_outbox('t.a', 'soon', deliver_at => clock_timestamp() + interval '3 s')));
	ok(wait_for('it', sub { payloads($client, 'T', 't.a') eq '1 2 3 soon' }, 60), 'one is published when its time comes');
	cmp_ok(time - $begun, '>=', 3, 'not before');
	ok(wait_for('its end', sub { $session->value("SELECT count(*) FROM nats_outbox WHERE id = $soon") eq '0' }, 30), 'its row is gone');
	is($session->value("DELETE FROM nats_outbox WHERE id = $later RETURNING id"), $later, 'and not that of the other one');
}
is($session->value(q(SELECT id IS NOT NULL FROM nats_publish_outbox('t.past', 'x', deliver_at => now() - interval '1 day') AS id)), 't', 'a time that has passed');
ok(wait_for('it', sub { payloads($client, 'T', 't.past') eq 'x' }, 30), 'is now');
is($session->sqlstate(q(SELECT nats_publish_outbox('t.a', 'x', deliver_at => 'infinity'))), '22023', 'a time that never comes is refused');
is($session->value(q(SELECT nats_publish_outbox('t.past', 'y', deliver_at => '-infinity') IS NOT NULL)), 't', 'one before all others is not');
wait_until_drained($session);

# Taken back, far away, sent now, and what failed meanwhile
{
	my $taken = $session->value(q(SELECT nats_publish_outbox('t.b', 'taken back', deliver_at => clock_timestamp() + interval '1 s')));
	is($session->value("DELETE FROM nats_outbox WHERE id = $taken RETURNING subject"), 't.b', 'the row of one is deleted');
	my $far = $session->value(q(SELECT nats_publish_outbox('t.b', 'far', deliver_at => '2100-01-01')));
	my $written = $session->value(q(INSERT INTO nats_outbox (subject, payload, next_attempt_at) VALUES ('t.b', 'written', clock_timestamp() + interval '2 s') RETURNING id));
	is($session->sqlstate(q(INSERT INTO nats_outbox (subject, headers, next_attempt_at) VALUES ('t.b', '{"Nats-Batch-Id": "x"}', '2100-01-01'))), '22023',
		'one that is written is checked, as it was not before');
	ok(wait_for('the row', sub { payloads($client, 'T', 't.b') eq 'written' }, 30), 'a row can be written with a time');
	# The relay mends times so far away, of what has failed.
	$session->value(q(SELECT nats_publish_outbox('nobody.a', 'fails')));
	wait_for('a failure', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE last_error IS NOT NULL)) eq '1' });
	$session->value(q(UPDATE nats_outbox SET next_attempt_at = '2100-01-01' WHERE subject = 'nobody.a'; SELECT nats_publish_outbox('t.c', 'wakes')));
	ok(wait_for('the time', sub { $session->value(q(SELECT next_attempt_at < '2099-01-01' FROM nats_outbox WHERE subject = 'nobody.a')) eq 't' }),
		'a far time of what has failed is a mistake');
	is(outbox_column($session, q(next_attempt_at = '2100-01-01'), $far), 't', 'of what has not, it is a time');
	# once what has woken it is gone
	ok(wait_for('the backlog', sub { relay_column($session, q(concat_ws(' ', backlog, retrying, scheduled, retrying_subject))) eq '1 1 1 nobody.a' }),
		'they are told apart');
	is($session->value('SELECT nats_outbox_retry_all()') < 2 ? 'yes' : 'no', 'yes', 'to try again what failed');
	is(outbox_column($session, q(next_attempt_at = '2100-01-01'), $far), 't', 'does not send what is for later');
	is($session->value("SELECT nats_outbox_retry($far)"), 't', 'but it can be sent now, by its id');
	ok(wait_for('it', sub { payloads($client, 'T', 't.b') eq 'written far' }, 30), 'and is');
	$session->value(q(DELETE FROM nats_outbox));
}

# Once it has failed it is like others: what is behind it waits.
{
	$session->value(q(SELECT nats_publish_outbox('nobody.b', 'first', deliver_at => clock_timestamp() + interval '1 s')));
	wait_for('a failure', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE last_error IS NOT NULL)) eq '1' });
	$session->value(q(SELECT nats_publish_outbox('nobody.b', 'second'); SELECT nats_publish_outbox('t.d', 'other')));
	wait_for('another one', sub { payloads($client, 'T', 't.d') eq 'other' });
	is($session->value(q(SELECT string_agg(attempts::text, ' ' ORDER BY id) FROM nats_outbox)), '1 0', 'one that has failed at its time holds up its subject');
	$client->create_stream('N', ['nobody.>']);
	$session->value('SELECT nats_outbox_retry_all()');
	ok(wait_until_drained($session), 'and goes first');
	is(payloads($client, 'N', 'nobody.b'), 'first second', 'when it can');
}

# Many of them cost the others nothing: the relay never walks over them.
{
	$session->value(q(INSERT INTO nats_outbox (subject, payload, next_attempt_at) SELECT 't.many', 'x', '2100-01-01' FROM generate_series(1, 20000);
		ANALYZE nats_outbox; SELECT pg_stat_reset()));
	$session->value(q(SELECT count(nats_publish_outbox('t.many', 'new')) FROM generate_series(1, 50)));
	$session->value(q(SELECT nats_publish_outbox('nobody.c', 'x')));
	ok(wait_for('the new ones', sub { $session->value(q(SELECT count(*) FROM nats_outbox)) eq '20000' }, 60), 'new rows of their subject go');
	sleep 1.5;		# the statistics of the relay
	my $walked = $session->value(q(SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE relname = 'nats_outbox' AND indexrelname <> 'nats_outbox_pkey'));
	cmp_ok($walked, '<', 2000, "without a look at those that are for later ($walked entries were read)");
	$session->value('TRUNCATE nats_outbox');
}

# ---- Older servers are asked for nothing that they do not know ----

SKIP:
{
	skip 'the server is new', 8 if $minor >= 12;
	my %calls = (
		increment => q(SELECT nats_publish('t.old', NULL, increment => 1)),
		deliver_at => q(SELECT nats_publish('t.old', 'x', deliver_at => '2100-01-01')),
		'a schedule with a source' => q(SELECT nats_publish('t.old', 'x', headers => '{"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "t.x", "Nats-Schedule-Source": "t.y"}')));
	foreach my $what (sort keys %calls)
	{
		like($session->error($calls{$what}), qr/$what.* needs nats-server 2\.1[24], the connected one is 2\.$minor/, "$what is refused");
		my $held = $calls{$what} =~ s/nats_publish\(/nats_publish_on_commit(/r;
		is($session->sqlstate("BEGIN; $held; COMMIT"), '0A000', 'and fails COMMIT');
	}
	like($session->error($calls{deliver_at}), qr/HINT:  nats_publish_outbox\(\) can deliver later/, 'and what can do it is named');
	is(payloads($client, 'T', 't.old'), '', 'nothing of it is stored');
}

# What is on its way to a new one when that is lost is not sent to an old one.
SKIP:
{
	skip 'the server is new', 3 if $minor >= 12;
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->note($command->{subject}); $peer->abort; return; }, version => '"2.12.0"');
	my $urls = $fake->url . ',' . $nats->url;
	foreach my $case ([ 'increment', q(nats_publish_async('t.lost', NULL, increment => 1)) ], [ 'deliver_at', q(nats_publish_async('t.lost', 'x', deliver_at => '2100-01-01')) ])
	{
		my ($what, $call) = @$case;
		my $lost = publishing_session($node, url => $urls);
		my $error = $lost->error("BEGIN; SELECT $call; COMMIT");
		like($error, qr/58030.*the connection was lost, and the next server does not support $what/s, "$what, with an old server behind a new one") or diag($error);
		$lost->close;
	}
	is(payloads($client, 'T', 't.lost'), '', 'which has stored nothing');
}

# ---- Values that no counter has ----

{
	my %values = ('"7"' => '7', '"-12"' => '-12', '7' => '', '"x"' => '', '""' => '', '"-"' => '', '"1e3"' => '', '"1.5"' => '', 'null' => '', '"+1"' => '', '["7"]' => '',
		'"' . '9' x 200000 . '"' => '', '"\u0037"' => '7');
	foreach my $value (sort keys %values)
	{
		my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, qq({"stream":"C","seq":1,"val":$value})); return; }, version => '"2.12.0"');
		my $reader = publishing_session($node, url => $fake->url);
		is($reader->value(q(SELECT stream, value FROM nats_publish('c.a', NULL, increment => 1))), "C|$values{$value}", 'a value of ' . substr $value, 0, 20);
		is($reader->value(q(SELECT (nats_publish('c.a', 'x')).value)), '', 'none for what is no counter') if $values{$value};
		$reader->close;
		$fake->stop;
	}
}

# ---- The stream delivers later ----

SKIP:
{
	skip 'NATS_SERVER_NEW does not name a newer nats-server', 20 unless $ENV{NATS_SERVER_NEW};
	my $new = NatsServer->new(name => 'new', jetstream => 1, binary => $ENV{NATS_SERVER_NEW})->start;
	my $reader = NatsClient->new(url => $new->url);
	$reader->create_stream('L', [ 'l.>', 'schedule.l.>' ], allow_msg_schedules => \1, allow_msg_ttl => \1, allow_atomic => \1, storage => 'file');
	$reader->create_stream('C', ['c.>'], allow_msg_counter => \1, storage => 'file');
	my $publisher = publishing_session($node, url => $new->url);
	my $waiting = sub { return join ' ', sort map { $_->{subject} } grep { $_->{subject} =~ /^schedule/ } $reader->stream_messages('L') };

	my $begun = time;
	$publisher->value(q(SELECT nats_publish('l.a', 'at its time', headers => '{"A": "b"}', msg_id => 'one', ttl => '1 h', deliver_at => clock_timestamp() + interval '2 s')));
	$publisher->value(q(SELECT nats_publish('l.a', 'taken back', msg_id => 'two', deliver_at => clock_timestamp() + interval '2 s')));
	$publisher->value(q(BEGIN; SELECT nats_publish_on_commit('l.a', 'rolled back', deliver_at => clock_timestamp() + interval '2 s'); ROLLBACK));
	is($waiting->(), 'schedule.l.a.one schedule.l.a.two', 'each waits under a subject of its own');
	is(payloads($reader, 'L', 'l.a'), '', 'and not under that which it is for');
	is($publisher->value(q(SELECT nats_unschedule('l.a', 'two'))), 't', 'one is taken back');
	$publisher->value(q(BEGIN; SELECT nats_publish_on_commit('l.b', 'committed', msg_id => 'three', deliver_at => clock_timestamp() + interval '2 s'); COMMIT));
	$publisher->value(q(BEGIN; SET LOCAL nats_publish.commit_batch = atomic; SELECT nats_publish_on_commit('l.c', 'now');
		SELECT nats_publish_on_commit('l.c', 'with others', msg_id => 'four', deliver_at => clock_timestamp() + interval '2 s'); COMMIT));
	is(payloads($reader, 'L', 'l.c'), 'now', 'one of an atomic commit waits, too');
	ok(wait_for('them', sub { payloads($reader, 'L', 'l.b') && payloads($reader, 'L', 'l.c') eq 'now with others' }, 30), 'they are delivered');
	cmp_ok(time - $begun, '>=', 2, 'not before their time');
	is(payloads($reader, 'L', 'l.a'), 'at its time', 'but for what was rolled back or taken back');
	is($waiting->(), '', 'and wait no more');
	my ($message) = grep { $_->{subject} eq 'l.a' } $reader->stream_messages('L');
	is_deeply([ map { $message->{headers}{$_} } 'A', 'Nats-TTL', 'Nats-Msg-Id', 'Nats-Schedule-Target' ], [ ['b'], ['3600'], undef, undef ], 'what is delivered has its headers and its TTL, and no id');
	is($publisher->value(q(SELECT nats_unschedule('l.a', 'one'))), 'f', 'then there is nothing to take back');

	# The same again is the same message.
	is($publisher->value(qq(SELECT duplicate FROM nats_publish('l.d', 'x', msg_id => 'five', deliver_at => '2100-01-01')
		UNION ALL SELECT duplicate FROM nats_publish('l.d', 'y', msg_id => 'five', deliver_at => '2099-01-01'))), "f\nt", 'with the same id it is stored once');
	$new->restart(stop => 'kill9');
	$reader = NatsClient->new(url => $new->url);
	is($publisher->value(q(SELECT nats_unschedule('l.d', 'five'))), 't', 'and is there when the server has crashed');

	# Counters of many at once, and under retries
	is($publisher->value(q(BEGIN; SELECT count(nats_publish_async('c.n', NULL, increment => i)) FROM generate_series(1, 1000) AS i; COMMIT;
		SELECT value FROM nats_publish('c.n', NULL, increment => 0))), "1000\n500500", 'a counter counts');
	is($reader->get_message('C', $reader->stream_info('C')->{state}{last_seq})->{payload}, '{"val":"500500"}', 'and holds the sum');
	like($publisher->value(q(BEGIN; SELECT nats_publish_on_commit('c.n', NULL, increment => -500); SELECT nats_publish_on_commit('c.m', '', increment => 1); COMMIT;
		SELECT (nats_publish('c.n', NULL, increment => 0)).value, (nats_publish('c.m', NULL, increment => 0)).value)), qr/^500000\|1\z/m, 'in a COMMIT, too');
	$publisher->close;
}

done_testing();
