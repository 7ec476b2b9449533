
# What logical replication applies is in the WAL of the subscriber, too: with wal_origin = any it is published there a second
# time, with none it is not, however it is applied. Subscriptions are real ones, between two databases of a cluster, which
# both publish their WAL: each to subjects of its own.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $LONG = 180;
my @DATABASES = qw(here there);

my ($nats, $client) = nats_with_stream('S', [ map { "$_.>" } @DATABASES ], storage => 'file');
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	shared_preload_libraries => 'nats_publish',
	'nats_publish.outbox_storage' => 'wal',
	wal_level => 'logical',
	logical_decoding_work_mem => '64kB',
	max_worker_processes => 24,
	max_wal_senders => 10,
	max_replication_slots => 20,
	max_prepared_transactions => 4);
my $version = $node->pg_version;
my %session;

publishing_database($node, $_) foreach @DATABASES;
reconfigure($node, 'nats_publish.relay_databases' => join(',', @DATABASES));
foreach my $database (@DATABASES)
{
	my $session = $session{$database} = PsqlSession->new($node, dbname => $database);
	$session->value(q(CREATE TABLE orders (id int PRIMARY KEY, note text); ALTER TABLE orders REPLICA IDENTITY FULL));
	wake_relay($session);
	wait_for_state($session, 'idle');
	$session->value('SELECT nats_wal_enable()');
	$session->value(qq(SELECT nats_publish_table('orders', '$database.changed', delivery => 'wal', old => true)));
}

# It is the same for all databases.
sub publish_origins
{
	my ($which) = @_;
	reconfigure($node, 'nats_publish.wal_origin' => $which);
	is($session{there}->value('SHOW nats_publish.wal_origin'), $which, "wal_origin = $which");
	return;
}

# Subscribe from a database to what the other one publishes; the slot is made apart, for CREATE SUBSCRIPTION would wait for
# its own transaction.
sub subscribe
{
	my ($from, $to, $options) = @_;
	$session{$from}->value(qq(CREATE PUBLICATION "of_$from" FOR TABLE orders));
	my $two_phase = $options =~ /two_phase/ ? 'true' : 'false';
	$session{$from}->value(qq(SELECT pg_create_logical_replication_slot('to_$to', 'pgoutput', false, $two_phase)));
	my $connection = 'host=' . $node->host . ' port=' . $node->port . " dbname=$from";
	$session{$to}->value(qq(CREATE SUBSCRIPTION "to_$to" CONNECTION '$connection' PUBLICATION "of_$from"
		WITH (create_slot = false, slot_name = 'to_$to', $options)));
	wait_for("the subscription of $to", sub {
		$session{$to}->value(q(SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel)) eq 't' }, $LONG);
	return;
}

# Until all slots are where the WAL ends: what was applied, and what of that was published.
sub settle
{
	foreach (1 .. 3)
	{
		my $end = $session{here}->value('SELECT pg_current_wal_insert_lsn()');
		wait_for("the WAL up to $end", sub {
			$session{here}->value("SELECT bool_and(confirmed_flush_lsn >= '$end') FROM pg_replication_slots") eq 't' }, $LONG);
	}
	return;
}

