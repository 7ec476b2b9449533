
# What is wrong with one row of the outbox, or with all that wait for the same, costs the others nothing; and nothing that
# an administrator does to the tables ends the relay.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $nats = NatsServer->new(jetstream => 1, config => 'max_payload: 100000')->start;
my $client = NatsClient->new(url => $nats->url);
$client->create_stream('W', ['w.>']);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	# what is to be tried again is tried in time
	'nats_publish.relay_poll_interval' => '1h',
	'nats_publish.ack_timeout' => '3s',
	'log_statement' => 'none');
my $session = PsqlSession->new($node);
my $other = PsqlSession->new($node);
my $worker = relay_pid($session);

sub write_message { return write_to_outbox($session, @_); }

sub is_gone { return is_written_down($session, @_); }

sub others_go
{
	my ($what) = @_;
	my $id = write_message('w.others');
	wait_for("others to go, $what", sub { is_gone($id) }, 20);
	pass("others go, $what");
	return;
}

sub count_of
{
	my ($subject) = @_;
	return scalar grep { $_->{subject} eq $subject } $client->stream_messages('W');
}

sub start_again
{
	$session->value('DELETE FROM nats_outbox; DELETE FROM nats_outbox_dead');
	$session->value('SELECT nats_relay_resume()');
	others_go('when all is well again');
	wait_for_state($session, 'idle');
	return;
}

sub ends_well
{
	my ($what) = @_;
	is(relay_pid($session), $worker, "$what: the relay has not ended");
	return;
}

# ---- A row that can't be written

# which counts no further
$session->value(q(INSERT INTO nats_outbox (subject, attempts, last_error, next_attempt_at) VALUES ('no.such', 2147483647, 'x', now())));
wait_for('it to be tried', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE last_error ~ '^42704')) eq '1' });
is($session->value('SELECT attempts FROM nats_outbox'), '2147483647', 'a number of attempts does not overflow');
others_go('beside one with so many attempts');
start_again();

sub check_one
{
	my ($what, $begin, $subject, $error, $end) = @_;
	my $offset = log_length($node);
	$session->value($begin);
	my $id = write_message($subject);
	wait_for("an error of $what", sub { relay_column($session, 'last_error') =~ $error });
	others_go("beside $what");
	others_go("beside $what");
	wait_for_state($session, 'failing');
	like($session->value(q(SELECT detail FROM nats_check('w.others') WHERE check_name = 'relay')), qr/The relay is failing\. It gets errors from the tables.*Its last error: /s,
		"... and the doctor tells of $what");
	is(scalar(log_lines($node, $offset, qr/cannot write down/)), 1, '... the log does once');
	my $before = count_of($subject);
	sleep 1;
	is(count_of($subject), $before, '... nothing is published again');
	$session->value($end);
	if ($subject eq 'no.such')
	{
		wait_for('it to be written', sub { outbox_column($session, 'attempts', $id) >= 1 }, 15);
		start_again();
	}
	else
	{
		wait_until_drained($session, 15);
		wait_for_state($session, 'idle');
		is(count_of($subject), 1, '... it is stored once');
	}
	ok(scalar(log_lines($node, $offset, qr/has written down/)) >= 1, '... and the log tells of the end');
	ends_well($what);
	return;
}

check_one('a constraint', q(ALTER TABLE nats_outbox ADD CONSTRAINT few CHECK (attempts < 1)), 'no.such', qr/violates check constraint "few"/,
	'ALTER TABLE nats_outbox DROP CONSTRAINT few');
check_one('a trigger that raises', q(CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN IF OLD.subject <> 'w.one' THEN RETURN OLD; END IF; RAISE 'not this one'; END $$;
	CREATE TRIGGER forbid BEFORE DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION forbid()), 'w.one', qr/not this one/,
	'DROP TRIGGER forbid ON nats_outbox');
