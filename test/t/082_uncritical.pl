
# What nobody waits for, critical => false, while NATS comes and goes: it leaves acknowledgments behind that nobody has read when
# the connection ends, and is never an ERROR because NATS is away.

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
use SilentProxy;

my $BOUND = 20;

my ($nats, $client) = nats_with_stream('T', ['t.>'], storage => 'file');
my $node = publishing_node('main');

sub session { return publishing_session($node, @_); }
sub stored { my ($subject) = @_; return join ' ', map { $_->{payload} } grep { $_->{subject} eq $subject } $client->stream_messages('T'); }
sub uncritical { my ($subject, $payload) = @_; return "SELECT nats_publish_async('$subject', '$payload', critical => false) \\g /dev/null\n"; }

sub is_stored
{
	my ($subject, $expected, $what) = @_;
	eval { wait_for($expected, sub { stored($subject) eq $expected }, $BOUND); };
	is(stored($subject), $expected, $what);
	return;
}

# Publishes with critical => false so that its acknowledgment arrives when nobody looks; $hold and $release keep it back.
sub leave_behind
{
	my ($sessions, $hold, $release) = @_;
	$sessions->{$_}->value("SELECT (nats_publish('$_', 'before')).stream") foreach sort keys %$sessions;
	$hold->();
	$sessions->{$_}->value(uncritical($_, 'left')) foreach sort keys %$sessions;
	$release->();
	is_stored($_, 'before left', "$_: one message is acknowledged behind its transaction") foreach sort keys %$sessions;
	return;
}

my %calls = (
	uncritical => uncritical('%s', 'x'),
	sync => q(SELECT (nats_publish('%s', 'x')).stream),
	async => q(BEGIN; SELECT nats_publish_async('%s', 'x'); COMMIT),
	on_commit => q(SELECT nats_publish_on_commit('%s', 'x')));

# ---- The server goes while the session is idle

{
	my %sessions = map { my $call = $_; map { ("t.$call.$_" => session(url => $nats->url, auto_msg_id => $_)) } qw(on off) } keys %calls;
	my $transaction = $sessions{'t.transaction.off'} = session(url => $nats->url, auto_msg_id => 'off');
	leave_behind(\%sessions, sub { $nats->stall; }, sub { $nats->resume; });
	$transaction->value(q(BEGIN; SELECT nats_publish_async('t.transaction.off', '1', critical => false) \g /dev/null));
	is_stored('t.transaction.off', 'before left 1', 'one in a transaction that is open');
	$nats->restart(stop => 'kill9');
	$client = NatsClient->new(url => $nats->url);
	is($transaction->run(q(SELECT nats_publish_async('t.transaction.off', 'x'); COMMIT))->{error}, '', 'the transaction goes on without a warning');
	foreach my $subject (grep { !/transaction/ } sort keys %sessions)
	{
		my ($call) = $subject =~ /t\.(\w+)/;
		is($sessions{$subject}->run(sprintf $calls{$call}, $subject)->{error}, '', "$subject: the next call says nothing");
		is_stored($subject, 'before left x', 'and its message is stored at once');
		is($sessions{$subject}->run("SELECT (nats_publish('$subject', 'y')).stream")->{error}, '', 'nor does the one after it say anything');
		is(stored($subject), 'before left x y', 'each is stored once');
	}
	is(stored('t.transaction.off'), 'before left 1 x', 'the transaction: each is stored once');
}

# ---- A box forgets the connection

{
	my $box = SilentProxy->new($nats);
	my ($other, $other_client) = nats_with_stream('T', ['t.>']);
	my $session = session(url => $box->url . ',' . $other->url, ack_timeout => '60s', connect_timeout => '2s');
	my $passed;
	leave_behind({ 't.box' => $session }, sub { $box->hold('server'); $passed = $box->passed('server'); }, sub { $box->pass; });
	wait_for('the acknowledgment', sub { $box->passed('server') > $passed });
	$box->silence;
	sleep 11;	# wire/liveness.c TRUSTED_FOR
	my $result = $session->run(uncritical('t.box', 'x'));
	is($result->{error}, '', 'critical => false notices a connection that leads nowhere');
	cmp_ok($result->{seconds}, '<', 10, 'in the time of connecting, not of an acknowledgment');
	$client = $other_client;
	is_stored('t.box', 'x', 'and publishes on the next one');
}

# ---- No stream takes it yet

{
	my $session = session(url => $nats->url, ack_timeout => '60s');
	$client = NatsClient->new(url => $nats->url);
	$session->value(uncritical('u.late', 'x'));
	# not asked for meanwhile, so that no attempt is used up
	$client->create_stream('U', ['u.>']);
	my $last_of = sub { my ($stream) = @_; return $client->stream_info($stream)->{state}{last_seq}; };
	eval { wait_for('it', sub { $session->value(uncritical('t.meanwhile', 'y')); $last_of->('U') > 0 }, $BOUND); };
	is($last_of->('U'), 1, 'a message that no stream takes yet is sent again while others are published');
	is($session->value('SELECT retried, failed FROM nats_session_stats()'), '1|0', 'which is counted');
	$client->delete_stream('U');
}

# ---- One that is larger than the server takes, which is asked whether it takes more by now, and hangs

{
	my $box = SilentProxy->new($nats);
	my $session = session(url => $box->url, ack_timeout => '30s', connect_timeout => '1s');
	my $large = q(SELECT nats_publish_async('t.large', repeat('x', 1048577), critical => false) > 0);
	$session->value(q(SELECT (nats_publish('t.a', 'x')).stream));
	$box->silence;
	# the next one comes too soon after it for the connection to be looked at
	my $result = $session->run("BEGIN; SELECT nats_publish_async('t.a', 'y', critical => false); $large; COMMIT");
	is($result->{sqlstate}, '54000', 'what a server has said that does not answer counts');
	cmp_ok($result->{seconds}, '<', $BOUND, 'in the time of connecting, not of an acknowledgment');
	$box->pass;
	is(wait_for('an answer', sub { $session->sqlstate($large) }, $BOUND), '54000', 'that it is too large is one');
	is($session->value(q(SELECT (nats_publish('t.a', 'x')).stream)), 'T', 'the session goes on');
}

# ---- A message that needs a feature: whether the server, which hangs, knows it can't be found out

{
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, '{"stream":"T","seq":1}'); }, version => '"2.9.10"');
	my $box = SilentProxy->new($fake);
	my $session = session(url => $box->url, ack_timeout => '30s', connect_timeout => '1s');
	my $with_ttl = q(SELECT nats_publish_async('t.a', 'x', ttl => '1 min', critical => false) > 0);
	$session->value(q(SELECT (nats_publish('t.a', 'x')).stream));
	$box->silence;
	my $result = $session->run($with_ttl);
	is("$result->{sqlstate} $result->{output}", ' t', 'a server that does not tell its version is no ERROR');
	like($result->{error}, qr/^WARNING:  58000: .*"t\.a"/m, 'but a WARNING');
	cmp_ok($result->{seconds}, '<', $BOUND, 'in the time of connecting, not of an acknowledgment');
	is($session->value('SELECT published, failed, failed_uncritical FROM nats_session_stats()'), '2|1|1', 'counted');
	is($session->sqlstate($with_ttl), '', 'nor is the next one an ERROR');
	$box->pass;
	is(wait_for('another error', sub { $session->sqlstate($with_ttl) }, $BOUND), '0A000', 'that the server is too old is one');
	is($session->value(q(SELECT (nats_publish('t.a', 'x')).stream)), 'T', 'the session goes on');
}

done_testing;