# The messages since the last call, by database: the operation and the id of the row, in their order, which one subject keeps.
sub published
{
	settle();
	my @messages = sort { $a->{seq} <=> $b->{seq} } $client->consume('S');
	$client->purge('S');
	my %of = map { $_ => [] } @DATABASES;
	foreach my $message (@messages)
	{
		my ($database) = $message->{subject} =~ /^(\w+)\./;
		my ($op) = $message->{payload} =~ /"op":"(\w+)"/;
		push @{ $of{$database} }, $op . ($message->{payload} =~ /"key":\{"id":(\d+)/ ? " $1" : '');
	}
	return map { "$_: " . join(', ', @{ $of{$_} }) } @DATABASES;
}

my $WORK = q(INSERT INTO orders VALUES (1, 'a'), (2, 'b'); UPDATE orders SET note = 'c' WHERE id = 1; DELETE FROM orders WHERE id = 2; TRUNCATE orders);
my $DONE = 'insert 1, insert 2, update 1, delete 2, truncate';

# What was there before, and is copied

$session{here}->value(q(INSERT INTO orders VALUES (8, 'there before')));
is_deeply([ published() ], [ 'here: insert 8', 'there: ' ], 'without a subscription');
publish_origins('none');
subscribe('here', 'there', 'streaming = on, two_phase = on' . ($version >= 16 ? ', origin = none' : ''));
is($session{there}->value('SELECT note FROM orders WHERE id = 8'), 'there before', 'a row is copied');
is_deeply([ published() ], [ 'here: ', 'there: ' ], 'and not published again');
$session{here}->value('DELETE FROM orders');
is_deeply([ published() ], [ 'here: delete 8', 'there: ' ], 'its end is published where it was deleted');

# In one direction

foreach my $case ([ none => '' ], [ any => $DONE ], [ none => '' ])
{
	my ($which, $again) = @$case;
	publish_origins($which);
	$session{here}->value($WORK);
	is_deeply([ published() ], [ "here: $DONE", "there: $again" ], "what was applied, $which");
	$session{there}->value($WORK);
	is_deeply([ published() ], [ 'here: ', "there: $DONE" ], "what was written by the subscriber itself, $which");
	$session{here}->value(q(BEGIN; INSERT INTO orders VALUES (3, 'x'); PREPARE TRANSACTION 'p'));
	$session{here}->value(q(INSERT INTO orders VALUES (4, 'x'); COMMIT PREPARED 'p'));
	is_deeply([ published() ], [ 'here: insert 4, insert 3', 'there: ' . ($again && 'insert 4, insert 3') ], "a prepared transaction, $which");
	$session{here}->value(q(BEGIN; SAVEPOINT a; DELETE FROM orders; ROLLBACK TO a; UPDATE orders SET note = 'y' WHERE id = 3; SAVEPOINT b;
		DELETE FROM orders WHERE id = 3; RELEASE b; COMMIT));
	is_deeply([ published() ], [ 'here: update 3, delete 3', 'there: ' . ($again && 'update 3, delete 3') ], "subtransactions, $which");
	$session{here}->value(q(INSERT INTO orders SELECT i, repeat('x', 100) FROM generate_series(1001, 3000) AS i));
	settle();
	is($client->stream_info('S')->{state}{messages}, $again ? 4000 : 2000, "a large transaction, which is streamed, $which");
	$session{here}->value('TRUNCATE orders');
	settle();
	$client->purge('S');
}
ok($session{here}->value(q(SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = 'to_there')) > 0, 'some were streamed indeed');

# A trigger of the subscriber's own, which fires for what is applied: that it publishes is what it is for

publish_origins('none');
$session{there}->value(q(SELECT nats_unpublish_table('orders'); SELECT nats_publish_table('orders', 'there.changed', delivery => 'outbox')));
$session{there}->value(q(DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE orders ENABLE REPLICA TRIGGER %I', tgname) FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal
	AND tgname !~ 'truncate' LIMIT 1); END $$));
$session{here}->value(q(INSERT INTO orders VALUES (1, 'a')));
is_deeply([ published() ], [ 'here: insert 1', 'there: insert 1' ], 'a message of the outbox, written by a trigger where it was applied');
$session{there}->value(q(SELECT nats_unpublish_table('orders'); SELECT nats_publish_table('orders', 'there.changed', delivery => 'wal', old => true)));
$session{here}->value('TRUNCATE orders');
is_deeply([ published() ], [ 'here: truncate', 'there: ' ], 'published from the WAL again');

# In both directions

SKIP: {
	skip 'before PostgreSQL 16, two subscriptions to each other go round and round themselves', 5 if $version < 16;
	$session{there}->value('ALTER SUBSCRIPTION to_there SET (streaming = parallel)');
	subscribe('there', 'here', 'copy_data = false, origin = none, streaming = parallel');
	foreach my $database (@DATABASES)
	{
		$session{$database}->value($WORK);
		is_deeply([ published() ], [ map { "$_: " . ($_ eq $database ? $DONE : '') } @DATABASES ], "written $database, it is published there alone");
		$session{$database}->value(q(INSERT INTO orders SELECT i, repeat('x', 100) FROM generate_series(1001, 3000) AS i));
		settle();
		is($client->stream_info('S')->{state}{messages}, 2000, 'and so is a large transaction, which is applied while it is streamed');
		$client->purge('S');
		$session{$database}->value('TRUNCATE orders');
		settle();
		$client->purge('S');
	}
	publish_origins('any');
	$session{here}->value($WORK);
	is_deeply([ published() ], [ map { "$_: $DONE" } @DATABASES ], 'with wal_origin = any both publish it, once each');
	$session{here}->value('ALTER SUBSCRIPTION to_here DISABLE; ALTER SUBSCRIPTION to_here SET (slot_name = NONE); DROP SUBSCRIPTION to_here');
}

$session{there}->value('ALTER SUBSCRIPTION to_there DISABLE; ALTER SUBSCRIPTION to_there SET (slot_name = NONE); DROP SUBSCRIPTION to_there');
foreach my $database (@DATABASES)
{
	is($session{$database}->value('SELECT count(*) FROM nats_outbox'), 0, "nothing is left in the outbox of $database");
	is($session{$database}->value('SELECT count(*) FROM nats_outbox_dead'), 0, 'and nothing is dead');
}
is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal/) ], [], 'nothing has crashed');

done_testing();
