
# When NATS was away for long, all messages of the WAL are in the table, and later ones wait until they have left it; but not
# for one that can't leave it, nor for those behind it. It is each time the one bad subject alone that waits: wal_divert_after is an
# hour by then, and whoever waits for what does not leave waits for ever.

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

my ($nats, $client) = nats_with_stream('D', ['d.>'], storage => 'file');
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.ack_timeout' => '60s',
	'nats_publish.outbox_storage' => 'wal',
	wal_level => 'logical',
	log_statement => 'none');
my $session = PsqlSession->new($node);
$session->value('SELECT nats_wal_enable()');
wait_for('a relay of the WAL', sub { $session->value(q(SELECT state FROM nats_wal_relay)) eq 'idle' });

sub write_message
{
	my ($subject, $payload) = @_;
	return $session->value("SELECT nats_publish_outbox('$subject', '$payload')");
}

sub payloads
{
	my ($subject, $stream) = @_;
	return join ' ', map { $_->{payload} } grep { $_->{subject} eq $subject } NatsClient->new(url => $nats->url)->consume($stream // 'D');
}

sub in_table { return $session->value(q(SELECT string_agg(subject || ' ' || convert_from(payload, 'UTF8'), ', ' ORDER BY id) FROM nats_outbox)); }

# While NATS is away, messages are written, and moved; each is a subject and a payload.
sub outage
{
	my (@messages) = @_;
	reconfigure($node, 'nats_publish.wal_divert_after' => '500ms');
	$nats->kill9;
	write_message(@$_) foreach @messages;
	wait_for('messages to be moved', sub { $session->value('SELECT count(*) FROM nats_outbox') >= @messages });
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h');
	return;
}

# It is published from the WAL and not through the table, which what was there before goes through.
sub goes_by_itself
{
	my ($what, $subject) = @_;
	wait_for("$what: a message of another subject", sub {
		my ($given, $before) = map { $session->value($_) } 'SELECT last_value FROM nats_outbox_id_seq', 'SELECT gen_random_uuid()';
		write_message($subject, $before);
		wait_for('it', sub { payloads($subject) =~ /$before/ });
		return $given == $session->value('SELECT last_value FROM nats_outbox_id_seq');
	});
	pass("$what: others go on, and by themselves");
	return;
}

# One that the stream refuses waits in the table: the next one of its subject must not go before it.
my $REFUSED = q('{"Nats-Expected-Stream": "OTHER"}');

sub is_followed
{
	my ($what, $subject) = @_;
	goes_by_itself($what, 'd.c');
	write_message($subject, '2');
	wait_for('the next one', sub { in_table() =~ /\Q$subject\E 2/ || payloads($subject) ne '' });
	is(payloads($subject), '', "$what: the next one waits for it");
	$session->value('UPDATE nats_outbox SET headers = NULL');
	$session->value('SELECT nats_outbox_retry_all()');
	wait_until_drained($session);
	is(payloads($subject), '1 2', 'and goes behind it');
	return;
}

write_message('d.a', 'before');
wait_for('the message', sub { payloads('d.a') eq 'before' });

# No stream takes it

outage([ 'd.a', '1' ], [ 'late.x', '1' ], [ 'd.a', '2' ], [ 'late.x', '2' ], [ 'd.b', '1' ]);
$nats->start;
goes_by_itself('a stream is missing', 'd.c');
goes_by_itself('and those of a subject of which all was well, too', 'd.a');
like(payloads('d.a'), qr/^before 1 2 /, 'in order');
write_message('late.x', '3');
wait_for('it to be moved', sub { in_table() =~ /late\.x 3/ });
is(in_table(), 'late.x 1, late.x 2, late.x 3', 'the others follow each other');
$client = NatsClient->new(url => $nats->url);
$client->create_stream('LATE', ['late.>'], storage => 'file');
wait_until_drained($session);
write_message('late.x', '4');
wait_for('all', sub { payloads('late.x', 'LATE') =~ /4/ });
is(payloads('late.x', 'LATE'), '1 2 3 4', 'and are in order when there is one');

# Somebody has locked it

{
	my $holder = PsqlSession->new($node);
	outage([ 'd.locked', '1' ], [ 'd.a', '3' ]);
	$holder->value(q(BEGIN; SELECT FROM nats_outbox WHERE subject = 'd.locked' FOR UPDATE));
	$nats->start;
	goes_by_itself('a row is locked', 'd.c');
	# what is locked is stored, and remains for as long as that
	write_message('d.locked', '2');
	wait_for('the one behind it', sub { payloads('d.locked') =~ /2/ });
	ok(wait_for('it alone', sub { in_table() eq 'd.locked 1' }), 'which is so');
	$holder->close;
	wait_until_drained($session);
	write_message('d.locked', '3');
	wait_for('all', sub { payloads('d.locked') =~ /3/ });
	is(payloads('d.locked'), '1 2 3', 'those behind it follow it');
}

# Nobody answers: it is on its way for as long as ack_timeout

{
	my $listener = NatsClient->new(url => $nats->url);
	outage([ 'silent.x', '1' ], [ 'd.a', '4' ]);
	$nats->start;
	$listener = NatsClient->new(url => $nats->url);
	$listener->subscribe('silent.>');
	goes_by_itself('nobody answers', 'd.c');
	ok(wait_for('it alone', sub { in_table() eq 'silent.x 1' }), 'which is so');
	$session->value(q(DELETE FROM nats_outbox));
}

# A busy subject finds its way back, though there is always one more of it in the table

{
	write_message('late.y', '0');
	wait_for('one', sub { payloads('late.y', 'LATE') eq '0' });
	$client = NatsClient->new(url => $nats->url);
	$client->delete_stream('LATE');
	my $writer = PsqlSession->new($node, settings => { 'nats_publish.outbox_storage' => 'wal' });
	$session->value('CREATE SEQUENCE numbers');
	$writer->begin(q(DO $$ BEGIN WHILE pg_try_advisory_xact_lock(1) LOOP PERFORM nats_publish_outbox('late.y', nextval('numbers')::text);
		COMMIT; PERFORM pg_sleep(0.001); END LOOP; END $$));
	wait_for('the subject to be in the table', sub { $session->value('SELECT count(*) FROM nats_outbox') > 100 });
	$client->create_stream('LATE', ['late.>'], storage => 'file');
	# what is written from here on is stored, and nothing has been given an id of the table
	wait_for('the way by the table to be left', sub {
		my ($given, $number) = map { $session->value("SELECT last_value FROM $_") } 'nats_outbox_id_seq', 'numbers';
		wait_for('a later one', sub { my $last = $client->stream_info('LATE')->{state}{last_seq}; $last && $client->get_message('LATE', $last)->{payload} > $number });
		return $given == $session->value('SELECT last_value FROM nats_outbox_id_seq');
	}, 180);
	$session->value('SELECT pg_advisory_lock(1)');
	is($writer->finish->{error}, '', 'while it is written');
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' });
	my @numbers = split / /, payloads('late.y', 'LATE');
	is(scalar(grep { $numbers[$_] <= $numbers[ $_ - 1 ] } 1 .. $#numbers), 0, 'a busy subject leaves the table, in its order');
	is($numbers[-1] - $numbers[0] + 1, @numbers, 'and none is missing');
}

# Too much WAL is behind, and it does not get less: what is decoded while all is moved is moved, too, and not left in hand. Out of
# order, so that nothing of it waits until the table is empty; and by a few at a time, so that much of it is left.

{
	my $count = 600;
	my @settings = map { "nats_publish.$_" } qw(wal_divert_size relay_ordering max_pending);
	reconfigure($node, $settings[0] => '16MB', $settings[1] => 'relaxed', $settings[2] => '4');
	my $relay = $session->value(q(SELECT pid FROM nats_wal_relay));
	kill('STOP', $relay) == 1 or die "no relay to stop: $!";
	$session->value("SELECT count(nats_publish_outbox('d.large', i || repeat(' ', 30000))) FROM generate_series($_ * $count + 1, $_ * $count + $count) i")
		foreach 0, 1;
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	my $offset = log_length($node);
	# nothing of the first one is answered until it is decoded: else little of it may be left by then
	$nats->stall;
	kill('CONT', $relay) == 1 or die "no relay to continue: $!";
	wait_for('it to be too much for long', sub { log_lines($node, $offset, qr/moves messages to nats_outbox/) });
	$nats->resume;
	wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' });
	wait_until_drained($session);
	is_deeply([ sort { $a <=> $b } split ' ', payloads('d.large') ], [ 1 .. 2 * $count ], 'each is there once');
	reconfigure($node, map { $_ => undef } @settings);
	goes_by_itself('it has caught up', 'd.c');
}

# What was moved leaves the table slowly: the WAL waits for that, and is not moved again meanwhile.

{
	my $count = 700;
	outage(map { [ 'd.slow', $_ ] } 1 .. $count);
	$session->value(q(CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END $$;
		CREATE TRIGGER slowly AFTER DELETE ON nats_outbox FOR EACH ROW EXECUTE FUNCTION slowly()));
	# longer than the relay of the table may take to come back, and shorter than it then takes
	reconfigure($node, 'nats_publish.wal_divert_after' => '6s', 'nats_publish.relay_batch_size' => '10');
	my $offset = log_length($node);
	$nats->start;
	my $end = time + 60;
	while ($session->value('SELECT count(*) FROM nats_outbox') ne '0' && time < $end)
	{
		write_message('d.slow', ++$count);
		sleep 0.1;
	}
	$session->value('DROP TRIGGER slowly ON nats_outbox; DROP FUNCTION slowly');
	is(scalar(log_lines($node, $offset, qr/moves messages to nats_outbox/)), 0, 'the WAL waits for the table, and is not moved to it again');
	wait_until_drained($session);
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' });
	is(payloads('d.slow'), join(' ', 1 .. $count), 'all is in order');
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h', 'nats_publish.relay_batch_size' => undef);
}

# A worker that was not there for a while has much WAL behind it, and publishes that, as NATS is there.

{
	my $count = 600;
	reconfigure($node, 'nats_publish.wal_divert_size' => '16MB');
	my $relay = $session->value(q(SELECT pid FROM nats_wal_relay));
	kill('STOP', $relay) == 1 or die "no relay to stop: $!";
	$session->value("SELECT count(nats_publish_outbox('d.behind', i || repeat(' ', 30000))) FROM generate_series($_ * $count + 1, $_ * $count + $count) i")
		foreach 0, 1;
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	my $diverted = $session->value('SELECT diverted FROM nats_wal_relay');
	kill('CONT', $relay) == 1 or die "no relay to continue: $!";
	wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' });
	is($session->value('SELECT diverted FROM nats_wal_relay'), $diverted, 'nothing of it is moved');
	is(scalar(split ' ', payloads('d.behind')), 2 * $count, 'all is published');
	reconfigure($node, 'nats_publish.wal_divert_size' => undef);
}

# NATS is there again, and there is more to be moved: writers could go on writing as much as can be moved.

{
	my $count = 6000;
	$session->value(q(CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.004); RETURN new; END $$;
		CREATE TRIGGER slowly BEFORE INSERT ON nats_outbox FOR EACH ROW EXECUTE FUNCTION slowly()));
	reconfigure($node, 'nats_publish.wal_divert_after' => '500ms', 'nats_publish.relay_ordering' => 'relaxed');
	my $diverted = $session->value('SELECT diverted FROM nats_wal_relay');
	$nats->kill9;
	$session->value("SELECT count(nats_publish_outbox('d.more', i::text)) FROM generate_series(1, $count) i");
	wait_for('it to be moved', sub { $session->value('SELECT state FROM nats_wal_relay') eq 'diverting' });
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h');
	$nats->start;
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' });
	cmp_ok($session->value('SELECT diverted FROM nats_wal_relay') - $diverted, '<', $count, 'it is not all moved before NATS is looked for');
	wait_until_drained($session);
	my %there = map { $_ => 1 } split ' ', payloads('d.more');
	is(scalar(keys %there), $count, 'and all is published');
	$session->value('DROP TRIGGER slowly ON nats_outbox');
	reconfigure($node, 'nats_publish.relay_ordering' => undef);
}

# What the table does not take for a while is not dead; what it never takes is

{
	$session->value(q(CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON nats_outbox FOR EACH ROW WHEN (new.subject = 'd.forbidden') EXECUTE FUNCTION refuse()));
	my $holder = PsqlSession->new($node);
	$holder->value('BEGIN; LOCK TABLE nats_outbox IN SHARE MODE');
	reconfigure($node, 'nats_publish.wal_divert_after' => '500ms');
	$nats->kill9;
	write_message(@$_) foreach [ 'd.busy', '1' ], [ 'd.forbidden', '1' ], [ 'd.busy', '2' ];
	wait_for('an attempt to move them', sub { $session->value(q(SELECT count(*) FROM pg_locks WHERE relation = 'nats_outbox'::regclass AND NOT granted)) > 0 });
	# and another one
	sleep 2;
	write_message('d.busy', '3');
	$holder->close;
	wait_for('them to be moved', sub { in_table() eq 'd.busy 1, d.busy 2, d.busy 3' });
	pass('what could not be moved for a lock is moved when that is gone');
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h');
	is($session->value(q(DELETE FROM nats_outbox_dead RETURNING subject || ' ' || last_error)), 'd.forbidden 22000: P0001: not this one',
		'what the table refuses for itself is dead, with the reason');
	$session->value('DROP TRIGGER refuse ON nats_outbox; DROP FUNCTION refuse()');
	$nats->start;
	goes_by_itself('the table was locked', 'd.c');
	is(payloads('d.busy'), '1 2 3', 'in order');
}

# There are too many subjects to know each one: also when the last one of all has left, one that has not is known

{
	reconfigure($node, 'nats_publish.wal_divert_after' => '500ms');
	$nats->kill9;
	$session->value(q(SELECT count(nats_publish_outbox('d.many.' || i, '1')) FROM generate_series(1, 10001) i));
	$session->value("SELECT nats_publish_outbox('d.refused', '1', $REFUSED)");
	write_message('d.last', '1');
	wait_for('messages to be moved', sub { $session->value('SELECT count(*) FROM nats_outbox') == 10003 });
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h');
	$nats->start;
	wait_for('but one to leave the table', sub { in_table() eq 'd.refused 1' });
	is_followed('of many subjects', 'd.refused');
}

# Order is not asked for, and then it is

{
	reconfigure($node, 'nats_publish.relay_ordering' => 'relaxed');
	$session->value("SELECT nats_publish_outbox('d.relaxed', '1', $REFUSED)");
	wait_for('it to be moved', sub { in_table() eq 'd.relaxed 1' });
	reconfigure($node, 'nats_publish.relay_ordering' => undef);
	is_followed('moved out of order', 'd.relaxed');
}

# The table is locked: what is to be moved to it waits for that, and nothing else does

{
	goes_by_itself('nothing is in the table', 'd.c');
	my $holder = PsqlSession->new($node);
	$holder->value('BEGIN; LOCK TABLE nats_outbox IN ACCESS EXCLUSIVE MODE');
	$session->value("SELECT nats_publish_outbox('d.refused', '2', $REFUSED)");
	# a pause after each would be twice as long as the last one
	my $failed = '';
	wait_for('an attempt to move it', sub {
		my $last = $failed;
		$failed = $session->value('SELECT last_error_at FROM nats_wal_relay');
		return $failed ne $last;
	}) foreach 1 .. 7;
	my $published = $session->value('SELECT published FROM nats_wal_relay');
	my $begun = time;
	write_message('d.c', 'locked');
	wait_for('a message', sub { $session->value('SELECT published FROM nats_wal_relay') > $published });
	cmp_ok(time - $begun, '<', 3, 'others are published while the table is locked');
	$holder->close;
	wait_for('it to be moved', sub { in_table() eq 'd.refused 2' });
	$session->value('DELETE FROM nats_outbox');
}

# Another server is to be published to, and there is no answer of the last one yet

{
	my $other = NatsServer->new(jetstream => 1)->start;
	NatsClient->new(url => $other->url)->create_stream('D', ['d.>'], storage => 'file');
	reconfigure($node, 'nats_publish.relay_ordering' => 'relaxed');
	goes_by_itself('out of order', 'd.c');
	$nats->stall;
	write_message('d.here', '1');
	wait_for('it to be on its way', sub { $session->value('SELECT queued FROM nats_wal_relay') == 1 });
	reconfigure($node, 'nats_publish.url' => $other->url);
	write_message('d.there', $_) foreach 1 .. 5;
	wait_for('them to be read', sub { $session->value('SELECT queued FROM nats_wal_relay') == 6 });
	my $pid = $session->value('SELECT pid FROM nats_wal_relay');
	my $ticks = process_ticks($pid);
	sleep 2;
	cmp_ok(process_ticks($pid) - $ticks, '<', 50, 'it waits for that, and sleeps');
	$nats->resume;
	wait_for('all', sub { $session->value('SELECT queued FROM nats_wal_relay') == 0 });
	is(payloads('d.here'), '1', 'what was on its way is there');
	is(scalar(grep { $_->{subject} eq 'd.there' } NatsClient->new(url => $other->url)->consume('D')), 5, 'and the others elsewhere');
	reconfigure($node, 'nats_publish.url' => $nats->url, 'nats_publish.relay_ordering' => undef);
	goes_by_itself('back again', 'd.c');
}

is($session->value('SELECT count(*) FROM nats_outbox_dead'), 0, 'none is dead');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP/, 'nothing has crashed');

# What an administrator's trigger waits for in vain is not the message's fault

{
	$session->value(q(CREATE TABLE audit (id bigint);
		CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit VALUES (NEW.id); RETURN NEW; END';
		CREATE TRIGGER audit BEFORE INSERT ON nats_outbox FOR EACH ROW EXECUTE FUNCTION audit()));
	my $dead = $session->value('SELECT count(*) FROM nats_outbox_dead');
	my $locker = PsqlSession->new($node);
	$locker->value('BEGIN; LOCK TABLE audit');
	write_message('nowhere.held', 'held');
	sleep 2;
	$locker->value('COMMIT');
	wait_for('the message to be moved', sub { $session->value('SELECT count(*) FROM audit') > 0 || $session->value('SELECT count(*) FROM nats_outbox_dead') > $dead });
	like(in_table(), qr/nowhere\.held held/, 'a message is moved once a lock is gone');
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), $dead, 'and is not dead');
}

