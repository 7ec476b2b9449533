
# What happens around the relay while it works must not make it lose a message, publish it again and again, hold up others,
# or tell what is not true of it: messages in doubt, servers that ask for patience, tables that are replaced or locked.

use strict;
use warnings FATAL => 'all';

use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('H', ['h.>']);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.ack_timeout' => '500ms',
	'nats_publish.relay_max_attempts' => 2);
my $session = PsqlSession->new($node);

sub write_message { return write_to_outbox($session, @_); }

sub publish_to { reconfigure($node, 'nats_publish.url' => $_[0]->url); return; }

sub stored
{
	my ($stream, $subject) = @_;
	return scalar grep { $_->{subject} =~ $subject } $client->stream_messages($stream);
}

# Attempts and error of a message, once it is dead.
sub dead
{
	my ($id) = @_;
	return wait_for('a message to be dead', sub { $session->value("SELECT attempts, last_error FROM nats_outbox_dead WHERE id = $id") });
}

sub is_in_doubt
{
	my ($id, $what) = @_;
	return ok(eval { wait_for('doubt', sub { outbox_column($session, 'last_error', $id) =~ /^58030: / }, 20) }, $what);
}

# ---- Messages in doubt

my $DOUBT = qr/; an earlier attempt may have stored it$/;
my $refusal = '{"error":{"code":400,"err_code":1,"description":"refused"}}';

my $losing = FakeServer->new(sub { my ($peer) = @_; $peer->handshake; while (my $command = $peer->next_command) { return if $command->{verb} eq 'PUB'; } return; });
my $refusing = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, $refusal); });
my $small = FakeServer->answering(sub { }, max_payload => 10);

# whatever comes later, and whichever process sees it
{
	publish_to($losing);
	my $id = write_message('h.size');
	is_in_doubt($id, 'a message whose acknowledgment never arrived is noted');
	$session->value("ALTER SYSTEM SET nats_publish.url = '" . $small->url . "'");
	$node->restart;
	$session = PsqlSession->new($node);
	like(dead($id), qr/^1\|58030: message is .* max_payload is 10$DOUBT/, 'when it is too large after a restart, it is dead, and may be stored');

	publish_to($losing);
	$id = write_message('h.refused');
	is_in_doubt($id, 'another one');
	publish_to($refusing);
	like(dead($id), qr/^2\|58030: refused .*$DOUBT/, 'refused as often as it may be');
	$session->value("SELECT nats_outbox_retry($id)");
	like(dead($id), qr/^2\|58030: refused .*$DOUBT/, 'it stays so when it is brought back');
	publish_to($nats);
	$session->value("SELECT nats_outbox_retry($id)");
	wait_until_drained($session);
	is(stored('H', qr/^h\.refused$/), 1, 'until it is stored');
}

# as one that was never sent does not become
{
	reconfigure($node, 'nats_publish.url' => 'nats://127.0.0.1:1');
	my $id = write_message('h.unsent');
	wait_for_state($session, 'waiting');
	publish_to($refusing);
	like(dead($id), qr/^2\|38000: refused \(JetStream error 1\)$/, 'a message that was not sent is not in doubt');
}

# in one delivery
{
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command, $number) = @_;
			$peer->close if $number == 1;
			$peer->reply($command, $refusal);
		});
	publish_to($fake);
	like(dead(write_message('h.resent')), qr/^2\|58030: refused .*$DOUBT/, 'a message that was lost, and then refused each time, is dead and in doubt');
}

# and when the relay's wait is cancelled
{
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			return $peer->reply($command, '{"stream":"H","seq":1}') if $command->{subject} eq 'h.answered';
			$peer->note($command->{subject});
			return $peer->hold;
		});
	reconfigure($node, 'nats_publish.url' => $fake->url, 'nats_publish.ack_timeout' => '1min');
	my ($answered, $id) = split /\n/, $session->value(q(BEGIN; SELECT nats_publish_outbox('h.answered', 'x'); SELECT nats_publish_outbox('h.cancelled', 'x'); COMMIT));
	is($fake->next_event, 'h.cancelled', 'a message is on its way');
	reconfigure($node, 'nats_publish.url' => $small->url, 'nats_publish.ack_timeout' => undef);
	$session->value('SELECT pg_cancel_backend(' . relay_pid($session) . ')');
	like(dead($id), qr/^1\|58030: message is .*$DOUBT/, 'one that was on its way when the relay was cancelled may be stored');
	is($session->value("SELECT count(*) FROM nats_outbox_messages WHERE id = $answered"), '0', 'one that was answered is not published again');
	reconfigure($node, 'nats_publish.ack_timeout' => '500ms');
}
$session->value('TRUNCATE nats_outbox_dead');

