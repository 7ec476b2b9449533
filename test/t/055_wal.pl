
# The outbox in the WAL: on and off, what is published from there and what is not, who may do what.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('W', ['w.>']);
my $node = relay_node('main', 'nats_publish.url' => $nats->url, wal_level => 'logical');
my $session = PsqlSession->new($node);

sub in_stream { return $client->stream_info('W')->{state}{messages}; }

$session->value('SELECT nats_wal_enable()');
$session->value(q(SET nats_publish.outbox_storage = wal));
$session->value(q(SELECT nats_publish_outbox('w.a', 'one')));
wait_for('a message', sub { in_stream() == 1 });
pass('it is there');
my $begun = time;
$session->value(q(SELECT count(nats_publish_outbox('w.b', 'x' || i)) FROM generate_series(1, 100000) i));
wait_for('messages', sub { in_stream() == 100001 });
diag 'took ', time - $begun;
done_testing();
