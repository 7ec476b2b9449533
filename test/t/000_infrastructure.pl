
# The tools that the other tests rely on, against a real server: NatsServer.pm and NatsClient.pm.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use NatsClient;
use NatsServer;

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
cmp_ok(time - $started, '<', 5, 'and the client does not wait for ever');
$nats->resume;
$client->{timeout} = 30;
$client->flush;
is($client->stream_info('T')->{state}{messages}, 3, 'after resume it has taken what was sent');

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

undef $second;
$nats->stop;
ok(!eval { NatsClient->new(url => $nats->url); 1 }, 'a stopped server does not listen');

done_testing();