$client->purge('W');
foreach my $sqlstate (qw(57014 40001 53400 55P03 58030))
{
	$client->purge('W');
	check_one("a trigger that raises $sqlstate", qq(CREATE OR REPLACE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN IF OLD.subject <> 'w.one' THEN RETURN OLD; END IF; RAISE 'not this one' USING ERRCODE = '$sqlstate'; END \$\$;
		CREATE TRIGGER forbid BEFORE DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION forbid()), 'w.one', qr/not this one/,
		'DROP TRIGGER forbid ON nats_outbox');
}
$client->purge('W');
$session->value('CREATE TABLE waited_for ()');
$other->value('BEGIN; LOCK TABLE waited_for');
check_one('a trigger that waits for a lock', q(CREATE OR REPLACE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN IF OLD.subject = 'w.one' THEN LOCK TABLE public.waited_for; END IF; RETURN OLD; END $$;
	CREATE TRIGGER forbid BEFORE DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION forbid()), 'w.one', qr/lock timeout/,
	'DROP TRIGGER forbid ON nats_outbox');
$other->value('ROLLBACK');

# all of many: each try takes a transaction id
{
	my $lots = 2000;
	$session->value(q(CREATE OR REPLACE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF OLD.subject <> 'w.one' THEN RETURN OLD; END IF; RAISE 'not this one'; END $$;
		CREATE TRIGGER forbid BEFORE DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION forbid()));
	$session->value("SELECT count(nats_publish_outbox('w.one', i::text)) FROM generate_series(1, $lots) AS i");
	wait_for('all of them to be stored', sub { count_of('w.one') >= $lots }, 60);
	sleep 5;
	my $before = $session->value('SELECT pg_current_xact_id()::text::bigint');
	sleep 10;
	my $taken = $session->value('SELECT pg_current_xact_id()::text::bigint') - $before;
	cmp_ok($taken, '<', $lots / 2, 'what can not be written takes few transaction ids');
	others_go('beside many that can not be deleted');
	$session->value('DROP TRIGGER forbid ON nats_outbox');
	wait_until_drained($session, 20);
	pass('and all are deleted when they can be');
}
$client->purge('W');
check_one('a trigger that keeps a row', q(CREATE OR REPLACE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN RETURN CASE WHEN OLD.subject <> 'w.one' THEN OLD END; END $$;
	CREATE TRIGGER forbid BEFORE DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION forbid()), 'w.one', qr/could not be deleted from nats_outbox/,
	'DROP TRIGGER forbid ON nats_outbox');
check_one('a trigger that keeps a row as it is', q(CREATE OR REPLACE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN RETURN NULL; END $$;
	CREATE TRIGGER forbid BEFORE UPDATE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION forbid()), 'no.such', qr/could not be updated in nats_outbox/,
	'DROP TRIGGER forbid ON nats_outbox');

# a row that is referenced
{
	$session->value('SELECT nats_relay_pause()');
	my $id = write_message('w.referenced');
	$session->value("CREATE TABLE referring (id bigint REFERENCES nats_outbox); INSERT INTO referring VALUES ($id); SELECT nats_relay_resume()");
	wait_for('an error of a reference', sub { relay_column($session, 'last_error') =~ /violates foreign key constraint/ });
	others_go('beside one that is referenced');
	$session->value('DROP TABLE referring');
	wait_until_drained($session, 15);
	is(count_of('w.referenced'), 1, 'it is stored once');
}

# and one that is dead, and stays
{
	$session->value(q(CREATE OR REPLACE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RETURN CASE WHEN OLD.subject <> 'w.one' THEN OLD END; END $$;
		CREATE TRIGGER forbid BEFORE DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION forbid()));
	my $dead = relay_column($session, 'dead');
	write_message('w.one', 'x' x 100_001);
	wait_for('an error of a dead one', sub { relay_column($session, 'last_error') =~ /could not be deleted/ });
	others_go('beside one that is dead and stays');
	is(relay_column($session, 'dead') - $dead, 0, 'one that could not be buried does not count as dead');
	$session->value('DROP TRIGGER forbid ON nats_outbox; SELECT nats_outbox_retry_all()');
	wait_until_drained($session, 15);
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), '1', 'it is buried when it can be');
	start_again();
}

# ---- What others have locked

