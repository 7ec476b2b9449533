
# nats_publish_stats, nats_publish_histogram and nats_publish_latency: what is counted, where, and when, as another
# session sees it.

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

my @MODES = qw(sync async on_commit outbox);
my @COUNTERS = qw(published acked duplicates failed suppressed retried resent bytes commit_waits connects reconnects);
my @VIEWS = qw(nats_publish_stats nats_publish_histogram nats_publish_latency nats_publish_activity);

# The function of each mode; and what a transaction of its call counts at its end.
my %CALL = (
	sync => 'nats_publish',
	async => 'nats_publish_async',
	on_commit => 'nats_publish_on_commit',
	outbox => 'nats_publish_outbox');
my %END = (sync => {}, async => { commit_waits => 1 }, on_commit => { commit_waits => 1 }, outbox => {});

my ($nats) = nats_with_stream('S', ['s.>'], storage => 'file');
# Another library before ours, if there is one, must not lose its own shared memory.
chomp(my $libraries = `pg_config --pkglibdir`);
my $has_other = -e "$libraries/pg_stat_statements.so";
my $node = relay_node('main',
	shared_preload_libraries => ($has_other ? 'pg_stat_statements, ' : '') . 'nats_publish',
	'nats_publish.url' => $nats->url,
	'nats_publish.ack_timeout' => '60s',
	'nats_publish.commit_timeout' => '60s',
	max_prepared_transactions => 2,
	restart_after_crash => 'on');
my $observer = PsqlSession->new($node);
is($observer->value('CREATE EXTENSION pg_stat_statements; SELECT count(*) > 0 FROM pg_stat_statements'), 't', 'another library has its memory') if $has_other;

sub session { return publishing_session($node, @_); }

# Ends a session, and waits for its backend too, which counts at its end.
sub end_session
{
	my ($session) = @_;
	$session->close;
	return wait_for('the backend to end', sub { !process_is_there($session->pid) });
}

# SELECTs whose results are of no interest.
sub calls { return join ' ', map { "SELECT $_ \\g /dev/null\n" } @_; }
sub transaction { return 'BEGIN; ' . calls(@_) . 'COMMIT'; }

# An expression of the columns of a row of nats_publish_stats.
sub column
{
	my ($mode, $expression, $database) = @_;
	$database //= 'postgres';
	return $observer->value("SELECT $expression FROM nats_publish_stats WHERE mode = '$mode' AND datname = '$database'");
}

# All counters of a database that are not 0, by mode.
sub counters
{
	my ($database) = @_;
	my $names = join ', ', map { "'$_'" } @COUNTERS;
	my $rows = $observer->value(qq(SELECT mode, key, value FROM nats_publish_stats AS s, jsonb_each_text(to_jsonb(s))
		WHERE key IN ($names) AND value <> '0' AND datname = '$database'));
	my %counters;
	foreach my $row (split /\n/, $rows)
	{
		my ($mode, $name, $value) = split /\|/, $row;
		$counters{$mode}{$name} = $value;
	}
	return \%counters;
}

sub reset_counters { return $observer->value('SELECT nats_publish_stats_reset()'); }
sub forget_outbox { return $observer->value('TRUNCATE nats_outbox'); }

# What was counted since the last call is this, and nothing else.
sub counted
{
	my ($what, %expected) = @_;
	my $database = delete $expected{database} // 'postgres';
	my $got = counters($database);
	is_deeply($got, \%expected, "counted: $what") or diag(explain($got));
	reset_counters();
	return;
}

# Until the relay, which counts behind its batch, has told what has become of so many messages.
sub wait_for_relay
{
	my ($count) = @_;
	wait_until_drained($observer);
	return wait_for('the relay to count', sub { (column('outbox', 'acked + failed') || 0) >= $count });
}

# Until the relay waits for NATS.
sub wait_for_relay_at_work
{
	my $pid = relay_pid($observer);
	return wait_for('the relay to wait for NATS',
		sub { $observer->value("SELECT wait_event_type = 'Extension' AND state = 'active' FROM pg_stat_activity WHERE pid = $pid") eq 't' });
}

# Publishes one message in a transaction of its own, and says what is counted.
sub publish
{
	my ($session, $mode, $what, $arguments, %expected) = @_;
	$session->value("SELECT $CALL{$mode}($arguments) \\g /dev/null\n");
	wait_for_relay(1) if $mode eq 'outbox';
	counted("$mode, $what", $mode => { published => 1, acked => 1, %{ $END{$mode} }, %expected });
	return;
}

