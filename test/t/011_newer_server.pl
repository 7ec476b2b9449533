
# What only newer servers can do. NATS_SERVER_NEW names the binary of one (2.11 or later).

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;

plan skip_all => 'NATS_SERVER_NEW does not name a newer nats-server' unless $ENV{NATS_SERVER_NEW};

my $old = NatsServer->new(name => 'old', jetstream => 1)->start;
my $nats = NatsServer->new(name => 'new', jetstream => 1, binary => $ENV{NATS_SERVER_NEW})->start;
my $client = NatsClient->new(url => $nats->url);
NatsClient->new(url => $old->url)->create_stream('T', ['t.>']);
$client->create_stream('T', ['t.>'], allow_msg_ttl => \1);
$client->create_stream('NOTTL', ['nottl.>']);
my $node = publishing_node('main', 'nats_publish.url' => $nats->url);
my $session = PsqlSession->new($node);

my ($minor) = $client->info->{version} =~ /^2\.(\d+)\./;
cmp_ok($minor // 99, '>=', 11, 'the server is new: ' . $client->info->{version});
is($session->value('SELECT version FROM nats_server_info()'), $client->info->{version}, 'nats_server_info() tells');
is($session->value('SELECT api_level FROM nats_server_info()'), $client->info->{api_lvl}, 'its API level')
	if defined $client->info->{api_lvl};

my %ttls = ('1 s' => '1', '90 s' => '90', '1 h 1.5 s' => '3602', '1 day' => '86400', infinity => 'never');
delete $ttls{infinity} if $node->safe_psql('postgres', 'SHOW server_version_num') < 170000;
foreach my $ttl (sort keys %ttls)
{
	my $seq = $session->value("SELECT (nats_publish('t.a', '$ttl', ttl => '$ttl')).seq");
	is_deeply($client->get_message('T', $seq)->{headers}{'Nats-TTL'}, [ $ttls{$ttl} ], "ttl '$ttl' is stored with the message");
}
is($session->value(q(BEGIN; SELECT nats_publish_async('t.a', 'x', ttl => '1 h') > 0; COMMIT)), 't', 'nats_publish_async() has it too');
is($session->sqlstate(q(SELECT nats_publish('nottl.a', 'x', ttl => '1 h'))), '0A000', 'a stream that does not allow it');
is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', ttl => '0.5 s'))), '22023', 'less than a second');
my $seq = $session->value(q(SELECT (nats_publish('t.short', 'x', ttl => '1 s')).seq));
ok(wait_for('the message to expire', sub { !defined $client->get_message('T', $seq) }, 30), 'a message expires');

# An older server behind the same session
$session->value(q(SET nats_publish.url = ') . $old->url . q('));
is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', ttl => '1 h'))), '0A000', 'an older server is asked anew');
is($session->value(q(SELECT (nats_publish('t.a', 'x')).stream)), 'T', 'and takes other messages');
$session->value(q(SET nats_publish.url = ') . $nats->url . q('));
is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', ttl => '1 h'))), '', 'and so is the newer again');

# Everyday things
is($session->value(q(BEGIN; SELECT count(nats_publish_async('t.b', 'x')) FROM generate_series(1, 10000); COMMIT)), '10000', '10,000 messages');
is($session->sqlstate(q(SELECT nats_publish('nowhere.a', 'x'))), '42704', 'no stream');
is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', expect_last_seq => 1))), '40001', 'another sequence');
$nats->restart(stop => 'kill9');
is($session->value(q(SELECT nats_create_stream('N', '{n.>}') #>> '{config,name}'; SELECT (nats_publish('n.a', 'x')).stream)), "N\nN",
	'after a restart');

done_testing();