# one row, for a moment, with a poll interval of an hour
{
	$nats->stall;
	my $id = write_message('w.locked');
	$other->value("BEGIN; SELECT FROM nats_outbox WHERE id = $id FOR UPDATE");
	$nats->resume;
	wait_for('it to be stored', sub { count_of('w.locked') == 1 });
	sleep 1;
	$other->value('COMMIT');
	wait_until_drained($session, 10);
	pass('a row that was locked is deleted soon after');
}

# all of them
{
	my $lots = 12_000;
	$session->value('SELECT nats_relay_pause()');
	wait_for_state($session, 'paused');
	$client->purge('W');
	$session->value("SELECT count(nats_publish_outbox('w.many', i::text)) FROM generate_series(1, $lots) AS i");
	$other->value('BEGIN; SELECT count(*) FROM (SELECT FROM nats_outbox FOR UPDATE) AS locked');
	$session->value('SELECT nats_relay_resume()');
	wait_for_state($session, 'blocked');
	cmp_ok($client->stream_info('W')->{state}{messages}, '<', $lots / 2, 'what can not be deleted is not published without end');
	$other->value('COMMIT');
	wait_until_drained($session, 60);
	is(join(' ', map { $_->{payload} } $client->consume('W')), join(' ', 1 .. $lots), 'and all is stored once, in order, when the lock is gone');
	wait_for_state($session, 'idle');
	ends_well('rows that are locked');
}

# by a trigger rows get other ids of messages, while one is locked
{
	$session->value(q(CREATE OR REPLACE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.msg_id := gen_random_uuid(); RETURN NEW; END $$;
		CREATE TRIGGER forbid BEFORE UPDATE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION forbid()));
	$nats->stall;
	my @ids = map { write_message("no.$_") } 1 .. 2;
	$other->value("BEGIN; SELECT FROM nats_outbox WHERE id = $ids[1] FOR UPDATE");
	$nats->resume;
	wait_for('one to be tried', sub { outbox_column($session, 'attempts', $ids[0]) >= 1 }, 30);
	$other->value('COMMIT');
	$session->value('DROP TRIGGER forbid ON nats_outbox');
	start_again();
	ends_well('a trigger that changes msg_id');
}

# ---- What an administrator does

# all is deleted, the ids begin anew, and there are more of them than before
{
	write_message('w.before') foreach 1 .. 3;
	wait_until_drained($session);
	wait_for_state($session, 'idle');
	$session->value('BEGIN; TRUNCATE nats_outbox RESTART IDENTITY');
	my $last = $session->value(q(SELECT max(nats_publish_outbox('w.anew', i::text)) FROM generate_series(1, 100000) AS i));
	is($last, '100000', 'ids begin anew');
	$client->purge('W');
	$session->value('COMMIT');
	wait_until_drained($session, 60);
	is(join(' ', map { $_->{payload} } $client->consume('W')), join(' ', 1 .. 100_000), 'and all are published, in order');
	ends_well('ids that begin anew');
}

# the table is another one
{
	$session->value(q(ALTER TABLE nats_outbox RENAME TO nats_outbox_old; CREATE TABLE nats_outbox (LIKE nats_outbox_old INCLUDING ALL);
		CREATE TRIGGER nats_outbox_check BEFORE INSERT ON nats_outbox FOR EACH ROW EXECUTE FUNCTION nats_outbox_check()));
	others_go('of a table that is another one');
	$session->value(q(DROP TABLE nats_outbox; ALTER TABLE nats_outbox_old RENAME TO nats_outbox));
	wake_relay($session);
	others_go('of the one that was there before');
	ends_well('another table');
}

# columns without their constraints
{
	$session->value(q(ALTER TABLE nats_outbox ALTER msg_id DROP NOT NULL, ALTER attempts DROP NOT NULL, DISABLE TRIGGER USER;
		INSERT INTO nats_outbox (subject, msg_id) VALUES ('w.null', NULL);
		INSERT INTO nats_outbox (subject, msg_id, next_attempt_at, last_error) VALUES ('w.behind', NULL, now(), 'x');
		INSERT INTO nats_outbox (subject, attempts) VALUES ('w.attempts', NULL);
		ALTER TABLE nats_outbox ENABLE TRIGGER USER));
	others_go('beside a message without an id');
	like(relay_column($session, 'last_error'), qr/without id, subject or msg_id/, 'which the relay tells about');
	is($session->value('SELECT count(*) FROM nats_outbox WHERE msg_id IS NULL'), '2', '... and leaves');
	wait_for('the one without attempts to go', sub { $session->value('SELECT count(*) FROM nats_outbox') eq '2' });
	ends_well('columns that are NULL');
	$session->value('DELETE FROM nats_outbox; ALTER TABLE nats_outbox ALTER msg_id SET NOT NULL, ALTER attempts SET NOT NULL');
	start_again();
}

