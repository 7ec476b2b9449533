
# Connections that are lost more than once, and what is known of the one before: it is neither taken for what is lost now nor
# told of it.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use PsqlSession;
use PublishTest;

my ($nats) = nats_with_stream('T', ['t.>']);
my $node = publishing_node('main', 'nats_publish.url' => $nats->url);
my $dir = PostgreSQL::Test::Utils::tempdir('signals');

sub session { return publishing_session($node, @_); }
sub ack { return '{"stream":"T","seq":1}'; }

# What a fake server waits for, and the test gives.
sub give { my ($name) = @_; append_to_file("$dir/$name", ''); return; }
sub await { my ($name) = @_; wait_for($name, sub { -e "$dir/$name" }); return; }

# All lines that handlers have noted.
sub noted
{
	my ($fake) = @_;
	my @lines;
	while (defined(my $line = $fake->next_event(1))) { push @lines, $line; }
	return @lines;
}

# ---- Lost again before what was pending has gone out again. Every second connection only asks for the version.

{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return if $number == 4;
			$peer->handshake(version => '"2.12.0"');
			while (my $command = $peer->next_command)
			{
				next if $command->{verb} ne 'PUB';
				if ($number == 1) { await('the first loss'); $peer->abort; }
				$peer->note($command->{payload} =~ s/x//gr);
				$peer->reply($command, ack());
			}
			return;
		});
	# more than the kernel takes, and less than max_pending_bytes
	my $session = session(url => $fake->url, auto_msg_id => 'off', commit_timeout => '30s');
	$session->value(q(BEGIN; SELECT count(nats_publish_async('t.a', lpad(i::text, 900000, 'x'), ttl => '1 h')) FROM generate_series(1, 50) i));
	give('the first loss');
	is($session->sqlstate('COMMIT'), '58030', 'what had left on the first connection is in doubt');
	my @resent = noted($fake);
	is($resent[-1], 50, 'what had not goes out on the third one');
	is("@resent", join(' ', 51 - @resent .. 50), 'in order');
}

# ---- A server that takes each connection, and does not tell its version

{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->note($number);
			return if $number % 2 == 0;
			$peer->handshake;
			1 while $peer->next_command;
			return;
		});
	my $session = session(url => $fake->url, ack_timeout => '3s', connect_timeout => '3s');
	is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', ttl => '1 h'))), '58000', 'a server that does not tell its version');
	my @connections = noted($fake);
	cmp_ok(@connections, '>', 4, 'is asked again');
	cmp_ok(@connections, '<', 30, 'less and less often');
}

# ---- A server with a lower max_payload takes over while a message waits for room

{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->handshake(max_payload => $number == 1 ? 1048576 : 100);
			while (my $command = $peer->next_command)
			{
				next if $command->{verb} ne 'PUB';
				if ($number == 1) { await('the lower limit'); $peer->close; }
				$peer->note(length $command->{payload});
				$peer->reply($command, ack());
			}
			return;
		});
	my $session = session(url => $fake->url, max_pending => 1, ack_timeout => '20s');
	$session->value(q(BEGIN; SELECT nats_publish_async('t.a', 'x') \g /dev/null));
	$session->begin(q(SELECT nats_publish_async('t.a', repeat('x', 1000))));
	$session->wait_until_waiting;
	give('the lower limit');
	is($session->finish->{sqlstate}, '54000', 'a message that is too long for the server that takes over is refused');
	is(join(' ', noted($fake)), 1, 'and not sent to it');
}

# ---- At exit, behind a server that hangs

{
	my $hung = FakeServer->answering(sub { $_[0]->{mute} = 1; });
	my $slow = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->note('read'); sleep 0.05; $peer->reply($command, ack()); });
	$node->safe_psql('postgres', sprintf(q(CREATE SERVER slow FOREIGN DATA WRAPPER nats OPTIONS (url '%s')), $slow->url));
	my $session = session(url => $hung->url, ack_timeout => '10s');
	my $log_start = -s $node->logfile;
	$session->value(q(SELECT nats_publish_async('t.hung', 'x', critical => false)));
	$session->value(q(SET nats_publish.server = 'slow'; SELECT nats_publish_async('t.slow', 'x', critical => false)));
	my $pid = $session->pid;
	$session->close;
	wait_for('the end', sub { !process_is_there($pid) });
	my $log = slurp_file($node->logfile, $log_start);
	like($log, qr/LOG: .*could not publish to "t\.hung"/, 'what the server has not answered that hangs is in the log') or diag $log;
	unlike($log, qr/could not publish .*t\.slow|2 messages/, 'and not what another one has by then');
	is($slow->next_event, 'read', 'which had got it');
}

# ---- Why something was lost or not reached is told of that alone

# Refuses the first connection, acknowledges the first message of the next one and ends it.
{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return if $number == 1;
			$peer->handshake;
			while (my $command = $peer->next_command)
			{
				next if $command->{verb} ne 'PUB';
				return $peer->leave($peer->reply_bytes($command, ack())) if $number == 2;
				$peer->reply($command, ack());
			}
			return;
		});
	my $session = session(url => $fake->url);
	my $result = $session->run(q(SELECT nats_publish_async('t.a', 'x', critical => false) \g /dev/null
		SELECT (nats_publish('t.a', 'x')).stream; SELECT nats_publish_async('t.a', 'x', critical => false) \g /dev/null
		));
	is(() = $result->{error} =~ /WARNING/g, 1, 'the pause after a failed connect ends with a good one') or diag $result->{error};
	is($session->value('SELECT published, failed FROM nats_session_stats()'), '3|1', 'the message behind it was sent');
}

