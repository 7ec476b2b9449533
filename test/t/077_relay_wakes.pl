
# A relay is woken by a message, in whatever state it was, and is at rest when there is nothing to do. By itself it looks once
# an hour here.

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

my $SECONDS = 2;

my ($nats) = nats_with_stream('S', ['s.>'], storage => 'file');
my $node = relay_node('main', 'nats_publish.url' => $nats->url, 'nats_publish.relay_poll_interval' => '1h');
my $session = PsqlSession->new($node);
my $other = PsqlSession->new($node);

sub write_message
{
	my ($subject, $payload) = @_;
	return $session->value("SELECT nats_publish_outbox('$subject', " . ($payload // q('x')) . ')');
}

sub comes_out
{
	my ($what) = @_;
	return ok(eval { wait_until_drained($session, 20) }, $what) || diag($session->value(q(SELECT string_agg(o::text, chr(10)) FROM (SELECT id, left(subject, 20), attempts, next_attempt_at, last_error, now() FROM nats_outbox LIMIT 5) o)), $session->value(q(SELECT state, last_error FROM nats_relay)));
}

# What is busy takes all of a processor, which is 100 ticks a second.
sub is_at_rest
{
	my ($what) = @_;
	my $pid = relay_pid($session);
	my $before = process_ticks($pid);
	sleep $SECONDS;
	return cmp_ok(process_ticks($pid) - $before, '<', 20 * $SECONDS, "$what: it is not busy");
}

# ---- Woken

write_message('s.first');
comes_out('a message');
$nats->stop;
write_message('s.waits');
# for long enough that looks are further apart than what a look from the lowest entry on is
sleep 8;
$nats->start;
ok(eval { wait_until_drained($session, 60) }, 'one that has waited for NATS');
# what wakes by itself is over
sleep 3;
write_message('s.behind');
comes_out('and one behind it, which wakes the relay');

# A server that was restarted while nobody looked is another one at that address; first of all it is asked for its max_payload.
$nats->restart(stop => 'kill9');
write_message('s.too_large', q(repeat('x', 1100000)));
comes_out('a message that is too large for a server that was restarted');
is($session->value('SELECT left(last_error, 5) FROM nats_outbox_dead'), '54000', '... is given up');

# One that allows more by now: what was left unread for its length is read, and whole.
foreach my $how ('a restart', 'a reload')
{
	my $size = $how eq 'a restart' ? 1_200_000 : 1_500_000;
	$nats->set_config("max_payload: $size", reload => $how eq 'a reload');
	$nats->restart(stop => 'kill9') if $how eq 'a restart';
	write_message('s.larger', "repeat('x', $size - 1000)");
	comes_out("a message for which there is room since $how");
	is(length +(NatsClient->new(url => $nats->url)->stream_messages('S'))[-1]{payload}, $size - 1000, '... is stored whole');
}
is($session->value('SELECT count(*) FROM nats_outbox_dead'), 1, 'and not given up');

# Numbers that are given when others, which are larger, have been seen
{
	$session->value(q(INSERT INTO nats_outbox (id, subject) OVERRIDING SYSTEM VALUE VALUES (1000000, 's.large')));
	comes_out('a row with an id of its own');
	foreach my $i (1 .. 3)
	{
		sleep 1.5;
		write_message("s.below");
		comes_out("a message with a lower id, $i");
	}
	foreach my $id (0, -1)
	{
		is($session->sqlstate("INSERT INTO nats_outbox (id, subject) OVERRIDING SYSTEM VALUE VALUES ($id, 's.a')"), '23514', "an id of $id is refused");
	}
}

# ---- At rest

# What was put off beyond all sense is mended, but not while somebody has locked it.
{
	$session->value(q(INSERT INTO nats_outbox (subject, attempts, last_error, next_attempt_at) VALUES ('s.later', 1, '42704: x', now() + '10 days')));
	comes_out('a row that was put off by a wrong clock');
	# not one that waits for a stream, which is probed
	$session->value('SELECT nats_relay_pause()');
	$session->value(q(INSERT INTO nats_outbox (subject, attempts, last_error, next_attempt_at) VALUES ('s.later', 1, '53000: x', now() + '10 days')));
	$other->value('BEGIN; SELECT count(*) FROM (SELECT FROM nats_outbox FOR UPDATE) AS locked');
	$session->value('SELECT nats_relay_resume()');
	is_at_rest('a row that is locked, and was put off by a wrong clock');
	$other->value('ROLLBACK');
	reconfigure($node, 'nats_publish.relay_poll_interval' => '1s');
	comes_out('it is published when it is not locked any more');
	reconfigure($node, 'nats_publish.relay_poll_interval' => '1h');
}

# Paused while NATS is away
$nats->stop;
write_message('s.away');
wait_for_state($session, 'waiting');
$session->value('SELECT nats_relay_pause()');
wait_for_state($session, 'paused');
sleep 1;
is_at_rest('a relay that is paused while NATS is away');
$session->value('SELECT nats_relay_resume()');
$nats->start;
comes_out('and goes on');

# A server that answers, each in its turn, later than ack_timeout
{
	my @waiting;
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			return unless defined $command->{id};
			sleep 0.02;
			$peer->reply($command, '{"stream":"S","seq":1}');
		});
	reconfigure($node, 'nats_publish.url' => $fake->url, 'nats_publish.ack_timeout' => '1s');
	$session->value(q(SELECT count(nats_publish_outbox('s.' || i, 'x')) FROM generate_series(1, 400) i));
	sleep 2;
	is_at_rest('answers that come slowly');
	comes_out('and all are published');
	reconfigure($node, 'nats_publish.url' => $nats->url, 'nats_publish.ack_timeout' => undef);
}

