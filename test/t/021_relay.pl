
# The life of the relay: what starts it, what ends it, what it publishes, and what it leaves in the log.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use PsqlSession;
use PublishTest;
use RelayTest;

# Without the paths of sockets, which are named for us.
my $NOTEWORTHY = qr/nats_publish (relay|launcher)|relay_databases|WARNING|ERROR|FATAL|PANIC/;

my ($nats, $client) = nats_with_stream('R', ['r.>']);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	max_worker_processes => 20);
my $session = PsqlSession->new($node);

# The messages of a subject in the stream.
sub stored
{
	my ($subject) = @_;
	return map { $_->{payload} } grep { $_->{subject} eq $subject } $client->stream_messages('R');
}

sub published
{
	my ($from, $subject, $what) = @_;
	write_to_outbox($from, $subject, $what);
	wait_until_drained($from);
	return is_deeply([ stored($subject) ], [$what], $what);
}

sub workers
{
	return $session->value(q(SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity
		WHERE backend_type = 'nats_publish relay'));
}

sub other_pid { my ($old, $current) = @_; return $current ne '' && $current ne $old ? $current : ''; }

# Processes

is($session->value(q(SELECT backend_type, datname, state, nullif(pid, (SELECT pid FROM nats_relay)) IS NULL FROM pg_stat_activity
	WHERE backend_type LIKE 'nats%' ORDER BY 1)),
	"nats_publish launcher|||f\nnats_publish relay|postgres|idle|t", 'a launcher and a worker');
is($session->value(q(SELECT datname, pid > 0, state, backlog, oldest_age, published, failed, dead, last_success, last_error, last_error_at
	FROM nats_relay)), 'postgres|t|idle|0||0|0|0|||', 'the worker is in the view');

# What it publishes

{
	my $watcher = PsqlSession->new($node);
	my $rows = $session->value(q(BEGIN;
		SELECT nats_publish_outbox('r.text', 'grün') \g /dev/null
		SELECT nats_publish_outbox('r.bytes', '\x00ff0a'::bytea) \g /dev/null
		SELECT nats_publish_outbox('r.json', '{"a":  1}'::json, headers => '{"Number": 1, "Many": ["a", "b c"]}') \g /dev/null
		SELECT nats_publish_outbox('r.jsonb', '{"a":  1}'::jsonb, msg_id => 'mine') \g /dev/null
		SELECT nats_publish_outbox('r.null', NULL::text, headers => '{"Nats-Msg-Id": "in a header"}') \g /dev/null
		SELECT nats_publish_outbox('r.empty', '', headers => '{}') \g /dev/null
		SELECT msg_id FROM nats_outbox ORDER BY id));
	my @ids = split /\n/, $rows;
	sleep 0.2;
	is($client->stream_info('R')->{state}{messages}, 0, 'nothing is published before the commit');
	is($watcher->value('SELECT backlog, oldest_age FROM nats_relay'), '0|', 'nor to be seen');
	$session->value('COMMIT');
	wait_until_drained($watcher);
	my @messages = $client->stream_messages('R');
	is_deeply([ map { [ @$_{ 'subject', 'payload' } ] } @messages ], [
			[ 'r.text', "gr\xc3\xbcn" ], [ 'r.bytes', "\x00\xff\n" ], [ 'r.json', '{"a":  1}' ], [ 'r.jsonb', '{"a": 1}' ],
			[ 'r.null', '' ], [ 'r.empty', '' ] ], 'after it, subjects and payloads are');
	is_deeply([ map { $_->{headers}{'Nats-Msg-Id'} } @messages ], [ map { [$_] } @ids ], 'with the ids of their rows');
	is_deeply([ @ids[ 3, 4 ] ], [ 'mine', 'in a header' ], 'also given ones');
	is(scalar(keys %{ { map { $_ => 1 } @ids } }), scalar @ids, 'and others that are unique');
	my $before = delete $messages[2]{headers}{'Nats-Expected-Last-Msg-Id'} // [ $ids[1] ];
	is_deeply($before, [ $ids[1] ], 'if it is in a pipeline by then, it says behind which one it goes');
	is_deeply($messages[2]{headers}, { 'Nats-Msg-Id' => [ $ids[2] ], 'Number' => ['1'], 'Many' => [ 'a', 'b c' ] }, 'and with their headers');
	is($watcher->value('SELECT state, url, backlog, oldest_age, published, failed, dead, last_success > now() - interval $$1 min$$, last_error FROM nats_relay'),
		'idle|' . $nats->url . '|0||6|0|0|t|', 'the view counts them');
}

