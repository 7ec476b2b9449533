
# What a relay is doing when it publishes nothing has a name, and what it waits for is told: in nats_relay, by the doctor, and
# in the log once or not at all. What ends it ends it in peace, and what should not end it does not.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use PsqlSession;
use PublishTest;
use RelayTest;

# What an administrator would look into.
my $ALARMING = qr/WARNING|ERROR|FATAL|PANIC/;

my ($nats, $client) = nats_with_stream('S', ['s.>'], storage => 'file');
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	max_prepared_transactions => 5,
	max_worker_processes => 20);
my $session = PsqlSession->new($node);
my $other = PsqlSession->new($node);

sub write_message { return write_to_outbox($session, @_); }
sub stored { my ($subject) = @_; return scalar grep { $_->{subject} eq $subject } $client->stream_messages('S'); }
sub doctor { my ($from) = @_; return ($from // $session)->value(q(SELECT status, detail FROM nats_check() WHERE check_name = 'relay')); }
sub alarms { my ($offset) = @_; return [ log_lines($node, $offset, $ALARMING) ]; }

sub published
{
	my ($subject, $what) = @_;
	write_message($subject);
	return ok(eval { wait_for('the message', sub { stored($subject) }, 30) }, $what);
}

# ---- Cancelled

{
	my $offset = log_length($node);
	my $pid = relay_pid($session);
	my $launcher = launcher_pid($session);
	foreach (1 .. 5)
	{
		$session->value("SELECT pg_cancel_backend($pid), pg_cancel_backend($launcher)");
		sleep 0.1;
	}
	published('s.cancelled', 'a relay that was cancelled goes on');
	is(relay_pid($session) . ' ' . launcher_pid($session), "$pid $launcher", 'it and the launcher are the same');
	# which it tells behind the end of its transaction
	wait_for('it to be counted', sub { relay_column($session, 'published') eq '1' });
	is(relay_column($session, 'last_error'), '', 'and the relay has lost nothing, and nothing to tell of');
	is_deeply(alarms($offset), [], 'nor the log');
}

# ---- Blocked

{
	my $pid = relay_pid($session);
	$other->value('BEGIN; LOCK TABLE nats_outbox IN ACCESS EXCLUSIVE MODE');
	$session->value('SELECT nats_relay_resume()');
	ok(wait_for('it to be blocked', sub { $session->value('SELECT state, blocked_by FROM nats_relay_status()') eq 'blocked|{' . $other->pid . '}' }),
		'a relay that waits for a lock is blocked, by a process');
	# also in the pauses between its tries
	sleep 3;
	my %states = map { sleep 0.02; $session->value('SELECT state FROM nats_relay_status()') => 1 } 1 .. 50;
	is_deeply([ keys %states ], ['blocked'], 'and also in between');
	like(doctor(), qr/^warning\|The relay is blocked.* The outbox could not be looked into: canceling statement due to lock timeout\.$/, 'and the doctor does not wait for that lock');
	$other->value('ROLLBACK');
	# the view counts rows, for which it would wait, too: a lock that the relay's DELETE waits for
	$nats->stall;
	write_message('s.blocked');
	wait_for_state($session, 'publishing');
	$other->value('BEGIN; LOCK TABLE nats_outbox IN SHARE MODE');
	$nats->resume;
	wait_for_state($session, 'blocked');
	my $blocker = $other->pid;
	# it waits for a lock for 200 ms, and comes back after a pause
	ok(wait_for('the view', sub { relay_column($session, 'pid, blocked_by') eq "$pid|{$blocker}" }), 'the view tells of it');
	ok(wait_for('the doctor', sub { doctor() =~ /^warning\|The relay is blocked by a lock of process $blocker\. See pg_stat_activity/ }), 'and the doctor');
	$other->value(q(PREPARE TRANSACTION 'locked'));
	ok(wait_for('that', sub { relay_column($session, 'blocked_by') eq '{0}' }), 'a prepared transaction is process 0');
	$other->value(q(ROLLBACK PREPARED 'locked'));
	wait_until_drained($session);
	wait_for_state($session, 'idle');
	is(relay_column($session, 'blocked_by'), '', 'and then by none');
}

# ---- Locked

# What is on its way is answered meanwhile, and not published again when no duplicate would be found any more.
{
	$client->create_stream('BRIEF', ['brief.>'], storage => 'file', duplicate_window => 1_000_000_000);
	reconfigure($node, 'nats_publish.ack_timeout' => '60s');
	foreach (1 .. 2)
	{
		write_message('brief.known');
		wait_until_drained($session);
	}
	$nats->stall;
	write_message("brief.$_") foreach 1 .. 20;
	wait_for_state($session, 'publishing');
	$other->value('BEGIN; LOCK TABLE nats_outbox IN ACCESS EXCLUSIVE MODE');
	wait_for('it to be blocked', sub { $session->value('SELECT state FROM nats_relay_status()') eq 'blocked' });
	sleep 1;
	$nats->resume;
	sleep 2;
	$other->value('ROLLBACK');
	wait_until_drained($session);
	is($client->stream_info('BRIEF')->{state}{messages}, 22, 'a table that is locked for long doubles nothing');
	reconfigure($node, 'nats_publish.ack_timeout' => undef);
}

# Rows that can't be buried, each of which would wait for the lock, do not hold up others.
{
	$other->value('BEGIN; LOCK TABLE nats_outbox_dead');
	$session->value(q(SET session_replication_role = replica;
		INSERT INTO nats_outbox (subject, msg_id) SELECT 'a..b', 'bad' || i FROM generate_series(1, 300) i; RESET session_replication_role));
	write_message('s.beside');
	ok(eval { wait_for('the message', sub { stored('s.beside') }, 20) }, 'others are published while nats_outbox_dead is locked');
	$other->value('ROLLBACK');
	$session->value('UPDATE nats_outbox SET next_attempt_at = now()');
	wait_until_drained($session);
	is($session->value('WITH gone AS (DELETE FROM nats_outbox_dead RETURNING 1) SELECT count(*) FROM gone'), '300', 'and then the dead are there');
}

# ---- Refused

{
	my $id = write_message('nowhere.a');
	write_message('nowhere.b');
	wait_for('attempts', sub { relay_column($session, 'retrying') eq '2' });
	like(relay_column($session, 'backlog, retrying, retrying_subject, retrying_error'), qr/^2\|2\|nowhere\.a\|42704: no stream takes this subject/,
		'the view tells which subject is refused, and why');
	like(doctor(), qr/^warning\|.*In nats_outbox: 2 messages.* 2 messages failed and will be tried again; the first, of subject "nowhere\.a": 42704: no stream/,
		'and so does the doctor');
	$session->value('DELETE FROM nats_outbox');
	like(doctor(), qr/^ok\|/, 'which is well without them');
	# the doctor has to reach its server
	my ($healthy) = nats_with_stream('S', ['s.>']);
	my $examiner = publishing_session($node, url => $healthy->url);
	$nats->stall;
	$session->value(q(INSERT INTO nats_outbox (subject, created_at) VALUES ('s.old', now() - interval '2 min')));
	wait_for_state($session, 'publishing');
	like(doctor($examiner), qr/^warning\|The relay is publishing\. In nats_outbox: 1 message, the oldest for 00:02:/, 'it warns of an old message, whatever the relay does');
	$nats->resume;
	wait_until_drained($session);
}

# ---- Without rights

{
	my $offset = log_length($node);
	$session->value(q(CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE insufficient_privilege USING MESSAGE = 'permission denied for table audit'; END $$;
		CREATE TRIGGER forbid AFTER DELETE ON nats_outbox FOR EACH STATEMENT EXECUTE FUNCTION forbid()));
	write_message('s.forbidden');
	wait_for_state($session, 'no rights');
	is(relay_column($session, 'last_error'), 'permission denied for table audit', 'a relay without rights says so');
	like(doctor(), qr/^warning\|The relay is without the rights that it needs\. .*Its last error: permission denied for table audit\./, 'and so does the doctor');
	sleep 1;
	is(scalar(log_lines($node, $offset, qr/cannot write down/)), 1, 'the log does once');
	$session->value('DROP TRIGGER forbid ON nats_outbox');
	$node->reload;
	wait_until_drained($session);
	wait_for_state($session, 'idle');

	# an owner that may not do what the tables need
	$session->value('CREATE ROLE keeper; ALTER TABLE nats_outbox OWNER TO keeper; REVOKE SELECT ON nats_outbox FROM keeper');
	wait_for_state($session, 'no rights');
	like(doctor(), qr/^warning\|The relay is without the rights that it needs\. Grant the owner of nats_outbox what the error names\. .*The outbox could not be looked into: permission denied for /,
		'the doctor says what the owner of the tables lacks');
	$session->value('ALTER TABLE nats_outbox OWNER TO CURRENT_USER; DROP ROLE keeper');
	$node->reload;
	published('s.owner', 'and with its owner back it publishes');

	# a role that others need in this database is none that the relay needs
	my $pid = relay_pid($session);
	$session->value(qq(CREATE ROLE nobody; ALTER DATABASE postgres SET role = 'nobody'; SELECT pg_terminate_backend($pid)));
	wait_for('another one', sub { my $new = relay_pid($session); $new ne '' && $new ne $pid });
	published('s.role', 'ALTER DATABASE ... SET role takes no rights from the relay');
	$session->value('ALTER DATABASE postgres RESET role');
}

# ---- A database that is closed

{
	publishing_database($node, 'closed');
	$session->value('ALTER DATABASE closed ALLOW_CONNECTIONS false');
	my $offset = log_length($node);
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, closed');
	wait_for_state($session, 'database closed', 'closed');
	sleep 6;    # longer than the launcher sleeps
	is_deeply([ map { s/.*LOG:  //r } log_lines($node, $offset, qr/"closed"|$ALARMING/) ],
		['database "closed" of nats_publish.relay_databases does not accept connections'], 'a database that is closed is one line in the log');
	$session->value('ALTER DATABASE closed ALLOW_CONNECTIONS true');
	wait_for_state($session, 'idle', 'closed');
	pass('and has a relay when it is not');

	# closed under its relay, which is how RENAME finds a way
	is($session->sqlstate('ALTER DATABASE closed RENAME TO open'), '55006', 'ALTER DATABASE ... RENAME finds the relay in its way');
	$session->value('ALTER DATABASE closed ALLOW_CONNECTIONS false');
	$session->value(q(SELECT pg_terminate_backend(pid, 10000) FROM nats_relay WHERE datname = 'closed'));
	wait_for_state($session, 'database closed', 'closed');
	is($session->run('ALTER DATABASE closed RENAME TO open')->{error}, '', 'but not when it is closed, and the relay ended');
	$session->value('ALTER DATABASE open ALLOW_CONNECTIONS true');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, open');
	wait_for_state($session, 'idle', 'open');
	is($session->sqlstate('CREATE DATABASE copy TEMPLATE open'), '55006', 'CREATE DATABASE ... TEMPLATE does as well');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
	wait_for('the relay to end', sub { $session->value(q(SELECT count(*) FROM pg_stat_activity WHERE datname = 'open')) eq '0' });
	is($session->run('CREATE DATABASE copy TEMPLATE open')->{error}, '', 'but not when the database is not among relay_databases');

	# dropped under its relay
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres, open');
	wait_for_state($session, 'idle', 'open');
	$offset = log_length($node);
	is($session->run('DROP DATABASE open WITH (FORCE)')->{error}, '', 'DROP DATABASE ... WITH (FORCE) ends the relay');
	wait_for_state($session, 'no database', 'open');
	is_deeply(alarms($offset), [], 'without a line in the log that alarms');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
}

# ---- Ended

{
	my $offset = log_length($node);
	my $pid = relay_pid($session);
	$session->value("SELECT pg_terminate_backend($pid)");
	wait_for('another one', sub { my $new = relay_pid($session); $new ne '' && $new ne $pid });
	is_deeply(alarms($offset), [], 'a relay that is terminated is none');
	$offset = log_length($node);
	$_->close foreach $session, $other;
	$node->stop('fast');
	# a session of ours may not have seen yet that it is closed
	is_deeply([ grep { !/ 047_relay_states\.pl FATAL: / } @{ alarms($offset) } ], [], 'nor are the launcher and the relays that a shutdown ends');
	$node->start;
	$_ = PsqlSession->new($node) foreach $session, $other;
}

# ---- Woken: by each commit that has something for it, whatever it waits for meanwhile, and by no other

reconfigure($node, 'nats_publish.relay_poll_interval' => '1h');
published('s.interval', 'the interval is an hour');

{
	$session->value(q(BEGIN; SELECT nats_publish_outbox('s.prepared', 'x') \g /dev/null
		PREPARE TRANSACTION 'one'));
	$other->value(q(COMMIT PREPARED 'one'));
	ok(eval { wait_for('the message', sub { stored('s.prepared') }, 20) }, 'COMMIT PREPARED wakes it');
	wait_until_drained($session);
}

# A connection that was silent for long is asked whether it is there: what commits meanwhile must not be forgotten
{
	sleep 10.5;
	$nats->stall;
	my $worker = relay_pid($session);
	my $asks = "SELECT wait_event IN ('NatsConnect', 'NatsAck', 'Extension') AND state = 'idle' FROM pg_stat_activity WHERE pid = $worker";
	# the last word of the server may have come later than what it was about
	wait_for('it to ask', sub {
		$session->value('SELECT nats_relay_resume()');
		return eval { wait_for('that', sub { $session->value($asks) eq 't' }, 0.5) };
	});
	sleep 0.3;
	write_message('s.meanwhile');
	sleep 0.3;
	$nats->resume;
	ok(eval { wait_for('the message', sub { stored('s.meanwhile') }, 20) }, 'a commit while the relay waits for the server wakes it');
	wait_until_drained($session);
}

# So must not what commits while it waits for a lock with an older snapshot
{
	my $worker = relay_pid($session);
	$session->value('CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END$$;
		CREATE TRIGGER slowly AFTER DELETE ON nats_outbox FOR EACH STATEMENT EXECUTE FUNCTION slowly()');
	$other->value('SELECT pg_advisory_lock(1)');
	write_message('s.first');
	wait_for_state($session, 'blocked');
	write_message('s.second');
	$other->value('SELECT pg_advisory_unlock(1)');
	ok(eval { wait_for('the message', sub { stored('s.second') }, 20) }, 'a commit while the relay waits for a lock wakes it');
	wait_until_drained($session);
	$session->value('DROP TRIGGER slowly ON nats_outbox');
}

{
	$session->value('SELECT nats_relay_pause()');
	wait_for_state($session, 'paused');
	sleep 0.2;
	my $worker = relay_pid($session);
	my $switches = sub { slurp_file("/proc/$worker/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die };
	my $before = $switches->();
	write_message('s.paused') foreach 1 .. 200;
	cmp_ok($switches->() - $before, '<', 20, 'a paused relay is not woken by each commit');
	$session->value('SELECT nats_relay_resume()');
	ok(eval { wait_until_drained($session, 20) }, 'but when it is resumed');
	is(stored('s.paused'), 200, 'and then publishes what was written meanwhile');
	$session->value(q(BEGIN; SELECT nats_relay_pause() \g /dev/null
		PREPARE TRANSACTION 'pause'));
	$other->value(q(COMMIT PREPARED 'pause'));
	wait_for_state($session, 'paused');
	$session->value(q(BEGIN; SELECT nats_relay_resume() \g /dev/null
		PREPARE TRANSACTION 'resume'));
	$other->value(q(COMMIT PREPARED 'resume'));
	ok(eval { wait_for_state($session, 'idle') }, 'a pause can be prepared, too');
	reconfigure($node, 'nats_publish.relay_poll_interval' => undef);
}

# ---- An outage of half a minute: back within seconds

{
	$nats->stop;
	write_message('s.outage');
	sleep 20;
	$nats->start;
	my $start = time;
	wait_until_drained($session);
	cmp_ok(time - $start, '<', 8, 'after an outage, it publishes within seconds of NATS being there');
}

done_testing();
