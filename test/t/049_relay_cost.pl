
# What a message costs the relay, counted and not timed: the statements that are executed for it, and planned.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

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
	'nats_publish.relay_poll_interval' => '1h');
my $session = PsqlSession->new($node);

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

sub count_for
{
	my ($messages, $subject) = @_;
	$session->value('SELECT pg_stat_statements_reset()');
	publish_one($subject) foreach 1 .. $messages;
	wait_for_state($session, 'idle');
	# what an array of rows is looked up by is planned for the table as it is then
	return split /\|/, statements(q(sum(calls), sum(plans) FILTER (WHERE query !~ '^DELETE')));
}

# plans are kept from the sixth time on
publish_one('c.a') foreach 1 .. 6;
my ($executed, $planned) = count_for(20, 'c.a');
# whether the relay is paused, the new row; its end needs none
is($executed, 40, 'two statements for a message') or diag(statements('calls, query'));
is($planned, 0, 'those that come before it is sent are not planned again');

# A message that waits for its stream makes another one: how long it does.
$session->value(q(SELECT nats_publish_outbox('missing.a', 'x')));
wait_for('an attempt', sub { $session->value('SELECT max(attempts) FROM nats_outbox') >= 1 });
# not for so long that it is probed
$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '28 s'));
publish_one('c.a') foreach 1 .. 6;
my $before = $session->value('SELECT attempts FROM nats_outbox');
($executed, $planned) = count_for(5, 'c.a');
is($session->value('SELECT attempts FROM nats_outbox'), $before, 'a message that waits is not tried before its time');
is($executed, 15, 'while it does, three for another one') or diag(statements('calls, query'));
is($planned, 0, 'nor are these') or diag(statements('plans, query'));

is(scalar(@{ [ $client->stream_messages('C') ] }), 37, 'each was published once');

done_testing();