# Rows that are large: there is room for few of them, and none is read before some have gone
{
	reconfigure($node, 'nats_publish.max_pending_bytes' => '1MB');
	write_message('s.warm');
	comes_out('a message before');
	$nats->stall;
	$session->value(q(SELECT count(nats_publish_outbox('s.large.' || i, repeat('x', 300000))) FROM generate_series(1, 20) i));
	wait_for_state($session, 'publishing');
	is_at_rest('more than there is room for');
	$nats->resume;
	comes_out('and all are published');
}

# NATS goes away with one message, and another one is there
{
	reconfigure($node, 'nats_publish.max_pending_bytes' => undef, 'nats_publish.ack_timeout' => '30s', 'nats_publish.relay_ordering' => 'relaxed');
	write_message('s.warm');
	comes_out('a message before');
	$nats->stall;
	write_message('s.on_its_way');
	wait_for_state($session, 'publishing');
	$nats->kill9;
	write_message('s.ready');
	sleep 1;
	is_at_rest('NATS is away with a message, and another one is there');
	$nats->start;
	comes_out('and both are published');
	reconfigure($node, 'nats_publish.relay_ordering' => undef);
}

# Ids that would not come in the order in which they are taken
{
	my $caches = 'the relay tells of a sequence whose sessions keep ids for later';
	$session->value('ALTER SEQUENCE nats_outbox_id_seq CACHE 10');
	write_message('s.cached');
	ok(eval { wait_for('an error', sub { relay_column($session, 'last_error') =~ /^sequence "nats_outbox_id_seq" has CACHE 10/ }, 20) }, $caches);
	is($session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 's.cached')), 1, 'and publishes nothing');
	like($session->value(q(SELECT status || ' ' || detail FROM nats_check() WHERE check_name = 'relay')), qr/^failed Sequence "nats_outbox_id_seq" has CACHE 10/, 'as does the doctor');
	$other->value('ALTER SEQUENCE nats_outbox_id_seq CACHE 1');
	ok(eval { wait_until_drained($session, 60) }, 'until it is mended');
	my $last = $session->value('SELECT last_value FROM nats_outbox_id_seq');
	is(write_message('s.after'), $last + 1, 'from then on no session uses an id that it has kept');
}

done_testing();
