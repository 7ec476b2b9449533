
# nats_publish_activity and wait events: what a backend does with NATS, as another one sees it.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats) = nats_with_stream('S', ['s.>'], storage => 'file');
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.ack_timeout' => '60s',
	'nats_publish.commit_timeout' => '60s',
	restart_after_crash => 'on');
my $observer = PsqlSession->new($node);

sub session { return publishing_session($node, @_); }

# SELECTs whose results are of no interest.
sub calls { return join ' ', map { "SELECT $_ \\g /dev/null\n" } @_; }

# An expression of the columns of a backend's row; '' without one.
sub activity
{
	my ($pid, $expression) = @_;
	return $observer->value("SELECT $expression FROM nats_publish_activity WHERE pid = $pid");
}

sub wait_for_activity
{
	my ($pid, $expression, $expected) = @_;
	return wait_for("$expression = $expected", sub { activity($pid, $expression) eq $expected });
}

# The wait event of a process, which has its name on PostgreSQL 17 and later.
my $has_names = $observer->value(q(SELECT current_setting('server_version_num')::int >= 170000)) eq 't';

sub waits
{
	my ($what, $pid, $name) = @_;
	my $expected = 'Extension ' . ($has_names ? $name : 'Extension');
	my $event = '';
	eval {
		wait_for($name, sub {
				$event = $observer->value("SELECT wait_event_type || ' ' || wait_event FROM pg_stat_activity WHERE pid = $pid");
				$event eq $expected }, 20);
	};
	return is($event, $expected, "$what: $name");
}

# What a waiting backend has to show: so many messages of 1,000 bytes, which get older.
sub waits_for_messages
{
	my ($what, $session, $count) = @_;
	wait_for_activity($session->pid, 'state', 'waiting');
	is(activity($session->pid, 'pending, pending_bytes BETWEEN 1000 * pending AND 1500 * pending'), "$count|t", "$what: $count messages are pending");
	get_older($session->pid);
	return;
}

# Not after a fixed time, of which a clock may show less.
sub get_older
{
	my ($pid) = @_;
	my $age = activity($pid, 'oldest_pending');
	ok(eval { wait_for('an older one', sub { activity($pid, "oldest_pending >= '$age'::interval + '0.1 s' AND oldest_pending < '5 min'") eq 't' }, 20) },
		'and get older');
	return;
}

my $IDLE = 'state, pending, pending_bytes, oldest_pending';

# A life

{
	my $session = session();
	my $pid = $session->pid;
	$session->value(q(LOAD 'nats_publish'; SET nats_publish.ack_timeout = '50s'));
	$session->value(calls('nats_session_stats()', 'nats_flush()', q(nats_publish_outbox('s.a', 'x'))));
	is(activity($pid, '*'), '', 'no session with NATS: no row');
	$session->value(calls(q(nats_publish('s.a', 'x'))));
	is(activity($pid, "datname, url, $IDLE, last_error"), join('|', 'postgres', $nats->url, 'connected', '0', '0', '', ''), 'connected');
	is($observer->value("SELECT count(*) FROM nats_publish_activity AS n JOIN pg_stat_activity AS s USING (pid, datname, usename) WHERE pid = $pid"), '1',
		'as in pg_stat_activity');
	like(activity($pid, 'server_name'), qr/^(nats1|N[0-9A-Z]{55})$/, 'server_name is a name or an id');
	$session->value(calls('nats_server_info()'));
	is(activity($pid, 'server_name'), 'nats1', 'a name, once it is known');
	is($session->value('SELECT nats_disconnect()'), 't', 'nats_disconnect()');
	is(activity($pid, "$IDLE, last_error"), 'disconnected|0|0||', 'disconnected');
	$session->value(calls(q(nats_publish_on_commit('s.a', 'x'))));
	is(activity($pid, $IDLE), 'connected|0|0|', 'connected by a COMMIT');
	is($session->sqlstate(q(SELECT nats_publish('nowhere.a', 'x'))), '42704', 'an error');
	like(activity($pid, "$IDLE, last_error"), qr/^connected\|0\|0\|\|.*"nowhere\.a".*no stream/, 'is shown');
	$session->close;
	wait_for('the row to go', sub { activity($pid, '*') eq '' });
	pass('the row is there as long as the backend');
}

# Waiting