# ---- A server that asks for patience, and not just once

{
	my $busy = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, '{"error":{"code":429,"err_code":10167,"description":"too many requests"}}'); });
	publish_to($busy);
	my $id = write_message('h.busy');
	ok(eval { wait_for('more attempts than are allowed', sub { (outbox_column($session, 'attempts', $id) || 0) > 2 }, 30) }, 'too many requests: the message waits')
		or diag(dead($id));
	like(outbox_column($session, 'last_error', $id), qr/^53000: too many requests/, 'as it tells');
	publish_to($nats);
	$session->value('SELECT nats_outbox_retry_all()');
	wait_until_drained($session);
	is(stored('H', qr/^h\.busy$/), 1, 'until it is taken');
}

# ---- A subject that is too long for an index

{
	my $long = 'nowhere.' . join '', map { ('a' .. 'z', 'A' .. 'Z', 0 .. 9, '_', '-')[ rand 64 ] } 1 .. 3900;
	my $id = write_message($long);
	write_message('h.beside');
	ok(eval { wait_for('other messages', sub { $session->value(q(SELECT count(*) FROM nats_outbox WHERE subject = 'h.beside')) eq '0' }, 20) },
		'a message with a long subject that nobody takes does not hold up others')
		or diag(relay_column($session, 'last_error'));
	# what is stored is written down first
	ok(eval { wait_for('its refusal', sub { outbox_column($session, 'attempts > 0 AND last_error LIKE $$42704: %$$', $id) eq 't' }) }, 'it waits');
	write_message($long);
	$session->value("INSERT INTO nats_outbox_dead (id, subject, msg_id, created_at, attempts) VALUES (1000000, '$long', 'dead', now(), 1)");
	is($session->run('SELECT nats_outbox_retry_all()')->{output}, '2', 'is tried again when it is told to, as is one that was dead');
	wait_for('attempts', sub { $session->value('SELECT string_agg((attempts > 0)::text, $$ $$ ORDER BY id) FROM nats_outbox') eq 'true false false' });
	pass('and holds up those of its subject');
	$session->value('DELETE FROM nats_outbox');
}

# ---- Another table, in which the ids begin anew, while messages are on their way

reconfigure($node, 'nats_publish.ack_timeout' => '20s');
foreach my $how ('DROP EXTENSION nats_publish; CREATE EXTENSION nats_publish', 'TRUNCATE nats_outbox RESTART IDENTITY')
{
	my ($name) = $how =~ /^(\w+)/;
	my $write_many = sub { $session->value("SELECT count(nats_publish_outbox('h.$name.$_[0].' || i, 'x')) FROM generate_series(1, 10) i") };
	$session->value('TRUNCATE nats_outbox RESTART IDENTITY');
	$nats->stall;
	$write_many->('old');
	wait_for_state($session, 'publishing');
	$session->value($how);
	$write_many->('new');
	is($session->value('SELECT min(id), max(id) FROM nats_outbox'), '1|10', "$name: other messages have the ids of those on their way");
	$nats->resume;
	wait_until_drained($session);
	is(stored('H', qr/^h\.$name\.new/), 10, 'and are published');
}
reconfigure($node, 'nats_publish.ack_timeout' => '500ms');

# ---- A table that is locked for longer than lock_timeout, and than the stream knows ids