# Nor does nats_outbox_dead take all that is dead, for its triggers: that waits in nats_outbox, is not tried again, and holds up nothing else

{
	$session->value('DELETE FROM nats_outbox; DELETE FROM nats_outbox_dead; DROP TRIGGER audit ON nats_outbox');
	$session->value(q(CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('dead', row_to_json(NEW)::text); RETURN NULL; END $$;
		CREATE TRIGGER tell AFTER INSERT ON nats_outbox_dead FOR EACH ROW EXECUTE FUNCTION tell();
		CREATE TYPE bad AS ENUM ('x');
		CREATE FUNCTION bad_json(bad) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'bad'; END $$;
		CREATE CAST (bad AS json) WITH FUNCTION bad_json(bad);
		CREATE TABLE t (k text PRIMARY KEY, v bad);
		SELECT nats_publish_table('t', subject => 'd.change', delivery => 'wal')));
	$session->value(q(SELECT nats_publish_outbox('d.large', repeat('x', 1100000))));
	$session->value(q(INSERT INTO t VALUES (repeat('x', 9000), 'x')));
	ok(eval { wait_for('an error', sub { $session->value('SELECT last_error FROM nats_wal_relay') =~ /nats_outbox_dead does not take a message: 22023: payload string too long/ }, 20) },
		'that nats_outbox_dead does not take a message is seen');
	write_message('nowhere.other', '1');
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	ok(eval { wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' }, 20) }, 'what is dead, and can not be buried, holds up nothing');
	my $rows = q(SELECT string_agg(subject || ' ' || substr(last_error, 1, 54), ', ' ORDER BY id) FROM nats_outbox WHERE subject LIKE 'd.%');
	my $unburied = '22000: dead, but not taken by nats_outbox_dead: ';
	is($session->value($rows), "d.large ${unburied}54000:, d.change ${unburied}P0001:", 'it waits, with its error');
	my $tried = $session->value('SELECT last_error_at FROM nats_relay');
	is($session->value('SELECT nats_outbox_retry_all()'), 3, 'it is tried again');
	wait_for('an attempt', sub { $session->value('SELECT last_error_at FROM nats_relay') ne $tried });
	wait_for('it to be put off', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE next_attempt_at > now() + interval '3 seconds')) == 2 });
	is($session->value($rows), "d.large ${unburied}54000:, d.change ${unburied}P0001:", 'and waits again');
	$session->value(q(DROP TRIGGER tell ON nats_outbox_dead; SELECT nats_outbox_retry_all()));
	wait_for('both to be buried', sub { $session->value(q(SELECT count(*) FROM nats_outbox_dead)) == 2 });
	is($session->value(q(SELECT string_agg(subject || ' ' || left(last_error, 5), ', ' ORDER BY id) FROM nats_outbox_dead)), 'd.large 54000, d.change P0001', 'until it can be buried');
	is(payloads('d.change'), '', 'it is not published');
}

