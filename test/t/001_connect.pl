
# Connecting: to servers that are down, silent, strange or closed to us, and to one that was restarted.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;

# A wait that must end at its own timeout ends long before this.
my $BOUND = 20;

my ($nats) = nats_with_stream('T', ['t.>'], storage => 'file');
my $node = publishing_node('main', 'nats_publish.url' => $nats->url);

my $PUBLISH = q(SELECT (nats_publish('t.a', 'x')).stream);

# A session with the URL in the connection: PostgreSQL would log it as a part of a SET.
sub session_to
{
	my ($url, %settings) = @_;
	return PsqlSession->new($node, settings => { 'nats_publish.url' => $url, %settings });
}

# Nobody there

my $nobody = 'nats://127.0.0.1:' . free_port();
my $result = session_to("$nobody, nats://alice:s3cret\@127.0.0.1:" . free_port() . ', t0ken@localhost:' . free_port())
	->run($PUBLISH);
is($result->{sqlstate}, '58000', 'no server: cannot connect');
like($result->{error}, qr/^ERROR: .*could not connect to NATS/m, 'and it says so');
like($result->{error}, qr{\Q$nobody\E: .*\n.*nats://127\.0\.0\.1:\d+: .*\n.*nats://localhost:\d+: .}, 'for each URL');
unlike($result->{error}, qr/alice|s3cret|t0ken/, 'without credentials');
like($result->{error}, qr/^HINT: .*nats_publish\.url/m, 'and a hint at the setting');

$result = session_to($nobody)->run(q(SELECT nats_publish_async('t.a', 'x')));
is($result->{sqlstate}, '58000', 'nats_publish_async() needs a connection too');
$result = session_to($nobody)->run(q(SELECT nats_publish_async('t.a', 'x', critical => false)));
is($result->{sqlstate}, '', 'unless the message is not critical');
like($result->{error}, qr/^WARNING: .*could not/m, 'which is a WARNING');

$result = session_to('nats://no-such-host.invalid:4222')->run($PUBLISH);
is($result->{sqlstate}, '58000', 'a name that is not known');
like($result->{error}, qr{nats://no-such-host\.invalid:4222: }, 'with the name');
cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');

# A list

my $session = session_to("$nobody," . $nats->url);
is($session->value($PUBLISH), 'T', 'the second of a list answers');
is($session->value('SELECT url FROM nats_server_info()'), $nats->url, 'and it is the one that is told');
is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '1|0', 'one connection');
is($session->value(q(SELECT server_name, jetstream, client_id > 0, rtt < '10 s' FROM nats_server_info())),
	'nats1|t|t|t', 'what the server says of itself');

# Servers that answer strangely

my %strange = (
	'says nothing' => sub { $_[0]->hold },
	'says INFO and nothing more' => sub { $_[0]->send($_[0]->info_line); $_[0]->hold },
	'says half an INFO' => sub { $_[0]->send('INFO {"server_id":"x'); $_[0]->hold },
	'answers CONNECT but not SUB' => sub {
		my ($peer) = @_;
		$peer->handshake;
		$peer->{mute} = 1;
		1 while $peer->next_command;
	},
	'speaks HTTP' => sub { $_[0]->send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") },
	'speaks nothing known' => sub { $_[0]->send("\0\xff\xfe\r\n" x 1000); $_[0]->hold },
	'never ends its line' => sub { my ($peer) = @_; 1 while $peer->send('INFO' x 10000); },
	'closes at once' => sub { },
	'closes after INFO' => sub { $_[0]->send($_[0]->info_line) },
	'has an INFO that is no JSON' => sub { $_[0]->send("INFO {{{{\r\n"); $_[0]->hold },
	'greets with an error' => sub { $_[0]->send("-ERR 'maximum connections exceeded'\r\n") },
	'has no headers' => sub { $_[0]->handshake(headers => 'false'); $_[0]->hold },
);
foreach my $what (sort keys %strange)
{
	my $fake = FakeServer->new($strange{$what});
	$session = session_to($fake->url, 'nats_publish.connect_timeout' => '700ms');
	$result = $session->run($PUBLISH);
	is($result->{sqlstate}, '58000', "a server that $what");
	cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
	like($result->{error}, qr/127\.0\.0\.1:@{[$fake->port]}: \S/, 'with a reason')
		or diag($result->{error});
	$session->value(q(SET nats_publish.connect_timeout = '30s'; SET nats_publish.url = ') . $nats->url . q('));
	is($session->value($PUBLISH), 'T', 'and the session can go on with another server');
}

# Cancelled while it connects. Whatever thread is left behind ends, and does not spin.

foreach my $what ('says nothing', 'says INFO and nothing more', 'answers CONNECT but not SUB')
{
	my $fake = FakeServer->new($strange{$what});
	$session = session_to($nats->url, 'nats_publish.connect_timeout' => '60s');
	$session->value($PUBLISH);
	my $pid = $session->pid;
	my $threads = process_threads($pid);
	my $files = process_files($pid);
	$session->value(q(SET nats_publish.url = ') . $fake->url . q('));
	foreach (1 .. 5)
	{
		$session->begin($PUBLISH);
		$session->wait_until_waiting;
		my $started = time;
		kill 'INT', $pid;
		is($session->finish->{sqlstate}, '57014', "connecting to a server that $what is cancelled");
		cmp_ok(time - $started, '<', $BOUND, 'at once');
	}
	ok(wait_for('threads to end', sub { process_threads($pid) <= $threads }), 'no thread is left');
	ok(wait_for('sockets to be closed', sub { process_files($pid) <= $files }), 'no socket is left');
	my $ticks = process_ticks($pid);
	sleep 1;
	cmp_ok(process_ticks($pid) - $ticks, '<=', 10, 'and the backend is idle');
	$session->value(q(SET nats_publish.url = ') . $nats->url . q('));
	is($session->value($PUBLISH), 'T', 'the session can go on');

	$session->value(q(SET nats_publish.url = ') . $fake->url . q('));
	$session->begin($PUBLISH);
	$session->wait_until_waiting;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	ok(wait_for('the backend to end', sub { !process_is_there($pid) }), 'a connecting backend can be terminated');
	$session->close;
}

# Credentials

my $closed = NatsServer->new(
	name => 'closed',
	jetstream => 1,
	config => 'authorization { users = [ {user: "alice", password: "p@ss:w/rd"}, {user: "b%b", password: "1"} ] }')->start;
NatsClient->new(url => $closed->url, user => 'alice', pass => 'p@ss:w/rd')->create_stream('T', ['t.>']);
my $at_closed = '127.0.0.1:' . $closed->port;

my $log_start = -s $node->logfile;
foreach my $wrong ('alice:wr0ng@', 'alice:@', 'wr0ng@', '')
{
	$session = session_to("nats://$wrong$at_closed");
	$result = $session->run($PUBLISH);
	is($result->{sqlstate}, '28000', "wrong credentials '$wrong' are refused");
	unlike($result->{error}, qr/wr0ng|alice/, 'and not shown');
	like($result->{error}, qr{nats://\Q$at_closed\E: }, 'but the server is');
	is($session->sqlstate(q(SELECT nats_publish_async('t.a', 'x', critical => false))), '', 'a WARNING without critical');
	$session->close;
}
unlike(slurp_file($node->logfile, $log_start), qr/wr0ng/, 'nor are they in the log');

my $right = "nats://alice:p%40ss%3Aw%2Frd\@$at_closed";
$session = session_to($right);
is($session->value($PUBLISH), 'T', 'a percent-encoded password');
is($session->value('SELECT url FROM nats_server_info()'), "nats://$at_closed", 'nats_server_info() does not show it');
is($session->sqlstate(q(SELECT nats_publish('no.stream', ''))), '42704', 'an error on that connection');
is(session_to("nats://b%25b:1\@$at_closed")->value($PUBLISH), 'T', 'a percent sign in the name');
is(session_to("nats://alice:wr0ng\@$at_closed,$right")->value($PUBLISH), 'T', 'the second of a list lets us in');
$closed->stop;
$session->run(q(SET nats_publish.connect_timeout = '1s'));
my $error = $session->error($PUBLISH);
unlike($error, qr/alice|p\@ss|p%40/, 'no credentials in the error of a lost connection');
unlike(slurp_file($node->logfile, $log_start), qr/p\@ss|p%40/, 'nor in the log');

my $tokens = NatsServer->new(name => 'tokens', jetstream => 1, config => 'authorization { token: "t:k@n" }')->start;
NatsClient->new(url => $tokens->url, token => 't:k@n')->create_stream('T', ['t.>']);
is(session_to('nats://t%3Ak%40n@127.0.0.1:' . $tokens->port)->value($PUBLISH), 'T', 'a token');
is(session_to('nats://no@127.0.0.1:' . $tokens->port)->sqlstate($PUBLISH), '28000', 'a wrong token');

# A user that is not a superuser neither sees nor changes them.
$node->safe_psql('postgres', 'CREATE ROLE bob LOGIN; GRANT EXECUTE ON FUNCTION nats_futures TO bob');
$session = PsqlSession->new($node, user => 'bob');
$session->run('SELECT nats_futures()');
is($session->sqlstate(q(SET nats_publish.url = 'nats://127.0.0.1:1')), '42501', 'bob cannot set the url');
is($session->sqlstate('SHOW nats_publish.url'), '42501', 'nor see it');
is($session->value(q(SELECT count(*) FROM pg_settings WHERE name = 'nats_publish.url')), '0', 'anywhere');
is($session->sqlstate($PUBLISH), '42501', 'nor publish');
$session = PsqlSession->new($node, user => 'bob');
$session->run(q(SET nats_publish.url = 'nats://127.0.0.1:1'));
like($session->error('SELECT nats_futures()'), qr/permission denied to set parameter/, 'nor set it before the library is there');
is($session->sqlstate('SHOW nats_publish.url'), '42501', 'nor see it then');

# TLS that comes to nothing; what works is in 027_tls.pl

my $fake = FakeServer->new(sub { $_[0]->send($_[0]->info_line(tls_required => 'true')); $_[0]->hold });
$session = session_to($fake->url, 'nats_publish.connect_timeout' => '2s');
$result = $session->run($PUBLISH);
is($result->{sqlstate}, '58000', 'a server that requires TLS and then is silent');
cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
SKIP:
{
	my $dir = PostgreSQL::Test::Utils::tempdir('tls');
	skip 'no openssl', 2
		if system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout $dir/key -out $dir/cert"
			. " >$dir/log 2>&1") != 0;
	my $secure = NatsServer->new(name => 'secure', config => qq(tls { cert_file: "$dir/cert", key_file: "$dir/key" }))->start;
	$result = session_to($secure->url)->run($PUBLISH);
	is($result->{sqlstate}, '58000', 'a real server that requires TLS');
	like($result->{error}, qr/TLS|SSL|secure/i, 'is told so');
}

# A session lives on through a changed url and a restarted server

my $second = NatsServer->new(name => 'second', jetstream => 1)->start;
NatsClient->new(url => $second->url)->create_stream('SECOND', ['t.>']);
$session = PsqlSession->new($node);
is($session->value($PUBLISH), 'T', 'a live session');
$node->append_conf('postgresql.conf', "nats_publish.url = '" . $second->url . "'");
$node->reload;
ok(wait_for('the reload', sub { $session->value('SHOW nats_publish.url') eq $second->url }), 'sees a new url');
is($session->value($PUBLISH), 'SECOND', 'and publishes there');
is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '2|0', 'on a second connection');
$session->value(q(SET nats_publish.url = ') . $nats->url . q('));
is($session->value($PUBLISH), 'T', 'and back, by SET');
is($session->value(q(SET nats_publish.inbox_prefix = '_MINE'; ) . $PUBLISH), 'T', 'a new inbox prefix');
is($session->sqlstate(q(SELECT nats_publish('_MINE.x', ''))), '22023', 'is in force');

is($session->value(q(BEGIN; SELECT nats_publish_async('t.b', '1') > 0; SET nats_publish.url = ') . $second->url . q(';
	SELECT nats_publish_async('t.b', '2') > 0; COMMIT)), "t\nt", 'the url changes inside of a transaction');
is(NatsClient->new(url => $second->url)->js('STREAM.INFO.SECOND', { subjects_filter => 't.b' })->{state}{subjects}{'t.b'},
	1, 'its second message is at the second server');

$session->value(q(SET nats_publish.url = ') . $nats->url . q('));
foreach my $how ('stop', 'kill9')
{
	is($session->value($PUBLISH), 'T', 'the session is connected');
	$nats->restart(stop => $how);
	$result = $session->run($PUBLISH);
	is($result->{output}, 'T', "a restart ($how) while it is idle");
	is($result->{error}, '', 'goes unseen');
	is($session->value(q(BEGIN; SELECT nats_publish_async('t.b', '1') > 0; COMMIT)), 't', 'it is connected again');
	$nats->restart(stop => $how);
	$result = $session->run(q(BEGIN; SELECT nats_publish_async('t.b', '1') > 0; COMMIT));
	is($result->{output} . $result->{error}, 't', 'likewise for nats_publish_async()');
	$nats->restart(stop => $how);
	is($session->value('SELECT nats_flush()'), '0', 'nats_flush() has nothing to do');
	is($session->value('SELECT server_name FROM nats_server_info()'), 'nats1', 'nats_server_info() connects');
	is($session->value('SELECT nats_disconnect()'), 't', 'nats_disconnect() of a live connection');
	is($session->value('SELECT nats_disconnect()'), 'f', 'and of none');
}

# The server closes an idle connection
is($session->value($PUBLISH), 'T', 'connected');
$nats->set_config('max_connections: 1', reload => 1);
$nats->set_config('', reload => 1);
is($session->value($PUBLISH), 'T', 'a reloaded configuration, or a closed connection, goes unseen');

# A ping while the session is idle
my $pinging = FakeServer->new(
	sub
	{
		my ($peer) = @_;
		$peer->handshake;
		my $seq = 0;
		while (my $command = $peer->next_command)
		{
			$peer->note($command->{verb});
			next unless $command->{verb} eq 'PUB';
			$peer->reply($command, sprintf('{"stream":"T","seq":%d}', ++$seq));
			$peer->send("PING\r\n" x 3);
		}
	});
$session = session_to($pinging->url);
$session->value($PUBLISH) foreach 1 .. 2;
my %events;
while (my $event = $pinging->next_event(1)) { $events{$event}++; }
is("$events{SUB} $events{PUB}", '1 2', 'one connection');
cmp_ok($events{PONG} // 0, '>=', 1, "a server's PINGs are answered with the next message");

done_testing();
