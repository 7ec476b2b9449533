# What a message costs the relay while the outbox is full of others, counted in pages of PostgreSQL's and not timed; and that
# nothing is forgotten there.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $sharedir = qx(pg_config --sharedir) =~ s/\s+$//r;
plan skip_all => 'pg_stat_statements is not installed' if !-e "$sharedir/extension/pg_stat_statements.control";

# Rows in the outbox, and the pages that a message may take at most: an indexed look, not one for each row.
my $ROWS = 20_000;
my $FEW = 500;

my $nats = NatsServer->new(jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
$client->create_stream('L', ['l.>']);
my $node = relay_node('main',
	shared_preload_libraries => 'pg_stat_statements, nats_publish',
	'pg_stat_statements.track' => 'all',
	autovacuum => 'off',
	'nats_publish.url' => $nats->url,
	# it looks when it is woken, and not by itself
	'nats_publish.relay_poll_interval' => '1h');
my $session = PsqlSession->new($node);
$session->value(q(CREATE EXTENSION pg_stat_statements; CREATE ROLE relay; GRANT USAGE ON SCHEMA public TO relay;
	ALTER TABLE nats_outbox OWNER TO relay; ALTER TABLE nats_outbox_dead OWNER TO relay; GRANT SELECT ON nats_control TO relay));

sub wait_for_waiting
{
	my ($condition, $count) = @_;
	wait_for("$count rows: $condition", sub { $session->value("SELECT count(*) FROM nats_outbox WHERE $condition") == $count });
	return;
}

# The relay is woken by a commit in which something was published.
sub publish_one
{
	my ($subject) = @_;
	my $id = $session->value("SELECT nats_publish_outbox('$subject', 'x')");
	wait_for('a message to be published', sub { $session->value("SELECT count(*) FROM nats_outbox WHERE id = $id") eq '0' });
	return;
}

sub pages_of
{
	my ($code) = @_;
	$session->value('SELECT pg_stat_statements_reset()');
	$code->();
	wait_for_state($session, 'idle');
	return $session->value(q(SELECT sum(shared_blks_hit + shared_blks_read) FROM pg_stat_statements
		JOIN pg_roles ON pg_roles.oid = userid WHERE rolname = 'relay' AND query !~ '^INSERT'));
}

publish_one('l.warm') foreach 1 .. 6;

# Rows that were tried, each of which has left what a transaction keeps from being removed.
my $old = PsqlSession->new($node);
$old->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM nats_outbox');
$session->value(qq(INSERT INTO nats_outbox (subject, payload, attempts, last_error, next_attempt_at)
	SELECT 'missing.' || i, 'x', 1, '42704: no stream', now() - interval '1 minute' FROM generate_series(1, $ROWS) AS i));
publish_one('l.wake');
wait_for_waiting('next_attempt_at > now()', $ROWS);
# what waits is not tried, and not probed, meanwhile
$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '1 hour'));
publish_one('l.tried') foreach 1 .. 6;
my $pages = pages_of(sub { publish_one('l.tried') });
cmp_ok($pages, '<', $FEW, "$ROWS rows that were tried, and that left as many dead, make no message dearer");

# Rows behind one that waits: they are not read again for a pause.
$session->value(q(DELETE FROM nats_outbox));
$session->value(q(SELECT nats_publish_outbox('missing.first', 'x')));
wait_for_waiting(q(subject = 'missing.first' AND attempts > 0), 1);
$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '28 s'));
$session->value(qq(SELECT count(nats_publish_outbox('missing.first', i::text)) FROM generate_series(1, $ROWS) AS i));
publish_one('l.behind');
wait_for_state($session, 'idle');
$pages = pages_of(
	sub {
		$session->value('SELECT nats_relay_pause()');
		wait_for_state($session, 'paused');
		$session->value('SELECT nats_relay_resume()');
		publish_one('l.behind');
	});
cmp_ok($pages, '<', $FEW, "nor are $ROWS rows that wait behind another one read again for a pause");

# What somebody changes in the table is found all the same, also in the middle of it.
my $first = $session->value(q(SELECT min(id) FROM nats_outbox));
my $edited = $ROWS / 2;
$session->value("UPDATE nats_outbox SET subject = 'l.edited', msg_id = 'edited' WHERE payload = '$edited'");
$session->value(q(INSERT INTO nats_outbox (id, subject, msg_id) OVERRIDING SYSTEM VALUE VALUES (1, 'l.low', 'low')));
$node->append_conf('postgresql.conf', "nats_publish.relay_poll_interval = '100ms'");
$node->reload;
wait_for_waiting(q(msg_id IN ('edited', 'low')), 0);
pass('a row that was edited, and one with an id of its own');
foreach my $time ("'-infinity'", "now() - interval '1 year'", "now() - interval '5 s'", "now() + interval '1 s'")
{
	$session->value("INSERT INTO nats_outbox (subject, attempts, last_error, next_attempt_at) VALUES ('l.time', 1, '42704: x', $time)");
	wait_for('a row that waits for a time', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'l.time')) eq '0' });
	pass("one that was given the time $time");
}
$client->create_stream('M', ['missing.>']);
$session->value("DELETE FROM nats_outbox WHERE id = $first");
wait_for('the rows behind one that was deleted', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '0' });
my @stored = map { $_->{payload} } $client->stream_messages('M');
is("@stored", join(' ', grep { $_ != $edited } 1 .. $ROWS), 'they are published when it is deleted, each once and in order');
$old->value('COMMIT');

done_testing();