# Neither table takes it

{
	$session->value(q(CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON nats_outbox FOR EACH ROW WHEN (new.subject = 'nowhere.forbidden') EXECUTE FUNCTION refuse();
		CREATE TRIGGER refuse BEFORE INSERT ON nats_outbox_dead FOR EACH ROW EXECUTE FUNCTION refuse();
		DELETE FROM nats_outbox; DELETE FROM nats_outbox_dead));
	write_message('nowhere.forbidden', '1');
	write_message('nowhere.other', '2');
	ok(eval { wait_for('the other one', sub { in_table() eq 'nowhere.other 2' }, 20) }, 'another one is moved');
	my $pid = $session->value('SELECT pid FROM nats_wal_relay');
	my $ticks = process_ticks($pid);
	sleep 2;
	cmp_ok(process_ticks($pid) - $ticks, '<', 50, 'and it is tried now and then');

	# though it keeps the WAL
	my $moves = sub { scalar(log_lines($node, 0, qr/moves messages to nats_outbox/)) };
	my $before = $moves->();
	reconfigure($node, 'nats_publish.wal_divert_after' => '500ms');
	goes_by_itself('beside it', 'd.c');
	sleep 2;
	goes_by_itself('a while later', 'd.c');
	is($moves->(), $before, 'nothing else is moved for it');
	# nothing was wrong with these when they were moved
	$nats->kill9;
	write_message(@$_) foreach [ 'nowhere.forbidden', '2' ], [ 'd.d', '1' ];
	wait_for('them to be moved', sub { in_table() =~ /d\.d 1/ });
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h');
	$nats->start;
	goes_by_itself('beside another one', 'd.c');
	goes_by_itself('and of the subject of what was moved', 'd.d');
	like(payloads('d.d'), qr/^1 /, 'in order');
	# nor are many of them in the way of others
	my $lots = 3000;
	$session->value("SELECT count(nats_publish_outbox('nowhere.forbidden', i::text)) FROM generate_series(1, $lots) AS i");
	sleep 3;
	write_message('nowhere.third', '3');
	ok(eval { wait_for('one behind many', sub { in_table() =~ /nowhere\.third 3/ }, 30) }, 'another one is moved behind many that no table takes');
	goes_by_itself('beside many', 'd.c');
	sleep 3;
	my $id = $session->value('SELECT pg_current_xact_id()::text::bigint');
	sleep 5;
	cmp_ok($session->value('SELECT pg_current_xact_id()::text::bigint') - $id, '<', $lots, '... which take few transaction ids');
	$session->value(q(DROP TRIGGER refuse ON nats_outbox_dead));
	wait_for('them to be buried', sub { $session->value(q(SELECT count(*) FROM nats_outbox_dead WHERE last_error ~ '^22000: P0001')) == $lots + 2 }, 120);
	my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
	wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' });
	pass('until one does');
}