# Stalls the server when the session has a connection to it, and the relay too if it is asked for.
sub stall
{
	my ($session, $mode) = @_;
	$session->value(calls(q(nats_publish('s.warm', ''))));
	if (($mode // '') eq 'outbox')
	{
		# the second one goes when the first one's stream has been asked: from then on several go at once
		foreach my $message (1, 2)
		{
			$session->value(calls(q(nats_publish_outbox('s.warm', ''))));
			wait_for_relay($message);
		}
	}
	reset_counters();
	$nats->stall;
	return;
}

# Begins to publish so many messages, which a stalled server does not answer.
sub begin_publishing
{
	my ($session, $mode, $count) = @_;
	$session->begin("SELECT $CALL{$mode}('s.' || i, 'x') FROM generate_series(1, $count) i \\g /dev/null\n");
	if ($mode eq 'outbox') { wait_for_relay_at_work(); }
	else { $session->wait_until_waiting; }
	return;
}

# Before anything, and the first message

is_deeply(counters('postgres'), {}, 'nobody has published: nothing is counted');
is($observer->value("SELECT coalesce(sum(count), 0) FROM $_"), '0', "nor in $_") foreach @VIEWS[ 1, 2 ];
{
	my $started = $observer->value('SELECT clock_timestamp()');
	my $session = session();
	$session->value(calls(q(nats_publish('s.first', '12345'))));
	is($observer->value(q(SELECT string_agg(datname || ' ' || mode, ', ' ORDER BY mode COLLATE "C") FROM nats_publish_stats)),
		'postgres async, postgres on_commit, postgres outbox, postgres sync', 'a database that has published has four rows');
	is_deeply(counters('postgres'), { sync => { published => 1, acked => 1, bytes => 5, connects => 1 } }, 'the first message is counted');
	is(column($_, 'commit_wait_ms, commit_wait_max_ms, last_error, last_error_at'), '0|0||', "$_: no wait, no error") foreach @MODES;
	reset_counters();
	is($observer->value("SELECT bool_and(stats_reset BETWEEN '$started' AND clock_timestamp()) FROM nats_publish_stats"), 't', 'stats_reset');
	is_deeply(counters('postgres'), {}, 'nothing is left by a reset');
	is($observer->value('SELECT sum(count) FROM nats_publish_histogram'), '0', 'nor in the histograms');
	end_session($session);
	counted('the end of a session');
}

# Messages, bytes, ids and connects, in each mode

foreach my $mode (@MODES)
{
	my $session = session();
	publish($session, $mode, 'the first message', q('s.a', 'grün'), bytes => 5, connects => 1);
	publish($session, $mode, 'the next one', q('s.a', '12345', '{"Header": "is not counted"}'), bytes => 5);
	publish($session, $mode, 'bytes', q('s.a', '\x0001'::bytea), bytes => 2);
	publish($session, $mode, 'no payload', q('s.a', NULL::text));
	publish($session, $mode, 'an id', qq('s.a', 'x', msg_id => 'same $mode'), bytes => 1);
	publish($session, $mode, 'the same id', qq('s.a', 'x', msg_id => 'same $mode'), duplicates => 1, bytes => 1);
	end_session($session);
	counted("$mode, the end of the session");
}

# What is no message is not counted, but the connection that it needs is
{
	my $session = session();
	$session->value(calls('nats_session_stats()', 'nats_flush()', 'nats_disconnect()', 'nats_futures()'));
	counted('calls that need no connection');
	$session->value(calls('nats_server_info()'));
	counted('one that needs it', sync => { connects => 1 });
	$session->value(calls(q(nats_jetstream('INFO')), q(nats_stream_info('S')), q(nats_get_message('S', 1))));
	counted('requests');
	is($session->sqlstate(q(SELECT nats_publish('s..a', 'x'))), '22023', 'a bad subject');
	is($session->sqlstate(q(SELECT nats_publish_on_commit(NULL, 'x'))), '22004', 'and none');
	counted('bad input');
	$session->value(calls('nats_disconnect()'));
	publish($session, 'async', 'behind nats_disconnect()', q('s.a', 'x'), bytes => 1, connects => 1);
}

# At the end of the transaction, and only there

{
	my $session = session();
	$session->value('BEGIN; ' . calls(q(nats_publish('s.a', 'x')), q(nats_publish_async('s.a', 'xx')), q(nats_publish_on_commit('s.a', 'xxx'))));
	counted('nothing within the transaction');
	$session->value('COMMIT');
	counted('everything at its end',
		sync => { published => 1, acked => 1, bytes => 1, connects => 1 },
		async => { published => 1, acked => 1, bytes => 2 },
		on_commit => { published => 1, acked => 1, bytes => 3, commit_waits => 1 });
	$session->value(transaction(q(nats_publish_async('s.a', 'x')), 'nats_flush()'));
	counted('a COMMIT with nothing left to wait for', async => { published => 1, acked => 1, bytes => 1 });
	$session->value('BEGIN; ' . calls(q(nats_publish_async('s.a', 'x'))) . q(PREPARE TRANSACTION 'counted'));
	counted('PREPARE TRANSACTION', async => { published => 1, acked => 1, bytes => 1, commit_waits => 1 });
	$session->value(q(COMMIT PREPARED 'counted'));
	counted('COMMIT PREPARED');
	$session->value(q(DO $$BEGIN FOR i IN 1 .. 10 LOOP PERFORM nats_publish_on_commit('s.a', 'x'); COMMIT; END LOOP; END$$));
	counted('transactions inside a command', on_commit => { published => 10, acked => 10, bytes => 10, commit_waits => 10 });
}

# A rollback: what was sent counts, and not what was held. Nobody waits for what becomes of it.
{
	my $session = session();
	stall($session);
	$session->value('BEGIN; ' . calls(q(nats_publish_async('s.a', 'x')), q(nats_publish_on_commit('s.a', 'x')),
			q(nats_publish_outbox('s.a', 'x')), q(nats_publish_async('s.a', 'xx'))) . 'ROLLBACK');
	counted('a rollback', async => { published => 2, bytes => 3 });
	$session->value('BEGIN; SAVEPOINT s; ' . calls(q(nats_publish_async('s.a', 'x')), q(nats_publish_on_commit('s.a', 'x'))) .
			'ROLLBACK TO s; COMMIT');
	counted('the rollback of a savepoint', async => { published => 1, bytes => 1 });
	$nats->resume;
	publish($session, 'sync', 'late acknowledgments', q('s.a', 'x'), bytes => 1);
}

# Interrupts

foreach my $mode (qw(sync async on_commit))
{
	my $session = session();
	stall($session);
	begin_publishing($session, $mode, 1);
	kill 'INT', $session->pid;
	is($session->finish->{sqlstate}, '57014', "$mode: a cancel");
	counted("$mode, a cancel", $mode => { %{ $END{$mode} }, published => 1, bytes => 1 });
	# a COMMIT that was cancelled has closed its connection
	$nats->resume;
	stall($session);
	begin_publishing($session, $mode, 1);
	kill 'TERM', $session->pid;
	is($session->finish->{sqlstate}, '57P01', 'a termination');
	wait_for('the backend to end', sub { !process_is_there($session->pid) });
	is(column($mode, 'published, acked, failed, bytes'), '1|0|0|1', "$mode, a termination");
	$nats->resume;
}

# Failures

# A message that no stream takes: sessions ask again, the relay leaves that to the next attempt.
foreach my $mode (qw(sync async on_commit))
{
	my $session = session();
	my $started = $session->value(calls('nats_server_info()') . 'SELECT clock_timestamp()');
	reset_counters();
	is($session->sqlstate("SELECT $CALL{$mode}('nowhere.$mode', 'x')"), '42704', "$mode: no stream");
	like(column($mode, 'last_error'), qr/nowhere\.$mode.*no stream takes/, 'last_error tells');
	is(column($mode, "last_error_at BETWEEN '$started' AND clock_timestamp()"), 't', 'and last_error_at');
	is(column($_, 'last_error, last_error_at'), '|', "$_ has none") foreach grep { $_ ne $mode } @MODES;
	my $at = column($mode, 'last_error_at');
	$session->value(calls("$CALL{$mode}('s.a', '')"));
	is(column($mode, 'acked, last_error_at'), "1|$at", 'a success does not make it forgotten');
	counted("$mode, no stream", $mode => { published => 2, acked => 1, failed => 1, retried => 3, bytes => 1,
			$END{$mode}{commit_waits} ? (commit_waits => 2) : () });
	is(column($mode, 'last_error, last_error_at'), '|', 'a reset forgets it');
}
{
	$observer->value(calls(q(nats_publish_outbox('nowhere.outbox', 'x'))));
	wait_for('an attempt', sub { $observer->value('SELECT min(attempts) FROM nats_outbox') > 0 });
	$observer->value('SELECT nats_relay_pause()');
	wait_for_state($observer, 'paused');
	my $attempts = $observer->value('SELECT attempts FROM nats_outbox');
	like(column('outbox', 'last_error'), qr/nowhere\.outbox.*no stream takes/, 'outbox: last_error tells');
	counted('outbox, no stream, at each attempt', outbox => { published => $attempts, failed => $attempts, bytes => $attempts });
	forget_outbox();
	$observer->value('SELECT nats_relay_resume()');
}

# Some of a transaction's messages
{
	my $session = session();
	$session->value(calls('nats_server_info()'));
	reset_counters();
	foreach my $mode (qw(async on_commit))
	{
		is($session->sqlstate(transaction(map { "$CALL{$mode}('$_', 'x')" } qw(s.a nowhere.a s.a))), '42704', "$mode: one of three fails");
		counted("$mode, one of three fails", $mode => { published => 3, acked => 2, failed => 1, retried => 3, bytes => 3, commit_waits => 1 });
	}
	is($session->sqlstate(transaction(q(nats_publish_on_commit('s.a', 'x')), q(nats_publish_async('nowhere.a', 'x')))), '42704',
		'a message fails before others that are held');
	counted('of those, nothing', async => { published => 1, failed => 1, retried => 3, bytes => 1 }, on_commit => { commit_waits => 1 });
}

# critical => false: what becomes of it is counted by the next transaction that sees it, or at exit
{
	my $uncritical = calls(q(nats_publish_async('s.a', 'x', critical => false)));
	my $session = session();
	stall($session);
	$session->value($uncritical);
	counted('critical => false, not answered', async => { published => 1, bytes => 1 });
	$nats->resume;
	$session->value(calls('nats_flush()'));
	counted('critical => false, answered', async => { acked => 1 });
	stall($session);
	$session->value($uncritical);
	reset_counters();
	$nats->resume;
	NatsClient->new(url => $nats->url)->stream_info('S');    # at work again: a backend that ends does not wait for long
	end_session($session);
	counted('critical => false, answered at exit', async => { acked => 1 });
	$session = session();
	stall($session);
	$session->value($uncritical);
	reset_counters();
	end_session($session);
	like(column('async', 'last_error'), qr/"s\.a"/, 'critical => false, not answered at exit: last_error tells');
	counted('critical => false, not answered at exit', async => { failed => 1 });
	$nats->resume;
}

# No acknowledgment in time, and no room for a message
{
	# the server is asked after a half of the time, and given up after another quarter: if the last quarter is short, a slow machine misses that
	my %session_of = map { ($_ => session()) } qw(sync async on_commit);
	$_->value(calls(q(nats_publish('s.warm', ''))) . q(SET nats_publish.ack_timeout = '8s'; SET nats_publish.commit_timeout = '8s')) foreach values %session_of;
	stall($session_of{sync});
	$session_of{$_}->begin("SELECT $CALL{$_}('s.a', 'x')") foreach keys %session_of;
	foreach my $mode (sort keys %session_of)
	{
		is($session_of{$mode}->finish->{sqlstate}, '58030', "$mode: no acknowledgment in time");
		like(column($mode, 'last_error'), qr/"s\.a": the connection was lost before an acknowledgment arrived \(the server does not answer\)/, 'last_error tells');
	}
	counted('no acknowledgment in time', map { ($_ => { %{ $END{$_} }, published => 1, failed => 1, bytes => 1 }) } keys %session_of);
	$nats->resume;
	my $session = session();
	stall($session);
	$session->value('SET nats_publish.on_full = error; SET nats_publish.max_pending = 1');
	is($session->sqlstate(transaction((q(nats_publish_async('s.a', 'x'))) x 2)), '53000', 'a full window');
	$session->value('ROLLBACK');
	like(column('async', 'last_error'), qr/1 message is not acknowledged yet/, 'last_error tells');
	counted('a full window', async => { published => 2, failed => 1, bytes => 1 });
	$nats->resume;
}

# No server
{
	my $session = session(url => 'nats://127.0.0.1:' . free_port(), connect_timeout => '1s');
	foreach my $mode (qw(sync async on_commit))
	{
		is($session->sqlstate("SELECT $CALL{$mode}('s.a', 'x')"), '58000', "$mode: no server");
		like(column($mode, 'last_error'), qr/could not connect/, 'last_error tells');
		counted("$mode, no server", $mode => { $mode eq 'on_commit' ? %{ $END{$mode} } : (), published => 1, failed => 1 });
	}
	$session->value(calls(q(nats_publish_async('s.a', 'x', critical => false))));
	counted('no server, critical => false', async => { published => 1, failed => 1 });
}

# nats_publish.publishing

foreach my $publishing ('off', 'dry_run')
{
	my $session = session(publishing => $publishing);
	foreach my $mode (@MODES)
	{
		$session->value("SELECT count($CALL{$mode}('s.a', 'x')) FROM generate_series(1, 3)");
		counted("$mode, $publishing", $mode => { suppressed => 3 });
		$session->value("CREATE TABLE t (i int PRIMARY KEY); SELECT nats_publish_table('t', 's.t', delivery => '$mode')");
		$session->value('INSERT INTO t VALUES (1), (2)');
		$session->value('DROP TABLE t');
		# one that is off does not look at its delivery
		counted("$mode, $publishing, a trigger", ($publishing eq 'off' ? 'on_commit' : $mode) => { suppressed => 2 });
	}
}

# "Not now", twice, and then an acknowledgment

foreach my $mode (@MODES)
{
	my %asked;
	my @answers = (
		[ '{"error":{"code":429,"err_code":10167,"description":"too many requests"},"stream":"S","seq":0}', ' 429 Too Many Requests' ],
		['{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}'],
		['{"stream":"S","seq":1}']);
	# what asks has no id, and no answer
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, @{ $answers[ $asked{ $command->{id} }++ ] }) if defined $command->{id}; });
	my $of_relay = $mode eq 'outbox';
	reconfigure($node, 'nats_publish.url' => $fake->url) if $of_relay;
	publish(session($of_relay ? () : (url => $fake->url)), $mode, 'a server that says "not now"', q('s.a', 'x'), retried => 2, bytes => 1, connects => 1);
	next unless $of_relay;
	reconfigure($node, 'nats_publish.url' => $nats->url);
	publish(session(), $mode, 'another server', q('s.a', 'x'), bytes => 1, connects => 1);
}