# a column that is called otherwise while a message is on its way
foreach my $column (qw(msg_id id next_attempt_at))
{
	$nats->stall;
	write_message('w.renamed');
	wait_for_state($session, 'publishing');
	$session->value("ALTER TABLE nats_outbox RENAME $column TO another");
	$nats->resume;
	wait_for('an error of a column', sub { $session->value('SELECT last_error FROM nats_relay_status()') =~ /does not exist/ });
	$session->value("ALTER TABLE nats_outbox RENAME another TO $column");
	wait_until_drained($session, 40);
	wait_for_state($session, 'idle');
	ends_well("column $column renamed");
}

# settings of the database
{
	$session->value("ALTER DATABASE postgres SET exit_on_error = on; SELECT pg_terminate_backend($worker)");
	wait_for('another relay', sub { my $new = relay_pid($session); $new ne '' && $new ne $worker });
	wait_for_state($session, 'idle');
	$worker = relay_pid($session);
	$session->value('ALTER DATABASE postgres RESET exit_on_error');
	$other->value('BEGIN; LOCK TABLE nats_outbox');
	wake_relay($session);
	wait_for('it to be blocked', sub { $session->value('SELECT state FROM nats_relay_status()') eq 'blocked' } );
	$other->value('COMMIT');
	others_go('behind an error');
	ends_well('exit_on_error');
}

# times without an end
{
	$session->value('SELECT nats_relay_pause()');
	$session->value(q(INSERT INTO nats_outbox (subject, created_at) VALUES ('w.endless', '-infinity'), ('w.endless', 'infinity')));
	$session->value(q(INSERT INTO nats_outbox (subject, attempts, next_attempt_at) VALUES ('w.endless', 1, 'infinity')));
	is(relay_column($session, q(oldest_age > '1 year')), 't', 'a time without an end is no error of the view');
	$session->value(q(DELETE FROM nats_outbox WHERE created_at = '-infinity'));
	is(relay_column($session, q(oldest_age < '1 s')), 't', '... nor one in the future');
	is($session->value(q(SELECT count(*) FROM nats_check('w.others') WHERE check_name = 'relay')), '1', '... and none of the doctor');
	start_again();
}

# an index that has only the name
{
	$session->value(q(DROP INDEX nats_outbox_failed; CREATE INDEX nats_outbox_failed ON nats_outbox (next_attempt_at)
		WHERE next_attempt_at IS NOT NULL AND (last_error IS NOT NULL OR attempts > 0) AND attempts > 3));
	$session->value(q(INSERT INTO nats_outbox (subject, payload, attempts, last_error, next_attempt_at) VALUES ('w.index', 'first', 1, 'x', now() + interval '4 s')));
	write_message('w.index', 'second');
	others_go('beside one that waits');
	wait_until_drained($session, 20);
	is(join(' ', map { $_->{payload} } grep { $_->{subject} eq 'w.index' } $client->stream_messages('W')), 'first second',
		'an index of another kind is not relied upon');
	$session->value(q(DROP INDEX nats_outbox_failed; CREATE INDEX nats_outbox_failed ON nats_outbox (next_attempt_at)
		WHERE next_attempt_at IS NOT NULL AND (last_error IS NOT NULL OR attempts > 0)));
}

# ---- What all wait for

