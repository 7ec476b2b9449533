
# Held messages when the server, the backend or the transaction comes to a bad end during COMMIT.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use PsqlSession;
use PublishTest;

my $BOUND = 20;

my ($nats) = nats_with_stream('H', ['h.>'], storage => 'file');
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.commit_timeout' => '60s',
	'restart_after_crash' => 'on');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub session { my (%settings) = @_; return PsqlSession->new($node, settings => { work_mem => '64kB', %settings }); }
sub client { return NatsClient->new(url => $nats->url); }
sub state_of_stream { return client()->stream_info('H')->{state}; }
sub stored { return state_of_stream()->{messages}; }
sub rows { return $node->safe_psql('postgres', 'SELECT count(*) FROM t'); }
sub temporary_files { return $node->safe_psql('postgres', 'SELECT count(*) FROM pg_ls_tmpdir()'); }

sub clean
{
	# a new one, so that sequences begin with 1 and no id is known
	my $client = client();
	$client->delete_stream('H');
	$client->create_stream('H', ['h.>'], storage => 'file');
	$node->safe_psql('postgres', 'TRUNCATE t');
	return;
}

# Holds messages of that number in a transaction, with a row. A subject for each, so that the stream's numbers say
# whether one is missing or there twice.
sub hold
{
	my ($session, $count, $subject) = @_;
	$subject //= q('h.' || i);
	$session->value(qq(BEGIN; INSERT INTO t VALUES (1);
		SELECT count(nats_publish_on_commit($subject, i::text || repeat(' ', 100))) FROM generate_series(1, $count) i));
	return;
}

# Is the stream the first messages of the calls? Looks at some, and at the last.
sub is_prefix
{
	my ($client, $count) = @_;
	my @places = $count ? (1, $count, map { 1 + int rand $count } 1 .. 50) : ();
	my @wrong = grep { $client->get_message('H', $_)->{payload} !~ /^$_ +$/ } @places;
	return ok(!@wrong, "the $count messages in the stream are the first ones of the calls, in order");
}

# A crash of the server in the middle of COMMIT

foreach my $stop ('kill9', 'stop')
{
	my $session = session();
	clean();
	hold($session, 60_000);
	is(stored(), 0, "$stop: nothing is sent before COMMIT");
	cmp_ok(temporary_files(), '>', 0, 'what is held is in a file');
	$session->begin('COMMIT');
	wait_for('the first messages', sub { stored() > 5000 });
	$nats->stall;    # so that some are not acknowledged
	$session->wait_until_waiting;
	if ($stop eq 'stop') { $nats->resume; }
	$nats->restart(stop => $stop);
	my $result = $session->finish;
	is($result->{error}, '', 'COMMIT rides out the end and restart of the server');
	my $state = state_of_stream();
	is("$state->{messages} $state->{num_subjects}", '60000 60000', 'every message is in the stream exactly once');
	is(rows(), 1, 'and so is the row');
	is($session->value('SELECT connections_lost > 0, failed FROM nats_session_stats()'), 't|0', 'over two connections');
	is(temporary_files(), 0, 'the file is gone');
}

# Again and again

{
	my $session = session();
	clean();
	hold($session, 60_000);
	$session->begin('COMMIT');
	foreach my $round (1 .. 3)
	{
		wait_for('more messages', sub { stored() > $round * 3000 || !$session->is_running });
		last unless $session->is_running;
		$nats->kill9;
		sleep 0.2;
		$nats->start;
	}
	is($session->finish->{error}, '', 'COMMIT rides out several crashes');
	my $state = state_of_stream();
	is("$state->{messages} $state->{num_subjects}", '60000 60000', 'every message is in the stream exactly once');
}

# Messages without an id can't be sent again