# Of several messages, that of which it is said
{
	my $late = 0;
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			$peer->reply($command, $command->{payload} eq 'late' && $late++ < 2 ? '{"error":{"code":429,"err_code":10167}}' : '{"stream":"S","seq":1}');
		});
	session(url => $fake->url)->value('BEGIN; ' . calls(q(nats_publish_async('s.a', 'late')), q(nats_publish('s.a', 'x')), q(nats_publish('s.a', 'x'))) . 'COMMIT');
	counted('"not now" to one of three',
		async => { published => 1, acked => 1, retried => 2, bytes => 4, connects => 1, commit_waits => 1 }, sync => { published => 2, acked => 2, bytes => 2 });
}

# A server that is killed when it has messages and has not answered, and one that goes while nobody looks, not even the relay

reconfigure($node, 'nats_publish.relay_poll_interval' => '1h');
$observer->value('SELECT nats_relay_pause()');
foreach my $mode (@MODES)
{
	# it may still be about to look once more for what it was given, and connects then
	$observer->value('SELECT nats_relay_resume()') if $mode eq 'outbox';
	my $session = session();
	my $count = $mode eq 'sync' ? 1 : 10;
	stall($session, $mode);
	begin_publishing($session, $mode, $count);
	$nats->restart(stop => 'kill9');
	is($session->finish->{error}, '', "$mode: a server that is killed");
	wait_for_relay($count) if $mode eq 'outbox';
	counted("$mode, a server that is killed", $mode => { %{ $END{$mode} },
			published => $count, acked => $count, bytes => $count, resent => $count, connects => 1, reconnects => 1 });
	$nats->restart;
	publish($session, $mode, 'a server that was restarted', q('s.a', 'x'), bytes => 1, connects => 1, reconnects => 1);
}
reconfigure($node, 'nats_publish.relay_poll_interval' => undef);