# Refuses the first connection in its own words, and ends each other one for what it is sent.
{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return $peer->send("-ERR 'too many'\r\n") if $number == 1;
			$peer->handshake;
			while (my $command = $peer->next_command) { return if $command->{verb} eq 'PUB'; }
			return;
		});
	my $session = session(url => $fake->url, ack_timeout => '2s');
	like($session->error(q(SELECT nats_publish('t.a', 'x'))), qr/DETAIL: .*Unexpected protocol/, 'a connect that fails, and why');
	my $error = $session->error(q(SELECT nats_publish('t.a', 'x')));
	like($error, qr/58030: /, 'a message that is lost on later connections');
	unlike($error, qr/Unexpected protocol/, 'is not lost for that') or diag $error;
}

# Denies one message, and ends the connection much later; others are refused.
{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return if $number > 1;
			$peer->handshake;
			while (my $command = $peer->next_command)
			{
				next if $command->{verb} ne 'PUB';
				return if $command->{subject} ne 't.denied';
				$peer->send(qq(-ERR 'Permissions Violation for Publish to "t.denied"'\r\n));
			}
			return;
		});
	my $session = session(url => $fake->url, ack_timeout => '1s');
	is($session->sqlstate(q(SELECT nats_publish('t.denied', 'x'))), '42501', 'a message that is denied');
	my $error = $session->error(q(SELECT nats_publish('t.a', 'x')));
	like($error, qr/the connection was lost before an acknowledgment arrived/, 'another one, whose connection is lost');
	unlike($error, qr/Permissions/, 'is not lost for that') or diag $error;
}

# Lost for ever; then the session publishes to others.
{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return if $number > 1;
			$peer->handshake;
			while (my $command = $peer->next_command) { return if $command->{verb} eq 'PUB'; }
			return;
		});
	$node->safe_psql('postgres', sprintf(q(CREATE SERVER good FOREIGN DATA WRAPPER nats OPTIONS (url '%s')), $nats->url));
	my $session = session(url => $fake->url, ack_timeout => '500ms', connect_timeout => '500ms');
	is($session->sqlstate(q(SELECT nats_publish('t.a', 'x'))), '58030', 'a server that was lost');
	my $error = $session->error(q(SET nats_publish.url = 'nats://127.0.0.1:1'; BEGIN; SET LOCAL nats_publish.server = 'good';
		SELECT nats_publish_async('t.a', 'x') \g /dev/null
		SET LOCAL nats_publish.server = ''; SELECT nats_publish('t.a', 'x')));
	like($error, qr/58000: .*could not connect to NATS/, 'the next one, which was never reached, is not lost again') or diag $error;
}
{
	my $fake = FakeServer->answering(sub { $_[0]->close; });
	my $session = session(url => $fake->url, ack_timeout => '500ms');
	is($session->sqlstate(q(SELECT nats_publish('t.a', 'x'))), '58030', 'a server that is lost again and again');
	my $log = $session->error(sprintf q(SET client_min_messages = debug1; SET nats_publish.url = '%s'; SELECT (nats_publish('t.a', 'x')).stream), $nats->url);
	like($log, qr/nats_publish is connected to/, 'the first connection to another one is none that was made again') or diag $log;
}

# ---- An atomic batch behind messages that nobody waits for and nobody answers

# Answers only members of batches.
{
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			my ($id, $number) = @{ $command->{batch} }{qw(id number)};
			return unless defined $id;
			$peer->reply($command, $command->{batch}{commit} ? qq({"stream":"T","seq":$number,"batch":"$id","count":$number}) : '');
		},
		version => '"2.12.0"');
	my $unanswered = q(SELECT nats_publish_async('t.a', repeat('x', %d), critical => false) \g /dev/null
		);
	my $held = q(SELECT count(nats_publish_on_commit('t.a', repeat('x', 40000))) FROM generate_series(1, 3));
	my %settings = (url => $fake->url, commit_batch => 'atomic', commit_timeout => '2s');

	my $session = session(%settings, ack_timeout => '1s', max_pending_bytes => '64kB');
	$session->value(sprintf $unanswered, 100000);
	my $result = $session->run("BEGIN; $held; COMMIT");
	is($result->{sqlstate}, '', 'a batch behind a message that is larger than max_pending_bytes') or diag $result->{error};
	like($result->{error} . $session->error('SELECT nats_publish_on_commit(NULL::text, NULL)'), qr/WARNING: .*could not publish to "t\.a"/,
		'which is given up');

	# more tokens than a window spans from its first one on
	$session = session(%settings, ack_timeout => '60s');
	$session->value(sprintf $unanswered, 1);
	$session->value(q(SET nats_publish.server = 'good'; SELECT count(nats_publish_async('t.a', '')) FROM generate_series(1, 262144)));
	$result = $session->run("SET nats_publish.server = ''; BEGIN; $held; COMMIT");
	is($result->{sqlstate}, '58000', 'a batch long behind a message that is not answered') or diag $result->{error};
	like($result->{error}, qr/a message of long ago is not acknowledged/, 'why it is not sent');
	$session->value(q(SET nats_publish.ack_timeout = '100ms'));
	is($session->run("BEGIN; $held; COMMIT")->{sqlstate}, '', 'when that is given up it is');
}

done_testing;