{
	my $session = session('nats_publish.auto_msg_id' => 'off');
	clean();
	hold($session, 60_000);
	$session->begin('COMMIT');
	wait_for('the first messages', sub { stored() > 5000 });
	$nats->stall;
	$session->wait_until_waiting;
	$nats->restart(stop => 'kill9');
	my $result = $session->finish;
	like($result->{sqlstate}, qr/^580[03]0$/, 'a crash of the server, and messages without ids: COMMIT fails');
	like($result->{error}, qr/Of the transaction's messages: \d+ stored, \d+ failed, \d+ not sent\./, 'and tells how many');
	my ($acked, $failed, $unsent) = $result->{error} =~ /: (\d+) stored, (\d+) failed, (\d+) not sent\./;
	is($acked + $failed + $unsent, 60_000, 'of all messages') if defined $unsent;
	is(rows(), 0, 'no row');
	my $state = state_of_stream();
	is($state->{num_subjects}, $state->{messages}, 'nothing is there twice');
	cmp_ok($state->{messages}, '<=', 60_000 - ($unsent // 0), 'nor what was not sent');
	$session->value(q(SELECT nats_publish_on_commit('h.x', 'x')));
	is(temporary_files(), 0, 'the file is gone');
}

# No server

{
	my $session = session('nats_publish.commit_timeout' => '1s', 'nats_publish.connect_timeout' => '500ms');
	clean();
	$nats->stop;
	hold($session, 1000);
	my $result = $session->run('COMMIT');
	is($result->{sqlstate}, '58000', 'no server: COMMIT fails');
	cmp_ok($result->{seconds}, '<', $BOUND, 'in time');
	is(rows(), 0, 'no row');
	hold($session, 1000);
	is($session->run('ROLLBACK')->{sqlstate}, '', 'ROLLBACK does not');
	$nats->start;
	is(stored(), 0, 'nothing in the stream');
	hold($session, 1000);
	$session->value('COMMIT');
	is(stored() . ' ' . rows(), '1000 1', 'and with a server it works');
	# one that was there a moment ago, and was told nothing yet
	clean();
	hold($session, 1000);
	$nats->kill9;
	is($session->sqlstate('COMMIT'), '58000', 'a server that has gone since the last COMMIT');
	is(rows(), 0, 'no row');
	$nats->start;
	is(stored(), 0, 'nothing in the stream');
}

# A server that does not answer

foreach my $end ('cancel', 'terminate', 'timeout')
{
	my $session = session($end eq 'timeout' ? ('nats_publish.commit_timeout' => '1s') : ());
	my $pid = $session->pid;
	clean();
	$session->value(q(SELECT nats_publish('h.warm', '')));
	hold($session, 100);
	cmp_ok(temporary_files(), '==', 0, "$end: in memory");
	$session->value(q(SELECT count(nats_publish_on_commit('h.more', 'x')) FROM generate_series(1, 20000))) if $end ne 'timeout';
	$session->value(q(SET LOCAL statement_timeout = '100ms')) if $end eq 'timeout';
	$nats->stall;
	$session->begin('COMMIT');
	$session->wait_until_waiting if $end ne 'timeout';
	my $started = time;
	kill 'INT', $pid if $end eq 'cancel';
	kill 'TERM', $pid if $end eq 'terminate';
	my $result = $session->finish;
	is($result->{sqlstate}, { cancel => '57014', terminate => '57P01', timeout => '58030' }->{$end}, 'COMMIT ends');
	cmp_ok(time - $started, '<', $BOUND, 'at once') if $end ne 'timeout';
	cmp_ok($result->{seconds}, '>', 0.9, 'statement_timeout does not end it') if $end eq 'timeout';
	cmp_ok($result->{seconds}, '<', $BOUND, 'commit_timeout does') if $end eq 'timeout';
	wait_for('the backend to end', sub { !process_is_there($pid) }) if $end eq 'terminate';
	$nats->resume;
	is(rows(), 0, 'no row');
	is(temporary_files(), 0, 'no file');
	next if $end eq 'terminate';
	is($session->value(q(BEGIN; SELECT (nats_publish('h.b', 'x')).stream; SELECT nats_publish_on_commit('h.c', 'x'); COMMIT)), "H\n",
		'the session goes on');
}

# The death of the backend in the middle of COMMIT, and that of all others with it

{
	my $session = session();
	my $pid = $session->pid;
	clean();
	hold($session, 200_000, q('h.one'));
	my $client = client();
	is($client->stream_info('H')->{state}{messages}, 0, 'nothing is sent before COMMIT');
	$session->begin('COMMIT');
	wait_for('the first messages', sub { $client->stream_info('H')->{state}{messages} > 5000 });
	kill 'KILL', $pid;
	wait_for('the backend to end', sub { !process_is_there($pid) });
	$session->kill;
	wait_until_back($node);
	$nats->restart;    # nothing is on its way any more
	my $count = stored();
	cmp_ok($count, '>', 5000, 'a killed backend has left messages in the stream');
	cmp_ok($count, '<', 200_000, 'not all');
	is_prefix(client(), $count);
	is(rows(), 0, 'no row');
	is(temporary_files(), 0, 'no file');

	# held, and not yet in COMMIT
	clean();
	$session = session();
	hold($session, 50_000);
	cmp_ok(temporary_files(), '>', 0, 'what is held is in a file');
	kill 'KILL', $session->pid;
	wait_for('the backend to end', sub { !process_is_there($session->pid) });
	$session->kill;
	wait_until_back($node);
	is(stored() . ' ' . rows() . ' ' . temporary_files(), '0 0 0', 'a backend that is killed before: no message, no row, no file');
}

# A disk that takes no more, and a file that has lost its end. The transaction has nothing else to write.

{
	clean();
	my $session = session();
	my $pid = $session->pid;
	my $many = q(SELECT count(nats_publish_on_commit('h.many', repeat('x', 1000))) FROM generate_series(1, 10000) \g /dev/null);
	$session->value(q(BEGIN; SELECT nats_publish_on_commit('h.first', '') \g /dev/null
		SAVEPOINT s));
	system_or_bail('prlimit', '--pid', $pid, '--fsize=1000000:');
	my $result = $session->run($many);
	is($result->{sqlstate}, '53100', 'a full disk is an error of the call');
	like($result->{error}, qr/could not write the temporary file of held messages/, 'which says so');
	system_or_bail('prlimit', '--pid', $pid, '--fsize=unlimited:');
	is($session->run('ROLLBACK TO s; COMMIT')->{error}, '', 'what was held before it is committed');
	is_deeply([ map { $_->{subject} } client()->stream_messages('H') ], ['h.first'], 'and stored');

	$session->value("BEGIN; $many");
	truncate $_, 100_000 foreach glob $node->data_dir . "/base/pgsql_tmp/pgsql_tmp$pid.*";
	like($session->error('COMMIT'), qr/could not read the temporary file of held messages/, 'a truncated file is an error of COMMIT');
	is($session->value(q(SELECT (nats_publish('h.after', '')).stream)), 'H', 'the session goes on');
}

# The ends of a session that holds messages

foreach my $end ('exit', 'terminate', 'error', 'failed COMMIT')
{
	clean();
	my $session = session();
	hold($session, 20_000);
	cmp_ok(temporary_files(), '>', 0, "$end: what is held is in a file");
	if ($end eq 'exit') { $session->close; }
	elsif ($end eq 'terminate') { kill 'TERM', $session->pid; }
	elsif ($end eq 'error') { $session->run('SELECT 1/0'); }
	else { is($session->sqlstate(q(SELECT nats_publish_on_commit('no.stream', ''); COMMIT)), '42704', 'COMMIT fails'); }
	wait_for('the backend to end', sub { !process_is_there($session->pid) }) if $end =~ /exit|terminate/;
	is(stored(), 0, 'nothing is sent') unless $end eq 'failed COMMIT';
	is(rows() . ' ' . temporary_files(), '0 0', 'no row, no file');
}
unlike(slurp_file($node->logfile), qr/leak/, 'nothing has leaked');

# A parallel worker, into which a function gets only by a false mark: no COMMIT would know of its messages

{
	clean();
	$node->safe_psql('postgres', <<'END');
CREATE FUNCTION hold_in_worker(i int) RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS
	$$BEGIN PERFORM nats_publish_on_commit('h.worker', i::text); RETURN i; END$$;
CREATE TABLE many AS SELECT generate_series(1, 10000) AS i;
ALTER TABLE many SET (parallel_workers = 2);
ANALYZE many;
END
	my $session = session(parallel_setup_cost => 0, parallel_tuple_cost => 0, min_parallel_table_scan_size => 0, parallel_leader_participation => 'off');
	my $result = $session->run('SELECT count(*) FROM many WHERE hold_in_worker(i) > 0');
	is($result->{sqlstate}, '25000', 'a parallel worker holds nothing');
	like($result->{error}, qr/^HINT: .*PARALLEL UNSAFE/m, 'as a hint says');
	is($session->value('SET max_parallel_workers_per_gather = 0; SELECT count(*) FROM many WHERE hold_in_worker(i) > 0'), '10000', 'without a worker');
	is(stored(), 10000, 'all are stored');
}

# A phantom: a crash comes after the acknowledgments and before the commit record is on disk. The commit delay holds that up for a
# tenth of a second.

$node->append_conf('postgresql.conf', "fsync = on\ncommit_siblings = 0\nwal_writer_delay = '10s'\nautovacuum = off");
$node->restart;
my $phantom;
foreach my $attempt (1 .. 10)
{
	clean();
	my $session = session(commit_delay => 100_000, synchronous_commit => 'on');
	my $pid = $session->pid;
	my $client = client();
	hold($session, 10);
	$session->begin('COMMIT');
	until ($client->stream_info('H')->{state}{messages} == 10) { }
	kill 'KILL', $pid;
	wait_for('the backend to end', sub { !process_is_there($pid) });
	$session->kill;
	wait_until_back($node);
	note("attempt $attempt: ", rows(), ' rows');
	$phantom = rows() == 0 && stored() == 10;
	last if $phantom;
}
ok($phantom, 'a crash after the acknowledgments and before the commit record leaves messages without their row: phantoms');

done_testing();