{
	my $session = session(max_pending => 20);
	my $pid = $session->pid;
	my $payload = q(repeat('x', 1000));
	my %waits = (
		NatsAck => [ 1, "SELECT (nats_publish('s.a', $payload)).stream" ],
		NatsCommit => [ 10, "BEGIN; SELECT count(nats_publish_async('s.a', $payload)) FROM generate_series(1, 10); SELECT pg_sleep(0.5); COMMIT" ],
		NatsWindow => [ 20, "SELECT count(nats_publish_async('s.a', $payload)) FROM generate_series(1, 21)" ]);
	foreach my $event (sort keys %waits)
	{
		my ($count, $sql) = @{ $waits{$event} };
		$session->value(calls(q(nats_publish('s.a', 'x'))));
		$nats->stall;
		$session->begin($sql);
		waits_for_messages($event, $session, $count);
		is(activity($pid, q(oldest_pending >= '0.5 s')), 't', 'from their call on') if $event eq 'NatsCommit';
		waits('it waits', $pid, $event);
		$nats->resume;
		is($session->finish->{error}, '', 'goes on');
		is(activity($pid, $IDLE), 'connected|0|0|', 'and is done');
	}
	foreach my $call ('nats_flush()', 'nats_await(:future)')
	{
		$nats->stall;
		$session->value(q(BEGIN; SELECT nats_publish_async('s.a', 'x') AS future \gset));
		$session->begin("SELECT $call IS NULL");
		waits($call, $pid, 'NatsAck');
		$nats->resume;
		is($session->finish->{error}, '', 'goes on');
		$session->value('COMMIT');
	}
	$nats->stall;
	$session->begin(q(SELECT nats_publish_on_commit('s.a', 'x')));
	waits('held messages', $pid, 'NatsCommit');
	kill 'INT', $pid;
	is($session->finish->{sqlstate}, '57014', 'a cancel');
	is(activity($pid, $IDLE), 'disconnected|0|0|', 'leaves nothing');

	# nobody waits, and there is something all the same
	$nats->resume;
	$session->value(calls(q(nats_publish('s.a', 'x'))));
	$nats->stall;
	$session->value("SELECT count(nats_publish_async('s.a', $payload, critical => false)) FROM generate_series(1, 5)");
	is(activity($pid, 'state, pending, pending_bytes BETWEEN 5000 AND 7500'), 'connected|5|t', 'critical => false is pending behind its transaction');
	get_older($pid);
	$nats->resume;
	$session->value('SELECT nats_flush()');
	is(activity($pid, $IDLE), 'connected|0|0|', 'until it is answered');
}

# Connecting