# Atomic batches

SKIP:
{
	skip 'NATS_SERVER_NEW does not name a newer nats-server' unless $ENV{NATS_SERVER_NEW};
	my $new = NatsServer->new(name => 'new', jetstream => 1, binary => $ENV{NATS_SERVER_NEW})->start;
	my $client = NatsClient->new(url => $new->url);
	$client->create_stream('A', ['a.>'], allow_atomic => \1, storage => 'file');
	$client->create_stream('P', ['p.>']);
	my $session = session(url => $new->url, commit_batch => 'atomic');
	my $batch = sub { my ($subject) = @_; return transaction(map { "nats_publish_on_commit('$subject', '$_')" } 'x', 'xx', 'xxx'); };
	$session->value($batch->('a.a'));
	counted('an atomic batch', on_commit => { published => 3, acked => 3, bytes => 6, commit_waits => 1, connects => 1 });
	is($session->sqlstate($batch->('p.a')), '0A000', 'one that is refused');
	like(column('on_commit', 'last_error'), qr/as one batch/, 'last_error tells');
	counted('an atomic batch that is refused', on_commit => { published => 3, failed => 3, bytes => 6, commit_waits => 1 });
	is($session->sqlstate(transaction(map { "nats_publish_on_commit('a.a', 'x', msg_id => '$_')" } 'same', 'same')), '22023', 'a bad one');
	counted('an atomic batch that is not sent', on_commit => { commit_waits => 1 });
	$new->stall;
	$session->begin($batch->('a.a'));
	$session->wait_until_waiting;
	$new->restart(stop => 'kill9');
	is($session->finish->{error}, '', 'a server that is killed');
	counted('an atomic batch over two connections',
		on_commit => { published => 3, acked => 3, resent => 3, bytes => 6, commit_waits => 1, connects => 1, reconnects => 1 });
	$new->stall;
	$session->begin($batch->('a.a'));
	$session->wait_until_waiting;
	kill 'INT', $session->pid;
	is($session->finish->{sqlstate}, '57014', 'a cancel');
	counted('an atomic batch, a cancel', on_commit => { published => 3, bytes => 6, commit_waits => 1 });
	$new->resume;
}