# An error that is over the next time is waited for; but a row's trigger can raise it each time, and that keeps others for half a minute

{
	$session->value(q(DELETE FROM nats_outbox; DELETE FROM nats_outbox_dead; DROP TRIGGER refuse ON nats_outbox;
		CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'each time' USING ERRCODE = split_part(NEW.subject, '.', 2); END $$;
		CREATE TRIGGER raise BEFORE INSERT ON nats_outbox FOR EACH ROW WHEN (NEW.subject LIKE 'nowhere._____') EXECUTE FUNCTION raise()));
	my @states = qw(40001 53400 57014 58030 55P03 57P03);
	write_message("nowhere.$_", '1') foreach @states;
	write_message('nowhere.behind', '1');
	wait_for('an error', sub { $session->value('SELECT last_error FROM nats_wal_relay') =~ /each time/ });
	is($session->value('SELECT count(*) FROM nats_outbox_dead'), 0, 'what can be over the next time is tried again');
	goes_by_itself('beside it', 'd.c');
	wait_for('what is behind', sub { in_table() eq 'nowhere.behind 1' }, 120);
	is($session->value(q(SELECT string_agg(last_error, ', ' ORDER BY id) FROM nats_outbox_dead)), join(', ', map { "22000: $_: each time" } @states),
		'what is raised each time is the fault of the message');
	write_message("nowhere.40001", '2');
	my $begun = time;
	wait_for('one more', sub { $session->value('SELECT count(*) FROM nats_outbox_dead') > @states });
	cmp_ok(time - $begun, '<', 20, 'that is not waited for as long once more');
	$session->value('DROP TRIGGER raise ON nats_outbox');
}

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP/, 'nothing has crashed here');
done_testing();