{
	my $fake = FakeServer->new(sub { my ($peer) = @_; $peer->note('connected'); return $peer->hold; });
	my $session = session(url => 'nats://app:Secret@127.0.0.1:' . $fake->port, connect_timeout => '60s');
	my $pid = $session->pid;
	foreach my $sql (q(SELECT nats_publish('s.a', 'x')), q(SELECT nats_publish_on_commit('s.a', 'x')))
	{
		$session->begin($sql);
		is($fake->next_event, 'connected', 'a server that does not greet');
		wait_for_activity($pid, 'state', 'connecting');
		is(activity($pid, 'pending, pending_bytes, oldest_pending'), '0|0|', 'connecting');
		waits('it waits', $pid, 'NatsConnect');
		kill 'INT', $pid;
		is($session->finish->{sqlstate}, '57014', 'a cancel');
		is(activity($pid, 'state'), 'disconnected', 'leaves it disconnected');
	}
	unlike($observer->value('SELECT string_agg(a::text, $$ $$) FROM nats_publish_activity AS a'), qr/Secret/, 'without credentials');
	$session->value(q(SET nats_publish.connect_timeout = '200 ms'));
	is($session->sqlstate(q(BEGIN; SAVEPOINT s; SELECT nats_publish('s.a', 'x'))), '58000', 'no connection');
	like(activity($pid, 'state, last_error'), qr/^disconnected\|.*could not connect/, 'disconnected, with an error');
	$session->value('ROLLBACK');
	is(activity($pid, $IDLE), 'disconnected|0|0|', 'also behind the transaction');
	unlike($observer->value('SELECT string_agg(a::text, $$ $$) FROM nats_publish_activity AS a'), qr/Secret/, 'also without');
	$session->value("SET nats_publish.url = '" . $nats->url . q('; RESET nats_publish.connect_timeout;) . calls(q(nats_publish('s.a', 'x'))));
	is(activity($pid, 'url, state'), $nats->url . '|connected', 'another server');
}

# A server that dies and comes back

{
	my $session = session();
	my $pid = $session->pid;
	$session->value(calls(q(nats_publish('s.a', 'x'))));
	$nats->stall;
	$session->begin(q(SELECT count(nats_publish_async('s.a', repeat('x', 1000))) FROM generate_series(1, 10)));
	waits_for_messages('a stalled server', $session, 10);
	$nats->kill9;
	waits('a server that has died', $pid, 'NatsConnect');
	is(activity($pid, 'state <> $$connected$$, pending, oldest_pending > $$0$$'), 't|10|t', 'messages are still pending');
	$nats->start;
	is($session->finish->{error}, '', 'it comes back');
	is(activity($pid, $IDLE), 'connected|0|0|', 'connected again');
	$session->value(q(SET nats_publish.ack_timeout = '500 ms'));
	$nats->stop;
	is($session->sqlstate(q(SELECT nats_publish('s.a', 'x'))), '58000', 'it has gone');
	is(activity($pid, $IDLE), 'disconnected|0|0|', 'disconnected');
	$nats->start;
}

# Many backends, each with its row; roles and foreign servers

{
	my @sessions = map { session() } 1 .. 20;
	$_->value(calls(q(nats_publish('s.a', 'x')))) foreach @sessions;
	my $pids = join ', ', map { $_->pid } @sessions;
	is($observer->value("SELECT count(DISTINCT pid), count(*) FROM nats_publish_activity WHERE pid IN ($pids) AND state = 'connected'"), '20|20', 'twenty backends');
	$_->close foreach @sessions;
	wait_for('their end', sub { $observer->value("SELECT count(*) FROM nats_publish_activity WHERE pid IN ($pids)") eq '0' });
	pass('none of them is left');
}
{
	my $second = NatsServer->new(name => 'second', jetstream => 1, config => 'authorization { user: "app", password: "Secret" }')->start;
	NatsClient->new(url => $second->url, user => 'app', pass => 'Secret')->create_stream('T', ['t.>']);
	$observer->value(<<"END");
CREATE ROLE app LOGIN;
CREATE ROLE other;
GRANT other TO app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO app, other;
CREATE SERVER second FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $second->url}');
GRANT USAGE ON FOREIGN SERVER second TO app, other;
CREATE USER MAPPING FOR PUBLIC SERVER second OPTIONS (user 'app', password 'Secret');
END
	my $session = PsqlSession->new($node, user => 'app', settings => { 'nats_publish.server' => 'second' });
	$session->value(calls(q(nats_publish('t.a', 'x'))));
	is(activity($session->pid, 'usename, url, state'), 'app|' . $second->url . '|connected', 'a foreign server');
	$session->value(calls(q(nats_publish('t.a', 'x'))));
	is(activity($session->pid, 'usename, url, state'), 'app|' . $second->url . '|connected', 'used twice');
	$session->value('SET ROLE other; ' . calls(q(nats_publish('t.a', 'x'))) . q(SET nats_publish.server = ''; ) . calls(q(nats_publish('s.a', 'x'))));
	is(activity($session->pid, 'usename, url, state'), 'app|' . $nats->url . '|connected', 'one row, of the connection used last');
	$session->value(q(RESET ROLE; SET nats_publish.server = 'second'; ) . calls(q(nats_publish('t.a', 'x'))));
	is(activity($session->pid, 'usename, url, state'), 'app|' . $second->url . '|connected', 'also when it is used again');
	unlike($observer->value('SELECT string_agg(a::text, $$ $$) FROM nats_publish_activity AS a'), qr/Secret/, 'without credentials');
}

# The relay

{
	my $pid = relay_pid($observer);
	waits('the relay', $pid, 'NatsRelay');
	waits('the launcher', launcher_pid($observer), 'NatsRelay');
	$observer->value(calls(q(nats_publish_outbox('s.a', 'x'))));
	wait_until_drained($observer);
	wait_for_activity($pid, 'state', 'connected');
	is(activity($pid, "datname, url, $IDLE"), join('|', 'postgres', $nats->url, 'connected', '0', '0', ''), 'its row');
	is($observer->value("SELECT count(*) FROM nats_publish_activity AS n JOIN pg_stat_activity AS s USING (pid, datname)
		WHERE pid = $pid AND n.usename IS NOT DISTINCT FROM s.usename"), '1', 'as in pg_stat_activity');
	$nats->stall;
	$observer->value(q(SELECT count(nats_publish_outbox('s.' || i, repeat('x', 1000))) FROM generate_series(1, 10) i));
	wait_for_activity($pid, 'state, pending', 'waiting|10');
	waits('the relay', $pid, 'NatsAck');
	is($observer->value("SELECT state FROM pg_stat_activity WHERE pid = $pid"), 'active', 'and is active');
	$nats->resume;
	wait_until_drained($observer);
	wait_for_activity($pid, $IDLE, 'connected|0|0|');
	waits('the relay, idle again', $pid, 'NatsRelay');
}

# A crash leaves no row

{
	my $session = session();
	$session->value(calls(q(nats_publish('s.a', 'x'))));
	kill 'KILL', $session->pid;
	wait_for('the backend to end', sub { !process_is_there($session->pid) });
	wait_until_back($node);
	$observer->kill;
	$observer = PsqlSession->new($node);
	is($observer->value('SELECT count(*) FROM nats_publish_activity WHERE pid NOT IN (SELECT pid FROM pg_stat_activity)'), '0',
		'after a crash there is no row of another life');
}

done_testing();