# first tokens between which others lie, in the order of bytes
{
	my $each = 1000;
	$session->value("SELECT count(nats_publish_outbox('west.' || i, 'x')), count(nats_publish_outbox('west-end.' || i, 'x')), count(nats_publish_outbox('west', 'x')) FROM generate_series(1, $each) AS i");
	wait_for('all to be tried', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts = 0') <= $each }, 60);
	# rarely
	$session->value(q(UPDATE nats_outbox SET next_attempt_at = now() + interval '1 hour' WHERE attempts > 0));
	$client->create_stream('WEST', ['west.>']);
	wait_for('those of a stream that is there', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE subject ~ '^west\.')) eq '0' }, 60);
	my $attempts = $session->value(q(SELECT sum(attempts) FROM nats_outbox WHERE subject ~ '^west-end'));
	cmp_ok($attempts, '<', 2 * $each, 'others, whose first token begins alike, are not tried for it');
	$client->create_stream('WEST_END', ['west-end.*', 'west']);
	wait_until_drained($session, 90);
	is($client->stream_info('WEST_END')->{state}{messages}, 2 * $each, 'and go when there is a stream for them');
	$client->delete_stream($_) foreach qw(WEST WEST_END);
}

# a stream that is full, and has room now and then
{
	my $lots = 2000;
	$client->create_stream('FULL', ['full.>'], max_msgs => 1, discard => 'new');
	$session->value("SELECT count(nats_publish_outbox('full.' || i, 'x')) FROM generate_series(1, $lots) AS i");
	wait_for('all to be tried', sub { $session->value('SELECT count(*) FROM nats_outbox WHERE attempts = 0') eq '0' }, 60);
	my $attempts = sub { $session->value('SELECT sum(attempts) FROM nats_outbox') };
	wait_for('all to be put off', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE next_attempt_at < now() + interval '1 min')) < $lots / 10 }, 90);
	my ($before, $seconds) = ($attempts->(), 10);
	sleep $seconds;
	# four a second, and some probes
	cmp_ok($attempts->() - $before, '<', 12 * $seconds, 'what waits for room is not tried again and again');
	$before = $attempts->();
	foreach (1 .. $seconds)
	{
		$client->purge('FULL');
		sleep 1;
	}
	cmp_ok($attempts->() - $before, '<', 40 * $seconds, '... nor where there is a little, now and then');
	$client->delete_stream('FULL');
	$client->create_stream('FULL', ['full.>']);
	wait_until_drained($session, 60);
	pass('and all go when there is room for all');
}

# One that is put off for ever, and whose time can't be mended

{
	start_again();
	$session->value('SELECT nats_relay_pause()');
	wait_for_state($session, 'paused');
	my $parked = write_message('w.parked');
	$session->value("UPDATE nats_outbox SET attempts = 1, last_error = 'X', next_attempt_at = 'infinity' WHERE id = $parked");
	$session->value(q(ALTER TABLE nats_outbox ADD CONSTRAINT refuse CHECK (subject <> 'w.parked') NOT VALID; SELECT nats_relay_resume()));
	others_go('beside one whose time can not be mended');
	like(relay_column($session, 'last_error'), qr/violates check constraint "refuse"/, 'it is told');
	$session->value('ALTER TABLE nats_outbox DROP CONSTRAINT refuse');
	wait_until_drained($session, 60);
	is(count_of('w.parked'), 1, 'it goes when it can be');
}

# Dead ones that have the id of another message

{
	start_again();
	my $later = $session->value(q(SELECT nats_publish_outbox('w.later', 'x', deliver_at => now() + interval '1 day')));
	$session->value("INSERT INTO nats_outbox_dead (id, subject, payload, msg_id, created_at, attempts, last_error, died_at)"
		. " SELECT $later, 'w.dead', 'x', 'again ' || i, now(), 3, NULL, now() FROM generate_series(1, 3) AS i");
	is($session->value('SELECT nats_outbox_retry_all()'), 3, 'dead messages of the same id are tried again');
	wait_for('them', sub { count_of('w.dead') == 3 });
	is($session->value("SELECT next_attempt_at > now() + interval '23 hours' FROM nats_outbox WHERE id = $later"), 't', 'and not what is for later under their id');
	$session->value('DELETE FROM nats_outbox');
}

is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal|TRAP/) ], [], 'nothing has crashed');
$_->close foreach $session, $other;

done_testing();