$client->purge('R');
$session->value(q(BEGIN; SELECT nats_publish_outbox('r.back', '1') \g /dev/null
	ROLLBACK));
$session->value(q(BEGIN; SELECT nats_publish_outbox('r.save', '1') \g /dev/null
	SAVEPOINT s; SELECT nats_publish_outbox('r.save', '2') \g /dev/null
	ROLLBACK TO s; SELECT nats_publish_outbox('r.save', '3') \g /dev/null
	COMMIT));
wait_until_drained($session);
is_deeply([ map { "$_->{subject} $_->{payload}" } $client->stream_messages('R') ], [ 'r.save 1', 'r.save 3' ],
	'what is rolled back is not published, alone or to a savepoint');

# In another encoding
{
	publishing_database($node, 'latin1', 'LATIN1');
	my $latin = PsqlSession->new($node, dbname => 'latin1', settings => { client_encoding => 'UTF8' });
	my $offset = log_length($node);
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, latin1');
	$latin->value(q(SELECT nats_publish_outbox('r.grün', 'grün', headers => '{"Farbe": "grün"}', msg_id => 'grün')));
	ok(eval { wait_until_drained($latin, 20) }, 'a message of a database in another encoding than UTF-8 is published')
		or diag(join "\n", log_lines($node, $offset, qr/cannot publish/));
	is_deeply([ map { [ @$_{ 'subject', 'payload' }, $_->{headers} ] } grep { $_->{subject} =~ /gr\xfc/ } $client->stream_messages('R') ],
		# the subject comes as JSON, as characters
		[ [ "r.gr\xfcn", "gr\xc3\xbcn", { 'Farbe' => ["gr\xc3\xbcn"], 'Nats-Msg-Id' => ["gr\xc3\xbcn"] } ] ], 'in UTF-8');
	# one for which the server is asked for its version; the stream does not take it
	$latin->value(q(SELECT nats_publish_outbox('r.ttl', 'x', headers => '{"Nats-TTL": "1h"}')));
	$latin->value(q(SELECT nats_publish_outbox('r.after', 'x')));
	ok(eval { wait_for('the message', sub { stored('r.after') }, 20) }, 'what needs a newer server does not keep others from being published')
		or diag(join "\n", log_lines($node, $offset, qr/cannot publish/));
	like(eval { wait_for('its error', sub { $latin->value(q(SELECT last_error FROM nats_outbox WHERE subject = 'r.ttl')) }, 20) } // '', qr/^0A000: /, 'and waits');
	$latin->value(q(DELETE FROM nats_outbox WHERE subject = 'r.ttl'));
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
	wait_for('the worker to end', sub { workers() eq 'postgres' });
}

# Subjects that can't be those of a message (the table's check was gone round): new, and due, before all others
{
	publishing_database($node, 'bytes', 'SQL_ASCII');
	my $bytes = PsqlSession->new($node, dbname => 'bytes');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, bytes');
	$bytes->value(q(SET session_replication_role = replica; INSERT INTO nats_outbox (subject, msg_id, next_attempt_at)
		VALUES (E'r.\xff', 'new', NULL), (E'r.\xff', 'due', now() - interval '1 hour'); RESET session_replication_role; SELECT nats_publish_outbox('r.beside', 'x')));
	ok(eval { wait_until_drained($bytes, 20) }, 'a subject that cannot be converted holds up nobody');
	is($bytes->value(q(SELECT string_agg(left(last_error, 5) || ' ' || msg_id, ', ' ORDER BY msg_id) FROM nats_outbox_dead)), '22021 due, 22021 new', 'and is given up');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
	wait_for('the worker to end', sub { workers() eq 'postgres' });
}

# A quiet log

my @noise = grep { !/terminating background worker|exited with|changed to|WHERE backend_type/ } log_lines($node, 0, $NOTEWORTHY);
is_deeply(\@noise, [], 'all that has left nothing in the log');

# Databases come and go

publishing_database($node, 'Other, Db');
$node->safe_psql('postgres', 'CREATE DATABASE third');
my $other = PsqlSession->new($node, dbname => 'Other, Db');
my $offset = log_length($node);
reconfigure($node, 'nats_publish.relay_databases' => q(postgres, "Other, Db", absent));
wait_for('two workers', sub { workers() eq 'Other, Db postgres' });
published($other, 'r.other', 'a reload starts a worker for another database');
published($session, 'r.first', 'the first one goes on');
wait_for_state($session, 'no database', 'absent');
is($other->value(q(SELECT string_agg(datname || ' ' || (backlog IS NOT NULL), ', ' ORDER BY datname COLLATE "C") FROM nats_relay)),
	'Other, Db true, absent false, postgres false', 'the view shows all, with the backlog of the own');

my $pid = relay_pid($session);
reconfigure($node, 'nats_publish.relay_databases' => q("Other, Db", absent));
wait_for('the worker to end', sub { workers() eq 'Other, Db' });
ok(wait_for('its removal', sub { relay_column($session, 'count(*)') eq '0' }), 'a reload stops the worker of a database that is taken from the list');
write_to_outbox($session, 'r.later', 'what is written meanwhile is published later');
published($other, 'r.more', 'the others go on');
is_deeply([ stored('r.later') ], [], 'nothing is published without a worker');
reconfigure($node, 'nats_publish.relay_databases' => q(postgres, "Other, Db", absent, third));
wait_until_drained($session);
is_deeply([ stored('r.later') ], ['what is written meanwhile is published later'], 'what is written meanwhile is published later');
isnt(relay_pid($session), $pid, 'by a new worker');

# One log line for a database that is not there, however often it is looked for
my @lines = log_lines($node, $offset, qr/database "absent"/);
is(scalar @lines, 1, 'a database that does not exist is one line');
like($lines[0], qr/LOG:  database "absent" of nats_publish.relay_databases does not exist$/, 'in the log');
publishing_database($node, 'absent');
# taken from the list and put there again, it is looked for at once
reconfigure($node, 'nats_publish.relay_databases' => q(postgres, "Other, Db", third));
wait_for('its removal', sub { relay_column($session, 'count(*)', 'absent') eq '0' });
reconfigure($node, 'nats_publish.relay_databases' => q(postgres, "Other, Db", absent, third));
{
	my $created = PsqlSession->new($node, dbname => 'absent');
	published($created, 'r.created', 'a database that is created later is found');
}

# Extensions come and go

my $third = PsqlSession->new($node, dbname => 'third');
wait_for_state($session, 'no extension', 'third');
$third->value('CREATE SCHEMA "Odd Schema"; CREATE EXTENSION nats_publish SCHEMA "Odd Schema"; SET search_path = "Odd Schema"');
published($third, 'r.third', 'an extension that is created later, in another schema, is found');

$offset = log_length($node);
$third->value('DROP EXTENSION nats_publish');
wait_for_state($session, 'no extension', 'third');
$third->value('CREATE EXTENSION nats_publish');
published($third, 'r.again', 'an extension that is dropped and created again');
is_deeply([ log_lines($node, $offset, $NOTEWORTHY) ], [], 'without a line in the log');

# with messages on their way
write_to_outbox($third, 'r.warm', 'x');
wait_until_drained($third);
$nats->stall;
$third->value(q(SELECT count(nats_publish_outbox('r.dropped.' || i, 'x')) FROM generate_series(1, 3000) i));
wait_for_state($session, 'publishing', 'third');
is($third->run('DROP EXTENSION nats_publish')->{error}, '', 'DROP EXTENSION while messages are on their way waits for nothing');
$nats->resume;
wait_for_state($session, 'no extension', 'third');
$pid = relay_pid($session, 'third');
$third->value('CREATE EXTENSION nats_publish SCHEMA public; SET search_path = public');
published($third, 'r.fresh', 'after that, a new one');
is(relay_pid($session, 'third'), $pid, 'is served by the same worker');
my @dropped = log_lines($node, $offset, $NOTEWORTHY);
cmp_ok(scalar @dropped, '<=', 2, 'which has said that it could not publish, and that it can')
	or diag(join "\n", @dropped);
unlike(join("\n", @dropped), qr/ERROR|FATAL|PANIC/, 'and no more');
reconfigure($node, 'nats_publish.relay_databases' => q(postgres, absent));
wait_for('two workers', sub { workers() eq 'absent postgres' });
$third->close;
$other->close;

# DROP DATABASE

$offset = log_length($node);
is($session->sqlstate('DROP DATABASE absent'), '55006', 'DROP DATABASE finds the relay in its way');
is($session->run('DROP DATABASE absent WITH (FORCE)')->{error}, '', 'but not WITH (FORCE)');
wait_for_state($session, 'no database', 'absent');
published($session, 'r.after_drop', 'the others go on after DROP DATABASE');
is(scalar(log_lines($node, $offset, qr/LOG:  database "absent" .* does not exist/)), 1, 'one line tells of it');
is_deeply([ log_lines($node, $offset, qr/FATAL|PANIC/) ], [], 'and it is all that does');
reconfigure($node, 'nats_publish.relay_databases' => 'postgres');

# Terminations: started again, and never two at once

$session->value(q(CREATE FUNCTION most_workers(rounds int) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE most int = 0; present int; seen int[] = '{}'; pids int[];
	BEGIN
		FOR i IN 1 .. rounds LOOP
			PERFORM pg_stat_clear_snapshot();
			SELECT count(*), coalesce(array_agg(pid), '{}') INTO present, pids FROM pg_stat_activity
				WHERE backend_type = 'nats_publish relay' AND datname = 'postgres';
			most := greatest(most, present);
			SELECT array_agg(DISTINCT p) INTO seen FROM unnest(seen || pids) p;
			PERFORM pg_sleep(0.01);
		END LOOP;
		RETURN most || ' ' || cardinality(seen);
	END $$));
my $observer = PsqlSession->new($node);
$observer->begin('SELECT most_workers(600)');
foreach my $round (1 .. 3)
{
	my $old = wait_for('a worker', sub { relay_pid($session) });
	is($session->value("SELECT pg_terminate_backend($old)"), 't', 'the worker is terminated');
	write_to_outbox($session, 'r.terminated', $round);
	if ($round == 2)
	{
		# a reload makes the launcher look, and the list is the same
		reconfigure($node, work_mem => '5MB') foreach 1 .. 3;
	}
	wait_for('another worker', sub { other_pid($old, relay_pid($session)) });
	wait_until_drained($session);
	is_deeply([ stored('r.terminated') ], [ 1 .. $round ], 'and started again');
}
my ($most, $seen) = split / /, $observer->finish->{output};
is($most, 1, "over time there was one worker at most, of $seen");

my $launcher = launcher_pid($session);
$pid = relay_pid($session);
is($session->value("SELECT pg_terminate_backend($launcher)"), 't', 'the launcher is terminated');
published($session, 'r.orphan', 'the worker goes on without a launcher');
wait_for('another launcher', sub { other_pid($launcher, launcher_pid($session)) });
is(relay_pid($session), $pid, 'and under the next one');
sleep 0.5;
is($session->value("SELECT pg_terminate_backend($pid)"), 't', 'a worker that another launcher has started is terminated');
ok(eval { wait_for('another worker', sub { other_pid($pid, relay_pid($session)) }, 20) }, 'and started again');
reconfigure($node, work_mem => '6MB');
$launcher = launcher_pid($session);
$pid = wait_for('a worker', sub { other_pid($pid, relay_pid($session)) });
$session->value("SELECT pg_terminate_backend($launcher), pg_terminate_backend($pid)");
published($session, 'r.both', 'both at once are started again');
is($session->value('SELECT most_workers(20)'), '1 1', 'there is one worker');

# Pausing, and the server's end

$session->value('SELECT nats_relay_pause()');
wait_for_state($session, 'paused');
$session->value(q(SELECT count(nats_publish_outbox('r.backlog.' || i, i::text)) FROM generate_series(1, 20000) i));
$node->restart;
$session = PsqlSession->new($node);
wait_for_state($session, 'paused');
is($session->value('SELECT backlog, oldest_age > interval $$0$$, published FROM nats_relay'), '20000|t|0', 'a pause holds over a restart');
$client->purge('R');
is($session->value('SELECT nats_relay_resume()'), '', 'until it is resumed');
wait_for('the first messages', sub { $client->stream_info('R')->{state}{messages} > 1000 });
$nats->stall;    # the rest is not published while the server is told
$node->stop('immediate');
$nats->resume;
cmp_ok($client->stream_info('R')->{state}{messages}, '<', 20_000, 'an immediate shutdown comes in a backlog');
$node->start;
$session = PsqlSession->new($node);
wait_for('more messages', sub { $client->stream_info('R')->{state}{messages} > 5000 });
$node->restart(fail_ok => 0);
$session = PsqlSession->new($node);
wait_until_drained($session);
my $state = $client->js('STREAM.INFO.R', { subjects_filter => 'r.backlog.*' })->{state};
is("$state->{messages} $state->{num_subjects}", '20000 20000', 'after that and a restart, every message is in the stream exactly once');

# Settings of the database that would be in the way

$session->value(q(ALTER DATABASE postgres SET default_transaction_read_only = on;
	ALTER DATABASE postgres SET default_transaction_isolation = 'serializable';
	ALTER DATABASE postgres SET search_path = 'nowhere';
	ALTER DATABASE postgres SET statement_timeout = '1ms';
	ALTER DATABASE postgres SET nats_publish.on_full = 'error';
	ALTER DATABASE postgres SET nats_publish.max_pending = 1;
	ALTER DATABASE postgres SET nats_publish.auto_msg_id = off;
	ALTER DATABASE postgres SET nats_publish.commit_batch = 'atomic';
	SELECT nats_relay_pause()));
$offset = log_length($node);
$pid = relay_pid($session);
$session->value("SELECT pg_terminate_backend($pid)");
wait_for('another worker', sub { other_pid($pid, relay_pid($session)) });
$session->value(q(SELECT count(nats_publish_outbox('r.settings.' || i, 'x')) FROM generate_series(1, 10) i; SELECT nats_relay_resume()));
wait_until_drained($session);
is($session->value('SELECT published, failed, dead FROM nats_relay'), '10|0|0', 'settings of the database are not in the way of the worker');
is_deeply([ log_lines($node, $offset, qr/cannot publish/) ], [], 'nor does it complain');
# but for that which ends whatever takes long
$session->value('ALTER DATABASE postgres RESET statement_timeout');
is(PsqlSession->new($node)->sqlstate(q(SELECT public.nats_publish_outbox('r.a', 'x'))), '25006', 'as they are in that of others');
$session->value('ALTER DATABASE postgres RESET ALL');

# A standby

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "nats_publish.url = '" . $nats->url . "'\nshared_preload_libraries = 'nats_publish'\nlog_line_prefix = '%m [%p] %q%a '\n");
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION nats_publish');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "nats_publish.relay_databases = 'postgres'");
$standby->start;
$primary->safe_psql('postgres', q(SELECT count(nats_publish_outbox('r.standby.' || i, 'x')) FROM generate_series(1, 2000) i));
$primary->wait_for_catchup($standby);
{
	my $on_primary = PsqlSession->new($primary);
	my $on_standby = PsqlSession->new($standby);
	like($on_primary->value(q(SELECT count(*), string_agg(backend_type, ' ') FROM pg_stat_activity WHERE backend_type LIKE 'nats%')),
		qr/^1\|nats_publish launcher$/, 'no databases: a launcher alone');
	is($on_standby->value(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'nats%')), '0', 'a standby has no launcher');
	is($on_standby->value('SELECT count(*) FROM nats_relay'), '0', 'and no relay');
	is($on_standby->value('SELECT count(*) FROM nats_outbox'), '2000', 'though messages wait');
	is($on_standby->sqlstate(q(SELECT nats_publish_outbox('r.a', 'x'))), '25006', 'none can be written there');
	is($on_standby->sqlstate('SELECT nats_relay_pause()'), '25006', 'nor the relay be paused');
	$on_primary->close;
	$primary->stop;
	$standby->promote;
	wait_until_drained($on_standby);
	$state = $client->js('STREAM.INFO.R', { subjects_filter => 'r.standby.*' })->{state};
	is(scalar(keys %{ $state->{subjects} }), 2000, 'what was left is published after a promotion');
	is($on_standby->value(q(SELECT string_agg(backend_type, ' ' ORDER BY 1) FROM pg_stat_activity WHERE backend_type LIKE 'nats%')),
		'nats_publish launcher nats_publish relay', 'by a launcher and a worker');
	published($on_standby, 'r.promoted', 'and what is written then');
}
is_deeply([ grep { !/read-only|end-of-streaming|connect to the primary/ } log_lines($standby, 0, $NOTEWORTHY) ], [], 'without a line in the log');

