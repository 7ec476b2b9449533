
# The tools that the other tests rely on, against a real server: NatsServer.pm, NatsClient.pm, NatsAccounts.pm,
# ByteProxy.pm, SilentProxy.pm and Certificates.pm.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Socket qw(MSG_PEEK);
use Test::More;
use Time::HiRes qw(sleep time);

use ByteProxy;
use Certificates;
use NatsAccounts;
use NatsClient;
use NatsServer;
use PublishTest qw(wait_for);
use SilentProxy;

my $nats = NatsServer->new(name => 'first', jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
is($client->info->{server_name}, 'first', 'the client is connected to the server');
is($client->info->{port}, $nats->port, 'on the port that was chosen');

# Plain NATS

$client->subscribe('plain.*');
$client->publish('plain.a', "two\r\nlines", reply => 'answer.here');
$client->publish('plain.b', 'x', headers => { One => '1', Many => [ 'a', 'b: c' ] });
$client->publish('other.c', 'not subscribed to');
$client->publish('plain.d', undef);

my $message = $client->next_message;
is($message->{subject}, 'plain.a', 'subject');
is($message->{reply}, 'answer.here', 'reply subject');
is($message->{payload}, "two\r\nlines", 'payload with CR LF');
is($message->{raw_headers}, undef, 'no headers');

$message = $client->next_message;
is_deeply($message->{headers}, { One => ['1'], Many => [ 'a', 'b: c' ] }, 'headers, one repeated');
is($message->{raw_headers}, "NATS/1.0\r\nMany: a\r\nMany: b: c\r\nOne: 1\r\n\r\n", 'headers as sent');
is($message->{payload}, 'x', 'payload behind headers');

$message = $client->next_message;
is("$message->{subject}=$message->{payload}", 'plain.d=', 'an empty payload, and nothing of other subjects');
is($client->next_message(0.05), undef, 'then no more');

my $big = 'x' x 900_000;
$client->publish('plain.big', $big);
ok($client->next_message->{payload} eq $big, 'a payload of many reads');

ok(!eval { $client->request('nobody.here', ''); 1 }, 'a request that nobody answers fails');
like($@, qr/nobody answers at nobody\.here/, 'and says so');

# JetStream

$client->create_stream('T', ['t.>'], storage => 'file', max_msgs => 100);
is($client->stream_info('T')->{config}{max_msgs}, 100, 'a stream is created, with its options');
my $ack = $client->js_publish('t.one', 'first', headers => { 'Nats-Msg-Id' => 'id1' });
is("$ack->{stream}/$ack->{seq}", 'T/1', 'a message is acknowledged');
ok($client->js_publish('t.one', 'again', headers => { 'Nats-Msg-Id' => 'id1' })->{duplicate}, 'its twin is a duplicate');
$client->js_publish('t.two', "\0\xff");

$message = $client->get_message('T', 1);
is("$message->{subject}=$message->{payload}", 't.one=first', 'a message is read back');
is_deeply($message->{headers}, { 'Nats-Msg-Id' => ['id1'] }, 'with its headers');
like($message->{time}, qr/^\d{4}-\d\d-\d\dT/, 'and its time');
is($client->get_message('T', 3), undef, 'there is no third message');
is_deeply([ map { $_->{payload} } $client->stream_messages('T') ], [ 'first', "\0\xff" ], 'the whole stream');

ok(!eval { $client->stream_info('NONE'); 1 }, 'an API error is an exception');
like($@, qr/stream not found \(10059\)/, 'with description and code');

# A stalled server

$nats->stall;
my $started = time;
$client->publish('t.three', 'while it is stalled');
ok(!eval { $client->{timeout} = 0.2; $client->flush; 1 }, 'a stalled server does not answer');
cmp_ok(time - $started, '<', 60, 'and the client does not wait for ever');
$nats->resume;
$client->{timeout} = 30;
$client->flush;
is($client->stream_info('T')->{state}{messages}, 3, 'after resume it has taken what was sent');

$started = time;
my $child = fork // die "cannot fork: $!";
exec 'sleep', '0.1' if $child == 0;
sleep 0.5;
cmp_ok(time - $started, '>', 0.45, 'a child that ends does not cut a sleep short');
waitpid $child, 0;

# A killed, a stopped and a restarted server

$nats->kill9;
is($nats->pid, undef, 'killed');
ok(!eval { $client->flush; 1 }, 'the client notices');
ok(!eval { NatsClient->new(url => $nats->url); 1 }, 'nobody listens');
$nats->restart;
$client = NatsClient->new(url => $nats->url);
is(scalar $client->stream_messages('T'), 3, 'after a crash and a restart the store is there, at the same port');

my $pid = $nats->pid;
$nats->restart;
isnt($nats->pid, $pid, 'a graceful restart is another process');
$client = NatsClient->new(url => $nats->url);
is($client->stream_info('T')->{state}{messages}, 3, 'with the same store');
$client->purge('T');
is_deeply([ $client->stream_messages('T') ], [], 'purged');
$client->delete_stream('T');
ok(!eval { $client->stream_info('T'); 1 }, 'deleted');

# A second server, with a configuration of its own

my $second = NatsServer->new(config => 'authorization { user: u, password: p }')->start;
isnt($second->port, $nats->port, 'a second server has another port');
ok(!eval { NatsClient->new(url => $second->url); 1 }, 'it wants a password');
like($@, qr/Authorization Violation/, 'and says so');
ok(NatsClient->new(url => $second->url, user => 'u', pass => 'p'), 'with which it is content');
$second->set_config('authorization { token: t }', reload => 1);
ok(NatsClient->new(url => $second->url, token => 't'), 'a reloaded configuration is in force');

ok(!eval { NatsServer->new(config => 'no such thing {')->start; 1 }, 'a server that cannot start is an error');
like($@, qr/did not start/, 'which says so');

# TLS

my $certificates = Certificates->new;
my %trust = (SSL_ca_file => $certificates->ca_file, SSL_verifycn_name => 'localhost');
my $secure = NatsServer->new(
	name => 'secure',
	jetstream => 1,
	tls => { %{ $certificates->make('server', names => 'DNS:localhost') }, ca_file => $certificates->ca_file, verify => 'true' })->start;

# Why a client that shows a certificate, if any, may not connect.
sub tls_error
{
	my ($certificate, %options) = @_;
	my %shown = $certificate ? (SSL_cert_file => $certificate->{cert_file}, SSL_key_file => $certificate->{key_file}) : ();
	return eval { NatsClient->new(url => $secure->url, tls => { %trust, %shown, %options }); 1 } ? 'none' : $@;
}

my $ours = $certificates->make('client');
is(tls_error($ours), 'none', 'a certificate of the authority is accepted');
isnt(tls_error(undef), 'none', 'none is not');
isnt(tls_error($certificates->make('stranger', ca => 'foreign')), 'none', 'one of another authority is not');
isnt(tls_error($certificates->make('old', expired => 1)), 'none', 'an expired one is not');
like(tls_error($ours, SSL_verifycn_name => 'elsewhere'), qr/hostname verification failed/, 'a client checks the name');
like(tls_error($ours, SSL_ca_file => $certificates->ca_file('foreign')), qr/verify failed/, 'and the authority');
ok(!eval { NatsClient->new(url => $secure->url, timeout => 5); 1 }, 'no TLS, no connection');

# A proxy that stops within a record

my $proxy = ByteProxy->new($secure);
$client = NatsClient->new(url => $proxy->url, tls => { %trust, SSL_cert_file => $ours->{cert_file}, SSL_key_file => $ours->{key_file} });
$client->create_stream('S', ['s.>']);
$client->js_publish('s.a', $big);
ok($client->get_message('S', 1)->{payload} eq $big, 'a payload of many records, through a proxy');
unlike($proxy->client_bytes, qr/CONNECT/, 'which can not read it');
$client->subscribe('plain.*');
$proxy->stall('server');
$client->publish('plain.end', 'x');
$proxy->wait_until_stalled;
recv($client->{socket}, my $received, 100, MSG_PEEK);
is(length $received, 10, 'the proxy stalls within a record');
$proxy->resume;
is($client->next_message->{subject}, 'plain.end', 'and goes on');
$secure->stop;

# A middle box

my $watched = PostgreSQL::Test::Utils::tempdir('watched') . '/matches';
my $box = SilentProxy->new($nats, buffer => 16384, watch => [ qr/(w\d+w)/, $watched ]);
sub connected { return NatsClient->new(url => $box->url, timeout => 30, @_); }
sub is_deaf { my ($it, $name) = @_; $it->{timeout} = 0.2; return ok(!eval { $it->flush; 1 }, $name); }

# Whether its connection ends within the time of a test, and how.
sub end_of
{
	my ($it) = @_;
	IO::Select->new($it->{socket})->can_read(30) or return 'none';
	my $count = sysread($it->{socket}, my $bytes, 1000) // return "$!";
	return $count ? $bytes : 'closed';
}

$client = connected();
$client->create_stream('B', ['b.>']);
$client->js_publish('b.a', $big);
ok($client->get_message('B', 1)->{payload} eq $big, 'a message of many reads goes through it, and back');
is($box->connections . '/' . $box->open_connections . '/' . $box->dropped, '1/1/0', 'one connection, and nothing dropped');
cmp_ok($box->passed('client'), '>', 900_000, 'it counts');
$client->publish('b.none', 'w1w,w2w,w' . '3' x 50);
$client->flush;
$client->publish('none', 'w4w' . 'x' x 100_000 . 'w5w');
$client->flush;
is(join(' ', slurp_file($watched) =~ /^\d+\.\d+\t(.*)$/mg), 'w1w w2w w4w w5w', 'and watches');
$box->refuse;
ok(!eval { connected(); 1 }, 'no new connection is taken');
$client->flush;
$box->accept;
ok(connected(), 'and again');

$box->silence;
$client->publish('b.b', 'x' x 100) foreach 1 .. 100;
wait_for('the box to read', sub { $box->dropped('client') > 10_000 });
is_deaf($client, 'who is dropped hears nothing');
ok(!eval { connected(timeout => 0.2); 1 }, 'nor does a new connection');
$box->pass;
is_deaf($client, 'a connection that has lost something stays silent');
is(connected()->stream_info('B')->{state}{messages}, 2, 'a new one does not');

$client = connected();
$box->silence;
$box->pass;
$client->flush;
ok(1, 'nor does one that has lost nothing');

$box->silence('server');
$client->publish('b.b', 'x');
is_deaf($client, 'the server is not heard');
wait_for('the message', sub { NatsClient->new(url => $nats->url)->stream_info('B')->{state}{messages} == 3 });
cmp_ok($box->dropped('server'), '>', 0, 'but hears');
$box->pass;
$client = connected();
$box->silence('client');
is_deaf($client, 'the client is not heard');
$box->send("+OK\r\n");
is(end_of($client), "+OK\r\n", 'but hears');

$box->pass;
$client = connected();
$box->hold;
is_deaf($client, 'held');
$client->publish('b.c', $big);
$box->pass;
$client->{timeout} = 30;
$client->flush;
wait_for('what was held', sub { NatsClient->new(url => $nats->url)->stream_info('B')->{state}{messages} == 4 });

$box->delay(0.3);
$started = time;
$client->flush;
cmp_ok(time - $started, '>', 0.59, 'delayed, there and back');
$box->pass;
$box->slow(1_000_000);
$started = time;
$client->js_publish('b.d', $big);
cmp_ok(time - $started, '>', 0.7, 'slowed down');
$box->pass;

$box->cut;
is(end_of($client), 'Connection reset by peer', 'a reset');
$client = connected();
$client->publish('b.e', 'x');
$box->send("PING\r\n");
$box->close;
is(end_of($client), "PING\r\n", 'something before the end');
is(end_of($client), 'closed', 'and the end');
$client = connected();
my $before = $box->open_connections;
$box->cut('server');
is($box->open_connections, $before, 'the end of one side');
is_deaf($client, 'of which the other one is not told');
$client = connected();
$nats->kill9;
is(end_of($client) =~ /closed|reset/ ? 'ended' : 'not', 'ended', 'a server that ends');
ok(!eval { connected(); 1 }, 'and is gone');
$box->stop;
$nats->start;

undef $second;
$nats->stop;
ok(!eval { NatsClient->new(url => $nats->url); 1 }, 'a stopped server does not listen');

# A user known by its key

sub refused
{
	my ($what, $regexp, %args) = @_;
	ok(!eval { NatsClient->new(%args); 1 }, "$what is refused");
	like($@, $regexp, 'by the server');
	return;
}

my $key = NatsAccounts->nkey;
my $other_key = NatsAccounts->nkey;
my $keyed = NatsServer->new(config => NatsAccounts->nkey_config($key, publish => ['a.>'], subscribe => ['a.>']))->start;
like($key->{seed}, qr/^SUA[A-Z2-7]{55}$/, 'a seed of a user');
like($key->{public}, qr/^U[A-Z2-7]{55}$/, 'and its public key');
$client = NatsClient->new(url => $keyed->url, nkey => $key);
$client->subscribe('a.b');
$client->publish('a.b', 'signed');
is($client->next_message->{payload}, 'signed', 'a user with a key publishes and subscribes where it may');
$client->publish('b', '');
ok(!eval { $client->flush; 1 }, 'and nowhere else');
like($@, qr/Permissions Violation for Publish to "b"/, 'as the server says');
refused('another key', qr/Authorization Violation/, url => $keyed->url, nkey => $other_key);
refused('another signature', qr/Authorization Violation/,
	url => $keyed->url, nkey => { %$other_key, public => $key->{public} });

# Users with a JWT

my $accounts = NatsAccounts->new;
my ($one, $two) = map { $accounts->account($_) } 'ONE', 'TWO';
my $many = NatsServer->new(jetstream => 1, config => $accounts->server_config)->start;
my $user = $accounts->user($one, 'all');
$client = NatsClient->new(url => $many->url, creds => $user);
$client->create_stream('T', ['t.>']);
is($client->js_publish('t.one', 'x')->{seq}, 1, 'a user of an account has JetStream');
my $stranger = NatsClient->new(url => $many->url, creds => $accounts->user($two, 'all'));
ok(!eval { $stranger->stream_info('T'); 1 }, 'of which a user of another account sees nothing');
like($@, qr/stream not found/, 'but its own');

my $limited = NatsClient->new(
	url => $many->url,
	creds => $accounts->user($one, 'limited', publish => ['t.>'], deny_publish => ['t.no'], deny_subscribe => ['t.no']));
$limited->publish('t.yes', 'x');
$limited->flush;
foreach my $case ([ publish => 't.no' ], [ publish => 'u' ], [ subscribe => 't.no' ])
{
	my ($method, $subject) = @$case;
	ok(!eval { $limited->$method($subject); $limited->flush; 1 }, "no permission to $method to $subject");
	like($@, qr/Permissions Violation for \u\w+ to "$subject"/i, 'as the server says');
}
is($client->stream_info('T')->{state}{messages}, 2, 'only what was permitted is stored');

my $system = NatsClient->new(url => $many->url, creds => $accounts->system_user);
my $answer = $system->request('$SYS.REQ.SERVER.PING', '');
like($answer->{payload}, qr/"name":"\Q$many->{name}\E"/, 'the user of the system account asks the server');

refused('the signature of another key', qr/Authorization Violation/,
	url => $many->url, creds => { %$user, seed => $other_key->{seed} });
refused('a user of an account that the server does not know', qr/Authorization Violation/,
	url => $many->url, creds => $accounts->user(NatsAccounts->nkey('account'), 'all'));
refused('an expired user', qr/Authorization Violation|Expired/i,
	url => $many->url, creds => $accounts->user($one, 'late', expires => time - 60));
refused('no JWT', qr/Authorization Violation/, url => $many->url);

like(
	slurp_file($accounts->creds_file($user)),
	qr/^-----BEGIN NATS USER JWT-----\n\Q$user->{jwt}\E\n------END .*^-----BEGIN USER NKEY SEED-----\n\Q$user->{seed}\E\n/ms,
	'a credentials file');

done_testing();
