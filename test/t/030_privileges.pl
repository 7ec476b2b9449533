
# What the administrator has set for a role or a database holds from a session's first byte on; and what is switched
# off reaches no server, by any way, until it is switched on.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use PsqlSession;
use PublishTest;
use RelayTest;

# What takes no network, on a loaded machine.
my $BOUND = 20;

my ($nats, $client) = nats_with_stream('P', ['p.>']);

sub stored
{
	my ($subject) = @_;
	return scalar grep { $_->{subject} eq $subject } $client->stream_messages('P');
}

# Who connects has noted it.
sub watched_server
{
	return FakeServer->new(sub { my ($peer) = @_; $peer->note('connected'); $peer->handshake; $peer->hold; return; });
}

# An ordinary role that may call everything, and the limits of its sessions.
sub restrict
{
	my ($node, $database) = @_;
	$node->safe_psql('postgres', q(CREATE ROLE app LOGIN; ALTER ROLE app SET nats_publish.allowed_subjects = 'p.ok.>'));
	grant($node, $_) foreach 'postgres', $database;
	$node->safe_psql('postgres', "ALTER DATABASE $database OWNER TO app; ALTER DATABASE $database SET nats_publish.publishing = off");
	return;
}

sub grant
{
	my ($node, $database) = @_;
	$node->safe_psql($database, 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO app');
	return;
}

# What a session gets for a command: its error, or its output.
sub outcome
{
	my ($sql) = @_;
	return sub { my $result = $_[0]->run($sql); return $result->{sqlstate} || $result->{output}; };
}

# Neither by a session with this setting from its start on, nor by one that sets it before all else, can anything be
# done that a session without it could not. A connection that is refused has done nothing.
sub holds
{
	my ($node, $database, $what, $setting, $value, $attempt, $expected) = @_;
	my $refused = 'the connection is refused';
	my $session = eval { PsqlSession->new($node, dbname => $database, user => 'app', settings => { $setting => $value }) };
	my $with_options = $session ? $attempt->($session) : $@ =~ /permission denied to set parameter/ ? $refused : $@;
	like($with_options, qr/^(?:\Q$expected\E|$refused|42501)$/, "$what holds against an option of the connection ($setting=$value)");
	$session = PsqlSession->new($node, dbname => $database, user => 'app');
	$session->run("SET $setting = '$value'");
	is($attempt->($session), $expected, "$what holds against SET as a session's first command ($setting=$value)");
	return;
}

sub check_role_and_database
{
	my ($node, $how) = @_;
	my $other = watched_server();
	$client->purge('P');
	my $publish = outcome(q(SELECT nats_publish('p.bad', 'x')));
	my $suppressed = outcome(q(SELECT nats_publish('p.ok.off', 'x') IS NULL, (SELECT suppressed FROM nats_session_stats())));
	holds($node, 'postgres', "$how: what is set for a role", 'nats_publish.allowed_subjects', $_, $publish, '42501') foreach '', 'p.>', '>';
	holds($node, 'copy', "$how: what is set for a database", 'nats_publish.publishing', $_, $suppressed, 't|1') foreach 'on', 'dry_run';
	holds($node, 'postgres', "$how: what is in the configuration", 'nats_publish.url', $other->url,
		outcome(q(SELECT (nats_publish('p.ok.url', 'x')).stream)), 'P');
	holds($node, 'postgres', "$how: what is in the configuration", 'nats_publish.inbox_prefix', 'p.ok',
		outcome(q(SELECT nats_publish('_INBOX_app.x', 'x'))), '22023');
	is($other->next_event(0.2), undef, "$how: nobody was sent elsewhere");
	is(stored('p.bad') + stored('p.ok.off'), 0, "$how: nothing has got past it");

	my $session = PsqlSession->new($node, dbname => 'copy', user => 'app');
	foreach my $sql (q(ALTER DATABASE copy SET nats_publish.publishing = on), q(ALTER DATABASE copy RESET nats_publish.publishing),
		q(ALTER ROLE app IN DATABASE copy SET nats_publish.publishing = on), q(ALTER SYSTEM SET nats_publish.publishing = on))
	{
		is($session->sqlstate($sql), '42501', "$how: $sql, by the database's owner");
	}
	$session->run('ALTER DATABASE copy RESET ALL; ALTER ROLE app IN DATABASE copy RESET ALL');
	is($suppressed->(PsqlSession->new($node, dbname => 'copy', user => 'app')), 't|1', "$how: it cannot be reset by the database's owner");
	return;
}

my %configuration = ('nats_publish.url' => $nats->url, 'nats_publish.inbox_prefix' => '_INBOX_app');
my $node = publishing_node('main', %configuration);
publishing_database($node, 'copy');
restrict($node, 'copy');
check_role_and_database($node, 'loaded by the first call');

$node->append_conf('postgresql.conf', "session_preload_libraries = 'nats_publish'");
$node->restart;
check_role_and_database($node, 'session_preload_libraries');

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'nats_publish'\nnats_publish.relay_databases = 'postgres, copy'");
$node->restart;
check_role_and_database($node, 'shared_preload_libraries');

# The one legal way, by a role that was granted it

$node->safe_psql('postgres', 'GRANT SET ON PARAMETER nats_publish.allowed_subjects TO app');
is(PsqlSession->new($node, user => 'app', settings => { 'nats_publish.allowed_subjects' => 'p.granted' })->sqlstate(q(SELECT nats_publish('p.granted', 'x'))),
	'', 'a role that may set it can, as an option of the connection');
$node->safe_psql('postgres', 'REVOKE SET ON PARAMETER nats_publish.allowed_subjects FROM app');
is(stored('p.granted'), 1, 'and has published');

# What the relay must not be made to publish: a row that claims to have been tried is not checked when it is written

my $session = PsqlSession->new($node);
wake_relay($session);
wait_for_state($session, 'idle');
$node->safe_psql('postgres', q(ALTER ROLE app RESET ALL; GRANT INSERT ON nats_outbox TO app;
	CREATE TABLE reserved (subject text); GRANT SELECT ON reserved TO app;
	INSERT INTO reserved VALUES ('$JS.API.STREAM.PURGE.P'), ('$SYS.REQ.SERVER.PING'), ('_INBOX_app.x'), ('p.*'), ('p.>'), ('p x'), ('p..x'),
		(E'p.x 0\r\n\r\nPUB p.forged')));
$client->subscribe('$JS.API.STREAM.PURGE.P');
$client->subscribe('_INBOX_app.x');
my $app = PsqlSession->new($node, user => 'app');
is($app->sqlstate(q(INSERT INTO nats_outbox (subject, next_attempt_at) SELECT subject, '-infinity' FROM reserved)), '', 'rows that claim to have been tried');
wait_until_drained($session);
is($session->value('SELECT count(*), string_agg(DISTINCT left(last_error, 5), $$ $$) FROM nats_outbox_dead JOIN reserved USING (subject)'), '8|22023',
	'are not published if their subjects are reserved, or none');
is($client->next_message(0.3), undef, 'nor have they come anywhere');
is(stored('p.forged'), 0, 'nor forged another');
is($app->sqlstate(q(INSERT INTO nats_outbox (subject, payload, next_attempt_at) VALUES ('p.tried', 'x', '-infinity'))), '', 'any other is');
wait_until_drained($session);
is(stored('p.tried'), 1, 'published');
$session->value('TRUNCATE nats_outbox_dead');

# Off: no server hears of it

{
	my $fake = watched_server();
	$node->safe_psql('postgres', q(CREATE TABLE items (id int PRIMARY KEY)));
	$node->safe_psql('postgres', "SELECT nats_publish_table('items', 'p.items', delivery => '$_'); ALTER TRIGGER nats_publish_row ON items RENAME TO $_;
		ALTER TRIGGER nats_publish_truncate ON items RENAME TO ${_}_truncate") foreach qw(sync async on_commit outbox);
	my $call = q(BEGIN; INSERT INTO items VALUES (1); UPDATE items SET id = 2; TRUNCATE items;
		SELECT nats_publish('p.off', 'x') IS NULL, nats_publish_async('p.off', 'x') IS NULL, nats_publish_outbox('p.off', 'x') IS NULL,
			nats_publish_on_commit('p.off', 'x');
		SELECT nats_await(NULL) IS NULL, nats_flush(); COMMIT; SELECT nats_flush(), count(*) FROM nats_outbox);
	foreach my $mode ('off', 'dry_run')
	{
		foreach my $url ($fake->url, 'nats://127.0.0.1:' . free_port(), 'nats://192.0.2.1:4222', 'tls://nowhere.invalid')
		{
			my $quiet = PsqlSession->new($node, settings => { 'nats_publish.publishing' => $mode, 'nats_publish.url' => $url });
			my $result = $quiet->run($call);
			is($result->{output} . $result->{error}, "t|t|t|\nt|0\n0|0", "$mode: each call returns NULL ($url)");
			cmp_ok($result->{seconds}, '<', $BOUND, 'and at once');
			is($quiet->value('SELECT suppressed, published, connects FROM nats_session_stats()'), '16|0|0', 'which is counted');
		}
	}
	is($fake->next_event(0.3), undef, 'nobody has connected');
	my $loud = PsqlSession->new($node);
	$loud->value('DROP TRIGGER outbox ON items; DROP TRIGGER outbox_truncate ON items; INSERT INTO items VALUES (1)');
	is(stored('p.items'), 3, 'and with on they are published');
	is(stored('p.off'), 0, 'as nothing else was');
	$session->value('DROP TABLE items');
}

# The relay: what waits stays, and is published when it is switched on

wait_until_drained($session);
$client->purge('P');
foreach my $mode ('off', 'dry_run')
{
	reconfigure($node, 'nats_publish.publishing' => $mode);
	wait_for_state($session, 'off');
	# the session is the superuser's, who may publish
	$session->value(q(SET nats_publish.publishing = on; SELECT nats_publish_outbox('p.relay', i::text) FROM generate_series(1, 50) AS i \g /dev/null
		RESET nats_publish.publishing));
	sleep 1.5;    # longer than relay_poll_interval
	is(relay_column($session, 'state, backlog'), 'off|50', "$mode: the relay waits");
	is(stored('p.relay'), 0, 'nothing was published');
	is(relay_column($session, 'last_error IS NULL OR last_error_at < now() - interval $$1 second$$'), 't', 'and that is no error');
	reconfigure($node, 'nats_publish.publishing' => undef);
	ok(wait_until_drained($session), 'switched on, it goes on');
	is_deeply([ map { $_->{payload} } $client->stream_messages('P') ], [ 1 .. 50 ], 'and everything is published, in order');
	$client->purge('P');
}

# Off for a database: its worker is off from the start, others are not

is($session->value(q(SELECT state FROM nats_relay WHERE datname = 'copy')), 'off', 'a worker of a database that is switched off');
{
	my $copy = PsqlSession->new($node, dbname => 'copy');
	$copy->value(q(SET nats_publish.publishing = on; SELECT nats_publish_outbox('p.copy', 'x')));
	$session->value(q(SELECT nats_publish_outbox('p.here', 'x')));
	wait_until_drained($session);
	is(stored('p.here') . stored('p.copy'), '10', 'the other one publishes');
	is($copy->value('SELECT count(*) FROM nats_outbox'), '1', 'and the row stays');
}

# A copy of a database, restored with the switch off, publishes nothing of what waited in the original

{
	$session->value(q(SELECT nats_relay_pause(); CREATE TABLE orders (id int PRIMARY KEY); SELECT nats_publish_table('orders', 'p.orders');
		SELECT nats_publish_outbox('p.waiting', 'x')));
	my $file = PostgreSQL::Test::Utils::tempdir('dump') . '/dump.sql';
	$node->safe_psql('postgres', 'CREATE DATABASE staging TEMPLATE template0; ALTER DATABASE staging SET nats_publish.publishing = off');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, staging');
	$node->run_log([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $file ]);
	$node->run_log([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('staging'), '-f', $file, '-o', '/dev/null' ]);
	my $staging = PsqlSession->new($node, dbname => 'staging');
	wait_for_state($staging, 'off');
	wake_relay($staging);
	is($staging->value(q(INSERT INTO orders VALUES (1); SELECT nats_publish('p.staging', 'x') IS NULL, nats_publish_outbox('p.staging', 'x') IS NULL;
		SELECT count(*) FROM nats_outbox; SELECT suppressed FROM nats_session_stats())), "t|t\n1\n3", 'a restored database');
	sleep 1.5;
	is(relay_column($staging, 'state, backlog, published'), 'off|1|0', 'its relay is off');
	is(stored('p.waiting') + stored('p.staging') + stored('p.orders'), 0, 'nothing of it was published');
	wake_relay($session);
	wait_until_drained($session);
	is(stored('p.waiting'), 1, 'the original publishes it');
	$session->value('INSERT INTO orders VALUES (1)');
	is(stored('p.orders'), 1, 'and its changes');
}

done_testing();