# Not preloaded

{
	my $plain = publishing_node('plain',
		'nats_publish.url' => $nats->url,
		'nats_publish.relay_databases' => 'postgres');
	my $there = PsqlSession->new($plain);
	is($there->value(q(SELECT count(*) FROM nats_relay)), '0', 'not preloaded: the view is empty');
	is($there->value(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'nats%')), '0', 'there is no process');
	my $id = write_to_outbox($there, 'r.plain', 'x');
	is(outbox_column($there, 'subject, attempts', $id), 'r.plain|0', 'messages can be written');
	is($there->value("SELECT nats_relay_pause(), nats_relay_resume(), nats_outbox_retry($id), nats_outbox_retry(0), nats_outbox_retry_all()"),
		'||t|f|0', 'and the functions work');
	is(scalar(stored('r.plain')), 0, 'nothing is published');
	$plain->append_conf('postgresql.conf', "shared_preload_libraries = 'nats_publish'");
	$plain->restart;
	$there = PsqlSession->new($plain);
	wait_until_drained($there);
	is(scalar(stored('r.plain')), 1, 'until it is preloaded');
}

# What the postmaster has logged of the main server's workers is terminations

is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal|server process/) ], [], 'nothing has crashed');
is_deeply([ grep { !/starting up|shutting down|terminating connection due/ } log_lines($node, 0, qr/FATAL/) ], [], 'and what was terminated has ended in peace');

done_testing();