# Times

foreach my $mode (@MODES)
{
	my $session = session();
	stall($session, $mode);
	my $started = Time::HiRes::time;
	begin_publishing($session, $mode, 1);
	sleep 0.7;
	$nats->resume;
	$session->finish;
	wait_for_relay(1) if $mode eq 'outbox';
	my $ms = 1000 * (Time::HiRes::time - $started);
	foreach my $measure ('ack', $END{$mode}{commit_waits} ? 'commit_wait' : ())
	{
		my $where = "datname = 'postgres' AND mode = '$mode' AND measure = '$measure' AND count > 0";
		is($observer->value("SELECT count, from_ms <= $ms, to_ms > 700 FROM nats_publish_histogram WHERE $where"), '1|t|t', "$mode, $measure: a time of 700 ms");
		is($observer->value("SELECT l.count, sum_ms BETWEEN 700 AND $ms, p50_ms BETWEEN from_ms AND to_ms, p90_ms BETWEEN p50_ms AND to_ms,
			p99_ms BETWEEN p90_ms AND to_ms FROM nats_publish_latency AS l JOIN nats_publish_histogram AS h USING (datname, mode, measure, count)
			WHERE $where"), '1|t|t|t|t', 'as percentiles');
	}
	is(column($mode, "commit_waits, commit_wait_ms BETWEEN 700 AND $ms, commit_wait_max_ms = commit_wait_ms"),
		$END{$mode}{commit_waits} ? '1|t|t' : '0|f|t', "$mode, the columns of commit waits");
	next unless $END{$mode}{commit_waits};
	$session->value(calls("$CALL{$mode}('s.a', 'x')"));
	is(column($mode, 'commit_waits, commit_wait_ms > commit_wait_max_ms, commit_wait_max_ms >= 700'), '2|t|t', 'two of them');
}

# From where to where a time goes
{
	my $session = session();
	$session->value(calls('nats_server_info()'));
	reset_counters();
	$session->value('BEGIN; ' . calls(q(nats_publish_async('s.a', 'x')), q(nats_publish_on_commit('s.a', 'x')), 'pg_sleep(2)'));
	my $ms = 1000 * $session->run('COMMIT')->{seconds};
	my $times = sub { my ($mode) = @_; return $observer->value("SELECT sum_ms >= 2000 FROM nats_publish_latency WHERE mode = '$mode' AND measure = 'ack'"); };
	is($times->('async'), 't', 'async: the time of an ack begins with the call');
	is($observer->value("SELECT string_agg(measure, ' ' ORDER BY measure) FROM nats_publish_latency WHERE mode = 'on_commit' AND sum_ms <= $ms AND count = 1"),
		'ack commit_wait', 'on_commit: it begins in COMMIT');
}

is($observer->value(q(SELECT DISTINCT count(*) FROM nats_publish_histogram GROUP BY datname, mode, measure)), '24', 'a histogram has 24 buckets');
is($observer->value(q(SELECT bool_and(CASE number WHEN 1 THEN from_ms = 0 AND to_ms = 0.032 ELSE from_ms = previous END AND
	CASE number WHEN 24 THEN to_ms = 'Infinity' WHEN 1 THEN true ELSE to_ms = 2 * from_ms END)
	FROM (SELECT *, lag(to_ms) OVER histogram AS previous, row_number() OVER histogram AS number FROM nats_publish_histogram
		WINDOW histogram AS (PARTITION BY datname, mode, measure ORDER BY from_ms)) AS s)), 't', 'which double');
is($observer->value(q(SELECT string_agg(DISTINCT mode || ' ' || measure, ', ' ORDER BY mode || ' ' || measure) FROM nats_publish_histogram)),
	join(', ', map { my $mode = $_; map { "$mode $_" } qw(ack commit_wait) } sort @MODES), 'for each mode and measure');
reset_counters();
is($observer->value('SELECT count(*), count(*) FILTER (WHERE count = 0 AND sum_ms = 0), count(coalesce(p50_ms, p90_ms, p99_ms)) FROM nats_publish_latency'),
	'8|8|0', 'nothing counted: no percentiles');

# Many sessions at once

{
	my @sessions = map { session() } 1 .. 8;
	$_->begin(q(DO $$
		BEGIN
			FOR i IN 1 .. 100 LOOP
				PERFORM nats_publish('s.a', 'x');
				PERFORM nats_publish_async('s.a', 'xx') FROM generate_series(1, 2);
				PERFORM nats_publish_on_commit('s.a', 'xxx') FROM generate_series(1, 3);
				PERFORM nats_publish_outbox('s.' || i, 'xxxx');
				IF i % 4 > 0 THEN COMMIT; ELSE PERFORM nats_flush(); ROLLBACK; END IF;
			END LOOP;
		END$$)) foreach @sessions;
	is($_->finish(600)->{error}, '', 'one of eight sessions') foreach @sessions;
	wait_for_relay(600);
	my $counters = counters('postgres');
	delete $counters->{outbox}{connects};
	is_deeply($counters, {
			sync => { published => 800, acked => 800, bytes => 800, connects => 8 },
			async => { published => 1600, acked => 1600, bytes => 3200 },
			on_commit => { published => 1800, acked => 1800, bytes => 5400, commit_waits => 600 },
			outbox => { published => 600, acked => 600, bytes => 2400 } }, 'eight sessions: the sums are right');
	is($observer->value(q(SELECT mode, sum(count) FILTER (WHERE measure = 'ack'), sum(count) FILTER (WHERE measure = 'commit_wait')
		FROM nats_publish_histogram GROUP BY mode ORDER BY mode)), "async|1600|0\non_commit|1800|600\noutbox|600|0\nsync|800|0", 'those of the histograms, too');
	is($observer->value(q(SELECT mode, sum(count) FILTER (WHERE measure = 'ack'), bool_and(sum_ms >= commit_wait_ms AND sum_ms <= commit_wait_ms)
			FILTER (WHERE measure = 'commit_wait')
		FROM nats_publish_latency JOIN nats_publish_stats USING (datname, mode) GROUP BY mode ORDER BY mode)),
		"async|1600|t\non_commit|1800|t\noutbox|600|t\nsync|800|t", 'and of the latencies');
	is($observer->value(q(
		WITH ranked AS (SELECT *, sum(count) OVER below - count AS before, sum(count) OVER below AS through FROM nats_publish_histogram
			WINDOW below AS (PARTITION BY datname, mode, measure ORDER BY from_ms))
		SELECT count(*), count(*) FILTER (WHERE EXISTS (
			SELECT FROM ranked AS r WHERE (r.mode, r.measure) = (l.mode, l.measure) AND r.count > 0 AND ms BETWEEN from_ms AND to_ms
				AND before <= ceil(fraction * l.count) AND through >= floor(fraction * l.count)))
		FROM nats_publish_latency AS l, LATERAL (VALUES (0.5, p50_ms), (0.9, p90_ms), (0.99, p99_ms)) AS p (fraction, ms)
		WHERE l.count > 0)), '15|15', 'each percentile is in its bucket');
	reset_counters();
}

# More ends of transactions than anything that waits for a server can have
{
	my @sessions = map { session(publishing => 'off') } 1 .. 8;
	$_->begin(q(DO $$BEGIN FOR i IN 1 .. 50000 LOOP PERFORM nats_publish('s.a', 'x'); COMMIT; END LOOP; END$$)) foreach @sessions;
	$_->finish(600) foreach @sessions;
	counted('eight sessions, as fast as they can', sync => { suppressed => 8 * 50000 });
}

# Databases and foreign servers

{
	publishing_database($node, $_) foreach 'other', 'dropped';
	my $session = PsqlSession->new($node, dbname => 'other');
	$session->value(transaction(q(nats_publish('s.a', 'x')), q(nats_publish_on_commit('s.a', 'x'))));
	is_deeply(counters('postgres'), {}, 'another database is counted');
	is($session->value(q(SELECT published FROM nats_publish_stats WHERE datname = 'other' AND mode = 'sync')), '1', 'as it sees itself');
	counted('by itself', database => 'other',
		sync => { published => 1, acked => 1, bytes => 1, connects => 1 }, on_commit => { published => 1, acked => 1, bytes => 1, commit_waits => 1 });
	is_deeply(counters('other'), {}, 'a reset is for all databases');

	$session = PsqlSession->new($node, dbname => 'dropped');
	$session->value(calls(q(nats_publish('s.a', 'x'))));
	end_session($session);
	$observer->value('DROP DATABASE dropped');
	is($observer->value(q(SELECT count(*) FROM nats_publish_stats WHERE datname = 'dropped')), '0', 'a dropped database has no name');
	like($observer->value(q(SELECT count(*) FROM nats_publish_stats WHERE datname IS NULL)), qr/^[04]$/, 'or no rows');
	publishing_database($node, 'dropped');
	$session = PsqlSession->new($node, dbname => 'dropped');
	$session->value(calls(q(nats_publish('s.a', 'x'))));
	counted('a new database of the same name', database => 'dropped', sync => { published => 1, acked => 1, bytes => 1, connects => 1 });
}
{
	my $second = NatsServer->new(name => 'second', jetstream => 1)->start;
	NatsClient->new(url => $second->url)->create_stream('T', ['t.>']);
	$observer->value("CREATE SERVER second FOREIGN DATA WRAPPER nats OPTIONS (url '" . $second->url . "')");
	my $session = session();
	$session->value(q(BEGIN; SELECT nats_publish_async('s.a', 'x') IS NULL \g /dev/null
		SET LOCAL nats_publish.server = second; SELECT nats_publish_async('t.a', 'xx') IS NULL \g /dev/null
		COMMIT));
	counted('one transaction and two servers', async => { published => 2, acked => 2, bytes => 3, commit_waits => 1, connects => 2 });
}

# Roles, and what they must not see

$observer->value('CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE nobody LOGIN');
{
	my %sessions = map { $_ => PsqlSession->new($node, user => $_) } qw(watcher nobody);
	foreach my $view (@VIEWS)
	{
		is($sessions{watcher}->sqlstate("SELECT * FROM $view"), '', "pg_monitor may read $view");
		is($sessions{nobody}->sqlstate("SELECT * FROM $view"), '42501', 'another role may not');
	}
	is($sessions{$_}->sqlstate('SELECT nats_publish_stats_reset()'), '42501', "nats_publish_stats_reset() as $_") foreach sort keys %sessions;
	$observer->value('GRANT EXECUTE ON FUNCTION nats_publish_stats_reset() TO nobody');
	is($sessions{nobody}->sqlstate('SELECT nats_publish_stats_reset()'), '', 'granted');
}
{
	my $strict = NatsServer->new(name => 'strict', jetstream => 1, config => 'authorization { user: "app", password: "Secret1" }')->start;
	my $address = '127.0.0.1:' . $strict->port;
	my $session = session(url => "nats://app:Secret1\@$address");
	my $refused = session(url => "nats://app:Secret2\@$address,nats://Secret3\@$address");
	$session->value(calls('nats_server_info()'));
	is($refused->sqlstate(q(SELECT nats_publish('s.a', 'x'))), '28000', 'wrong credentials');
	like(column('sync', 'last_error'), qr/$address/, 'last_error names the server');
	unlike($observer->value("SELECT string_agg(v::text, ' ') FROM $_ AS v"), qr/Secret/, "no credentials in $_") foreach @VIEWS;
}

# Encodings

{
	publishing_database($node, 'latin1', 'LATIN1');
	publishing_database($node, 'utf8');
	my $fake = FakeServer->answering(
		sub { my ($peer, $command) = @_; $peer->reply($command, qq({"error":{"code":400,"err_code":1,"description":"$command->{payload}"}})); });
	my %sessions = map { $_ => PsqlSession->new($node, dbname => $_, settings => { client_encoding => 'UTF8', 'nats_publish.url' => $fake->url }) } qw(latin1 utf8);
	my $read = sub {
		my ($from, $database) = @_;
		return $sessions{$from}->value("SELECT last_error FROM nats_publish_stats WHERE datname = '$database' AND mode = 'sync'");
	};
	$sessions{$_}->run(q(SELECT nats_publish('s.grün', 'Größe'))) foreach sort keys %sessions;
	foreach my $from (sort keys %sessions)
	{
		like($read->($from, $_), qr/"s\.grün".*Größe/, "last_error of $_, read in $from") foreach sort keys %sessions;
	}
	$sessions{utf8}->run(q(SELECT nats_publish('s.☃', 'snow')));
	like($read->('utf8', 'utf8'), qr/"s\.☃".*snow/, 'characters that the other encoding does not have');
	like($read->('latin1', 'utf8'), qr/"s\..+".*snow/, 'are no error there');
	foreach my $start ('', 'x')
	{
		$sessions{utf8}->run("SELECT nats_publish('s.a', '$start' || repeat('ü', 500))");
		like($read->('utf8', 'utf8'), qr/(?:ü)+$/, 'a long text is cut between characters');
		like($read->('latin1', 'utf8'), qr/(?:ü)+$/, 'in the other encoding, too');
	}

	# where no transaction is open: at exit, and in the relay
	$sessions{latin1}->value("SET nats_publish.url = '" . $nats->url . "'");
	stall($sessions{latin1});
	$sessions{latin1}->value(calls(q(nats_publish_async('s.grün', 'x', critical => false))));
	end_session($sessions{latin1});
	$nats->resume;
	like(column('async', 'last_error', 'latin1'), qr/"s\.grün": .*acknowledg/, 'an error at exit');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, latin1');
	my $session = PsqlSession->new($node, dbname => 'latin1', settings => { client_encoding => 'UTF8' });
	$session->value(calls(q(nats_publish_outbox('nowhere.grün', 'x'))));
	wait_for('an attempt', sub { column('outbox', 'failed > 0', 'latin1') eq 't' });
	like(column('outbox', 'last_error', 'latin1'), qr/"nowhere\.grün": no stream/, 'an error of the relay');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
}

# More databases than are counted at once, each dropped before the next

publishing_database($node, 'model');
$observer->value(calls(q(nats_publish('s.a', 'x'))));
$node->safe_psql('postgres', join '', map { "CREATE DATABASE many TEMPLATE model;\n\\c many\nSELECT nats_publish('s.a', 'x');\n\\c postgres\nDROP DATABASE many;\n" } 1 .. 260);
{
	publishing_database($node, 'last');
	my $session = PsqlSession->new($node, dbname => 'last');
	$session->value(calls(q(nats_publish('s.a', 'x'))));
	is(column('sync', 'published', 'last'), '1', 'dropped databases make room for others');
	cmp_ok(column('sync', 'published'), '>', 0, 'and those that are there keep theirs');
}

# A restart, and a crash

foreach my $how ('a restart', 'a crash')
{
	my $session = session();
	$session->value(calls(q(nats_publish('s.a', 'x'))));
	$session->run(q(SELECT nats_publish('nowhere.a', 'x')));
	is(column('sync', 'published > 0, last_error_at IS NULL'), 't|f', 'something is counted');
	my $before = $observer->value('SELECT clock_timestamp()');
	if ($how eq 'a restart') { $node->restart; }
	else
	{
		kill 'KILL', $session->pid;
		wait_for('the backend to end', sub { !process_is_there($session->pid) });
		wait_until_back($node);
	}
	$session->kill;
	$observer->kill;
	$observer = PsqlSession->new($node);
	is_deeply(counters('postgres'), {}, "$how: nothing is counted any more");
	is($observer->value("SELECT coalesce(sum(count), 0) FROM $_"), '0', "nor in $_") foreach @VIEWS[ 1, 2 ];
	is(column('sync', 'last_error, last_error_at'), '|', 'nor is there an error') if column('sync', 'mode');
	is($observer->value("SELECT count(*) FROM nats_publish_stats WHERE stats_reset < '$before'"), '0', 'stats_reset tells');
	$session = session();
	publish($session, 'sync', "after $how", q('s.a', 'x'), bytes => 1, connects => 1);
}

# Without preloading

my $plain = publishing_node('plain', 'nats_publish.url' => $nats->url);
{
	my $session = PsqlSession->new($plain);
	my $has_memory = $session->value(q(SELECT current_setting('server_version_num')::int >= 170000)) eq 't';
	foreach my $sql ((map { "SELECT * FROM $_" } @VIEWS), 'SELECT nats_publish_stats_reset()')
	{
		my $result = PsqlSession->new($plain)->run($sql);
		is($result->{sqlstate}, $has_memory ? '' : '55000', "not preloaded: $sql");
		like($result->{error}, qr/shared_preload_libraries.*^HINT: .*shared_preload_libraries/ms, 'with a hint') if !$has_memory;
	}
	is($session->value(q(SELECT (nats_publish('s.a', 'x')).stream)), 'S', 'publishing goes on');
	$session->value(transaction(q(nats_publish_async('s.a', 'x')), q(nats_publish_on_commit('s.a', 'x'))));
	is($session->value('SELECT published, acked FROM nats_session_stats()'), '3|3', 'and counts for the session');
	is(PsqlSession->new($plain)->value('SELECT mode, published, acked, commit_waits FROM nats_publish_stats ORDER BY mode'),
		"async|1|1|0\non_commit|1|1|1\noutbox|0|0|0\nsync|1|1|0", 'for all, too') if $has_memory;
}

done_testing();
