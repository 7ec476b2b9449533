
# Copies of a database that has a relay: dumps, replicas, templates. What waits in the original is not published by a copy that
# was told not to, who makes one needs the documented privileges and no others, and what the relay is in the way of has a way out.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use Documentation;
use NatsClient;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('C', ['c.>']);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	wal_level => 'logical', max_wal_senders => 5, max_replication_slots => 5, wal_retrieve_retry_interval => '200ms',
	max_worker_processes => 20);
my $session = PsqlSession->new($node);
my $dir = PostgreSQL::Test::Utils::tempdir('dump');

my $PAGES = join '', map { page($_) } pages();

# A statement that the documentation gives, by what it begins with.
sub documented
{
	my ($beginning) = @_;
	return $PAGES =~ /^(\Q$beginning\E.*;)$/m ? $1 : die "$beginning is not in the documentation";
}

sub stored { return $client->stream_info('C')->{state}{messages}; }

# ---- A pause holds in a restored dump from the first message on

{
	my $source = $node->connstr('postgres');
	$session->value('SELECT nats_relay_pause()');
	wait_for_state($session, 'paused');
	$session->value(q(SELECT count(nats_publish_outbox('c.' || i, 'x')) FROM generate_series(1, 20) AS i));
	my %formats = (
		'COPY' => [ [ '-a', '-Fp', '-f', "$dir/copy.sql" ], [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/copy.sql" ] ],
		'INSERTs' => [ [ '-a', '--inserts', '-f', "$dir/inserts.sql" ], [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/inserts.sql" ] ],
		'without comments' => [ [ '-Fc', '--no-comments', '-f', "$dir/silent" ], [ 'pg_restore', "$dir/silent" ] ]);
	foreach my $how (sort keys %formats)
	{
		my ($dump, $restore) = @{ $formats{$how} };
		my $to = publishing_database($node, "restored by $how");
		reconfigure($node, 'nats_publish.relay_databases' => qq(postgres, "$to"));
		my $restored = PsqlSession->new($node, dbname => $to);
		wait_for_state($restored, 'idle');
		command_ok([ 'pg_dump', @$dump, '-d', $source ], "pg_dump: $how");
		command_ok([ @$restore, '-d', $node->connstr($to) ], 'and restore, where a relay waits for messages');
		wait_for_state($restored, 'paused');
		is($restored->value('SELECT count(*) FROM nats_outbox'), 20, 'what waits, waits');
	}

	# pg_restore -j brings back tables in any order: here, that of the pauses last
	my $to = publishing_database($node, 'restored in parallel');
	my $restored = PsqlSession->new($node, dbname => $to);
	my $other = PsqlSession->new($node, dbname => $to);
	$restored->value('SELECT nats_relay_pause(), nats_relay_resume()');
	reconfigure($node, 'nats_publish.relay_databases' => qq(postgres, "$to"));
	wait_for_state($restored, 'idle');
	command_ok([ 'pg_dump', '-Fd', '-f', "$dir/directory", '-d', $source ], 'pg_dump: a directory');
	$other->value('BEGIN; LOCK TABLE nats_control IN SHARE MODE');
	my $restore = IPC::Run::start([ 'pg_restore', '-j', '4', '-d', $node->connstr($to), "$dir/directory" ]);
	wait_for_state($restored, 'paused');
	ok(wait_for('messages', sub { $restored->value('SELECT count(*) FROM nats_outbox') eq 20 }), 'what waits, waits, though nats_control is not restored yet');
	is($restored->value('SELECT bool_or(paused) FROM nats_control'), 'f', 'indeed');
	$other->value('COMMIT');
	ok($restore->finish, 'pg_restore, in parallel');
	wait_for_state($restored, 'paused');
	is(stored(), 0, 'nothing was published by any of them');
	$restored->value('SELECT nats_relay_resume()');
	wait_until_drained($restored);
	is(stored(), 20, 'until the copy is resumed');
	is($restored->value(q(SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'nats_publish')),
		$restored->value(q(SELECT comment FROM pg_available_extensions WHERE name = 'nats_publish')), 'and then the comment is as it was');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
	$session->value('SELECT nats_relay_resume()');
	wait_until_drained($session);
	is(stored(), 20, 'the original publishes the same when it is resumed');
	$client->purge('C');
}

# ---- The documented privileges suffice

{
	$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; CREATE DATABASE owned OWNER app');
	$node->safe_psql('owned', q(CREATE EXTENSION nats_publish; SELECT nats_publish_outbox('c.owned', 'x')));
	my $owner = PsqlSession->new($node, dbname => 'owned', user => 'app');
	my @dump = ('pg_dump', '-d', $node->connstr('owned') . ' user=app');
	command_fails_like(\@dump, qr/permission denied for (table|sequence) nats_|user may lack SELECT privilege on the sequence/, 'the owner of a database cannot dump what a superuser has put there');
	command_like([ @dump, '--exclude-table=nats_*' ], qr/CREATE EXTENSION/, 'but all without it');
	$node->safe_psql('owned', documented('GRANT SELECT ON nats_control'));
	command_like(\@dump, qr/\bc\.owned\b/, 'and with it, with what the documentation has one grant');
	is($owner->sqlstate(q(INSERT INTO nats_outbox (subject) VALUES ('c.insert'))), '42501', 'who may dump may not write');
	$node->safe_psql('owned', documented('GRANT INSERT (subject, payload'));
	is($owner->error(q(INSERT INTO nats_outbox (subject, payload, headers, msg_id) VALUES ('c.insert', 'x', '{"A": "b"}', 'id'))), '', 'unless it is granted');
	is($owner->sqlstate(q(CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE TRIGGER t AFTER DELETE ON nats_outbox EXECUTE FUNCTION f())),
		'42501', 'and nothing lets it act in the name of others');
}

# ---- All tables of a database are replicated to one that takes its place

{
	publishing_database($node, $_) foreach 'blue', 'green';
	my ($blue, $green) = map { PsqlSession->new($node, dbname => $_) } 'blue', 'green';
	$_->value('CREATE TABLE orders (id int PRIMARY KEY); SELECT nats_relay_resume(), nats_relay_pause()') foreach $blue, $green;
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, blue');
	wait_for_state($blue, 'paused');
	my $write = sub { my ($from, $count) = @_; $from->value("SELECT count(nats_publish_outbox('c.' || i, 'x')) FROM generate_series(1, $count) AS i"); };
	my $is_there = sub { my ($count) = @_; return wait_for("$count messages", sub { $green->value('SELECT count(*) FROM nats_outbox') eq $count }); };

	$write->($blue, 5);
	$blue->value(q(CREATE PUBLICATION everything FOR ALL TABLES; SELECT pg_create_logical_replication_slot('switch', 'pgoutput')));
	# a slot that is not made by it, for both are of one server
	$green->value(q(CREATE SUBSCRIPTION switch CONNECTION ') . $node->connstr . q( dbname=blue' PUBLICATION everything WITH (create_slot = false)));
	ok(eval { wait_for('the initial copy', sub { $green->value(q(SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel)) eq 't' }, 60) },
		'all tables are copied, though the relay was paused here and there');
	ok($is_there->(5), 'with what waits');
	is($green->value('SELECT count(*), bool_and(paused) FROM nats_control'), '2|t', 'and with the other pause');
	$blue->value('SELECT nats_relay_resume()');
	wait_until_drained($blue);
	is(stored(), 5, 'the publisher publishes');
	ok($is_there->(0), 'and the subscriber then has no messages');
	$blue->value('SELECT nats_relay_pause()');
	wait_for_state($blue, 'paused');
	$write->($blue, 3);
	ok($is_there->(3), 'what the publisher could not publish');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
	$green->value('DROP SUBSCRIPTION switch');
	$green->value(documented("SELECT setval('nats_outbox_id_seq'"));
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, green');
	wait_for_state($green, 'paused');
	$write->($green, 10);
	is($green->value('SELECT count(DISTINCT id) FROM nats_outbox'), 13, 'waits for the subscriber, beside what that has written');
	$green->value('SELECT nats_relay_resume()');
	wait_until_drained($green);
	is(stored(), 18, 'and is published when it is resumed');
}

done_testing();
