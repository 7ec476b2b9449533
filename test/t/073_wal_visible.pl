
# What is published from the WAL can be read by others at that time: a COMMIT whose WAL is flushed everywhere, and which still
# waits for a standby to apply it, has published nothing.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $nats = NatsServer->new(jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
$client->create_stream('V', ['v.>']);
sub in_stream { return NatsClient->new(url => $nats->url)->stream_info('V')->{state}{messages}; }

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 'logical');
$primary->append_conf('postgresql.conf', join '', map { "$_\n" } "nats_publish.url = '" . $nats->url . "'", q(shared_preload_libraries = 'nats_publish'),
	q(nats_publish.relay_databases = 'postgres'), q(nats_publish.outbox_storage = 'wal'), q(nats_publish.wal_divert_after = '2s'));
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION nats_publish; CREATE TABLE events (id int PRIMARY KEY)');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

my $session = PsqlSession->new($primary);
wake_relay($session);
wait_for_state($session, 'idle');
$session->value('SELECT nats_wal_enable()');
$session->value(q(SELECT nats_publish_table('events', 'v.change', delivery => 'wal')));
wait_for('a relay of the WAL', sub { $session->value(q(SELECT state FROM nats_wal_relay)) eq 'idle' });

# Both have it flushed, and whoever asks that one of them has it applied waits.
reconfigure($primary, synchronous_standby_names => '*');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
wait_for('a standby that applies nothing', sub { $standby->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' });

my $writer = PsqlSession->new($primary);
$writer->value(q(SET synchronous_commit = 'remote_apply'));
$writer->begin(q(INSERT INTO events VALUES (1)));
wait_for('a COMMIT that waits', sub { $session->value(q(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep')) eq '1' });
my $lsn = $primary->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
wait_for('its WAL on the standby', sub { $primary->safe_psql('postgres', "SELECT flush_lsn >= '$lsn' FROM pg_stat_replication") eq 't' });
sleep 3;
is($session->value('SELECT count(*) FROM events'), '0', 'the row of a COMMIT that still waits is not visible');
is(in_stream(), '0', 'and not published, nor moved to the table');
is($session->value('SELECT count(*) FROM nats_outbox'), '0', 'though it has waited for longer than wal_divert_after');

$session->value('SET synchronous_commit = local');
$session->value(q(SELECT nats_publish_outbox('v.behind', 'x')));
sleep 1;
is(in_stream(), '0', 'what was committed behind it keeps its place');

$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$writer->finish(60);
wait_for('the messages', sub { in_stream() == 2 });
is_deeply([ map { $_->{subject} } NatsClient->new(url => $nats->url)->consume('V') ], [ 'v.change', 'v.behind' ], 'then both are published, in the order of the commits');
$_->close foreach $writer, $session;

done_testing();
