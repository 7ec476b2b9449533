use strict; use warnings; use PostgreSQL::Test::Utils; use Test::More; use NatsClient; use NatsServer; use PsqlSession; use PublishTest; use Time::HiRes qw(sleep);
my $nats = NatsServer->new(jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
$client->create_stream('T', ['t.>'], storage => 'file');
my $node = publishing_node('main', 'nats_publish.url' => $nats->url);
for my $n (1,2,10,100,1000) { for my $r (1..5) {
$client->purge('T');
my $s = PsqlSession->new($node);
$s->value("BEGIN; SELECT count(nats_publish_async('t.x', 'x')) FROM generate_series(1, $n)");
if ($r % 2) { kill 'TERM', $s->pid; } else { $s->close }
wait_for('end', sub { !process_is_there($s->pid)}); sleep 0.5;
diag "$n ".($r%2?'term':'close')." ".$client->stream_info('T')->{state}{messages};
}}
for my $n (10,100) { $client->purge('T');
my $s = PsqlSession->new($node, settings => { idle_in_transaction_session_timeout => '100ms' });
$s->value("BEGIN; SELECT count(nats_publish_async('t.x', 'x')) FROM generate_series(1, $n)");
wait_for('end', sub { !process_is_there($s->pid)}); sleep 0.5;
diag "$n idle ".$client->stream_info('T')->{state}{messages}; }
ok 1; done_testing;