{
	my $other = PsqlSession->new($node);
	my $old = relay_pid($session);
	$client->create_stream('D', ['d.>'], duplicate_window => 200_000_000);
	$session->value(q(SELECT nats_relay_pause(); ALTER DATABASE postgres SET lock_timeout = '100ms'));
	my $transaction_timeout = $session->value(q(SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout')) eq '1';
	$session->value(q(ALTER DATABASE postgres SET transaction_timeout = '300ms')) if $transaction_timeout;
	$session->value("SELECT pg_terminate_backend($old)");
	wait_for('another worker', sub { relay_column($session, "state = 'paused' AND pid <> $old") eq 't' });
	my $new = relay_pid($session);
	write_message('d.locked');
	$other->value('BEGIN; LOCK TABLE nats_outbox IN SHARE MODE');
	$session->value('SELECT nats_relay_resume()');
	wait_for('the message', sub { stored('D', qr/^d\.locked$/) });
	sleep 2;
	$other->value('COMMIT');
	wait_until_drained($session);
	is(stored('D', qr/^d\.locked$/), 1, 'a message is stored once, however long it takes until it can be deleted');
	is(relay_pid($session), $new, 'by the same worker');
	$session->value('ALTER DATABASE postgres RESET lock_timeout');
	$session->value('ALTER DATABASE postgres RESET transaction_timeout') if $transaction_timeout;
}

# ---- A result that can't be written down

{
	publish_to($small);
	my $offset = log_length($node);
	$session->value(q(CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not here'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON nats_outbox_dead FOR EACH ROW EXECUTE FUNCTION refuse()));
	my $id = $session->value(q(SELECT nats_publish_outbox('h.large', repeat('x', 100))));
	sleep 3;
	is_deeply([ log_lines($node, $offset, qr/publishes again/) ], [], 'while what became of a message cannot be written down, the relay is not well');
	like(relay_column($session, 'last_error'), qr/not here/, 'as it tells');
	$session->value('DROP TRIGGER refuse ON nats_outbox_dead');
	reconfigure($node, 'nats_publish.ack_timeout' => '501ms');
	like(dead($id), qr/^1\|54000: /, 'and then it can be');
	publish_to($nats);
}

# ---- As many databases as there can be, of which one is replaced

{
	publishing_database($node, 'last');
	my $offset = log_length($node);
	reconfigure($node, 'nats_publish.relay_databases' => join ', ', 'postgres', map { "absent_$_" } 1 .. 63);
	wait_for('all', sub { $session->value(q(SELECT count(*) FROM nats_relay WHERE state = 'no database')) eq '63' });
	reconfigure($node, 'nats_publish.relay_databases' => join ', ', 'postgres', 'last', map { "absent_$_" } 1 .. 62);
	ok(eval { wait_for('the relay', sub { relay_column($session, 'pid', 'last') =~ /\d/ }, 30) }, 'a database that takes the place of another one has a relay');
	is_deeply([ log_lines($node, $offset, qr/more than/) ], [], 'and there are not too many');
	reconfigure($node, 'nats_publish.relay_databases' => join ', ', 'postgres', map { "absent_$_" } 1 .. 64);
	ok(wait_for('a line', sub { log_lines($node, $offset, qr/more than 64 databases: none is relayed for "absent_64"/) == 1 }), 'unless there are');
	sleep 6;    # longer than the launcher sleeps
	is(scalar(log_lines($node, $offset, qr/more than/)), 1, 'which is one line');
}

# ---- A trigger of the outbox that publishes: what the relay executes for others publishes nothing. What is stored stays, and
# is not published again.

{
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
	my $pid = wait_for('the relay', sub { relay_pid($session) });
	$session->value(q(SELECT nats_publish_table('nats_outbox', 'h.deleted.{id}', events => '{delete}', columns => '{id}', key => '{id}')));
	my $offset = log_length($node);
	$session->value(q(INSERT INTO nats_outbox (subject, payload) SELECT 'h.row.' || i, 'x' FROM generate_series(1, 20) AS i));
	ok(wait_for('a refusal', sub { relay_column($session, 'last_error') =~ /within security-restricted operation/ }), 'a trigger that publishes what is deleted from the outbox is refused');
	foreach (1, 2)
	{
		my $before = relay_column($session, 'last_error_at');
		wait_for('another one', sub { relay_column($session, 'last_error_at') ne $before });
	}
	is($session->value('SELECT count(*) FROM nats_outbox'), '20', 'nothing can be deleted');
	$session->value(q(SELECT nats_unpublish_table('nats_outbox')));
	wait_until_drained($session);
	my @subjects = map { $_->{subject} } $client->stream_messages('H');
	is(scalar(grep { /^h\.row\./ } @subjects), 20, 'each row is stored');
	is(relay_pid($session), $pid, 'by the same worker');
}

is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal/) ], [], 'nothing has crashed');

done_testing();
